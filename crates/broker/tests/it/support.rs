//! What makes a core test three lines long: a node on a simulated disk, taken step by step (or with its real threads), and clients that
//! remember what they were told.

use broker::{Core, Steps};
use broker_api::*;
use journal::sim::{Crash, SimClock, SimStorage};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

pub const OWNER: OwnerIx = OwnerIx(1);
pub const CONSUMER: ConsumerIx = ConsumerIx(1);
pub const GROUP: GroupIx = GroupIx(1);
/// Anything that waits for another thread gives up after this.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments for tests, by their format: `name=value`.
pub struct Pair;
pub const PAIR: u8 = 200;

impl HeaderView for Pair {
    fn headers<'a>(&self, _: &'a [u8], _: &mut dyn FnMut(&'a [u8], Value<'a>)) {}
    fn arguments<'a>(&self, encoded: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        if let Some(at) = encoded.iter().position(|b| *b == b'=') {
            each(&encoded[..at], Value::Bytes(encoded[at + 1..].into()));
        }
    }
}

/// A node's settings, and its disk.
#[derive(Clone)]
pub struct Setup {
    pub storage: SimStorage,
    pub config: broker::Config,
    pub journal: journal::Config,
    pub threads: bool,
    /// Pages are: what they referred to stays counted.
    pub damaged: bool,
}

impl Setup {
    pub fn new() -> Setup {
        Setup::seeded(1)
    }

    pub fn seeded(seed: u64) -> Setup {
        let storage = SimStorage::new(seed);
        let clock = storage.clock();
        clock.pass_ms(1_700_000_000_000);
        let journal = journal::Config {
            clock,
            segment_bytes: 1 << 20,
            checkpoint_bytes: 4 << 20,
            simulated: true,
            checkpoint_interval: Duration::ZERO,
            ..Default::default()
        };
        let header_views: Vec<(u8, Arc<dyn HeaderView>)> = vec![(PAIR, Arc::new(Pair))];
        let config = broker::Config { sys_interval_secs: 0, index_bytes: 0, header_views, ..Default::default() };
        Setup { storage, config, journal, threads: false, damaged: false }
    }

    /// Segments and checkpoints so small that a few dozen messages rotate and evacuate them.
    pub fn tiny(mut self) -> Setup {
        self.journal.segment_bytes = 24 << 10;
        self.journal.checkpoint_bytes = 64 << 10;
        self.journal.staging_bytes = 24 << 10;
        self.journal.checkpoint_interval = Duration::from_secs(30);
        self
    }

    pub fn threads(mut self) -> Setup {
        self.threads = true;
        self.journal.clock = Arc::new(journal::SystemClock);
        self.journal.checkpoint_interval = Duration::from_millis(20);
        self
    }

    pub fn session_queue(mut self, messages: u64) -> Setup {
        self.config.session_queue_messages = messages;
        self
    }

    pub fn start(&self) -> Node {
        self.try_start().expect("the core opens")
    }

    pub fn try_start(&self) -> Result<Node, broker::CoreError> {
        let failed = Arc::new(AtomicBool::new(false));
        let flag = failed.clone();
        let on_failure = Box::new(move |_: &journal::Failure| flag.store(true, Ordering::Release));
        let storage = Arc::new(self.storage.clone());
        let (core, steps) = if self.threads {
            (Core::open(storage, self.journal.clone(), self.config.clone(), on_failure)?, None)
        } else {
            let (core, steps) = Core::open_stepped(storage, self.journal.clone(), self.config.clone(), on_failure)?;
            (core, Some(Arc::new(steps)))
        };
        Ok(Node { core, steps, setup: self.clone(), failed })
    }
}

/// A running core.
#[derive(Clone)]
pub struct Node {
    pub core: Core,
    pub steps: Option<Arc<Steps>>,
    pub setup: Setup,
    pub failed: Arc<AtomicBool>,
}

impl Node {
    pub fn new() -> Node {
        Setup::new().start()
    }

    /// Everything that can be done now: commits, reads, timers.
    pub fn settle(&self) {
        let Some(steps) = &self.steps else { return };
        for _ in 0..1_000_000 {
            if !(steps.commit() | steps.read() | steps.time() | steps.spill()) {
                return;
            }
        }
        panic!("the core never comes to rest");
    }

    pub fn clock(&self) -> Arc<SimClock> {
        self.setup.storage.clock()
    }

    /// Time passes, and what was due happens.
    pub fn pass_secs(&self, secs: u64) {
        self.clock().pass_ms(secs * 1000);
        self.settle();
    }

    pub fn maintain(&self) {
        if let Some(steps) = &self.steps {
            steps.maintain();
        }
        self.settle();
    }

