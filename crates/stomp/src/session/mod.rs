//! The conversation with one client: told what happened, it says what to do. No I/O, no clock of its own.
//!
//! ```text
//!   Fresh --CONNECT--> Login --the core says yes--> Running --DISCONNECT--> Leaving --> Ended
//!                                                     `------ an error ---> Failing --> Ended
//! ```
//!
//! A connection is one owner in the core, which stops at the first refusal. Receipts and the ERROR that ends a connection leave in the order
//! of the frames that they answer ([`due`]): whoever has a receipt knows that everything sent before is done, and whoever gets an ERROR has
//! had the receipts of all before it.

mod activemq;
mod connect;
mod deliver;
mod due;
pub(crate) mod fuzz;
mod schedule;
mod send;
mod settle;
mod subscribe;
mod transaction;
mod wildcard;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_api::{
    Close, Context, Control, DeliverTo, Delivery, Entry, Event, EventBatch, Flow, Out, OwnerIx, ProtocolSession, QueueName, Refusal, Reply,
    Signal, Split, Token, Turn, TxIx,
};
use bytes::Bytes;
use smallvec::SmallVec;
use tracing::debug;

use crate::codec::{Command, DecodeError, Frame, Frames, Splitter, Version};
use crate::dialect::Dialect;
use crate::error::{of_refusal, Fault};
use crate::protocol::Stomp;

use connect::{Beats, Peer};
use due::DueList;
use send::Target;
use subscribe::Subscription;
use transaction::Transaction;
use wildcard::Wildcard;

/// Commands that wait for the core; from here on nothing is read.
const REQUESTS_MAX: usize = 4096;
/// How long last words wait for what was said before them.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Everything a connection does is done in the name of this owner.
const OWNER: OwnerIx = OwnerIx(1);
/// But for what stops nobody: making queues that may be there already, and other ones then; consuming from queues that may not be there.
const MAKER: OwnerIx = OwnerIx(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// CONNECT has yet to come.
    Fresh,
    /// The core is asked.
    Login,
    Running,
    /// DISCONNECT has come; its receipt waits for what was before it.
    Leaving,
    /// An ERROR waits for what was before it.
    Failing,
    Ended,
}

/// What to do with the core's answer.
enum Asked {
    Login,
    /// Whether the client may be in its virtual host, and what queues are there.
    Enter,
    /// For our owner; then the client is connected.
    Owner,
    /// Nothing, unless it is a refusal.
    Silent,
    /// A queue, with its encoded arguments.
    Declare(Vec<u8>),
    /// A queue, however it was made.
    Make,
    /// The end of this subscription.
    Cancel(u32),
    /// This subscription, which is part of another.
    Part(u32),
}

struct Request {
    token: Token,
    asked: Asked,
}

/// Numbers that are never used twice in a connection.
#[derive(Default)]
struct Numbers {
    token: u32,
    consumer: u32,
    tx: u32,
    /// Of publishes and fences.
    serial: u64,
    /// Of deliveries.
    tag: u64,
}

pub(crate) struct Session {
    stomp: Arc<Stomp>,
    phase: Phase,
    version: Version,
    splitter: Splitter,
    /// Up to where a block is whole frames, and what is wrong behind them.
    broken: Option<(usize, DecodeError)>,
    peer: Peer,
    /// What CONNECTED called this connection; part of the ids of its deliveries.
    session_id: Box<str>,
    beats: Beats,
    heard_at: Instant,
    /// Pieces of an unfinished frame came since `heard_at` was last moved.
    hearing: bool,
    sent_at: Instant,
    numbers: Numbers,
    /// By consumer number.
    subscriptions: HashMap<u32, Subscription>,
    /// Subscriptions to all queues of a pattern, numbered with the others.
    watches: HashMap<u32, Wildcard>,
    /// By what an id makes of them, `T_id` or `Q_destination`; those that were ended are not here. One to a composite destination is several.
    by_tag: HashMap<Box<[u8]>, SmallVec<[u32; 1]>>,
    /// Reply queues, by the ID of `/temp-queue/ID`; to ActiveMQ, temporary queues.
    replies: HashMap<Box<str>, QueueName>,
    /// By the destination header of a SEND.
    targets: HashMap<Box<[u8]>, Target>,
    /// Queues that were declared here, and are not again.
    declared: HashSet<QueueName>,
    /// Keys under which scheduled messages find their way, exchange first.
    scheduled: HashSet<Box<str>>,
    transactions: HashMap<Box<[u8]>, Transaction>,
    requests: VecDeque<Request>,
    due: DueList,
    /// Subscriptions to which credit is owed, until the end of the call.
    owed: Vec<u32>,
    /// The transaction that the turn's next entries belong to.
    scope: Option<TxIx>,
}

