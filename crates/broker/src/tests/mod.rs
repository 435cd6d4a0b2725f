//! The core through turns and event batches, on a simulated disk and without threads: every test takes each step itself.

mod access;
mod crons;
mod delays;
mod exchanges;
mod groups;
mod history;
mod keeps;
mod keys;
mod moves;
mod policies;
mod queues;
mod resting;
mod review;
mod selectors;
mod stop;
mod transactions;
mod vhosts;
mod watch;

use crate::open::Steps;
use crate::{Config, Core};
use broker_api::{
    Bind, Broker, ConnectionInfo, Consume, ConsumerIx, Control, CoreSession, Declare, DeliverTo, Delivery, Destination, Entry, Event,
    EventBatch, ExchangeName, ExchangeSpec, Head, HeaderView, Login, LoginStep, Mode, Outcome, OwnerIx, Peer, QueueId, QueueName,
    QueueSpec, Refusal, Reply, Seq, Settle, Signal, Span, Take, Token, Turn, TxIx, Value, VhostName, HEAD_CONFIRM, HEAD_DURABLE,
};
use journal::sim::{Crash, SimStorage};
use std::sync::Arc;

/// Headers and arguments for tests: `name=value` lines.
struct Lines;

impl HeaderView for Lines {
    fn headers<'a>(&self, origin: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        for line in origin.split(|b| *b == b'\n') {
            if let Some(at) = line.iter().position(|b| *b == b'=') {
                each(&line[..at], Value::Bytes(line[at + 1..].into()));
            }
        }
    }
    fn arguments<'a>(&self, encoded: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        self.headers(encoded, each);
    }
    fn compares(&self, name: &[u8], value: &Value<'_>) -> bool {
        name != b"note" && !(name == b"type" && *value == Value::Bytes(b"plain".as_slice().into()))
    }
}

const LINES: u8 = 200;

struct Rig {
    storage: SimStorage,
    core: Core,
    steps: Steps,
}

/// What came to a client, in plain words.
#[derive(Clone, PartialEq, Debug)]
enum Got {
    Message { to: u32, body: String, seq: Seq, queue: QueueId, delivery: Box<Said> },
    Refused(u64, Refusal),
    Returned(u64),
    Done(u64),
    Reply(u32, Result<Reply, Refusal>),
    Ended(u32),
    Within(u32, Option<u64>),
    Kicked,
    Browsed(u32),
    Found(u32, String),
}

/// What a delivery says beside the body.
#[derive(Clone, PartialEq, Debug)]
struct Said {
    exchange: String,
    key: String,
    attempts: u16,
    flags: u8,
    moved: Option<broker_api::Moved>,
}

struct Client {
    session: Box<dyn CoreSession>,
    turn: Turn,
    got: Vec<Got>,
    token: u32,
}

fn config() -> Config {
    Config { sys_interval_secs: 0, index_bytes: 0, header_views: vec![(LINES, Arc::new(Lines))], ..Config::default() }
}

fn journal_config(storage: &SimStorage) -> journal::Config {
    journal::Config {
        segment_bytes: 1 << 20,
        checkpoint_bytes: 256 << 10,
        clock: storage.clock(),
        simulated: true,
        ..journal::Config::default()
    }
}

impl Rig {
    fn new() -> Rig {
        Rig::on(SimStorage::new(7))
    }

    fn on(storage: SimStorage) -> Rig {
        Rig::with(storage, config())
    }

    fn with(storage: SimStorage, config: Config) -> Rig {
        let (core, steps) =
            Core::open_stepped(Arc::new(storage.clone()), journal_config(&storage), config, Box::new(|_| {})).expect("opens");
        Rig { storage, core, steps }
    }

    /// Everything that the threads of a running core would do by now.
    fn settle(&self) {
        for _ in 0..64 {
            let busy = [self.steps.commit(), self.steps.read(), self.steps.time()];
            if !busy.contains(&true) {
                return;
            }
        }
    }

    fn crash(self, kind: Crash) -> Rig {
        let Rig { storage, core, steps } = self;
        storage.crash(kind);
        drop((core, steps));
        Rig::on(storage)
    }

