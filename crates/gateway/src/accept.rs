//! The accept loops, and the handle that `server` holds.

use crate::listener::{Bound, Listening, SocketFile};
use crate::opening::{Caller, Openings};
use crate::slots::{Slot, Slots};
use crate::timer::now;
use crate::{Config, Connection, Service, Spoken, Transport, TurnedAway};
use broker_api::{Broker, ConnectionInfo, Context, CoreSession, Limit, Peer, Protocol, Refusal};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tracing::{debug, debug_span, info, warn};
use websocket::{GOING_AWAY, SERVICE_RESTART};

/// How long a listener rests when descriptors have run out; a closing connection ends the rest early.
const PAUSE: Duration = Duration::from_secs(1);

/// Descriptors that connections leave to others, or a fourth of all where these are few.
const SPARE: u64 = 512;

/// All listeners and their connections. Lives inside a tokio runtime.
pub struct Gateway {
    config: Config,
    broker: Arc<dyn Broker>,
    slots: Arc<Slots>,
    listeners: Vec<JoinHandle<()>>,
    openings: Arc<Openings>,
    descriptors: u64,
}

impl Gateway {
    pub fn new(config: Config, broker: Arc<dyn Broker>) -> Gateway {
        let slots = Slots::new(config.max_connections);
        let openings = Openings::new(config.max_handshakes);
        Gateway { config, broker, slots, listeners: Vec::new(), openings, descriptors: for_connections() }
    }

    /// Accepts from now on. To be called within the runtime that will carry the connections.
    pub fn listen(&mut self, bound: Bound, service: Service) -> io::Result<()> {
        let patience = u64::from(self.config.slow_consumer_timeout_secs);
        let patience = (patience > 0).then(|| Duration::from_secs(patience));
        let (broker, slots, url) = (self.broker.clone(), self.slots.clone(), bound.url.to_string());
        let handshake = Duration::from_secs(u64::from(self.config.handshake_timeout_secs));
        let door = Arc::new(Door {
            service,
            broker,
            slots,
            url,
            patience,
            handshake,
            openings: self.openings.clone(),
            descriptors: self.descriptors,
        });
        let task = match bound.socket {
            Listening::Tcp(socket) => tokio::spawn(accept_tcp(TcpListener::from_std(socket)?, door)),
            Listening::Unix(socket, file) => tokio::spawn(accept_unix(UnixListener::from_std(socket)?, file, door)),
        };
        self.listeners.push(task);
        Ok(())
    }

    /// Connections and their counters.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Closes the listeners; connections stay, except those that have not said what they speak. `moved`: another node takes clients in.
    pub async fn stop_accepting(&mut self, moved: bool) {
        for task in self.listeners.drain(..) {
            task.abort();
            let _ = task.await;
        }
        self.slots.ending().store(if moved { SERVICE_RESTART } else { GOING_AWAY }, Release);
        self.openings.end_all();
    }

    /// Waits until the connections have closed, for at most the configured time; how many are left. The core has told the sessions.
    pub async fn drained(&self) -> usize {
        self.slots.all_closed(Duration::from_secs(u64::from(self.config.shutdown_secs))).await
    }
}

/// What a connection needs when it comes in.
pub(crate) struct Door {
    pub service: Service,
    broker: Arc<dyn Broker>,
    slots: Arc<Slots>,
    pub url: String,
    /// With clients that do not read.
    patience: Option<Duration>,
    /// With clients until they have a session: TLS, and what they speak.
    pub handshake: Duration,
    openings: Arc<Openings>,
    /// A connection whose descriptor is not below this one is the last for now.
    descriptors: u64,
}

impl Door {
    /// Set when the process goes down.
    pub(crate) fn ending(&self) -> Arc<AtomicU16> {
        self.slots.ending().clone()
    }

    /// A client has connected: it gets its session at once, or after what the listener has in front of it.
    async fn admit(self: &Arc<Door>, stream: Transport, peer: Peer, slot: Slot) {
        match &self.service.spoken {
            Spoken::One(protocol) if self.service.front.is_nothing() => {
                let caller = Caller { peer, identity: None };
                if let Ok(core) = self.connect(protocol, &caller, &slot) {
                    self.seat(protocol, core, stream, caller, slot);
                }
            }
            _ => self.openings.begin(self, stream, peer, slot).await,
        }
    }

