//! Every scenario from many seeds, every deliberate fault, and the same seed twice.

use simulation::{run, Mutant, Plan, Report, Scenario, Tally, MUTANTS};

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("CARRICK_FIRST_SEED").unwrap_or(0);
    first..first + number("CARRICK_SEEDS").unwrap_or(12)
}

fn plan(scenario: Scenario, seed: u64) -> Plan {
    Plan { scenario, seed, mutant: None }
}

fn fails(report: &Report, scenario: Scenario, seed: u64) -> String {
    let tail = report.lines[report.lines.len().saturating_sub(60)..].join("\n");
    format!("{scenario:?}, seed {seed}: {:?}\n{tail}", report.broken)
}

fn series(scenario: Scenario) -> Tally {
    let mut all = Tally::default();
    for seed in seeds() {
        let report = run(plan(scenario, seed));
        assert!(report.broken.is_none(), "{}", fails(&report, scenario, seed));
        all.add(&report.tally);
    }
    println!("{scenario:?}: {all:?}");
    assert!(all.confirmed > 1000 && all.faults > 0, "{all:?}");
    all
}

#[test]
fn kill() {
    let all = series(Scenario::Kill);
    assert!(all.promotions > 0 && all.shrinks > 0 && all.growths > 0 && all.sectors_lost > 0, "{all:?}");
}

#[test]
fn stop() {
    let all = series(Scenario::Stop);
    assert!(all.promotions > 0 && all.shrinks > 0, "{all:?}");
}

#[test]
fn partition() {
    let all = series(Scenario::Partition);
    assert!(all.promotions > 0 && all.shrinks > 0, "{all:?}");
}

#[test]
fn disk_stall() {
    let all = series(Scenario::DiskStall);
    assert!(all.promotions > 0 && all.restarts > 0, "{all:?}");
}

#[test]
fn clock_jump() {
    series(Scenario::ClockJump);
}

#[test]
fn chaos() {
    let all = series(Scenario::Chaos);
    assert!(all.promotions > 0 && all.coordinator_faults > 0, "{all:?}");
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

#[test]
fn every_deliberate_fault_is_noticed() {
    for (name, mutant) in MUTANTS {
        let scenario = match mutant {
            Mutant::UnearnedKeepalive => Scenario::DiskStall,
            Mutant::AckBeforeSync | Mutant::ShrinkEarly => Scenario::Kill,
            Mutant::OutliveLease => Scenario::Partition,
            Mutant::GrowLate | Mutant::CasByEpoch | Mutant::IgnoreLease => Scenario::Chaos,
        };
        let found = (0..300).find_map(|seed| {
            let report = run(Plan { scenario, seed, mutant: Some(mutant) });
            report.broken.map(|broken| (seed, broken))
        });
        let (seed, broken) = found.unwrap_or_else(|| panic!("{name} was not noticed"));
        println!("{name}: {scenario:?}, seed {seed}: {broken}");
    }
}
