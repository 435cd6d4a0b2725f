//! Streams between nodes. What is sent arrives in order, after a while; a cut path delivers nothing until it is whole again, and does not say so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use replication::coordinator::NodeName;
use replication::net::Link;
use replication::old_primary;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use crate::world::{Group, Kind, World};

/// Bytes that are on their way in one direction, at most.
const IN_FLIGHT_MAX: usize = 4 << 20;
/// One way, without what is drawn.
const LATENCY: Duration = Duration::from_micros(100);

/// Where a node takes links.
pub struct Listening {
    pub group: Group,
    pub links: mpsc::Sender<(Link, NodeName)>,
}

#[derive(Default)]
struct Inner {
    cut: BTreeSet<(NodeName, NodeName)>,
    /// What goes this way is answered by a reset.
    rejected: BTreeSet<(NodeName, NodeName)>,
    nodes: BTreeMap<NodeName, Listening>,
    /// Who waits for a cut path.
    waiting: Vec<Waker>,
    ghost: Option<Ghost>,
}

/// Who answers in place of every node: an old primary of this epoch, which tells when a standby with a later promise takes its word.
#[derive(Clone)]
struct Ghost {
    group: Group,
    epoch: u64,
    believed: Arc<Mutex<Option<u64>>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Network {
    world: World,
    inner: Arc<Mutex<Inner>>,
}

impl Network {
    pub fn new(world: World) -> Network {
        Network { world, inner: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn listen(&self, name: &NodeName, listening: Listening) {
        self.lock().nodes.insert(name.clone(), listening);
    }

    pub fn close(&self, name: &NodeName) {
        self.lock().nodes.remove(name);
    }

    /// In this direction nothing arrives any more.
    pub fn cut(&self, from: &NodeName, to: &NodeName) {
        self.lock().cut.insert((from.clone(), to.clone()));
    }

    /// Connections between the two break, and new ones are refused.
    pub fn reject(&self, one: &NodeName, other: &NodeName) {
        let mut inner = self.lock();
        inner.rejected.insert((one.clone(), other.clone()));
        inner.rejected.insert((other.clone(), one.clone()));
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// From now on whoever dials reaches an old primary of this epoch. Answers where it is put down what a standby had promised that believed it.
    pub fn haunt(&self, group: Group, epoch: u64) -> Arc<Mutex<Option<u64>>> {
        let believed = Arc::default();
        self.lock().ghost = Some(Ghost { group, epoch, believed: Arc::clone(&believed) });
        believed
    }

    pub fn mend(&self) {
        let mut inner = self.lock();
        inner.ghost = None;
        inner.cut.clear();
        inner.rejected.clear();
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub fn is_cut(&self, from: &NodeName, to: &NodeName) -> bool {
        self.lock().cut.contains(&(from.clone(), to.clone()))
    }

    /// `None`: nobody listens there. Otherwise pending for as long as nobody answers.
    pub async fn dial(&self, from: &NodeName, to: &NodeName) -> Option<Link> {
        self.world.sleep(LATENCY).await;
        while self.is_cut(from, to) || self.is_cut(to, from) {
            self.world.sleep(Duration::from_millis(5)).await;
        }
        let (ours, theirs) = self.pair(from, to);
        let ghost = self.lock().ghost.clone();
        if let Some(Ghost { group, epoch, believed }) = ghost {
            let link = Link::between(theirs, from);
            let plays = async move {
                if let Some(promised) = old_primary(link, epoch).await {
                    *believed.lock().unwrap_or_else(PoisonError::into_inner) = Some(promised);
                }
            };
            self.world.spawn(group, Kind::Plain, Box::pin(plays));
            return Some(Link::between(ours, to));
        }
        let (done, accepted) = oneshot::channel();
        let (group, links) = {
            let inner = self.lock();
            if inner.rejected.contains(&(from.clone(), to.clone())) {
                return None;
            }
            let node = inner.nodes.get(to)?;
            (node.group, node.links.clone())
        };
        // A process that is paused accepts nobody.
        let name = from.clone();
        let accept = async move {
            let _ = done.send(links.try_send((Link::between(theirs, &name), name)).is_ok());
        };
        self.world.spawn(group, Kind::Plain, Box::pin(accept));
        accepted.await.ok().filter(|taken| *taken)?;
        Some(Link::between(ours, to))
    }

    fn pair(&self, a: &NodeName, b: &NodeName) -> (Stream, Stream) {
        let pipe = |from: &NodeName, to: &NodeName| {
            let path = (from.clone(), to.clone());
            Arc::new(Pipe { network: self.clone(), path, state: Mutex::default() })
        };
        let (there, back) = (pipe(a, b), pipe(b, a));
        (Stream { out: there.clone(), into: back.clone() }, Stream { out: back, into: there })
    }
}

#[derive(Default)]
struct State {
    chunks: VecDeque<(Duration, Vec<u8>)>,
    bytes: usize,
    /// The last one arrives then: nothing overtakes.
    last: Duration,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Pipe {
    network: Network,
    path: (NodeName, NodeName),
    state: Mutex<State>,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

pub struct Stream {
    out: Arc<Pipe>,
    into: Arc<Pipe>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.out.close();
        self.into.close();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let pipe = &self.into;
        let mut network = pipe.network.lock();
        if network.rejected.contains(&pipe.path) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if network.cut.contains(&pipe.path) {
            network.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        drop(network);
        let now = pipe.network.world.elapsed();
        let mut state = pipe.lock();
        let Some((at, chunk)) = state.chunks.front_mut() else {
            if state.closed {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        if *at > now {
            let at = *at;
            state.reader = Some(context.waker().clone());
            drop(state);
            pipe.network.world.wake_at(at, context.waker().clone());
            return Poll::Pending;
        }
        let len = chunk.len().min(into.remaining());
        into.put_slice(&chunk[..len]);
        if len == chunk.len() {
            state.chunks.pop_front();
        } else {
            chunk.drain(..len);
        }
        state.bytes -= len;
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let pipe = &self.out;
        if pipe.network.lock().rejected.contains(&pipe.path) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let world = &pipe.network.world;
        let spread = world.draw(|rng| rng.below(300));
        let now = world.elapsed();
        let mut state = pipe.lock();
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if state.bytes >= IN_FLIGHT_MAX {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let at = (now + LATENCY + Duration::from_micros(spread)).max(state.last);
        state.last = at;
        state.bytes += bytes.len();
        state.chunks.push_back((at, bytes.to_vec()));
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.close();
        Poll::Ready(Ok(()))
    }
}
