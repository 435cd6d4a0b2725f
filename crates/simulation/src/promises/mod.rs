//! Promises beyond those of a plain queue, each as what was asked, what was answered, and what must hold of that.

mod fates;
mod transactions;

pub use fates::{Fate, Fates, Ranks, BOUND, TTL};
pub use transactions::{Transactions, PARTS};

use std::collections::BTreeMap;

use crate::history::{Broken, Id};

/// Messages at QoS 2, from a publisher that sends again to a subscriber whose session lives on: each of them comes once.
#[derive(Default)]
pub struct Once {
    messages: BTreeMap<Id, Message>,
    /// Of each producer.
    last: BTreeMap<u32, u32>,
    pub delivered: u64,
}

#[derive(Clone, Copy, Default)]
struct Message {
    confirmed: bool,
    delivered: bool,
}

impl Once {
    pub fn sent(&mut self, id: Id) {
        self.messages.insert(id, Message::default());
    }

    pub fn confirmed(&mut self, id: Id) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.confirmed = true;
        }
    }

    pub fn delivered(&mut self, id: Id) -> Result<(), Broken> {
        let Some(message) = self.messages.get_mut(&id) else {
            return Err(Broken::new("nothing_unexpected", format!("{id:?} was never sent at QoS 2")));
        };
        if std::mem::replace(&mut message.delivered, true) {
            return Err(Broken::new("exactly_once", format!("{id:?} came to its subscriber twice at QoS 2")));
        }
        let last = self.last.insert(id.0, id.1);
        if last.is_some_and(|last| last > id.1) {
            return Err(Broken::new("in_order", format!("{id:?} came behind {last:?} of the same publisher at QoS 2")));
        }
        self.delivered += 1;
        Ok(())
    }

    /// Confirmed, and still to come.
    pub fn owed(&self) -> usize {
        self.messages.values().filter(|message| message.confirmed && !message.delivered).count()
    }

    pub fn end(&self) -> Result<(), Broken> {
        match self.messages.iter().find(|(_, message)| message.confirmed && !message.delivered) {
            Some((id, _)) => {
                let seen = format!("{} messages at QoS 2 never came, the first of them {id:?}", self.owed());
                Err(Broken::new("confirmed_is_kept", seen))
            }
            None => Ok(()),
        }
    }
}

/// One topic's retained message, set to rising values.
#[derive(Default)]
pub struct Retained {
    set: u32,
    confirmed: u32,
    pub seen: u64,
}

impl Retained {
    pub fn set(&mut self, value: u32) {
        self.set = value;
    }

    pub fn confirmed(&mut self, value: u32) {
        self.confirmed = self.confirmed.max(value);
    }

    pub fn confirmed_so_far(&self) -> u32 {
        self.confirmed
    }

    /// `since`: what was confirmed when it was asked for.
    pub fn seen(&mut self, value: u32, since: u32) -> Result<(), Broken> {
        self.seen += 1;
        if value < since {
            return Err(Broken::new("retained_is_kept", format!("{value} is retained, and {since} had been confirmed before")));
        }
        if value > self.set {
            return Err(Broken::new("nothing_unexpected", format!("{value} is retained, and nobody has set that")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(result: Result<(), Broken>) -> Result<(), &'static str> {
        result.map_err(|broken| broken.invariant)
    }

    #[test]
    fn forged_exactly_once_is_found_out() {
        let sent = || {
            let mut once = Once::default();
            (1..4).for_each(|n| once.sent((1, n)));
            once.confirmed((1, 1));
            once
        };
        let mut well = sent();
        assert_eq!((well.delivered((1, 1)), well.delivered((1, 3)), well.end()), (Ok(()), Ok(()), Ok(())));
        assert_eq!(name(well.delivered((1, 3))), Err("exactly_once"));
        assert_eq!(name(well.delivered((1, 2))), Err("in_order"));
        assert_eq!(name(well.delivered((2, 2))), Err("nothing_unexpected"));
        assert_eq!((sent().owed(), name(sent().end())), (1, Err("confirmed_is_kept")));
    }

    #[test]
    fn a_forged_retained_value_is_found_out() {
        let mut retained = Retained::default();
        retained.set(3);
        retained.confirmed(2);
        assert_eq!(retained.confirmed_so_far(), 2);
        assert_eq!((retained.seen(2, 2), retained.seen(3, 2)), (Ok(()), Ok(())));
        assert_eq!(name(retained.seen(1, 2)), Err("retained_is_kept"));
        assert_eq!(name(retained.seen(4, 2)), Err("nothing_unexpected"));
    }
}
