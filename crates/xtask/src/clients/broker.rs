//! A broker under test: its own data directory and port, restarted in place on request.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};

use super::programs::Speaks;
use crate::needs;
use crate::process::{self, Group};

/// How long a broker has to accept connections, and to end when asked.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub enum Kind {
    Carrick(PathBuf),
    Mosquitto(PathBuf),
    RabbitMq(PathBuf),
    ActiveMq(PathBuf),
}

/// Where a broker listens; 0 before its first start, and where it does not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    pub mqtt: u16,
    pub amqp: u16,
    pub stomp: u16,
    /// WebSocket; the second one where STOMP is meant if nothing is said.
    pub web: u16,
    pub web_stomp: u16,
    /// Whatever arrives.
    pub any: u16,
    /// Of [`TLS`].
    pub tls: [u16; 4],
    /// Where STOMP is spoken as an ActiveMQ does.
    pub activemq: u16,
}

/// Schemes, and what the variable with the port is called.
const TLS: [(&str, &str); 4] =
    [("mqtts", "MQTT_TLS_PORT"), ("amqps", "AMQP_TLS_PORT"), ("stomps", "STOMP_TLS_PORT"), ("wss", "WEB_TLS_PORT")];
/// Below a broker's folder: what `carrick tls dev` writes.
pub const TLS_DIR: &str = "tls";

impl Speaks {
    /// What a program is told of, and where it is.
    pub fn doors(self, ports: Ports) -> Vec<(&'static str, u16)> {
        match self {
            Speaks::Mqtt(_) => vec![("MQTT", ports.mqtt)],
            Speaks::Amqp { .. } => vec![("AMQP", ports.amqp)],
            Speaks::Stomp(_) | Speaks::Web(_) => vec![("STOMP", ports.stomp), ("ACTIVEMQ", ports.activemq)],
            // One port for all of them: so real clients are told apart by their first bytes.
            Speaks::All(_) => vec![("MQTT", ports.any), ("AMQP", ports.any), ("STOMP", ports.any)],
        }
    }
}

impl Ports {
    /// Over WebSocket: the names of variables, and URLs.
    pub fn web(self) -> Vec<(&'static str, String)> {
        let url = |port: u16| format!("ws://127.0.0.1:{port}/ws");
        let all = [("WEB_MQTT_URL", self.web), ("WEB_STOMP_URL", self.web_stomp)];
        all.into_iter().filter(|(_, port)| *port != 0).map(|(name, port)| (name, url(port))).collect()
    }

    /// In TLS: the names of variables, and ports.
    pub fn tls(self) -> impl Iterator<Item = (&'static str, String)> {
        TLS.into_iter().zip(self.tls).map(|((_, variable), port)| (variable, port.to_string()))
    }
}

impl Kind {
    pub fn mosquitto() -> Result<Kind> {
        Ok(Kind::Mosquitto(needs::mosquitto_broker().context("mosquitto is not installed")?))
    }

    pub fn rabbitmq() -> Result<Kind> {
        Ok(Kind::RabbitMq(needs::rabbitmq_broker().context("rabbitmq-server is not installed")?))
    }

    pub fn activemq() -> Result<Kind> {
        Ok(Kind::ActiveMq(needs::activemq_broker().context("activemq is not installed")?))
    }

    pub fn speaks(&self, protocol: Speaks) -> bool {
        match self {
            Kind::Carrick(_) => true,
            Kind::Mosquitto(_) => matches!(protocol, Speaks::Mqtt(_)),
            Kind::RabbitMq(_) => matches!(protocol, Speaks::Amqp { .. } | Speaks::Stomp(_)),
            Kind::ActiveMq(_) => false,
        }
    }

    /// The CONNACK codes that answer a wrong password, of 3.1.1 and of 5. Mosquitto says "not authorised" to both.
    pub fn refusals(&self) -> (&'static str, &'static str) {
        match self {
            Kind::Carrick(_) => ("4", "134"),
            Kind::Mosquitto(_) | Kind::RabbitMq(_) | Kind::ActiveMq(_) => ("5", "135"),
        }
    }

