//! Messages of which their queue decides what becomes: they expire into another queue, make room for newer ones, or overtake by their priority.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::Broken;

/// How long a message stays before it is a dead letter.
pub const TTL: Duration = Duration::from_millis(400);
/// How many of the newest stay where there is a bound.
pub const BOUND: usize = 3;
/// Broker time goes in milliseconds, and by a twentieth faster while it follows a wall clock that was moved.
const SLACK: Duration = Duration::from_millis(5 + TTL.as_millis() as u64 / 20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Expires, and comes out of the queue of dead letters.
    Expires,
    /// Is dropped for newer ones; the queue is read when nothing is published any more.
    Bounded,
    Ranked(u8),
}

struct Message {
    fate: Fate,
    at: Duration,
    confirmed: bool,
    delivered: bool,
    settling: bool,
    settled: bool,
}

#[derive(Default)]
pub struct Fates {
    known: BTreeMap<u32, Message>,
    pub expired: u64,
    pub dropped: u64,
    pub ranked: u64,
}

/// What one connection has seen, of each priority.
#[derive(Default)]
pub struct Ranks(BTreeMap<u8, u32>);

impl Fates {
    pub fn sent(&mut self, n: u32, fate: Fate, at: Duration) {
        self.known.insert(n, Message { fate, at, confirmed: false, delivered: false, settling: false, settled: false });
    }

    pub fn confirmed(&mut self, n: u32) {
        if let Some(message) = self.known.get_mut(&n) {
            message.confirmed = true;
        }
    }

    fn bounded_after(&self, n: u32) -> impl Iterator<Item = &Message> {
        self.known.range(n + 1..).map(|(_, message)| message).filter(|message| message.fate == Fate::Bounded)
    }

    /// `from`: whose queue it came out of. `exact`: no wall clock has been moved, so nothing expires early.
    pub fn delivered(&mut self, n: u32, from: Fate, at: Duration, exact: bool, ranks: &mut Ranks) -> Result<(), Broken> {
        let newer = self.bounded_after(n).filter(|message| message.confirmed).count();
        let Some(message) = self.known.get_mut(&n).filter(|message| std::mem::discriminant(&message.fate) == std::mem::discriminant(&from))
        else {
            return Err(Broken::new("nothing_unexpected", format!("{n} came out of a queue of {from:?}")));
        };
        if message.settled {
            return Err(Broken::new(
                "settled_is_gone",
                format!("{n} ({:?}) was settled, and that was confirmed, and it came again", message.fate),
            ));
        }
        let first = !std::mem::replace(&mut message.delivered, true);
        message.settling = false;
        match message.fate {
            Fate::Expires if exact && at + SLACK < message.at + TTL => {
                let seen = format!("{n} was a dead letter {} ms after it was sent, and its time is {TTL:?}", (at - message.at).as_millis());
                return Err(Broken::new("expires_in_time", seen));
            }
            Fate::Expires => self.expired += u64::from(first),
            Fate::Bounded if newer >= BOUND => {
                let seen = format!("{n} came although {newer} newer ones are confirmed in a queue that keeps {BOUND}");
                return Err(Broken::new("bound_is_kept", seen));
            }
            Fate::Bounded => {}
            Fate::Ranked(priority) => {
                let last = ranks.0.insert(priority, n);
                if last.is_some_and(|last| last >= n) {
                    return Err(Broken::new("in_order", format!("{n} came behind {last:?} of the same priority on one connection")));
                }
                self.ranked += u64::from(first);
            }
        }
        Ok(())
    }

    pub fn settling(&mut self, n: u32) {
        if let Some(message) = self.known.get_mut(&n) {
            message.settling = true;
        }
    }

    pub fn settled(&mut self, n: u32) {
        if let Some(message) = self.known.get_mut(&n) {
            message.settled = true;
        }
    }

    /// Whether it has to come: the newest ones, where there is a bound.
    fn must_come(&self, n: u32, message: &Message) -> bool {
        message.confirmed && (message.fate != Fate::Bounded || self.bounded_after(n).take(BOUND).count() < BOUND)
    }

    pub fn owed(&self) -> usize {
        self.known.iter().filter(|(n, message)| !message.settled && !message.settling && self.must_come(**n, message)).count()
    }

    pub fn end(&mut self) -> Result<(), Broken> {
        let lost = self.known.iter().find(|(n, message)| !message.delivered && self.must_come(**n, message));
        if let Some((n, message)) = lost {
            return Err(Broken::new("confirmed_is_kept", format!("{n} ({:?}) never came", message.fate)));
        }
        self.dropped =
            self.known.values().filter(|message| message.fate == Fate::Bounded && message.confirmed && !message.delivered).count() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(result: Result<(), Broken>) -> Result<(), &'static str> {
        result.map_err(|broken| broken.invariant)
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn forged_expiry_is_found_out() {
        let mut fates = Fates::default();
        fates.sent(1, Fate::Expires, ms(10));
        fates.confirmed(1);
        let mut come = |at, exact| name(fates.delivered(1, Fate::Expires, at, exact, &mut Ranks::default()));
        assert_eq!(come(ms(100), true), Err("expires_in_time"));
        assert_eq!((come(ms(100), false), come(ms(410), true)), (Ok(()), Ok(())));
        fates.settled(1);
        assert_eq!(name(fates.delivered(1, Fate::Expires, ms(500), true, &mut Ranks::default())), Err("settled_is_gone"));
        assert_eq!(name(fates.delivered(1, Fate::Bounded, ms(500), true, &mut Ranks::default())), Err("nothing_unexpected"));
    }

    #[test]
    fn a_forged_bound_is_found_out() {
        let sent = || {
            let mut fates = Fates::default();
            for n in 1..=5 {
                fates.sent(n, Fate::Bounded, ms(0));
                fates.confirmed(n);
            }
            fates
        };
        let come = |fates: &mut Fates, n| name(fates.delivered(n, Fate::Bounded, ms(1), true, &mut Ranks::default()));
        assert_eq!((come(&mut sent(), 2), come(&mut sent(), 3)), (Err("bound_is_kept"), Ok(())));
        assert_eq!((sent().owed(), name(sent().end())), (3, Err("confirmed_is_kept")));
        let mut well = sent();
        assert!((3..=5).all(|n| come(&mut well, n).is_ok()));
        assert_eq!((name(well.end()), well.dropped), (Ok(()), 2));
    }

    #[test]
    fn forged_ranks_are_found_out() {
        let mut fates = Fates::default();
        (1..4).for_each(|n| fates.sent(n, Fate::Ranked((n % 2) as u8), ms(0)));
        let mut ranks = Ranks::default();
        let mut come = |n| name(fates.delivered(n, Fate::Ranked(0), ms(1), true, &mut ranks));
        assert_eq!((come(3), come(2), come(1)), (Ok(()), Ok(()), Err("in_order")));
    }
}
