//! The body of the fuzz target for sessions, as a plain function, so that an ordinary test can run it too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use broker_api::{
    Batch, Context, Control, CreditTo, Declare, DeliverTo, Delivery, Entry, Event, EventBatch, Flow, Limit, Login, LoginStep, Out, Peer,
    PrincipalInfo, Protocol, ProtocolSession, QueueId, Refusal, Reply, Seq, Serial, Signal, Token, Turn, HEAD_MANDATORY,
};
use bytes::Bytes;

use crate::codec::{Method, Table, FRAME_OVERHEAD, PROTOCOL_HEADER};
use crate::{Amqp, Config};

const FRAME_MAX: u32 = 4096;
const CHANNEL_MAX: u16 = 9;

/// Feeds a session with any bytes, in pieces: the first byte chooses how the client begins and how long the pieces are. Panics, held reads
/// that nobody would resume, and output out of proportion are what it looks for.
pub fn session_fuzz(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let config = Config { frame_max: FRAME_MAX, channel_max: CHANNEL_MAX, max_message_size: 1 << 16, ..Config::default() };
    let now = Instant::now();
    let session = Amqp::new(config, Vec::new()).open(Context { peer: Peer::Unix, identity: None, anonymous: false, opened_ms: 0 }, now);
    let mut fuzz = Fuzz { session, core: Core::default(), now, tail: Vec::new(), sent: 0, closed: false };
    for frames in opening(*first) {
        fuzz.feed(&frames);
    }
    for piece in data.chunks(usize::from(first / 6) + 1) {
        fuzz.feed(piece);
    }
    // A command of 13 bytes that fails is answered with a sentence that may quote a name, and a message with as much as came in. Each
    // message goes to one consumer at most, whose tag may be as long.
    assert!(fuzz.sent <= 16_384 + 64 * (data.len() + 1), "{} bytes out for {} in", fuzz.sent, data.len());
    fuzz.close();
}

/// Nothing, or up to an open channel with confirms, transactions, consumers.
fn opening(choice: u8) -> Vec<Vec<u8>> {
    let mut steps = Vec::new();
    let mut put = |channel: u16, methods: &[Method<'_>]| {
        let mut bytes = Vec::new();
        methods.iter().for_each(|method| method.put(channel, &mut bytes));
        steps.push(bytes);
    };
    if choice % 6 == 0 {
        return steps;
    }
    let start = Method::ConnectionStartOk {
        client_properties: Table::default(),
        mechanism: b"PLAIN",
        response: b"\0guest\0guest",
        locale: b"en_US",
    };
    put(0, &[start]);
    put(0, &[Method::ConnectionTuneOk { channel_max: CHANNEL_MAX, frame_max: FRAME_MAX, heartbeat: 0 }]);
    put(0, &[Method::ConnectionOpen { virtual_host: b"/", capabilities: b"", insist: false }]);
    put(1, &[Method::ChannelOpen { out_of_band: b"" }]);
    let consume = Method::BasicConsume {
        queue: b"q",
        consumer_tag: b"c",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: Table::default(),
    };
    match choice % 6 {
        2 => put(1, &[Method::ConfirmSelect { nowait: false }, consume]),
        3 => put(1, &[Method::TxSelect {}, consume]),
        4 => put(1, &[Method::BasicQos { prefetch_size: 0, prefetch_count: 3, global: true }, consume]),
        5 => put(1, &[Method::BasicQos { prefetch_size: 0, prefetch_count: 2, global: false }, consume]),
        _ => {}
    }
    steps[0].splice(0..0, PROTOCOL_HEADER);
    steps
}

