//! One run: two nodes, clients of each, faults one after the other, and the checks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::sim::{Crash, SimStorage};
use replication::coordinator::{MemoryCluster, NodeName, Register, Settings as Voters};
use replication::StandbyAck;

use crate::breaks::{self, Break};
use crate::client::{Actor, Client, Work};
use crate::door::Door;
use crate::fates::Fates;
use crate::faults::{coordinate, draw, Coordination, Scenario, Trouble};
use crate::history::{Broken, History};
use crate::mqtt_client::{MqttClients, Publisher, Subscriber};
use crate::network::Network;
use crate::node::{Parts, SimNode};
use crate::tally::Tally;
use crate::trace::Trace;
use crate::transactions::Transactions;
use crate::world::{Kind, World};

/// What a pair of which one half is well needs at most to serve again: fencing, the lease, promotion, and what a loaded coordinator adds.
const CARRIES_ON: Duration = Duration::from_secs(4);
/// What a handover of a whole pair takes at most, with the first confirm.
const HANDS_OVER: Duration = Duration::from_millis(700);
/// So many steps lie between two recounts of the primary's store.
const RECOUNT_EVERY: u64 = 256;
const COMES_TOGETHER: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub scenario: Scenario,
    pub seed: u64,
    /// Faults, one after the other.
    pub rounds: u64,
    /// A deliberate fault of the code, which the run is to notice.
    pub broken: Option<Break>,
}

impl Plan {
    /// What confirms wait for: in every fourth seed only for what the standby has in memory.
    fn standby_ack(&self) -> StandbyAck {
        if self.seed % 4 == 3 {
            StandbyAck::Received
        } else {
            StandbyAck::Synced
        }
    }
}

#[derive(Debug)]
pub struct Report {
    /// Of everything that happened, with its times.
    pub hash: u64,
    pub tally: Tally,
    /// The longest time without a confirm, while one was to be expected.
    pub gap: Duration,
    pub broken: Option<Broken>,
    /// The end of what happened.
    pub lines: Vec<String>,
}

/// One run from its seed.
pub fn run(plan: Plan) -> Report {
    breaks::choose(plan.broken);
    let drill = Drill::new(plan);
    // The code's own assertions are promises as well.
    let went = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drill.go()));
    breaks::choose(None);
    match went {
        Ok(went) => drill.report(went.err(), true),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let broken = Broken::new("assertions_hold", text.unwrap_or_default());
            // Nothing of what is left can be relied on, and it is not taken down.
            let drill = std::mem::ManuallyDrop::new(drill);
            drill.report(Some(broken), false)
        }
    }
}

struct Shared {
    work: Mutex<Work>,
    broken: Mutex<Option<Broken>>,
    counted: Mutex<Tally>,
    register: Mutex<Option<Register>>,
}

/// When a fault begins, and whether the pair was whole then.
#[derive(Clone, Copy)]
struct Begun {
    at: Duration,
    together: bool,
}