    /// A checkpoint of everything, now.
    pub fn checkpoint(&self) {
        let before = self.core.journal_stats().checkpoints;
        for _ in 0..10 {
            self.maintain();
        }
        assert!(self.core.journal_stats().checkpoints > before, "no checkpoint was written");
    }

    pub fn depth(&self, session: &str) -> u64 {
        self.core.session_depth("/", session).unwrap_or(0)
    }

    pub fn has_session(&self, session: &str) -> bool {
        self.core.session_depth("/", session).is_some()
    }

    /// The process dies (or the machine: then what was not synced may be gone) and comes back.
    pub fn crash(self, kind: Crash) -> Node {
        self.setup.storage.crash(kind);
        let setup = self.setup.clone();
        self.core.close().ok();
        drop(self);
        setup.start()
    }

    /// Commits everything, then dies and comes back: only the log is left.
    pub fn restart(self) -> Node {
        self.settle();
        self.check();
        self.crash(Crash::PowerCut)
    }

    pub fn check(&self) {
        let audit = || if self.setup.damaged { Ok(()) } else { self.core.audit() };
        if let Err(wrong) = self.core.recount().and_then(|()| audit()) {
            panic!("{wrong}");
        }
    }
}

/// A message to publish.
#[derive(Clone)]
pub struct Msg {
    pub topic: String,
    pub body: Vec<u8>,
    pub level: u8,
    pub flags: u16,
    /// From now; 0 = never.
    pub expires_secs: u64,
    /// For exchanges that delay.
    pub delay_ms: u32,
    pub edit: Option<StateEdit>,
}

pub fn msg(topic: &str, body: impl AsRef<[u8]>, level: u8) -> Msg {
    let flags = if level > 0 { HEAD_DURABLE | HEAD_CONFIRM } else { 0 };
    Msg { topic: topic.into(), body: body.as_ref().into(), level, flags, expires_secs: 0, delay_ms: 0, edit: None }
}

impl Msg {
    pub fn retained(mut self) -> Msg {
        self.flags |= HEAD_RETAIN;
        self
    }
    pub fn mandatory(mut self) -> Msg {
        self.flags |= HEAD_MANDATORY;
        self
    }
    pub fn confirm(mut self) -> Msg {
        self.flags |= HEAD_CONFIRM;
        self
    }
    pub fn expires(mut self, secs: u64) -> Msg {
        self.expires_secs = secs;
        self
    }
    pub fn delay(mut self, ms: u32) -> Msg {
        self.delay_ms = ms;
        self
    }
    pub fn with(mut self, edit: StateEdit) -> Msg {
        self.edit = Some(edit);
        self
    }

    pub fn put(&self, turn: &mut Turn, now_ms: u64) {
        let state = self.edit.clone().map_or(0, |edit| turn.keep_state(edit));
        let key = turn.intern(self.topic.as_bytes());
        let body = turn.intern(&self.body);
        turn.publish(Head {
            key,
            body,
            flags: self.flags,
            level: self.level,
            state,
            separator: b'/',
            topic: true,
            owner: OWNER.0,
            delay_ms: self.delay_ms,
            expires_ms: if self.expires_secs > 0 { now_ms + self.expires_secs * 1000 } else { 0 },
            ..Head::default()
        });
    }

    /// As a parting message.
    pub fn parting(&self, delay_secs: u32) -> Parting {
        let mut turn = Turn::default();
        self.put(&mut turn, 0);
        Parting { message: Arc::new(turn.freeze(0)), delay_secs }
    }
}

/// A delivery as a client saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Got {
    pub queue: QueueId,
    /// `None`: at most once, no queue kept it.
    pub seq: Option<Seq>,
    pub topic: String,
    pub body: Vec<u8>,
    pub level: u8,
    pub flags: u8,
    pub attempts: u16,
    pub ids: Vec<u32>,
    pub retain: bool,
    pub to: ConsumerIx,
}

impl Got {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Everything else a client was told, in order, deliveries included.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Got(Got),
    Reply(u32, Result<Reply, Refusal>),
    Refused(u64, u64, Refusal),
    Returned(u64, u32),
    Done(u64),
    Signal(String),
}

pub fn bodies(got: &[Got]) -> Vec<String> {
    got.iter().map(Got::text).collect()
}

pub struct Client {
    pub session: Box<dyn CoreSession>,
    pub node: Node,
    pub log: Vec<Seen>,
    pub serial: u64,
    pub queue: QueueId,
    pub present: bool,
    pub state: Vec<(u64, StateValue)>,
    taken: usize,
    token: u32,
    hold: bool,
}