/// What a call of the driver brings along.
struct Step<'a> {
    turn: &'a mut Turn,
    out: &'a mut Out,
    now: Instant,
    /// Broker time.
    now_ms: u64,
}

type Handled<T = ()> = Result<T, Fault>;

fn malformed(error: DecodeError) -> Fault {
    Fault::new("Malformed frame", format!("{error}\n"))
}

/// 128 bits that nobody else has, as RabbitMQ writes them: the standard library's hash keys are random and differ with each call.
fn made_up_name(prefix: &str) -> String {
    use base64::Engine;
    let mut bits = [0; 16];
    bits.chunks_mut(8).for_each(|part| part.copy_from_slice(&RandomState::new().build_hasher().finish().to_be_bytes()));
    let name = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bits);
    format!("{prefix}-{name}")
}

impl Session {
    pub(crate) fn new(stomp: Arc<Stomp>, context: &Context, now: Instant) -> Session {
        Session {
            phase: Phase::Fresh,
            version: Version::V10,
            splitter: Splitter::with_opening(stomp.config.opening(), stomp.config.limits),
            broken: None,
            peer: Peer::new(context),
            session_id: Box::default(),
            beats: Beats::default(),
            heard_at: now,
            hearing: false,
            sent_at: now,
            numbers: Numbers::default(),
            subscriptions: HashMap::new(),
            watches: HashMap::new(),
            by_tag: HashMap::new(),
            replies: HashMap::new(),
            targets: HashMap::new(),
            declared: HashSet::new(),
            scheduled: HashSet::new(),
            transactions: HashMap::new(),
            requests: VecDeque::new(),
            due: DueList::default(),
            owed: Vec::new(),
            scope: None,
            stomp,
        }
    }

    fn dialect(&self) -> Dialect {
        self.stomp.config.dialect
    }

    fn command(&mut self, control: Control, asked: Asked, step: &mut Step<'_>) {
        self.set_scope(None, step.turn);
        self.numbers.token += 1;
        let token = Token(self.numbers.token);
        step.turn.control(token, control);
        self.requests.push_back(Request { token, asked });
    }

    /// What follows in the turn belongs to this transaction, or to none.
    #[inline]
    fn set_scope(&mut self, scope: Option<TxIx>, turn: &mut Turn) {
        if self.scope != scope {
            self.scope = scope;
            turn.entries.push(Entry::Scope(scope));
        }
    }

