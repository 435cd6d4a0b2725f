//! `carrick ha`: asks the nodes of a pair over HTTP, and asks something of them.
//!
//! Exit codes: 0 all is well, 1 nothing could be asked or it was refused, 2 a wrong command line, 3 answers came, and something is wrong with the
//! pair. `drill` asks nobody: 0 the promises held, 1 one was broken.

mod client;
mod drill;
mod status;

use crate::cli::{Ha, HaTarget};
use admin::ha::{Done, Pair, Promote};
use anyhow::{ensure, Context, Result};
use client::Client;
use serde_json::json;
use std::process::ExitCode;

/// Answers came, and not all is well.
const UNWELL: u8 = 3;

pub fn run(command: &Ha) -> Result<ExitCode> {
    match command {
        Ha::Drill(args) => Ok(drill::run(args)),
        Ha::Status { target, json } => {
            let seen = status::ask(&clients(target)?);
            print!("{}", if *json { status::as_json(&seen) } else { status::as_text(&seen) });
            Ok(match status::judge(&seen) {
                status::Health::Well => ExitCode::SUCCESS,
                status::Health::Unwell => ExitCode::from(UNWELL),
                status::Health::Unknown => ExitCode::FAILURE,
            })
        }
        Ha::Switchover { target } => {
            let clients = clients(target)?;
            let done: Done = primary(&clients)?.post("/api/ha/switchover", &json!(null))?;
            println!("{} is primary now", done.node);
            Ok(ExitCode::SUCCESS)
        }
        Ha::Promote { target, epoch } => {
            let clients = clients(target)?;
            ensure!(clients.len() == 1, "promote: one --url, that of the standby");
            let done: Done = clients[0].post("/api/ha/promote", &json!(Promote { epoch: *epoch }))?;
            println!("{} is primary now", done.node);
            Ok(ExitCode::SUCCESS)
        }
        Ha::Join { target } => {
            let clients = clients(target)?;
            ensure!(clients.len() == 1, "join: one --url, that of the standby");
            let done: Done = clients[0].post("/api/ha/join", &json!(null))?;
            println!("it takes a copy of {}'s store; carrick ha status says when it is in sync", done.node);
            Ok(ExitCode::SUCCESS)
        }
        Ha::ReplaceVoter { voter, target } => {
            let clients = clients(target)?;
            let asked = clients.iter().find(|client| client.get::<Pair>("/api/ha").is_ok()).or(clients.first());
            let asked = asked.context("--url: where a node of the pair is")?;
            let done: Done = asked.post("/api/ha/replace-voter", &json!({ "voter": voter }))?;
            println!("{} votes again", done.node);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Of those that were named, the one that says that it is primary; the only one, whatever it says.
fn primary(clients: &[Client]) -> Result<&Client> {
    if let [only] = clients {
        return Ok(only);
    }
    let is_primary = |client: &&Client| client.get::<Pair>("/api/ha").is_ok_and(|pair| pair.role == "primary");
    clients.iter().find(is_primary).context("none of these nodes answers that it is primary; see carrick ha status")
}

fn clients(target: &HaTarget) -> Result<Vec<Client>> {
    target.urls.iter().map(|url| Client::new(url, &target.user)).collect()
}
