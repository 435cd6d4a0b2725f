//! Every scenario from many seeds, every deliberate fault, and the same seed twice.

use simulation::{run, Counts, Errors, Plan, Report, Scenario, Shares, Tally, BREAKS};

/// Faults of one run, and steps that it has at least.
const ROUNDS: u64 = 2;
const STEPS: u64 = 10_000;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("CARRICK_FIRST_SEED").unwrap_or(0);
    first..first + number("CARRICK_SEEDS").unwrap_or(84)
}

fn plan(scenario: Scenario, seed: u64) -> Plan {
    Plan { scenario, seed, rounds: ROUNDS, broken: None }
}

fn fails(report: &Report, scenario: Scenario, seed: u64) -> String {
    let tail = report.lines[report.lines.len().saturating_sub(60)..].join("\n");
    format!("{scenario:?}, seed {seed}: {:?}\n{tail}", report.broken)
}

fn series(scenario: Scenario, shares: &mut Shares) -> Tally {
    let mut all = Tally::default();
    for seed in seeds() {
        let report = run(plan(scenario, seed));
        assert!(report.broken.is_none(), "{}", fails(&report, scenario, seed));
        assert!(report.tally.polls >= STEPS, "{scenario:?}, seed {seed}: {:?}", report.tally);
        all.add(&report.tally);
        shares.add(&report.tally);
    }
    println!("{scenario:?}: {all:?}");
    let Counts { confirmed, faults, once, retained, transactions, expired, dropped, ranked, recounts, digests, .. } = all.counts;
    let busy = [confirmed, once, transactions, expired, dropped, ranked, recounts, digests];
    assert!(busy.iter().all(|count| *count > 1000) && faults > 0 && retained > 0, "{all:?}");
    all
}

/// 504 seeds, on two threads: what happens in each of the scenarios, and in how many of all seeds.
#[test]
fn every_promise_holds_in_every_scenario() {
    let half = |of: [Scenario; 3]| {
        let mut shares = Shares::default();
        (of.map(|scenario| series(scenario, &mut shares)), shares)
    };
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| half([Scenario::Stop, Scenario::DiskStall, Scenario::ClockJump]));
        let first = half([Scenario::Kill, Scenario::Partition, Scenario::Chaos]);
        (first, other.join().unwrap())
    });
    let ([kill, partition, chaos], [stop, stall, _]) = (first.0, second.0);
    assert!(kill.shrinks > 0 && kill.growths > 0 && kill.sectors_lost > 0 && kill.damaged > 0, "{kill:?}");
    assert!([&kill, &partition, &chaos, &stop, &stall].iter().all(|all| all.promotions > 0));
    assert!(partition.shrinks > 0 && stop.shrinks > 0 && stall.restarts > 0 && stop.handovers > 0);
    let Errors { slow, lost, done_late, doubled, refused } = chaos.errors;
    assert!([slow, lost, done_late, doubled, refused].iter().all(|count| *count > 0), "{:?}", chaos.errors);
    let mut shares = first.1;
    shares.merge(&second.1);
    println!("{shares}");
    // Each at least in every twentieth seed.
    shares.percent().for_each(|(name, percent)| assert!(percent >= 5.0, "{name}: {shares}"));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2] {
        let (one, two) = (run(plan(Scenario::Chaos, seed)), run(plan(Scenario::Chaos, seed)));
        let differs = one.lines.iter().zip(&two.lines).find(|(one, two)| one != two);
        assert_eq!((one.hash, one.tally), (two.hash, two.tally), "{differs:?}");
    }
    assert_ne!(run(plan(Scenario::Chaos, 1)).hash, run(plan(Scenario::Chaos, 2)).hash);
}

/// Where none of so many seeds notices a deliberate fault, it has not been noticed.
const SEEDS_OF_A_BREAK: u64 = 300;

#[test]
fn every_deliberate_fault_is_noticed() {
    let only = std::env::var("CARRICK_BREAK").ok();
    let mut survivors = Vec::new();
    for (name, broken, scenario) in BREAKS.into_iter().filter(|(name, ..)| only.as_ref().is_none_or(|only| only == name)) {
        let found = (0..SEEDS_OF_A_BREAK).find_map(|seed| {
            let report = run(Plan { scenario, seed, rounds: 6, broken: Some(broken) });
            report.broken.map(|broken| (seed, broken))
        });
        match found {
            Some((seed, broken)) => println!("{name}: {scenario:?}, seed {seed}: {broken}"),
            None => survivors.push(name),
        }
    }
    assert!(survivors.is_empty(), "not noticed: {survivors:?}");
}
