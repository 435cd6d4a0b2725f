//! The programs `carrick` and `carrick-witness`: they read the command line, put the parts together, and run them.

mod banner;
mod cli;
mod commands;
mod config;
mod dead_letter;
mod definitions;
mod door;
mod ha;
mod limits;
mod listeners;
mod logging;
mod memory;
mod protocols;
mod serve;
mod tls;
mod turnstile;
mod wiring;

use clap::Parser;
use cli::{Cli, Command, Tls, WitnessCli};
use std::process::ExitCode;

/// What the program `carrick` does.
pub fn carrick() -> ExitCode {
    let cli = Cli::parse();
    end(match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(flags)) => serve::run(&flags),
        Some(Command::Witness(flags)) => commands::witness::run_small(&flags),
        Some(Command::Ha(command)) => commands::ha::run(&command),
        Some(Command::Journal(command)) => commands::journal::run(&command),
        Some(Command::Bench(args)) => Ok(commands::bench::run(args)),
        Some(Command::Tls(Tls::Dev(arguments))) => commands::tls_dev::run(&arguments),
        Some(Command::HashPassword(args)) => commands::hash_password::run(&args),
    })
}

/// What the program `carrick-witness` does.
pub fn witness() -> ExitCode {
    end(commands::witness::run_for(&WitnessCli::parse()))
}

fn end(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("carrick: {error:#}");
        ExitCode::FAILURE
    })
}