    /// Why a scenario of a program is known to go differently with this broker.
    pub fn differs(&self, program: &str, scenario: &str) -> Option<&'static str> {
        if scenario == "tls" && !matches!(self, Kind::Carrick(_)) {
            return Some("it is started without TLS here");
        }
        if matches!(self, Kind::RabbitMq(_)) {
            return match (program, scenario) {
                ("spring-stomp", "ws/errors") => Some("RabbitMQ's web-stomp does not close behind an ERROR"),
                ("stomp-py", of_activemq) if of_activemq.starts_with("activemq-") => Some("it is no ActiveMQ"),
                ("stompjs", "binary" | "frames") => Some("RabbitMQ's web-stomp sends text frames only"),
                ("stompjs", "error-closes" | "wrong-password") => Some("RabbitMQ's web-stomp does not close behind an ERROR"),
                _ => None,
            };
        }
        if !matches!(self, Kind::Mosquitto(_)) {
            return None;
        }
        if scenario == "scram" {
            return Some("Mosquitto has SCRAM by a plug-in only");
        }
        if scenario.starts_with("ws-") {
            return Some("Mosquitto 2.0 does not get its port for WebSocket back when it is restarted");
        }
        match (program, scenario.split('/').nth(1)?) {
            (_, "takeover-142") => Some("Mosquitto before 2.1 closes the old connection without a DISCONNECT"),
            (_, "offline-kill9") => Some("Mosquitto saves its store at intervals and at its end, so a kill loses what came since"),
            ("mosquitto", "offline-restart") if scenario.starts_with("v5") => {
                Some("Mosquitto 2.0 sends more of a backlog at once than its own client's Receive Maximum, and that one hangs up")
            }
            _ => None,
        }
    }
}

const DEFINITIONS: &str = "definitions.json";
/// A virtual host of this name is traced (RabbitMQ's firehose).
pub const TRACED: &str = "traced";

/// In RabbitMQ's format, which both read.
fn definitions(vhosts: &[String]) -> String {
    let all = || std::iter::once("/").chain(vhosts.iter().map(String::as_str));
    let hosts: Vec<String> = all().map(|name| format!("{{\"name\":\"{name}\",\"tracing\":{}}}", name == TRACED)).collect();
    let may_all =
        |user, name| format!("{{\"user\":\"{user}\",\"vhost\":\"{name}\",\"configure\":\".*\",\"write\":\".*\",\"read\":\".*\"}}");
    // As in the conversations of crates/amqp091: somebody who may do little.
    let little = |name| {
        format!("{{\"user\":\"bob\",\"vhost\":\"{name}\",\"configure\":\"^bob-\",\"write\":\"^bob-|^amq.(direct|topic)$\",\"read\":\"^amq.topic$\"}}")
    };
    let permissions: Vec<String> =
        ["guest", "max", "few"].into_iter().flat_map(|user| all().map(move |name| may_all(user, name))).chain(all().map(little)).collect();
    let keys = "\"exchange\":\"amq.topic\",\"write\":\"^{username}\\\\.\",\"read\":\"^bob\\\\.\"";
    let topics: Vec<String> = all().map(|name| format!("{{\"user\":\"bob\",\"vhost\":\"{name}\",{keys}}}")).collect();
    let guest = "{\"name\":\"guest\",\"password\":\"guest\",\"tags\":\"administrator\"}";
    let max = "{\"name\":\"max\",\"password\":\"secret\",\"tags\":\"impersonator\"}";
    let few = "{\"name\":\"few\",\"password\":\"secret\",\"tags\":\"\",\"limits\":{\"max-channels\":2}}";
    let bob = "{\"name\":\"bob\",\"password\":\"secret\",\"tags\":\"\"}";
    format!(
        "{{\"users\":[{guest},{bob},{max},{few}],\"vhosts\":[{}],\"permissions\":[{}],\"topic_permissions\":[{}]}}",
        hosts.join(","),
        permissions.join(","),
        topics.join(",")
    )
}

