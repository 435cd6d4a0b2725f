//! A simulated disk and clock, for this crate's tests and those of the crates above.
//!
//! [`SimStorage`] keeps what was written and what was synced. A [`Crash::Kill`] loses nothing (the page cache survives a process); a
//! [`Crash::PowerCut`] keeps of the unsynced bytes each 512-byte sector at random, and of the unsynced names (create, rename, remove without a
//! directory sync) each change at random. A failed sync marks the bytes clean without writing them, as ext4 does, so that a second sync
//! reports success over lost data. Everything follows from the seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::storage::{File, Lock, Storage};

const SECTOR: usize = 512;

/// xorshift: good enough to choose faults, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng((seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.draw() >> 11) % bound.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A clock that moves when told to.
#[derive(Default)]
pub struct SimClock {
    pub wall_ms: AtomicU64,
    pub boot_ns: AtomicU64,
}

impl SimClock {
    pub fn pass_ms(&self, ms: u64) {
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
        self.boot_ns.fetch_add(ms * 1_000_000, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Relaxed)
    }

    fn boot_ns(&self) -> u64 {
        self.boot_ns.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process dies; the page cache lives.
    Kill,
    /// The machine dies; only what was synced is sure.
    PowerCut,
}

/// What has been injected so far. A rig in which one of these stays 0 has not tested it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Injected {
    pub kills: u64,
    pub power_cuts: u64,
    /// Sectors that a power cut took back.
    pub sectors_lost: u64,
    pub sectors_kept: u64,
    pub names_lost: u64,
    pub sync_errors: u64,
    pub write_errors: u64,
    pub full: u64,
    pub stalls: u64,
    /// Operations refused because the crash point had passed.
    pub cut_short: u64,
}

#[derive(Clone)]
pub struct SimStorage {
    state: Arc<Mutex<State>>,
    clock: Arc<SimClock>,
}

struct State {
    rng: Rng,
    inodes: HashMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    /// Name changes since the last sync of their directory, in order.
    changes: Vec<NameChange>,
    locked: BTreeSet<String>,
    budget: u64,
    crash_after: Option<u64>,
    sync_errors: u64,
    write_errors: u64,
    stalls: u64,
    injected: Injected,
    /// Handles of before a crash must not touch the disk of after it.
    life: u64,
}

#[derive(Default, Clone)]
struct Inode {
    written: Vec<u8>,
    synced: Vec<u8>,
    dirty: BTreeSet<u32>,
}

enum NameChange {
    Link { dir: String, name: String, inode: u64 },
    Unlink { dir: String, name: String },
    Rename { dir: String, from: String, to: String, inode: u64 },
}

impl NameChange {
    fn dir(&self) -> &str {
        match self {
            NameChange::Link { dir, .. } | NameChange::Unlink { dir, .. } | NameChange::Rename { dir, .. } => dir,
        }
    }

    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link { name, inode, .. } => drop(names.insert(name, inode)),
            NameChange::Unlink { name, .. } => drop(names.remove(&name)),
            NameChange::Rename { from, to, inode, .. } => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }
}

fn dir_of(path: &str) -> String {
    path.rsplit_once('/').map_or(String::new(), |(dir, _)| dir.to_string())
}

