//! Several connections to one real core on a simulated disk and clock, in one thread.

use broker::{Core, Steps};
use broker_api::{Broker, ConnectionInfo, Context, CoreSession, EventBatch, Flow, Out, Peer, Protocol, ProtocolSession, Turn, VhostName};
use bytes::Bytes;
use journal::sim::SimStorage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stomp::{Config, Headers, Stomp, FORMAT};

struct Connection {
    session: Box<dyn ProtocolSession>,
    core: Box<dyn CoreSession>,
    tail: Vec<u8>,
    held: Option<(Bytes, usize)>,
    seen: Vec<u8>,
    known: Known,
    closed: bool,
}

/// What a script may name without writing it.
#[derive(Clone, Default)]
struct Known {
    /// The id of the last MESSAGE, for `ACK id:$`; and of those before it, for `$1` (the first) and so on.
    ids: Vec<String>,
    /// The reply address of the last MESSAGE, for `destination:@`.
    reply_to: String,
}

pub struct Rig {
    storage: SimStorage,
    core: Core,
    steps: Steps,
    stomp: Arc<Stomp>,
    connections: BTreeMap<String, Connection>,
    now: Instant,
    /// Bytes are given to sessions in pieces of this size.
    pub pieces: usize,
    pub lines: Vec<String>,
}

impl Rig {
    pub fn new(pieces: usize) -> Rig {
        Rig::with(Config::default(), pieces)
    }

    pub fn with(config: Config, pieces: usize) -> Rig {
        let storage = SimStorage::new(7);
        storage.clock().pass_ms(1_700_000_000_000);
        let journal = journal::Config {
            clock: storage.clock(),
            segment_bytes: 1 << 20,
            checkpoint_bytes: 4 << 20,
            checkpoint_interval: Duration::ZERO,
            simulated: true,
            ..journal::Config::default()
        };
        let permission =
            |user, vhost, configure, write, read| broker::auth::Permission::parse(user, vhost, configure, write, read).unwrap();
        let user = |name: &str, password: &str| broker::auth::User {
            name: name.to_owned(),
            credential: broker::auth::Credential::Plain(password.to_owned()),
            tags: Vec::new(),
            connections_max: None,
            channels_max: None,
        };
        let auth = broker::auth::Config {
            permissions: vec![
                permission("guest", "/", ".*", ".*", ".*"),
                permission("guest", "tenant", ".*", ".*", ".*"),
                permission("bob", "/", "^bob-", "^bob-|^amq.direct$", ""),
            ],
            users: vec![user("guest", "guest"), user("bob", "secret")],
            ..broker::auth::Config::default()
        };
        let settings = broker::Config {
            sys_interval_secs: 0,
            auth,
            vhosts: vec!["tenant".into()],
            default_queue_types: vec![("tenant".into(), "quorum".into())],
            header_views: vec![(FORMAT, Arc::new(Headers))],
            ..broker::Config::default()
        };
        let (core, steps) = Core::open_stepped(Arc::new(storage.clone()), journal, settings, Box::new(|_| {})).expect("the core opens");
        let stomp = Stomp::new(config, Vec::new());
        Rig { storage, core, steps, stomp, connections: BTreeMap::new(), now: Instant::now(), pieces, lines: Vec::new() }
    }

    fn connection(&mut self, name: &str) -> &mut Connection {
        if !self.connections.contains_key(name) {
            // Whoever is far away says so in his name.
            let peer = Peer::Tcp(if name.starts_with("far") { "10.0.0.1:5" } else { "127.0.0.1:5" }.parse().unwrap());
            let info = ConnectionInfo {
                peer: peer.clone(),

                identity: None,
                protocol: "stomp",
                vhost: VhostName::new("/"),
                allow_anonymous: false,
            };
            let connection = Connection {
                session: self.stomp.clone().open(Context { peer, identity: None, anonymous: false, opened_ms: 0 }, self.now),
                core: self.core.connect(info).expect("a connection"),
                tail: Vec::new(),
                held: None,
                seen: Vec::new(),
                known: Known::default(),
                closed: false,
            };
            self.connections.insert(name.to_owned(), connection);
        }
        self.connections.get_mut(name).expect("there")
    }

