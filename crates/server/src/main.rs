//! `carrick`: reads the command line, puts the parts together, and runs them.

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
use cli::{Cli, Command, Tls};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(flags)) => serve::run(&flags),
        Some(Command::Witness(flags)) => commands::witness::run(&flags),
        Some(Command::Ha(command)) => commands::ha::run(&command),
        Some(Command::Journal(command)) => commands::journal::run(&command),
        Some(Command::Bench(args)) => Ok(commands::bench::run(args)),
        Some(Command::Tls(Tls::Dev(arguments))) => commands::tls_dev::run(&arguments),
        Some(Command::HashPassword(args)) => commands::hash_password::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("carrick: {error:#}");
        ExitCode::FAILURE
    })
}
