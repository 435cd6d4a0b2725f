//! The primary's end: answers a standby's first frame, ships the log as it is written, and hears how far the standby has it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::num::NonZeroU64;
use std::sync::mpsc::TryRecvError;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use journal::{Copy, CopyFile, Journal, LogReader, Lsn, Meeting, Position};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::pace::Pace;
use super::wire::{self, Ack, Hello};
use crate::coordinator::{Member, NodeName, Register, Version};
use crate::machine::{Late, Machine};
use crate::net::{Link, NetError, Reader, Writer};
use crate::node::StandbyAck;

/// Log bytes in one frame, unless one batch is larger.
const FRAME: usize = 1 << 20;
/// File bytes in one frame of a copy.
const COPY_FRAME: usize = 1 << 20;
/// A sign of life, and the commit point, where nothing else is to be sent.
const BEAT: Duration = Duration::from_millis(40);
/// How long the log behind a copy is kept for the standby that gets it.
const KEEP: Duration = Duration::from_secs(900);
/// A peer that takes nothing in, or says nothing, for so long is gone. It is out of the in-sync set long before.
const STUCK: Duration = Duration::from_secs(10);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const COPY_TIMEOUT: Duration = Duration::from_secs(120);

/// A standby, as far as the primary knows.
#[derive(Clone, Debug)]
pub struct Peer {
    pub member: Member,
    pub synced: Lsn,
    pub redone: Lsn,
    /// At least in its memory.
    pub received: Lsn,
    /// Of its link.
    pub version: u16,
    /// The highest level of the log that it understands.
    pub level: u8,
    pub heard: Instant,
    /// Which link: a later one of the same node replaces it.
    link: u64,
}

type OnAck = Box<dyn Fn() + Send + Sync>;

impl Peer {
    pub fn has(&self, how: StandbyAck) -> Lsn {
        match how {
            StandbyAck::Synced => self.synced,
            StandbyAck::Received => self.received,
        }
    }
}

/// The standbys that are connected.
pub struct Peers {
    pub epoch: u64,
    machine: Arc<dyn Machine>,
    journal: Arc<Journal>,
    known: Mutex<State>,
    /// The log has grown.
    pub written: Notify,
    /// Somebody came or went.
    pub changed: Notify,
    on_ack: OnAck,
    /// A standby asks for this node's place.
    pub wanted: Notify,
    /// This node is primary no more, and the log ended there.
    given_up: OnceLock<Lsn>,
    /// The register as it stands here, for standbys that cannot read it.
    register: Mutex<Option<(Version, Register)>>,
    terms: Terms,
}

/// What holds for every standby.
#[derive(Clone, Copy)]
pub struct Terms {
    pub standby_ack: StandbyAck,
    /// Bytes a second for one that is not in sync.
    pub catch_up: Option<NonZeroU64>,
}

#[derive(Default)]
struct State {
    /// These get the log as it comes.
    in_sync: BTreeSet<NodeName>,
    peers: BTreeMap<NodeName, Peer>,
    links: u64,
    /// Where the log goes on behind a copy that was sent, and since when it is kept.
    kept: Option<(Position, Instant, LogReader)>,
}

impl Peers {
    /// `on_ack` is called on whatever thread hears of progress; it must not block.
    pub fn new(epoch: u64, terms: Terms, machine: Arc<dyn Machine>, journal: Arc<Journal>, on_ack: OnAck) -> Peers {
        Peers {
            epoch,
            machine,
            journal,
            known: Mutex::default(),
            written: Notify::new(),
            changed: Notify::new(),
            on_ack,
            wanted: Notify::new(),
            given_up: OnceLock::new(),
            register: Mutex::default(),
            terms,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the standby that it may stand for this node's place, after which nothing more is sent.
    pub fn give_up(&self, end: Lsn) {
        let _ = self.given_up.set(end);
        self.written.notify_one();
    }

    /// From now on standbys are told of it.
    pub fn tell(&self, version: Version, register: &Register) {
        *self.register.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, register.clone()));
        self.written.notify_one();
    }

