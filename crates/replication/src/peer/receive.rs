//! The standby's end: takes the log in, writes and syncs it on one thread, redoes it on another, and acks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use journal::{next_batch, Incoming, Lsn, Receiver};
use tokio::sync::{mpsc, Notify};
use tracing::{info, warn};

use super::wire::{self, Ack, Hello};
use crate::house::Follows;
use crate::net::{Link, NetError, Writer};

/// Frames that wait to be written; the link is not read beyond that.
const WAITING: usize = 64;
/// Bytes that are written before they are synced.
const SYNC_BYTES: usize = 16 << 20;
/// How long redoing rests when nothing comes.
const REST: Duration = Duration::from_millis(50);

/// What the primary said, after which the link is over.
pub enum Followed {
    /// It broke, or the primary was silent for too long.
    Lost(String),
    /// It does not want us, and says why.
    Refused(String),
    /// Our log has a tail that the primary's does not have.
    Cut(Lsn),
    /// Our empty store is to become one of this cluster.
    StartOver(u128),
    /// A copy of the primary's store lies ready and has to be installed.
    Copied(u128, Incoming),
    /// The store here failed.
    Failed(String),
}

struct State {
    stop: AtomicBool,
    /// Of the primary whom we follow.
    epoch: AtomicU64,
    commit: AtomicU64,
    synced: AtomicU64,
    redone: AtomicU64,
    acks: Notify,
    failed: Mutex<Option<String>>,
    redo: (Mutex<u64>, Condvar),
}

/// A store that follows: two threads, and who feeds them.
pub struct Following<F> {
    state: Arc<State>,
    inbox: mpsc::Sender<Bytes>,
    writer: JoinHandle<Receiver>,
    redoer: JoinHandle<F>,
}

impl<F: Follows> Following<F> {
    pub fn start(follows: F, receiver: Receiver) -> std::io::Result<Following<F>> {
        let state = Arc::new(State {
            stop: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            commit: AtomicU64::new(0),
            synced: AtomicU64::new(receiver.synced().0),
            redone: AtomicU64::new(0),
            acks: Notify::new(),
            failed: Mutex::default(),
            redo: Default::default(),
        });
        let (inbox, taken) = mpsc::channel(WAITING);
        let shared = state.clone();
        let writer = std::thread::Builder::new().name("ha-write".into()).spawn(move || write(&shared, receiver, taken))?;
        let shared = state.clone();
        let redoer = std::thread::Builder::new().name("ha-redo".into()).spawn(move || redo(&shared, follows))?;
        Ok(Following { state, inbox, writer, redoer })
    }

    /// Ends both threads when what has come in is written and synced.
    pub fn stop(self) -> Result<(F, Receiver), String> {
        let Following { state, inbox, writer, redoer } = self;
        drop(inbox);
        let receiver = writer.join().map_err(|_| "the thread that writes the log panicked".to_string())?;
        state.stop.store(true, Ordering::Release);
        state.redo.1.notify_all();
        let follows = redoer.join().map_err(|_| "the thread that redoes the log panicked".to_string())?;
        match state.take_failure() {
            Some(why) => Err(why),
            None => Ok((follows, receiver)),
        }
    }

    /// Synced and redone so far.
    pub fn progress(&self) -> (Lsn, Lsn) {
        (Lsn(self.state.synced.load(Ordering::Acquire)), Lsn(self.state.redone.load(Ordering::Acquire)))
    }
}

impl State {
    fn fail(&self, why: String) {
        warn!(%why, "the standby cannot go on");
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.acks.notify_one();
    }

