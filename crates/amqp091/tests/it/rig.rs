//! Several connections to one real core on a simulated disk and clock, in one thread.

use crate::words;
use amqp091::codec::{frame_at, show, ContentHead, Method, Properties, FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD};
use amqp091::{Amqp, Config, Firehose, Headers, FORMAT};
use broker::{Core, Steps};
use broker_api::{
    Broker, ConnectionInfo, Context, CoreSession, EventBatch, Flow, Out, Peer, Protocol, ProtocolSession, Then, Turn, VhostName,
};
use bytes::Bytes;
use journal::sim::{Crash, SimStorage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Connection {
    session: Box<dyn ProtocolSession>,
    core: Box<dyn CoreSession>,
    tail: Vec<u8>,
    held: Option<(Bytes, usize)>,
    seen: Vec<u8>,
    header_seen: bool,
    frame_max: usize,
    closed: bool,
    /// A content on its way: what was said of it, and how much of its body is missing.
    content: BTreeMap<u16, (String, Vec<u8>, usize)>,
}

pub struct Rig {
    storage: SimStorage,
    core: Core,
    steps: Steps,
    amqp: Arc<Amqp>,
    connections: BTreeMap<String, Connection>,
    now: Instant,
    /// Bytes are given to sessions in pieces of this size.
    pub pieces: usize,
    pub lines: Vec<String>,
    /// The last reply address that somebody was told; steps may say `@reply` for it.
    reply_to: String,
}

impl Rig {
    pub fn new(pieces: usize) -> Rig {
        Rig::with(Config::default(), pieces)
    }

    pub fn with(config: Config, pieces: usize) -> Rig {
        Rig::of(config, |_| {}, pieces)
    }

    /// With a core of other settings.
    pub fn of(config: Config, set: impl FnOnce(&mut broker::Config), pieces: usize) -> Rig {
        let storage = SimStorage::new(7);
        storage.clock().pass_ms(1_700_000_000_000);
        let (core, steps) = Rig::open(&storage, set);
        let amqp = Amqp::new(config, Vec::new());
        Rig {
            storage,
            core,
            steps,
            amqp,
            connections: BTreeMap::new(),
            now: Instant::now(),
            pieces,
            lines: Vec::new(),
            reply_to: String::new(),
        }
    }

    /// The power fails and comes back, and everybody has to connect again.
    fn power(&mut self) {
        self.connections.clear();
        self.storage.crash(Crash::PowerCut);
        (self.core, self.steps) = Rig::open(&self.storage, |_| {});
    }

    fn open(storage: &SimStorage, set: impl FnOnce(&mut broker::Config)) -> (Core, Steps) {
        let journal = journal::Config {
            clock: storage.clock(),
            segment_bytes: 1 << 20,
            checkpoint_bytes: 4 << 20,
            checkpoint_interval: Duration::ZERO,
            simulated: true,
            ..journal::Config::default()
        };
        let users = [("guest", "guest"), ("bob", "secret"), ("eve", "secret"), ("max", "secret"), ("few", "secret")];
        let auth = broker::auth::Config {
            permissions: vec![
                broker::auth::Permission::parse("guest", "/", ".*", ".*", ".*").unwrap(),
                broker::auth::Permission::parse("guest", "tenant", ".*", ".*", ".*").unwrap(),
                broker::auth::Permission::parse("bob", "/", "^bob-", "^bob-|^amq.(direct|topic)$", "^amq.topic$").unwrap(),
                broker::auth::Permission::parse("max", "/", ".*", ".*", ".*").unwrap(),
                broker::auth::Permission::parse("few", "/", ".*", ".*", ".*").unwrap(),
                broker::auth::Permission::parse("eve", "/", "", "", "").unwrap(),
            ],
            topic_permissions: vec![broker::auth::TopicPermission::parse("bob", "/", "amq.topic", "^{username}\\.", "^bob\\.").unwrap()],
            users: users
                .iter()
                .map(|(name, password)| broker::auth::User {
                    name: (*name).to_owned(),
                    credential: broker::auth::Credential::Plain((*password).to_owned()),
                    tags: if *name == "max" { vec!["impersonator".to_owned()] } else { Vec::new() },
                    connections_max: (*name == "eve").then_some(1),
                    channels_max: (*name == "few").then_some(2),
                })
                .collect(),
            ..broker::auth::Config::default()
        };
        let mut settings = broker::Config {
            sys_interval_secs: 0,
            auth,
            vhosts: vec!["tenant".into()],
            default_queue_types: vec![("tenant".into(), "quorum".into())],
            header_views: vec![(FORMAT, Arc::new(Headers))],
            tracer: Some(Arc::new(Firehose::new(Vec::new()))),
            ..broker::Config::default()
        };
        set(&mut settings);
        Core::open_stepped(Arc::new(storage.clone()), journal, settings, Box::new(|_| {})).expect("the core opens")
    }

    fn connection(&mut self, name: &str) -> &mut Connection {
        if !self.connections.contains_key(name) {
            let peer = Peer::Tcp("127.0.0.1:5".parse().unwrap());
            let info = ConnectionInfo {
                peer: peer.clone(),

                identity: None,
                protocol: "amqp091",
                vhost: VhostName::new("/"),
                allow_anonymous: false,
            };
            let connection = Connection {
                session: self
                    .amqp
                    .clone()
                    .open(Context { anonymous: self.core.trusts_anonymous(&peer), peer, identity: None, opened_ms: 0 }, self.now),
                core: self.core.connect(info).expect("a connection"),
                tail: Vec::new(),
                held: None,
                seen: Vec::new(),
                header_seen: false,
                frame_max: 131_072,
                closed: false,
                content: BTreeMap::new(),
            };
            self.connections.insert(name.to_owned(), connection);
        }
        self.connections.get_mut(name).expect("there")
    }

    /// One step of a script: `a queue.declare queue=q`.
    pub fn step(&mut self, step: &str) {
        let (name, what) = step.split_once(' ').unwrap_or((step, ""));
        match (name, what.split_whitespace().next().unwrap_or("")) {
            ("trace", _) => assert!(self.core.set_traced("/", what == "on")),
            ("power", _) => self.power(),
            ("wait", _) => self.wait(what.parse().expect("seconds")),
            (name, "connect") => self.connect(name, what),
            (name, "cut") => {
                self.end(name, false);
                self.lines.push(format!("{name}| cut"));
            }
            (name, _) => {
                let frame_max = self.connection(name).frame_max;
                // What is parted by semicolons is sent at once.
                let what = what.replace("@reply", &self.reply_to);
                let bytes: Vec<u8> = what.split(" ; ").flat_map(|part| words::encode(part, frame_max)).collect();
                self.feed(name, &bytes);
            }
        }
        self.settle();
    }

    /// The whole handshake, and channel 1.
    fn connect(&mut self, name: &str, what: &str) {
        let line = words::Line::new(what);
        let get = |key: &str, otherwise: &'static str| line.get(key).map_or_else(|| otherwise.to_owned(), str::to_owned);
        let frame_max: usize = get("frame_max", "131072").parse().unwrap();
        let mut capabilities = words::table("connection.blocked:t1,consumer_cancel_notify:t1,authentication_failure_close:t1");
        if line.get("capabilities") == Some("none") {
            capabilities = words::table("");
        }
        let mut properties = words::table("");
        properties.table("capabilities", &capabilities);
        let response = format!("\0{}\0{}", get("user", "guest"), get("password", "guest"));
        let mut start = Vec::new();
        Method::ConnectionStartOk {
            client_properties: properties.as_table(),
            mechanism: get("mechanism", "PLAIN").as_bytes(),
            response: response.as_bytes(),
            locale: b"en_US",
        }
        .put(0, &mut start);
        let virtual_host = get("vhost", "/");
        let before = self.lines.len();
        self.feed(name, &words::encode("header", 0));
        self.feed(name, &start);
        self.settle();
        let mut rest = Vec::new();
        let (channel_max, heartbeat) = (get("channel_max", "2047").parse().unwrap(), get("heartbeat", "0").parse().unwrap());
        Method::ConnectionTuneOk { channel_max, frame_max: frame_max as u32, heartbeat }.put(0, &mut rest);
        Method::ConnectionOpen { virtual_host: virtual_host.as_bytes(), capabilities: b"", insist: false }.put(0, &mut rest);
        self.feed(name, &rest);
        self.settle();
        let mut open = Vec::new();
        Method::ChannelOpen { out_of_band: b"" }.put(1, &mut open);
        self.feed(name, &open);
        self.settle();
        self.connection(name).frame_max = frame_max;
        // What is always the same says nothing.
        let usual = ["connection.start ", "connection.tune ", "connection.open_ok", "channel.open_ok"];
        let fresh = self.lines.split_off(before);
        self.lines.extend(fresh.into_iter().filter(|line| !usual.iter().any(|usual| line.contains(usual))));
    }

    fn feed(&mut self, name: &str, bytes: &[u8]) {
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
        match connection.session.split(&connection.tail) {
            Ok(split) if split.whole > 0 => {
                let block = Bytes::from(connection.tail.drain(..split.whole).collect::<Vec<u8>>());
                self.show(name, block, 0);
            }
            Ok(_) => {}
            Err(close) => {
                let (mut turn, mut out) = (Turn::default(), Out::default());
                connection.session.malformed(&close, &mut turn, &mut out);
                self.say(name, &mut out);
                self.lines.push(format!("{name}| closed"));
                self.end(name, false);
            }
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
            // Who is told why is waited for until it has answered, and who went by itself until it closes the socket.
            let last = self.lines.last().map_or("", String::as_str);
            let then = if last.starts_with(&format!("{name}< 0 connection.close ")) {
                Then::Answered(words::encode("connection.close_ok", 4096).leak())
            } else if last.starts_with(&format!("{name}< 0 connection.close_ok")) {
                Then::PeerEnded
            } else {
                Then::AtOnce
            };
            assert_eq!(close.then, then, "{}", close.why);
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

    /// Writes down what was sent to a client.
    fn say(&mut self, name: &str, out: &mut Out) {
        let bytes = out.concat();
        let connection = self.connections.get_mut(name).expect("there");
        connection.seen.extend_from_slice(&bytes);
        let mut lines = Vec::new();
        if !connection.header_seen && connection.seen.starts_with(b"AMQP") {
            connection.seen.drain(..8);
            lines.push(format!("{name}< header AMQP 0 0 9 1"));
        }
        connection.header_seen |= !connection.seen.is_empty();
        let mut at = 0;
        while let Some(frame) = frame_at(&connection.seen, at) {
            let payload = frame.payload(&connection.seen);
            assert!(payload.len() + 8 <= connection.frame_max, "a frame over frame_max");
            match frame.kind {
                FRAME_METHOD => lines.push(format!("{name}< {} {}", frame.channel, Method::parse(payload).expect("a method").show())),
                FRAME_HEADER => {
                    let head = ContentHead::parse(payload).expect("a header");
                    let said = show::properties(&Properties::parse(head.properties).expect("properties"));
                    connection.content.insert(frame.channel, (said, Vec::new(), head.body_size as usize));
                }
                FRAME_BODY => {
                    let (_, body, _) = connection.content.get_mut(&frame.channel).expect("a header came before");
                    body.extend_from_slice(payload);
                }
                FRAME_HEARTBEAT => lines.push(format!("{name}< heartbeat")),
                other => panic!("a frame of type {other}"),
            }
            if let Some((said, body, _)) = connection.content.get(&frame.channel).filter(|(_, body, size)| body.len() == *size).cloned() {
                lines.push(format!("{name}<  {said} body={}", short(&body)));
                connection.content.remove(&frame.channel);
            }
            at = frame.end();
        }
        connection.seen.drain(..at);
        for line in &lines {
            if let Some((_, address)) = line.split_once(" reply_to=") {
                self.reply_to = address.split(' ').next().unwrap_or_default().to_owned();
            }
        }
        self.lines.extend(lines.iter().map(|line| without_chance(line)));
    }
}

fn short(body: &[u8]) -> String {
    match body.len() {
        0..=40 => String::from_utf8_lossy(body).into_owned(),
        len => format!("{}..*{len}", String::from_utf8_lossy(&body[..4])),
    }
}

/// Names that are made up differ from run to run.
fn without_chance(line: &str) -> String {
    let mut line = line.to_owned();
    for prefix in ["amq.gen-", "amq.ctag-", "amq.rabbitmq.reply-to."] {
        let mut from = 0;
        while let Some(at) = line[from..].find(prefix).map(|at| from + at) {
            from = at + prefix.len();
            let end = (from + 22).min(line.len());
            line.replace_range(from..end, "*");
        }
    }
    line
}
