//! A conversation as text: what the client and the core do, and, behind each, indented, what comes of it.
//!
//! ```text
//! config unauthorized=disconnect       settings, first
//! core manual-done manual-replies      the script says what the core would otherwise say by itself
//! > connect v5 id=a                    a packet; neighbouring lines are read at once, a line with a dot keeps them apart
//! core answer refused=access           the oldest command; without more words: yes
//! core done | core done p2             all, or the publishes up to the second
//! core refuse p1..p2 full              core return p1 x2
//! core run q=7 seq=1 level=1 count=2 topic=a payload=x left=5000 v5 ids=1,2 flags=resumed,retained
//! core direct topic=a payload=x        core echo (the publishes so far, as they are)
//! core signal kicked                   wait 15               cut
//! ```

use crate::client::{self, Words};
use crate::driver::{Driver, START_MS};
use broker_api::{
    Attached, Batch, ConsumerIx, DeliverTo, Delivery, Elsewhere, EndReason, Event, EventBatch, Head, Limit, OwnerIx, PrincipalInfo,
    QueueId, Refusal, Reply, Seq, Serial, Side, Signal, Span, StateValue, DELIVERY_AS_PUBLISHED, DELIVERY_REDELIVERED, DELIVERY_RESUMED,
    DELIVERY_RETAINED, HEAD_RETAIN,
};
use mqtt::codec::{Qos, Version};
use mqtt::{Config, Overrun, ServerReference, Unauthorized};
use std::sync::Arc;
use std::time::Duration;

/// Where the client's bytes are torn.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Nowhere,
    /// Behind so many bytes of the conversation.
    At(usize),
    Everywhere,
}

pub struct Run {
    /// The script with what came of each of its steps.
    pub text: String,
    /// The lines of what was sent to the client, and the end.
    pub seen: Vec<String>,
    pub bytes: usize,
}

struct Runner {
    driver: Driver,
    cut: Cut,
    /// Bytes of the client so far.
    fed: usize,
    block: Vec<u8>,
    text: String,
    seen: Vec<String>,
}

pub fn run(script: &str, cut: Cut) -> Run {
    let steps = || script.lines().filter(|line| !line.starts_with("  "));
    let config = config(steps().filter_map(|line| line.strip_prefix("config ")));
    let mut runner = Runner { driver: Driver::new(config), cut, fed: 0, block: Vec::new(), text: String::new(), seen: Vec::new() };
    let mut version = Version::V311;
    for line in steps() {
        if !line.starts_with('>') {
            runner.flush();
        }
        runner.text += line;
        runner.text.push('\n');
        match line.split_once(' ').unwrap_or((line, "")) {
            (">", packet) => {
                runner.block.extend(client::encode(packet, &mut version));
                runner.driver.version = version;
            }
            ("core", what) => runner.core(what),
            ("wait", seconds) => runner.driver.wait(Duration::from_secs_f64(seconds.parse().unwrap())),
            ("cut", _) => runner.driver.cut(),
            ("#" | "config" | "." | "", _) => {}
            (other, _) => panic!("no such step: {other}"),
        }
        runner.record();
    }
    runner.flush();
    Run { text: runner.text, seen: runner.seen, bytes: runner.fed }
}

impl Runner {
    fn flush(&mut self) {
        let block = std::mem::take(&mut self.block);
        if block.is_empty() {
            return;
        }
        let (start, end) = (self.fed, self.fed + block.len());
        self.fed = end;
        match self.cut {
            Cut::Everywhere => block.iter().for_each(|byte| self.driver.feed(&[*byte])),
            Cut::At(at) if at > start && at < end => {
                self.driver.feed(&block[..at - start]);
                self.driver.feed(&block[at - start..]);
            }
            _ => self.driver.feed(&block),
        }
        self.record();
    }

    fn record(&mut self) {
        for line in self.driver.lines.drain(..) {
            self.text += &format!("  {line}\n");
            if !line.starts_with('!') {
                self.seen.push(line);
            }
        }
    }

