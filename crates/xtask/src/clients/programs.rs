//! The clients: what each needs, how it is fetched and built below the target directory, and the command that runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, Context as _, Result};

use crate::context::Context;
use crate::needs::{self, Need};
use crate::process;

pub struct Program {
    pub name: &'static str,
    pub needs: &'static [Need],
    pub speaks: Speaks,
    /// Fetches and builds, then says how to run it.
    pub prepare: fn(&Shop) -> Result<Command>,
}

/// What a program must report on, so that none passes by ending early.
#[derive(Clone, Copy)]
pub enum Speaks {
    /// The versions, by the names used in the results.
    Mqtt(&'static [&'static str]),
    /// All the scenarios of AMQP 0-9-1 but those that the library has no way to do, and more of its own.
    Amqp { without: &'static [&'static str], more: &'static [&'static str] },
    /// The scenarios.
    Stomp(&'static [&'static str]),
    /// MQTT and STOMP over WebSocket.
    Web(&'static [&'static str]),
    /// Everything, to each other.
    All(&'static [&'static str]),
}

const MQTT: Speaks = Speaks::Mqtt(&["v311", "v5"]);
/// The same once more over WebSocket.
const MQTT_AND_WEB: Speaks = Speaks::Mqtt(&["v311", "v5", "ws-v311", "ws-v5"]);

pub const PROGRAMS: &[Program] = &[
    Program { name: "rumqttc", needs: &[], speaks: MQTT_AND_WEB, prepare: rust },
    Program { name: "paho-java", needs: &[Need::Java, Need::Maven], speaks: MQTT, prepare: maven },
    Program { name: "paho-go", needs: &[Need::Go], speaks: MQTT, prepare: go },
    Program { name: "mosquitto", needs: &[Need::MosquittoClients, Need::Python], speaks: MQTT, prepare: script },
    Program { name: "paho-python", needs: &[Need::Python], speaks: MQTT_AND_WEB, prepare: python },
    Program { name: "mqttjs", needs: &[Need::Npm], speaks: MQTT_AND_WEB, prepare: npm },
    Program { name: "pika", needs: &[Need::Python], speaks: Speaks::Amqp { without: &[], more: PIKA }, prepare: python },
    Program { name: "amqplib", needs: &[Need::Npm], speaks: Speaks::Amqp { without: &[], more: AMQPLIB }, prepare: npm },
    Program { name: "lapin", needs: &[], speaks: Speaks::Amqp { without: &[], more: LAPIN }, prepare: rust },
    Program { name: "amqp091-go", needs: &[Need::Go], speaks: Speaks::Amqp { without: &[], more: AMQP091_GO }, prepare: go },
    Program { name: "php-amqplib", needs: &[Need::PhpAmqplib], speaks: Speaks::Amqp { without: &[], more: PHP_AMQPLIB }, prepare: php },
    Program { name: "amqp-tools", needs: &[Need::AmqpTools, Need::Python], speaks: AMQP_TOOLS, prepare: script },
    Program { name: "celery", needs: &[Need::Python], speaks: Speaks::Amqp { without: &[], more: CELERY }, prepare: python },
    Program { name: "aio-pika", needs: &[Need::Python], speaks: Speaks::Amqp { without: &[], more: AIO_PIKA }, prepare: python },
    Program { name: "rabbitmq-java", needs: JAVA, speaks: Speaks::Amqp { without: &[], more: RABBITMQ_JAVA }, prepare: maven },
    Program { name: "stomp-py", needs: &[Need::Python], speaks: Speaks::Stomp(STOMP_PY), prepare: python },
    Program { name: "stompjs", needs: &[Need::Npm], speaks: Speaks::Stomp(STOMPJS), prepare: npm },
    Program { name: "browser", needs: &[Need::Npm, Need::Chromium], speaks: Speaks::Web(BROWSER), prepare: npm },
    Program { name: "ruby-stomp", needs: &[Need::RubyStomp], speaks: Speaks::Stomp(RUBY_STOMP), prepare: ruby },
    Program { name: "net-stomp", needs: &[Need::NetStomp], speaks: Speaks::Stomp(NET_STOMP), prepare: perl },
    Program { name: "spring-stomp", needs: JAVA, speaks: Speaks::Stomp(SPRING_STOMP), prepare: maven },
    Program { name: "pika-paho", needs: &[Need::Python], speaks: Speaks::All(PIKA_PAHO), prepare: python },
    Program { name: "spring-amqp", needs: JAVA, speaks: Speaks::Amqp { without: &[], more: SPRING_AMQP }, prepare: maven },
];

