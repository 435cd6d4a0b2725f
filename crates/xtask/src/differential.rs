//! `cargo xtask differential`: the same conversations with RabbitMQ and with Carrick. `cargo xtask differential-stomp`: those over STOMP, with
//! ActiveMQ too.

use std::fs;
use std::time::Duration;

use anyhow::Result;

use crate::clients::broker::{Broker, Kind, TRACED};
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
        Broker::with_vhosts(kind, &data.join(name), &log, &[&vhosts[..], &[TRACED.to_owned()]].concat())
    };
    let mut theirs = start(Kind::rabbitmq()?, "rabbitmq")?;
    let mut ours = start(Kind::Carrick(context.release_binary()?), "carrick")?;
    let mut command = context.cargo(&["run", "-q", "-p", "differential", "--"]);
    for words in &options.only {
        command.arg("--only").arg(words);
    }
    command.args(options.record.then_some("--record"));
    command.env("DIFFERENTIAL_VHOSTS", vhosts.join(","));
    command.env("DIFFERENTIAL_TRACED_VHOST", TRACED);
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

pub fn stomp(context: &Context, options: &Options) -> Result<bool> {
    for need in [Need::RabbitMq, Need::ActiveMq] {
        need.ensure(context).map_err(anyhow::Error::msg)?;
    }
    let data = context.dir("tmp")?.join("differential-stomp");
    let _ = fs::remove_dir_all(&data);
    let logs = context.dir("logs")?;
    let start = |kind: Kind, name: &str| {
        let log = logs.join(format!("differential-stomp-{name}.log"));
        let _ = fs::remove_file(&log);
        // The users that the conversations know.
        Broker::with_vhosts(kind, &data.join(name), &log, &(1..=AT_A_TIME).map(|n| format!("w{n}")).collect::<Vec<_>>())
    };
    // Both take some seconds to be there.
    let (rabbitmq, activemq) = std::thread::scope(|scope| {
        let rabbitmq = scope.spawn(|| start(Kind::rabbitmq()?, "rabbitmq"));
        let activemq = Kind::activemq().and_then(|kind| start(kind, "activemq"));
        (rabbitmq.join().expect("it does not panic"), activemq)
    });
    let (mut rabbitmq, mut activemq) = (rabbitmq?, activemq?);
    let mut ours = start(Kind::Carrick(context.release_binary()?), "carrick")?;
    let mut command = context.cargo(&["run", "-q", "-p", "differential", "--bin", "stomp-differential", "--"]);
    for words in &options.only {
        command.arg("--only").arg(words);
    }
    for (name, port) in [
        ("RABBITMQ", rabbitmq.ports().stomp),
        ("ACTIVEMQ", activemq.ports().activemq),
        ("CARRICK_RABBITMQ", ours.ports().stomp),
        ("CARRICK_ACTIVEMQ", ours.ports().activemq),
    ] {
        command.env(format!("DIFFERENTIAL_{name}_PORT"), port.to_string());
    }
    let log = logs.join("differential-stomp-compared.log");
    let _ = fs::remove_file(&log);
    let outcome = process::run(command, &log, LIMIT)?;
    print!("{}", fs::read_to_string(&log).unwrap_or_default());
    rabbitmq.stop()?;
    activemq.stop()?;
    ours.stop()?;
    if outcome.success {
        let _ = fs::remove_dir_all(&data);
    }
    Ok(outcome.success)
}
