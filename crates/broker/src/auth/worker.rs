//! One thread that computes slow hashes, one at a time, and the bounded queue before it.
//!
//! An argon2 hash costs milliseconds and megabytes, and whoever can open a connection can ask for one. So the work of all connections
//! together is one core's at most, the queue says no when it is full, and a connection's own thread never computes one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, SyncSender, TrySendError};
use std::sync::Arc;

/// Some 20 seconds of argon2; who comes later is told to try again.
pub(super) const QUEUE_MAX: usize = 1024;

/// Something slow, and its answer. `run(true)` is the order to give up: say no without computing.
pub(super) type Job = Box<dyn FnOnce(bool) + Send>;

/// Drops with the authenticator: the thread then refuses what is left and ends. It is not joined, since a job's answer may be what
/// drops it.
pub(super) struct Worker {
    jobs: parking_lot::Mutex<Option<SyncSender<Job>>>,
    stopping: Arc<AtomicBool>,
    queue_max: usize,
}

impl Worker {
    pub(super) fn new(queue_max: usize) -> Worker {
        Worker { jobs: parking_lot::Mutex::new(None), stopping: Arc::default(), queue_max }
    }

    /// Gives the job back if there is no room for it. The thread starts with the first job: most brokers never need it.
    pub(super) fn submit(&self, job: Job) -> Result<(), Job> {
        let mut jobs = self.jobs.lock();
        let sender = match &*jobs {
            Some(sender) => sender,
            None => match self.start() {
                Ok(sender) => jobs.insert(sender),
                Err(error) => {
                    tracing::error!(%error, "the thread that checks passwords cannot be started; logins that need it are refused");
                    return Err(job);
                }
            },
        };
        sender.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }

    fn start(&self) -> std::io::Result<SyncSender<Job>> {
        let (sender, receiver) = sync_channel::<Job>(self.queue_max);
        let stopping = self.stopping.clone();
        let run = move || receiver.into_iter().for_each(|job| job(stopping.load(Ordering::Relaxed)));
        std::thread::Builder::new().name("auth".to_owned()).spawn(run)?;
        Ok(sender)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{channel, RecvTimeoutError};
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_full_queue_gives_the_job_back_and_dropping_refuses_what_is_left() {
        let worker = Worker::new(2);
        let (started, has_started) = channel();
        let (go, wait) = channel::<()>();
        let (results, answers) = channel();
        let first = results.clone();
        let blocked = worker.submit(Box::new(move |_| {
            started.send(()).unwrap();
            wait.recv().unwrap();
            first.send(("first", false)).unwrap();
        }));
        assert!(blocked.is_ok());
        has_started.recv_timeout(SOON).unwrap();
        for _ in 0..2 {
            let results = results.clone();
            assert!(worker.submit(Box::new(move |stop| results.send(("queued", stop)).unwrap())).is_ok());
        }
        assert!(worker.submit(Box::new(|_| panic!("never run"))).is_err());
        drop((worker, results));
        go.send(()).unwrap();
        let all: Vec<_> = (0..3).map(|_| answers.recv_timeout(SOON).unwrap()).collect();
        assert_eq!(all, [("first", false), ("queued", true), ("queued", true)]);
        assert_eq!(answers.recv_timeout(SOON), Err(RecvTimeoutError::Disconnected));
    }
}
