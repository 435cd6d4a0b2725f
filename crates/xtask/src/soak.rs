//! The long versions: loops, floods and full-length fuzzing. Never behind a switch of the tests; their dated results stand in docs.

use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::registry::{Suite, SUITES};
use crate::runner::{self, Runner};
use crate::{soak_simulation, Options};

const DEFAULT: Duration = Duration::from_secs(600);
const SIMULATION: &str = "simulation";

/// Runs each long suite for the given duration, one after the other.
pub fn soak(context: &Context, options: &Options) -> Result<bool> {
    let suites: Vec<&Suite> = SUITES.iter().filter(|suite| suite.soak.is_some()).collect();
    if options.list {
        runner::list(&suites);
        println!("{SIMULATION:<12} the pair in a simulation, seed after seed from where the last run ended (--from, --seeds)");
        return Ok(true);
    }
    let names: Vec<&str> = suites.iter().map(|suite| suite.name).chain([SIMULATION]).collect();
    options.check_names(&names)?;
    let duration = options.duration.unwrap_or(DEFAULT);
    // By itself, since it counts seeds and not tests.
    let holds = !options.wants(SIMULATION) || soak_simulation::run(context, options, duration)?;
    if options.only == [SIMULATION] {
        return Ok(holds);
    }
    let mut runner = Runner::new(context);
    for suite in suites.into_iter().filter(|suite| options.wants(suite.name)) {
        if let Some(commands) = suite.soak {
            runner.run(suite, commands, Some(duration));
        }
    }
    Ok(runner.finish() && holds)
}
