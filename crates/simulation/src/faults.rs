//! What goes wrong, and for how long.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use journal::sim::{Crash, Rng};
use replication::coordinator::{Call, Fault, MemoryCluster, NodeName};

use crate::tally::Errors;

/// What a run is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Processes die, and machines with what they had not synced.
    Kill,
    /// Processes are frozen and wake up.
    Stop,
    /// Paths between the nodes, or to the coordinator, carry nothing.
    Partition,
    /// Disks answer nothing for a while.
    DiskStall,
    /// Wall clocks jump.
    ClockJump,
    /// All of these at once, with disks that fail, and a coordinator that answers late, doubly or not at all.
    Chaos,
}

impl Scenario {
    pub const ALL: [(&'static str, Scenario); 6] = [
        ("kill", Scenario::Kill),
        ("stop", Scenario::Stop),
        ("partition", Scenario::Partition),
        ("disk-stall", Scenario::DiskStall),
        ("clock-jump", Scenario::ClockJump),
        ("chaos", Scenario::Chaos),
    ];
}

/// One fault. `who`: an index into the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    Crash {
        who: usize,
        kind: Crash,
        down: Duration,
    },
    /// The machine dies after so many more operations of its disk, between a write and its sync if need be.
    PowerCut {
        who: usize,
        operations: u64,
        down: Duration,
    },
    /// A process dies after so many operations of its disk, comes again with what the page cache kept, and then the machine dies, before much of
    /// it can have been synced.
    Twice {
        who: usize,
        first: u64,
        up: Duration,
        then: u64,
        down: Duration,
    },
    /// A sync but so many fails, and the machine dies soon after.
    BadSync {
        who: usize,
        after: u64,
        up: Duration,
        down: Duration,
    },
    /// A process dies, and its disk gives back something else than what had been synced: of who the store is, or of all its checkpoints.
    Damage {
        who: usize,
        checkpoints: bool,
        down: Duration,
    },
    /// Nothing goes wrong: the primary is stopped, or told to hand over.
    HandOver,
    Pause {
        who: usize,
        time: Duration,
    },
    Cut {
        paths: Vec<(usize, usize)>,
        from_coordinator: Vec<usize>,
        time: Duration,
    },
    /// One node's disk answers nothing, then power is gone everywhere, and comes back there first.
    Both {
        first: usize,
        stalled: Duration,
        between: Duration,
    },
    /// The link between the two breaks, and whoever dials reaches a primary of an earlier epoch that has not heard that it is none.
    Ghost {
        time: Duration,
    },
    /// The link between the two breaks, and no other comes about: at once, as where a firewall answers, so that nobody waits for a time-out.
    Reject {
        from_coordinator: Option<usize>,
        time: Duration,
    },
    Stall {
        who: usize,
        time: Duration,
    },
    /// The wall clock goes so many seconds forward or back.
    Jump {
        who: usize,
        forward: bool,
        seconds: u64,
    },
    /// The next sync, or write, but so many fails.
    SyncError {
        who: usize,
        after: u64,
    },
    WriteError {
        who: usize,
        after: u64,
    },
}

fn millis(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + rng.below(to - from))
}

