//! The primary's end: answers a standby's first frame, ships the log as it is written, and hears how far the standby has it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use journal::{Copy, Journal, LogReader, Lsn, Meeting, Position};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::wire::{self, Ack, Hello};
use crate::coordinator::{Member, NodeName};
use crate::house::Leads;
use crate::net::{Link, NetError, Reader, Writer};

/// Log bytes in one frame, unless one batch is larger.
const FRAME: usize = 1 << 20;
/// File bytes in one frame of a copy.
const COPY_FRAME: usize = 1 << 20;
/// A sign of life, and the commit point, where nothing else is to be sent.
const BEAT: Duration = Duration::from_millis(40);
/// How long the log behind a copy is kept for the standby that gets it.
const KEEP: Duration = Duration::from_secs(900);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const COPY_TIMEOUT: Duration = Duration::from_secs(120);

/// A standby, as far as the primary knows.
#[derive(Clone, Debug)]
pub struct Peer {
    pub member: Member,
    pub synced: Lsn,
    pub redone: Lsn,
    pub heard: Instant,
    /// Which link: a later one of the same node replaces it.
    link: u64,
}

/// The standbys that are connected.
pub struct Peers {
    pub epoch: u64,
    leads: Arc<dyn Leads>,
    known: Mutex<State>,
    /// The log has grown.
    pub written: Notify,
    /// An ack came, or somebody came or went.
    pub changed: Notify,
    on_ack: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeName, Peer>,
    links: u64,
    /// Where the log goes on behind a copy that was sent.
    kept: Option<(Position, Instant, LogReader)>,
}

