//! What clients sent and were told, and what must hold of that whatever happened to the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::promises::{Fates, Once, Retained, Transactions};

/// Producer and number.
pub type Id = (u32, u32);

/// A promise that was broken: its name, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub invariant: &'static str,
    pub seen: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.seen)
    }
}

impl Broken {
    pub fn new(invariant: &'static str, seen: String) -> Broken {
        Broken { invariant, seen }
    }
}

fn broken<T>(invariant: &'static str, seen: String) -> Result<T, Broken> {
    Err(Broken { invariant, seen })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Message {
    confirmed: bool,
    delivered: bool,
    /// It was settled on the way it came last; nobody knows yet.
    settling: bool,
    /// The settlement of it was confirmed.
    settled: bool,
}

#[derive(Default)]
pub struct History {
    messages: BTreeMap<Id, Message>,
    /// The highest epoch in which a client was told anything.
    epoch: u64,
    pub confirmed: u64,
    pub settled: u64,
    pub redelivered: u64,
    last_confirm: Duration,
    /// The longest time without a confirm.
    pub gap: Duration,
    pub once: Once,
    pub retained: Retained,
    pub transactions: Transactions,
    pub fates: Fates,
}

/// What one connection has seen of each producer.
#[derive(Default)]
pub struct Order(BTreeMap<u32, u32>);

impl History {
    pub fn sent(&mut self, id: Id) {
        self.messages.insert(id, Message::default());
    }

    /// A client was told something in the reign of this epoch.
    pub fn told(&mut self, epoch: u64, what: &str) -> Result<(), Broken> {
        if epoch < self.epoch {
            return broken("one_primary", format!("{what} in epoch {epoch}, after somebody was served in epoch {}", self.epoch));
        }
        self.epoch = epoch;
        Ok(())
    }

    pub fn confirmed(&mut self, id: Id, epoch: u64, at: Duration) -> Result<(), Broken> {
        self.told(epoch, "a confirm")?;
        if let Some(message) = self.messages.get_mut(&id) {
            message.confirmed = true;
        }
        self.confirmed += 1;
        self.gap = self.gap.max(at.saturating_sub(self.last_confirm));
        self.last_confirm = at;
        Ok(())
    }

    pub fn last_confirm(&self) -> Duration {
        self.last_confirm
    }

    pub fn delivered(&mut self, id: Id, epoch: u64, order: &mut Order) -> Result<(), Broken> {
        self.told(epoch, "a delivery")?;
        let Some(message) = self.messages.get_mut(&id) else { return broken("nothing_unexpected", format!("{id:?} was never sent")) };
        if message.settled {
            return broken("settled_is_gone", format!("{id:?} was settled, and that was confirmed, and it came again"));
        }
        self.redelivered += u64::from(std::mem::replace(&mut message.delivered, true));
        message.settling = false;
        let last = order.0.insert(id.0, id.1);
        if last.is_some_and(|last| last >= id.1) {
            return broken("in_order", format!("{id:?} came behind {last:?} of the same producer on one connection"));
        }
        Ok(())
    }

    pub fn settling(&mut self, id: Id) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.settling = true;
        }
    }

    pub fn settled(&mut self, id: Id) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.settled = true;
        }
        self.settled += 1;
    }

    /// How many confirmed messages are still to come, or to be settled. A settlement that was lost with its connection may have been done.
    pub fn owed(&self) -> usize {
        self.owed_of_queue() + self.once.owed() + self.transactions.owed() + self.fates.owed()
    }

    fn owed_of_queue(&self) -> usize {
        self.messages.values().filter(|message| message.confirmed && !message.settled && !message.settling).count()
    }

    /// Everything was drained: nothing that was confirmed may be missing.
    pub fn end(&mut self) -> Result<(), Broken> {
        let lost: BTreeSet<Id> =
            self.messages.iter().filter(|(_, message)| message.confirmed && !message.delivered).map(|(id, _)| *id).collect();
        match lost.first() {
            None => self.once.end().and_then(|()| self.transactions.end()).and_then(|()| self.fates.end()),
            Some(first) => {
                broken("confirmed_is_kept", format!("{} confirmed messages never came, the first of them {first:?}", lost.len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Two messages, confirmed, delivered and settled in order.
    fn forged(change: impl FnOnce(&mut History) -> Result<(), Broken>) -> Result<(), Broken> {
        let mut history = History::default();
        let mut order = Order::default();
        for n in 0..2 {
            history.sent((1, n));
            history.confirmed((1, n), 3, ms(1))?;
        }
        change(&mut history)?;
        for n in 0..2 {
            history.delivered((1, n), 3, &mut order)?;
            history.settled((1, n));
        }
        history.end()
    }

    #[test]
    fn forged_histories_are_found_out() {
        assert_eq!(forged(|_| Ok(())), Ok(()));
        let name = |result: Result<(), Broken>| result.map_err(|broken| broken.invariant);
        let lost = forged(|history| {
            history.sent((1, 9));
            history.confirmed((1, 9), 3, ms(2))
        });
        assert_eq!(name(lost), Err("confirmed_is_kept"));
        let swapped = forged(|history| {
            let mut order = Order::default();
            history.delivered((1, 1), 3, &mut order)?;
            history.delivered((1, 0), 3, &mut order)
        });
        assert_eq!(name(swapped), Err("in_order"));
        let resurrected = forged(|history| {
            history.settled((1, 0));
            Ok(())
        });
        assert_eq!(name(resurrected), Err("settled_is_gone"));
        let invented = forged(|history| history.delivered((2, 0), 3, &mut Order::default()));
        assert_eq!(name(invented), Err("nothing_unexpected"));
        let late = forged(|history| {
            history.sent((1, 9));
            history.confirmed((1, 9), 2, ms(2))
        });
        assert_eq!(name(late), Err("one_primary"));
    }
}
