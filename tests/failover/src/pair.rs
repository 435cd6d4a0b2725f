//! Two nodes and their witness as processes on machines of their own, and a service manager that starts again whoever ended with 75.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use rustix::process::Signal;

use crate::net::{Net, A, B, NAMES, W};
use crate::node::{ask, last_words, status, Process, Status};

const SECRET: &str = "what the three of them know";
/// As systemd's RestartSec.
const RESTART_AFTER: Duration = Duration::from_millis(100);
const GAVE_UP: i32 = 75;
/// For what should take a second or two, on a machine that has other things to do.
pub const LONG: Duration = Duration::from_secs(30);

/// A version of the broker.
#[derive(Clone)]
pub struct Program {
    pub binary: PathBuf,
    /// What makes it that version.
    pub env: Option<(&'static str, &'static str)>,
}

/// What differs from pair to pair.
#[derive(Clone, Default)]
pub struct Settings {
    /// Instead of the witness, on its machine.
    pub etcd: bool,
    /// Of the data nodes.
    pub env: [Vec<(String, String)>; 2],
    /// Instead of folders of the scratch directory.
    pub data: [Option<PathBuf>; 2],
    pub more: String,
}

#[derive(Default)]
struct Slot {
    process: Option<Process>,
    wanted: bool,
    /// When it ended by itself, and with which code.
    ends: Vec<(Instant, Option<i32>)>,
}

struct Machines {
    net: Net,
    dir: PathBuf,
    /// What is installed on each machine.
    programs: Mutex<[Program; 3]>,
    settings: Settings,
    slots: Mutex<[Slot; 3]>,
    over: AtomicBool,
    /// Who was seen as primary in each epoch.
    reigns: Mutex<BTreeMap<u64, BTreeSet<usize>>>,
}

pub struct Pair {
    machines: Arc<Machines>,
    threads: Vec<JoinHandle<()>>,
}

