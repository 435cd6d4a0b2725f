//! One connection, one task, one hand-written poll loop.
//!
//! ```text
//!            +------------------------------ a round ------------------------------+
//!  socket -> | read <= 128 KiB -> split -> block -> session.receive -> core.submit | -+
//!            |            core.swap -> session.events -> core.submit               |  +-> one write -> socket
//!            +---------------------------------------------------------------------+ -+
//! ```
//!
//! Rounds go on until one changes nothing, at most [`ROUNDS`] in a poll; then others have their turn. What stops what:
//!
//! * unwritten output over [`OUT_PAUSE`]: no more events are taken (the core's outbox has its own bound), reading goes on;
//! * unwritten output over [`OUT_STOP`]: reading stops too, since a peer that asks without listening would fill our memory with answers;
//! * `core.saturated()` or a held block: reading stops until the next events. It is we who do not listen then, so the peer's keep-alive
//!   clock stands still; our own signs of life (`ProtocolSession::beat_at`) go on.
//!
//! A close writes what is in the output, ends our direction, and listens a little longer: closing a socket with unread input sends a
//! reset, and that could overtake the good-bye.

use crate::input::{Input, Read};
use crate::output::Output;
use crate::scratch::Scratch;
use crate::slots::Slot;
use crate::timer::{now, Timer};
use broker_api::{Close, CoreSession, Event, Flow, ProtocolSession, Then, Turn};
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::{debug, info, trace, Span};

/// Rounds of one poll, before the task goes to the back of the run queue.
const ROUNDS: u32 = 8;
/// Unwritten output from which no more events are taken.
const OUT_PAUSE: usize = 256 * 1024;
/// Unwritten output from which nothing more is read.
const OUT_STOP: usize = 1024 * 1024;
/// How long the last words may take to leave.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How long a peer has to answer a close ([`Then`]) before our end is closed.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long, and how much, we listen after our end has been closed.
const LINGER_LIMIT: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;
/// A deadline that its session leaves in the past is not asked again before this.
const DEADLINE_STEP: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// The session has ended; its last words are being written.
    Flushing,
    /// The peer has them, and is waited for to answer.
    Answering,
    /// Our direction is closed; what still comes is thrown away.
    Lingering,
    Gone,
}

/// How long a connection that closes may still take.
struct Closing {
    until: Instant,
    /// Bytes that are listened to.
    left: usize,
    then: Then,
    /// The last bytes that came, as many as the answer has that is waited for.
    heard: Vec<u8>,
}

impl Closing {
    /// Whether what came so far ends with the answer; there is nothing to wait for then.
    fn hears_answer(&mut self, bytes: &[u8]) -> bool {
        let Then::Answered(answer) = self.then else { return false };
        let new = &bytes[bytes.len().saturating_sub(answer.len())..];
        self.heard.extend_from_slice(new);
        self.heard.drain(..self.heard.len().saturating_sub(answer.len()));
        let answered = self.heard == answer;
        if answered {
            self.then = Then::AtOnce;
        }
        answered
    }
}

/// A client connection as a future that ends when the connection has.
pub struct Connection<S> {
    stream: S,
    session: Box<dyn ProtocolSession>,
    /// Gone once the session has ended.
    core: Option<Box<dyn CoreSession>>,
    input: Input,
    output: Output,
    /// A block that the session wants to see again after the next events, and from where.
    held: Option<Box<(Bytes, usize)>>,
    phase: Phase,
    closing: Option<Box<Closing>>,
    timer: Timer,
    clock: Clock,
    /// The peer has closed its direction.
    peer_ended: bool,
    /// Events that woke us wait until the others that are ready have had their turn, so that one write carries what all of them sent.
    yielded: bool,
    /// How long the peer may have more than [`OUT_PAUSE`] to take; 0: for ever.
    slow_limit_ms: u32,
    slot: Slot,
    /// Nothing unless the log wants it: an idle connection is counted in bytes.
    span: Option<Box<Span>>,
}

/// The session's deadline, moved by the time in which we did not listen. Nothing is kept while there is none.
#[derive(Default)]
struct Clock(Option<Box<Deafness>>);

#[derive(Default)]
struct Deafness {
    since: Option<Instant>,
    total: Duration,
    not_before: Option<Instant>,
}

impl Clock {
    fn listen(&mut self, now: Instant) {
        if let Some(deafness) = &mut self.0 {
            if let Some(since) = deafness.since.take() {
                deafness.total += now.saturating_duration_since(since);
            }
        }
    }