fn eio(what: &str) -> io::Error {
    io::Error::other(format!("simulated: {what}"))
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

impl SimStorage {
    pub fn new(seed: u64) -> SimStorage {
        let state = State {
            rng: Rng::new(seed),
            inodes: HashMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            changes: Vec::new(),
            locked: BTreeSet::new(),
            budget: u64::MAX,
            crash_after: None,
            sync_errors: 0,
            write_errors: 0,
            stalls: 0,
            injected: Injected::default(),
            life: 0,
        };
        SimStorage { state: Arc::new(Mutex::new(state)), clock: Arc::default() }
    }

    pub fn clock(&self) -> Arc<SimClock> {
        self.clock.clone()
    }

    /// Another disk, on the same clock.
    pub fn beside(&self, seed: u64) -> SimStorage {
        SimStorage { clock: self.clock.clone(), ..SimStorage::new(seed) }
    }

    /// After this many more operations every operation fails, until [`SimStorage::crash`].
    pub fn crash_after(&self, operations: u64) {
        self.state.lock().crash_after = Some(operations);
    }

    /// The next sync after `after` others fails and loses its bytes.
    pub fn fail_sync_after(&self, after: u64) {
        self.state.lock().sync_errors = after + 1;
    }

    pub fn fail_write_after(&self, after: u64) {
        self.state.lock().write_errors = after + 1;
    }

    /// The next `count` syncs take five seconds each.
    pub fn stall_syncs(&self, count: u64) {
        self.state.lock().stalls = count;
    }

    /// How many bytes the files together may have.
    pub fn set_budget(&self, bytes: u64) {
        self.state.lock().budget = bytes;
    }

    pub fn budget(&self) -> u64 {
        self.state.lock().budget
    }

    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    pub fn injected(&self) -> Injected {
        self.state.lock().injected
    }

    /// Ends this life of the disk: open handles fail from now on, the lock is free, and what a crash of this kind loses is lost.
    pub fn crash(&self, kind: Crash) {
        let mut state = self.state.lock();
        state.life += 1;
        state.locked.clear();
        state.crash_after = None;
        (state.sync_errors, state.write_errors, state.stalls) = (0, 0, 0);
        match kind {
            Crash::Kill => state.injected.kills += 1,
            Crash::PowerCut => state.power_cut(),
        }
    }

    /// The bytes of a file as readers see them now; for checks and for planting damage.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        Some(state.inodes.get(state.names.get(path)?)?.written.clone())
    }

    /// Replaces a file, durably, from outside.
    pub fn plant(&self, path: &str, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode { written: bytes.clone(), synced: bytes, dirty: BTreeSet::new() });
        state.names.insert(path.to_string(), inode);
        state.durable.insert(path.to_string(), inode);
    }
}

impl State {
    fn operation(&mut self, life: u64) -> io::Result<()> {
        if life != self.life {
            return Err(eio("a handle from before the crash"));
        }
        if let Some(left) = &mut self.crash_after {
            if *left == 0 {
                self.injected.cut_short += 1;
                return Err(eio("crashed"));
            }
            *left -= 1;
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|inode| self.inodes.get(inode)).map(|inode| inode.written.len() as u64).sum()
    }

    fn grow(&mut self, inode: u64, len: usize) -> io::Result<()> {
        let now = self.inodes.get(&inode).map_or(0, |inode| inode.written.len());
        if len > now {
            if self.budget != u64::MAX && self.used() + (len - now) as u64 > self.budget {
                self.injected.full += 1;
                return Err(enospc());
            }
            if let Some(inode) = self.inodes.get_mut(&inode) {
                inode.written.resize(len, 0);
            }
        }
        Ok(())
    }

    fn power_cut(&mut self) {
        self.injected.power_cuts += 1;
        let mut names = std::mem::take(&mut self.durable);
        for change in std::mem::take(&mut self.changes) {
            if self.rng.chance(50) {
                change.apply(&mut names);
            } else {
                self.injected.names_lost += 1;
            }
        }
        self.names = names.clone();
        self.durable = names;
        let kept: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| kept.contains(inode));
        let mut inodes: Vec<u64> = kept.into_iter().collect();
        inodes.sort_unstable();
        for inode in inodes {
            let Some(inode) = self.inodes.get_mut(&inode) else { continue };
            let mut image = std::mem::take(&mut inode.synced);
            if image.len() != inode.written.len() && self.rng.chance(50) {
                image.resize(inode.written.len(), 0);
            }
            for sector in std::mem::take(&mut inode.dirty) {
                let from = sector as usize * SECTOR;
                let to = (from + SECTOR).min(inode.written.len()).min(image.len());
                if from < to && self.rng.chance(50) {
                    image[from..to].copy_from_slice(&inode.written[from..to]);
                    self.injected.sectors_kept += 1;
                } else {
                    self.injected.sectors_lost += 1;
                }
            }
            inode.written = image.clone();
            inode.synced = image;
        }
    }
}

struct SimFile {
    storage: SimStorage,
    inode: u64,
    life: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.storage.state.lock();
        state.operation(self.life)?;
        act(&mut state)
    }
}

struct SimLock {
    storage: SimStorage,
    path: String,
    life: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.storage.state.lock();
        if state.life == self.life {
            state.locked.remove(&self.path);
        }
    }
}

