//! The conversation with one client: told what happened, it says what to do. No I/O, no clock of its own.
//!
//! ```text
//!   Fresh --header--> Start --start-ok--> Login --LoggedIn--> Tune --tune-ok--> Open --open--> Enter --Ok--> Running --> Ended
//! ```
//!
//! A channel is an owner in the core and ends at its first error. What waits for the core is remembered twice: commands by their token
//! ([`requests`]), publishes by their serial ([`confirm`]). Nothing waits for an answer before the next command is given.

mod channel;
mod confirm;
mod deliver;
mod handshake;
mod overdue;
mod publish;
mod queues;
mod requests;
mod settle;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_api::{
    Close, Context, Control, DeliverTo, Delivery, Entry, Event, EventBatch, Flow, Out, ProtocolSession, Signal, Split, Then, Token, Turn,
    TxIx,
};
use bytes::Bytes;
use tracing::debug;

use crate::codec::{
    frame_at, put_heartbeat, CodecError, Frame, FrameError, Method, Splitter, FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT,
    FRAME_METHOD, PROTOCOL_HEADER,
};
use crate::error::{of_codec, undecodable, Code, Fault, MethodId};
use crate::protocol::Amqp;

use channel::Channel;
use confirm::Publishes;
use deliver::Consumer;
use handshake::Peer;
use requests::Request;

/// Commands that wait for the core; from here on nothing is read.
const REQUESTS_MAX: usize = 4096;
/// connection.close-ok as a frame.
const CLOSE_OK: [u8; 12] = [FRAME_METHOD, 0, 0, 0, 0, 0, 4, 0, 10, 0, 51, FRAME_END];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The protocol header has yet to come.
    Fresh,
    /// start-ok is awaited.
    Start,
    /// The core is checking credentials.
    Login,
    /// tune-ok is awaited.
    Tune,
    /// connection.open is awaited.
    Open,
    /// The core is asked for the virtual host.
    Enter,
    Running,
    Ended,
}

/// Keys that count up need no mixing.
#[derive(Default)]
struct Counted(u64);

impl Hasher for Counted {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _bytes: &[u8]) {}
    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

type ByIx<T> = HashMap<u32, T, BuildHasherDefault<Counted>>;

/// Numbers that are never used twice in a connection.
#[derive(Default)]
struct Numbers {
    token: u32,
    owner: u32,
    consumer: u32,
    group: u32,
    tx: u32,
}

fn next(number: &mut u32) -> u32 {
    *number += 1;
    *number
}

pub(crate) struct Session {
    amqp: Arc<Amqp>,
    phase: Phase,
    splitter: Splitter,
    /// What is wrong with the bytes behind those that were handed over as whole frames.
    broken: Option<FrameError>,
    peer: Peer,
    /// Agreed with tune-ok.
    frame_max: usize,
    channel_max: u16,
    heartbeat: Option<Duration>,
    heard_at: Instant,
    /// Pieces of an unfinished frame came since `heard_at` was last moved.
    hearing: bool,
    sent_at: Instant,
    numbers: Numbers,
    /// By channel number.
    channels: Vec<Option<Box<Channel>>>,
    open_channels: u16,
    /// What the channels hold of contents that have not come whole, in bytes.
    parts_held: usize,
    consumers: ByIx<Consumer>,
    requests: VecDeque<Request>,
    publishes: Publishes,
    /// Consumers and channels to which credit is owed, until the end of the call.
    owed_consumers: Vec<u32>,
    owed_channels: Vec<u16>,
    /// The transaction that the turn's next entries belong to.
    scope: Option<TxIx>,
    blocked: bool,
    /// When to look for deliveries that are not acknowledged in time; there where a consumer has a timeout.
    overdue_at: Option<Instant>,
}

/// What a call of the driver brings along.
struct Step<'a> {
    turn: &'a mut Turn,
    out: &'a mut Out,
    now: Instant,
    /// Broker time.
    now_ms: u64,
}

impl Step<'_> {
    fn say(&mut self, channel: u16, method: &Method<'_>) {
        method.put(channel, self.out.buffer());
    }
}

/// A fault, and the channel that it happened on; 0 is the connection.
#[derive(Debug)]
struct Failed {
    channel: u16,
    fault: Fault,
}

type Handled<T = ()> = Result<T, Failed>;

fn on(channel: u16) -> impl Fn(Fault) -> Failed {
    move |fault| Failed { channel, fault }
}

fn failed(channel: u16, code: Code, text: impl Into<String>, method: MethodId) -> Failed {
    Failed { channel, fault: Fault::new(code, text, method) }
}

/// How a read goes on.
enum Next {
    /// With what stands at this offset.
    At(usize),
    Close(Close),
}