    /// A place in the core, unless it says no. Who is one too many gets past nobody, and is told so when he has introduced himself.
    pub fn connect(&self, protocol: &Arc<dyn Protocol>, caller: &Caller, slot: &Slot) -> Result<Box<dyn CoreSession>, Refusal> {
        if slot.is_over() {
            return Ok(Box::new(TurnedAway::new(self.full(), self.broker.now_ms())));
        }
        let info = ConnectionInfo {
            peer: caller.peer.clone(),

            identity: caller.identity.clone(),
            protocol: protocol.name(),
            vhost: self.service.vhost.clone(),
            allow_anonymous: self.service.allow_anonymous,
        };
        self.broker.connect(info).inspect_err(|refusal| info!(peer = %caller.peer, %refusal, "connection refused"))
    }

    /// Whether clients are served here at all, and this one.
    pub fn serves(&self, slot: &Slot) -> Result<(), Refusal> {
        match slot.is_over() {
            true => Err(self.full()),
            false => self.broker.serves(),
        }
    }

    /// RabbitMQ's words.
    fn full(&self) -> Refusal {
        let why = format!("connection refused: node connection limit ({}) is reached", self.slots.max());
        Refusal::OverLimit { limit: Limit::Connections, why }
    }

    /// From here on the connection is its session's.
    pub fn seat(&self, protocol: &Arc<dyn Protocol>, core: Box<dyn CoreSession>, stream: Transport, caller: Caller, slot: Slot) {
        let Caller { peer, identity } = caller;
        let span = debug_span!("conn", conn = slot.number(), %peer, protocol = protocol.name(), vhost = %self.service.vhost);
        let anonymous = self.service.allow_anonymous || self.broker.trusts_anonymous(&peer);
        let session = protocol.clone().open(Context { peer, identity, anonymous, opened_ms: self.broker.now_ms() }, now());
        span.in_scope(|| debug!("connection accepted"));
        tokio::spawn(Connection::new(stream, session, core, slot, span).slow_consumer_timeout(self.patience));
    }
}

async fn accept_tcp(listener: TcpListener, door: Arc<Door>) {
    let mut health = Health::default();
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let Some(slot) = health.accepted(&door) else { continue };
                let newest = stream.as_raw_fd();
                // Inherited from the listener on Linux; said again where it is not.
                let _ = stream.set_nodelay(true);
                door.admit(stream.into(), Peer::Tcp(address), slot).await;
                health.leave_some(newest, &door).await;
            }
            Err(error) => health.failed(&error, &door).await,
        }
    }
}

async fn accept_unix(listener: UnixListener, _file: SocketFile, door: Arc<Door>) {
    let mut health = Health::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Some(slot) = health.accepted(&door) else { continue };
                let newest = stream.as_raw_fd();
                door.admit(stream.into(), Peer::Unix, slot).await;
                health.leave_some(newest, &door).await;
            }
            Err(error) => health.failed(&error, &door).await,
        }
    }
}

/// What a listener has said about its troubles, so that it says each once.
#[derive(Default)]
struct Health {
    paused: bool,
    full: bool,
}

impl Health {
    fn accepted(&mut self, door: &Door) -> Option<Slot> {
        if std::mem::take(&mut self.paused) {
            info!(listener = %door.url, "accepting again");
        }
        let slot = door.slots.take();
        let full = slot.as_ref().is_none_or(Slot::is_over);
        if full && !self.full {
            warn!(listener = %door.url, max = door.slots.max(), "max_connections reached: turning new connections away");
        }
        self.full = full;
        slot
    }

    async fn failed(&mut self, error: &io::Error, door: &Door) {
        if !is_exhaustion(error) {
            // The peer gave up while it waited in the queue, or the network did.
            debug!(listener = %door.url, %error, "a connection was lost before it was accepted");
            tokio::task::yield_now().await;
            return;
        }
        self.pause(door, error);
        door.slots.one_closed(PAUSE).await;
    }

    fn pause(&mut self, door: &Door, why: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.paused, true) {
            door.slots.stats.accept_pauses.fetch_add(1, Relaxed);
            warn!(
                listener = %door.url, %why, connections = door.slots.live(),
                "out of descriptors or memory: new connections wait until others close; raise the limit (ulimit -n, LimitNOFILE)"
            );
        }
    }

    /// The store and whatever else this process opens have some descriptors for themselves: without them the log could not go on. Each new one is
    /// the lowest that is free, so a high one says that few are left.
    async fn leave_some(&mut self, newest: RawFd, door: &Door) {
        let mut newest = Some(newest);
        while newest.is_none_or(|newest| newest as u64 >= door.descriptors) {
            self.pause(door, &"few are left, and the store keeps those");
            door.slots.one_closed(PAUSE).await;
            newest = File::open("/dev/null").map(|probe| probe.as_raw_fd()).ok();
        }
    }
}

/// How many descriptors connections may have.
fn for_connections() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    limit - (limit / 4).min(SPARE)
}

fn is_exhaustion(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| exhausted.iter().any(|errno| errno.raw_os_error() == code))
}
