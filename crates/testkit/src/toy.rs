//! A line protocol that uses every way in which a session can steer the driver.
//!
//! ```text
//! echo TEXT    published; the core hands it back: "TEXT"
//! #N           N raw bytes follow: published, and handed back by reference
//! ping         "pong", without the core
//! login        a command; nothing after it is looked at until its answer: "hello"
//! quit         "bye", and a clean close
//! leave        "go?", and a clean close that waits for "gone"
//! bang         a dirty close
//! ```

use broker_api::{
    Close, Context, Control, Event, EventBatch, Flow, GroupIx, Head, Out, Protocol, ProtocolSession, Signal, Span, Split, Then, Token,
    Turn, Verdict,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A longer line is malformed.
pub const LINE_MAX: usize = 1024;
/// A larger raw piece is malformed.
pub const BIG_MAX: usize = 64 * 1024 * 1024;

#[derive(Default)]
pub struct Toy {
    /// Close with "timeout" after this long without input.
    pub idle: Option<Duration>,
    /// Says `beat` this often.
    pub beat: Option<Duration>,
    /// `closed` calls so far, with their `clean`.
    pub ends: Mutex<Vec<bool>>,
}

impl Toy {
    pub fn new() -> Arc<Toy> {
        Arc::default()
    }
    pub fn with_idle(idle: Duration) -> Arc<Toy> {
        Arc::new(Toy { idle: Some(idle), ..Toy::default() })
    }
}

impl Protocol for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn recognise(&self, first: &[u8]) -> Verdict {
        match first.first() {
            None => Verdict::NeedMore,
            Some(b'e' | b'#' | b'p' | b'l' | b'q' | b'b') => Verdict::Mine,
            Some(_) => Verdict::NotMine,
        }
    }
    fn sub_protocols(&self) -> &'static [&'static str] {
        &["toy"]
    }
    fn open(self: Arc<Self>, _context: Context, now: Instant) -> Box<dyn ProtocolSession> {
        let deadline = self.idle.map(|idle| now + idle);
        let beat_at = self.beat.map(|beat| now + beat);
        Box::new(Session {
            toy: self,
            deadline,
            beat_at,
            logged_in: false,
            asked: false,
            scanned: 0,
            frame: 0,
            last_input: 0,
            broken: None,
        })
    }
}

struct Session {
    toy: Arc<Toy>,
    deadline: Option<Instant>,
    beat_at: Option<Instant>,
    asked: bool,
    logged_in: bool,
    /// Bytes of the torn tail that are known to hold no newline.
    scanned: usize,
    /// Length of the open raw frame, header included; 0 = none.
    frame: usize,
    /// Length of the input that `split` saw last, to catch a driver that loses its tail.
    last_input: usize,
    /// What is wrong with the input after the whole frames that `split` has just let through.
    broken: Option<Close>,
}

impl Session {
    /// The good frames before a bad one are still served.
    fn refuse(&mut self, whole: usize, why: &str) -> Result<Split, Close> {
        let close = Close::dirty(why);
        if whole == 0 {
            return Err(close);
        }
        self.broken = Some(close);
        Ok(Split { whole, lacks: 0 })
    }

    fn line(&mut self, line: &[u8], turn: &mut Turn, span: Span, out: &mut Out) -> Option<Flow> {
        match line {
            b"ping" => out.buffer().extend_from_slice(b"pong\n"),
            b"quit" => {
                out.buffer().extend_from_slice(b"bye\n");
                return Some(Flow::Close(Close::clean("quit")));
            }
            b"leave" => {
                out.buffer().extend_from_slice(b"go?\n");
                return Some(Flow::Close(Close::clean("leave").then(Then::Answered(b"gone\n"))));
            }
            b"bang" => return Some(Flow::Close(Close::dirty("bang"))),
            line if line.starts_with(b"echo ") => {
                let body = Span::block(span.offset() + 5, line.len() - 5);
                turn.publish(Head { body, ..Head::default() });
            }
            _ => {
                out.buffer().extend_from_slice(b"what?\n");
                return Some(Flow::Close(Close::dirty("unknown command")));
            }
        }
        None
    }
}

fn raw_len(line: &[u8]) -> Option<usize> {
    std::str::from_utf8(line.strip_prefix(b"#")?).ok()?.parse().ok()
}

