//! The workspace's commands.
//!
//! `cargo xtask test` runs the suites of [`registry`] in order, each bounded in time. `cargo xtask soak` runs their long versions.
//! `cargo xtask check` is everything that is not a test: format, lints, docs, licences, tidiness.

mod check;
mod clients;
mod context;
mod counts;
mod differential;
mod failover;
mod fuzz;
mod needs;
mod process;
mod registry;
mod runner;
mod soak;
mod soak_simulation;
mod tidy;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context as _, Result};

use crate::context::Context;

const USAGE: &str = "\
usage: cargo xtask test  [--only SUITE,..] [--list]
       cargo xtask soak  [--duration 10m] [--only SUITE,..] [--from SEED] [--seeds N] [--list]
       cargo xtask check [--only STEP,..] [--list]
       cargo xtask tidy
       cargo xtask clients [--broker carrick|mosquitto|rabbitmq] [--only CLIENT,..] [--list]
       cargo xtask differential [--only WORDS OF A TITLE,..] [--record]
       cargo xtask differential-stomp [--only WORDS OF A TITLE,..]
       cargo xtask failover [--only SCENARIO,..] [--soak]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(args: &[String]) -> Result<bool> {
    process::stop_children_on_signals()?;
    let Some((command, rest)) = args.split_first() else { bail!("no command given\n{USAGE}") };
    let context = Context::from_env()?;
    match command.as_str() {
        "test" => {
            let options = Options::parse(rest, &["--only", "--list"])?;
            runner::test(&context, &options)
        }
        "soak" => {
            let options = Options::parse(rest, &["--only", "--list", "--duration", "--from", "--seeds"])?;
            soak::soak(&context, &options)
        }
        "check" => {
            let options = Options::parse(rest, &["--only", "--list"])?;
            check::check(&context, &options)
        }
        "clients" => {
            let options = Options::parse(rest, &["--only", "--list", "--broker"])?;
            clients::clients(&context, &options)
        }
        "differential" => {
            let options = Options::parse(rest, &["--only", "--record"])?;
            differential::differential(&context, &options)
        }
        "differential-stomp" => {
            let options = Options::parse(rest, &["--only"])?;
            differential::stomp(&context, &options)
        }
        "failover" => {
            let options = Options::parse(rest, &["--only", "--soak"])?;
            failover::failover(&context, &options)
        }
        "fuzz" => {
            Options::parse(rest, &[])?;
            fuzz::fuzz(&context)
        }
        "tidy" => {
            Options::parse(rest, &[])?;
            tidy::tidy(&context)
        }
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(true)
        }
        other => bail!("no command '{other}'\n{USAGE}"),
    }
}

/// The options of every command; a command names those it takes.
#[derive(Debug, Default)]
pub struct Options {
    pub only: Vec<String>,
    pub list: bool,
    pub duration: Option<Duration>,
    pub broker: Option<String>,
    pub record: bool,
    /// The long form.
    pub soak: bool,
    /// Of the simulation: the first seed, and how many.
    pub from: Option<u64>,
    pub seeds: Option<u64>,
}

impl Options {
    fn parse(args: &[String], allowed: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (arg.as_str(), None),
            };
            if !allowed.contains(&name) {
                bail!("no option '{arg}' here\n{USAGE}");
            }
            match name {
                "--list" => options.list = true,
                "--record" => options.record = true,
                "--soak" => options.soak = true,
                _ => {}
            }
            if matches!(name, "--list" | "--record" | "--soak") {
                continue;
            }
            let value = inline.or_else(|| args.next().cloned()).with_context(|| format!("{name} needs a value\n{USAGE}"))?;
            match name {
                "--only" => options.only.extend(value.split(',').map(str::trim).filter(|s| !s.is_empty()).map(String::from)),
                "--broker" => options.broker = Some(value),
                "--from" => options.from = Some(value.parse().with_context(|| format!("'{value}' is no seed"))?),
                "--seeds" => options.seeds = Some(value.parse().with_context(|| format!("'{value}' is no number of seeds"))?),
                "--duration" => options.duration = Some(parse_duration(&value)?),
                _ => unreachable!("every allowed option is handled"),
            }
        }
        Ok(options)
    }

    /// Refuses a misspelt `--only`, so that it cannot pass by running nothing.
    pub fn check_names(&self, known: &[&str]) -> Result<()> {
        for name in &self.only {
            if !known.contains(&name.as_str()) {
                bail!("nothing here is called '{name}'; there are: {}", known.join(", "));
            }
        }
        Ok(())
    }

    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// `90`, `90s`, `10m`, `2h`.
fn parse_duration(text: &str) -> Result<Duration> {
    let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => bail!("'{text}' is no duration; write 90s, 10m or 2h"),
    };
    let amount: u64 = digits.parse().with_context(|| format!("'{text}' is no duration; write 90s, 10m or 2h"))?;
    Ok(Duration::from_secs(amount.saturating_mul(factor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options> {
        let args: Vec<String> = args.iter().map(|s| s.to_string()).collect();
        Options::parse(&args, &["--only", "--list", "--duration"])
    }

    #[test]
    fn options_repeat_split_and_refuse() {
        let options = parse(&["--only", "a,b", "--only=c", "--duration", "2m"]).unwrap();
        assert_eq!(options.only, ["a", "b", "c"]);
        assert_eq!(options.duration, Some(Duration::from_secs(120)));
        assert!(options.check_names(&["a", "b"]).is_err());
        assert!(parse(&["--onyl", "a"]).is_err());
        assert!(parse(&["--duration"]).is_err());
        assert!(parse(&["--duration", "5d"]).is_err());
    }
}