/// `primary`: whom the register names; faults of one node are mostly his.
pub fn draw(scenario: Scenario, rng: &mut Rng, primary: usize) -> Trouble {
    let who = if rng.chance(70) { primary } else { 1 - primary };
    match scenario {
        Scenario::Kill => {
            let down = millis(rng, 20, 2500);
            match rng.below(8) {
                0 => Trouble::Crash { who, kind: Crash::Kill, down },
                1 => Trouble::Twice { who, first: rng.below(12), up: millis(rng, 1, 60), then: rng.below(12), down },
                2 => Trouble::BadSync { who, after: rng.below(6), up: millis(rng, 5, 80), down },
                3 => Trouble::Crash { who, kind: Crash::PowerCut, down },
                // The standby first, as a rule: it may serve only if it cannot lack anything.
                5 => Trouble::Damage { who, checkpoints: rng.chance(50), down },
                4 => Trouble::Both { first: 1 - who, stalled: millis(rng, 5, 300), between: down },
                _ => Trouble::PowerCut { who, operations: rng.below(12), down },
            }
        }
        Scenario::Stop if rng.chance(12) => Trouble::HandOver,
        Scenario::Stop => Trouble::Pause { who, time: if rng.chance(50) { millis(rng, 20, 600) } else { millis(rng, 600, 10_000) } },
        Scenario::Partition if rng.chance(8) => Trouble::Ghost { time: millis(rng, 100, 1500) },
        Scenario::Partition if rng.chance(25) => {
            // A primary that hears nothing of another one serves until its lease ends.
            let from_coordinator = rng.chance(50).then_some(primary);
            Trouble::Reject { from_coordinator, time: millis(rng, 100, 3000) }
        }
        Scenario::Partition => {
            let other = 1 - who;
            let (paths, from_coordinator) = match rng.below(6) {
                // The two from each other.
                0 => (vec![(0, 1), (1, 0)], vec![]),
                // One from everybody.
                1 | 2 => (vec![(0, 1), (1, 0)], vec![who]),
                // One way.
                3 => (vec![(who, other)], vec![]),
                // One from the coordinator.
                4 => (vec![], vec![who]),
                // Both from the coordinator.
                _ => (vec![], vec![0, 1]),
            };
            Trouble::Cut { paths, from_coordinator, time: millis(rng, 100, 5000) }
        }
        Scenario::DiskStall => Trouble::Stall { who, time: if rng.chance(40) { millis(rng, 50, 1000) } else { millis(rng, 4000, 6000) } },
        Scenario::ClockJump => Trouble::Jump { who, forward: rng.chance(50), seconds: 1 + rng.below(7200) },
        Scenario::Chaos => match rng.below(20) {
            0..6 => draw(Scenario::Kill, rng, primary),
            6..9 => draw(Scenario::Stop, rng, primary),
            9..14 => draw(Scenario::Partition, rng, primary),
            14..16 => draw(Scenario::DiskStall, rng, primary),
            16 => draw(Scenario::ClockJump, rng, primary),
            17..19 => Trouble::SyncError { who, after: rng.below(60) },
            _ => Trouble::WriteError { who, after: rng.below(200) },
        },
    }
}

/// Who cannot reach the coordinator, and whether it errs.
#[derive(Default)]
pub struct Coordination {
    pub cut: BTreeSet<NodeName>,
    pub errs: bool,
    /// What was done to calls.
    pub errors: Errors,
}

/// Puts the faults of a coordinator in front of it.
pub fn coordinate(cluster: &MemoryCluster, seed: u64) -> Arc<Mutex<Coordination>> {
    let coordination: Arc<Mutex<Coordination>> = Arc::default();
    let (shared, mut rng) = (coordination.clone(), Rng::new(seed ^ 0xc00d));
    cluster.set_faults(move |node, call| {
        let mut now = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if now.cut.contains(node) {
            return Fault::Refused;
        }
        // Also where nothing errs, an answer takes its time.
        let slow = |rng: &mut Rng, most: u64| {
            Fault::Slow(Duration::from_micros(200 + rng.below(most)), Duration::from_micros(200 + rng.below(most)))
        };
        if !now.errs || rng.chance(75) {
            return slow(&mut rng, 2000);
        }
        let (fault, counted) = match rng.below(8) {
            0..3 => (slow(&mut rng, 60_000), &mut now.errors.slow),
            3 => (Fault::LostBefore, &mut now.errors.lost),
            4 => (Fault::LostAfter, &mut now.errors.lost),
            5 if call == Call::Cas => (Fault::LostThenDone(Duration::from_micros(rng.below(200_000))), &mut now.errors.done_late),
            6 if call == Call::Cas => (Fault::Doubled, &mut now.errors.doubled),
            _ => (Fault::Refused, &mut now.errors.refused),
        };
        *counted += 1;
        fault
    });
    coordination
}