impl ProtocolSession for Session {
    fn split(&mut self, input: &[u8]) -> Result<Split, Close> {
        assert!(input.len() > self.last_input || self.last_input == 0, "the tail was lost: {} after {}", input.len(), self.last_input);
        let mut whole = 0;
        loop {
            let rest = &input[whole..];
            if self.frame > 0 {
                if rest.len() < self.frame {
                    self.last_input = rest.len();
                    return Ok(Split { whole, lacks: self.frame - rest.len() });
                }
                whole += std::mem::take(&mut self.frame);
                continue;
            }
            match rest[self.scanned..].iter().position(|&byte| byte == b'\n') {
                Some(at) => {
                    let end = std::mem::take(&mut self.scanned) + at;
                    match raw_len(&rest[..end]) {
                        Some(len) if len > BIG_MAX => return self.refuse(whole, "too big"),
                        Some(len) => self.frame = end + 1 + len,
                        None => whole += end + 1,
                    }
                }
                None if rest.len() > LINE_MAX => return self.refuse(whole, "line too long"),
                None => {
                    self.scanned = rest.len();
                    self.last_input = rest.len();
                    return Ok(Split { whole, lacks: 0 });
                }
            }
        }
    }

    fn receive(&mut self, block: &Bytes, offset: usize, now: Instant, _now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow {
        self.deadline = self.toy.idle.map(|idle| now + idle);
        assert_eq!(turn.block, block, "the driver puts the block into the turn");
        let mut at = offset;
        while at < block.len() {
            let end = at + block[at..].iter().position(|&byte| byte == b'\n').expect("whole lines");
            let line = &block[at..end];
            if let Some(len) = raw_len(line) {
                turn.publish(Head { body: Span::block(end + 1, len), ..Head::default() });
                at = end + 1 + len;
                continue;
            }
            if line == b"login" && !self.logged_in {
                if !std::mem::replace(&mut self.asked, true) {
                    turn.control(Token(7), Control::Group { group: GroupIx(1), credit: 1 });
                }
                return Flow::Hold(at);
            }
            if line == b"login" {
                self.logged_in = false;
                self.asked = false;
            } else if let Some(flow) = self.line(line, turn, Span::block(at, line.len()), out) {
                return flow;
            }
            at = end + 1;
        }
        match self.broken.take() {
            Some(close) => {
                self.malformed(&close, turn, out);
                Flow::Close(close)
            }
            None => Flow::Go,
        }
    }

    fn events(&mut self, batch: &mut EventBatch, _now: Instant, _now_ms: u64, _turn: &mut Turn, out: &mut Out) -> Flow {
        for event in &batch.events {
            match event {
                Event::Run { batch: messages, start, count, .. } => {
                    for delivery in batch.run(*start, *count) {
                        let body = messages.heads[delivery.index as usize].body;
                        out.share(messages.shared(body));
                        out.buffer().push(b'\n');
                    }
                }
                Event::Reply(..) => {
                    self.logged_in = true;
                    out.buffer().extend_from_slice(b"hello\n");
                }
                Event::Signal(Signal::Shutdown) => {
                    out.buffer().extend_from_slice(b"shutdown\n");
                    return Flow::Close(Close::clean("shutdown"));
                }
                _ => {}
            }
        }
        Flow::Go
    }

    fn malformed(&mut self, close: &Close, _turn: &mut Turn, out: &mut Out) {
        out.buffer().extend_from_slice(format!("error: {}\n", close.why).as_bytes());
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn on_deadline(&mut self, _now: Instant, _now_ms: u64, _turn: &mut Turn, out: &mut Out) -> Flow {
        out.buffer().extend_from_slice(b"timeout\n");
        Flow::Close(Close::dirty("idle"))
    }

    fn beat_at(&self) -> Option<Instant> {
        self.beat_at
    }

    fn beat(&mut self, now: Instant, out: &mut Out) {
        out.buffer().extend_from_slice(b"beat\n");
        self.beat_at = self.toy.beat.map(|beat| now + beat);
    }

    fn closed(&mut self, clean: bool, _turn: &mut Turn) {
        self.toy.ends.lock().push(clean);
    }
}
