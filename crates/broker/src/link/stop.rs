//! Owners that a refusal stops: an AMQP channel, a STOMP connection. What stands behind the refused entry is skipped until they end.

use super::{Link, Owner};
use crate::queue::{Follow, Queue};
use broker_api::{ConsumerIx, Event, OwnerIx, Refusal, Serial};
use std::sync::Arc;

/// Whether an owner stops, and the serial from which on it has.
#[derive(Clone, Copy, Default)]
pub(super) struct Stop {
    on_refusal: bool,
    at: Option<u64>,
}

impl Stop {
    pub fn new(on_refusal: bool) -> Stop {
        Stop { on_refusal, at: None }
    }
}

impl Link {
    /// Has this owner stopped before an entry that stands behind serial `after`? (Settlements are looked at when the publishes of their
    /// segment are through, so they say where they stood.)
    pub(super) fn is_stopped(&self, owner: OwnerIx, after: u64) -> bool {
        if !self.may_stop {
            return false;
        }
        match self.owner(owner) {
            Some(Owner::Local { stop, .. }) => stop.at.is_some_and(|at| after >= at),
            _ => false,
        }
    }

    /// Stops the owner if it is one that stops. Its consumers leave now, its leases when it ends; so consumers that have message groups, which
    /// are to stay in order, stay as well, and are handed nothing more.
    pub(super) fn stop(&mut self, owner: OwnerIx, at: u64) {
        let found = self.owners.iter_mut().find(|(ix, _)| *ix == owner);
        let Some((_, Owner::Local { stop, consumers, .. })) = found else { return };
        if !stop.on_refusal || stop.at.is_some() {
            return;
        }
        stop.at = Some(at);
        let outbox = self.outbox.id;
        let (stay, leave) = std::mem::take(consumers).into_iter().partition(|(ix, queue)| queue.silence_consumer(outbox, *ix));
        *consumers = stay;
        self.leave_queues(leave);
    }

    /// Takes consumers off their queues, whose messages go to others.
    pub(super) fn leave_queues(&mut self, consumers: Vec<(ConsumerIx, Arc<Queue>)>) {
        let mut follow = Follow::default();
        for (consumer, queue) in &consumers {
            queue.remove_consumer(self.outbox.id, Some(*consumer));
            follow.pump.push(queue.clone());
        }
        self.core.follow_up(follow);
        let vhost = self.vhost.clone();
        for (_, queue) in consumers {
            self.core.lost_consumer(&vhost, &queue);
        }
    }

    /// A publish is refused, which may stop its owner.
    pub(super) fn refuse_publish(&mut self, owner: u32, serial: Serial, why: Refusal) {
        let stops = self.may_stop && why.stops_publisher();
        self.outbox.push(Event::Refused { first: serial, last: serial, why });
        if stops {
            self.stop(OwnerIx(owner), serial.0);
        }
    }
}

/// Publishes that are skipped, said in ranges.
#[derive(Default)]
pub(super) struct Skipped(Option<(Serial, Serial)>);

impl Skipped {
    pub fn add(&mut self, serial: Serial, link: &Link) {
        match &mut self.0 {
            Some((_, last)) if last.0 + 1 == serial.0 => *last = serial,
            _ => {
                self.say(link);
                self.0 = Some((serial, serial));
            }
        }
    }

    pub fn say(&mut self, link: &Link) {
        if let Some((first, last)) = self.0.take() {
            link.outbox.push(Event::Refused { first, last, why: Refusal::OwnerEnded });
        }
    }
}
