//! Deliveries that wait for their acknowledgement, and what acknowledgements do: settle in the core, and give credit.

use std::collections::VecDeque;

use broker_api::{ConsumerIx, Control, CreditTo, GroupIx, Outcome, OwnerIx, QueueId, Seq, Settle};

use super::channel::{At, Window};
use super::requests::{Asked, Request};
use super::{next, Handled, Session, Step};
use crate::codec::Method;
use crate::error::Code;

/// A delivery that was not acknowledged yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unsettled {
    pub(super) tag: u64,
    pub(super) queue: QueueId,
    pub(super) seq: Seq,
    /// 0: a basic.get, which takes no credit.
    pub(super) consumer: u32,
}

/// Marks the place of what was acknowledged out of order.
const HOLE: u32 = u32::MAX;

/// In the order of tags. What is acknowledged out of order leaves a hole, which is closed when there are many.
#[derive(Default)]
pub(super) struct Unacked {
    entries: VecDeque<Unsettled>,
    holes: usize,
}

impl Unacked {
    #[inline]
    pub(super) fn push(&mut self, unsettled: Unsettled) {
        self.entries.push_back(unsettled);
    }

    fn len(&self) -> usize {
        self.entries.len() - self.holes
    }

    /// Takes the one with this tag.
    #[inline]
    fn take(&mut self, tag: u64) -> Option<Unsettled> {
        if let Some(first) = self.entries.front().copied().filter(|first| first.tag == tag && first.consumer != HOLE) {
            self.entries.pop_front();
            self.close_holes();
            return Some(first);
        }
        let at = self.find(tag)?;
        let taken = self.entries[at];
        self.entries[at].consumer = HOLE;
        self.holes += 1;
        self.close_holes();
        Some(taken)
    }

    fn find(&self, tag: u64) -> Option<usize> {
        let at = self.entries.binary_search_by_key(&tag, |entry| entry.tag).ok()?;
        (self.entries[at].consumer != HOLE).then_some(at)
    }

    /// Takes all up to this tag, in order.
    fn take_through(&mut self, tag: u64, mut each: impl FnMut(Unsettled)) {
        while let Some(first) = self.entries.front().copied().filter(|first| first.tag <= tag) {
            self.entries.pop_front();
            match first.consumer {
                HOLE => self.holes -= 1,
                _ => each(first),
            }
        }
    }