    fn take_failure(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn has_failed(&self) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

fn write(state: &State, mut receiver: Receiver, mut inbox: mpsc::Receiver<Bytes>) -> Receiver {
    while let Some(frame) = inbox.blocking_recv() {
        if state.has_failed() {
            break;
        }
        let result = write_some(state, &mut receiver, frame, &mut inbox);
        if let Err(why) = result {
            state.fail(why);
            break;
        }
    }
    receiver
}

/// Everything that has come, then one sync.
fn write_some(state: &State, receiver: &mut Receiver, first: Bytes, inbox: &mut mpsc::Receiver<Bytes>) -> Result<(), String> {
    let mut next = Some(first);
    let (mut written, mut commit) = (0, 0);
    while let Some(frame) = next {
        let (epoch, upto) = wire::read_log_head(&frame).ok_or("a frame of the log is too short")?;
        commit = commit.max(upto.0);
        let mut rest = &frame[wire::LOG_HEAD..];
        while !rest.is_empty() {
            let (batch, after) = next_batch(rest).ok_or("no batch stands in a frame of the log")?;
            receiver.append(epoch, batch).map_err(|refused| refused.to_string())?;
            rest = after;
        }
        written += frame.len() - wire::LOG_HEAD;
        next = if written < SYNC_BYTES { inbox.try_recv().ok() } else { None };
    }
    let synced = if written > 0 {
        receiver.sync().map_err(|failure| failure.to_string())?
    } else {
        receiver.idle().map_err(|failure| failure.to_string())?;
        receiver.synced()
    };
    state.synced.store(synced.0, Ordering::Release);
    state.commit.fetch_max(commit, Ordering::AcqRel);
    state.acks.notify_one();
    *state.redo.0.lock().unwrap_or_else(PoisonError::into_inner) = commit;
    state.redo.1.notify_one();
    Ok(())
}

fn redo<F: Follows>(state: &State, mut follows: F) -> F {
    let mut seen = 0;
    loop {
        let commit = state.commit.load(Ordering::Acquire);
        match follows.redo_up_to(Lsn(commit)) {
            Ok(redone) => state.redone.store(redone.0, Ordering::Release),
            Err(why) => state.fail(why),
        }
        if state.stop.load(Ordering::Acquire) || state.has_failed() {
            return follows;
        }
        follows.maintain();
        let guard = state.redo.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *guard == seen {
            drop(state.redo.1.wait_timeout(guard, REST));
        } else {
            seen = *guard;
        }
    }
}

/// Follows over one link, until it is over. `silence`: a primary that says nothing for so long is gone.
pub async fn follow<F: Follows>(
    link: Link,
    hello: &Hello,
    following: &Following<F>,
    incoming: impl Fn() -> std::io::Result<Incoming>,
    silence: Duration,
) -> Followed {
    let (mut reader, mut writer) = link.split();
    let lost = |error: NetError| Followed::Lost(error.to_string());
    if let Err(error) = writer.send(wire::HELLO, &hello.encode(), &[]).await {
        return lost(error);
    }
    let first = match tokio::time::timeout(silence.max(Duration::from_secs(30)), reader.recv()).await {
        Ok(Ok(Some(frame))) => frame,
        Ok(Ok(None)) => return Followed::Lost("the primary closed the link".into()),
        Ok(Err(error)) => return lost(error),
        Err(_) => return Followed::Lost("the primary does not answer".into()),
    };
    let malformed = || Followed::Lost("the primary's answer cannot be read".into());
    let epoch = match first {
        (wire::WELCOME, body) => match wire::read_number(&body) {
            Some(epoch) => epoch,
            None => return malformed(),
        },
        (wire::CUT, body) => return wire::read_number(&body).map_or_else(malformed, |lsn| Followed::Cut(Lsn(lsn))),
        (wire::START_OVER, body) => return wire::read_cluster(&body).map_or_else(malformed, Followed::StartOver),
        (wire::COPY, body) => {
            let Some(cluster) = wire::read_cluster(&body) else { return malformed() };
            return match copy(&mut reader, incoming).await {
                Ok(incoming) => Followed::Copied(cluster, incoming),
                Err(why) => Followed::Lost(why),
            };
        }
        (wire::NO, body) => return Followed::Refused(String::from_utf8_lossy(&body).into_owned()),
        _ => return malformed(),
    };
    following.state.epoch.store(epoch, Ordering::Release);
    info!(epoch, from = %hello.end.lsn, "following the primary");
    tokio::select! {
        over = take_in(&mut reader, following, silence) => over,
        over = ack(&mut writer, following, epoch) => over,
    }
}

async fn take_in<F: Follows>(reader: &mut crate::net::Reader, following: &Following<F>, silence: Duration) -> Followed {
    loop {
        match tokio::time::timeout(silence, reader.recv()).await {
            Ok(Ok(Some((wire::LOG, body)))) => {
                if following.inbox.send(body).await.is_err() {
                    let why = following.state.take_failure().unwrap_or_else(|| "the standby's writer has ended".into());
                    return Followed::Failed(why);
                }
            }
            Ok(Ok(Some((wire::NO, body)))) => return Followed::Refused(String::from_utf8_lossy(&body).into_owned()),
            Ok(Ok(Some((kind, _)))) => return Followed::Lost(format!("the primary sent a frame of kind {kind}")),
            Ok(Ok(None)) => return Followed::Lost("the primary closed the link".into()),
            Ok(Err(error)) => return Followed::Lost(error.to_string()),
            Err(_) => return Followed::Lost("the primary is silent".into()),
        }
    }
}

async fn ack<F: Follows>(writer: &mut Writer, following: &Following<F>, epoch: u64) -> Followed {
    let state = &following.state;
    loop {
        state.acks.notified().await;
        if state.has_failed() {
            return Followed::Failed(state.take_failure().unwrap_or_default());
        }
        let (synced, redone) = following.progress();
        if let Err(error) = writer.send(wire::ACK, &Ack { epoch, synced, redone }.encode(), &[]).await {
            return Followed::Lost(error.to_string());
        }
    }
}

/// Writes a copy of the primary's store beside the one that is here.
async fn copy(reader: &mut crate::net::Reader, incoming: impl Fn() -> std::io::Result<Incoming>) -> Result<Incoming, String> {
    let begun = Instant::now();
    let mut incoming = incoming().map_err(|error| format!("no room for a copy: {error}"))?;
    let mut bytes = 0;
    loop {
        let frame = reader.recv().await.map_err(|error| error.to_string())?;
        let written = match frame {
            Some((wire::COPY_FILE, body)) => {
                let (len, name) = wire::read_copy_file(&body).ok_or("a file's name cannot be read")?;
                tokio::task::block_in_place(|| incoming.file(&name, len))
            }
            Some((wire::COPY_BYTES, body)) => {
                bytes += body.len() as u64;
                tokio::task::block_in_place(|| incoming.bytes(&body))
            }
            Some((wire::COPY_END, _)) => {
                info!(bytes, seconds = begun.elapsed().as_secs_f64(), "the primary's store has been copied");
                return Ok(incoming);
            }
            Some((kind, _)) => return Err(format!("a frame of kind {kind} within a copy")),
            None => return Err("the link broke within a copy".into()),
        };
        written.map_err(|error| format!("writing a copy: {error}"))?;
    }
}
