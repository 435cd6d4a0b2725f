//! A broker under test: its own data directory and port, restarted in place on request.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};

use crate::needs;
use crate::process::{self, Group};

/// How long a broker has to accept connections, and to end when asked.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub enum Kind {
    Carrick(PathBuf),
    Mosquitto(PathBuf),
}

impl Kind {
    pub fn mosquitto() -> Result<Kind> {
        Ok(Kind::Mosquitto(needs::mosquitto_broker().context("mosquitto is not installed")?))
    }

    /// The CONNACK codes that answer a wrong password, of 3.1.1 and of 5. Mosquitto says "not authorised" to both.
    pub fn refusals(&self) -> (&'static str, &'static str) {
        match self {
            Kind::Carrick(_) => ("4", "134"),
            Kind::Mosquitto(_) => ("5", "135"),
        }
    }

    /// Why a scenario of a program is known to go differently with this broker.
    pub fn differs(&self, program: &str, scenario: &str) -> Option<&'static str> {
        if matches!(self, Kind::Carrick(_)) {
            return None;
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

pub struct Broker {
    kind: Kind,
    dir: PathBuf,
    log: PathBuf,
    /// 0 until the first start picked one.
    port: u16,
    group: Option<Group>,
}

impl Broker {
    /// Starts one on a free port, with an empty store below `dir`.
    pub fn start(kind: Kind, dir: &Path, log: &Path) -> Result<Broker> {
        let mut broker = Broker { kind, dir: dir.to_path_buf(), log: log.to_path_buf(), port: 0, group: None };
        fs::create_dir_all(dir)?;
        broker.up()?;
        Ok(broker)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGTERM, the end, a new start on the same port and store.
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
        let (group, port) = match &self.kind {
            Kind::Carrick(binary) => start_carrick(binary, &self.dir, &self.log, self.port)?,
            Kind::Mosquitto(binary) => start_mosquitto(binary, &self.dir, &self.log, self.port)?,
        };
        self.group = Some(group);
        self.port = port;
        Ok(())
    }
}

/// Waits for its `listening` and `ready` lines; what follows goes to the log.
fn start_carrick(binary: &Path, dir: &Path, log: &Path, port: u16) -> Result<(Group, u16)> {
    let out = process::open_log(log)?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--data-dir").arg(dir.join("data")).arg("--listen").arg(format!("mqtt://127.0.0.1:{port}"));
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
    let mut port = None;
    loop {
        match ready.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line == "ready" => break,
            Ok(line) => port = port.or_else(|| line.strip_prefix("listening mqtt://127.0.0.1:")?.trim_end_matches('/').parse().ok()),
            Err(_) => bail!("the broker did not become ready; the end of its log:\n{}", process::tail(log, 20)),
        }
    }
    Ok((group, port.context("the broker printed no line 'listening mqtt://127.0.0.1:PORT'")?))
}

fn start_mosquitto(binary: &Path, dir: &Path, log: &Path, port: u16) -> Result<(Group, u16)> {
    let port = if port == 0 { TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port() } else { port };
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
        "listener {port} 127.0.0.1\nallow_anonymous true\npassword_file {here}/users\npersistence true\npersistence_location {here}/\nmax_queued_messages 0\nlog_type all\n{user}"
    );
    fs::write(&conf, text)?;
    let out = process::open_log(log)?;
    let mut command = Command::new(binary);
    command.arg("-c").arg(&conf).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut group = Group::spawn(command)?;
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > deadline || group.wait_until(Instant::now())?.is_some() {
            bail!("mosquitto did not start; the end of its log:\n{}", process::tail(log, 20));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok((group, port))
}