/// How a client attaches.
pub struct Attaching<'a> {
    node: &'a Node,
    attach: Attach,
    credit: u32,
}

impl<'a> Attaching<'a> {
    pub fn clean(mut self) -> Self {
        self.attach.clean = true;
        self
    }
    pub fn transient(mut self) -> Self {
        self.attach.clean = true;
        self.attach.expiry = Expiry::WithConnection;
        self
    }
    pub fn expiry(mut self, secs: u32) -> Self {
        self.attach.expiry = Expiry::Seconds(secs);
        self
    }
    pub fn will(mut self, message: Msg, delay_secs: u32) -> Self {
        self.attach.parting = Some(message.parting(delay_secs));
        self
    }
    pub fn credit(mut self, n: u32) -> Self {
        self.credit = n;
        self
    }
    pub fn window_bytes(mut self, n: u64) -> Self {
        self.attach.window_bytes = NonZeroU64::new(n);
        self
    }

    /// Sends the command without waiting for its answer.
    pub fn send(self) -> Client {
        let mut client = Client::connect(self.node);
        client.control(Control::Attach(self.attach));
        client
    }

    pub fn go(self) -> Client {
        let credit = self.credit;
        let mut client = self.send();
        client.attached();
        client.credit(credit);
        client.poll();
        client
    }
}