    fn checkpoint(&self) {
        self.settle();
        let before = self.core.journal_stats().checkpoints;
        self.storage.clock().pass_ms(60_000);
        for _ in 0..64 {
            let _ = (self.steps.maintain(), self.steps.commit());
        }
        assert!(self.core.journal_stats().checkpoints > before, "a checkpoint was made");
    }

    fn client(&self) -> Client {
        self.client_of(false)
    }

    /// Logged in, with owner 1.
    fn client_of(&self, fail_stop: bool) -> Client {
        let mut client = self.stranger();
        client.ok(self, Control::Login(Login { vhost: None, step: LoginStep::Anonymous }));
        client.ok(self, Control::Owner { owner: OwnerIx(1), fail_stop, channel: 0 });
        client
    }

    /// In another virtual host.
    fn client_in(&self, vhost: &str) -> Client {
        let mut client = self.stranger();
        client.ok(self, Control::Login(Login { vhost: Some(VhostName::new(vhost)), step: LoginStep::Anonymous }));
        client.ok(self, Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 });
        client
    }

    /// Nobody yet.
    fn stranger(&self) -> Client {
        let peer = Peer::Tcp("127.0.0.1:1".parse().expect("an address"));
        let info = ConnectionInfo { peer, identity: None, protocol: "test", vhost: VhostName::new("/"), allow_anonymous: true };
        let session = self.core.connect(info).expect("connects");
        Client { session, turn: Turn::default(), got: Vec::new(), token: 0 }
    }
}

impl Client {
    fn submit(&mut self, rig: &Rig) {
        self.session.submit(&mut self.turn);
        self.pull(rig);
    }

    fn pull(&mut self, rig: &Rig) {
        for _ in 0..8 {
            rig.settle();
            let mut batch = EventBatch::default();
            self.session.swap(&mut batch);
            self.session.written(usize::MAX);
            for event in &batch.events {
                self.note(event, &batch);
            }
        }
    }

    /// Sends what the turn holds, and lets nothing else happen.
    fn send(&mut self) {
        self.session.submit(&mut self.turn);
    }

    /// Takes what is there now, without any step of the core's threads.
    fn look(&mut self) -> Vec<Got> {
        let mut batch = EventBatch::default();
        self.session.swap(&mut batch);
        self.session.written(usize::MAX);
        for event in &batch.events {
            self.note(event, &batch);
        }
        std::mem::take(&mut self.got)
    }

    /// Everything that came since, forgetting it.
    fn all(&mut self, rig: &Rig) -> Vec<Got> {
        self.pull(rig);
        std::mem::take(&mut self.got)
    }

    /// Appends a durable publish of owner 1 to the turn.
    fn put(&mut self, exchange: &str, key: &str, body: &str) {
        self.put_with(exchange, key, body, |_| {});
    }

    fn put_with(&mut self, exchange: &str, key: &str, body: &str, edit: impl FnOnce(&mut Head)) {
        let [exchange, key, body] = [exchange, key, body].map(|text| self.turn.intern(text.as_bytes()));
        let flags = HEAD_DURABLE | HEAD_CONFIRM;
        let mut head = Head { exchange, key, body, flags, separator: b'.', level: 1, format: LINES, owner: 1, ..Head::default() };
        edit(&mut head);
        self.turn.publish(head);
    }

    fn put_settle(&mut self, queue: QueueId, seq: Seq, outcome: Outcome) {
        self.turn.settle(Settle { queue, first: seq, count: 1, owner: OwnerIx(1), state: 0, outcome });
    }

    fn scope(&mut self, tx: Option<u32>) {
        self.turn.entries.push(Entry::Scope(tx.map(TxIx)));
    }

    /// Appends a command; answers its token.
    fn put_control(&mut self, control: Control) -> u32 {
        self.token += 1;
        self.turn.control(Token(self.token), control);
        self.token
    }