    fn frames(&mut self, block: &[u8], offset: usize, step: &mut Step<'_>) -> Flow {
        let whole = self.broken.map_or(block.len(), |(at, _)| at);
        let mut frames = Frames::new(&block[..whole], offset, self.version);
        while let Some(frame) = frames.next() {
            if matches!(self.phase, Phase::Leaving | Phase::Failing | Phase::Ended) {
                return Flow::Go;
            }
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return self.fail(malformed(error), None, step),
            };
            if self.phase == Phase::Login || self.requests.len() >= REQUESTS_MAX || self.due.is_full() {
                return Flow::Hold(frame.start);
            }
            if let Err(fault) = self.frame(&frame, block, step) {
                let receipt = frame.headers.get("receipt").ok().flatten().map(|receipt| (*receipt).into());
                return self.fail(fault, receipt, step);
            }
            frames.set_version(self.version);
        }
        // Whether the client is let in is said first.
        if let (Some((at, _)), Phase::Login) = (self.broken, self.phase) {
            return Flow::Hold(at);
        }
        match self.broken.take() {
            Some((_, error)) => self.fail(malformed(error), None, step),
            None => Flow::Go,
        }
    }

    #[inline]
    fn frame(&mut self, frame: &Frame<'_>, block: &[u8], step: &mut Step<'_>) -> Handled {
        if self.phase == Phase::Fresh {
            return match frame.command {
                Some(Command::Connect) => self.connect(frame, step),
                _ => Err(Fault::new("Illegal command", "You must log in using CONNECT first")),
            };
        }
        let first_token = self.numbers.token + 1;
        match frame.command {
            Some(Command::Send) => return self.send(frame, block, first_token, step),
            Some(Command::Ack) => self.ack(frame, "ACK", step)?,
            Some(Command::Nack) => self.ack(frame, "NACK", step)?,
            Some(Command::Subscribe) => self.subscribe(frame, step)?,
            Some(Command::Unsubscribe) => self.unsubscribe(frame, step)?,
            Some(Command::Begin) => self.begin(frame, step)?,
            Some(Command::Commit) => self.end_transaction(frame, true, step)?,
            Some(Command::Abort) => self.end_transaction(frame, false, step)?,
            Some(Command::Disconnect) => self.phase = Phase::Leaving,
            Some(Command::Connect) => return Err(Fault::new("Illegal command", "Already connected\n")),
            _ => {
                return Err(self.dialect().bad_command(&String::from_utf8_lossy(frame.name)));
            }
        }
        let receipt = frame.headers.get("receipt").map_err(malformed)?;
        if self.phase == Phase::Leaving {
            self.heard_at = step.now;
            let serial = self.fence(step);
            self.due.bye(receipt.map(|receipt| (*receipt).into()), serial, self.numbers.token);
        } else if let Some(receipt) = receipt {
            let serial = self.fence(step);
            self.due.receipt(&receipt, serial, (first_token, self.numbers.token), false);
        }
        Ok(())
    }

    /// Is told when everything up to here is safe.
    fn fence(&mut self, step: &mut Step<'_>) -> u64 {
        step.turn.fence();
        self.numbers.serial += 1;
        self.numbers.serial
    }

    /// The connection ends with this, once what was sent before it has been answered.
    fn fail(&mut self, fault: Fault, receipt: Option<Box<[u8]>>, step: &mut Step<'_>) -> Flow {
        debug!(fault = %fault.for_log(), "error");
        if self.phase == Phase::Fresh || self.phase == Phase::Login {
            return Flow::Close(self.say_error(&fault, receipt.as_deref(), step));
        }
        let serial = self.fence(step);
        self.due.error(fault, receipt, serial, self.numbers.token);
        self.phase = Phase::Failing;
        self.heard_at = step.now;
        Flow::Go
    }

    fn event(&mut self, event: Event, deliveries: &[Delivery], step: &mut Step<'_>) -> Result<(), Close> {
        match event {
            Event::Run { to: DeliverTo::Consumer(to), queue, batch, start, count } => {
                let run = deliveries.get(start as usize..(start + count) as usize).unwrap_or(&[]);
                self.deliver(to.0, queue, &batch, run, step);
            }
            Event::Run { .. } | Event::Direct { .. } => debug!("a delivery that nobody asked for"),
            Event::Done { through } => self.due.done = self.due.done.max(through.0),
            Event::Refused { first, last, why } => self.publish_refused(first.0, last.0, &why, step),
            // Nothing is sent with the wish to have it back.
            Event::Returned { .. } => {}
            Event::Reply(token, result) => return self.replied(token, *result, step),
            Event::Signal(signal) => return self.signal(signal, step),
        }
        Ok(())
    }

    fn replied(&mut self, token: Token, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Result<(), Close> {
        let Some(request) = self.requests.pop_front() else { return Ok(()) };
        debug_assert_eq!(request.token, token, "replies come in the order of the commands");
        self.due.replied = token.0;
        match (request.asked, result) {
            (Asked::Login, result) => return self.login_answered(result, step),
            (Asked::Enter, Ok(reply)) => {
                if let Reply::Entered { default_queue_type } = reply {
                    self.peer.default_queue_type = default_queue_type;
                }
            }
            (Asked::Owner, Ok(_)) => self.connected(step),
            (Asked::Enter | Asked::Owner, Err(refusal)) => {
                let fault = of_refusal(&refusal, &self.peer.vhost);
                return Err(self.say_error(&fault, None, step));
            }
            (Asked::Cancel(ix), Ok(_)) => self.forget_if_idle(ix),
            // Somebody else has deleted the queue or its place meanwhile: what was to end has ended.
            (Asked::Cancel(ix), Err(_)) => self.forget_if_idle(ix),
            (Asked::Make, Err(Refusal::Inequivalent(_))) => {}
            (Asked::Part(ix), Err(refusal)) => {
                debug!(%refusal, "a queue that matched is not there for us");
                self.subscription_ended(ix, step);
            }
            // It was skipped behind a refusal, which ends the connection.
            (_, Err(Refusal::OwnerEnded)) => {}
            (asked, Err(refusal)) => {
                let fault = match (&refusal, &asked) {
                    (Refusal::Inequivalent(what), Asked::Declare(arguments)) if what.property == "arguments" => {
                        crate::arguments::difference(what, arguments, &self.peer.vhost, &self.stomp.views)
                    }
                    _ => of_refusal(&refusal, &self.peer.vhost),
                };
                self.due.refuse_command(token.0, fault);
                self.phase = Phase::Failing;
                self.heard_at = step.now;
            }
            (_, Ok(_)) => {}
        }
        Ok(())
    }

    /// The core did not take these publishes. Comes before their `Done`.
    fn publish_refused(&mut self, first: u64, last: u64, why: &Refusal, step: &Step<'_>) {
        if matches!(why, Refusal::OwnerEnded) {
            return;
        }
        // What a full queue or a bound of ours did not take concerns whoever asked for a receipt; the rest is the sender's doing.
        let serial = if why.stops_publisher() { Some(first) } else { self.due.sent_between(first, last) };
        let Some(serial) = serial else { return debug!(%why, "messages were not taken") };
        self.due.refuse_publish(serial, of_refusal(why, &self.peer.vhost));
        self.phase = Phase::Failing;
        self.heard_at = step.now;
    }

    fn signal(&mut self, signal: Signal, step: &mut Step<'_>) -> Result<(), Close> {
        let mut end = |message, detail: &str| Err(self.say_error(&Fault::new(message, detail), None, step));
        match signal {
            Signal::Ended { consumer, .. } => self.subscription_ended(consumer.0, step),
            Signal::Browsed { consumer } => self.browsed(consumer.0, step),
            Signal::Found { watch, queue } => self.found(watch.0, queue, step),
            Signal::Kicked => {
                let why = "CONNECTION_FORCED - broker forced connection closure with reason 'closed by an operator'";
                return end("connection_forced", why);
            }
            Signal::Shutdown => {
                return end("connection_forced", "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'")
            }
            Signal::Moved(elsewhere) => {
                let place = elsewhere.name(&["stomp", "stomps"]);
                let why = format!("CONNECTION_FORCED - broker forced connection closure with reason 'this node hands over to {place}'");
                return end("connection_forced", &why);
            }
            Signal::Lost => return end("internal_error", "INTERNAL_ERROR - the message store has failed"),
            Signal::SettleWithin { .. }
            | Signal::Blocked(_)
            | Signal::Unblocked
            | Signal::Active { .. }
            | Signal::Drained { .. }
            | Signal::Superseded { .. } => {}
        }
        Ok(())
    }

    /// What gathers over a call.
    fn flush(&mut self, step: &mut Step<'_>) {
        self.give_credit(step);
        self.set_scope(None, step.turn);
    }

    fn sent(&mut self, before: usize, step: &Step<'_>) {
        if step.out.len() != before {
            self.sent_at = step.now;
        }
    }
}

