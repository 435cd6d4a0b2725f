//! The standby's end: takes the log in, writes and syncs it on one thread, redoes it on another, and acks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use journal::storage::Storage;
use journal::{next_batch, Incoming, Lsn, Receiver, Shared};
use tokio::sync::{mpsc, oneshot, Notify};
use tracing::{error, info, warn};

use super::wire::{self, Ack, Hello};
use crate::coordinator::Coordinator;
use crate::house::{Compared, Follows};
use crate::machine::{Late, Machine};
use crate::mutants::{self, Mutant};
use crate::net::{Link, NetError, Reader, Writer};
use crate::status::Status;

/// Frames that wait to be written; the link is not read beyond that.
const WAITING: usize = 64;
/// Bytes that are written before they are synced.
const SYNC_BYTES: usize = 16 << 20;
/// A primary that says nothing for so long within a copy is gone.
const COPY_SILENCE: Duration = Duration::from_secs(30);

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
    /// It has given up its place, and its log ended there.
    HandedOver(Lsn),
    /// What stands here differs from the primary's, in these words.
    Differs(String),
    /// Somebody wants this store replaced by a copy.
    Asked,
    /// The store here failed.
    Failed(String),
}

struct State {
    stop: AtomicBool,
    commit: AtomicU64,
    /// In memory, and on its way to the file.
    received: AtomicU64,
    synced: AtomicU64,
    redone: AtomicU64,
    acks: Notify,
    /// There may be something to redo, or it is time to stop.
    redo: Notify,
    failed: Mutex<Option<String>>,
    compared: Mutex<Compared>,
}

/// A store that follows: two threads, and who feeds them.
pub struct Following<F> {
    state: Arc<State>,
    inbox: mpsc::Sender<Bytes>,
    receiver: oneshot::Receiver<Receiver>,
    follows: oneshot::Receiver<F>,
}

impl<F: Follows> Following<F> {
    pub fn start(machine: &dyn Machine, follows: F, receiver: Receiver) -> std::io::Result<Following<F>> {
        let state = Arc::new(State {
            stop: AtomicBool::new(false),
            commit: AtomicU64::new(0),
            received: AtomicU64::new(receiver.position().lsn.0),
            synced: AtomicU64::new(receiver.synced().0),
            redone: AtomicU64::new(0),
            acks: Notify::new(),
            redo: Notify::new(),
            failed: Mutex::default(),
            compared: Mutex::default(),
        });
        let (inbox, taken) = mpsc::channel(WAITING);
        let (written, back) = oneshot::channel();
        let (redone, follows_back) = oneshot::channel();
        let shared = state.clone();
        machine.thread("ha-write", Box::pin(async move { drop(written.send(write(&shared, receiver, taken).await)) }))?;
        let shared = state.clone();
        machine.thread("ha-redo", Box::pin(async move { drop(redone.send(redo(&shared, follows).await)) }))?;
        Ok(Following { state, inbox, receiver: back, follows: follows_back })
    }

    /// Ends both threads when what has come in is written and synced.
    pub async fn stop(self) -> Result<(F, Receiver), String> {
        let Following { state, inbox, receiver, follows } = self;
        drop(inbox);
        let receiver = receiver.await.map_err(|_| "the thread that writes the log panicked".to_string())?;
        state.stop.store(true, Ordering::Release);
        state.redo.notify_one();
        let follows = follows.await.map_err(|_| "the thread that redoes the log panicked".to_string())?;
        match state.take_failure() {
            Some(why) => Err(why),
            None => Ok((follows, receiver)),
        }
    }

