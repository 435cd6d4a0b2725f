//! `carrick hash-password`: a password in, its argon2id hash or SCRAM verifier out.

use crate::cli;
use anyhow::{bail, Context, Result};
use broker::auth::{hash_password, scram_verifier, ScramAlgorithm};
use rustix::termios::{tcgetattr, tcsetattr, LocalModes, OptionalActions};
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

pub fn run(args: &cli::HashPassword) -> Result<ExitCode> {
    let password = if std::io::stdin().is_terminal() { ask()? } else { read_line()? };
    if password.is_empty() {
        bail!("the password is empty");
    }
    let stored = match args.scram {
        None => hash_password(&password),
        Some(cli::Scram::Sha256) => scram_verifier(ScramAlgorithm::Sha256, &password)?,
        Some(cli::Scram::Sha512) => scram_verifier(ScramAlgorithm::Sha512, &password)?,
    };
    println!("{stored}");
    Ok(ExitCode::SUCCESS)
}

/// Twice, without showing it.
fn ask() -> Result<String> {
    let first = prompt("Password: ")?;
    if prompt("Again: ")? != first {
        bail!("the two are not the same");
    }
    Ok(first)
}

fn prompt(text: &str) -> Result<String> {
    eprint!("{text}");
    std::io::stderr().flush()?;
    let stdin = std::io::stdin();
    let shown = tcgetattr(&stdin).context("the terminal does not answer")?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).context("the terminal cannot hide what is typed")?;
    let line = read_line();
    tcsetattr(&stdin, OptionalActions::Flush, &shown).context("the terminal could not be set back")?;
    eprintln!();
    line
}

fn read_line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("standard input is not text")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