    #[inline]
    fn close_holes(&mut self) {
        while self.holes > 0 && self.entries.front().is_some_and(|first| first.consumer == HOLE) {
            self.entries.pop_front();
            self.holes -= 1;
        }
        if self.holes > 32 && self.holes > self.entries.len() / 2 {
            self.entries.retain(|entry| entry.consumer != HOLE);
            self.holes = 0;
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Unsettled> {
        self.entries.iter().filter(|entry| entry.consumer != HOLE)
    }

    /// Puts back what a transaction had taken.
    pub(super) fn restore(&mut self, settled: &[Unsettled]) {
        if settled.is_empty() {
            return;
        }
        let mut all: Vec<Unsettled> = self.all().chain(settled).copied().collect();
        all.sort_unstable_by_key(|entry| entry.tag);
        self.entries = all.into();
        self.holes = 0;
    }

    /// Deliveries to consumers; those are what a window counts.
    fn of_consumers(&self) -> usize {
        self.all().filter(|entry| entry.consumer != 0).count()
    }

    /// What was delivered to one consumer counts for another from now on.
    pub(super) fn rename(&mut self, old: u32, new: u32) {
        self.entries.iter_mut().filter(|entry| entry.consumer == old).for_each(|entry| entry.consumer = new);
    }

    fn contains(&self, tag: u64) -> bool {
        self.find(tag).is_some()
    }
}

fn settle(entry: &Unsettled, owner: u32, outcome: Outcome) -> Settle {
    Settle { queue: entry.queue, first: entry.seq, count: 1, owner: OwnerIx(owner), state: 0, outcome }
}

impl Session {
    #[inline]
    pub(super) fn ack(&mut self, at: At, tag: u64, multiple: bool, step: &mut Step<'_>) -> Handled {
        self.settle(at, tag, multiple, Outcome::Accepted, step)
    }

    /// nack and reject. What is requeued counts as an attempt.
    pub(super) fn nack(&mut self, at: At, tag: u64, multiple: bool, requeue: bool, step: &mut Step<'_>) -> Handled {
        self.settle(at, tag, multiple, if requeue { Outcome::Modified } else { Outcome::Rejected }, step)
    }

    fn settle(&mut self, at: At, tag: u64, multiple: bool, outcome: Outcome, step: &mut Step<'_>) -> Handled {
        let Some(scope) = self.live(at.channel, at.owner).map(|channel| channel.scope()) else { return Ok(()) };
        self.set_scope(scope, step.turn);
        let Some(channel) = self.channels.get_mut(usize::from(at.channel)).and_then(Option::as_deref_mut) else { return Ok(()) };
        let unknown = || at.failed(Code::PreconditionFailed, format!("unknown delivery tag {tag}"));
        if !multiple {
            let entry = channel.unacked.take(tag).ok_or_else(unknown)?;
            step.turn.settle(settle(&entry, at.owner, outcome));
            match &mut channel.tx {
                Some(tx) => tx.settled.push(entry),
                None => self.owe_for(at.channel, entry.consumer, 1),
            }
            return Ok(());
        }
        // Tag 0 means all there are; none is no error then.
        if tag != 0 && !channel.unacked.contains(tag) {
            return Err(unknown());
        }
        let mut owed = Runs::default();
        let tx = &mut channel.tx;
        channel.unacked.take_through(if tag == 0 { u64::MAX } else { tag }, |entry| {
            step.turn.settle(settle(&entry, at.owner, outcome));
            match tx {
                Some(tx) => tx.settled.push(entry),
                None => owed.add(entry.consumer),
            }
        });
        for (consumer, count) in owed.0 {
            self.owe_for(at.channel, consumer, count);
        }
        Ok(())
    }

    /// Credit for what a transaction acknowledged, when it commits.
    pub(super) fn owe(&mut self, channel: u16, settled: &[Unsettled]) {
        for entry in settled {
            self.owe_for(channel, entry.consumer, 1);
        }
    }

    #[inline]
    fn owe_for(&mut self, channel: u16, consumer: u32, count: u32) {
        if consumer == 0 {
            return;
        }
        if let Some(found) = self.consumers.get_mut(&consumer).filter(|found| found.limited && !found.moving) {
            if found.owed == 0 {
                self.owed_consumers.push(consumer);
            }
            found.owed += count;
        }
        let Some(window) = self.channel(channel).and_then(|channel| channel.window.as_mut()).filter(|window| window.moving == 0) else {
            return;
        };
        let paid = window.debt.min(count);
        window.debt -= paid;
        if count > paid {
            let first = window.owed == 0;
            window.owed += count - paid;
            if first {
                self.owed_channels.push(channel);
            }
        }
    }

    pub(super) fn give_credit(&mut self, step: &mut Step<'_>) {
        while let Some(ix) = self.owed_consumers.pop() {
            if let Some(consumer) = self.consumers.get_mut(&ix) {
                step.turn.credit(CreditTo::Consumer(ConsumerIx(ix)), std::mem::take(&mut consumer.owed));
            }
        }
        while let Some(number) = self.owed_channels.pop() {
            if let Some(window) = self.channel(number).and_then(|channel| channel.window.as_mut()) {
                step.turn.credit(CreditTo::Group(GroupIx(window.group)), std::mem::take(&mut window.owed));
            }
        }
    }

    /// RabbitMQ's meaning: without `global` for each consumer to come, with it for all of the channel together.
    pub(super) fn qos(&mut self, at: At, prefetch_size: u32, prefetch_count: u16, global: bool, step: &mut Step<'_>) -> Handled {
        if prefetch_size != 0 {
            return Err(at.failed(Code::NotImplemented, format!("prefetch_size!=0 ({prefetch_size})")));
        }
        if global {
            self.set_window(at, prefetch_count, step);
        } else if let Some(channel) = self.live(at.channel, at.owner) {
            channel.prefetch = prefetch_count;
        }
        self.answer(at.channel, Method::BasicQosOk {}, step);
        Ok(())
    }

    /// A new limit is a new credit group, which the consumers that are there move to.
    fn set_window(&mut self, at: At, limit: u16, step: &mut Step<'_>) {
        let group = next(&mut self.numbers.group);
        let Some(channel) = self.live(at.channel, at.owner) else { return };
        if limit == 0 && channel.window.is_none() {
            return;
        }
        channel.window = (limit != 0).then(|| Window { group, limit: limit.into(), moving: 0, debt: 0, owed: 0 });
        let mut consumers: Vec<u32> = channel.consumers.values().copied().collect();
        consumers.sort_unstable();
        if limit != 0 {
            let control = Control::Group { group: GroupIx(group), credit: 0 };
            let token = self.command(control, step);
            self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, Asked::Silent));
        }
        let moving = consumers.into_iter().filter(|consumer| self.move_consumer(at, *consumer, group, step)).count();
        if let Some(window) = self.channel(at.channel).and_then(|channel| channel.window.as_mut()) {
            window.moving = moving as u32;
        }
        self.open_window(at.channel, group, step);
    }