/// A driver.
struct Fuzz {
    session: Box<dyn ProtocolSession>,
    core: Core,
    now: Instant,
    tail: Vec<u8>,
    sent: usize,
    closed: bool,
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
        let tail = self.tail.len() - split.whole;
        // What stands behind a frame that is refused is of no interest any more.
        assert!(split.lacks == 0 || tail < FRAME_MAX as usize + FRAME_OVERHEAD, "a tail of {tail} bytes");
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
        let mut batch = self.core.answers(turn);
        while !batch.is_empty() && !self.closed {
            let (mut turn, mut out) = (Turn::default(), Out::default());
            let flow = self.session.events(&mut batch, self.now, 1_000, &mut turn, &mut out);
            self.sent += out.len();
            if let Flow::Close(close) = flow {
                self.close();
                return Flow::Close(close);
            }
            batch = self.core.answers(turn);
        }
        flow
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

/// As much of a core as a session notices: it says yes to everything but names that begin with `no`, stops owners as it should, and hands
/// each message to one consumer with credit, or to whoever takes one.
#[derive(Default)]
struct Core {
    serial: u64,
    seq: u64,
    stopped: BTreeSet<u32>,
    /// Owner and credit.
    consumers: BTreeMap<u32, (u32, u64)>,
    waiting: VecDeque<(Arc<Batch>, u32)>,
}

const WAITING_MAX: usize = 64;

impl Core {
    fn answers(&mut self, mut turn: Turn) -> EventBatch {
        let mut told = EventBatch::default();
        let entries = std::mem::take(&mut turn.entries);
        let batch = Arc::new(Batch { block: turn.block, arena: turn.arena, big: turn.big, heads: turn.heads, ..Batch::default() });
        let mut serials = 0;
        for entry in entries {
            match entry {
                Entry::Publish { first, count } => {
                    serials += count;
                    (first..first + count).for_each(|index| self.publish(&batch, index, &mut told));
                }
                Entry::Fence => {
                    serials += 1;
                    self.serial += 1;
                }
                Entry::Credit(credit) => {
                    if let CreditTo::Consumer(ix) = credit.to {
                        if let Some((_, left)) = self.consumers.get_mut(&ix.0) {
                            *left += u64::from(credit.add);
                        }
                    }
                }
                Entry::Control(token, control) => {
                    if let Some(reply) = self.control(token, *control, &mut told) {
                        told.events.push(Event::Reply(token, Box::new(reply)));
                    }
                }
                Entry::Settle(_) | Entry::State(_) | Entry::Scope(_) => {}
            }
        }
        if serials > 0 {
            told.events.push(Event::Done { through: Serial(self.serial) });
        }
        self.hand_out(&mut told);
        told
    }

    fn publish(&mut self, batch: &Arc<Batch>, index: u32, told: &mut EventBatch) {
        self.serial += 1;
        let serial = Serial(self.serial);
        let head = &batch.heads[index as usize];
        // What a session says of a message has to be there.
        let parts = [head.exchange, head.key, head.origin, head.body, head.user, head.group].map(|span| batch.bytes(span).len());
        let keys = batch.keys(head).map(<[u8]>::len).sum::<usize>();
        assert!(parts.iter().sum::<usize>() + keys <= head.bytes());
        let refused = |why| Event::Refused { first: serial, last: serial, why };
        if self.stopped.contains(&head.owner) {
            told.events.push(refused(Refusal::OwnerEnded));
        } else if batch.bytes(head.exchange).starts_with(b"no") {
            self.stop(head.owner);
            told.events.push(refused(Refusal::NotFound { what: "exchange", name: "no".to_owned() }));
        } else if batch.bytes(head.key).starts_with(b"full") {
            told.events.push(refused(Refusal::QueueFull));
        } else if head.flags & HEAD_MANDATORY != 0 && batch.bytes(head.key).starts_with(b"no") {
            told.events.push(Event::Returned { first: serial, count: 1, batch: batch.clone(), index });
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((batch.clone(), index));
        }
    }

    fn hand_out(&mut self, told: &mut EventBatch) {
        for (ix, (_, credit)) in &mut self.consumers {
            while *credit > 0 {
                let Some((batch, index)) = self.waiting.pop_front() else { return };
                *credit -= 1;
                self.seq += 1;
                run(DeliverTo::Consumer(broker_api::ConsumerIx(*ix)), batch, index, self.seq, told);
            }
        }
    }

