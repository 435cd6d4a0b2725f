//! The suites of `cargo xtask test` and `cargo xtask soak`, in the order they run.
//!
//! A new suite is one entry here. Its commands print cargo's test summaries or TAP lines, which are counted; exit non-zero on failure;
//! and find in the environment `CARRICK_BIN` (the release binary), `CARRICK_TMP` (a folder of their own), and in a soak
//! `CARRICK_SOAK_SECONDS` (how long to go on).

use std::process::Command;
use std::time::Duration;

use crate::context::Context;
use crate::needs::Need;

pub struct Suite {
    pub name: &'static str,
    pub about: &'static str,
    pub needs: &'static [Need],
    /// Whether it drives the release binary, which is then built first.
    pub binary: bool,
    /// When all of it must be over in `cargo xtask test`; a soak adds its duration.
    pub limit: Duration,
    pub test: Option<Commands>,
    pub soak: Option<Commands>,
}

/// The commands of a suite, run one after the other; the first that fails ends it.
pub type Commands = fn(&Context) -> anyhow::Result<Vec<Command>>;

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

pub const SUITES: &[Suite] = &[
    Suite {
        name: "unit",
        about: "every crate's own tests: transcripts, codecs, core, journal, simulator, fuzz corpora",
        needs: &[],
        binary: false,
        limit: minutes(20),
        // The dev profile: test harnesses unwind and the release binary aborts, so a release build of the tests would share nothing
        // with it and take longer. Examples are for `check`, whose clippy compiles them.
        test: Some(|context| {
            // Of the whole suite only the etcd adapter's tests want it: without it they say so and pass, except where CI=true.
            if let Err(why) = Need::Etcd.ensure(context) {
                println!("unit: the etcd adapter is not tested: {why}");
            }
            let unit = context.cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"]);
            Ok(vec![unit, context.cargo(&["test", "--workspace", "--no-fail-fast", "--doc"])])
        }),
        soak: None,
    },
    Suite {
        name: "clients",
        about: "other people's clients: of MQTT Mosquitto's, Paho for Python, Java and Go, MQTT.js, rumqttc; of AMQP pika, aio-pika, Celery, amqplib, lapin, amqp091-go, php-amqplib, RabbitMQ's and Spring's for Java, amqp-tools; of STOMP stomp.py, Ruby's gem, Net::Stomp",
        needs: &[],
        binary: true,
        limit: minutes(15),
        test: Some(|_| Ok(vec![ourselves(&["clients"])?])),
        soak: None,
    },
    Suite {
        name: "differential",
        about: "the same conversations with RabbitMQ (of Debian) and with Carrick, compared frame by frame",
        needs: &[Need::RabbitMq],
        binary: true,
        limit: minutes(8),
        test: Some(|_| Ok(vec![ourselves(&["differential"])?])),
        soak: None,
    },
    Suite {
        name: "differential-stomp",
        about: "the same conversations over STOMP with RabbitMQ's plug-in and ActiveMQ (of Debian) and with Carrick in their dialects",
        needs: &[Need::RabbitMq, Need::ActiveMq],
        binary: true,
        limit: minutes(6),
        test: Some(|_| Ok(vec![ourselves(&["differential-stomp"])?])),
        soak: None,
    },
    Suite {
        name: "durability",
        about: "kill -9, power cuts, failing, full and stalled disks under live load; mutants",
        needs: &[],
        binary: true,
        limit: minutes(15),
        test: Some(|context| Ok(vec![context.cargo(&["run", "-q", "-p", "durability"])])),
        soak: Some(|context| Ok(vec![context.cargo(&["run", "-q", "-p", "durability", "--", "--soak"])])),
    },
    Suite {
        name: "failover",
        about: "a pair and its witness in network namespaces: kill -9, partitions, frozen processes, bad disks, other people's clients with two addresses",
        needs: &[Need::Root, Need::Iproute],
        binary: true,
        limit: minutes(10),
        test: Some(|_| Ok(vec![ourselves(&["failover"])?])),
        soak: Some(|_| Ok(vec![ourselves(&["failover", "--soak"])?])),
    },
    Suite {
        name: "realdata",
        about: "real rows through Paho for Python and Java while the broker is killed three times",
        needs: &[Need::Python, Need::Java, Need::Maven],
        binary: true,
        limit: minutes(8),
        test: Some(|context| {
            let mut python = Command::new(crate::needs::python().unwrap_or("python3"));
            python.arg(context.root.join("tests/realdata/run.py")).env("CARGO_TARGET_DIR", &context.target);
            Ok(vec![python])
        }),
        soak: None,
    },
    Suite {
        name: "fuzz",
        about: "every target of fuzz/ from its corpus on; the tests of the crates replay the corpora",
        needs: &[],
        binary: false,
        limit: minutes(40),
        test: None,
        soak: Some(|_| Ok(vec![ourselves(&["fuzz"])?])),
    },
];

/// This program, for a suite that it runs itself.
fn ourselves(args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args);
    Ok(command)
}
