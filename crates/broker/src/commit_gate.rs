//! Delivery after the commit point: queues whose next message is not committed yet wait here, and go on when it is.
//!
//! One empty slot of the log stands for all that wait: it is committed after everything that was staged before it.

use crate::core::{Job, Shared};
use crate::queue::Queue;
use journal::{Committed, Filled};
use parking_lot::Mutex;
use std::sync::mpsc::Sender;
use std::sync::Arc;

pub(crate) struct CommitGate {
    waiting: Mutex<Waiting>,
    jobs: Sender<Job>,
}

#[derive(Default)]
struct Waiting {
    queues: Vec<Arc<Queue>>,
    /// A slot is under way that will call.
    armed: bool,
}

impl CommitGate {
    pub fn new(jobs: Sender<Job>) -> Arc<CommitGate> {
        Arc::new(CommitGate { waiting: Mutex::default(), jobs })
    }
}

impl Committed for CommitGate {
    /// Locks of queues are not for the commit thread.
    fn committed(&self, _: u64) {
        let mut waiting = self.waiting.lock();
        waiting.armed = false;
        // The reader thread ends only with the process.
        let _ = self.jobs.send(Job::Pump(std::mem::take(&mut waiting.queues)));
    }
}

impl Shared {
    /// These queues are pumped again when what is staged now has been committed.
    pub fn after_commit(&self, queues: Vec<Arc<Queue>>) {
        let mut waiting = self.commit_gate.waiting.lock();
        for queue in queues {
            if !waiting.queues.iter().any(|q| Arc::ptr_eq(q, &queue)) {
                waiting.queues.push(queue);
            }
        }
        if std::mem::replace(&mut waiting.armed, true) {
            return;
        }
        drop(waiting);
        let slot = self.log.reserve();
        let done = Some((self.commit_gate.clone() as Arc<dyn Committed>, slot.ticket().0));
        slot.fill(Filled { done, ..Filled::default() });
    }
}
