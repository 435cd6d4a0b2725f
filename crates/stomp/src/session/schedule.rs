//! ActiveMQ's `AMQ_SCHEDULED_DELAY`, `_PERIOD`, `_REPEAT` and `_CRON`: messages for later.
//!
//! ```text
//!   SEND ──► activemq.scheduled ──(due)──► the queue           an x-delayed-message exchange; bound when a queue is first sent to so
//!        └─► activemq.scheduled.topics ──(due)──► amq.topic
//! ```
//!
//! With a `_CRON` it is `activemq.cron` and `activemq.cron.topics`, whose messages come again and again by what the header says.
//!
//! What is repeated is published once for each time, each with its own delay, in one turn. So every time that is still to come is a message
//! of its own that the log has, if it is persistent: it comes once over any number of restarts, and nothing has to be armed anew. The
//! price is room for each of them, and so both their number and their bytes are bounded. What each time of a `_CRON` begins is so many
//! messages as well, each with the same times and so much later.

use broker_api::{Bind, Control, Cron, Declare, Destination, ExchangeName, ExchangeSpec, QueueName};

use super::send::{number, Address};
use super::{Asked, Handled, Session, Step, MAKER, OWNER};
use crate::destination::TOPIC_EXCHANGE;
use crate::dialect::Dialect;
use crate::error::Fault;
use crate::headers::{lines, Sent, CRON, FORMAT, SCHEDULED};

const QUEUES: &str = "activemq.scheduled";
const TOPICS: &str = "activemq.scheduled.topics";
const CRON_QUEUES: &str = "activemq.cron";
const CRON_TOPICS: &str = "activemq.cron.topics";

/// Messages that one SEND may become.
const MESSAGES_MAX: u64 = 1000;
/// And their bodies together.
const BYTES_MAX: u64 = 16 << 20;
/// Bindings that are known to be there; forgetting one costs making it again.
const KNOWN_MAX: usize = 16_384;

pub(super) struct Schedule {
    delay_ms: u64,
    period_ms: u64,
    repeat: u64,
    cron: Option<String>,
}

/// One of the messages that a SEND becomes.
pub(super) struct Later {
    pub(super) address: Address,
    pub(super) delay_ms: u32,
    /// When it comes again and again, as the exchange reads it.
    pub(super) cron: Option<String>,
}

fn wrong(what: impl std::fmt::Display) -> Fault {
    Fault::plain(format!("{what}"))
}

/// The expression, once it is known to be one that has a time. An empty one is none.
fn cron(value: &[u8], now_ms: u64) -> Handled<Option<String>> {
    let text = String::from_utf8_lossy(value).trim().to_owned();
    if text.is_empty() {
        return Ok(None);
    }
    let fields = text.split_ascii_whitespace().count();
    if fields > 5 {
        return Err(wrong(format!("Not a valid cron entry - wrong number of tokens({fields}): {text}")));
    }
    let times = Cron::parse(&text).map_err(wrong)?;
    match times.first_after(now_ms) {
        Some(_) => Ok(Some(text)),
        None => Err(wrong(format!("Unable to compute next scheduled execution time: {text}"))),
    }
}