impl SimStorage {
    fn handle(&self, inode: u64, life: u64) -> Arc<dyn File> {
        Arc::new(SimFile { storage: self.clone(), inode, life })
    }
}

impl Storage for SimStorage {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let life = state.life;
        state.operation(life)?;
        if let Some(inode) = state.names.get(path).copied() {
            if let Some(inode) = state.inodes.get_mut(&inode) {
                inode.written.clear();
            }
            return Ok(self.handle(inode, life));
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode::default());
        state.names.insert(path.to_string(), inode);
        state.changes.push(NameChange::Link { dir: dir_of(path), name: path.to_string(), inode });
        Ok(self.handle(inode, life))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let life = state.life;
        state.operation(life)?;
        let inode = *state.names.get(path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(self.handle(inode, life))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        let life = state.life;
        state.operation(life)?;
        let plain = |path: &String| path.rsplit_once('/').map_or(path.clone(), |(_, name)| name.to_string());
        Ok(state.names.keys().filter(|path| dir_of(path) == dir).map(plain).collect())
    }

    fn make_dir(&self, _: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let life = state.life;
        state.operation(life)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let life = state.life;
        state.operation(life)?;
        let inode = state.names.remove(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.names.insert(to.to_string(), inode);
        state.changes.push(NameChange::Rename { dir: dir_of(to), from: from.to_string(), to: to.to_string(), inode });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let life = state.life;
        state.operation(life)?;
        state.names.remove(path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.changes.push(NameChange::Unlink { dir: dir_of(path), name: path.to_string() });
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let life = state.life;
        state.operation(life)?;
        let (synced, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut state.changes).into_iter().partition(|change| change.dir() == dir);
        state.changes = rest;
        for change in synced {
            change.apply(&mut state.durable);
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state.budget.saturating_sub(state.used()))
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Lock>> {
        let mut state = self.state.lock();
        let life = state.life;
        state.operation(life)?;
        if !state.locked.insert(path.to_string()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "1"));
        }
        Ok(Box::new(SimLock { storage: self.clone(), path: path.to_string(), life }))
    }

    fn random(&self) -> u64 {
        self.state.lock().rng.draw()
    }
}

impl File for SimFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state| {
            let Some(inode) = state.inodes.get(&self.inode) else { return Ok(0) };
            let from = (offset as usize).min(inode.written.len());
            let len = into.len().min(inode.written.len() - from);
            into[..len].copy_from_slice(&inode.written[from..from + len]);
            Ok(len)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state| {
            let mut bytes = bytes;
            let mut result = Ok(());
            if state.write_errors > 0 {
                state.write_errors -= 1;
                if state.write_errors == 0 {
                    state.injected.write_errors += 1;
                    bytes = &bytes[..state.rng.below(bytes.len() as u64) as usize];
                    result = Err(eio("write error"));
                }
            }
            let end = offset as usize + bytes.len();
            state.grow(self.inode, end)?;
            if let Some(inode) = state.inodes.get_mut(&self.inode) {
                inode.written[offset as usize..end].copy_from_slice(bytes);
                if !bytes.is_empty() {
                    inode.dirty.extend((offset as usize / SECTOR) as u32..=((end - 1) / SECTOR) as u32);
                }
            }
            result
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            if state.stalls > 0 {
                state.stalls -= 1;
                state.injected.stalls += 1;
                self.storage.clock.pass_ms(5_000);
            }
            let failing = state.sync_errors == 1;
            state.sync_errors = state.sync_errors.saturating_sub(1);
            let Some(inode) = state.inodes.get_mut(&self.inode) else { return Ok(()) };
            let dirty = std::mem::take(&mut inode.dirty);
            if failing {
                state.injected.sync_errors += 1;
                return Err(eio("sync error"));
            }
            inode.synced.resize(inode.written.len(), 0);
            for sector in dirty {
                let from = sector as usize * SECTOR;
                let to = (from + SECTOR).min(inode.written.len());
                if from < to {
                    inode.synced[from..to].copy_from_slice(&inode.written[from..to]);
                }
            }
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with(|state| state.grow(self.inode, len as usize))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.grow(self.inode, len as usize)?;
            if let Some(inode) = state.inodes.get_mut(&self.inode) {
                inode.written.truncate(len as usize);
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.inodes.get(&self.inode).map_or(0, |inode| inode.written.len() as u64)))
    }
}