/// AMQP 0-9-1: what every client does.
const AMQP: &[&str] = &[
    "confirms",
    "consume-ack",
    "redelivery",
    "mandatory",
    "dead-letter",
    "ttl",
    "server-named",
    "rpc",
    "large",
    "clean-close",
    "dirty-close",
    "restart-kill9",
];
const JAVA: &[Need] = &[Need::Java, Need::Maven];
const AIO_PIKA: &[&str] = &["properties", "tx", "workers", "errors"];
const RABBITMQ_JAVA: &[&str] = &["properties", "tx", "cancel-notify", "channel-error", "wrong-password", "update-secret"];
const SPRING_AMQP: &[&str] = &["direct-container", "tx"];
const PIKA: &[&str] = &["tx", "reject-publish", "channel-error", "cancel-notify", "wrong-password", "no-vhost", "heartbeat", "tls"];
const AMQP091_GO: &[&str] = &["tx", "properties", "channels", "cancel-notify", "wrong-password", "recovery"];
/// Programs for the command line: no confirms and returns, no arguments of queues, no nack, and no properties of what they receive.
const AMQP_TOOLS: Speaks = Speaks::Amqp {
    without: &["confirms", "redelivery", "mandatory", "dead-letter", "ttl", "rpc", "restart-kill9"],
    more: &["requeue", "competing", "delete-conditions", "heartbeat", "wrong-password", "restart"],
};
const LAPIN: &[&str] = &["tx", "reject-publish", "priority", "single-active", "quorum", "cancel-notify", "wrong-password"];
const PHP_AMQPLIB: &[&str] = &["properties", "tx", "channel-error", "cancel-notify", "wrong-password", "heartbeat"];
const PIKA_PAHO: &[&str] = &[
    "mqtt-to-amqp/transient",
    "mqtt-to-amqp/durable",
    "mqtt-to-amqp/kill9",
    "amqp-to-mqtt/transient",
    "amqp-to-mqtt/durable",
    "amqp-to-mqtt/kill9",
    "older-versions",
    "patterns",
    "headers-exchange",
    "request-response",
    "expiry",
    "will",
    "retained",
    "dead-letter",
    "large",
];
const AMQPLIB: &[&str] = &["properties", "exchange-bind", "recover", "channel-error", "cancel-notify", "wrong-password"];
const STOMP_PY: &[&str] = &[
    "versions",
    "receipts",
    "ack-auto",
    "ack-client",
    "ack-client-individual",
    "nack",
    "transaction",
    "heart-beat",
    "durable-subscription",
    "reply-queue",
    "topics",
    "prefetch",
    "properties",
    "large",
    "error-closes",
    "wrong-password",
    "disconnect-receipt",
    "receipt-kill9",
    "tls",
    "activemq-selector",
    "activemq-browser",
    "activemq-groups",
    "activemq-temporary",
];
const SPRING_STOMP: &[&str] = &[
    "tcp/receipts",
    "tcp/acks",
    "tcp/heart-beat",
    "tcp/topics",
    "tcp/large",
    "tcp/errors",
    "tcp/restart-kill9",
    "ws/receipts",
    "ws/acks",
    "ws/heart-beat",
    "ws/topics",
    "ws/large",
    "ws/errors",
    "ws/restart-kill9",
];
const STOMPJS: &[&str] = &[
    "versions",
    "receipts",
    "burst",
    "acks",
    "transaction",
    "binary",
    "frames",
    "large",
    "heart-beat",
    "error-closes",
    "wrong-password",
    "polite-close",
    "tls",
    "reconnect-kill9",
];
/// MQTT.js and stompjs in a page.
const BROWSER: &[&str] = &[
    "mqtt311-to-stomp",
    "mqtt5-to-stomp",
    "stomp-to-mqtt311",
    "stomp-to-mqtt5",
    "retained-qos2",
    "large",
    "page-left",
    "foreign-page",
    "wrong-use",
    "reconnect-kill9",
];
const RUBY_STOMP: &[&str] = &[
    "versions",
    "receipts",
    "client-individual",
    "nack",
    "transaction",
    "durable-subscription",
    "activemq-durable",
    "activemq-later",
    "large",
    "dirty-close",
    "heart-beat",
    "wrong-password",
];
/// It knows nothing of heart-beats, nor of what 1.2 calls the id of a delivery.
const NET_STOMP: &[&str] = &[
    "receipts",
    "client-individual",
    "nack",
    "transaction",
    "durable-subscription",
    "activemq-dialect",
    "large",
    "dirty-close",
    "wrong-password",
];
/// kombu's own, and those of Celery's workers.
const CELERY: &[&str] = &[
    "simple-queue",
    "pools",
    "errors",
    "heartbeat",
    "task-result",
    "chain",
    "retry",
    "eta",
    "eta-many",
    "control",
    "events",
    "priority",
    "acks-late",
    "native-delay",
    "worker-survives-restart",
    "warm-shutdown",
];