    /// If it is another one than this.
    fn news(&self, told: Option<Version>) -> Option<(Version, Vec<u8>)> {
        let register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, register) = register.as_ref().filter(|(version, _)| Some(*version) != told)?;
        Some((*version, wire::register(*version, register)))
    }

    pub fn connected(&self) -> BTreeMap<NodeName, Peer> {
        self.lock().peers.clone()
    }

    /// Up to where it has the log, in the way that is asked for.
    pub fn has(&self, name: &NodeName, how: StandbyAck) -> Option<Lsn> {
        self.lock().peers.get(name).map(|peer| peer.has(how))
    }

    pub fn are_in_sync(&self, names: &BTreeSet<NodeName>) {
        self.lock().in_sync.clone_from(names);
    }

    fn come(&self, name: &NodeName, hello: Hello, version: u16) -> u64 {
        let mut state = self.lock();
        state.links += 1;
        let link = state.links;
        let Hello { member, level, end: Position { lsn: synced, .. }, .. } = hello;
        let peer = Peer { member, level, synced, redone: Lsn(0), received: synced, version, heard: self.machine.now(), link };
        state.peers.insert(name.clone(), peer);
        drop(state);
        self.changed.notify_one();
        link
    }

    fn go(&self, name: &NodeName, link: u64) {
        let mut state = self.lock();
        if state.peers.get(name).is_some_and(|peer| peer.link == link) {
            state.peers.remove(name);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// `false`: another link of this node has taken over.
    fn heard(&self, name: &NodeName, link: u64, ack: Ack) -> bool {
        let mut state = self.lock();
        let Some(peer) = state.peers.get_mut(name).filter(|peer| peer.link == link) else { return false };
        (peer.synced, peer.redone, peer.received, peer.heard) = (ack.synced, ack.redone, ack.received, self.machine.now());
        drop(state);
        (self.on_ack)();
        true
    }

    /// Serves one standby until its link is over.
    pub async fn serve(self: Arc<Self>, link: Link, name: NodeName) {
        let version = link.version();
        let (mut reader, writer) = link.split();
        let pace = Pace::new(self.machine.clone(), self.terms.catch_up);
        let mut sending = Sending { peers: &self, writer, name: &name, version, pace };
        match sending.serve(&mut reader).await {
            Ok(()) => info!(peer = %name, "the standby has closed its link"),
            Err(error) => info!(peer = %name, %error, "the link to the standby is over"),
        }
    }

    fn take_kept(&self, end: Position) -> Option<LogReader> {
        let mut state = self.lock();
        let fits = state.kept.as_ref().is_some_and(|(at, ..)| (at.lsn, at.chain) == (end.lsn, end.chain));
        state.kept.take_if(|_| fits).map(|(_, _, log)| log)
    }

    /// The log from there on stays readable for the standby that has the copy, for a while.
    fn keep(self: &Arc<Self>, end: Position, rest: LogReader) {
        let since = self.machine.now();
        self.lock().kept = Some((end, since, rest));
        let (weak, machine) = (Arc::downgrade(self), self.machine.clone());
        self.machine.spawn(Box::pin(async move {
            loop {
                machine.sleep(Duration::from_secs(1)).await;
                let Some(peers) = weak.upgrade() else { return };
                let mut state = peers.lock();
                let Some((_, _, log)) = state.kept.as_mut().filter(|(_, begun, _)| *begun == since) else { return };
                log.pin();
                if machine.now().duration_since(since) > KEEP {
                    warn!("nobody came for the log behind a copy; it is not kept any longer");
                    state.kept = None;
                    return;
                }
            }
        }));
    }
}

/// The primary's end of one link.
struct Sending<'a> {
    peers: &'a Arc<Peers>,
    writer: Writer,
    name: &'a NodeName,
    version: u16,
    pace: Pace,
}

