//! `carrick bench`: the load tool of the crate of that name.

use std::process::ExitCode;

/// 0: every check held; 1: messages were lost, repeated or reordered; 2: it could not run.
pub fn run(args: bench::Args) -> ExitCode {
    match bench::run(args) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("carrick bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