    /// Synced and redone so far.
    fn progress(&self) -> (Lsn, Lsn) {
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

async fn write(state: &State, mut receiver: Receiver, mut inbox: mpsc::Receiver<Bytes>) -> Receiver {
    while let Some(frame) = inbox.recv().await {
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
        // Also where no batch comes with it: the commit point of a reign that is over says nothing.
        if epoch < receiver.promised() && !mutants::active(Mutant::DropEpochCheck) {
            return Err(format!("the log comes from epoch {epoch}, and this node has promised {}", receiver.promised()));
        }
        commit = commit.max(upto.0);
        let len = frame.len();
        let frame: Shared = Arc::new(frame);
        let mut at = wire::LOG_HEAD;
        while at < len {
            let (batch, _) = next_batch(&frame.as_ref().as_ref()[at..]).ok_or("no batch stands in a frame of the log")?;
            let end = at + batch.len();
            receiver.append_shared(epoch, &frame, at..end).map_err(|refused| refused.to_string())?;
            at = end;
        }
        written += len - wire::LOG_HEAD;
        next = if written < SYNC_BYTES { inbox.try_recv().ok() } else { None };
    }
    let synced = if mutants::active(Mutant::AckBeforeSync) {
        receiver.position().lsn
    } else if written > 0 {
        receiver.sync().map_err(|failure| failure.to_string())?
    } else {
        receiver.idle().map_err(|failure| failure.to_string())?;
        receiver.synced()
    };
    state.synced.store(synced.0, Ordering::Release);
    state.commit.fetch_max(commit, Ordering::AcqRel);
    state.acks.notify_one();
    state.redo.notify_one();
    Ok(())
}

async fn redo<F: Follows>(state: &State, mut follows: F) -> F {
    loop {
        let commit = state.commit.load(Ordering::Acquire);
        match follows.redo_up_to(Lsn(commit)) {
            Ok(redone) => state.redone.store(redone.0, Ordering::Release),
            Err(why) => state.fail(why),
        }
        let compared = follows.compared();
        let news = compared.differs.is_some();
        let before = std::mem::replace(&mut *state.compared.lock().unwrap_or_else(PoisonError::into_inner), compared);
        if news && before.differs.is_none() {
            state.acks.notify_one();
        }
        if state.stop.load(Ordering::Acquire) || state.has_failed() {
            return follows;
        }
        follows.maintain();
        // The primary's signs of life come through here as well.
        state.redo.notified().await;
    }
}

/// What holds for one link.
#[derive(Clone, Copy)]
struct Terms {
    epoch: u64,
    /// The primary's confirms wait for what has come in, not for what is synced.
    on_receipt: bool,
    version: u16,
}

/// The standby's end of one link.
pub struct Standby<'a, F> {
    pub machine: Arc<dyn Machine>,
    pub hello: &'a Hello,
    pub following: &'a Following<F>,
    pub status: &'a Status,
    pub storage: Arc<dyn Storage>,
    /// A primary that says nothing for so long is gone.
    pub timeout: Duration,
    /// Whether the link is over when what stands here differs from the primary's.
    pub may_be_replaced: bool,
    /// Said as long as it follows.
    pub complaint: String,
    /// Told what the primary has written, where each node has a register of its own.
    pub coordinator: &'a dyn Coordinator,
}

impl<F: Follows> Standby<'_, F> {
    /// Follows over this link, until it is over.
    pub async fn follow(self, link: Link) -> Followed {
        let version = link.version();
        let (mut reader, mut writer) = link.split();
        let lost = |error: NetError| Followed::Lost(error.to_string());
        if let Err(error) = writer.send(wire::HELLO, &self.hello.encode(version), &[]).await {
            return lost(error);
        }
        let first = loop {
            match self.machine.within(self.timeout, reader.recv()).await {
                Ok(Ok(Some((wire::WAIT, _)))) => {}
                Ok(Ok(Some(frame))) => break frame,
                Ok(Ok(None)) => return Followed::Lost("the primary closed the link".into()),
                Ok(Err(error)) => return lost(error),
                Err(Late) => return Followed::Lost("the primary does not answer".into()),
            }
        };
        let malformed = || Followed::Lost("the primary's answer cannot be read".into());
        match first {
            (wire::WELCOME, body) => match wire::read_welcome(&body) {
                Some((epoch, _)) if epoch < self.hello.promised && !mutants::active(Mutant::DropEpochCheck) => {
                    Followed::Refused(format!("its epoch {epoch} is over: this node has promised {}", self.hello.promised))
                }
                Some((epoch, on_receipt)) => self.take_log(Terms { epoch, on_receipt, version }, &mut reader, &mut writer).await,
                None => malformed(),
            },
            (wire::CUT, body) => wire::read_number(&body).map_or_else(malformed, |lsn| Followed::Cut(Lsn(lsn))),
            (wire::START_OVER, body) => wire::read_cluster(&body).map_or_else(malformed, Followed::StartOver),
            (wire::COPY, body) => {
                let Some(cluster) = wire::read_cluster(&body) else { return malformed() };
                match self.take_copy(&mut reader).await {
                    Ok(incoming) => Followed::Copied(cluster, incoming),
                    Err(why) => Followed::Lost(why),
                }
            }
            (wire::NO, body) => Followed::Refused(String::from_utf8_lossy(&body).into_owned()),
            _ => malformed(),
        }
    }

    async fn take_log(&self, terms: Terms, reader: &mut Reader, writer: &mut Writer) -> Followed {
        info!(epoch = terms.epoch, from = %self.hello.end.lsn, "following the primary");
        // Whatever else kept it before is over.
        self.status.say(&self.complaint);
        tokio::select! {
            biased;
            over = self.take_in(reader, terms) => over,
            over = self.ack(writer, terms) => over,
        }
    }

