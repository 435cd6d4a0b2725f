//! The journal on a simulated disk: random work and random faults from a seed, checked from outside.
//!
//! The model is a set of messages with references. Every operation is one slot; its effect is a difference that is XORed into a digest, so
//! the state after each prefix of tickets has a known digest. After each crash the recovered state must be such a prefix, at least as long as
//! what was confirmed; every live message must read back; and the journal's count of live references must equal a
//! recount.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use journal::sim::{Crash, Injected, Rng, SimStorage};
use journal::storage::Storage;
use journal::{
    Apply, ApplyError, Committed, Config, Failure, Filled, Hooks, Journal, Lsn, ObjectKey, ObjectRef, ObjectSink, OpenError, Place,
};
use journal::{RecordRef, Records, Release, Releases, Slot, Snapshot, SnapshotError, Stats};
use parking_lot::Mutex;

const PUBLISH: u8 = 20;
const SETTLE: u8 = 21;
const BUCKET: u64 = 16;

fn mix(value: u64) -> u64 {
    Rng::new(value).draw() ^ value.rotate_left(17)
}

fn digest_of(id: u64, ordinal: u16) -> u64 {
    mix(id * 8 + u64::from(ordinal))
}

fn body_of(id: u64) -> Vec<u8> {
    let len = match mix(id) % 20 {
        0 => 6000,
        other => other * 60,
    };
    (0..len).map(|at| (id as u8).wrapping_mul(31).wrapping_add(at as u8)).collect()
}

#[derive(Clone)]
struct Message {
    place: Arc<Place>,
    offset: u32,
    /// Bit per reference that is alive.
    mask: u8,
}

impl Message {
    fn lsn(&self) -> Option<Lsn> {
        self.place.get().map(|lsn| Lsn(lsn.0 + u64::from(self.offset)))
    }
}

#[derive(Default)]
struct Model {
    messages: BTreeMap<u64, Message>,
    dirty: BTreeMap<u64, ()>,
}

impl Model {
    fn digest(&self) -> u64 {
        let mut digest = 0;
        for (id, message) in &self.messages {
            for ordinal in 0..8 {
                if message.mask & (1 << ordinal) != 0 {
                    digest ^= digest_of(*id, ordinal);
                }
            }
        }
        digest
    }

    fn references(&self) -> u64 {
        self.messages.values().map(|message| u64::from(message.mask.count_ones())).sum()
    }

    fn settle(&mut self, id: u64, ordinal: u16) -> Option<Message> {
        let message = self.messages.get_mut(&id).filter(|message| message.mask & (1 << ordinal) != 0)?;
        message.mask &= !(1 << ordinal);
        let settled = message.clone();
        if message.mask == 0 {
            self.messages.remove(&id);
        }
        self.dirty.insert(id / BUCKET, ());
        Some(settled)
    }

    /// The bytes of a bucket, and whether messages without a position had to be left out (redo brings them back).
    fn encode(&self, bucket: u64) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let mut left_out = false;
        for (id, message) in self.messages.range(bucket * BUCKET..(bucket + 1) * BUCKET) {
            let Some(lsn) = message.lsn() else {
                left_out = true;
                continue;
            };
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&lsn.0.to_le_bytes());
            out.push(message.mask);
        }
        (out, left_out)
    }
}

struct Loader<'a>(&'a mut Model);