impl Session {
    pub(crate) fn new(amqp: Arc<Amqp>, context: Context, now: Instant) -> Session {
        Session {
            phase: Phase::Fresh,
            // Before tune-ok too: a token of some kilobytes may be a password.
            splitter: Splitter::of_client(amqp.config.frame_max),
            broken: None,
            peer: Peer::new(&context),
            frame_max: amqp.config.frame_max as usize,
            channel_max: amqp.config.channel_max,
            heartbeat: None,
            heard_at: now,
            hearing: false,
            sent_at: now,
            numbers: Numbers::default(),
            channels: Vec::new(),
            open_channels: 0,
            parts_held: 0,
            consumers: ByIx::default(),
            requests: VecDeque::new(),
            publishes: Publishes::default(),
            owed_consumers: Vec::new(),
            owed_channels: Vec::new(),
            scope: None,
            blocked: false,
            overdue_at: None,
            amqp,
        }
    }

    fn command(&mut self, control: Control, step: &mut Step<'_>) -> Token {
        let token = Token(next(&mut self.numbers.token));
        step.turn.control(token, control);
        token
    }

    fn channel(&mut self, number: u16) -> Option<&mut Channel> {
        self.channels.get_mut(usize::from(number))?.as_deref_mut()
    }

    /// The channel, if it is still the one that this owner stands for and has not failed.
    fn live(&mut self, number: u16, owner: u32) -> Option<&mut Channel> {
        self.channel(number).filter(|channel| channel.owner == owner && !channel.closing)
    }

    /// What follows in the turn belongs to this transaction, or to none.
    #[inline]
    fn set_scope(&mut self, scope: Option<TxIx>, turn: &mut Turn) {
        if self.scope != scope {
            self.scope = scope;
            turn.entries.push(Entry::Scope(scope));
        }
    }

    fn frames(&mut self, block: &[u8], offset: usize, step: &mut Step<'_>) -> Result<Flow, Close> {
        let mut at = offset;
        if self.phase == Phase::Fresh {
            at = PROTOCOL_HEADER.len();
            self.start(step);
        }
        while let Some(frame) = frame_at(block, at) {
            if matches!(self.phase, Phase::Login | Phase::Enter) || self.requests.len() >= REQUESTS_MAX {
                return Ok(Flow::Hold(at));
            }
            match self.frame(block, frame, step) {
                Ok(Next::At(next)) => at = next,
                Ok(Next::Close(close)) => return Err(close),
                Err(failed) => {
                    if let Some(failed) = self.put_off(failed, step) {
                        self.fail(failed, step)?;
                    }
                    at = frame.end();
                }
            }
        }
        match self.broken.take() {
            Some(error) => Err(self.close_connection(frame_fault(error), step)),
            None => Ok(Flow::Go),
        }
    }

    #[inline]
    fn frame(&mut self, block: &[u8], frame: Frame, step: &mut Step<'_>) -> Handled<Next> {
        if !is_known(frame) {
            return Err(unexpected(frame, block));
        }
        if frame.channel != 0 && self.phase == Phase::Running {
            return self.channel_frame(block, frame, step).map(Next::At);
        }
        match frame.kind {
            FRAME_HEARTBEAT if frame.channel == 0 => {}
            FRAME_METHOD if frame.channel == 0 => {
                let method = Method::parse(frame.payload(block)).map_err(|error| codec_failed(0, error, frame.payload(block)))?;
                if let Some(close) = self.connection_method(method, step)? {
                    return Ok(Next::Close(close));
                }
            }
            _ => return Err(unexpected(frame, block)),
        }
        Ok(Next::At(frame.end()))
    }

    /// Says what went wrong. An error of a channel leaves the connection to the others.
    fn fail(&mut self, failed: Failed, step: &mut Step<'_>) -> Result<(), Close> {
        if failed.channel == 0 || failed.fault.code.is_hard() {
            return Err(self.close_connection(failed.fault, step));
        }
        self.close_channel(failed.channel, &failed.fault, step);
        Ok(())
    }

    fn close_connection(&mut self, fault: Fault, step: &mut Step<'_>) -> Close {
        let text = fault.reply_text();
        let (class_id, method_id) = fault.method;
        let said = self.phase != Phase::Fresh && self.phase != Phase::Ended;
        if said {
            let reply_code = fault.code.number();
            step.say(0, &Method::ConnectionClose { reply_code, reply_text: text.as_bytes(), class_id, method_id });
        }
        // Nothing is wrong with a client that comes to a standby, again and again.
        let turned_away = self.phase == Phase::Enter && fault.code == Code::ConnectionForced;
        self.phase = Phase::Ended;
        let close = if turned_away { Close::clean(text) } else { Close::dirty(text) };
        // 1.4.2.10: close-ok says that it is safe to let go. Some libraries do not send it once our end has closed.
        close.then(if said { Then::Answered(&CLOSE_OK) } else { Then::AtOnce })
    }