    /// One step of a script: `a SEND destination:/queue/q receipt:1 body=hello`.
    pub fn step(&mut self, step: &str) {
        let (name, what) = step.split_once(' ').unwrap_or((step, ""));
        match what.split(' ').next().unwrap_or("") {
            _ if name == "wait" => self.wait(what.parse().expect("seconds")),
            "connect" => self.connect(name, what),
            "cut" => {
                self.end(name, false);
                self.lines.push(format!("{name}| cut"));
            }
            _ => {
                let known = self.connection(name).known.clone();
                // What is parted by semicolons is sent at once.
                let bytes: Vec<u8> = what.split(" ; ").flat_map(|part| encode(part, &known)).collect();
                self.feed(name, &bytes);
            }
        }
        self.settle();
    }

    /// The whole opening: `connect 1.1 user:password`.
    fn connect(&mut self, name: &str, what: &str) {
        let mut words = what.split(' ').skip(1);
        let version = words.next().unwrap_or("1.2");
        let (user, password) = words.next().and_then(|word| word.split_once(':')).unwrap_or(("guest", "guest"));
        let before = self.lines.len();
        let connect = format!("STOMP accept-version:{version} host:/ login:{user} passcode:{password}");
        self.feed(name, &encode(&connect, &Known::default()));
        self.settle();
        // What is always the same says nothing.
        let fresh = self.lines.split_off(before);
        self.lines.extend(fresh.into_iter().filter(|line| !line.contains("< CONNECTED ")));
    }

    pub fn feed(&mut self, name: &str, bytes: &[u8]) {
        for piece in bytes.chunks(self.pieces) {
            self.connection(name).tail.extend_from_slice(piece);
            self.read(name);
        }
    }

    fn read(&mut self, name: &str) {
        let connection = self.connection(name);
        if connection.closed || connection.held.is_some() || connection.tail.is_empty() {
            return;
        }
        let split = connection.session.split(&connection.tail).expect("what is no STOMP is answered in its turn");
        if split.whole > 0 {
            let block = Bytes::from(connection.tail.drain(..split.whole).collect::<Vec<u8>>());
            self.show(name, block, 0);
        }
    }

    fn show(&mut self, name: &str, block: Bytes, offset: usize) {
        let (now, now_ms) = (self.now, self.core.now_ms());
        let connection = self.connection(name);
        let (mut turn, mut out) = (Turn { block: block.clone(), ..Turn::default() }, Out::default());
        let flow = connection.session.receive(&block, offset, now, now_ms, &mut turn, &mut out);
        connection.core.submit(&mut turn);
        if let Flow::Hold(at) = flow {
            connection.held = Some((block, at));
        }
        self.say(name, &mut out);
        self.after(name, flow);
    }

    fn after(&mut self, name: &str, flow: Flow) {
        if let Flow::Close(close) = flow {
            self.lines.push(format!("{name}| closed{}", if close.clean { "" } else { " by us" }));
            self.end(name, close.clean);
        }
    }

    fn end(&mut self, name: &str, clean: bool) {
        let connection = self.connection(name);
        if !std::mem::replace(&mut connection.closed, true) {
            let mut turn = Turn::default();
            connection.session.closed(clean, &mut turn);
            connection.core.submit(&mut turn);
            connection.core.disconnect();
        }
    }

    /// Everything that can happen now.
    fn settle(&mut self) {
        let names: Vec<String> = self.connections.keys().cloned().collect();
        for _ in 0..1000 {
            let mut busy = self.steps.commit() | self.steps.read() | self.steps.time();
            for name in &names {
                busy |= self.events(name);
            }
            if !busy {
                return;
            }
        }
        panic!("the session and the core keep each other busy");
    }

    fn events(&mut self, name: &str) -> bool {
        let (now, now_ms) = (self.now, self.core.now_ms());
        let connection = self.connection(name);
        if connection.closed {
            return false;
        }
        let mut batch = EventBatch::default();
        connection.core.swap(&mut batch);
        if batch.is_empty() {
            return false;
        }
        let (mut turn, mut out) = (Turn::default(), Out::default());
        let flow = connection.session.events(&mut batch, now, now_ms, &mut turn, &mut out);
        connection.core.submit(&mut turn);
        connection.core.written(usize::MAX);
        let held = if flow == Flow::Go { connection.held.take() } else { None };
        self.say(name, &mut out);
        self.after(name, flow);
        if let Some((block, offset)) = held {
            self.show(name, block, offset);
            self.read(name);
        }
        true
    }

