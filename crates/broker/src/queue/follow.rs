//! What a queue leaves behind when its lock is released, and the runs that left it.

use super::{Entry, Queue};
use crate::store::Log;
use broker_api::{QueueId, Seq};
use journal::{Releases, Slot};
use std::sync::Arc;

/// What has to happen after the queue's lock is released: slots reserved under it to fill, queues to read from the log or to pump.
#[derive(Default)]
pub(crate) struct Follow {
    pub fills: Vec<Fill>,
    pub load: Vec<Arc<Queue>>,
    pub pump: Vec<Arc<Queue>>,
    /// Queues whose reader is to look further for a scan.
    pub look: Vec<(Arc<Queue>, u32)>,
    /// What stands next is not committed yet, and nothing leaves before it is.
    pub uncommitted: Vec<Arc<Queue>>,
    /// Left a queue without being consumed.
    pub leaving: Vec<Leaving>,
    /// Queues in which something rests, and until when (broker time in ms).
    pub resting: Vec<(Arc<Queue>, u64)>,
}

pub(crate) struct Fill {
    pub slot: Option<Slot>,
    pub queue: QueueId,
    pub why: Gone,
    /// Runs of settled sequence numbers.
    pub runs: Vec<(Seq, u32)>,
    pub releases: Releases,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Gone {
    Accepted = 0,
    Rejected = 1,
    Expired = 2,
    Evicted = 3,
    Purged = 4,
    /// Given back too often.
    Limit = 5,
    /// It waited long enough.
    Due = 6,
}

/// A message on its way to a dead-letter exchange, or from where it was held back.
pub(crate) struct Leaving {
    pub queue: Arc<Queue>,
    pub seq: Seq,
    pub why: Gone,
}

impl Follow {
    pub fn is_empty(&self) -> bool {
        self.fills.is_empty()
            && self.load.is_empty()
            && self.look.is_empty()
            && self.pump.is_empty()
            && self.uncommitted.is_empty()
            && self.leaving.is_empty()
            && self.resting.is_empty()
    }
}

impl Fill {
    pub fn new(queue: QueueId, why: Gone) -> Fill {
        Fill { slot: None, queue, why, runs: Vec::new(), releases: Releases::default() }
    }

    pub(super) fn add(&mut self, seq: Seq, entry: &Entry) {
        entry.release(&mut self.releases);
        if !entry.durable {
            return;
        }
        match self.runs.last_mut() {
            Some((first, count)) if first.plus(u64::from(*count)) == seq => *count += 1,
            _ => self.runs.push((seq, 1)),
        }
    }

    pub(super) fn is_worth_it(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Only what was logged when it came is logged when it goes.
    pub(super) fn reserve(&mut self, durable: bool, log: &Log) {
        if durable && !self.runs.is_empty() {
            self.slot = Some(log.reserve());
        }
    }
}
