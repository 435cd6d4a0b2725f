//! `cargo xtask differential`: the same conversations with RabbitMQ and with Carrick.

use std::fs;
use std::time::Duration;

use anyhow::Result;

use crate::clients::broker::{Broker, Kind};
use crate::context::Context;
use crate::needs::Need;
use crate::{process, Options};

/// Conversations at a time, each in a virtual host of its own.
const AT_A_TIME: usize = 6;
const LIMIT: Duration = Duration::from_secs(300);

pub fn differential(context: &Context, options: &Options) -> Result<bool> {
    Need::RabbitMq.ensure(context).map_err(anyhow::Error::msg)?;
    let data = context.dir("tmp")?.join("differential");
    let _ = fs::remove_dir_all(&data);
    let logs = context.dir("logs")?;
    let vhosts: Vec<String> = (1..=AT_A_TIME).map(|n| format!("w{n}")).collect();
    let start = |kind: Kind, name: &str| {
        let log = logs.join(format!("differential-{name}.log"));
        let _ = fs::remove_file(&log);
        Broker::with_vhosts(kind, &data.join(name), &log, &vhosts)
    };
    let mut theirs = start(Kind::rabbitmq()?, "rabbitmq")?;
    let mut ours = start(Kind::Carrick(context.release_binary()?), "carrick")?;
    let mut command = context.cargo(&["run", "-q", "-p", "differential", "--"]);
    for words in &options.only {
        command.arg("--only").arg(words);
    }
    command.args(options.record.then_some("--record"));
    command.env("DIFFERENTIAL_VHOSTS", vhosts.join(","));
    command.env("DIFFERENTIAL_RABBITMQ_PORT", theirs.ports().amqp.to_string());
    command.env("DIFFERENTIAL_CARRICK_PORT", ours.ports().amqp.to_string());
    let log = logs.join("differential-compared.log");
    let _ = fs::remove_file(&log);
    let outcome = process::run(command, &log, LIMIT)?;
    print!("{}", fs::read_to_string(&log).unwrap_or_default());
    theirs.stop()?;
    ours.stop()?;
    if outcome.success {
        let _ = fs::remove_dir_all(&data);
    }
    Ok(outcome.success)
}