    fn event(&mut self, event: Event, deliveries: &[Delivery], step: &mut Step<'_>) -> Result<(), Failed> {
        match event {
            Event::Run { to: DeliverTo::Consumer(to), queue, batch, start, count } => {
                let run = deliveries.get(start as usize..(start + count) as usize).unwrap_or(&[]);
                self.deliver(to.0, queue, &batch, run, step);
            }
            Event::Run { to: DeliverTo::Reply(token), queue, batch, start, .. } => {
                if let Some(delivery) = deliveries.get(start as usize) {
                    self.hold_taken(token, queue, batch, delivery.clone());
                }
            }
            Event::Direct { .. } => debug!("a direct delivery to a connection that has no session"),
            Event::Done { through } => self.done(through.0, step),
            Event::Refused { first, last, why } => return self.refused(first.0, last.0, &why, step),
            Event::Returned { first, count, batch, index } => self.returned(first.0, count, &batch, index, step),
            Event::Reply(token, result) => return self.reply(token, *result, step),
            Event::Signal(signal) => return self.signal(signal, step),
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, step: &mut Step<'_>) -> Handled {
        let forced = |text: &str| Err(failed(0, Code::ConnectionForced, text, (0, 0)));
        match signal {
            Signal::Blocked(reason) => {
                self.blocked = true;
                if self.peer.capabilities.blocked {
                    step.say(0, &Method::ConnectionBlocked { reason: reason.as_bytes() });
                }
            }
            Signal::Unblocked => {
                if std::mem::take(&mut self.blocked) && self.peer.capabilities.blocked {
                    step.say(0, &Method::ConnectionUnblocked {});
                }
            }
            Signal::Ended { consumer, .. } => self.consumer_ended(consumer.0, step),
            Signal::SettleWithin { consumer, ms } => {
                if let Some(consumer) = self.consumers.get_mut(&consumer.0) {
                    consumer.queue_timeout_ms = ms;
                }
            }
            Signal::Drained { .. } | Signal::Browsed { .. } | Signal::Found { .. } | Signal::Superseded { .. } | Signal::Active { .. } => {}
            Signal::Kicked => return forced("broker forced connection closure with reason 'closed by an operator'"),
            Signal::Shutdown => return forced("broker forced connection closure with reason 'shutdown'"),
            Signal::Moved(elsewhere) => {
                let place = elsewhere.name(&["amqp", "amqps"]);
                return forced(&format!("broker forced connection closure with reason 'this node hands over to {place}'"));
            }
            Signal::Lost => return Err(failed(0, Code::InternalError, "the message store has failed", (0, 0))),
        }
        Ok(())
    }

    /// What gathers over a call and is said or asked once.
    fn flush(&mut self, step: &mut Step<'_>) {
        self.say_confirms(step);
        self.give_credit(step);
        self.publishes.bound(step.turn);
        self.set_scope(None, step.turn);
    }

    fn sent(&mut self, before: usize, step: &Step<'_>) {
        if step.out.len() != before {
            self.sent_at = step.now;
        }
    }
}

fn codec_failed(channel: u16, error: CodecError, payload: &[u8]) -> Failed {
    let number = |at: usize| payload.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let method = (number(0), number(2));
    on(channel)(match error {
        CodecError::Truncated | CodecError::TrailingBytes => undecodable(payload.get(4..).unwrap_or_default(), method),
        other => of_codec(other, method),
    })
}

/// Of a kind that there is, and with as much in it as each of that kind has.
#[inline]
fn is_known(frame: Frame) -> bool {
    match frame.kind {
        FRAME_METHOD => frame.size() >= 4,
        FRAME_HEADER => frame.size() >= 12,
        FRAME_BODY => true,
        FRAME_HEARTBEAT => frame.size() == 0,
        _ => false,
    }
}

/// As RabbitMQ shows what it did not expect.
fn unexpected(frame: Frame, block: &[u8]) -> Failed {
    let payload = frame.payload(block);
    let text = octets(frame.kind, payload, payload.len());
    if !is_known(frame) {
        return failed(0, Code::FrameError, format!("{text}: unknown_frame"), (0, 0));
    }
    failed(0, Code::UnexpectedFrame, text, (0, 0))
}

fn octets(kind: u8, first: &[u8], size: usize) -> String {
    let (which, shown) = if size <= 16 { ("all", first) } else { ("first 16", &first[..first.len().min(16)]) };
    format!("type {kind}, {which} octets = {}", erlang_binary(shown))
}

fn erlang_binary(bytes: &[u8]) -> String {
    if !bytes.is_empty() && bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return format!("<<\"{}\">>", String::from_utf8_lossy(bytes));
    }
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("<<{}>>", numbers.join(","))
}

