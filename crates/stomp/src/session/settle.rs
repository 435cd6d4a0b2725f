//! Deliveries that wait for an ACK or NACK, and what these do: settle in the core, and give credit.

use std::borrow::Cow;
use std::collections::VecDeque;

use broker_api::{ConsumerIx, CreditTo, Outcome, QueueId, Seq, Settle};
use smallvec::SmallVec;

use super::subscribe::owner_of;
use super::{malformed, Handled, Session, Step};
use crate::codec::{Frame, Version};
use crate::dialect::Dialect;
use crate::error::Fault;

/// A delivery that was not settled yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unsettled {
    /// Counts the deliveries of the connection.
    pub(super) tag: u64,
    pub(super) queue: QueueId,
    pub(super) seq: Seq,
}

/// Those of a subscription, in the order of tags. What is settled out of order leaves a hole, which is closed when there are many.
#[derive(Default)]
pub(super) struct Unacked {
    entries: VecDeque<(Unsettled, bool)>,
    holes: usize,
}

impl Unacked {
    #[inline]
    pub(super) fn push(&mut self, unsettled: Unsettled) {
        self.entries.push_back((unsettled, false));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.len() == self.holes
    }

    fn find(&self, tag: u64) -> Option<usize> {
        let at = self.entries.binary_search_by_key(&tag, |(entry, _)| entry.tag).ok()?;
        (!self.entries[at].1).then_some(at)
    }

    /// Takes the one with this tag.
    fn take(&mut self, tag: u64) -> Option<Unsettled> {
        let at = self.find(tag)?;
        self.entries[at].1 = true;
        self.holes += 1;
        let taken = self.entries[at].0;
        while self.entries.front().is_some_and(|(_, hole)| *hole) {
            self.entries.pop_front();
            self.holes -= 1;
        }
        if self.holes > 32 && self.holes > self.entries.len() / 2 {
            self.entries.retain(|(_, hole)| !hole);
            self.holes = 0;
        }
        Some(taken)
    }

    /// Takes all up to this tag, in order.
    fn take_through(&mut self, tag: u64, mut each: impl FnMut(Unsettled)) {
        while self.entries.front().is_some_and(|(entry, _)| entry.tag <= tag) {
            match self.entries.pop_front() {
                Some((_, true)) => self.holes -= 1,
                Some((entry, false)) => each(entry),
                None => return,
            }
        }
    }

    /// Puts back what a transaction had taken.
    fn restore(&mut self, settled: impl Iterator<Item = Unsettled>) {
        let mut all: Vec<(Unsettled, bool)> =
            self.entries.drain(..).filter(|(_, hole)| !hole).chain(settled.map(|entry| (entry, false))).collect();
        all.sort_unstable_by_key(|(entry, _)| entry.tag);
        self.entries = all.into();
        self.holes = 0;
    }
}

/// Between the parts of a message's id.
pub(super) const ID_SEPARATOR: &[u8] = b"@@";

