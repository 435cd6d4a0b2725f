//! `carrick journal inspect` and `verify`: a data directory, looked at without changing it.

use crate::cli::Journal;
use anyhow::{Context, Result};
use journal::OpenError;
use std::io::Write;
use std::process::ExitCode;

/// What was asked could not be done; 1 is kept for "done, and there is damage".
const COULD_NOT: u8 = 2;

pub fn run(command: &Journal) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let (dir, found) = match command {
        Journal::Inspect { dir } => (dir, journal::inspect::run(dir, &mut out).map(|()| true)),
        Journal::Verify { dir } => (dir, journal::verify::run(dir, &mut out).map(|report| report.problems.is_empty())),
    };
    out.flush().context("writing to standard output")?;
    match found {
        Ok(sound) => Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Err(error) => {
            eprintln!("carrick journal: {}: {error}", dir.display());
            let about_the_data =
                !matches!(error, OpenError::Io { .. } | OpenError::Locked { .. } | OpenError::Config(_) | OpenError::NoStore);
            Ok(if about_the_data { ExitCode::FAILURE } else { ExitCode::from(COULD_NOT) })
        }
    }
}