    fn note(&mut self, event: &Event, all: &EventBatch) {
        match event {
            Event::Run { to, queue, batch, start, count } => {
                let to = match to {
                    DeliverTo::Consumer(ConsumerIx(ix)) => *ix,
                    DeliverTo::Reply(Token(token)) => 1000 + token,
                };
                for delivery in all.run(*start, *count) {
                    self.got.push(said(to, *queue, batch, delivery));
                }
            }
            Event::Refused { first, last, why } => self.got.extend((first.0..=last.0).map(|s| Got::Refused(s, why.clone()))),
            Event::Returned { first, count, .. } => self.got.extend((0..u64::from(*count)).map(|n| Got::Returned(first.0 + n))),
            Event::Done { through } => self.got.push(Got::Done(through.0)),
            Event::Reply(token, reply) => self.got.push(Got::Reply(token.0, (**reply).clone())),
            Event::Signal(Signal::Ended { consumer, .. }) => self.got.push(Got::Ended(consumer.0)),
            Event::Signal(Signal::SettleWithin { consumer, ms }) => self.got.push(Got::Within(consumer.0, *ms)),
            Event::Signal(Signal::Browsed { consumer }) => self.got.push(Got::Browsed(consumer.0)),
            Event::Signal(Signal::Found { watch, queue }) => self.got.push(Got::Found(watch.0, queue.to_string())),
            Event::Signal(Signal::Kicked) => self.got.push(Got::Kicked),
            Event::Signal(_) | Event::Direct { .. } => {}
        }
    }

    fn ask(&mut self, rig: &Rig, control: Control) -> Result<Reply, Refusal> {
        self.token += 1;
        self.turn.control(Token(self.token), control);
        self.submit(rig);
        let token = self.token;
        let at = self.got.iter().position(|g| matches!(g, Got::Reply(t, _) if *t == token)).expect("answered");
        match self.got.remove(at) {
            Got::Reply(_, reply) => reply,
            _ => unreachable!("matched above"),
        }
    }

    fn ok(&mut self, rig: &Rig, control: Control) -> Reply {
        self.ask(rig, control).expect("accepted")
    }

