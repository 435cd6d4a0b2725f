//! One helper: a connection over an in-memory wire.

use broker_api::{Context, Peer, Protocol};
use gateway::{Connection, Layer, Slots, Transport};
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::{FakeBroker, Handle, Torn, Toy};
use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Nothing in these tests takes this long unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct Client {
    pub wire: DuplexStream,
    pub core: Handle,
    pub toy: Arc<Toy>,
    pub slots: Arc<Slots>,
    pub task: tokio::task::JoinHandle<()>,
}

/// A connected client; the wire holds `room` bytes each way and the gateway's end moves at most `step` at a time.
pub fn connect(toy: &Arc<Toy>, room: usize, step: usize) -> Client {
    connect_with(toy, room, step, None)
}

/// The same where a client that does not read is borne for so long only.
pub fn connect_with(toy: &Arc<Toy>, room: usize, step: usize, patience: Option<Duration>) -> Client {
    let (wire, theirs) = duplex(room);
    start(Torn::new(theirs, step), wire, toy, patience)
}

/// A client at the other end of a transport.
pub fn over(transport: Transport, wire: DuplexStream, toy: &Arc<Toy>) -> Client {
    start(transport, wire, toy, None)
}

fn start<S: Layer + 'static>(stream: S, wire: DuplexStream, toy: &Arc<Toy>, patience: Option<Duration>) -> Client {
    let (core, session) = FakeBroker::new().open();
    let slots = Slots::new(0);
    let slot = slots.take().expect("no limit");
    let opened = tokio::time::Instant::now().into_std();
    let protocol = toy.clone().open(Context { peer: Peer::Unix, identity: None, anonymous: false, opened_ms: 1 }, opened);
    let connection = Connection::new(stream, protocol, session, slot, tracing::Span::none());
    let task = tokio::spawn(connection.slow_consumer_timeout(patience));
    Client { wire, core, toy: toy.clone(), slots, task }
}

impl Client {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timed(self.wire.write_all(bytes.as_ref())).await.expect("the gateway reads");
    }

    /// Exactly these bytes come next.
    pub async fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let mut got = vec![0; bytes.as_ref().len()];
        timed(self.wire.read_exact(&mut got)).await.expect("as many bytes");
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(bytes.as_ref()));
    }

    /// Everything until the gateway closes its direction.
    pub async fn rest(&mut self) -> String {
        let mut got = Vec::new();
        timed(self.wire.read_to_end(&mut got)).await.expect("an end");
        String::from_utf8_lossy(&got).into_owned()
    }

    /// Nothing comes for a while.
    pub async fn silence(&mut self) {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(50), self.wire.read(&mut byte)).await;
        assert!(read.is_err(), "got {read:?} {byte:?}");
    }
}

pub async fn timed<F: std::future::Future>(work: F) -> F::Output {
    tokio::time::timeout(LIMIT, work).await.expect("in time")
}

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