impl Client {
    pub fn named<'a>(node: &'a Node, name: &str) -> Attaching<'a> {
        let attach = Attach {
            owner: OWNER,
            session: SessionName::new(name),
            consumer: CONSUMER,
            group: GROUP,
            window_bytes: None,
            clean: false,
            expiry: Expiry::Never,
            parting: None,
        };
        Attaching { node, attach, credit: 100_000 }
    }

    /// A persistent session with plenty of credit.
    pub fn attach(node: &Node, name: &str) -> Client {
        Client::named(node, name).go()
    }

    /// A session that dies with its connection.
    pub fn transient(node: &Node, name: &str) -> Client {
        Client::named(node, name).transient().go()
    }

    /// Logged in as anonymous, not attached.
    pub fn connect(node: &Node) -> Client {
        let info = ConnectionInfo { peer: Peer::Unix, identity: None, protocol: "test", vhost: VhostName::new("/"), allow_anonymous: true };
        let session = node.core.connect(info).expect("a connection");
        let mut client = Client {
            session,
            node: node.clone(),
            log: Vec::new(),
            serial: 0,
            queue: QueueId(0),
            present: false,
            state: Vec::new(),
            taken: 0,
            token: 0,
            hold: false,
        };
        let token = client.control(Control::Login(Login { vhost: None, step: LoginStep::Anonymous }));
        client.reply(token).expect("anonymous may log in");
        client
    }

    /// Leaves what is said to it in the outbox, and its budget spent, until told otherwise.
    pub fn hold(&mut self, on: bool) -> &mut Self {
        self.hold = on;
        self
    }

    /// Lets the core work and hears what there is to hear.
    pub fn poll(&mut self) -> &mut Self {
        self.node.settle();
        self.hear();
        self
    }

    /// Takes what stands in the outbox.
    pub fn hear(&mut self) -> &mut Self {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100_000 {
            if self.hold || self.session.poll_events(&mut cx).is_pending() {
                return self;
            }
            let mut batch = EventBatch::default();
            self.session.swap(&mut batch);
            self.keep(&mut batch);
            self.session.written(usize::MAX);
            self.node.settle();
        }
        panic!("the outbox is never empty");
    }

    /// Takes what stands in the outbox, and does not let the core do more than that makes it.
    pub fn hear_one(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            if self.session.poll_events(&mut cx).is_pending() {
                return;
            }
            let mut batch = EventBatch::default();
            self.session.swap(&mut batch);
            self.keep(&mut batch);
            self.session.written(usize::MAX);
        }
    }

    /// Takes what one swap hands out; it does not count as written.
    pub fn swap(&mut self) {
        let mut batch = EventBatch::default();
        self.session.swap(&mut batch);
        self.keep(&mut batch);
    }

    fn keep(&mut self, batch: &mut EventBatch) {
        for event in std::mem::take(&mut batch.events) {
            match event {
                Event::Run { to, queue, batch: messages, start, count } => {
                    let DeliverTo::Consumer(to) = to else { panic!("nobody takes") };
                    for d in batch.run(start, count) {
                        let got = got(&messages, d.index, to, d.side.as_deref());
                        let got = Got { queue, seq: Some(d.seq), level: d.level, flags: d.flags, attempts: d.attempts, ..got };
                        self.log.push(Seen::Got(got));
                    }
                }
                Event::Direct { to, batch: messages, first, count, side, flags } => {
                    for index in first..first + count {
                        let got = got(&messages, index, to, side.as_deref());
                        self.log.push(Seen::Got(Got { flags, ..got }));
                    }
                }
                Event::Refused { first, last, why } => self.log.push(Seen::Refused(first.0, last.0, why)),
                Event::Returned { first, count, .. } => self.log.push(Seen::Returned(first.0, count)),
                Event::Done { through } => self.log.push(Seen::Done(through.0)),
                Event::Reply(token, reply) => self.log.push(Seen::Reply(token.0, *reply)),
                Event::Signal(signal) => self.log.push(Seen::Signal(format!("{signal:?}"))),
            }
        }
    }

    /// Polls until it holds; with threads, until patience ends.
    pub fn until(&mut self, what: &str, mut there: impl FnMut(&Client) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.poll();
            if there(self) {
                return;
            }
            if self.node.steps.is_some() || Instant::now() > end {
                panic!("{what} did not happen; last heard: {:?}", self.log.iter().rev().take(8).collect::<Vec<_>>());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn control(&mut self, control: Control) -> u32 {
        self.turn(|turn, token| turn.control(Token(token), control))
    }

    /// One turn of its own; answers the token that it may use.
    pub fn turn(&mut self, fill: impl FnOnce(&mut Turn, u32)) -> u32 {
        self.token += 1;
        let mut turn = Turn::default();
        fill(&mut turn, self.token);
        let serials = |e: &Entry| match e {
            Entry::Publish { count, .. } => u64::from(*count),
            Entry::Fence => 1,
            _ => 0,
        };
        self.serial += turn.entries.iter().map(serials).sum::<u64>();
        self.session.submit(&mut turn);
        assert!(turn.is_empty(), "a turn is taken whole");
        self.token
    }

    pub fn replied(&self, token: u32) -> Option<Result<Reply, Refusal>> {
        self.log.iter().find_map(|seen| match seen {
            Seen::Reply(t, reply) if *t == token => Some(reply.clone()),
            _ => None,
        })
    }

    pub fn reply(&mut self, token: u32) -> Result<Reply, Refusal> {
        self.until("a reply", |c| c.replied(token).is_some());
        self.replied(token).expect("just seen")
    }

    /// Waits for the answer to the attach command.
    pub fn attached(&mut self) -> Attached {
        let found = |c: &Client| {
            c.log.iter().find_map(|seen| match seen {
                Seen::Reply(_, Ok(Reply::Attached(attached))) => Some(attached.clone()),
                _ => None,
            })
        };
        self.until("the session", |c| found(c).is_some());
        let attached = found(self).expect("just seen");
        (self.queue, self.present, self.state) = (attached.queue, attached.present, attached.state.clone());
        attached
    }

    pub fn subscribe(&mut self, pattern: &str, level: u8) -> &mut Self {
        self.subscribe_as(pattern, level, |_| {})
    }

    pub fn share(&mut self, group: &str, pattern: &str, level: u8) -> &mut Self {
        self.subscribe_as(pattern, level, |s| s.share = Some(group.into()))
    }

    pub fn subscribe_as(&mut self, pattern: &str, level: u8, change: impl FnOnce(&mut Subscribe)) -> &mut Self {
        let mut subscribe = Subscribe {
            owner: OWNER,
            filter: Filter { pattern: pattern.into(), separator: b'/' },
            share: None,
            level,
            identifier: 0,
            no_local: false,
            as_published: false,
            retained: RetainedOn::Always,
            selector: None,
        };
        change(&mut subscribe);
        let token = self.control(Control::Subscribe(subscribe));
        self.reply(token).expect("subscribed");
        self.poll()
    }

    pub fn unsubscribe(&mut self, pattern: &str, share: Option<&str>) -> bool {
        let filter = Filter { pattern: pattern.into(), separator: b'/' };
        let token = self.control(Control::Unsubscribe { owner: OWNER, filter, share: share.map(Into::into) });
        match self.reply(token).expect("unsubscribed") {
            Reply::Unsubscribed { existed } => existed,
            other => panic!("{other:?}"),
        }
    }

    /// Sends; answers the last serial.
    pub fn send(&mut self, messages: &[Msg]) -> u64 {
        let now = self.session.now_ms();
        self.turn(|turn, _| messages.iter().for_each(|m| m.put(turn, now)));
        self.serial
    }

    /// Sends one message, and waits for the confirm if it asks for one.
    pub fn publish(&mut self, topic: &str, body: impl AsRef<[u8]>, level: u8) -> &mut Self {
        self.publish_msg(msg(topic, body, level))
    }

    pub fn publish_msg(&mut self, message: Msg) -> &mut Self {
        let serial = self.send(std::slice::from_ref(&message));
        if message.flags & HEAD_CONFIRM != 0 {
            self.confirmed(serial);
        }
        self.poll()
    }

    /// The last completion.
    pub fn done(&self) -> u64 {
        self.log.iter().rev().find_map(|seen| if let Seen::Done(n) = seen { Some(*n) } else { None }).unwrap_or(0)
    }

    pub fn confirmed(&mut self, serial: u64) -> &mut Self {
        self.until("a confirm", |c| c.done() >= serial);
        self
    }

    pub fn fence(&mut self) -> &mut Self {
        self.turn(|turn, _| turn.fence());
        let serial = self.serial;
        self.confirmed(serial)
    }

    /// What came since the last call.
    pub fn take(&mut self) -> Vec<Got> {
        self.poll();
        let fresh = self.log[self.taken..].iter().filter_map(|s| if let Seen::Got(got) = s { Some(got.clone()) } else { None }).collect();
        self.taken = self.log.len();
        fresh
    }

    /// The log was emptied by hand.
    pub fn taken_from_start(&mut self) {
        self.taken = 0;
    }

    /// Waits for `n` more deliveries (with threads), and takes them.
    pub fn take_n(&mut self, n: usize) -> Vec<Got> {
        let mut all = Vec::new();
        let end = Instant::now() + PATIENCE;
        while all.len() < n {
            all.extend(self.take());
            let late = self.node.steps.is_some() || Instant::now() > end;
            assert!(all.len() >= n || !late, "{} of {n} deliveries came", all.len());
        }
        all
    }

    pub fn settle_with(&mut self, got: &[Got], outcome: Outcome) -> &mut Self {
        self.turn(|turn, _| {
            for g in got {
                if let Some(seq) = g.seq {
                    turn.settle(Settle { queue: g.queue, first: seq, count: 1, owner: OWNER, state: 0, outcome });
                }
            }
        });
        self.poll()
    }

    pub fn ack(&mut self, got: &[Got]) -> &mut Self {
        self.settle_with(got, Outcome::Accepted)
    }

    pub fn release(&mut self, got: &[Got]) -> &mut Self {
        self.settle_with(got, Outcome::Released)
    }

    /// Takes everything, acknowledges it, waits until that is durable.
    pub fn drain(&mut self) -> Vec<Got> {
        let got = self.take();
        self.ack(&got);
        self.fence();
        got
    }

    pub fn credit(&mut self, n: u32) -> &mut Self {
        if n > 0 {
            self.turn(|turn, _| turn.credit(CreditTo::Group(GROUP), n));
        }
        self.poll()
    }

    pub fn put(&mut self, key: u64, value: &str) -> &mut Self {
        self.turn(|turn, _| turn.state(edit(key, Some(value), None)));
        self.fence()
    }

    pub fn signals(&self) -> Vec<String> {
        self.log.iter().filter_map(|s| if let Seen::Signal(text) = s { Some(text.clone()) } else { None }).collect()
    }

    pub fn heard(&self, signal: &str) -> bool {
        self.signals().iter().any(|s| s.starts_with(signal))
    }

    /// The connection is lost.
    pub fn cut(mut self) {
        self.session.disconnect();
        self.node.settle();
    }

    /// A proper good-bye.
    pub fn bye(self) {
        self.end(None, PartingFate::Discard);
    }

    pub fn end(mut self, expiry: Option<Expiry>, parting: PartingFate) {
        self.control(Control::EndOwner(EndOwner { owner: OWNER, expiry, parting }));
        self.cut();
    }
}

fn got(messages: &Batch, index: u32, to: ConsumerIx, side: Option<&Side>) -> Got {
    let head = &messages.heads[index as usize];
    Got {
        queue: QueueId(0),
        seq: None,
        topic: String::from_utf8_lossy(messages.key(head)).into_owned(),
        body: messages.body(head).to_vec(),
        level: 0,
        flags: 0,
        attempts: 0,
        ids: side.map(|s| s.subscriptions.clone()).unwrap_or_default(),
        retain: head.has(HEAD_RETAIN),
        to,
    }
}

pub fn edit(key: u64, value: Option<&str>, lease: Option<(QueueId, Seq)>) -> StateEdit {
    StateEdit { owner: OWNER, key, value: value.map(|v| StateValue::from_slice(v.as_bytes())), lease }
}

pub fn keys(state: &[(u64, StateValue)]) -> Vec<u64> {
    state.iter().map(|(key, _)| *key).collect()
}