impl ProtocolSession for Session {
    /// What is no STOMP goes along with the whole frames before it, so that these are answered first.
    fn split(&mut self, input: &[u8]) -> Result<Split, Close> {
        if !matches!(self.phase, Phase::Fresh | Phase::Login | Phase::Running) {
            return Ok(Split { whole: input.len(), lacks: 0 });
        }
        let (whole, error) = self.splitter.split(input);
        self.hearing = whole.bytes < input.len();
        match error {
            Some(error) => {
                self.broken = Some((whole.bytes, error));
                Ok(Split { whole: input.len(), lacks: 0 })
            }
            None => Ok(Split { whole: whole.bytes, lacks: whole.lacks }),
        }
    }

    fn receive(&mut self, block: &Bytes, offset: usize, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow {
        if self.phase == Phase::Running {
            self.heard_at = now;
        }
        let before = out.len();
        let mut step = Step { turn, out, now, now_ms };
        let flow = self.frames(block, offset, &mut step);
        self.flush(&mut step);
        self.sent(before, &step);
        flow
    }

    fn events(&mut self, batch: &mut EventBatch, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow {
        let before = out.len();
        let mut step = Step { turn, out, now, now_ms };
        let EventBatch { events, deliveries } = batch;
        for event in events.drain(..) {
            if self.phase == Phase::Ended {
                break;
            }
            if let Err(close) = self.event(event, deliveries, &mut step) {
                return Flow::Close(close);
            }
            if let Some(close) = self.say_due(&mut step) {
                return Flow::Close(close);
            }
        }
        self.flush(&mut step);
        self.sent(before, &step);
        match self.phase {
            Phase::Login => Flow::Hold(0),
            _ => Flow::Go,
        }
    }

    fn malformed(&mut self, close: &Close, turn: &mut Turn, out: &mut Out) {
        let mut step = Step { turn, out, now: self.heard_at, now_ms: 0 };
        self.say_error(&Fault::new("Malformed frame", format!("{}\n", close.why)), None, &mut step);
    }

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended => None,
            Phase::Running => Some(self.heard_at + self.beats.expected?.saturating_mul(self.stomp.config.heart_beats_missed)),
            Phase::Fresh | Phase::Login => Some(self.heard_at + self.stomp.config.connect_timeout),
            Phase::Leaving | Phase::Failing => Some(self.heard_at + LAST_WORDS),
        }
    }

