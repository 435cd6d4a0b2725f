//! ActiveMQ's `AMQ_SCHEDULED_DELAY`, `_PERIOD` and `_REPEAT`: messages for later.
//!
//! ```text
//!   SEND ──► activemq.scheduled ──(due)──► the queue           an x-delayed-message exchange; bound when a queue is first sent to so
//!        └─► activemq.scheduled.topics ──(due)──► amq.topic
//! ```
//!
//! What is repeated is published once for each time, each with its own delay, in one turn. So every time that is still to come is a message
//! of its own that the log has, if it is persistent: it comes once over any number of restarts, and nothing has to be armed anew. The
//! price is room for each of them, and so both their number and their bytes are bounded.

use broker_api::{Bind, Control, Declare, Destination, ExchangeName, ExchangeSpec, QueueName};

use super::send::{number, Address};
use super::{Asked, Handled, Session, Step, MAKER, OWNER};
use crate::destination::TOPIC_EXCHANGE;
use crate::dialect::Dialect;
use crate::error::Fault;
use crate::headers::{lines, Sent, FORMAT, SCHEDULED};

const QUEUES: &str = "activemq.scheduled";
const TOPICS: &str = "activemq.scheduled.topics";

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
}

fn wrong(what: impl std::fmt::Display) -> Fault {
    Fault::plain(format!("{what}"))
}

impl Session {
    /// What the kept lines of a SEND say of it, which then are taken out of them.
    pub(super) fn schedule(&self, sent: &Sent<'_>, from: usize, step: &mut Step<'_>) -> Handled<Option<Schedule>> {
        if !sent.scheduled || self.dialect() != Dialect::ActiveMq {
            return Ok(None);
        }
        // A repetition of nothing is a header like any other.
        let says = |name: &str| lines(&step.turn.arena[from..]).any(|(known, _)| known == name.as_bytes());
        if !says("AMQ_SCHEDULED_DELAY") && !says("AMQ_SCHEDULED_PERIOD") {
            return Ok(None);
        }
        let kept = step.turn.arena.split_off(from);
        let mut schedule = Schedule { delay_ms: 0, period_ms: 0, repeat: 0 };
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
        body: usize,
        step: &mut Step<'_>,
    ) -> Handled<Vec<(Address, u32)>> {
        let count = addresses.len() as u64 * schedule.repeat.saturating_add(1);
        if count > MESSAGES_MAX || count * body as u64 > BYTES_MAX {
            let bytes = BYTES_MAX >> 20;
            return Err(wrong(format!("{count} scheduled messages; one SEND may be {MESSAGES_MAX}, of {bytes} MiB together")));
        }
        let last = schedule.repeat.checked_mul(schedule.period_ms).and_then(|more| more.checked_add(schedule.delay_ms));
        if last.is_none_or(|last| last > u64::from(u32::MAX)) {
            return Err(wrong(format!("A message can be scheduled for {} days from now at most", u32::MAX / 86_400_000)));
        }
        let mut all = Vec::with_capacity(count as usize);
        for Address { exchange, key } in addresses {
            let through = self.scheduler(&exchange, &key, step);
            for time in 0..=schedule.repeat {
                let delay_ms = (schedule.delay_ms + time * schedule.period_ms) as u32;
                all.push((Address { exchange: through.into(), key: key.clone() }, delay_ms));
            }
        }
        Ok(all)
    }

    /// The exchange that holds messages back for this address, made and bound to it when it is first named here.
    fn scheduler(&mut self, exchange: &str, key: &str, step: &mut Step<'_>) -> &'static str {
        let (name, kind) = if exchange == TOPIC_EXCHANGE { (TOPICS, "topic") } else { (QUEUES, "direct") };
        let (destination, pattern) = match name {
            TOPICS => (Destination::Exchange(ExchangeName::new(TOPIC_EXCHANGE)), "#"),
            _ => (Destination::Queue(QueueName::new(key)), key),
        };
        let known: Box<str> = format!("{name} {pattern}").into();
        if self.scheduled.contains(&known) {
            return name;
        }
        let arguments = format!("x-delayed-type:S{kind}\n").into_bytes();
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