pub struct Broker {
    kind: Kind,
    dir: PathBuf,
    log: PathBuf,
    ports: Ports,
    group: Option<Group>,
    /// Erlang's, for RabbitMQ: a daemon that outlives whoever started it.
    names: Option<NameServer>,
}

struct NameServer(u16);

impl Drop for NameServer {
    fn drop(&mut self) {
        // It refuses as long as it has not noticed that its node is gone. One that is gone itself is all right.
        for _ in 0..20 {
            let mut epmd = Command::new("epmd");
            epmd.args(["-port", &self.0.to_string(), "-kill"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if epmd.status().is_err() || TcpStream::connect(("127.0.0.1", self.0)).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Broker {
    /// Starts one on free ports, with an empty store below `dir`.
    pub fn start(kind: Kind, dir: &Path, log: &Path) -> Result<Broker> {
        Broker::with_vhosts(kind, dir, log, &[])
    }

    /// With virtual hosts beside `/` that `guest` may do everything in.
    pub fn with_vhosts(kind: Kind, dir: &Path, log: &Path, vhosts: &[String]) -> Result<Broker> {
        fs::create_dir_all(dir)?;
        if !vhosts.is_empty() {
            fs::write(dir.join(DEFINITIONS), definitions(vhosts))?;
        }
        let mut broker = Broker { kind, dir: dir.to_path_buf(), log: log.to_path_buf(), ports: Ports::default(), group: None, names: None };
        fs::create_dir_all(dir)?;
        broker.up()?;
        Ok(broker)
    }

    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// SIGTERM, the end, a new start on the same ports and store.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.up()
    }

    /// SIGKILL instead.
    pub fn kill9(&mut self) -> Result<()> {
        self.group.take().context("the broker is not running")?.kill();
        self.up()
    }

    pub fn stop(&mut self) -> Result<()> {
        let mut group = self.group.take().context("the broker is not running")?;
        if matches!(self.kind, Kind::RabbitMq(_) | Kind::ActiveMq(_)) {
            // It is here for comparison, and its scripts take their time over an end.
            group.kill();
            return Ok(());
        }
        if let Some(status) = group.wait_until(Instant::now())? {
            bail!("the broker had ended before: {status}; the end of its log:\n{}", process::tail(&self.log, 20));
        }
        group.terminate();
        match group.wait_until(Instant::now() + PATIENCE)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the broker ended with {status} on SIGTERM; the end of its log:\n{}", process::tail(&self.log, 20)),
            None => bail!("the broker did not end within {} s of SIGTERM", PATIENCE.as_secs()),
        }
    }

    fn up(&mut self) -> Result<()> {
        if matches!(self.kind, Kind::RabbitMq(_)) && self.names.is_none() {
            self.names = Some(NameServer(free_port()?));
        }
        let names = self.names.as_ref().map_or(0, |names| names.0);
        let start = match &self.kind {
            Kind::Carrick(binary) => start_carrick(binary, &self.dir, &self.log, self.ports),
            Kind::Mosquitto(binary) => start_mosquitto(binary, &self.dir, &self.log, self.ports),
            Kind::ActiveMq(jar) => super::activemq::start(jar, &self.dir, &self.log, self.ports),
            Kind::RabbitMq(binary) => start_rabbitmq(binary, &self.dir, &self.log, self.ports, names),
        };
        let (group, ports) = start?;
        self.group = Some(group);
        self.ports = ports;
        Ok(())
    }
}

/// Which of the listeners that `start_carrick` asks for is the one for STOMP over WebSocket.
const WEB_STOMP: usize = 4;

/// Waits for its `listening` and `ready` lines; what follows goes to the log.
fn start_carrick(binary: &Path, dir: &Path, log: &Path, ports: Ports) -> Result<(Group, Ports)> {
    let out = process::open_log(log)?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--data-dir").arg(dir.join("data"));
    let definitions = dir.join(DEFINITIONS);
    if definitions.exists() {
        command.arg("--definitions").arg(definitions);
    }
    let Ports { mqtt, amqp, stomp, web, web_stomp, any, activemq, tls } = ports;
    let listeners = [("mqtt", mqtt), ("amqp", amqp), ("stomp", stomp), ("ws", web), ("ws", web_stomp), ("any", any)];
    for (n, (scheme, port)) in listeners.into_iter().enumerate() {
        let more = if n == WEB_STOMP { "?default=stomp" } else { "" };
        command.arg("--listen").arg(format!("{scheme}://127.0.0.1:{port}{more}"));
    }
    command.arg("--listen").arg(format!("stomp://127.0.0.1:{activemq}?dialect=activemq"));
    let certificates = certificates(binary, dir, log)?;
    let file = |name: &str| certificates.join(name);
    command.arg("--tls-certificate").arg(file("server.pem")).arg("--tls-private-key").arg(file("server.key"));
    let client = format!("client_auth=request&user_from=cn&client_ca={}", file("ca.pem").display());
    for ((scheme, _), port) in TLS.into_iter().zip(tls) {
        command.arg("--listen").arg(format!("{scheme}://127.0.0.1:{port}?{client}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(out.try_clone()?);
    let mut group = Group::spawn(command)?;
    let stdout = group.child().stdout.take().context("the broker has no stdout")?;
    let (lines, ready) = mpsc::channel();
    thread::spawn(move || {
        let mut out = out;
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = writeln!(out, "{line}");
            // Nobody listens after `ready`, and then only the log matters.
            let _ = lines.send(line);
        }
    });
    let deadline = Instant::now() + PATIENCE;
    // In the order in which they were asked for.
    let mut bound: Vec<u16> = Vec::new();
    let port = |line: &str| {
        let address = line.strip_prefix("listening ")?.split('?').next()?;
        address.rsplit_once(':').and_then(|(_, port)| port.trim_end_matches('/').parse::<u16>().ok())
    };
    loop {
        match ready.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line == "ready" => break,
            Ok(line) => bound.extend(port(&line)),
            Err(_) => bail!("the broker did not become ready; the end of its log:\n{}", process::tail(log, 20)),
        }
    }
    let [mqtt, amqp, stomp, web, web_stomp, any, activemq, ref tls @ ..] = bound[..] else {
        bail!("the broker printed no line 'listening SCHEME://127.0.0.1:PORT' for each listener")
    };
    let tls = <[u16; 4]>::try_from(tls).ok().context("the broker printed no line for each listener with TLS")?;
    Ok((group, Ports { mqtt, amqp, stomp, web, web_stomp, any, activemq, tls }))
}

/// Made before the first start, and the same after a restart. The client's stands for `guest`.
fn certificates(binary: &Path, dir: &Path, log: &Path) -> Result<PathBuf> {
    let tls = dir.join(TLS_DIR);
    if !tls.exists() {
        let mut command = Command::new(binary);
        command.args(["tls", "dev", "--user", "guest", "--dir"]).arg(&tls);
        if !process::run(command, log, PATIENCE)?.success {
            bail!("carrick tls dev failed; the end of its log:\n{}", process::tail(log, 5));
        }
    }
    Ok(tls)
}

pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A node of its own below `dir`: its name, ports and files are nobody else's.
fn start_rabbitmq(binary: &Path, dir: &Path, log: &Path, ports: Ports, names: u16) -> Result<(Group, Ports)> {
    let port = if ports.amqp == 0 { free_port()? } else { ports.amqp };
    let stomp = if ports.stomp == 0 { free_port()? } else { ports.stomp };
    let web_stomp = if ports.web_stomp == 0 { free_port()? } else { ports.web_stomp };
    let distribution = free_port()?;
    let home = dir.join("rabbitmq");
    fs::create_dir_all(&home)?;
    let mut conf = format!("listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = true\nlog.file = false\n");
    conf += &format!("stomp.listeners.tcp.1 = 127.0.0.1:{stomp}\n");
    conf += &format!("web_stomp.tcp.ip = 127.0.0.1\nweb_stomp.tcp.port = {web_stomp}\n");
    if dir.join(DEFINITIONS).exists() {
        conf += &format!("load_definitions = {}\n", dir.join(DEFINITIONS).display());
    }
    fs::write(home.join("rabbitmq.conf"), conf)?;
    fs::write(home.join("enabled_plugins"), "[rabbitmq_consistent_hash_exchange,rabbitmq_random_exchange,rabbitmq_recent_history_exchange,rabbitmq_sharding,rabbitmq_stomp,rabbitmq_web_stomp].\n")?;
    let mut command = Command::new(binary);
    command.env("HOME", &home).env("RABBITMQ_NODENAME", format!("client{port}@localhost"));
    command.env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq")).env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("enabled_plugins"));
    command.env("RABBITMQ_MNESIA_BASE", &home).env("RABBITMQ_LOG_BASE", &home).env("RABBITMQ_DIST_PORT", distribution.to_string());
    command.env("ERL_EPMD_PORT", names.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
    let out = process::open_log(log)?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut group = Group::spawn(command)?;
    wait_for_port(&mut group, port, PATIENCE * 3, log).context("rabbitmq-server")?;
    // The port is open for a while before anybody answers there: on a busy machine, or with queues to recover, a long one.
    let deadline = Instant::now() + PATIENCE * 3;
    while !answers_amqp(port) {
        if Instant::now() > deadline {
            bail!("rabbitmq-server does not answer; the end of its log:\n{}", process::tail(log, 20));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok((group, Ports { amqp: port, stomp, web_stomp, ..Ports::default() }))
}

fn answers_amqp(port: u16) -> bool {
    let ask = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        stream.read_exact(&mut [0; 8])
    };
    ask().is_ok()
}

pub(super) fn wait_for_port(group: &mut Group, port: u16, patience: Duration, log: &Path) -> Result<()> {
    let deadline = Instant::now() + patience;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > deadline || group.wait_until(Instant::now())?.is_some() {
            bail!("it did not start; the end of its log:\n{}", process::tail(log, 20));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn start_mosquitto(binary: &Path, dir: &Path, log: &Path, ports: Ports) -> Result<(Group, Ports)> {
    let port = if ports.mqtt == 0 { free_port()? } else { ports.mqtt };
    let web = if ports.web == 0 { free_port()? } else { ports.web };
    let users = dir.join("users");
    if !users.exists() {
        fs::write(&users, "guest:guest\n")?;
        let mut passwd = Command::new("mosquitto_passwd");
        passwd.arg("-U").arg(&users);
        if !process::run(passwd, log, PATIENCE)?.success {
            bail!("mosquitto_passwd failed; the end of its log:\n{}", process::tail(log, 5));
        }
    }
    let conf = dir.join("mosquitto.conf");
    let here = dir.display();
    // As root it would drop to its own user, which cannot read this folder.
    let user = if rustix::process::geteuid().is_root() { "user root\n" } else { "" };
    let text = format!(
        "listener {port} 127.0.0.1\nlistener {web} 127.0.0.1\nprotocol websockets\nallow_anonymous true\npassword_file {here}/users\npersistence true\npersistence_location {here}/\nmax_queued_messages 0\nlog_type all\n{user}"
    );
    fs::write(&conf, text)?;
    let out = process::open_log(log)?;
    let mut command = Command::new(binary);
    command.arg("-c").arg(&conf).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut group = Group::spawn(command)?;
    wait_for_port(&mut group, port, PATIENCE, log).context("mosquitto")?;
    Ok((group, Ports { mqtt: port, web, ..Ports::default() }))
}