fn frame_fault(error: FrameError) -> Fault {
    let text = match error {
        FrameError::TooLarge { kind, size, max, .. } => format!("type {kind}, all octets = <<>>: {{frame_too_large,{size},{max}}}"),
        FrameError::End { kind, found, size, first, .. } => {
            format!("{}: {{invalid_frame_end_marker,{found}}}", octets(kind, first.as_bytes(), size as usize))
        }
        FrameError::Header(_) => "not the protocol header".to_owned(),
    };
    Fault::new(Code::FrameError, text, (0, 0))
}

impl ProtocolSession for Session {
    fn split(&mut self, input: &[u8]) -> Result<Split, Close> {
        let split = self.splitter.split(input);
        self.hearing = split.whole < input.len();
        if let Some(error) = split.error {
            self.broken = Some(error);
            if split.whole == 0 {
                return Err(Close::dirty(error.to_string()));
            }
        }
        Ok(Split { whole: split.whole, lacks: split.lacks })
    }

    fn receive(&mut self, block: &Bytes, offset: usize, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow {
        if self.phase == Phase::Running {
            self.heard_at = now;
        }
        if self.phase == Phase::Ended {
            return Flow::Go;
        }
        let before = out.len();
        let mut step = Step { turn, out, now, now_ms };
        let flow = self.frames(block, offset, &mut step).unwrap_or_else(Flow::Close);
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
                return Flow::Close(Close::dirty("the connection has ended"));
            }
            let handled = self.event(event, deliveries, &mut step).or_else(|failed| self.fail(failed, &mut step));
            if let Err(close) = handled {
                return Flow::Close(close);
            }
        }
        self.flush(&mut step);
        self.sent(before, &step);
        match self.phase {
            Phase::Login | Phase::Enter => Flow::Hold(0),
            _ => Flow::Go,
        }
    }

    fn malformed(&mut self, close: &Close, turn: &mut Turn, out: &mut Out) {
        let now = self.heard_at;
        let mut step = Step { turn, out, now, now_ms: 0 };
        match self.broken.take() {
            // 4.2.2: a header that we do not speak is answered with the one that we do.
            Some(FrameError::Header(_)) => step.out.buffer().extend_from_slice(&PROTOCOL_HEADER),
            Some(error) => drop(self.close_connection(frame_fault(error), &mut step)),
            None => drop(self.close_connection(Fault::new(Code::FrameError, close.why.clone(), (0, 0)), &mut step)),
        }
        self.phase = Phase::Ended;
    }

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended => None,
            Phase::Running => self.heartbeat.map(|interval| self.heard_at + 2 * interval).into_iter().chain(self.overdue_at).min(),
            _ => Some(self.heard_at + self.amqp.config.handshake_timeout),
        }
    }

    fn on_deadline(&mut self, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow {
        if self.phase == Phase::Running {
            let before = out.len();
            let mut step = Step { turn, out, now, now_ms };
            if let Err(close) = self.end_overdue(&mut step) {
                return Flow::Close(close);
            }
            self.flush(&mut step);
            self.sent(before, &step);
        }
        match (self.phase, self.heartbeat) {
            (Phase::Ended, _) => Flow::Go,
            (Phase::Running, Some(interval)) => {
                if std::mem::take(&mut self.hearing) {
                    self.heard_at = now;
                }
                if now >= self.heard_at + 2 * interval {
                    self.phase = Phase::Ended;
                    return Flow::Close(Close::dirty(format!("missed heartbeats from client, timeout: {}s", interval.as_secs())));
                }
                Flow::Go
            }
            (Phase::Running, None) => Flow::Go,
            _ => {
                self.phase = Phase::Ended;
                Flow::Close(Close::dirty("no connection.open within the time allowed for it"))
            }
        }
    }

    /// AMQP 0-9-1, 4.2.7: a heartbeat when nothing else was sent for half the interval.
    fn beat_at(&self) -> Option<Instant> {
        (self.phase == Phase::Running).then_some(())?;
        Some(self.sent_at + self.heartbeat? / 2)
    }

    fn beat(&mut self, now: Instant, out: &mut Out) {
        put_heartbeat(out.buffer());
        self.sent_at = now;
    }

    /// Owners end with the connection in the core.
    fn closed(&mut self, _clean: bool, _turn: &mut Turn) {
        self.phase = Phase::Ended;
    }

    fn client_id(&self) -> Option<&str> {
        self.peer.name.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_shown_as_rabbitmq_shows_them() {
        assert_eq!(erlang_binary(b"hello"), "<<\"hello\">>");
        assert_eq!(erlang_binary(&[0, 1, 255]), "<<0,1,255>>");
        assert_eq!(erlang_binary(b""), "<<>>");
    }

    /// Ten thousand idle connections are a figure that users look at.
    #[test]
    fn an_idle_session_stays_small() {
        assert!(std::mem::size_of::<Session>() <= 768, "{}", std::mem::size_of::<Session>());
    }
}