    fn stop(&mut self, owner: u32) {
        self.stopped.insert(owner);
        self.consumers.retain(|_, (of, _)| *of != owner);
    }

    fn control(&mut self, token: Token, control: Control, told: &mut EventBatch) -> Option<Result<Reply, Refusal>> {
        let owner = control.owner().map(|owner| owner.0);
        if owner.is_some_and(|owner| self.stopped.contains(&owner)) {
            return Some(Err(Refusal::OwnerEnded));
        }
        let reply = self.decide(token, control, told);
        if let (Some(owner), Err(_)) = (owner, &reply) {
            self.stop(owner);
        }
        Some(reply)
    }

    fn decide(&mut self, token: Token, control: Control, told: &mut EventBatch) -> Result<Reply, Refusal> {
        let is = |name: &str| match name.starts_with("no") {
            true => Err(Refusal::NotFound { what: "queue", name: name.to_owned() }),
            false => Ok(()),
        };
        match control {
            Control::Login(Login { step: LoginStep::Enter, vhost }) => {
                is(vhost.as_ref().map_or("", |vhost| vhost.as_str()))?;
                return Ok(Reply::Entered { default_queue_type: None });
            }
            Control::Login(Login { step: LoginStep::Password { user, .. }, .. }) if user.starts_with("no") => {
                return Err(Refusal::LoginRefused);
            }
            Control::Login(_) => {
                let principal = PrincipalInfo { user: "guest".to_owned(), administrator: false, impersonator: false };
                return Ok(Reply::LoggedIn { principal, last: Vec::new() });
            }
            Control::EndOwner(end) => {
                self.stop(end.owner.0);
                self.stopped.remove(&end.owner.0);
            }
            Control::Declare(Declare::Queue { name, .. }) => {
                is(name.as_str())?;
                return Ok(Reply::Queue { id: QueueId(1), name, ready: self.waiting.len() as u64, consumers: 0, counts_attempts: false });
            }
            Control::Declare(Declare::Exchange { name, .. }) | Control::DeleteExchange { name, .. } => is(name.as_str())?,
            Control::DeleteQueue { name: queue, .. } | Control::Purge { queue, .. } => {
                is(queue.as_str())?;
                return Ok(Reply::Messages(0));
            }
            Control::Bind(bind) => is(bind.source.as_str())?,
            Control::Consume(consume) => {
                is(consume.queue.as_str())?;
                // A group's credit is the session's own business here.
                let credit = if consume.group.is_some() { u64::from(u32::MAX) } else { consume.credit.into() };
                self.consumers.insert(consume.consumer.0, (consume.owner.0, credit));
            }
            Control::Cancel { consumer } => drop(self.consumers.remove(&consumer.0)),
            Control::Take(take) => {
                is(take.queue.as_str())?;
                let Some((batch, index)) = self.waiting.pop_front() else {
                    return Ok(Reply::Taken { count: 0, left: 0, first: None });
                };
                self.seq += 1;
                run(DeliverTo::Reply(token), batch, index, self.seq, told);
                return Ok(Reply::Taken { count: 1, left: self.waiting.len() as u64, first: Some(Seq::new(0, self.seq)) });
            }
            Control::Commit { tx, .. } if tx.0 % 5 == 4 => return Err(Refusal::LimitReached(Limit::Transaction)),
            _ => {}
        }
        Ok(Reply::Ok)
    }
}

fn run(to: DeliverTo, batch: Arc<Batch>, index: u32, seq: u64, told: &mut EventBatch) {
    let start = told.deliveries.len() as u32;
    let flags = if seq % 3 == 0 { broker_api::DELIVERY_REDELIVERED } else { 0 };
    told.deliveries.push(Delivery { seq: Seq::new(0, seq), index, side: None, attempts: 0, level: 1, flags });
    told.events.push(Event::Run { to, queue: QueueId(1), batch, start, count: 1 });
}