    fn core(&mut self, what: &str) {
        let words = Words::new(what);
        let driver = &mut self.driver;
        let mut batch = EventBatch::default();
        match what.split_whitespace().next().unwrap() {
            "manual-done" | "manual-replies" => {
                driver.core.manual_done = words.has("manual-done");
                driver.core.manual_replies = words.has("manual-replies");
            }
            "answer" => batch.events.push(driver.core.answer(answer(&words))),
            "done" => {
                let all = driver.core.last_serial;
                let through = words.rest().next().map_or(all, |p| publish_serial(driver, p));
                batch.events.push(driver.core.done_through(through));
            }
            "refuse" => {
                let range = words.rest().next().unwrap();
                let (first, last) = range.split_once("..").unwrap_or((range, range));
                let (first, last) = (publish_serial(driver, first), publish_serial(driver, last));
                batch.events.push(Event::Refused { first: Serial(first), last: Serial(last), why: refusal(words.rest().nth(1).unwrap()) });
            }
            "return" => {
                let first = publish_serial(driver, words.rest().next().unwrap());
                let count = words.rest().nth(1).map_or(1, |count| client::number(&count[1..]));
                let heads = driver.core.batches.last().expect("a publish").clone();
                batch.events.push(Event::Returned { first: Serial(first), count, batch: heads, index: 0 });
            }
            "run" => run_of_deliveries(&words, &mut batch),
            "direct" => {
                let (message, flags, side) = (message(&words), delivery_flags(&words), side(&words));
                batch.events.push(Event::Direct { to: ConsumerIx(1), batch: message, first: 0, count: count(&words), side, flags });
            }
            "echo" => {
                for message in driver.core.batches.drain(..) {
                    let (count, flags) = (message.heads.len() as u32, delivery_flags(&words));
                    batch.events.push(Event::Direct { to: ConsumerIx(1), batch: message, first: 0, count, side: side(&words), flags });
                }
            }
            "signal" => batch.events.push(Event::Signal(signal(words.rest().next().unwrap()))),
            other => panic!("the core cannot {other}"),
        }
        driver.events(batch);
    }
}

fn publish_serial(driver: &Driver, name: &str) -> u64 {
    driver.core.publishes[client::number(&name[1..]) as usize - 1]
}

fn count(words: &Words<'_>) -> u32 {
    words.number("count").unwrap_or(1)
}

fn run_of_deliveries(words: &Words<'_>, batch: &mut EventBatch) {
    let count = count(words);
    let first = u64::from(words.number("seq").unwrap_or(1));
    for index in 0..count {
        batch.deliveries.push(Delivery {
            seq: Seq(first + u64::from(index)),
            index,
            side: side(words),
            attempts: 0,
            level: words.number("level").unwrap_or(0) as u8,
            flags: delivery_flags(words),
        });
    }
    let queue = QueueId(u64::from(words.number("q").unwrap_or(7)));
    batch.events.push(Event::Run { to: DeliverTo::Consumer(ConsumerIx(1)), queue, batch: message(words), start: 0, count });
}

/// A batch of `count` equal messages, as another connection would have published them.
fn message(words: &Words<'_>) -> Arc<Batch> {
    let mut block = Vec::new();
    let mut put = |bytes: &[u8]| {
        let at = block.len();
        block.extend_from_slice(bytes);
        Span::block(at, bytes.len())
    };
    let v5 = words.has("v5");
    let raw = client::properties(words);
    let head = Head {
        key: put(words.get("topic").unwrap_or("t").as_bytes()),
        origin: if v5 && !raw.is_empty() { put(&raw) } else { Span::EMPTY },
        body: put(&client::payload(words.get("payload").unwrap_or(""))),
        expires_ms: words.number("left").map_or(0, |left| START_MS + u64::from(left)),
        flags: if words.has("retain") { HEAD_RETAIN } else { 0 },
        level: words.number("level").unwrap_or(0) as u8,
        format: if v5 { mqtt::FORMAT_V5 } else { mqtt::FORMAT_V3 },
        separator: words.get("separator").map_or(b'/', |separator| separator.as_bytes()[0]),
        topic: true,
        ..Head::default()
    };
    Arc::new(Batch { block: block.into(), heads: vec![head; count(words) as usize], ..Batch::default() })
}

fn side(words: &Words<'_>) -> Option<Arc<Side>> {
    let ids = words.get("ids")?;
    Some(Arc::new(Side { subscriptions: ids.split(',').map(client::number).collect(), ..Side::default() }))
}

fn delivery_flags(words: &Words<'_>) -> u8 {
    let names = words.get("flags").unwrap_or("");
    names.split(',').filter(|name| !name.is_empty()).fold(0, |flags, name| {
        flags
            | match name {
                "retained" => DELIVERY_RETAINED,
                "as-published" => DELIVERY_AS_PUBLISHED,
                "resumed" => DELIVERY_RESUMED,
                "redelivered" => DELIVERY_REDELIVERED,
                other => panic!("no such flag: {other}"),
            }
    })
}

fn signal(name: &str) -> Signal {
    match name {
        "superseded" => Signal::Superseded { owner: OwnerIx(1) },
        "kicked" => Signal::Kicked,
        "shutdown" => Signal::Shutdown,
        "moved" => Signal::Moved(Arc::new(Elsewhere {
            node: "b".into(),
            addresses: vec!["amqp://b:5672".into(), "mqtt://b:1883".into(), "mqtts://b:8883".into()],
        })),
        "moved-somewhere" => Signal::Moved(Arc::new(Elsewhere { node: "b".into(), ..Elsewhere::default() })),
        "lost" => Signal::Lost,
        "blocked" => Signal::Blocked("memory"),
        "unblocked" => Signal::Unblocked,
        "ended" => Signal::Ended { consumer: ConsumerIx(1), why: EndReason::QueueDeleted },
        other => panic!("no such signal: {other}"),
    }
}