impl Sending<'_> {
    /// A peer that takes nothing in for [`STUCK`] is gone.
    async fn send(&mut self, kind: u8, head: &[u8], body: &[u8]) -> Result<(), NetError> {
        let sent = self.peers.machine.within(STUCK, self.writer.send(kind, head, body)).await;
        sent.unwrap_or(Err(NetError::Stuck(STUCK)))
    }

    async fn refuse(&mut self, why: &str) -> Result<(), NetError> {
        self.send(wire::NO, why.as_bytes(), &[]).await
    }

    /// Waits for what takes its time, and says so to the peer meanwhile.
    async fn patiently<T>(&mut self, work: impl Future<Output = T>) -> Result<T, NetError> {
        let mut work = std::pin::pin!(work);
        let machine = self.peers.machine.clone();
        loop {
            match machine.within(BEAT, work.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(Late) => self.send(wire::WAIT, &[], &[]).await?,
            }
        }
    }

    async fn serve(&mut self, reader: &mut Reader) -> Result<(), NetError> {
        let peers = self.peers;
        let first = peers.machine.within(HELLO_TIMEOUT, reader.recv()).await;
        let Ok(Ok(Some((wire::HELLO, body)))) = first else { return Ok(()) };
        let Some(hello) = Hello::decode(&body) else { return self.refuse("the first frame cannot be read").await };
        if hello.promised > peers.epoch {
            let text = format!("epoch {} is over: you have promised {}", peers.epoch, hello.promised);
            return self.refuse(&text).await;
        }
        let level = peers.journal.level();
        if hello.level < level {
            let text = format!(
                "the log is of level {level} by now, and your program understands levels up to {}: run a later version",
                hello.level
            );
            return self.refuse(&text).await;
        }
        let cluster = peers.journal.cluster();
        if hello.cluster != cluster {
            if hello.end.lsn == Lsn(0) {
                return self.send(wire::START_OVER, &cluster.to_le_bytes(), &[]).await;
            }
            return self.refuse("your store belongs to another cluster; empty its data directory if it is to be replaced").await;
        }
        let (journal, end) = (peers.journal.clone(), hello.end);
        let meeting = self.patiently(peers.machine.blocking(move || journal.meet(end))).await?;
        let log = match meeting.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(Meeting::From(log)) => log,
            Ok(Meeting::Cut(to)) => return self.send(wire::CUT, &wire::number(to.0), &[]).await,
            Ok(Meeting::TooOld) => match peers.take_kept(hello.end) {
                Some(log) => log,
                None => return self.copy().await,
            },
            Err(error) => return self.refuse(&format!("the log cannot be read: {error}")).await,
        };
        let on_receipt = peers.terms.standby_ack == StandbyAck::Received;
        self.send(wire::WELCOME, &wire::welcome(peers.epoch, on_receipt, self.version), &[]).await?;
        info!(peer = %self.name, from = %hello.end.lsn, "a standby follows");
        let name = self.name;
        let link = peers.come(name, hello, self.version);
        let over = tokio::select! {
            biased;
            over = hear(reader, name, link, peers) => over,
            over = self.ship(log) => over,
        };
        peers.go(name, link);
        over
    }

    async fn ship(&mut self, mut log: LogReader) -> Result<(), NetError> {
        let peers = self.peers;
        let mut told = None;
        loop {
            if let Some((version, body)) = peers.news(told) {
                self.send(wire::REGISTER, &body, &[]).await?;
                told = Some(version);
            }
            let grown = peers.written.notified();
            let piece = self.wait_for_turn(true).await?;
            let batches = match log.next(piece)? {
                [] => {
                    let _ = peers.machine.within(BEAT, grown).await;
                    // What has come since goes out; without any it is a sign of life, with the commit point.
                    log.next(piece)?
                }
                batches => batches,
            };
            let commit = peers.journal.committed_lsn();
            self.pace.took(batches.len());
            self.send(wire::LOG, &wire::log_head(peers.epoch, commit), batches).await?;
            if let Some(end) = peers.given_up.get() {
                self.send(wire::HANDOVER, &wire::number(end.0), &[]).await?;
                // The standby ends the link.
                return std::future::pending().await;
            }
        }
    }

    /// A standby that is not in sync gets so much a second and no more. Answers how much to send next, about.
    async fn wait_for_turn(&mut self, beats: bool) -> Result<usize, NetError> {
        let peers = self.peers;
        loop {
            if peers.lock().in_sync.contains(self.name) {
                return Ok(FRAME);
            }
            let owed = self.pace.owed();
            if owed.is_zero() {
                return Ok(self.pace.piece(FRAME));
            }
            peers.machine.sleep(owed.min(BEAT)).await;
            if beats && owed > BEAT {
                self.send(wire::LOG, &wire::log_head(peers.epoch, peers.journal.committed_lsn()), &[]).await?;
            }
        }
    }

    /// Sends the files of a copy. The standby installs it and comes again.
    async fn copy(&mut self) -> Result<(), NetError> {
        let peers = self.peers;
        let begun = peers.machine.now();
        let Some(made) = self.make_copy().await? else { return self.refuse("no copy can be made now").await };
        let Copy { cluster, files, end, mut rest, .. } = match made {
            Ok(copy) => copy,
            Err(error) => return self.refuse(&format!("no copy can be made: {error}")).await,
        };
        let bytes: u64 = files.iter().map(|file| file.len).sum();
        info!(peer = %self.name, bytes, files = files.len(), "a standby gets a copy of the store");
        self.send(wire::COPY, &cluster.to_le_bytes(), &[]).await?;
        for file in files {
            self.send(wire::COPY_FILE, &wire::copy_file(&file.name, file.len), &[]).await?;
            let file = Arc::new(file);
            let mut at = 0;
            loop {
                let read = self.read(&file, at).await?;
                if read.is_empty() {
                    break;
                }
                self.wait_for_turn(false).await?;
                self.pace.took(read.len());
                self.send(wire::COPY_BYTES, &read, &[]).await?;
                at += read.len() as u64;
                // What is written meanwhile must not be cleared away before it is sent.
                rest.pin();
            }
        }
        peers.keep(end, rest);
        self.send(wire::COPY_END, &[], &[]).await?;
        info!(peer = %self.name, seconds = peers.machine.now().duration_since(begun).as_secs_f64(), "the copy is sent");
        Ok(())
    }

    /// `None`: the journal did not come to it in time.
    async fn make_copy(&mut self) -> Result<Option<io::Result<Copy>>, NetError> {
        let asked = self.peers.journal.copy();
        let machine = self.peers.machine.clone();
        let waiting = async move {
            let begun = machine.now();
            loop {
                match asked.try_recv() {
                    Ok(copy) => return Some(copy),
                    Err(TryRecvError::Empty) if machine.now().duration_since(begun) < COPY_TIMEOUT => machine.sleep(BEAT / 4).await,
                    Err(_) => return None,
                }
            }
        };
        self.patiently(waiting).await
    }

    async fn read(&mut self, file: &Arc<CopyFile>, at: u64) -> Result<Vec<u8>, NetError> {
        let file = file.clone();
        let work = move || {
            let mut bytes = vec![0; COPY_FRAME];
            let read = file.read_at(&mut bytes, at)?;
            bytes.truncate(read);
            Ok(bytes)
        };
        let read = self.peers.machine.blocking(work).await;
        read.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(NetError::Io)
    }
}

async fn hear(reader: &mut Reader, name: &NodeName, link: u64, peers: &Peers) -> Result<(), NetError> {
    loop {
        // Each sign of life of ours is answered by an ack.
        let Ok(frame) = peers.machine.within(STUCK, reader.recv()).await else { return Err(NetError::Stuck(STUCK)) };
        let Some((kind, body)) = frame? else { return Ok(()) };
        if kind == wire::PLEASE {
            info!(peer = %name, "the standby asks to be primary");
            peers.wanted.notify_one();
            continue;
        }
        let ack = Ack::decode(&body).filter(|ack| kind == wire::ACK && ack.epoch == peers.epoch);
        let Some(ack) = ack else { return Ok(()) };
        if !peers.heard(name, link, ack) {
            return Ok(());
        }
    }
}
