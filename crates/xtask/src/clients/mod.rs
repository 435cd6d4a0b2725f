//! `cargo xtask clients`: other people's clients against a real broker process, Carrick by default.
//!
//! Each program of tests/clients gets a broker of its own and prints a TAP line per scenario; at most two run at a time.

mod activemq;
pub mod broker;
mod control;
pub mod programs;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};

use self::broker::{Broker, Kind};
use self::control::Control;
use self::programs::{Program, Shop, PROGRAMS};
use crate::context::Context;
use crate::counts::{Counts, TapLine, TapResult};
use crate::{process, runner, Options};

/// For one program, broker restarts included.
const LIMIT: Duration = Duration::from_secs(120);
const AT_A_TIME: usize = 2;

pub fn clients(context: &Context, options: &Options) -> Result<bool> {
    let names: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
    if options.list {
        println!("{}", names.join("\n"));
        return Ok(true);
    }
    options.check_names(&names)?;
    let kind = match options.broker.as_deref() {
        None | Some("carrick") => Kind::Carrick(context.release_binary()?),
        Some("mosquitto") => {
            crate::needs::Need::Mosquitto.ensure(context).map_err(anyhow::Error::msg)?;
            Kind::mosquitto()?
        }
        Some("rabbitmq") => {
            crate::needs::Need::RabbitMq.ensure(context).map_err(anyhow::Error::msg)?;
            Kind::rabbitmq()?
        }
        Some(other) => bail!("no broker '{other}'; there are carrick, mosquitto and rabbitmq"),
    };
    let wanted = PROGRAMS.iter().filter(|program| options.wants(program.name) && kind.speaks(program.speaks));
    let queue: Mutex<VecDeque<&Program>> = Mutex::new(wanted.collect());
    // One at a time: two apt-get cannot run side by side.
    let needs = Mutex::new(());
    let total = Mutex::new(Counts::default());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| loop {
                let Some(program) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { return };
                let counts = one(context, &kind, program, &needs);
                total.lock().unwrap_or_else(PoisonError::into_inner).add(counts);
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("# {} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(total.failed == 0)
}

fn one(context: &Context, kind: &Kind, program: &Program, needs: &Mutex<()>) -> Counts {
    let mut counts = Counts::default();
    let name = program.name;
    {
        let _alone = needs.lock().unwrap_or_else(PoisonError::into_inner);
        for need in program.needs {
            if let Err(why) = need.ensure(context) {
                runner::note_missing(context, &mut counts, name, &why);
                println!(
                    "{}ok - {name}{}",
                    if context.ci { "not " } else { "" },
                    if context.ci { format!(": {why}") } else { format!(" # SKIP {why}") }
                );
                return counts;
            }
        }
    }
    if let Err(error) = attempt(context, kind, program, &mut counts) {
        println!("not ok - {name}: {}", format!("{error:#}").replace('\n', "\n# "));
        counts.fail(name);
    }
    counts
}

fn attempt(context: &Context, kind: &Kind, program: &Program, counts: &mut Counts) -> Result<()> {
    let name = program.name;
    let logs = context.dir("logs")?;
    let log = |part: &str| -> Result<PathBuf> {
        let path = logs.join(format!("clients-{name}{part}.log"));
        let _ = fs::remove_file(&path);
        Ok(path)
    };
    let shop = Shop {
        context,
        source: context.root.join("tests/clients").join(name),
        work: context.dir(&format!("clients/{name}"))?,
        log: log("-build")?,
    };
    let start = Instant::now();
    let mut command = (program.prepare)(&shop)?;
    let prepared = start.elapsed();

    let data = context.dir("tmp")?.join(format!("clients-{name}"));
    let _ = fs::remove_dir_all(&data);
    let broker = Broker::start(kind.clone(), &data, &log("-broker")?)?;
    let ports = broker.ports();
    let control = Control::start(broker)?;
    for (here, port) in program.speaks.doors(ports) {
        let mut tell = |name: &str, value: &str| {
            command.env(format!("{here}_{name}"), value);
        };
        tell("HOST", "127.0.0.1");
        tell("PORT", &port.to_string());
        tell("USER", "guest");
        tell("PASSWORD", "guest");
        tell("CONTROL", &control.address.to_string());
    }
    command.envs(ports.web()).envs(ports.tls()).env("TLS_DIR", data.join(broker::TLS_DIR));
    let (refused_v3, refused_v5) = kind.refusals();
    command.env("MQTT_REFUSED_V3", refused_v3).env("MQTT_REFUSED_V5", refused_v5);
    let output = log("")?;
    let outcome = process::run(command, &output, LIMIT)?;

    let failed_before = counts.failed;
    report(kind, program, &fs::read_to_string(&output).unwrap_or_default(), counts);
    println!("# {name}: fetched and built in {:.0} s, ran in {:.0} s", prepared.as_secs_f64(), outcome.took.as_secs_f64());
    // A program exits non-zero for a scenario that is known to differ, too.
    if outcome.timed_out || (!outcome.success && outcome.status.and_then(|status| status.code()) != Some(1)) {
        counts.fail(format!("{name}{}", outcome.why()));
        println!("not ok - {name}{}", outcome.why());
    }
    if counts.failed > failed_before {
        println!("{}", process::tail(&output, 40).lines().map(|line| format!("# {line}\n")).collect::<String>());
    }
    control.finish()?;
    if counts.failed == failed_before {
        let _ = fs::remove_dir_all(&data);
    }
    Ok(())
}

/// Counts a program's results under its name, and what it never reported as failed.
fn report(kind: &Kind, program: &Program, text: &str, counts: &mut Counts) {
    let mut missing = programs::expected(program);
    for line in text.lines().filter_map(TapLine::parse) {
        let scenario = line.name.split(':').next().unwrap_or_default().to_string();
        missing.retain(|expected| *expected != scenario);
        let name = format!("{}/{}", program.name, line.name);
        match (line.result, kind.differs(program.name, &scenario)) {
            (TapResult::Passed, _) => {
                println!("ok - {name}");
                counts.passed += 1;
            }
            (TapResult::Failed, None) => {
                println!("not ok - {name}");
                counts.fail(name);
            }
            (TapResult::Failed, Some(reason)) => {
                println!("ok - {}/{scenario} # SKIP {reason}", program.name);
                counts.skip(format!("{}/{scenario} ({reason})", program.name));
            }
            (TapResult::Skipped(reason), _) => {
                println!("ok - {name} # SKIP {reason}");
                counts.skip(format!("{name} ({reason})"));
            }
        }
    }
    for scenario in missing {
        println!("not ok - {}/{scenario}: no result", program.name);
        counts.fail(format!("{}/{scenario}: no result", program.name));
    }
}

#[cfg(test)]
mod tests {
    use super::programs::Speaks;
    use super::*;

    #[test]
    fn a_scenario_that_is_not_reported_has_failed() {
        let program = Program { name: "some", needs: &[], speaks: Speaks::Mqtt(&["v5"]), prepare: |_| bail!("not run") };
        let expected = programs::expected(&program);
        let mut text: String = expected.iter().skip(1).map(|name| format!("ok - {name}\n")).collect();
        let mut counts = Counts::default();
        report(&Kind::Carrick(PathBuf::new()), &program, &text, &mut counts);
        assert_eq!((counts.passed, counts.failed), (expected.len() as u64 - 1, 1));
        text += &format!("not ok - {}: because\n", expected[0]);
        let mut counts = Counts::default();
        report(&Kind::Carrick(PathBuf::new()), &program, &text, &mut counts);
        assert_eq!(counts.failures, [format!("some/{}: because", expected[0])]);
    }

    #[test]
    fn only_a_known_difference_is_forgiven() {
        let kind = Kind::Mosquitto(PathBuf::new());
        assert!(kind.differs("mqttjs", "v5/takeover-142").is_some());
        assert!(kind.differs("mqttjs", "v5/takeover").is_none());
        assert!(Kind::Carrick(PathBuf::new()).differs("mqttjs", "v5/takeover-142").is_none());
    }
}