    fn queue(&mut self, rig: &Rig, name: &str, spec: QueueSpec) -> QueueId {
        let declare = Declare::Queue { owner: OwnerIx(1), name: QueueName::new(name), spec, passive: false };
        match self.ok(rig, Control::Declare(declare)) {
            Reply::Queue { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    /// Ready messages and consumers.
    fn counts(&mut self, rig: &Rig, name: &str) -> Option<(u64, u32)> {
        let declare = Declare::Queue { owner: OwnerIx(1), name: QueueName::new(name), spec: QueueSpec::default(), passive: true };
        match self.ask(rig, Control::Declare(declare)) {
            Ok(Reply::Queue { ready, consumers, .. }) => Some((ready, consumers)),
            _ => None,
        }
    }

    fn exchange(&mut self, rig: &Rig, name: &str, kind: &str) {
        let spec = ExchangeSpec { kind: kind.into(), durable: true, ..ExchangeSpec::default() };
        self.ok(rig, exchange(name, spec));
    }

    fn bind(&mut self, rig: &Rig, source: &str, to: &str, key: &str) {
        self.ok(rig, Control::Bind(binding(source, Destination::Queue(QueueName::new(to)), key, b"")));
    }

    /// Publishes one durable message and answers what came back.
    fn publish(&mut self, rig: &Rig, exchange: &str, key: &str, body: &str) -> Vec<Got> {
        self.publish_with(rig, exchange, key, body, |_, _| {})
    }

    fn publish_with(&mut self, rig: &Rig, exchange: &str, key: &str, body: &str, edit: impl FnOnce(&mut Head, &mut Turn)) -> Vec<Got> {
        let (exchange, key, body) =
            (self.turn.intern(exchange.as_bytes()), self.turn.intern(key.as_bytes()), self.turn.intern(body.as_bytes()));
        let flags = HEAD_DURABLE | HEAD_CONFIRM;
        let mut head =
            Head { exchange, key, body, flags, separator: b'.', level: 1, origin: Span::EMPTY, format: LINES, ..Head::default() };
        edit(&mut head, &mut self.turn);
        self.turn.publish(head);
        self.got.clear();
        self.submit(rig);
        std::mem::take(&mut self.got)
    }

    fn consume(&mut self, rig: &Rig, queue: &str, ix: u32, credit: u32) {
        self.ok(rig, Control::Consume(consume(queue, ix, credit)));
    }

    fn take(&mut self, rig: &Rig, queue: &str) -> Option<(Seq, String, Said)> {
        let take = Take { owner: OwnerIx(1), queue: QueueName::new(queue), max: 1, settled: false };
        self.got.clear();
        self.ok(rig, Control::Take(take));
        self.got.drain(..).find_map(|g| match g {
            Got::Message { seq, body, delivery, .. } => Some((seq, body, *delivery)),
            _ => None,
        })
    }

    fn settle(&mut self, rig: &Rig, queue: QueueId, seq: Seq, outcome: Outcome) {
        self.turn.settle(Settle { queue, first: seq, count: 1, owner: OwnerIx(1), state: 0, outcome });
        self.turn.fence();
        self.submit(rig);
    }

    /// The bodies that came since, forgetting them.
    fn bodies(&mut self, rig: &Rig) -> Vec<String> {
        self.pull(rig);
        let got = std::mem::take(&mut self.got);
        got.into_iter().filter_map(|g| if let Got::Message { body, .. } = g { Some(body) } else { None }).collect()
    }
}

/// To whom, and what.
fn handed(c: &mut Client, rig: &Rig) -> Vec<(u32, String, Seq)> {
    c.pull(rig);
    let message = |got| match got {
        Got::Message { to, body, seq, .. } => Some((to, body, seq)),
        _ => None,
    };
    std::mem::take(&mut c.got).into_iter().filter_map(message).collect()
}

fn bodies_to(handed: &[(u32, String, Seq)], ix: u32) -> Vec<&str> {
    handed.iter().filter(|(to, _, _)| *to == ix).map(|(_, body, _)| body.as_str()).collect()
}

fn said(to: u32, queue: QueueId, batch: &broker_api::Batch, delivery: &Delivery) -> Got {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Said {
        exchange: text(delivery.exchange(batch)),
        key: text(delivery.key(batch)),
        attempts: delivery.attempts,
        flags: delivery.flags,
        moved: delivery.moved().cloned(),
    };
    let body = text(batch.body(&batch.heads[delivery.index as usize]));
    Got::Message { to, body, seq: delivery.seq, queue, delivery: Box::new(said) }
}

fn exchange(name: &str, spec: ExchangeSpec) -> Control {
    Control::Declare(Declare::Exchange { owner: OwnerIx(1), name: ExchangeName::new(name), spec, passive: false })
}

fn binding(source: &str, destination: Destination, key: &str, arguments: &[u8]) -> Bind {
    Bind {
        owner: OwnerIx(1),
        source: ExchangeName::new(source),
        destination,
        key: key.into(),
        arguments: arguments.to_vec(),
        format: LINES,
    }
}

fn consume(queue: &str, ix: u32, credit: u32) -> Consume {
    Consume {
        consumer: ConsumerIx(ix),
        owner: OwnerIx(1),
        group: None,
        queue: QueueName::new(queue),
        credit,
        mode: Mode::Lease,
        exclusive: false,
        alone: false,
        priority: 0,
        selector: None,
    }
}

fn durable() -> QueueSpec {
    QueueSpec { durable: true, ..QueueSpec::default() }
}

/// Ten thousand idle connections are a figure that users look at: what each keeps in the core.
#[test]
fn what_an_idle_connection_keeps_stays_small() {
    use std::mem::size_of;
    let sizes = [
        ("link", size_of::<crate::link::Link>(), 464),
        ("outbox", size_of::<crate::outbox::Outbox>(), 232),
        ("session", size_of::<crate::session::Session>(), 264),
        ("live", size_of::<crate::session::Live>(), 64),
        ("queue", size_of::<crate::queue::Queue>(), 400),
        ("consumer", size_of::<crate::queue::Consumer>(), 80),
        ("event", size_of::<broker_api::Event>(), 64),
    ];
    println!("{sizes:?}");
    let over: Vec<_> = sizes.iter().filter(|(_, size, most)| size > most).collect();
    assert!(over.is_empty(), "{over:?}");
}