    fn on_deadline(&mut self, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow {
        match self.phase {
            Phase::Ended => Flow::Go,
            Phase::Running => {
                if std::mem::take(&mut self.hearing) {
                    self.heard_at = now;
                }
                if self.deadline().is_some_and(|at| at <= now) {
                    self.phase = Phase::Ended;
                    return Flow::Close(Close::dirty("no heart-beat from the client"));
                }
                Flow::Go
            }
            Phase::Fresh | Phase::Login => {
                self.phase = Phase::Ended;
                Flow::Close(Close::dirty("no CONNECT within the time allowed for it"))
            }
            // What was before it takes too long.
            Phase::Leaving | Phase::Failing => {
                let mut step = Step { turn, out, now, now_ms };
                let close = match self.due.take_error() {
                    Some((fault, receipt)) => self.say_error(&fault, receipt.as_deref(), &mut step),
                    None => Close::dirty("DISCONNECT took too long"),
                };
                self.phase = Phase::Ended;
                Flow::Close(close)
            }
        }
    }

    fn beat_at(&self) -> Option<Instant> {
        (self.phase == Phase::Running).then_some(())?;
        Some(self.sent_at + self.beats.sent? / 2)
    }

    fn beat(&mut self, now: Instant, out: &mut Out) {
        out.buffer().push(b'\n');
        self.sent_at = now;
    }

    /// The owner ends with the connection in the core.
    fn closed(&mut self, _clean: bool, _turn: &mut Turn) {
        self.phase = Phase::Ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand idle connections are a figure that users look at.
    #[test]
    fn an_idle_session_stays_small() {
        assert!(std::mem::size_of::<Session>() <= 1024, "{}", std::mem::size_of::<Session>());
    }

    #[test]
    fn made_up_names_look_like_rabbitmqs_and_differ() {
        let (one, two) = (made_up_name("amq.gen"), made_up_name("amq.gen"));
        assert_ne!(one, two);
        assert_eq!(one.len(), "amq.gen-".len() + 22);
    }
}