/// MQTT: what every client does in each version.
const SCENARIOS: &[&str] = &[
    "qos0",
    "qos1",
    "qos2",
    "retained",
    "will",
    "takeover",
    "offline-restart",
    "offline-kill9",
    "shared",
    "payload-1mib",
    "wrong-password",
    "anonymous",
];
const SCENARIOS_V5: &[&str] = &["takeover-142", "properties"];
/// What one program does once, whatever the version.
const SCENARIOS_ONCE: &[(&str, &str)] = &[("paho-python", "tls"), ("mqttjs", "tls"), ("mqttjs", "scram"), ("rumqttc", "tls")];

pub fn expected(program: &Program) -> Vec<String> {
    let of = |version: &&str| {
        let more: &[&str] = if version.ends_with("v5") { SCENARIOS_V5 } else { &[] };
        let version = version.to_string();
        SCENARIOS.iter().chain(more).map(move |scenario| format!("{version}/{scenario}")).collect::<Vec<_>>()
    };
    match program.speaks {
        Speaks::Mqtt(versions) => {
            let once = SCENARIOS_ONCE.iter().filter(|(name, _)| *name == program.name).map(|(_, scenario)| scenario.to_string());
            versions.iter().flat_map(of).chain(once).collect()
        }
        Speaks::Amqp { without, more } => {
            AMQP.iter().filter(|scenario| !without.contains(scenario)).chain(more).map(|scenario| scenario.to_string()).collect()
        }
        Speaks::Stomp(scenarios) | Speaks::Web(scenarios) | Speaks::All(scenarios) => {
            scenarios.iter().map(|scenario| scenario.to_string()).collect()
        }
    }
}

/// Where a client is made.
pub struct Shop<'a> {
    pub context: &'a Context,
    /// Its sources, below tests/clients.
    pub source: PathBuf,
    /// Its folder below the target directory, kept from run to run.
    pub work: PathBuf,
    pub log: PathBuf,
}

const FETCH: Duration = Duration::from_secs(600);

impl Shop<'_> {
    fn run(&self, command: Command) -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let outcome = process::run(command, &self.log, FETCH)?;
        if !outcome.success {
            bail!("{name} failed{} (log: {}):\n{}", outcome.why(), self.log.display(), process::tail(&self.log, 20));
        }
        Ok(())
    }

    /// Runs `fetch` unless it did so before for the same content of `pins`, files of the source folder.
    fn once(&self, pins: &[&str], fetch: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut wanted = String::new();
        for pin in pins {
            let path = self.source.join(pin);
            wanted += &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        let stamp = self.work.join("fetched");
        if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
            return Ok(());
        }
        fetch()?;
        fs::write(stamp, wanted)?;
        Ok(())
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(&self.work);
        command
    }
}