impl Session {
    /// What the kept lines of a SEND say of it, which then are taken out of them.
    pub(super) fn schedule(&self, sent: &Sent<'_>, from: usize, step: &mut Step<'_>) -> Handled<Option<Schedule>> {
        if !sent.scheduled || self.dialect() != Dialect::ActiveMq {
            return Ok(None);
        }
        // A repetition of nothing is a header like any other.
        let says = |name: &str| lines(&step.turn.arena[from..]).any(|(known, _)| known == name.as_bytes());
        if !["AMQ_SCHEDULED_DELAY", "AMQ_SCHEDULED_PERIOD", CRON].into_iter().any(says) {
            return Ok(None);
        }
        let kept = step.turn.arena.split_off(from);
        let mut schedule = Schedule { delay_ms: 0, period_ms: 0, repeat: 0, cron: None };
        for (name, value) in lines(&kept) {
            let Some(what) = name.strip_prefix(SCHEDULED) else {
                for part in [name, b":", value, b"\n"] {
                    step.turn.arena.extend_from_slice(part);
                }
                continue;
            };
            let number = || {
                let shown = || format!("{} is no number: '{}'", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
                number::<u64>(value).ok_or_else(|| wrong(shown()))
            };
            match what {
                b"DELAY" => schedule.delay_ms = number()?,
                b"PERIOD" => schedule.period_ms = number()?,
                b"REPEAT" => schedule.repeat = number()?,
                b"CRON" => schedule.cron = cron(value, step.now_ms)?,
                // Whatever else begins so means nothing to ActiveMQ.
                _ => {}
            }
        }
        if schedule.repeat > 0 && schedule.period_ms == 0 {
            return Err(wrong("AMQ_SCHEDULED_REPEAT needs an AMQ_SCHEDULED_PERIOD"));
        }
        Ok(Some(schedule))
    }

    /// Where the messages go, and how long each is held back.
    #[cold]
    pub(super) fn scheduled(
        &mut self,
        addresses: Vec<Address>,
        schedule: Schedule,
        bytes: usize,
        step: &mut Step<'_>,
    ) -> Handled<Vec<Later>> {
        let count = addresses.len() as u64 * schedule.repeat.saturating_add(1);
        if count > MESSAGES_MAX || count * bytes as u64 > BYTES_MAX {
            let bytes = BYTES_MAX >> 20;
            return Err(wrong(format!("{count} scheduled messages; one SEND may be {MESSAGES_MAX}, of {bytes} MiB together")));
        }
        // As ActiveMQ does: without a delay even the first comes after a period, and a cron's message is delayed only where it is repeated.
        let first = match &schedule {
            Schedule { cron: Some(_), repeat: 0, .. } => 0,
            Schedule { delay_ms: 0, period_ms, .. } => *period_ms,
            Schedule { delay_ms, .. } => *delay_ms,
        };
        let last = schedule.repeat.checked_mul(schedule.period_ms).and_then(|more| more.checked_add(first));
        let max = if schedule.cron.is_some() { Cron::LATER_MAX_MS } else { u32::MAX.into() };
        if last.is_none_or(|last| last > max) {
            return Err(wrong(format!("A message can be scheduled for {} days from now at most", max / 86_400_000)));
        }
        let mut all = Vec::with_capacity(count as usize);
        for Address { exchange, key } in addresses {
            let through = self.scheduler(&exchange, &key, schedule.cron.is_some(), step);
            for time in 0..=schedule.repeat {
                let later_ms = (first + time * schedule.period_ms) as u32;
                let cron = schedule.cron.as_ref().map(|times| format!("{times} +{later_ms}"));
                let delay_ms = if cron.is_some() { 0 } else { later_ms };
                all.push(Later { address: Address { exchange: through.into(), key: key.clone() }, delay_ms, cron });
            }
        }
        Ok(all)
    }

    /// The exchange that holds messages back for this address, made and bound to it when it is first named here.
    fn scheduler(&mut self, exchange: &str, key: &str, again: bool, step: &mut Step<'_>) -> &'static str {
        let (name, kind) = match (exchange == TOPIC_EXCHANGE, again) {
            (true, false) => (TOPICS, "topic"),
            (false, false) => (QUEUES, "direct"),
            (true, true) => (CRON_TOPICS, "topic"),
            (false, true) => (CRON_QUEUES, "direct"),
        };
        let (destination, pattern) = match kind {
            "topic" => (Destination::Exchange(ExchangeName::new(TOPIC_EXCHANGE)), "#"),
            _ => (Destination::Queue(QueueName::new(key)), key),
        };
        let known: Box<str> = format!("{name} {pattern}").into();
        if self.scheduled.contains(&known) {
            return name;
        }
        let header = if again { format!("x-cron-header:S{CRON}\n") } else { String::new() };
        let arguments = format!("x-delayed-type:S{kind}\n{header}").into_bytes();
        let spec =
            ExchangeSpec { kind: "x-delayed-message".to_owned(), durable: true, arguments, format: FORMAT, ..ExchangeSpec::default() };
        let declare = Declare::Exchange { owner: MAKER, name: ExchangeName::new(name), spec, passive: false };
        self.command(Control::Declare(declare), Asked::Make, step);
        let source = ExchangeName::new(name);
        let bind = Bind { owner: OWNER, source, destination, key: pattern.into(), arguments: Vec::new(), format: FORMAT };
        self.command(Control::Bind(bind), Asked::Silent, step);
        if self.scheduled.len() >= KNOWN_MAX {
            self.scheduled.clear();
        }
        self.scheduled.insert(known);
        name
    }
}