impl Session {
    /// ACK and NACK. In `client` mode an ACK is for everything before, too; of its own subscription, as the specification has it (in
    /// RabbitMQ, of all subscriptions of the connection).
    pub(super) fn ack(&mut self, frame: &Frame<'_>, command: &'static str, step: &mut Step<'_>) -> Handled {
        let header = if self.version == Version::V12 { "id" } else { "message-id" };
        let transaction = frame.headers.get("transaction").map_err(malformed)?;
        let scope = transaction.as_deref().map(|name| self.transaction(name)).transpose()?;
        let Some(id) = frame.headers.get(header).map_err(malformed)? else {
            return Err(Fault::new("Missing header", format!("\"{command}\" must include the \"{header}\" header\n")));
        };
        let activemq = self.dialect() == Dialect::ActiveMq;
        // It says what stands under the name that the header had before 1.2.
        let named = frame.headers.get("message-id").map_err(malformed)?.unwrap_or(Cow::Borrowed(b"null"));
        let unexpected = || Fault::plain(format!("Unexpected {command} received for message-id [{}]", String::from_utf8_lossy(&named)));
        let invalid = || match activemq {
            true => unexpected(),
            false => Fault::new("Invalid header", format!("\"{command}\" must include a valid \"{header}\" header\n")),
        };
        if !activemq {
            self.check_has_subscription(&id)?;
        }
        let (subscription, tag) = self.read_id(&id).ok_or_else(invalid)?;
        let outcome = match command {
            "ACK" => Outcome::Accepted,
            // What goes back counts as an attempt.
            _ => match frame.headers.get("requeue").map_err(malformed)?.as_deref() {
                Some(b"false") => Outcome::Rejected,
                None if activemq && self.stomp.config.dead_letters => Outcome::Rejected,
                _ => Outcome::Modified,
            },
        };
        let unknown = || match activemq {
            true => unexpected(),
            false => Fault::precondition(format!("unknown delivery tag {tag}")),
        };
        let ix = self.who_has(subscription, tag).ok_or_else(unknown)?;
        let cumulative = self.subscriptions.get(&ix).is_some_and(|found| found.cumulative);
        if command == "NACK" && self.subscriptions.get(&ix).is_some_and(|found| found.browses) {
            return Err(Fault::plain("Cannot Nack a message on a Queue Browser Subscription.".to_owned()));
        }
        let mut taken = Vec::new();
        for part in self.parts_of(ix) {
            let Some(found) = self.subscriptions.get_mut(&part) else { continue };
            match cumulative {
                true => found.unacked.take_through(tag, |entry| taken.push((part, entry))),
                false if part == ix => taken.extend(found.unacked.take(tag).map(|entry| (part, entry))),
                false => {}
            }
        }
        self.set_scope(scope, step.turn);
        let browses = |ix: &u32| self.subscriptions.get(ix).is_some_and(|found| found.browses);
        for (part, entry) in taken.iter().filter(|(part, _)| !browses(part)) {
            let owner = owner_of(self.subscriptions.get(part).is_some_and(|found| found.part));
            step.turn.settle(Settle { queue: entry.queue, first: entry.seq, count: 1, owner, state: 0, outcome });
        }
        match transaction.and_then(|name| self.transactions.get_mut(&*name)) {
            Some(transaction) => transaction.settled.extend(taken),
            None => {
                taken.iter().for_each(|(part, _)| self.owe(*part));
                self.forget_if_idle(ix);
            }
        }
        Ok(())
    }

    /// This subscription, and the others to the same composite destination.
    fn parts_of(&self, ix: u32) -> SmallVec<[u32; 1]> {
        let all = self.subscriptions.get(&ix).and_then(|found| self.by_tag.get(&found.tag));
        all.filter(|all| all.contains(&ix)).cloned().unwrap_or_else(|| SmallVec::from([ix]))
    }