/// A package of the workspace, `client-` and the name of its folder.
fn rust(shop: &Shop) -> Result<Command> {
    let folder = shop.source.file_name().context("a program has a folder")?;
    let binary = format!("client-{}", folder.to_string_lossy());
    // Of the whole workspace and not for release: what it needs was built for the tests of the crates already.
    shop.run(shop.context.cargo(&["build", "--workspace", "--bin", &binary]))?;
    Ok(shop.command(shop.context.target.join("debug").join(binary)))
}

fn python_script(shop: &Shop, python: &Path) -> Command {
    let mut command = shop.command(python);
    // No __pycache__ in the checkout, no buffering of results.
    command.args(["-B", "-u"]).arg(shop.source.join("client.py"));
    command
}

/// A `client.py` that drives other programs, and needs no library.
fn script(shop: &Shop) -> Result<Command> {
    Ok(python_script(shop, Path::new(needs::python().context("no python3")?)))
}

/// A `client.py` with a `requirements.txt` of its own.
pub fn python(shop: &Shop) -> Result<Command> {
    let venv = shop.work.join("venv");
    let python = venv.join("bin/python");
    shop.once(&["requirements.txt"], || {
        let mut create = shop.command(needs::python().context("no python3")?);
        create.args(["-m", "venv", "--clear"]).arg(&venv);
        shop.run(create)?;
        let mut install = shop.command(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(shop.source.join("requirements.txt"));
        shop.run(install)
    })?;
    Ok(python_script(shop, &python))
}

/// A `client.php`; Debian has its library.
fn php(shop: &Shop) -> Result<Command> {
    let mut php = shop.command("php");
    php.arg(shop.source.join("client.php"));
    Ok(php)
}

/// A `client.rb`; Debian has its library.
fn ruby(shop: &Shop) -> Result<Command> {
    let mut ruby = shop.command("ruby");
    ruby.arg(shop.source.join("client.rb"));
    Ok(ruby)
}

/// A `client.pl`; Debian has its library.
fn perl(shop: &Shop) -> Result<Command> {
    let mut perl = shop.command("perl");
    perl.arg(shop.source.join("client.pl"));
    Ok(perl)
}

/// A `client.js` with its `package.json` and lock file.
pub fn npm(shop: &Shop) -> Result<Command> {
    shop.once(&["package.json", "package-lock.json"], || {
        for pin in ["package.json", "package-lock.json"] {
            fs::copy(shop.source.join(pin), shop.work.join(pin))?;
        }
        let npm = needs::npm().context("no npm")?;
        let (program, script) = npm.split_first().context("no npm")?;
        let mut install = shop.command(program);
        install.args(script).args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
        shop.run(install)
    })?;
    let mut node = shop.command("node");
    node.arg(shop.source.join("client.js")).env("NODE_PATH", shop.work.join("node_modules"));
    Ok(node)
}

/// Java sources with a `Clients` class, and a `pom.xml` that names the libraries.
pub fn maven(shop: &Shop) -> Result<Command> {
    let libraries = shop.work.join("lib");
    shop.once(&["pom.xml"], || {
        let _ = fs::remove_dir_all(&libraries);
        let mut maven = shop.command("mvn");
        maven.args(["-q", "-B", "-f"]).arg(shop.source.join("pom.xml"));
        maven.arg(format!("-DoutputDirectory={}", libraries.display()));
        maven.arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies");
        shop.run(maven)
    })?;
    let classes = shop.work.join("classes");
    let path = format!("{}/*", libraries.display());
    let mut compile = shop.command("javac");
    compile.arg("-d").arg(&classes).args(["-cp", &path, "-encoding", "UTF-8", "-Xlint:all"]);
    // What the Java programs share.
    compile.arg("-sourcepath").arg(shop.source.join("../java"));
    let mut sources: Vec<PathBuf> = fs::read_dir(&shop.source)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "java"));
    sources.sort();
    compile.args(sources);
    shop.run(compile)?;
    let mut java = shop.command("java");
    // A short-lived program: the cheap compiler and collector.
    java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp"]);
    java.arg(format!("{}:{path}", classes.display())).arg("Clients");
    Ok(java)
}

/// A Go module.
pub fn go(shop: &Shop) -> Result<Command> {
    let binary = shop.work.join("client");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&binary).arg(".").current_dir(&shop.source).env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
    shop.run(build)?;
    Ok(shop.command(&binary))
}
