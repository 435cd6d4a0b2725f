//! A conversation: steps of named connections, and what a broker said after each of them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};

use crate::frame::{encode, take, Frame, Known, Names};

/// How long a frame may take. A step that is not answered as expected costs this once.
const PATIENCE: Duration = Duration::from_secs(3);
/// What comes unexpectedly comes within this.
const GRACE: Duration = Duration::from_millis(60);

/// What was said after a step, by connection.
pub type Said = BTreeMap<String, Vec<String>>;

/// A broker.
#[derive(Clone, Copy)]
pub struct Door {
    pub port: u16,
    pub activemq: bool,
}

pub struct Step {
    pub text: String,
    /// Frames that the file has behind it.
    answers: usize,
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
                // Who closes first, and when, is not compared.
                let heard = line.trim_start().split_once(' ').is_some_and(|(who, what)| who.ends_with('<') && what != "beat");
                scene.steps.last_mut().context("an answer before the first step")?.answers += usize::from(heard);
            } else if !line.is_empty() && !line.starts_with('#') {
                scene.steps.push(Step { text: line.to_owned(), answers: 0 });
            }
        }
        Ok(scenes)
    }

    /// The whole conversation.
    pub fn play(&self, door: Door, vhost: &str) -> Result<Vec<Said>> {
        static PLAYED: AtomicU64 = AtomicU64::new(0);
        let number = PLAYED.fetch_add(1, Ordering::Relaxed);
        let names = Names { prefix: format!("n{}n{number}.", std::process::id()), vhost: vhost.to_owned() };
        let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
        let mut said = Vec::new();
        for step in &self.steps {
            let (name, what) = step.text.split_once(' ').unwrap_or((&step.text, ""));
            match what.split(' ').next().unwrap_or_default() {
                _ if name == "wait" => std::thread::sleep(Duration::from_secs_f64(what.parse().context("wait SECONDS")?)),
                // Who comes from far away; nobody does here.
                _ if name.starts_with("far") => {
                    said.push(Said::new());
                    continue;
                }
                "cut" => {
                    peers.remove(name);
                }
                "connect" => {
                    let peer = Peer::connect(door, what, &names).with_context(|| step.text.clone())?;
                    peers.insert(name.to_owned(), peer);
                }
                _ => {
                    if !peers.contains_key(name) {
                        peers.insert(name.to_owned(), Peer::bare(door)?);
                    }
                    let peer = peers.get_mut(name).context("just made")?;
                    let mut bytes = Vec::new();
                    for part in what.split(" ; ") {
                        bytes.extend(encode(part, &peer.known, &names).map_err(|why| anyhow!(why))?);
                    }
                    peer.send(&bytes);
                }
            }
            listen(&mut peers, step.answers);
            let heard = |(name, peer): (&String, &mut Peer)| (name.clone(), peer.heard(&names));
            said.push(peers.iter_mut().map(heard).filter(|(_, lines)| !lines.is_empty()).collect());
        }
        Ok(said)
    }
}

