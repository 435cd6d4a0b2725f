//! `carrick ha`: asks the nodes of a pair over HTTP, and asks something of them.
//!
//! Exit codes: 0 all is well, 1 nothing could be asked or it was refused, 2 a wrong command line, 3 answers came, and something is wrong with the pair.

mod client;
mod status;

use crate::cli::{Ha, HaTarget};
use anyhow::Result;
use client::Client;
use std::process::ExitCode;

/// Answers came, and not all is well.
const UNWELL: u8 = 3;

pub fn run(command: &Ha) -> Result<ExitCode> {
    match command {
        Ha::Status { target, json } => {
            let seen = status::ask(&clients(target)?);
            print!("{}", if *json { status::as_json(&seen) } else { status::as_text(&seen) });
            Ok(match status::judge(&seen) {
                status::Health::Well => ExitCode::SUCCESS,
                status::Health::Unwell => ExitCode::from(UNWELL),
                status::Health::Unknown => ExitCode::FAILURE,
            })
        }
    }
}

fn clients(target: &HaTarget) -> Result<Vec<Client>> {
    target.urls.iter().map(|url| Client::new(url, &target.user)).collect()
}
