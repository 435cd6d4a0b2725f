//! The broker under test: a real process, started, watched and killed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// How to start one.
#[derive(Clone)]
pub struct Recipe {
    pub binary: PathBuf,
    pub data: PathBuf,
    /// Configuration and standard error go here, away from the disk that is hurt.
    pub scratch: PathBuf,
    pub toml: String,
    pub env: Vec<(String, String)>,
    /// The protocol of the clients.
    pub protocol: &'static str,
}

/// Small files, so that a second of load turns the log over, checkpoints and evacuates.
pub const SMALL_JOURNAL: &str = "[journal]\nsegment_bytes = \"1 MiB\"\ncheckpoint_bytes = \"4 MiB\"\n";

pub struct Broker {
    child: Child,
    pub addr: SocketAddr,
    stderr: PathBuf,
    pub started_in: Duration,
}

impl Recipe {
    pub fn start(&self) -> Result<Broker> {
        fs::create_dir_all(&self.scratch)?;
        let config = self.scratch.join("carrick.toml");
        fs::write(&config, &self.toml)?;
        let stderr = self.scratch.join("stderr.log");
        let log = File::options().create(true).append(true).open(&stderr)?;
        let begin = Instant::now();
        let mut child = Command::new(&self.binary)
            .args(["serve", "--log", "info", "--listen"])
            .arg(format!("{}://127.0.0.1:0", self.protocol))
            .arg("--config")
            .arg(&config)
            .arg("--data-dir")
            .arg(&self.data)
            .envs(self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let stdout = child.stdout.take().context("the broker's standard output is piped")?;
        let (sender, receiver) = mpsc::channel();
        // Goes on reading until the broker ends, so that the pipe never fills.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut broker = Broker { child, addr: ([127, 0, 0, 1], 0).into(), stderr, started_in: Duration::ZERO };
        match broker.wait_ready(self.protocol, &receiver, begin + READY_WITHIN) {
            Ok(addr) => {
                broker.addr = addr;
                broker.started_in = begin.elapsed();
                Ok(broker)
            }
            Err(error) => {
                let status = broker.kill9();
                Err(error.context(format!("the broker did not start ({status:?}): {}", broker.last_words())))
            }
        }
    }
}

impl Broker {
    fn wait_ready(&mut self, protocol: &str, lines: &mpsc::Receiver<String>, deadline: Instant) -> Result<SocketAddr> {
        let listening = format!("listening {protocol}://");
        let mut addr = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).context("no line `ready`")?;
            if let Some(url) = line.strip_prefix(&listening) {
                addr = Some(url.parse().with_context(|| format!("no address in '{line}'"))?);
            } else if line == "ready" {
                return addr.context("`ready` came before `listening`");
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill9(&mut self) -> Option<ExitStatus> {
        let _ = self.child.kill();
        self.child.wait().ok()
    }

    /// SIGTERM, as an operator would; the exit code must be 0.
    pub fn stop(&mut self) -> Result<()> {
        let sent = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        if !sent.success() {
            bail!("kill -TERM failed");
        }
        match self.wait(Duration::from_secs(20))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("after SIGTERM: {status}; {}", self.last_words()),
            None => bail!("SIGTERM did not end it within 20 s; {}", self.last_words()),
        }
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, within: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn last_words(&self) -> String {
        last_lines(&self.stderr, 6)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join(" | ")
}