    async fn take_in(&self, reader: &mut Reader, terms: Terms) -> Followed {
        let following = self.following;
        loop {
            match self.machine.within(self.timeout, reader.recv()).await {
                Ok(Ok(Some((wire::LOG, body)))) => {
                    let bytes = body.len().saturating_sub(wire::LOG_HEAD) as u64;
                    if following.inbox.send(body).await.is_err() {
                        let why = following.state.take_failure().unwrap_or_else(|| "the standby's writer has ended".into());
                        return Followed::Failed(why);
                    }
                    following.state.received.fetch_add(bytes, Ordering::AcqRel);
                    if terms.on_receipt && bytes > 0 {
                        following.state.acks.notify_one();
                    }
                }
                Ok(Ok(Some((wire::REGISTER, body)))) => {
                    if let Err(why) = self.learn(&body, terms.epoch).await {
                        return Followed::Lost(why);
                    }
                }
                Ok(Ok(Some((wire::NO, body)))) => return Followed::Refused(String::from_utf8_lossy(&body).into_owned()),
                Ok(Ok(Some((wire::HANDOVER, body)))) => {
                    let malformed = || Followed::Lost("the primary's good-bye cannot be read".into());
                    return wire::read_number(&body).map_or_else(malformed, |end| Followed::HandedOver(Lsn(end)));
                }
                Ok(Ok(Some((kind, _)))) => return Followed::Lost(format!("the primary sent a frame of kind {kind}")),
                Ok(Ok(None)) => return Followed::Lost("the primary closed the link".into()),
                Ok(Err(error)) => return Followed::Lost(error.to_string()),
                Err(Late) => return Followed::Lost("the primary is silent".into()),
            }
        }
    }

    async fn learn(&self, body: &[u8], epoch: u64) -> Result<(), String> {
        let told = wire::read_register(body).filter(|(_, register)| register.epoch == epoch);
        let (version, register) = told.ok_or("the primary's register cannot be read")?;
        let Some(manual) = self.coordinator.by_hand() else { return Ok(()) };
        self.status.set_register(Some(&(version, register.clone())));
        manual.learn(version, register).await
    }

    async fn ack(&self, writer: &mut Writer, terms: Terms) -> Followed {
        let following = self.following;
        let state = &following.state;
        loop {
            tokio::select! {
                biased;
                () = state.acks.notified() => {}
                () = self.status.copy_is_wanted() => return Followed::Asked,
                () = self.status.place_is_wanted() => {
                    if let Err(error) = writer.send(wire::PLEASE, &[], &[]).await {
                        return Followed::Lost(error.to_string());
                    }
                    continue;
                }
            }
            if state.has_failed() {
                return Followed::Failed(state.take_failure().unwrap_or_default());
            }
            if let Some(what) = self.status.set_compared(&state.compared.lock().unwrap_or_else(PoisonError::into_inner)) {
                if self.may_be_replaced {
                    return Followed::Differs(what);
                }
                error!(what, "what stands here differs from the primary's, again: see `ha status`");
            }
            let (synced, redone) = following.progress();
            self.status.set_progress(synced, redone);
            let received = Lsn(state.received.load(Ordering::Acquire)).max(synced);
            let ack = Ack { epoch: terms.epoch, synced, redone, received };
            if let Err(error) = writer.send(wire::ACK, &ack.encode(terms.version), &[]).await {
                return Followed::Lost(error.to_string());
            }
        }
    }

    /// Writes a copy of the primary's store beside the one that is here.
    async fn take_copy(&self, reader: &mut Reader) -> Result<Incoming, String> {
        let begun = self.machine.now();
        let storage = self.storage.clone();
        let mut incoming =
            self.machine.blocking(move || Incoming::begin(storage)).await?.map_err(|error| format!("no room for a copy: {error}"))?;
        let mut bytes = 0;
        loop {
            let frame = self.machine.within(COPY_SILENCE, reader.recv()).await;
            let (kind, body) = match frame {
                Ok(Ok(Some(frame))) => frame,
                Ok(Ok(None)) => return Err("the link broke within a copy".into()),
                Ok(Err(error)) => return Err(error.to_string()),
                Err(Late) => return Err("the primary is silent within a copy".into()),
            };
            let part = match kind {
                wire::COPY_FILE => Part::File(wire::read_copy_file(&body).ok_or("a file's name cannot be read")?),
                wire::COPY_BYTES => Part::Bytes(body),
                wire::COPY_END => {
                    let seconds = self.machine.now().duration_since(begun).as_secs_f64();
                    info!(bytes, seconds, "the primary's store has been copied");
                    return Ok(incoming);
                }
                kind => return Err(format!("a frame of kind {kind} within a copy")),
            };
            bytes += part.len();
            let written = self.machine.blocking(move || part.write(&mut incoming).map(|()| incoming)).await?;
            incoming = written.map_err(|error| format!("writing a copy: {error}"))?;
        }
    }
}

/// Of a copy.
enum Part {
    File((u64, String)),
    Bytes(Bytes),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Part::File(_) => 0,
            Part::Bytes(bytes) => bytes.len(),
        }
    }

    fn write(self, incoming: &mut Incoming) -> std::io::Result<()> {
        match self {
            Part::File((len, name)) => incoming.file(&name, len),
            Part::Bytes(bytes) => incoming.bytes(&bytes),
        }
    }
}