impl Machines {
    fn slots(&self) -> MutexGuard<'_, [Slot; 3]> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, at: usize) -> PathBuf {
        self.dir.join(format!("{}.log", NAMES[at]))
    }

    fn data(&self, at: usize) -> PathBuf {
        self.settings.data.get(at).cloned().flatten().unwrap_or_else(|| self.dir.join(format!("data-{}", NAMES[at])))
    }

    fn configure(&self, at: usize) -> Result<()> {
        let link = |at: usize| format!("{}:7700", self.net.addr(at));
        let data = self.data(at);
        let (name, data) = (NAMES[at], data.display());
        let text = if at == W {
            let (a, b) = (link(A), link(B));
            format!("node = 'w'\nlisten = '{}'\ndata_dir = '{data}'\nsecret = '{SECRET}'\npeers = {{ a = '{a}', b = '{b}' }}\n", link(W))
        } else {
            let (host, other) = (self.net.addr(at), 1 - at);
            let coordinator = match self.settings.etcd {
                true => format!("coordinator = 'etcd'\netcd = {{ endpoints = ['http://{}:2379'] }}", self.net.addr(W)),
                false => format!("witness = {{ w = '{}' }}", link(W)),
            };
            // Small segments, so that the log rotates and the standby writes checkpoints.
            format!(
                "data_dir = '{data}'\nallow_anonymous = true\n\
                 listen = ['mqtt://{host}:1883', 'amqp://{host}:5672', 'stomp://{host}:61613', 'ws://{host}:15675', 'http://{host}:15672']\n\
                 journal.segment_bytes = '1 MiB'\njournal.checkpoint_bytes = '4 MiB'\n{}\n\
                 [[user]]\nname = 'app'\npassword = 'app'\ntags = ['administrator']\n\
                 [ha]\nnode = '{name}'\nlisten = '{}'\npeers = {{ {} = '{}' }}\n{coordinator}\nsecret = '{SECRET}'\n\
                 clients = ['mqtt://{host}:1883', 'amqp://{host}:5672', 'stomp://{host}:61613']\n",
                self.settings.more,
                link(at),
                NAMES[other],
                link(other),
            )
        };
        Ok(std::fs::write(self.dir.join(format!("{name}.toml")), text)?)
    }

    fn command(&self, at: usize) -> Command {
        let mut command = self.net.on(at);
        if at == W && self.settings.etcd {
            etcd(&mut command, self.net.addr(W), &self.data(W));
        } else {
            let Program { binary, env } = &self.programs.lock().unwrap_or_else(PoisonError::into_inner)[at];
            command.arg(binary).arg(if at == W { "witness" } else { "serve" }).arg("--config").arg(format!("{}.toml", NAMES[at]));
            command.envs(*env);
        }
        command.current_dir(&self.dir);
        command
    }

    fn launch(&self, at: usize, slot: &mut Slot) -> Result<()> {
        let mut command = self.command(at);
        if let Some(env) = self.settings.env.get(at) {
            command.envs(env.iter().map(|(name, value)| (name, value)));
        }
        slot.process = Some(Process::start(command, &self.log(at))?);
        slot.wanted = true;
        Ok(())
    }

    /// The service manager.
    fn tend(&self) {
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
            for (at, slot) in self.slots().iter_mut().enumerate() {
                if let Some(ended) = slot.process.as_mut().and_then(Process::ended) {
                    slot.ends.push((Instant::now(), ended.code()));
                    slot.process = None;
                }
                let gave_up = slot.ends.last().filter(|(_, code)| *code == Some(GAVE_UP));
                if slot.wanted && slot.process.is_none() && gave_up.is_some_and(|(when, _)| when.elapsed() >= RESTART_AFTER) {
                    let _ = self.launch(at, slot);
                }
            }
        }
    }

    fn watch(&self) {
        while !self.over.load(Ordering::Relaxed) {
            for at in [A, B] {
                let seen = status(self.net.addr(at), Duration::from_millis(150));
                // One that was overtaken may not know it yet, but it reads of the other in the register.
                if let Some(seen) = seen.filter(|seen| seen.role == "primary" && seen.primary == NAMES[at]) {
                    self.reigns.lock().unwrap_or_else(PoisonError::into_inner).entry(seen.epoch).or_default().insert(at);
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// In its own timings.
fn etcd(command: &mut Command, host: Ipv4Addr, data: &Path) {
    let [url, peer] = [2379, 2380].map(|port| format!("http://{host}:{port}"));
    command.args(["etcd", "--name", "one", "--log-level", "error", "--data-dir"]).arg(data);
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("one={peer}")]);
}

impl Pair {
    /// All three; comes back when one of them serves.
    pub fn start(slot: u8, dir: &Path, binary: &Path, settings: Settings) -> Result<Pair> {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir)?;
        let machines = Arc::new(Machines {
            net: Net::lay(slot)?,
            dir: dir.to_path_buf(),
            programs: Mutex::new([(); 3].map(|()| Program { binary: binary.to_path_buf(), env: None })),
            settings,
            slots: Mutex::default(),
            over: AtomicBool::new(false),
            reigns: Mutex::default(),
        });
        let mut pair = Pair { machines, threads: Vec::new() };
        for at in [W, A, B] {
            pair.machines.configure(at)?;
            pair.start_node(at)?;
        }
        for work in [Machines::tend as fn(&Machines), Machines::watch] {
            let machines = pair.machines.clone();
            pair.threads.push(std::thread::spawn(move || work(&machines)));
        }
        pair.primary()?;
        Ok(pair)
    }

    pub fn net(&self) -> &Net {
        &self.machines.net
    }

    pub fn host(&self, at: usize) -> Ipv4Addr {
        self.machines.net.addr(at)
    }

    pub fn mqtt(&self, at: usize) -> SocketAddr {
        SocketAddr::from((self.host(at), 1883))
    }

    pub fn data(&self, at: usize) -> PathBuf {
        self.machines.data(at)
    }

    /// In the scenario's own folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.machines.dir.join(name)
    }

    pub fn status(&self, at: usize) -> Option<Status> {
        status(self.host(at), Duration::from_millis(500))
    }

    /// To its HTTP door; status and body.
    pub fn post(&self, at: usize, path: &str, body: &str) -> Option<(u16, String)> {
        ask(self.host(at), &format!("POST {path}"), body, LONG)
    }

    /// The same, while something else goes on.
    pub fn ask_later(&self, at: usize, path: &str) -> JoinHandle<Option<(u16, String)>> {
        let (host, request) = (self.host(at), format!("POST {path}"));
        std::thread::spawn(move || ask(host, &request, "", LONG))
    }

    /// SIGTERM; the answer waits for a clean end.
    pub fn stop_later(&self, at: usize) -> Result<impl FnOnce() -> Result<()> + '_> {
        let ends = self.ends(at).len();
        self.machines.slots()[at].wanted = false;
        self.signal(at, Signal::TERM)?;
        Ok(move || {
            self.wait("a clean end", LONG, || self.ends(at).len() > ends)?;
            let end = self.ends(at).last().and_then(|(_, code)| *code);
            ensure!(end == Some(0), "{} ended with {end:?} after SIGTERM{}", NAMES[at], self.last_words());
            Ok(())
        })
    }

    /// What it is from its next start on.
    pub fn install(&self, at: usize, program: &Program) {
        self.machines.programs.lock().unwrap_or_else(PoisonError::into_inner)[at] = program.clone();
    }

    /// One start that is to fail: with which code, and its last words.
    pub fn start_in_vain(&self, at: usize) -> Result<(Option<i32>, String)> {
        let begun = Instant::now();
        let mut process = Process::start(self.machines.command(at), &self.file("in-vain.log"))?;
        let ended = loop {
            match process.ended() {
                Some(ended) => break ended,
                None if begun.elapsed() > LONG => bail!("{} runs, though it must not", NAMES[at]),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        Ok((ended.code(), last_words(&self.file("in-vain.log"), 12)))
    }

    pub fn start_node(&self, at: usize) -> Result<()> {
        self.machines.launch(at, &mut self.machines.slots()[at])
    }

    /// kill -9, and nobody starts it again; answers when.
    pub fn kill9(&self, at: usize) -> Instant {
        let slot = &mut self.machines.slots()[at];
        slot.wanted = false;
        let now = Instant::now();
        if let Some(mut process) = slot.process.take() {
            process.kill9();
        }
        now
    }

    pub fn signal(&self, at: usize, signal: Signal) -> Result<()> {
        self.machines.slots()[at].process.as_ref().with_context(|| format!("{} does not run", NAMES[at]))?.signal(signal)
    }

    pub fn ends(&self, at: usize) -> Vec<(Instant, Option<i32>)> {
        self.machines.slots()[at].ends.clone()
    }

    pub fn resident_mib(&self, at: usize) -> f64 {
        self.machines.slots()[at].process.as_ref().map_or(0.0, Process::resident_mib)
    }

    /// Whether it serves clients, as far as it has said so itself and not ended since.
    pub fn serves(&self, at: usize) -> bool {
        self.machines.slots()[at].process.as_ref().is_some_and(|process| process.said("ready").is_some())
    }

    /// Looks again and again.
    pub fn wait(&self, what: &str, patience: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !condition() {
            if begun.elapsed() > patience {
                bail!("not within {patience:?}: {what}{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits until one serves and is told so by the register.
    pub fn primary(&self) -> Result<usize> {
        let mut found = None;
        self.wait("somebody is primary", LONG, || {
            let is = |at: &usize| self.serves(*at) && self.status(*at).is_some_and(|s| s.role == "primary" && s.primary == NAMES[*at]);
            found = [A, B].into_iter().find(is);
            found.is_some()
        })?;
        found.context("somebody is primary")
    }

    /// Waits until one is primary and the other could take over; answers who is primary.
    pub fn whole(&self) -> Result<usize> {
        let mut found = None;
        self.wait("both are in sync", LONG, || {
            found = [A, B].into_iter().find(|at| self.is_whole(*at));
            found.is_some()
        })?;
        found.context("both are in sync")
    }

    /// Whether that one is primary, and the other could take over.
    pub fn is_whole(&self, primary: usize) -> bool {
        self.serves(primary) && self.status(primary).is_some_and(|status| status.role == "primary" && status.in_sync == ["a", "b"])
    }

    /// Waits until both nodes reach each other and the witness again, which takes them up to two seconds more than to be in sync.
    pub fn reaches_all(&self) -> Result<()> {
        let reaches = |at| self.status(at).is_some_and(|status| !status.coordinator.contains("out of reach"));
        self.wait("every voter is reached", LONG, || [A, B].into_iter().all(reaches))
    }

    /// Nobody ended but by our hand or with 75, and no epoch had two primaries.
    pub fn judge(&self) -> Result<()> {
        for at in [A, B, W] {
            for (_, code) in self.ends(at) {
                ensure!(matches!(code, Some(0 | GAVE_UP)), "{} ended with {code:?} by itself{}", NAMES[at], self.last_words());
            }
        }
        for (epoch, nodes) in self.machines.reigns.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            ensure!(nodes.len() == 1, "both were primary in epoch {epoch}{}", self.last_words());
        }
        Ok(())
    }

    /// Of the epochs in which somebody was seen as primary, how many.
    pub fn epochs(&self) -> usize {
        self.machines.reigns.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn last_words(&self) -> String {
        [A, B, W].map(|at| format!("\n# {}:{}", NAMES[at], last_words(&self.machines.log(at), 12))).concat()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.machines.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for slot in self.machines.slots().iter_mut() {
            slot.wanted = false;
            // A frozen process dies of SIGKILL as well.
            slot.process = None;
        }
    }
}