/// Until so many frames came, or nothing more can be hoped for.
fn listen(peers: &mut BTreeMap<String, Peer>, answers: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut quiet_since = Instant::now();
    loop {
        let before: usize = peers.values().map(|peer| peer.frames.len()).sum();
        peers.values_mut().for_each(Peer::poll);
        let now: usize = peers.values().map(|peer| peer.frames.len()).sum();
        if now != before {
            quiet_since = Instant::now();
        }
        if (now >= answers || Instant::now() > deadline) && quiet_since.elapsed() > GRACE {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Peer {
    stream: TcpStream,
    seen: Vec<u8>,
    frames: Vec<Frame>,
    known: Known,
    closed: bool,
    activemq: bool,
}

impl Peer {
    fn bare(door: Door) -> Result<Peer> {
        let stream = TcpStream::connect(("127.0.0.1", door.port)).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Peer { stream, seen: Vec::new(), frames: Vec::new(), known: Known::default(), closed: false, activemq: door.activemq })
    }

    /// The whole opening: `connect 1.1 user:password`. What is always said is not noted.
    fn connect(door: Door, what: &str, names: &Names) -> Result<Peer> {
        let mut peer = Peer::bare(door)?;
        let mut words = what.split(' ').skip(1);
        let version = words.next().unwrap_or("1.2");
        let (user, password) = words.next().and_then(|word| word.split_once(':')).unwrap_or(("guest", "guest"));
        let connect = format!("CONNECT accept-version:{version} host:/ login:{user} passcode:{password}");
        peer.send(&encode(&connect, &Known::default(), names).map_err(|why| anyhow!(why))?);
        let deadline = Instant::now() + 3 * PATIENCE;
        while peer.frames.is_empty() && !peer.closed && Instant::now() < deadline {
            peer.poll();
            std::thread::sleep(Duration::from_millis(1));
        }
        peer.frames.retain(|frame| frame.command != "CONNECTED");
        Ok(peer)
    }

    /// A socket that the broker closed meanwhile takes nothing.
    fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let deadline = Instant::now() + PATIENCE;
        while !rest.is_empty() && Instant::now() < deadline {
            match self.stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return,
            }
        }
    }

    fn poll(&mut self) {
        let mut buffer = [0; 64 << 10];
        while !self.closed {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(n) => self.seen.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.closed = true,
            }
        }
        while let Some((frame, used)) = take(&self.seen) {
            self.seen.drain(..used.min(self.seen.len()));
            let Some(frame) = frame else { continue };
            if frame.command == "MESSAGE" {
                let text = |name| frame.get(name).map(str::to_owned);
                self.known.ids.push((text("message-id").unwrap_or_default(), text("ack")));
                self.known.reply_to = text("reply-to").unwrap_or_default();
            }
            self.frames.push(frame);
        }
    }

    /// What came since, in words: errors, receipts, then messages by subscription. How a broker mixes these is a matter of chance.
    fn heard(&mut self, names: &Names) -> Vec<String> {
        let mut frames = std::mem::take(&mut self.frames);
        frames.sort_by_key(|frame| {
            let text = |name| frame.get(name).unwrap_or_default().to_owned();
            match frame.command.as_str() {
                // Of a composite destination by the part that it comes from.
                "MESSAGE" => (2, text("subscription") + " " + &text("destination")),
                "RECEIPT" => (1, text("receipt-id")),
                _ => (0, String::new()),
            }
        });
        frames.iter().map(|frame| names.shown(&in_words(frame, self.activemq))).collect()
    }
}

/// Values that are never the same.
const MADE_UP: [&str; 5] = ["message-id", "ack", "session", "server", "timestamp"];

/// Headers sorted, for their order means nothing; what is made up left out.
fn in_words(frame: &Frame, activemq: bool) -> String {
    let mut headers: Vec<String> = Vec::new();
    for (name, value) in &frame.headers {
        match name.as_str() {
            "content-length" => {}
            // Of messages; a publisher's is kept by RabbitMQ.
            "timestamp" if !activemq => headers.push(format!("{name}:{value}")),
            name if MADE_UP.contains(&name) => headers.push(format!("{name}:*")),
            _ => headers.push(format!("{name}:{}", without_chance(value))),
        }
    }
    headers.sort();
    // ActiveMQ's ERROR has a stack trace in it, and RabbitMQ's Processing error says no more than that.
    let unsaid = activemq || frame.get("message") == Some("Processing error");
    let body = if unsaid && frame.command == "ERROR" { String::new() } else { String::from_utf8_lossy(&frame.body).into_owned() };
    let body = match body.len() {
        0 => String::new(),
        1..=300 => format!(" >> {}", body.trim_end().replace('\n', "\\n").replace('\0', "\\0")),
        len => format!(" >> *{len}"),
    };
    format!("< {} {}{body}", frame.command, headers.join(" "))
}

/// Names that are made up differ from run to run.
fn without_chance(value: &str) -> String {
    for prefix in ["/reply-queue/amq.gen-", "/queue/amq.gen-", "/remote-temp-queue/"] {
        if value.starts_with(prefix) {
            return format!("{prefix}*");
        }
    }
    value.to_owned()
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
