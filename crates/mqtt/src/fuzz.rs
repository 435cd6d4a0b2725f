//! The body of the fuzz target for sessions, as a plain function, so that an ordinary test can run it too.

use std::time::Instant;

use broker_api::{
    Attached, Context, Control, Entry, Event, EventBatch, Flow, Out, Peer, PrincipalInfo, Protocol, ProtocolSession, QueueId, Reply,
    Serial, Signal, Token, Turn,
};
use bytes::Bytes;

use crate::codec::{Connect, Packet, Version};
use crate::{Config, Mqtt};

const PACKET_MAX: u32 = 4096;
const PENDING_MAX: u32 = 64;

/// A driver with a core that says yes to everything.
struct Fuzz {
    session: Box<dyn ProtocolSession>,
    now: Instant,
    tail: Vec<u8>,
    sent: usize,
    serial: u64,
    closed: bool,
}

/// Feeds a session with any bytes, in pieces: the first byte chooses how the client begins
/// and how long the pieces are. Panics, held reads that nobody would resume, and output out of proportion are what it looks for.
pub fn session_fuzz(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let config = Config { max_packet_size: PACKET_MAX, max_pending: PENDING_MAX, ..Config::default() };
    let now = Instant::now();
    let context = Context { peer: Peer::Unix, identity: None, anonymous: false, opened_ms: 0 };
    let session = Mqtt::new(config).open(context, now);
    let mut fuzz = Fuzz { session, now, tail: Vec::new(), sent: 0, serial: 0, closed: false };
    fuzz.feed(&opening(*first));
    for piece in data.chunks(usize::from(first / 6) + 1) {
        fuzz.feed(piece);
    }
    // A ping of two bytes is answered with two, a filter with a few, a fault with a sentence.
    assert!(fuzz.sent <= 8192 + 64 * (data.len() + 1), "{} bytes out for {} in", fuzz.sent, data.len());
    fuzz.close();
}

/// A CONNECT, or nothing.
fn opening(choice: u8) -> Vec<u8> {
    let (version, clean, expiry_secs) = match choice % 6 {
        0 => return Vec::new(),
        1 => (Version::V311, false, None),
        2 => (Version::V311, true, None),
        3 => (Version::V31, true, None),
        4 => (Version::V5, true, Some(100)),
        _ => (Version::V5, true, None),
    };
    let mut connect = Connect::new(version, "fuzz");
    connect.clean_start = clean;
    connect.properties.session_expiry_secs = expiry_secs;
    connect.properties.topic_alias_maximum = version.is_v5().then_some(u16::from(choice & 8));
    let mut bytes = Vec::new();
    match Packet::Connect(Box::new(connect)).encode(version, &mut bytes) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

impl Fuzz {
    fn feed(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        self.tail.extend_from_slice(bytes);
        let split = match self.session.split(&self.tail) {
            Ok(split) => split,
            Err(close) => {
                self.step(|session, _, turn, out| {
                    session.malformed(&close, turn, out);
                    Flow::Close(close)
                });
                return;
            }
        };
        assert!(split.whole <= self.tail.len());
        assert!(self.tail.len() - split.whole <= PACKET_MAX.max(Config::default().max_connect_size) as usize, "a tail without end");
        let block = Bytes::from(self.tail.drain(..split.whole).collect::<Vec<u8>>());
        let mut offset = 0;
        // Each round answers everything, so that each must come further.
        for _ in 0..=block.len() {
            let shown = block.clone();
            let flow = self.step(|session, now, turn, out| {
                turn.block = shown.clone();
                session.receive(&shown, offset, now, 1_000, turn, out)
            });
            match flow {
                Flow::Hold(at) => {
                    assert!(at >= offset && at <= block.len());
                    offset = at;
                }
                Flow::Go | Flow::Close(_) => return,
            }
        }
        panic!("held for ever at {offset} of {}", block.len());
    }

    /// One call of the session, and the answers to what it asked for, until it asks for nothing more.
    fn step(&mut self, call: impl FnOnce(&mut dyn ProtocolSession, Instant, &mut Turn, &mut Out) -> Flow) -> Flow {
        let (mut turn, mut out) = (Turn::default(), Out::default());
        let flow = call(&mut *self.session, self.now, &mut turn, &mut out);
        self.sent += out.len();
        if matches!(flow, Flow::Close(_)) {
            self.close();
            return flow;
        }
        let mut batch = self.answers(turn);
        while !batch.is_empty() && !self.closed {
            let (mut turn, mut out) = (Turn::default(), Out::default());
            let flow = self.session.events(&mut batch, self.now, 1_000, &mut turn, &mut out);
            self.sent += out.len();
            if let Flow::Close(close) = flow {
                self.close();
                return Flow::Close(close);
            }
            batch = self.answers(turn);
        }
        flow
    }

    fn answers(&mut self, mut turn: Turn) -> EventBatch {
        let mut events = Vec::new();
        let mut done = false;
        for entry in std::mem::take(&mut turn.entries) {
            match entry {
                Entry::Publish { count, .. } => self.serial += u64::from(count),
                Entry::Fence => self.serial += 1,
                Entry::Control(token, control) => events.extend(yes(token, &control)),
                _ => continue,
            }
            done = true;
        }
        if done {
            events.push(Event::Done { through: Serial(self.serial) });
        }
        EventBatch { events, deliveries: Vec::new() }
    }

    fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.session.closed(false, &mut Turn::default());
            // Whoever is called once more by mistake keeps still.
            let mut late = EventBatch { events: vec![Event::Signal(Signal::Shutdown)], deliveries: Vec::new() };
            let (mut turn, mut out) = (Turn::default(), Out::default());
            let flow = self.session.events(&mut late, self.now, 1_000, &mut turn, &mut out);
            assert!(turn.is_empty(), "{flow:?} {:?}", turn.entries);
        }
    }
}

fn yes(token: Token, control: &Control) -> Option<Event> {
    let reply = match control {
        Control::Login(_) => Reply::LoggedIn {
            principal: PrincipalInfo { user: "fuzz".to_owned(), administrator: false, impersonator: false },
            last: Vec::new(),
        },
        Control::Attach(_) => Reply::Attached(Attached { present: false, queue: QueueId(1), state: Vec::new() }),
        Control::Subscribe(_) => Reply::Subscribed { existed: false },
        Control::Unsubscribe { .. } => Reply::Unsubscribed { existed: false },
        _ => return None,
    };
    Some(Event::Reply(token, Box::new(Ok(reply))))
}