struct Drill {
    plan: Plan,
    parts: Parts,
    nodes: Vec<Arc<SimNode>>,
    names: Vec<NodeName>,
    coordination: Arc<Mutex<Coordination>>,
    history: Arc<Mutex<History>>,
    shared: Arc<Shared>,
    /// Milliseconds that the nodes' clocks have been moved on.
    ticked: AtomicU64,
    /// Steps at the last recount.
    recounted: AtomicU64,
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drill {
    fn new(plan: Plan) -> Drill {
        let world = World::new(plan.seed);
        let network = Network::new(world.clone());
        let cluster = MemoryCluster::new(Voters::LEASE, world.base());
        let coordination = coordinate(&cluster, plan.seed);
        lock(&coordination).errs = plan.scenario == Scenario::Chaos;
        let parts = Parts { world: world.clone(), network, cluster, trace: Trace::default() };
        let names: Vec<NodeName> = ["a", "b"].into_iter().filter_map(|name| name.parse().ok()).collect();
        // Clocks that run alike within 2 %.
        let node = |(at, name): (u64, &NodeName)| {
            let rate = 980 + world.draw(|rng| rng.below(41)) as u32;
            Arc::new(SimNode::new(name, SimStorage::new(plan.seed ^ (at << 32)), (rate, plan.standby_ack()), &parts))
        };
        let nodes = (1..).zip(&names).map(node).collect();
        let shared =
            Shared { work: Mutex::new(Work::Both), broken: Mutex::default(), counted: Mutex::default(), register: Mutex::default() };
        Drill {
            plan,
            parts,
            nodes,
            names,
            coordination,
            history: Arc::default(),
            shared: Arc::new(shared),
            ticked: AtomicU64::new(0),
            recounted: AtomicU64::new(0),
        }
    }

    fn go(&self) -> Result<(), Broken> {
        self.nodes.iter().for_each(|node| node.start(&self.names));
        for (node, producer) in self.nodes.iter().zip(1..) {
            self.spawn_client(Box::new(Client::new(&self.parts.world, node.clone(), producer, self.history.clone())));
            self.spawn_keeper(node.clone());
        }
        let (world, history) = (&self.parts.world, &self.history);
        let door = || Door::new(world, self.nodes.clone());
        let publisher = Publisher::new(world, door(), 3, history.clone());
        let subscriber = Subscriber::new(world, door(), history.clone());
        self.spawn_client(Box::new(MqttClients { subscriber, publisher }));
        self.spawn_client(Box::new(Transactions::new(world, door(), history.clone())));
        let exact = self.plan.scenario != Scenario::Chaos;
        self.spawn_client(Box::new(Fates::new(world, door(), history.clone(), exact)));
        self.until_together()?;
        for _ in 0..self.plan.rounds {
            let quiet = self.parts.world.draw(|rng| rng.below(700));
            self.pass(Duration::from_millis(quiet))?;
            self.round()?;
            if self.plan.scenario != Scenario::Chaos || self.parts.world.draw(|rng| rng.chance(60)) {
                self.until_together()?;
            }
        }
        self.heal();
        self.until_together()?;
        self.end()
    }

    fn spawn_client(&self, mut client: Box<dyn Actor>) {
        let (world, shared) = (self.parts.world.clone(), self.shared.clone());
        let task = async move {
            loop {
                world.sleep(Duration::from_micros(500 + world.draw(|rng| rng.below(2500)))).await;
                let work = *lock(&shared.work);
                if let Err(broken) = client.round(work) {
                    lock(&shared.broken).get_or_insert(broken);
                    return;
                }
            }
        };
        self.parts.world.spawn(self.parts.world.group(), Kind::Plain, Box::pin(task));
    }

    /// What systemd does: a process that has ended is started again.
    fn spawn_keeper(&self, node: Arc<SimNode>) {
        let (world, trace, names, shared) = (self.parts.world.clone(), self.parts.trace.clone(), self.names.clone(), self.shared.clone());
        let task = async move {
            loop {
                world.sleep(Duration::from_millis(5)).await;
                let Some(why) = node.ended() else { continue };
                trace.note(world.elapsed(), &node.name, &why);
                node.crash(Crash::Kill);
                lock(&shared.counted).restarts += 1;
                world.sleep(Duration::from_millis(50 + world.draw(|rng| rng.below(400)))).await;
                node.start(&names);
            }
        };
        self.parts.world.spawn(self.parts.world.group(), Kind::Plain, Box::pin(task));
    }

    /// Time passes; the first promise that breaks ends the run.
    fn pass(&self, time: Duration) -> Result<(), Broken> {
        let world = &self.parts.world;
        let ran = world.run_until(world.elapsed() + time, &mut |now| {
            self.parts.cluster.set_now(world.base() + now);
            let ms = now.as_millis() as u64;
            let passed = ms - self.ticked.swap(ms, Ordering::Relaxed);
            if passed > 0 {
                self.nodes.iter().for_each(|node| node.clock.pass_ms(passed));
                self.look();
            }
            let steps = world.polls();
            if steps >= self.recounted.load(Ordering::Relaxed) + RECOUNT_EVERY {
                self.recounted.store(steps, Ordering::Relaxed);
                self.recount();
            }
            if lock(&self.shared.broken).is_some() {
                return Err("a promise is broken".into());
            }
            Ok(())
        });
        match (ran, lock(&self.shared.broken).clone()) {
            (_, Some(broken)) => Err(broken),
            (Err(why), None) => Err(Broken { invariant: "it_runs", seen: why }),
            (Ok(()), None) => Ok(()),
        }
    }

    /// Every millisecond: what disks have kept, what the register says now, and whether a primary has confirmed what a member in sync has not synced.
    fn look(&self) {
        if let Some(broken) = self.nodes.iter().find_map(|node| node.broken()) {
            lock(&self.shared.broken).get_or_insert(broken);
        }
        let Some((_, register)) = self.parts.cluster.register() else { return };
        let mut last = lock(&self.shared.register);
        if last.as_ref() != Some(&register) {
            let mut counted = lock(&self.shared.counted);
            match last.as_ref() {
                Some(last) if last.epoch < register.epoch => counted.promotions += 1,
                Some(last) if last.in_sync.len() < register.in_sync.len() => counted.growths += 1,
                Some(last) if last.in_sync.len() > register.in_sync.len() => counted.shrinks += 1,
                _ => {}
            }
            let in_sync: Vec<&str> = register.in_sync.iter().map(NodeName::as_str).collect();
            let text = format!("epoch {}, primary {}, in sync {}", register.epoch, register.primary, in_sync.join(" "));
            self.parts.trace.note(self.parts.world.elapsed(), &"register", &text);
            *last = Some(register.clone());
        }
        drop(last);
        let primary = self.nodes.iter().find(|node| node.name == register.primary).and_then(|node| node.serving());
        let Some(primary) = primary.filter(|serving| serving.epoch == register.epoch) else { return };
        let committed = primary.core.journal().committed_lsn();
        let waited_for = |name: &NodeName| register.in_sync.contains(name) && !register.by_memory.contains(name);
        for node in self.nodes.iter().filter(|node| node.name != register.primary && waited_for(&node.name)) {
            let synced = node.synced();
            if synced < committed {
                let seen = format!("{committed} is confirmed, and {} has synced {synced}", node.name);
                lock(&self.shared.broken).get_or_insert(Broken { invariant: "confirmed_is_synced", seen });
            }
        }
    }

    /// Whoever serves: what is counted against what is there.
    fn recount(&self) {
        for serving in self.nodes.iter().filter_map(|node| node.serving()) {
            lock(&self.shared.counted).recounts += 1;
            if let Err(seen) = serving.core.recount().and_then(|()| serving.core.audit()) {
                lock(&self.shared.broken).get_or_insert(Broken { invariant: "counts_agree", seen });
            }
        }
    }

    fn register(&self) -> Option<Register> {
        self.parts.cluster.register().map(|(_, register)| register)
    }

    fn primary(&self) -> usize {
        let register = self.register();
        self.nodes.iter().position(|node| register.as_ref().is_some_and(|register| register.primary == node.name)).unwrap_or(0)
    }

    fn is_together(&self) -> bool {
        let in_sync = self.register().is_some_and(|register| register.in_sync.len() == self.nodes.len());
        in_sync && self.nodes.iter().all(|node| node.is_up())
    }

    fn until_together(&self) -> Result<(), Broken> {
        let world = &self.parts.world;
        let end = world.elapsed() + COMES_TOGETHER;
        let before = lock(&self.history).confirmed;
        loop {
            self.pass(Duration::from_millis(20))?;
            let serves = self.nodes[self.primary()].serving().is_some();
            if self.is_together() && serves && lock(&self.history).confirmed > before {
                // A lease that the last fault has cost runs out before that.
                self.pass(Voters::LEASE * 2)?;
                if self.is_together() {
                    return Ok(());
                }
            }
            if world.elapsed() > end {
                let said: Vec<String> = self.nodes.iter().map(|node| node.says()).collect();
                let seen = format!("not within {COMES_TOGETHER:?} without a fault: {}", said.join("; "));
                return Err(Broken { invariant: "comes_together", seen });
            }
        }
    }

    /// One fault, from its beginning to its end.
    fn round(&self) -> Result<(), Broken> {
        let primary = self.primary();
        let trouble = self.parts.world.draw(|rng| draw(self.plan.scenario, rng, primary));
        self.parts.trace.note(self.parts.world.elapsed(), &"fault", &format!("{trouble:?}"));
        lock(&self.shared.counted).faults += 1;
        self.nodes.iter().for_each(|node| node.faults_begin());
        let begun = Begun { at: self.parts.world.elapsed(), together: self.is_together() };
        match &trouble {
            Trouble::Crash { who, kind, down } => self.crash(begun, *who, *kind, *down)?,
            Trouble::PowerCut { who, operations, down } => self.power_cut(begun, *who, *operations, *down)?,
            Trouble::Twice { who, first, up, then, down } => {
                self.kill_and_start(*who, *first)?;
                self.pass(*up)?;
                self.power_cut(begun, *who, *then, *down)?;
            }
            Trouble::BadSync { who, after, up, down } => {
                self.nodes[*who].storage.fail_sync_after(*after);
                self.pass(*up)?;
                self.crash(begun, *who, Crash::PowerCut, *down)?;
            }
            Trouble::Damage { who, checkpoints, down } => {
                // Of a whole pair only: what no other node has is gone with the disk that had it.
                if begun.together {
                    lock(&self.shared.counted).damaged += 1;
                    self.nodes[*who].damage(*checkpoints);
                }
                self.crash(begun, *who, Crash::Kill, *down)?;
                self.until_together()?;
            }
            Trouble::HandOver => self.hand_over(begun)?,
            Trouble::Both { first, stalled, between } => self.cut_both(*first, *stalled, *between)?,
            Trouble::Pause { who, time } => {
                let group = self.nodes[*who].group();
                group.into_iter().for_each(|group| self.parts.world.pause(group, true));
                self.expect(begun, *time)?;
                group.into_iter().for_each(|group| self.parts.world.pause(group, false));
            }
            Trouble::Cut { paths, from_coordinator, time } => {
                self.cut(paths, from_coordinator);
                if from_coordinator.len() < self.nodes.len() {
                    self.expect(begun, *time)?;
                } else {
                    self.pass(*time)?;
                }
                self.mend();
            }
            Trouble::Ghost { time } => self.haunt(begun, *time)?,
            Trouble::Reject { from_coordinator, time } => {
                self.parts.network.reject(&self.names[0], &self.names[1]);
                self.cut(&[], from_coordinator.as_slice());
                self.expect(begun, *time)?;
                self.mend();
            }
            Trouble::Stall { who, time } => {
                self.nodes[*who].stall(true);
                self.expect(begun, *time)?;
                self.nodes[*who].stall(false);
            }
            Trouble::Jump { who, forward, seconds } => {
                let clock = &self.nodes[*who].clock.wall_ms;
                let ms = seconds * 1000;
                match forward {
                    true => clock.fetch_add(ms, Ordering::Relaxed),
                    false => clock.fetch_sub(ms, Ordering::Relaxed),
                };
            }
            Trouble::SyncError { who, after } => self.nodes[*who].storage.fail_sync_after(*after),
            Trouble::WriteError { who, after } => self.nodes[*who].storage.fail_write_after(*after),
        }
        Ok(())
    }

    /// After so many operations of its disk.
    fn power_cut(&self, begun: Begun, who: usize, operations: u64, down: Duration) -> Result<(), Broken> {
        self.nodes[who].power_cut_after(operations);
        // Long enough that all of them were asked for, and too short for anybody to start it again.
        self.pass(Duration::from_millis(15))?;
        self.crash(begun, who, Crash::PowerCut, down)
    }

    fn kill_and_start(&self, who: usize, operations: u64) -> Result<(), Broken> {
        let node = &self.nodes[who];
        node.storage.crash_after(operations);
        self.pass(Duration::from_millis(15))?;
        node.crash(Crash::Kill);
        node.start(&self.names);
        Ok(())
    }

    /// Both lose their power, one of them while its disk stands still; that one is the first to be there again.
    fn cut_both(&self, first: usize, stalled: Duration, between: Duration) -> Result<(), Broken> {
        self.nodes[first].stall(true);
        self.pass(stalled)?;
        self.nodes[first].stall(false);
        self.nodes.iter().for_each(|node| node.crash(Crash::PowerCut));
        self.nodes[first].start(&self.names);
        self.pass(between)?;
        self.nodes[1 - first].start(&self.names);
        Ok(())
    }

    fn cut(&self, paths: &[(usize, usize)], from_coordinator: &[usize]) {
        paths.iter().for_each(|(from, to)| self.parts.network.cut(&self.names[*from], &self.names[*to]));
        lock(&self.coordination).cut.extend(from_coordinator.iter().map(|who| self.names[*who].clone()));
    }

    /// The primary gives its place away: a whole pair serves again at once, elsewhere.
    fn hand_over(&self, begun: Begun) -> Result<(), Broken> {
        let Some(before) = self.register() else { return Ok(()) };
        if !self.nodes[self.primary()].hand_over() {
            return Ok(());
        }
        lock(&self.shared.counted).handovers += 1;
        self.pass(HANDS_OVER)?;
        let moved = self.register().is_some_and(|now| now.epoch > before.epoch && now.primary != before.primary);
        let served = lock(&self.history).last_confirm() > begun.at + Duration::from_millis(5);
        if begun.together && self.plan.scenario != Scenario::Chaos && !(moved && served) {
            let said: Vec<String> = self.nodes.iter().map(|node| node.says()).collect();
            let seen = format!("{HANDS_OVER:?} after a whole pair was asked to hand over: {}", said.join("; "));
            return Err(Broken { invariant: "hands_over", seen });
        }
        Ok(())
    }

    fn haunt(&self, begun: Begun, time: Duration) -> Result<(), Broken> {
        let (network, world) = (&self.parts.network, &self.parts.world);
        network.reject(&self.names[0], &self.names[1]);
        self.pass(Duration::from_millis(2))?;
        network.mend();
        let (group, epoch) = (world.group(), self.register().map_or(0, |register| register.epoch.saturating_sub(1)));
        let believed = network.haunt(group, epoch);
        self.expect(begun, time)?;
        self.mend();
        world.kill(group);
        let promised = *lock(&believed);
        match promised {
            Some(promised) => {
                let seen = format!("a standby that has promised epoch {promised} took the word of a primary of epoch {epoch}");
                Err(Broken { invariant: "lower_epoch_changes_nothing", seen })
            }
            None => Ok(()),
        }
    }

    fn crash(&self, begun: Begun, who: usize, kind: Crash, down: Duration) -> Result<(), Broken> {
        let node = &self.nodes[who];
        node.crash(kind);
        self.expect(begun, down)?;
        node.start(&self.names);
        Ok(())
    }

    /// Time passes in which one half is well: somebody serves again before long. Where several faults meet, nobody has to.
    fn expect(&self, begun: Begun, time: Duration) -> Result<(), Broken> {
        if self.plan.scenario == Scenario::Chaos || !begun.together || time < CARRIES_ON {
            return self.pass(time);
        }
        self.pass(CARRIES_ON)?;
        let last = lock(&self.history).last_confirm();
        if last <= begun.at + Duration::from_millis(5) {
            let seen = format!("no confirm for {CARRIES_ON:?}, although one node and the coordinator are well");
            return Err(Broken { invariant: "carries_on", seen });
        }
        self.pass(time - CARRIES_ON)
    }

    fn mend(&self) {
        self.parts.network.mend();
        lock(&self.coordination).cut.clear();
    }

    fn heal(&self) {
        self.mend();
        lock(&self.coordination).errs = false;
        for node in &self.nodes {
            node.storage.fail_sync_after(u64::MAX - 1);
            node.storage.fail_write_after(u64::MAX - 1);
            node.stall(false);
            if let Some(group) = node.group() {
                self.parts.world.pause(group, false);
            }
        }
    }

    /// No more is published; what is left is drained, and everything is counted.
    fn end(&self) -> Result<(), Broken> {
        *lock(&self.shared.work) = Work::Drain;
        let end = self.parts.world.elapsed() + COMES_TOGETHER;
        while lock(&self.history).owed() > 0 && self.parts.world.elapsed() < end {
            self.pass(Duration::from_millis(50))?;
        }
        self.pass(Duration::from_millis(200))?;
        lock(&self.history).end()?;
        let owed = lock(&self.history).owed();
        if owed > 0 {
            return Err(Broken { invariant: "drains", seen: format!("{owed} confirmed messages came and cannot be settled") });
        }
        self.recount();
        lock(&self.shared.broken).clone().map_or(Ok(()), Err)
    }

    fn report(&self, broken: Option<Broken>, ends: bool) -> Report {
        let history = lock(&self.history);
        let mut tally = *lock(&self.shared.counted);
        (tally.confirmed, tally.settled, tally.redelivered) = (history.confirmed, history.settled, history.redelivered);
        tally.sectors_lost = self.nodes.iter().map(|node| node.storage.injected().sectors_lost).sum();
        tally.errors = lock(&self.coordination).errors;
        (tally.once, tally.retained, tally.transactions) = (history.once.delivered, history.retained.seen, history.transactions.committed);
        (tally.expired, tally.dropped, tally.ranked) = (history.fates.expired, history.fates.dropped, history.fates.ranked);
        let found = self.nodes.iter().map(|node| node.found());
        (tally.truncations, tally.torn_tails, tally.evacuations) =
            found.fold((0, 0, 0), |sum, found| (sum.0 + found.truncations, sum.1 + found.torn_tails, sum.2 + found.evacuations));
        tally.digests = self.nodes.iter().map(|node| node.found().digests).sum();
        tally.polls = self.parts.world.polls();
        let trace = &self.parts.trace;
        trace.note(self.parts.world.elapsed(), &"end", &format!("{tally:?} {broken:?}"));
        let report = Report { hash: trace.hash(), tally, gap: history.gap, broken, lines: trace.lines() };
        drop(history);
        if ends {
            // The nodes hold each other's tasks.
            self.nodes.iter().for_each(|node| node.crash(Crash::Kill));
            self.parts.world.end();
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of runs follow each other in one process.
    #[test]
    fn a_run_leaves_nothing_behind() {
        let drill = Drill::new(Plan { scenario: Scenario::Kill, seed: 1, rounds: 2, broken: None });
        drill.go().expect("every promise holds");
        let serving = drill.nodes.iter().find_map(|node| node.serving()).expect("somebody serves");
        let journal = Arc::downgrade(serving.core.journal());
        drop(serving);
        let node = Arc::downgrade(&drill.nodes[0]);
        drill.report(None, true);
        drop(drill);
        assert_eq!((node.strong_count(), journal.strong_count()), (0, 0));
    }
}