    fn wait(&mut self, secs: f64) {
        self.storage.clock().pass_ms((secs * 1000.0) as u64);
        self.now += Duration::from_secs_f64(secs);
        let names: Vec<String> = self.connections.keys().cloned().collect();
        for name in names {
            let (now, now_ms) = (self.now, self.core.now_ms());
            let connection = self.connection(&name);
            if !connection.closed && connection.session.deadline().is_some_and(|at| at <= now) {
                let (mut turn, mut out) = (Turn::default(), Out::default());
                let flow = connection.session.on_deadline(now, now_ms, &mut turn, &mut out);
                connection.core.submit(&mut turn);
                self.say(&name, &mut out);
                self.after(&name, flow);
            }
            let connection = self.connection(&name);
            if !connection.closed && connection.session.beat_at().is_some_and(|at| at <= now) {
                let mut out = Out::default();
                connection.session.beat(now, &mut out);
                self.say(&name, &mut out);
            }
        }
    }

    /// Writes down what was sent to a client: one line for each frame, as it stands on the wire.
    fn say(&mut self, name: &str, out: &mut Out) {
        let bytes = out.concat();
        let connection = self.connections.get_mut(name).expect("there");
        connection.seen.extend_from_slice(&bytes);
        let (mut lines, mut at) = (Vec::new(), 0);
        while let Some((text, end)) = frame(&connection.seen[at..]) {
            let value = |name: &str| text.split(' ').find_map(|word| word.strip_prefix(name)).map(str::to_owned);
            connection.known.ids.extend(value("message-id:"));
            connection.known.reply_to = value("reply-to:").unwrap_or_default();
            lines.push(format!("{name}< {text}"));
            at += end;
        }
        connection.seen.drain(..at);
        self.lines.extend(lines.iter().map(|line| without_chance(line)));
    }
}

/// A frame, or a line end between frames, as a line of a transcript, and where it ends.
fn frame(bytes: &[u8]) -> Option<(String, usize)> {
    if *bytes.first()? == b'\n' {
        return Some(("beat".to_owned(), 1));
    }
    let head = bytes.windows(2).position(|two| two == b"\n\n")?;
    let text = String::from_utf8(bytes[..head].to_vec()).expect("text");
    let length = text.split('\n').find_map(|line| line.strip_prefix("content-length:"));
    let body = &bytes[head + 2..];
    let len = length.map_or_else(|| body.iter().position(|byte| *byte == 0).expect("a NUL"), |len| len.parse().expect("a length"));
    assert_eq!(&body[len..len + 2], b"\0\n", "each frame ends with a NUL and a line end");
    let lines: Vec<&str> = text.split('\n').filter(|line| !line.starts_with("content-length:")).collect();
    let shown = match len {
        0 => String::new(),
        1..=300 => format!(" | {}", String::from_utf8_lossy(&body[..len]).trim_end().replace('\n', "\\n")),
        _ => format!(" | {}..*{len}", String::from_utf8_lossy(&body[..4])),
    };
    Some((lines.join(" ") + &shown, head + 2 + len + 2))
}

/// The bytes of one frame: words with a colon are headers (`_` is a space in them), `body=x*9` is nine of them; `$` is an id seen before, `@` a reply address.
fn encode(text: &str, known: &Known) -> Vec<u8> {
    if let Some(raw) = text.strip_prefix("raw ") {
        return raw.replace("\\n", "\n").replace("\\0", "\0").replace("\\r", "\r").into_bytes();
    }
    let mut out = Vec::new();
    let (text, body) = text.split_once(" body=").unwrap_or((text, ""));
    let body = match body.split_once('*') {
        Some((what, count)) => what.repeat(count.parse().expect("a count")).into_bytes(),
        None => body.as_bytes().to_vec(),
    };
    for (n, word) in text.split(' ').filter(|word| !word.is_empty()).enumerate() {
        let word = match word.split_once(":$") {
            Some((name, "")) => format!("{name}:{}", known.ids.last().expect("a message came")),
            Some((name, number)) => format!("{name}:{}", known.ids[number.parse::<usize>().expect("a number") - 1]),
            None if word.ends_with(":@") => format!("{}{}", word.trim_end_matches('@'), known.reply_to),
            None => word.replace('_', " "),
        };
        assert!(n == 0 || word.contains(':'), "no header: {word}");
        out.extend_from_slice(word.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(&body);
    out.push(0);
    out
}

/// Names that are made up differ from run to run.
fn without_chance(line: &str) -> String {
    let mut line = line.to_owned();
    for prefix in ["amq.gen-", "session-", "stomp-subscription-"] {
        let mut from = 0;
        while let Some(at) = line[from..].find(prefix).map(|at| from + at) {
            from = at + prefix.len();
            let end = (from + 22).min(line.len());
            line.replace_range(from..end, "*");
        }
    }
    line
}