impl Apply for Loader<'_> {
    fn load(&mut self, _: ObjectKey, mut object: ObjectRef<'_>) -> Result<(), ApplyError> {
        let mut bytes = Vec::new();
        object.read(&mut bytes)?;
        for entry in bytes.chunks_exact(17) {
            let id = u64::from_le_bytes(entry[..8].try_into().unwrap());
            let lsn = u64::from_le_bytes(entry[8..16].try_into().unwrap());
            self.0.messages.insert(id, Message { place: Arc::new(Place::at(Lsn(lsn))), offset: 0, mask: entry[16] });
        }
        Ok(())
    }

    fn apply(&mut self, lsn: Lsn, record: RecordRef<'_>, releases: &mut Vec<Release>) -> Result<(), ApplyError> {
        match record.kind {
            PUBLISH => {
                let id = u64::from_le_bytes(record.fields[..8].try_into().unwrap());
                if record.fields[8..] != body_of(id) {
                    return Err(format!("the body of {id} is wrong").into());
                }
                let mask = ((1u16 << record.pins) - 1) as u8;
                // Redo over objects that are newer than the begin: a message that is there, or was there and is settled, is not new. The
                // settle follows in the log, so adding it again is right as well.
                self.0.messages.entry(id).or_insert(Message { place: Arc::new(Place::at(lsn)), offset: 0, mask });
                self.0.dirty.insert(id / BUCKET, ());
            }
            SETTLE => {
                for entry in record.fields.chunks_exact(10) {
                    let id = u64::from_le_bytes(entry[..8].try_into().unwrap());
                    let ordinal = u16::from_le_bytes(entry[8..].try_into().unwrap());
                    if let Some(lsn) = self.0.settle(id, ordinal).and_then(|message| message.lsn()) {
                        releases.push(Release { lsn, ordinal });
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

struct Shared(Mutex<Model>);

impl Snapshot for Shared {
    fn snapshot(&self, sink: &mut dyn ObjectSink) -> Result<(), SnapshotError> {
        let dirty: Vec<u64> = self.0.lock().dirty.keys().copied().collect();
        for bucket in dirty {
            let (bytes, left_out) = self.0.lock().encode(bucket);
            let key = ObjectKey::new(1, bucket, 0);
            if bytes.is_empty() {
                sink.delete(key);
            } else {
                sink.put(key, &bytes)?;
            }
            if !left_out {
                self.0.lock().dirty.remove(&bucket);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Watch {
    confirmed: AtomicU64,
    confirms: AtomicU64,
    failed: AtomicBool,
    wrong: Mutex<Option<String>>,
}

impl Committed for Watch {
    fn committed(&self, ticket: u64) {
        self.confirms.fetch_add(1, Ordering::Relaxed);
        if self.failed.load(Ordering::Relaxed) {
            *self.wrong.lock() = Some("a confirm after the failure".into());
        }
        if self.confirmed.fetch_max(ticket + 1, Ordering::Relaxed) > ticket {
            *self.wrong.lock() = Some("confirms out of order".into());
        }
    }
}

impl Hooks for Watch {
    fn failed(&self, _: &Failure) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// What a run did; every one of these must be above 0 over all seeds.
#[derive(Default, Debug, Clone, Copy)]
pub struct Tally {
    pub seeds: u64,
    pub reigns: u64,
    pub confirmed: u64,
    pub in_flight_at_crash: u64,
    pub tails: u64,
    pub full: u64,
    pub failures: u64,
    pub interrupted_opens: u64,
    pub stats: Stats,
    pub injected: Injected,
}

struct Run {
    rng: Rng,
    storage: SimStorage,
    model: Arc<Shared>,
    next_id: u64,
    /// Consumers take everything.
    draining: bool,
    tally: Tally,
}

struct Reign {
    journal: Journal,
    watch: Arc<Watch>,
    /// Difference of each ticket to the digest.
    differences: Vec<u64>,
    start: u64,
    open: Vec<(Slot, Filled)>,
}

fn config(storage: &SimStorage) -> Config {
    Config {
        segment_bytes: 24 << 10,
        checkpoint_bytes: 64 << 10,
        staging_bytes: 24 << 10,
        clock: storage.clock(),
        simulated: true,
        ..Config::default()
    }
}

impl Run {
    fn open(&mut self) -> Result<Reign, String> {
        for attempt in 0.. {
            if attempt < 3 && self.rng.chance(15) {
                self.storage.crash_after(self.rng.below(60));
            }
            let mut model = Model::default();
            let opened = Journal::open(Arc::new(self.storage.clone()), config(&self.storage), &mut Loader(&mut model));
            match opened {
                Ok(journal) => return self.begin(journal, model),
                Err(OpenError::Io { .. }) if attempt < 4 => {
                    self.tally.interrupted_opens += 1;
                    self.crash();
                }
                Err(error) => return Err(format!("open: {error}")),
            }
        }
        unreachable!()
    }

    fn begin(&mut self, journal: Journal, model: Model) -> Result<Reign, String> {
        self.tally.reigns += 1;
        self.storage.crash_after(u64::MAX);
        let stats = journal.stats();
        self.tally.tails += u64::from(stats.recovered_tail_bytes > 0);
        if stats.live_references != model.references() {
            return Err(format!("{} references counted, {} alive", stats.live_references, model.references()));
        }
        let start = model.digest();
        self.model = Arc::new(Shared(Mutex::new(model)));
        let watch = Arc::new(Watch::default());
        journal.set_hooks(watch.clone());
        journal.start_stepped(self.model.clone());
        Ok(Reign { journal, watch, differences: vec![0], start, open: Vec::new() })
    }

    fn crash(&mut self) {
        let kind = if self.rng.chance(60) { Crash::PowerCut } else { Crash::Kill };
        self.storage.crash(kind);
    }

    /// The recovered digest must be that of a prefix that holds everything confirmed.
    fn check_prefix(&self, before: &Reign, recovered: u64) -> Result<(), String> {
        let confirmed = before.watch.confirmed.load(Ordering::Relaxed) as usize;
        let mut digest = before.start;
        for (ticket, difference) in before.differences.iter().enumerate() {
            if ticket >= confirmed && digest == recovered {
                return Ok(());
            }
            digest ^= difference;
        }
        if digest == recovered {
            return Ok(());
        }
        Err(format!("the recovered state is no prefix with the {confirmed} confirmed of {}", before.differences.len()))
    }

    fn publish(&mut self, reign: &mut Reign) {
        let Ok(slot) = reign.journal.reserve_publish() else { return };
        let mut records = Records::new();
        let place = Arc::new(Place::new());
        let mut difference = 0;
        for _ in 0..1 + self.rng.below(3) {
            let id = self.next_id;
            self.next_id += 1;
            let pins = 1 + self.rng.below(4) as u32;
            let offset = records.push(PUBLISH, 1, 0, pins, |out| {
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&body_of(id));
            });
            (0..pins).for_each(|ordinal| difference ^= digest_of(id, ordinal as u16));
            let mut model = self.model.0.lock();
            model.messages.insert(id, Message { place: place.clone(), offset, mask: ((1u16 << pins) - 1) as u8 });
            model.dirty.insert(id / BUCKET, ());
        }
        self.fill(reign, slot, Filled { records, place: Some(place), ..Filled::default() }, difference);
    }

    fn settle(&mut self, reign: &mut Reign) {
        let mut model = self.model.0.lock();
        let Some(last) = model.messages.keys().next_back().copied() else { return };
        // Mostly the oldest, as consumers do; some stay for long.
        let from = if self.rng.chance(80) { 0 } else { self.rng.below(last + 1) };
        let victims: Vec<u64> = model.messages.range(from..).map(|(id, _)| *id).take(12).collect();
        let slot = reign.journal.reserve();
        let mut fields = Vec::new();
        let mut releases = Releases::default();
        let mut difference = 0;
        for id in victims {
            let stuck = id % 23 == 0 && self.rng.chance(97) && !self.draining;
            for ordinal in 0..4u16 {
                if stuck || self.rng.chance(20) {
                    continue;
                }
                let Some(message) = model.settle(id, ordinal) else { continue };
                fields.extend_from_slice(&id.to_le_bytes());
                fields.extend_from_slice(&ordinal.to_le_bytes());
                difference ^= digest_of(id, ordinal);
                match message.lsn() {
                    Some(lsn) => releases.known.push(Release { lsn, ordinal }),
                    None => releases.pending.push((message.place.clone(), message.offset, ordinal)),
                }
            }
        }
        drop(model);
        let mut records = Records::new();
        records.push(SETTLE, 1, 0, 0, |out| out.extend_from_slice(&fields));
        self.fill(reign, slot, Filled { records, releases, ..Filled::default() }, difference);
    }

    fn fill(&mut self, reign: &mut Reign, slot: Slot, mut filled: Filled, difference: u64) {
        let ticket = slot.ticket().0;
        assert_eq!(ticket as usize, reign.differences.len(), "tickets are handed out in order");
        reign.differences.push(difference);
        let watch: Arc<dyn Committed> = reign.watch.clone();
        filled.done = Some((watch, ticket));
        if self.rng.chance(15) {
            reign.open.push((slot, filled));
        } else {
            slot.fill(filled);
        }
    }

    fn fill_open(&mut self, reign: &mut Reign) {
        for (slot, filled) in reign.open.drain(..) {
            slot.fill(filled);
        }
    }

    fn act(&mut self, reign: &mut Reign) {
        match self.rng.below(100) {
            0..=29 => self.publish(reign),
            30..=54 => self.settle(reign),
            55..=74 => drop(reign.journal.step_commit()),
            75..=79 => self.fill_open(reign),
            80..=89 => {
                // An open slot would hold the checkpoint up for ever in a rig without threads; most of the time let it through.
                if self.rng.chance(70) {
                    self.fill_open(reign);
                    while reign.journal.step_commit() {}
                }
                reign.journal.step_maintain();
            }
            90..=93 => self.storage.clock().pass_ms(self.rng.below(400)),
            94 => self.storage.stall_syncs(1),
            95 => {
                let bucket = self.rng.below(self.next_id / BUCKET + 1);
                let (bytes, _) = self.model.0.lock().encode(bucket);
                if !bytes.is_empty() {
                    reign.journal.put_object(ObjectKey::new(1, bucket, 0), &bytes).ok();
                }
            }
            96 => self.storage.clock().pass_ms(31_000),
            97 if self.rng.chance(25) => self.storage.fail_sync_after(self.rng.below(6)),
            98 if self.rng.chance(15) => self.storage.fail_write_after(self.rng.below(6)),
            99 if self.rng.chance(50) => self.storage.set_budget(self.storage.used_bytes() + self.rng.below(60 << 10)),
            _ => {}
        }
    }

    /// Every message reads back with its body.
    fn check_reads(&self, reign: &Reign) -> Result<(), String> {
        let messages = self.model.0.lock().messages.clone();
        let mut fields = Vec::new();
        for (id, message) in messages {
            let Some(lsn) = message.lsn().filter(|lsn| *lsn < reign.journal.committed_lsn()) else { continue };
            match reign.journal.read(lsn, &mut fields) {
                Ok(_) if fields[..8] == id.to_le_bytes() && fields[8..] == body_of(id) => {}
                Ok(_) => return Err(format!("message {id} at {lsn} reads as something else")),
                Err(_) if reign.journal.failed().is_some() => return Ok(()),
                Err(error) => return Err(format!("message {id}: {error}")),
            }
        }
        Ok(())
    }

    /// A full disk drains to 0 without a restart, and publishers may go on then.
    fn drain(&mut self, reign: &mut Reign) -> Result<(), String> {
        // What a store of this configuration needs when it is empty: reserve, spare, the segment in use, page files, the hot window.
        let enough = self.storage.budget() >= 480 << 10;
        self.draining = true;
        for _ in 0..600 {
            self.fill_open(reign);
            self.settle(reign);
            while reign.journal.step_commit() {}
            self.storage.clock().pass_ms(150);
            reign.journal.step_maintain();
            let drained = self.model.0.lock().messages.is_empty();
            if drained && reign.journal.space().held.is_none() {
                self.tally.full += 1;
            }
            if reign.journal.failed().is_some() || (drained && reign.journal.space().held.is_none()) {
                self.draining = false;
                return Ok(());
            }
        }
        self.draining = false;
        if !enough {
            return Ok(());
        }
        let left = self.model.0.lock().messages.len();
        let (used, budget) = (self.storage.used_bytes(), self.storage.budget());
        Err(format!(
            "the full disk did not drain: {left} messages, {used} of {budget} bytes, {:?} {:?}",
            reign.journal.space(),
            reign.journal.stats()
        ))
    }

    fn reign(&mut self, reign: &mut Reign) -> Result<(), String> {
        let steps = 20 + self.rng.below(250);
        for _ in 0..steps {
            self.act(reign);
            if let Some(wrong) = reign.watch.wrong.lock().take() {
                return Err(wrong);
            }
            if reign.journal.failed().is_some() {
                self.tally.failures += 1;
                break;
            }
        }
        if reign.journal.failed().is_none() {
            self.check_reads(reign)?;
            if reign.journal.space().held == Some(journal::Held::DiskFull) && self.rng.chance(50) {
                self.drain(reign)?;
            }
        }
        if self.rng.chance(70) {
            self.storage.crash_after(self.rng.below(25));
            for _ in 0..20 {
                self.act(reign);
            }
        }
        Ok(())
    }

    fn end(&mut self, reign: Reign) -> Reign {
        let Reign { journal, watch, differences, start, open } = reign;
        self.tally.confirmed += watch.confirms.load(Ordering::Relaxed);
        self.tally.in_flight_at_crash += differences.len() as u64 - watch.confirmed.load(Ordering::Relaxed).min(differences.len() as u64);
        add(&mut self.tally.stats, &journal.stats());
        self.storage.set_budget(u64::MAX);
        Reign { journal, watch, differences, start, open }
    }
}

fn add(sum: &mut Stats, more: &Stats) {
    sum.rotations += more.rotations;
    sum.checkpoints += more.checkpoints;
    sum.evacuated_ranges += more.evacuated_ranges;
    sum.segments_removed += more.segments_removed;
    sum.cold_removed += more.cold_removed;
    sum.markers += more.markers;
    sum.stalls += more.stalls;
}

/// One seed: several reigns on one disk, each ended by a crash.
pub fn run_seed(seed: u64) -> Result<Tally, String> {
    let mut run = Run {
        rng: Rng::new(seed ^ 0x5eed),
        storage: SimStorage::new(seed),
        model: Arc::new(Shared(Mutex::default())),
        next_id: 1,
        draining: false,
        tally: Tally { seeds: 1, ..Tally::default() },
    };
    let mut reign = run.open()?;
    for _ in 0..6 {
        run.reign(&mut reign)?;
        let before = run.end(reign);
        run.crash();
        reign = run.open()?;
        run.check_prefix(&before, reign.start)?;
        drop(before);
        run.check_reads(&reign)?;
    }
    run.tally.injected = run.storage.injected();
    Ok(run.tally)
}

fn total(seeds: std::ops::Range<u64>) -> Result<Tally, String> {
    let mut sum = Tally::default();
    for seed in seeds {
        let tally = run_seed(seed).map_err(|what| format!("seed {seed}: {what}"))?;
        sum.seeds += 1;
        sum.reigns += tally.reigns;
        sum.confirmed += tally.confirmed;
        sum.in_flight_at_crash += tally.in_flight_at_crash;
        sum.tails += tally.tails;
        sum.full += tally.full;
        sum.failures += tally.failures;
        sum.interrupted_opens += tally.interrupted_opens;
        add(&mut sum.stats, &tally.stats);
        let (all, one) = (&mut sum.injected, &tally.injected);
        all.kills += one.kills;
        all.power_cuts += one.power_cuts;
        all.sectors_lost += one.sectors_lost;
        all.sectors_kept += one.sectors_kept;
        all.names_lost += one.names_lost;
        all.sync_errors += one.sync_errors;
        all.write_errors += one.write_errors;
        all.full += one.full;
        all.stalls += one.stalls;
        all.cut_short += one.cut_short;
    }
    Ok(sum)
}

fn seeds_wanted() -> u64 {
    std::env::var("JOURNAL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

#[test]
fn a_thousand_seeds_keep_the_invariants() {
    let first = std::env::var("JOURNAL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let tally = total(first..first + seeds_wanted()).unwrap_or_else(|what| panic!("{what}"));
    println!("{tally:#?}");
    let (stats, injected) = (tally.stats, tally.injected);
    let counts = [
        ("confirmed", tally.confirmed.saturating_sub(1000)),
        ("in flight at the crash", tally.in_flight_at_crash),
        ("unsynced tails", tally.tails),
        ("full disks drained", tally.full),
        ("failures", tally.failures),
        ("interrupted opens", tally.interrupted_opens),
        ("rotations", stats.rotations),
        ("checkpoints", stats.checkpoints),
        ("evacuated ranges", stats.evacuated_ranges),
        ("segments removed", stats.segments_removed),
        ("cold files removed", stats.cold_removed),
        ("markers", stats.markers),
        ("kills", injected.kills),
        ("power cuts", injected.power_cuts),
        ("sectors lost", injected.sectors_lost),
        ("sectors kept", injected.sectors_kept),
        ("names lost", injected.names_lost),
        ("sync errors", injected.sync_errors),
        ("write errors", injected.write_errors),
        ("full disks", injected.full),
        ("stalls", injected.stalls),
        ("operations cut short", injected.cut_short),
    ];
    let missing: Vec<&str> = counts.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
    let _: &dyn Storage = &SimStorage::new(0);
}

/// Each of the journal's own mutants must be noticed. The choice is global to a process, so each is tried in one of its own.
#[cfg(debug_assertions)]
#[test]
fn every_mutant_is_caught_by_the_simulation() {
    let mut survivors = Vec::new();
    for (name, _) in journal::mutants::ALL {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "simulation::a_thousand_seeds_keep_the_invariants"]).env("CARRICK_MUTANT", name);
        let done = again.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        // A broken invariant names its seed; anything else that goes wrong is no catch.
        match said.lines().find(|line| line.starts_with("seed ")).filter(|_| !done.status.success()) {
            Some(what) => println!("{name}: caught by {what}"),
            None => survivors.push(format!("{name}: {said}")),
        }
    }
    assert!(survivors.is_empty(), "survived: {survivors:#?}");
}
