//! A conversation: steps of named connections, and what each broker said after each step.

use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::peer::Peer;
use crate::words::{self, Line};

/// How long an answer may take. A step that is not answered as expected costs this once.
const PATIENCE: Duration = Duration::from_secs(10);
/// What comes unexpectedly comes within this.
const GRACE: Duration = Duration::from_millis(60);

/// What was said after a step, by connection.
pub type Said = BTreeMap<String, Vec<String>>;

pub struct Step {
    pub text: String,
    /// What the file has behind it, line by line, and how many lines of it are to come.
    written: Vec<String>,
    answers: usize,
    recorded: Option<Said>,
}

pub struct Scene {
    pub title: String,
    pub steps: Vec<Step>,
}

impl Scene {
    pub fn read(path: &Path) -> Result<Vec<Scene>> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut scenes: Vec<Scene> = Vec::new();
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("== ") {
                scenes.push(Scene { title: title.to_owned(), steps: Vec::new() });
                continue;
            }
            let Some(scene) = scenes.last_mut() else { continue };
            if line.starts_with("  ") {
                // What is cut here is not heard any more, and a line of a body stands behind its method.
                let heard = !line.trim_start().contains("| cut");
                let step = scene.steps.last_mut().context("an answer before the first step")?;
                step.answers += usize::from(heard);
                step.written.push(line.to_owned());
            } else if !line.is_empty() && !line.starts_with('#') {
                scene.steps.push(Step { text: line.to_owned(), written: Vec::new(), answers: 0, recorded: None });
            }
        }
        Ok(scenes)
    }

    /// In the virtual host where everything is told.
    pub fn is_traced(&self) -> bool {
        self.title.starts_with("traced: ")
    }

    /// The original cannot be asked what is left after a power cut.
    pub fn cuts_power(&self) -> bool {
        self.steps.iter().any(|step| step.text == "power")
    }

    pub fn record(&mut self, said: &[Said]) {
        self.steps.iter_mut().zip(said).for_each(|(step, said)| step.recorded = Some(said.clone()));
    }

    /// What was recorded, and of what was not had this time what there was.
    pub fn write(path: &Path, scenes: &[Scene]) -> Result<()> {
        let head = std::fs::read_to_string(path)?;
        let mut text: String = head.lines().take_while(|line| line.starts_with('#')).fold(String::new(), |text, line| text + line + "\n");
        for scene in scenes {
            let _ = writeln!(text, "== {}", scene.title);
            for step in &scene.steps {
                let _ = writeln!(text, "{}", step.text);
                let Some(recorded) = &step.recorded else {
                    step.written.iter().for_each(|line| text += &format!("{line}\n"));
                    continue;
                };
                for (name, lines) in recorded {
                    for line in lines {
                        let _ = writeln!(text, "  {name}{line}");
                    }
                }
            }
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The whole conversation with the broker on that port. What it leaves behind is deleted, so that the next finds nothing.
    ///
    /// A conversation that is not written down yet has to be listened to for longer.
    pub fn play(&self, port: u16, vhost: &str) -> Result<Vec<Said>> {
        let patient = self.steps.iter().all(|step| step.answers == 0);
        let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
        let mut said = Vec::new();
        for step in &self.steps {
            let (name, what) = step.text.split_once(' ').unwrap_or((&step.text, ""));
            if name == "wait" {
                std::thread::sleep(Duration::from_secs_f64(what.parse().context("wait SECONDS")?));
            } else if name == "trace" {
                // It is on all the time where this is had.
                anyhow::ensure!(
                    self.is_traced() && what == "on",
                    "only a conversation 'traced: ' may have 'trace on', and none 'trace off'"
                );
            } else if Line::new(what).kind() == "connect" {
                peers.insert(name.to_owned(), Peer::connect(port, vhost, &Line::new(what)).with_context(|| step.text.clone())?);
            } else {
                let peer = match peers.entry(name.to_owned()) {
                    Entry::Occupied(there) => there.into_mut(),
                    Entry::Vacant(gap) => gap.insert(Peer::bare(port, vhost)?),
                };
                match Line::new(what).kind() {
                    "cut" => peer.cut(),
                    _ => {
                        let bytes: Vec<u8> = what.split(" ; ").flat_map(|part| words::encode(part, peer.frame_max)).collect();
                        peer.send(&bytes);
                    }
                }
            }
            listen(&mut peers, step.answers, patient);
            said.push(peers.iter_mut().map(|(name, peer)| (name.clone(), peer.heard())).filter(|(_, lines)| !lines.is_empty()).collect());
        }
        drop(peers);
        self.tidy(port, vhost)?;
        Ok(said)
    }

    /// Deletes every queue and exchange that a step declared.
    fn tidy(&self, port: u16, vhost: &str) -> Result<()> {
        let mut peer = Peer::connect(port, vhost, &Line::new("connect")).context("tidying up")?;
        for step in &self.steps {
            let what = step.text.split_once(' ').map_or("", |(_, what)| what);
            let line = Line::new(what);
            let delete = match line.kind() {
                "queue.declare" => line.get("queue").map(|name| format!("queue.delete queue={name}")),
                "exchange.declare" => line.get("exchange").map(|name| format!("exchange.delete exchange={name}")),
                _ => None,
            };
            let Some(delete) = delete.filter(|delete| !delete.ends_with('=') && !delete.contains("=amq.")) else { continue };
            peer.send(&words::encode(&delete, peer.frame_max));
            peer.wait_for(1, PATIENCE);
            // An exclusive queue that is still going away closes the channel: then it is gone soon anyway.
            if peer.heard().iter().any(|line| line.contains("channel.close ")) {
                peer = Peer::connect(port, vhost, &Line::new("connect")).context("tidying up")?;
            }
        }
        Ok(())
    }
}

/// Until so many answers came, or nothing more can be hoped for.
fn listen(peers: &mut BTreeMap<String, Peer>, answers: usize, patient: bool) {
    let grace = if patient { GRACE * 8 } else { GRACE };
    let deadline = Instant::now() + PATIENCE;
    let mut quiet_since = Instant::now();
    loop {
        let before: usize = peers.values().map(Peer::lines).sum();
        peers.values_mut().for_each(Peer::poll);
        let now: usize = peers.values().map(Peer::lines).sum();
        if now != before {
            quiet_since = Instant::now();
        }
        let enough = now >= answers || Instant::now() > deadline;
        if enough && quiet_since.elapsed() > grace {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What each connection heard from the one broker and from the other, line by line; a line that only one said stands beside nothing.
pub fn pairs(theirs: &Said, ours: &Said) -> Vec<(String, String, String)> {
    let names: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let mut pairs = Vec::new();
    for name in names {
        let empty = Vec::new();
        let (left, right) = (theirs.get(name).unwrap_or(&empty), ours.get(name).unwrap_or(&empty));
        for n in 0..left.len().max(right.len()) {
            let line = |lines: &[String]| lines.get(n).cloned().unwrap_or_else(|| "(nothing)".into());
            pairs.push((name.clone(), line(left), line(right)));
        }
    }
    pairs
}