impl Peers {
    /// `on_ack` is called on whatever thread hears of progress; it must not block.
    pub fn new(epoch: u64, leads: Arc<dyn Leads>, on_ack: Box<dyn Fn() + Send + Sync>) -> Peers {
        Peers { epoch, leads, known: Mutex::default(), written: Notify::new(), changed: Notify::new(), on_ack }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn connected(&self) -> BTreeMap<NodeName, Peer> {
        self.lock().peers.clone()
    }

    pub fn synced(&self, name: &NodeName) -> Option<Lsn> {
        self.lock().peers.get(name).map(|peer| peer.synced)
    }

    fn ask<R>(&self, mut of: impl FnMut(&Journal) -> R) -> R {
        let mut answer = None;
        self.leads.with_journal(&mut |journal| answer = Some(of(journal)));
        answer.expect("it calls what it is given")
    }

    fn come(&self, name: &NodeName, member: Member, synced: Lsn) -> u64 {
        let mut state = self.lock();
        state.links += 1;
        let link = state.links;
        let peer = Peer { member, synced, redone: Lsn(0), heard: Instant::now(), link };
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
        (peer.synced, peer.redone, peer.heard) = (ack.synced, ack.redone, Instant::now());
        drop(state);
        (self.on_ack)();
        self.changed.notify_one();
        true
    }
}

/// Serves one standby until its link is over.
pub async fn serve(link: Link, name: NodeName, peers: Arc<Peers>) {
    match serve_link(link, &name, &peers).await {
        Ok(()) => info!(peer = %name, "the standby has closed its link"),
        Err(error) => info!(peer = %name, %error, "the link to the standby is over"),
    }
}

async fn serve_link(link: Link, name: &NodeName, peers: &Arc<Peers>) -> Result<(), NetError> {
    let (mut reader, mut writer) = link.split();
    let first = tokio::time::timeout(HELLO_TIMEOUT, reader.recv()).await;
    let Ok(Ok(Some((wire::HELLO, body)))) = first else { return Ok(()) };
    let Some(hello) = Hello::decode(&body) else { return refuse(&mut writer, "the first frame cannot be read").await };
    if hello.promised > peers.epoch {
        let text = format!("epoch {} is over: you have promised {}", peers.epoch, hello.promised);
        return refuse(&mut writer, &text).await;
    }
    let cluster = peers.ask(Journal::cluster);
    if hello.cluster != cluster {
        if hello.end.lsn == Lsn(0) {
            return writer.send(wire::START_OVER, &cluster.to_le_bytes(), &[]).await;
        }
        return refuse(&mut writer, "your store belongs to another cluster; empty its data directory if it is to be replaced").await;
    }
    let meeting = tokio::task::block_in_place(|| peers.ask(|journal| journal.meet(hello.end)));
    let log = match meeting {
        Ok(Meeting::From(log)) => log,
        Ok(Meeting::Cut(to)) => return writer.send(wire::CUT, &wire::number(to.0), &[]).await,
        Ok(Meeting::TooOld) => match take_kept(peers, hello.end) {
            Some(log) => log,
            None => return send_copy(&mut writer, name, peers).await,
        },
        Err(error) => return refuse(&mut writer, &format!("the log cannot be read: {error}")).await,
    };
    writer.send(wire::WELCOME, &wire::number(peers.epoch), &[]).await?;
    info!(peer = %name, from = %hello.end.lsn, "a standby follows");
    let link = peers.come(name, hello.member, hello.end.lsn);
    let over = tokio::select! {
        over = ship(&mut writer, log, peers) => over,
        over = hear(&mut reader, name, link, peers) => over,
    };
    peers.go(name, link);
    over
}

async fn refuse(writer: &mut Writer, why: &str) -> Result<(), NetError> {
    writer.send(wire::NO, why.as_bytes(), &[]).await
}

fn take_kept(peers: &Peers, end: Position) -> Option<LogReader> {
    let mut state = peers.lock();
    let fits = state.kept.as_ref().is_some_and(|(at, _, _)| (at.lsn, at.chain) == (end.lsn, end.chain));
    if fits {
        state.kept.take().map(|(_, _, log)| log)
    } else {
        None
    }
}

async fn ship(writer: &mut Writer, mut log: LogReader, peers: &Peers) -> Result<(), NetError> {
    let mut bytes = Vec::with_capacity(64 << 10);
    loop {
        let grown = peers.written.notified();
        bytes.clear();
        let read = log.read(&mut bytes, FRAME).map_err(|error| NetError::Io(std::io::Error::new(error.kind(), error.to_string())))?;
        if !read {
            let _ = tokio::time::timeout(BEAT, grown).await;
            // What has come since goes out with the next round; a sign of life does no harm.
            log.read(&mut bytes, FRAME).map_err(|error| NetError::Io(std::io::Error::new(error.kind(), error.to_string())))?;
        }
        let commit = peers.ask(Journal::committed_lsn);
        writer.send(wire::LOG, &wire::log_head(peers.epoch, commit), &bytes).await?;
        if bytes.capacity() > 8 * FRAME {
            bytes = Vec::new();
        }
    }
}

async fn hear(reader: &mut Reader, name: &NodeName, link: u64, peers: &Peers) -> Result<(), NetError> {
    while let Some((kind, body)) = reader.recv().await? {
        let ack = Ack::decode(&body).filter(|ack| kind == wire::ACK && ack.epoch == peers.epoch);
        let Some(ack) = ack else { break };
        if !peers.heard(name, link, ack) {
            break;
        }
    }
    Ok(())
}

/// Sends the files of a copy. The standby installs it and comes again.
async fn send_copy(writer: &mut Writer, name: &NodeName, peers: &Arc<Peers>) -> Result<(), NetError> {
    let begun = Instant::now();
    let asked = peers.ask(Journal::copy);
    let made = tokio::task::spawn_blocking(move || asked.recv_timeout(COPY_TIMEOUT)).await;
    let copy = match made {
        Ok(Ok(Ok(copy))) => copy,
        Ok(Ok(Err(error))) => return refuse(writer, &format!("no copy can be made: {error}")).await,
        _ => return refuse(writer, "no copy can be made now").await,
    };
    info!(peer = %name, bytes = copy.bytes(), files = copy.files.len(), "a standby gets a copy of the store");
    writer.send(wire::COPY, &copy.cluster.to_le_bytes(), &[]).await?;
    let mut bytes = vec![0; COPY_FRAME];
    for file in &copy.files {
        writer.send(wire::COPY_FILE, &wire::copy_file(&file.name, file.len), &[]).await?;
        let mut at = 0;
        loop {
            let read = tokio::task::block_in_place(|| file.read_at(&mut bytes, at));
            let read = read.map_err(NetError::Io)?;
            if read == 0 {
                break;
            }
            writer.send(wire::COPY_BYTES, &bytes[..read], &[]).await?;
            at += read as u64;
        }
    }
    keep(peers, copy);
    writer.send(wire::COPY_END, &[], &[]).await?;
    info!(peer = %name, seconds = begun.elapsed().as_secs_f64(), "the copy is sent");
    Ok(())
}

fn keep(peers: &Arc<Peers>, copy: Copy) {
    let Copy { end, rest, .. } = copy;
    let since = Instant::now();
    peers.lock().kept = Some((end, since, rest));
    let weak = Arc::downgrade(peers);
    tokio::spawn(async move {
        tokio::time::sleep(KEEP).await;
        let Some(peers) = weak.upgrade() else { return };
        let mut state = peers.lock();
        if state.kept.as_ref().is_some_and(|(_, begun, _)| *begun == since) {
            warn!("nobody came for the log behind a copy; it is not kept any longer");
            state.kept = None;
        }
    });
}
