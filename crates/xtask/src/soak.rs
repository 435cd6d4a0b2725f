//! The long versions: loops, floods and full-length fuzzing. Never behind a switch of the tests; their dated results stand in docs.

use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::registry::{Suite, SUITES};
use crate::runner::{self, Runner};
use crate::Options;

const DEFAULT: Duration = Duration::from_secs(600);

/// Runs each long suite for the given duration, one after the other.
pub fn soak(context: &Context, options: &Options) -> Result<bool> {
    let suites: Vec<&Suite> = SUITES.iter().filter(|suite| suite.soak.is_some()).collect();
    if options.list {
        runner::list(&suites);
        return Ok(true);
    }
    options.check_names(&suites.iter().map(|suite| suite.name).collect::<Vec<_>>())?;
    let duration = options.duration.unwrap_or(DEFAULT);
    let mut runner = Runner::new(context);
    for suite in suites.into_iter().filter(|suite| options.wants(suite.name)) {
        if let Some(commands) = suite.soak {
            runner.run(suite, commands, Some(duration));
        }
    }
    Ok(runner.finish())
}
