//! `carrick ha drill`: the pair in a simulation, before it has to stand up in earnest.

use crate::cli::Drill;
use simulation::{run as simulate, Plan, Report, Scenario, Shares, BREAKS};
use std::process::ExitCode;

pub fn run(args: &Drill) -> ExitCode {
    let scenario = Scenario::ALL.iter().find(|(name, _)| *name == args.scenario).map_or(Scenario::Kill, |(_, scenario)| *scenario);
    let broken = args.mutant.as_ref().and_then(|name| BREAKS.iter().find(|(known, ..)| known == name)).map(|(_, broken, _)| *broken);
    let mut shares = Shares::default();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let report = simulate(Plan { scenario, seed, rounds: args.faults, broken });
        if args.verbose {
            report.lines.iter().for_each(|line| println!("{line}"));
        }
        tell(args, seed, &report);
        shares.add(&report.tally);
        if report.broken.is_some() {
            return ExitCode::FAILURE;
        }
    }
    if args.seeds > 1 {
        println!("{shares}");
    }
    ExitCode::SUCCESS
}

fn tell(args: &Drill, seed: u64, report: &Report) {
    let tally = &report.tally;
    println!("{} seed {seed} trace {:016x}", args.scenario, report.hash);
    println!(
        "  {} faults, {} promotions, {} shrinks, {} growths, {} processes that ended by themselves",
        tally.faults, tally.promotions, tally.shrinks, tally.growths, tally.restarts
    );
    println!(
        "  {} confirmed, {} settled, {} delivered again; longest time without a confirm {} ms",
        tally.confirmed,
        tally.settled,
        tally.redelivered,
        report.gap.as_millis()
    );
    println!(
        "  {} at QoS 2 came once, {} transactions, {} looks at a retained message; {} ranges evacuated, {} tails cut off, {} torn",
        tally.once, tally.transactions, tally.retained, tally.evacuations, tally.truncations, tally.torn_tails
    );
    match &report.broken {
        None => println!("  every promise held"),
        Some(broken) => println!("  BROKEN {broken}"),
    }
}