    /// Its credit, once no delivery from before it is under way any more.
    pub(super) fn open_window(&mut self, number: u16, group: u32, step: &mut Step<'_>) {
        let Some(channel) = self.channel(number) else { return };
        let out = u32::try_from(channel.unacked.of_consumers()).unwrap_or(u32::MAX);
        let Some(window) = channel.window.as_mut().filter(|window| window.group == group && window.moving == 0) else { return };
        window.debt = out.saturating_sub(window.limit);
        step.turn.credit(CreditTo::Group(GroupIx(group)), window.limit.saturating_sub(out));
    }

    /// Everything that is unacknowledged comes again.
    pub(super) fn recover(&mut self, at: At, requeue: bool, answer: bool, step: &mut Step<'_>) -> Handled {
        if !requeue {
            return Err(at.failed(Code::NotImplemented, "requeue=false"));
        }
        let Some(channel) = self.live(at.channel, at.owner) else { return Ok(()) };
        let mut owed = Runs::default();
        channel.unacked.take_through(u64::MAX, |entry| owed.add(entry.consumer));
        let token = self.command(Control::Recover { owner: OwnerIx(at.owner) }, step);
        // The answer does not wait: what comes again comes behind it.
        if answer {
            self.answer(at.channel, Method::BasicRecoverOk {}, step);
        }
        self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, Asked::Silent));
        for (consumer, count) in owed.0 {
            self.owe_for(at.channel, consumer, count);
        }
        Ok(())
    }

    pub(super) fn unsettled_of(&mut self, number: u16, consumer: u32) -> u32 {
        let Some(channel) = self.channel(number) else { return 0 };
        if channel.unacked.len() == 0 {
            return 0;
        }
        channel.unacked.all().filter(|entry| entry.consumer == consumer).count() as u32
    }
}

/// Neighbours of one consumer, counted.
#[derive(Default)]
struct Runs(Vec<(u32, u32)>);

impl Runs {
    #[inline]
    fn add(&mut self, consumer: u32) {
        match self.0.last_mut() {
            Some((last, count)) if *last == consumer => *count += 1,
            _ => self.0.push((consumer, 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u64) -> Unsettled {
        Unsettled { tag, queue: QueueId(1), seq: Seq(tag), consumer: 1 }
    }

    fn filled(tags: impl Iterator<Item = u64>) -> Unacked {
        let mut unacked = Unacked::default();
        tags.for_each(|tag| unacked.push(entry(tag)));
        unacked
    }

    #[test]
    fn tags_are_found_in_any_order_and_once() {
        // Odd ones only, as if every second delivery had needed no acknowledgement.
        let mut unacked = filled((1..400).step_by(2));
        let mut order: Vec<u64> = (1..400).step_by(2).collect();
        // A fixed shuffle.
        (0..order.len()).for_each(|n| order.swap(n, (n * 7919 + 13) % 200));
        for tag in order {
            assert_eq!(unacked.take(tag + 1), None);
            assert_eq!(unacked.take(tag), Some(entry(tag)));
            assert_eq!(unacked.take(tag), None);
        }
        assert_eq!((unacked.len(), unacked.entries.len()), (0, 0));
    }

    #[test]
    fn multiple_takes_what_is_left_up_to_the_tag() {
        let mut unacked = filled(1..=10);
        unacked.take(3);
        unacked.take(7);
        let mut taken = Vec::new();
        unacked.take_through(8, |entry| taken.push(entry.tag));
        assert_eq!(taken, [1, 2, 4, 5, 6, 8]);
        assert_eq!(unacked.len(), 2);
        unacked.restore(&[entry(4), entry(1)]);
        unacked.take_through(u64::MAX, |entry| taken.push(entry.tag));
        assert_eq!(taken[6..], [1, 4, 9, 10]);
        assert_eq!(unacked.len(), 0);
    }

    #[test]
    fn holes_do_not_gather() {
        let mut unacked = filled(1..=1);
        for tag in 2..10_000 {
            unacked.push(entry(tag));
            unacked.take(tag);
        }
        assert!(unacked.entries.len() < 100, "{}", unacked.entries.len());
    }
}