    fn stop_listening(&mut self, now: Instant) {
        self.0.get_or_insert_default().since.get_or_insert(now);
    }

    /// Only while we listen.
    fn heard(&mut self) {
        self.0 = None;
    }

    fn not_before(&mut self, at: Instant) {
        self.0.get_or_insert_default().not_before = Some(at);
    }

    fn deadline(&self, session: Option<Instant>) -> Option<Instant> {
        let Some(deafness) = &self.0 else { return session };
        if deafness.since.is_some() {
            return None;
        }
        let at = session? + deafness.total;
        Some(deafness.not_before.map_or(at, |floor| at.max(floor)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(stream: S, session: Box<dyn ProtocolSession>, core: Box<dyn CoreSession>, slot: Slot, span: Span) -> Connection<S> {
        Connection {
            stream,
            session,
            core: Some(core),
            input: Input::default(),
            output: Output::default(),
            held: None,
            phase: Phase::Open,
            closing: None,
            timer: Timer::default(),
            clock: Clock::default(),
            peer_ended: false,
            yielded: false,
            slow_limit_ms: 0,
            slot,
            span: (!span.is_disabled()).then(|| Box::new(span)),
        }
    }

    /// Ends the connection of a peer that does not take what waits for it. `None`: never.
    pub fn slow_consumer_timeout(mut self, limit: Option<Duration>) -> Connection<S> {
        self.slow_limit_ms = limit.map_or(0, |limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX));
        self
    }

    fn drive(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<()> {
        if self.yields_first(cx, scratch) {
            return Poll::Pending;
        }
        for _ in 0..ROUNDS {
            let now = now();
            let changed = match self.phase {
                Phase::Open => self.round(cx, scratch, now),
                Phase::Flushing => self.flush_last(cx, scratch, now),
                Phase::Answering | Phase::Lingering => self.linger(cx, scratch, now),
                Phase::Gone => return Poll::Ready(()),
            };
            if !changed {
                return Poll::Pending;
            }
            if self.core.as_ref().is_some_and(|core| core.saturated()) {
                // What it put off is for a later poll, and this was our place at the back of the run queue.
                self.yielded = true;
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Woken by events alone, we go to the back of the run queue once. What we were sent meanwhile leaves in the same write.
    fn yields_first(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> bool {
        if std::mem::take(&mut self.yielded) || self.phase != Phase::Open {
            return false;
        }
        let woken = self.core.as_mut().is_some_and(|core| core.poll_events(cx).is_ready());
        if !woken {
            return false;
        }
        self.read_turn(cx, scratch, now());
        self.yielded = true;
        cx.waker().wake_by_ref();
        true
    }

    /// Reads a turn, takes events, looks at the clock, writes once. False: nothing to do until something wakes us.
    fn round(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> bool {
        let mut changed = self.read_turn(cx, scratch, now);
        if self.output.unwritten() <= OUT_PAUSE {
            changed |= self.event_turn(cx, scratch, now);
        }
        if self.phase == Phase::Open {
            // Last, so that what had come before the deadline has been heard. The timer is set only when there is nothing else to do.
            let limit = Duration::from_millis(u64::from(self.slow_limit_ms));
            let too_slow = self.output.slow_since().filter(|_| !limit.is_zero()).map(|since| since + limit);
            let beat_at = self.beat_at();
            let deadline = self.clock.deadline(self.session.deadline()).into_iter().chain(too_slow).chain(beat_at).min();
            if if changed { deadline.is_some_and(|at| at <= now) } else { self.timer.due(cx, deadline, now) } {
                if too_slow.is_some_and(|at| at <= now) {
                    self.give_up_on_reader(scratch, now);
                    return true;
                }
                if self.clock.deadline(self.session.deadline()).is_some_and(|at| at <= now) {
                    self.deadline_turn(scratch, now);
                }
                if self.phase == Phase::Open && beat_at.is_some_and(|at| at <= now) {
                    self.session.beat(now, self.output.target(&mut scratch.out));
                }
                changed = true;
            }
        }
        if self.phase == Phase::Open {
            changed |= self.write(cx, scratch);
            self.output.mark_slow(OUT_PAUSE, now);
        }
        changed | (self.phase != Phase::Open)
    }

    /// What is still unwritten is a sign of life as soon as the peer takes it, and a heartbeat would only stand behind it.
    fn beat_at(&self) -> Option<Instant> {
        (self.output.unwritten() == 0).then(|| self.session.beat_at()).flatten()
    }

    fn read_turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> bool {
        let Some(core) = &self.core else { return false };
        if self.held.is_some() || core.saturated() {
            self.clock.stop_listening(now);
            return false;
        }
        self.clock.listen(now);
        if self.output.unwritten() > OUT_STOP {
            return false;
        }
        let read = self.input.poll_read(&mut self.stream, cx, &mut scratch.input, &mut *self.session);
        match read {
            Poll::Pending => false,
            Poll::Ready(Ok(Read::Bytes { count, block })) => {
                self.slot.stats().bytes_received.fetch_add(count as u64, Relaxed);
                self.clock.heard();
                if let Some(block) = block {
                    self.show(block, 0, scratch, now);
                }
                true
            }
            Poll::Ready(Ok(Read::Malformed(close))) => {
                self.session.malformed(&close, &mut scratch.turn, self.output.target(&mut scratch.out));
                self.end(close, scratch, now);
                true
            }
            Poll::Ready(Ok(Read::End)) => {
                self.peer_ended = true;
                // What is ready by now is still sent: a peer may have closed only its own direction.
                self.event_turn(cx, scratch, now);
                self.end(Close::dirty("the peer closed the connection"), scratch, now);
                true
            }
            // What carries the bytes cannot read on, but has a last word of its own (a close frame, an alert): what is ready goes before it.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                self.end(Close::dirty(error.to_string()), scratch, now);
                true
            }
            Poll::Ready(Err(error)) => {
                self.lose("reading", &error, scratch, now);
                true
            }
        }
    }

    /// Gives the session a block of whole frames, and the core what came of it.
    fn show(&mut self, block: Bytes, offset: usize, scratch: &mut Scratch, now: Instant) {
        let Some(core) = &mut self.core else { return };
        scratch.turn.block = block.clone();
        let out = self.output.target(&mut scratch.out);
        let flow = self.session.receive(&block, offset, now, core.now_ms(), &mut scratch.turn, out);
        submit(&mut **core, &mut scratch.turn);
        match flow {
            Flow::Go => {}
            Flow::Hold(offset) => self.held = Some(Box::new((block, offset))),
            Flow::Close(close) => self.end(close, scratch, now),
        }
    }

    fn event_turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> bool {
        let Some(core) = &mut self.core else { return false };
        if core.poll_events(cx).is_pending() {
            return false;
        }
        core.swap(&mut scratch.events);
        if scratch.events.is_empty() {
            return true;
        }
        trace!(events = scratch.events.events.len(), deliveries = scratch.events.deliveries.len(), "events");
        let delivers =
            !scratch.events.deliveries.is_empty() || scratch.events.events.iter().any(|event| matches!(event, Event::Direct { .. }));
        let out = self.output.target(&mut scratch.out);
        let before = out.len();
        let flow = self.session.events(&mut scratch.events, now, core.now_ms(), &mut scratch.turn, out);
        let encoded = out.len() - before;
        scratch.events.clear();
        submit(&mut **core, &mut scratch.turn);
        if delivers {
            self.output.owe(encoded);
        }
        match flow {
            Flow::Close(close) => self.end(close, scratch, now),
            Flow::Go => {
                if let Some(held) = self.held.take() {
                    self.show(held.0, held.1, scratch, now);
                }
            }
            // The session waits for more than these events; what is held stays held.
            Flow::Hold(_) => {}
        }
        true
    }

    fn deadline_turn(&mut self, scratch: &mut Scratch, now: Instant) {
        let Some(core) = &mut self.core else { return };
        let out = self.output.target(&mut scratch.out);
        let flow = self.session.on_deadline(now, core.now_ms(), &mut scratch.turn, out);
        submit(&mut **core, &mut scratch.turn);
        self.clock.not_before(now + DEADLINE_STEP);
        if let Flow::Close(close) = flow {
            self.end(close, scratch, now);
        }
    }

    /// The one write of a round.
    fn write(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> bool {
        match self.output.flush(&mut self.stream, cx, &mut scratch.out) {
            Ok(0) => {
                self.pay(0);
                false
            }
            Ok(count) => {
                self.slot.stats().bytes_sent.fetch_add(count as u64, Relaxed);
                self.pay(count);
                true
            }
            Err(error) => {
                self.lose("writing", &error, scratch, now());
                true
            }
        }
    }

    /// The core's budget for this connection comes back with what is written, not with what is encoded.
    fn pay(&mut self, count: usize) {
        if let Some(core) = &mut self.core {
            if let Some(paid) = self.output.settle(count) {
                core.written(paid);
            }
        }
    }

    /// The session is over: its last words to the core now, those to the peer as the socket takes them.
    fn end(&mut self, close: Close, scratch: &mut Scratch, now: Instant) {
        if close.clean {
            debug!(client = self.session.client_id(), why = %close.why, "connection closed");
        } else {
            info!(client = self.session.client_id(), why = %close.why, "connection lost");
        }
        part(&mut *self.session, &mut self.core, close.clean, &mut scratch.turn);
        self.held = None;
        self.input.clear();
        self.phase = Phase::Flushing;
        self.closing = Some(Box::new(Closing { until: now + FLUSH_LIMIT, left: LINGER_BYTES, then: close.then, heard: Vec::new() }));
    }

    /// The socket is dead: nothing can be said to the peer any more.
    fn lose(&mut self, doing: &str, error: &io::Error, scratch: &mut Scratch, now: Instant) {
        self.end(Close::dirty(format!("{doing} failed: {error}")), scratch, now);
        self.output.discard(&mut scratch.out);
        self.phase = Phase::Gone;
    }

    /// What has waited for so long does not wait longer: last words would not be read either.
    fn give_up_on_reader(&mut self, scratch: &mut Scratch, now: Instant) {
        self.end(Close::dirty("it does not read what is sent to it (slow_consumer_timeout_secs)"), scratch, now);
        self.output.discard(&mut scratch.out);
        self.phase = Phase::Gone;
    }

    fn flush_last(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> bool {
        let flushed = self.output.flush(&mut self.stream, cx, &mut scratch.out);
        let Ok(count) = flushed else {
            self.output.discard(&mut scratch.out);
            self.phase = Phase::Gone;
            return true;
        };
        self.slot.stats().bytes_sent.fetch_add(count as u64, Relaxed);
        // A peer can answer only what has left the layers above the socket, too.
        if self.output.unwritten() == 0 && Pin::new(&mut self.stream).poll_flush(cx).is_ready() {
            if let Some(closing) = self.closing.as_mut().filter(|closing| closing.then != Then::AtOnce && !self.peer_ended) {
                self.phase = Phase::Answering;
                closing.until = now + ANSWER_LIMIT;
                return true;
            }
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) if !self.peer_ended => {
                    self.phase = Phase::Lingering;
                    self.closing =
                        Some(Box::new(Closing { until: now + LINGER_LIMIT, left: LINGER_BYTES, then: Then::AtOnce, heard: Vec::new() }));
                    return true;
                }
                Poll::Ready(_) => {
                    self.phase = Phase::Gone;
                    return true;
                }
                Poll::Pending => {}
            }
        }
        self.give_up(cx, now)
    }

    fn linger(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> bool {
        let left = self.closing.as_ref().map_or(0, |closing| closing.left);
        let mut buffer = ReadBuf::new(&mut scratch.input);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => self.give_up(cx, now),
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() && buffer.filled().len() < left => {
                if let Some(closing) = &mut self.closing {
                    closing.left -= buffer.filled().len();
                    if closing.hears_answer(buffer.filled()) {
                        self.phase = Phase::Flushing;
                    }
                }
                true
            }
            Poll::Ready(_) => {
                self.phase = Phase::Gone;
                true
            }
        }
    }

    fn give_up(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let until = self.closing.as_ref().map(|closing| closing.until);
        let due = self.timer.due(cx, until, now);
        if due {
            self.phase = Phase::Gone;
        }
        due
    }
}

fn submit(core: &mut dyn CoreSession, turn: &mut Turn) {
    if !turn.is_empty() {
        core.submit(turn);
    }
    turn.clear();
}

fn part(session: &mut dyn ProtocolSession, core: &mut Option<Box<dyn CoreSession>>, clean: bool, turn: &mut Turn) {
    if let Some(mut core) = core.take() {
        session.closed(clean, turn);
        submit(&mut *core, turn);
        core.disconnect();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Connection<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let span = this.span.as_deref().cloned();
        let _entered = span.as_ref().map(Span::enter);
        Scratch::with(|scratch| {
            let poll = this.drive(cx, scratch);
            // A close in the last round of a poll leaves its words in the thread's buffer: take them along.
            if !scratch.out.is_empty() {
                this.output.adopt(&mut scratch.out);
            }
            poll
        })
    }
}

/// The task was dropped with the runtime: the core still hears of it.
impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        part(&mut *self.session, &mut self.core, false, &mut Turn::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With tokio's own 96 bytes it has to stay under the 256 that its task then takes (they come in steps of 128).
    #[test]
    fn an_idle_connection_stays_small() {
        let size = std::mem::size_of::<Connection<crate::Transport>>();
        assert!(size <= 160, "{size}");
    }
}
