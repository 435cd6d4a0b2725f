//! One process of a pair: started, watched, hurt.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

/// What it wrote on standard output, and when. A start begins a new one.
type Lines = Arc<Mutex<Vec<(Instant, String)>>>;

pub struct Process {
    child: Child,
    lines: Lines,
}

impl Process {
    pub fn start(mut command: Command, log: &Path) -> Result<Process> {
        let log = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().context("cannot start a node")?;
        let lines = Lines::default();
        let (out, written) = (child.stdout.take().context("standard output is piped")?, lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                written.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), line));
            }
        });
        Ok(Process { child, lines })
    }

    /// When it wrote that line.
    pub fn said(&self, line: &str) -> Option<Instant> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|(_, said)| said == line).map(|(at, _)| *at)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("it has ended already")
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// MiB that it has in memory.
    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        line.unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// What `/api/ha` says.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub role: String,
    pub epoch: u64,
    pub primary: String,
    pub in_sync: Vec<String>,
    pub says: String,
    /// Who keeps the register, and which of them it reaches.
    pub coordinator: String,
}

const USER: &str = "Authorization: Basic YXBwOmFwcA==";

/// A request to a node's HTTP door, as `app`; status and body.
pub fn ask(host: Ipv4Addr, request: &str, body: &str, patience: Duration) -> Option<(u16, String)> {
    let mut link = TcpStream::connect_timeout(&SocketAddr::from((host, 15672)), patience).ok()?;
    link.set_read_timeout(Some(patience)).ok()?;
    let head = format!("{request} HTTP/1.1\r\nHost: node\r\n{USER}\r\nConnection: close\r\n");
    let body = match body.len() {
        0 => "\r\n".to_owned(),
        len => format!("Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"),
    };
    link.write_all((head + &body).as_bytes()).ok()?;
    let mut answer = Vec::new();
    link.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub fn status(host: Ipv4Addr, patience: Duration) -> Option<Status> {
    let (_, body) = ask(host, "GET /api/ha", "", patience)?;
    let json: Value = serde_json::from_str(&body).ok()?;
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let in_sync = json["in_sync"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(|name| Some(name.as_str()?.to_owned()));
    let (role, primary, says, coordinator) = (text("role"), text("primary"), text("says"), text("coordinator"));
    Some(Status { role, epoch: json["epoch"].as_u64().unwrap_or(0), primary, in_sync: in_sync.collect(), says, coordinator })
}

/// The last lines of a node's log, for a failure message.
pub fn last_words(log: &PathBuf, count: usize) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("\n#   {line}")).collect()
}
