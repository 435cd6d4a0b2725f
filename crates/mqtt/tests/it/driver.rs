//! Drives a session as the gateway does, with a fake core behind it, and writes down what it does.

use crate::core::FakeCore;
use crate::printer;
use broker_api::{Close, Context, EventBatch, Flow, Out, Peer, Protocol, ProtocolSession, Turn};
use bytes::Bytes;
use mqtt::codec::Version;
use mqtt::{Config, Mqtt};
use std::time::{Duration, Instant};

pub struct Driver {
    session: Box<dyn ProtocolSession>,
    pub core: FakeCore,
    /// Bytes that are not whole frames yet, or came while a block was held.
    tail: Vec<u8>,
    held: Option<(Bytes, usize)>,
    pub closed: Option<Close>,
    now: Instant,
    now_ms: u64,
    pub version: Version,
    /// What happened since it was last taken, line by line.
    pub lines: Vec<String>,
}

pub const START_MS: u64 = 1_000_000;

impl Driver {
    pub fn new(config: Config) -> Driver {
        config.check().expect("a sound config");
        let mqtt = Mqtt::new(config);
        let now = Instant::now();
        let context = Context { peer: Peer::Unix, identity: None, anonymous: false, opened_ms: START_MS };
        Driver {
            session: mqtt.open(context, now),
            core: FakeCore::default(),
            tail: Vec::new(),
            held: None,
            closed: None,
            now,
            now_ms: START_MS,
            version: Version::V311,
            lines: Vec::new(),
        }
    }

    /// Bytes from the client.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.read();
    }

    fn read(&mut self) {
        if self.held.is_some() || self.closed.is_some() || self.tail.is_empty() {
            return;
        }
        match self.session.split(&self.tail) {
            Ok(split) => {
                assert!(split.whole <= self.tail.len());
                if split.whole > 0 {
                    let block = Bytes::from(self.tail.drain(..split.whole).collect::<Vec<u8>>());
                    self.show(block, 0);
                }
            }
            Err(close) => {
                let (mut turn, mut out) = (Turn::default(), Out::default());
                self.session.malformed(&close, &mut turn, &mut out);
                self.take(turn, out);
                self.close(close);
            }
        }
        self.run_core();
    }

    fn show(&mut self, block: Bytes, offset: usize) {
        let (mut turn, mut out) = (Turn { block: block.clone(), ..Turn::default() }, Out::default());
        let flow = self.session.receive(&block, offset, self.now, self.now_ms, &mut turn, &mut out);
        self.take(turn, out);
        match flow {
            Flow::Go => {}
            Flow::Hold(offset) => self.held = Some((block, offset)),
            Flow::Close(close) => self.close(close),
        }
    }

    /// Events from the core, and whatever follows from them.
    pub fn events(&mut self, mut batch: EventBatch) {
        if self.closed.is_some() || batch.is_empty() {
            return;
        }
        let (mut turn, mut out) = (Turn::default(), Out::default());
        let flow = self.session.events(&mut batch, self.now, self.now_ms, &mut turn, &mut out);
        self.take(turn, out);
        match flow {
            Flow::Close(close) => self.close(close),
            Flow::Go => {
                if let Some((block, offset)) = self.held.take() {
                    self.show(block, offset);
                }
            }
            Flow::Hold(_) => {}
        }
        self.run_core();
        self.read();
    }

    fn run_core(&mut self) {
        for _ in 0..1000 {
            let batch = self.core.answers();
            if batch.is_empty() {
                return;
            }
            self.events(batch);
        }
        panic!("the session and the core keep each other busy");
    }

    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        self.now_ms += time.as_millis() as u64;
        let due = self.session.deadline().is_some_and(|deadline| deadline <= self.now);
        if self.closed.is_some() || !due {
            return;
        }
        let (mut turn, mut out) = (Turn::default(), Out::default());
        let flow = self.session.on_deadline(self.now, self.now_ms, &mut turn, &mut out);
        self.take(turn, out);
        if let Flow::Close(close) = flow {
            self.close(close);
        }
        self.run_core();
    }

    /// The client's end of the line is gone.
    pub fn cut(&mut self) {
        if self.closed.is_none() {
            self.close(Close::dirty("the peer closed the connection"));
        }
    }

    fn close(&mut self, close: Close) {
        let what = if close.clean { "clean" } else { "lost" };
        self.lines.push(format!("closed {what}: {}", close.why));
        let mut turn = Turn::default();
        self.session.closed(close.clean, &mut turn);
        self.closed = Some(close);
        self.take(turn, Out::default());
    }

    fn take(&mut self, mut turn: Turn, mut out: Out) {
        let bytes = out.concat();
        self.core.submit(&mut turn, self.now_ms, &mut self.lines);
        self.lines.extend(printer::packets(&bytes, self.version));
    }
}