fn refusal(name: &str) -> Refusal {
    match name {
        "access" => Refusal::AccessRefused("not yours".into()),
        "login" => Refusal::LoginRefused,
        "vhost" => Refusal::NotFound { what: "vhost", name: "dev".into() },
        "mechanism" => Refusal::BadMechanism,
        "full" => Refusal::QueueFull,
        "store" => Refusal::StoreFailed,
        "sessions" => Refusal::LimitReached(Limit::Sessions),
        "selector" => Refusal::Invalid { what: "selector", why: "at character 9: expected a value, found the end".into() },
        "subscriptions" => Refusal::LimitReached(Limit::Subscriptions),
        other => panic!("no such refusal: {other}"),
    }
}

/// What the script has the core say instead of a plain yes.
fn answer(words: &Words<'_>) -> Option<Result<Reply, Refusal>> {
    if let Some(why) = words.get("refused") {
        return Some(Err(refusal(why)));
    }
    if let Some(data) = words.get("challenge") {
        return Some(Ok(Reply::Challenge(data.as_bytes().to_vec())));
    }
    if let Some(last) = words.get("last") {
        let principal = PrincipalInfo { user: "tester".into(), administrator: false, impersonator: false };
        return Some(Ok(Reply::LoggedIn { principal, last: last.as_bytes().to_vec() }));
    }
    if words.has("nothing-existed") {
        return Some(Ok(Reply::Unsubscribed { existed: false }));
    }
    if words.has("present") {
        return Some(Ok(Reply::Attached(Attached {
            present: true,
            queue: QueueId(7),
            state: words.rest().filter_map(kept_state).collect(),
        })));
    }
    None
}

/// `out1:5:7/1` is the packet identifier 5 of a QoS 1 delivery from queue 7, seq 1; also `out2`, `released` and `in:5`.
fn kept_state(word: &str) -> Option<(u64, StateValue)> {
    let mut parts = word.split(':');
    let (kind, phase) = match parts.next()? {
        "in" => (1u64, 1),
        "out2" => (2, 1),
        "released" => (2, 2),
        "out1" => (3, 0),
        _ => return None,
    };
    let key = kind << 32 | u64::from(client::number(parts.next()?));
    let mut value = vec![phase];
    if let Some((queue, seq)) = parts.next().and_then(|lease| lease.split_once('/')) {
        value.extend_from_slice(&u64::from(client::number(queue)).to_be_bytes());
        value.extend_from_slice(&u64::from(client::number(seq)).to_be_bytes());
    }
    Some((key, StateValue::from_slice(&value)))
}

fn config<'a>(lines: impl Iterator<Item = &'a str>) -> Config {
    let mut config = Config::default();
    for line in lines {
        for (name, value) in line.split_whitespace().map(|word| word.split_once('=').expect("name=value")) {
            let number = || client::number(value);
            match name {
                "versions" => config.accept_versions = vec![Version::V31, Version::V311],
                "max_packet_size" => config.max_packet_size = number(),
                "receive_maximum" => config.receive_maximum = (number() as u16).try_into().unwrap(),
                "overrun" if value == "tolerant" => config.receive_maximum_overrun = Overrun::Tolerant,
                "max_pending" => config.max_pending = number(),
                "max_inflight" => config.max_inflight = (number() as u16).try_into().unwrap(),
                "max_inflight_bytes" => config.max_inflight_bytes = u64::from(number()).try_into().ok(),
                "aliases" => config.topic_alias_maximum = number() as u16,
                "max_qos" => config.max_qos = Qos::from_bits(number() as u8).unwrap(),
                "retain" => config.retain_available = number() != 0,
                "max_keepalive" => config.max_keepalive_secs = number() as u16,
                "max_expiry" => config.max_session_expiry_secs = Some(number()),
                "max_subscribe_size" => config.max_subscribe_size = number(),
                "empty_ids" => config.allow_empty_client_id = number() != 0,
                "strict_ids" => config.strict_client_id = number() != 0,
                "unauthorized" if value == "disconnect" => config.unauthorized = Unauthorized::Disconnect,
                "check_payload_format" => config.check_payload_format = number() != 0,
                "response_prefix" => config.response_prefix = Some(value.to_owned()),
                "server" => config.server_reference = Some(ServerReference { servers: value.to_owned(), moved: false }),
                "moved" => config.server_reference = Some(ServerReference { servers: value.to_owned(), moved: true }),
                _ => panic!("no such setting: {name}={value}"),
            }
        }
    }
    config
}
