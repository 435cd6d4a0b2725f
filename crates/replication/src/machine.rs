//! The clock, the threads and the network under a node: those of the machine that it runs on, or those of a simulation, which decides what happens
//! when. Nothing in the node or on its link asks anybody else for the time, for a thread or for a connection.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::coordinator::{BoxFuture, NodeName};
use crate::net::{Identity, Link, NetError, Purpose};

/// A task that nobody waits for.
pub type Task = BoxFuture<'static, ()>;

pub trait Machine: Send + Sync + 'static {
    fn now(&self) -> Instant;

    fn sleep(&self, time: Duration) -> Task;

    /// Runs beside everything else, until it is done or the node is gone.
    fn spawn(&self, task: Task);

    /// The same on a thread of its own, where it may block. It waits for messages of others, never for time.
    fn thread(&self, name: &'static str, task: Task) -> io::Result<()>;

    /// Resolves when the work is done, which may block.
    fn block(&self, work: Box<dyn FnOnce() + Send>) -> Task;

    fn dial<'a>(&'a self, address: &'a str, to: &'a NodeName) -> BoxFuture<'a, Result<Link, NetError>>;
}

/// It took longer than it may.
#[derive(Debug)]
pub struct Late;

impl dyn Machine {
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T, Late> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.sleep(limit) => Err(Late),
        }
    }

    /// An error says that the work panicked.
    pub async fn blocking<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<R, String> {
        let (answer, answered) = oneshot::channel();
        self.block(Box::new(move || drop(answer.send(work())))).await;
        answered.await.map_err(|_| "a thread of the node panicked".to_owned())
    }
}

/// This machine, with the runtime of whoever makes it.
pub struct Host {
    runtime: tokio::runtime::Handle,
    identity: Identity,
}

impl Host {
    /// To be called on the runtime that the node is to run on.
    pub fn new(identity: Identity) -> Arc<Host> {
        Arc::new(Host { runtime: tokio::runtime::Handle::current(), identity })
    }
}

impl Machine for Host {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) -> Task {
        Box::pin(tokio::time::sleep(time))
    }

    fn spawn(&self, task: Task) {
        self.runtime.spawn(task);
    }

    fn thread(&self, name: &'static str, task: Task) -> io::Result<()> {
        let runtime = self.runtime.clone();
        std::thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(task)).map(drop)
    }

    fn block(&self, work: Box<dyn FnOnce() + Send>) -> Task {
        let done = self.runtime.spawn_blocking(work);
        Box::pin(async move { drop(done.await) })
    }

    fn dial<'a>(&'a self, address: &'a str, to: &'a NodeName) -> BoxFuture<'a, Result<Link, NetError>> {
        Box::pin(Link::dial(address, to, Purpose::Peer, &self.identity))
    }
}
