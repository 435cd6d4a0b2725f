//! The store, as openraft asks for it.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, BasicNode, EntryPayload, ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder,
    Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership, Vote,
};

use super::store::Store;
use super::types::{Answer, Entry, State, Types};

type Outcome<T> = Result<T, StorageError<u64>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The log and the vote. Cheap to clone.
#[derive(Clone)]
pub struct Log(pub Arc<Mutex<Store>>);

/// The register in memory. Cheap to clone.
#[derive(Clone)]
pub struct Machine {
    state: Arc<Mutex<State>>,
    store: Arc<Mutex<Store>>,
}

impl Machine {
    /// As the last snapshot has it; what was committed since is applied again.
    pub fn new(store: Arc<Mutex<Store>>) -> Self {
        let state = lock(&store).memory.snapshot.clone().map(|(_, state)| state).unwrap_or_default();
        Self { state: Arc::new(Mutex::new(state)), store }
    }

    pub fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.state))
    }
}

fn failed(error: io::Error) -> StorageError<u64> {
    StorageIOError::new(ErrorSubject::Store, ErrorVerb::Write, AnyError::new(&error)).into()
}

/// Waits for the disk away from the threads that serve connections.
async fn on_disk(store: &Arc<Mutex<Store>>, work: impl FnOnce(&mut Store) -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let store = store.clone();
    tokio::task::spawn_blocking(move || work(&mut lock(&store))).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(&mut self, range: R) -> Outcome<Vec<Entry>> {
        Ok(lock(&self.0).memory.log.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Outcome<LogState<Types>> {
        let store = lock(&self.0);
        Ok(LogState { last_purged_log_id: store.memory.purged, last_log_id: store.memory.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Outcome<()> {
        let vote = *vote;
        on_disk(&self.0, move |store| store.save_vote(vote)).await.map_err(failed)
    }

    async fn read_vote(&mut self) -> Outcome<Option<Vote<u64>>> {
        Ok(lock(&self.0).memory.vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Outcome<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        match on_disk(&self.0, move |store| store.append(entries)).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(io::Error::new(error.kind(), error.to_string())));
                Err(failed(error))
            }
        }
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Outcome<()> {
        on_disk(&self.0, move |store| store.truncate(from.index)).await.map_err(failed)
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Outcome<()> {
        on_disk(&self.0, move |store| store.purge(upto)).await.map_err(failed)
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Outcome<Snapshot<Types>> {
        let state = lock(&self.state).clone();
        let index = state.applied.map_or(0, |applied| applied.index);
        let meta = SnapshotMeta { last_log_id: state.applied, last_membership: state.membership.clone(), snapshot_id: index.to_string() };
        let (kept, saved) = (meta.clone(), state.clone());
        on_disk(&self.store, move |store| store.save_snapshot(kept, saved)).await.map_err(failed)?;
        Ok(Snapshot { meta, snapshot: Box::new(state) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Outcome<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        let state = lock(&self.state);
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Outcome<Vec<Answer>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = lock(&self.state);
        let mut answers = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Answer::default(),
                EntryPayload::Normal(command) => state.apply(&command),
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Answer::default()
                }
            });
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Outcome<Box<State>> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta<u64, BasicNode>, snapshot: Box<State>) -> Outcome<()> {
        let (meta, state) = (meta.clone(), (*snapshot).clone());
        on_disk(&self.store, move |store| store.save_snapshot(meta, state)).await.map_err(failed)?;
        *lock(&self.state) = *snapshot;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Outcome<Option<Snapshot<Types>>> {
        let snapshot = lock(&self.store).memory.snapshot.clone();
        Ok(snapshot.map(|(meta, state)| Snapshot { meta, snapshot: Box::new(state) }))
    }
}