    /// `TAG@@SESSION@@NUMBER`: which subscription, and which delivery of this connection.
    fn read_id<'a>(&self, id: &'a [u8]) -> Option<(&'a [u8], u64)> {
        let at = memchr::memmem::rfind(id, ID_SEPARATOR)?;
        let (rest, number) = (&id[..at], &id[at + ID_SEPARATOR.len()..]);
        let subscription = rest.strip_suffix(self.session_id.as_bytes())?.strip_suffix(ID_SEPARATOR)?;
        let digits = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
        let number = if digits { std::str::from_utf8(number).ok()?.parse().ok()? } else { return None };
        Some((subscription, number))
    }

    /// RabbitMQ looks for the subscription first, whatever connection an id is from.
    fn check_has_subscription(&self, id: &[u8]) -> Handled {
        let mut parts = memchr::memmem::find_iter(id, ID_SEPARATOR);
        let (Some(end), Some(_)) = (parts.next(), parts.next()) else { return Ok(()) };
        if self.by_tag.contains_key(&id[..end]) || self.subscriptions.values().any(|found| id.starts_with(&found.tag)) {
            return Ok(());
        }
        let id = String::from_utf8_lossy(id);
        Err(Fault::new("Subscription not found", format!("Message with id \"{id}\" has no subscription\n")))
    }

    /// The subscription that this delivery was for: the one of that name, or one that had the name and was ended.
    fn who_has(&self, name: &[u8], tag: u64) -> Option<u32> {
        let has = |ix: &u32| self.subscriptions.get(ix).is_some_and(|found| found.unacked.find(tag).is_some());
        if let Some(ix) = self.by_tag.get(name).and_then(|all| all.iter().copied().find(has)) {
            return Some(ix);
        }
        let mut ended = self.subscriptions.iter().filter(|(_, found)| found.ended && *found.tag == *name);
        ended.find(|(ix, _)| has(ix)).map(|(ix, _)| *ix)
    }

    /// A settled delivery makes room for another, where their number is limited.
    pub(super) fn owe(&mut self, ix: u32) {
        if let Some(found) = self.subscriptions.get_mut(&ix).filter(|found| found.limited && !found.ended) {
            if found.owed == 0 {
                self.owed.push(ix);
            }
            found.owed += 1;
        }
    }

    pub(super) fn give_credit(&mut self, step: &mut Step<'_>) {
        while let Some(ix) = self.owed.pop() {
            if let Some(found) = self.subscriptions.get_mut(&ix) {
                step.turn.credit(CreditTo::Consumer(ConsumerIx(ix)), std::mem::take(&mut found.owed));
            }
        }
    }

    pub(super) fn restore(&mut self, settled: Vec<(u32, Unsettled)>) {
        let mut whose: Vec<u32> = settled.iter().map(|(ix, _)| *ix).collect();
        whose.sort_unstable();
        whose.dedup();
        for ix in whose {
            if let Some(found) = self.subscriptions.get_mut(&ix) {
                found.unacked.restore(settled.iter().filter(|(of, _)| *of == ix).map(|(_, entry)| *entry));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u64) -> Unsettled {
        Unsettled { tag, queue: QueueId(1), seq: Seq(tag) }
    }

    #[test]
    fn tags_are_found_in_any_order_and_once() {
        let mut unacked = Unacked::default();
        // Odd ones only, as if every second delivery had been of another subscription.
        let mut order: Vec<u64> = (1..400).step_by(2).collect();
        order.iter().for_each(|tag| unacked.push(entry(*tag)));
        (0..order.len()).for_each(|n| order.swap(n, (n * 7919 + 13) % 200));
        for tag in order {
            assert_eq!(unacked.take(tag + 1), None);
            assert_eq!(unacked.take(tag), Some(entry(tag)));
            assert_eq!(unacked.take(tag), None);
        }
        assert!(unacked.is_empty() && unacked.entries.is_empty());
    }

    #[test]
    fn all_up_to_a_tag_and_back_again() {
        let mut unacked = Unacked::default();
        (1..=10).for_each(|tag| unacked.push(entry(tag)));
        unacked.take(3);
        unacked.take(7);
        let mut taken = Vec::new();
        unacked.take_through(8, |entry| taken.push(entry.tag));
        assert_eq!(taken, [1, 2, 4, 5, 6, 8]);
        unacked.take(10);
        unacked.restore([entry(4), entry(1)].into_iter());
        unacked.take_through(u64::MAX, |entry| taken.push(entry.tag));
        assert_eq!(taken[6..], [1, 4, 9]);
        assert!(unacked.is_empty());
    }

    #[test]
    fn holes_do_not_gather() {
        let mut unacked = Unacked::default();
        unacked.push(entry(1));
        for tag in 2..10_000 {
            unacked.push(entry(tag));
            unacked.take(tag);
        }
        assert!(unacked.entries.len() < 100, "{}", unacked.entries.len());
    }
}
