//! A consumer with a selector in front of a backlog of which one message in a thousand matches, and a plain consumer beside it: the core on a
//! real directory. `cargo run --release -p broker --example selector_backlog -- [messages] [bytes] [durable: 0 or 1]`

use broker::Core;
use broker_api::*;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

const OWNER: OwnerIx = OwnerIx(1);
const PREFETCH: u32 = 4096;
const FORMAT: u8 = 200;

/// `name=value` lines.
struct Lines;

impl HeaderView for Lines {
    fn headers<'a>(&self, origin: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        for line in origin.split(|b| *b == b'\n') {
            if let Some(at) = line.iter().position(|b| *b == b'=') {
                each(&line[..at], Value::Bytes(line[at + 1..].into()));
            }
        }
    }
    fn arguments<'a>(&self, _: &'a [u8], _: &mut dyn FnMut(&'a [u8], Value<'a>)) {}
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let (messages, bytes) = (args.next().unwrap_or(1_000_000), args.next().unwrap_or(64));
    let durable = args.next().unwrap_or(1) == 1;
    let dir = tempfile::tempdir().expect("a directory");
    let storage = Arc::new(journal::storage::DirStorage::new(dir.path()).expect("the directory"));
    let header_views: Views = vec![(FORMAT, Arc::new(Lines))];
    let config = broker::Config { sys_interval_secs: 0, header_views, ..Default::default() };
    let core = Core::open(storage, journal::Config::default(), config, Box::new(|_| {})).expect("it opens");
    let mut publisher = connect(&core);
    for queue in ["q", "r"] {
        let mut turn = Turn::default();
        let spec = QueueSpec { durable: true, ..QueueSpec::default() };
        turn.control(Token(3), Control::Declare(Declare::Queue { owner: OWNER, name: queue.into(), spec, passive: false }));
        publisher.submit(&mut turn);
        hear(&mut *publisher, |event, _| matches!(event, Event::Reply(..)));
        fill(&mut *publisher, queue, messages, bytes, durable);
    }
    std::thread::sleep(Duration::from_secs(2));
    println!("{messages} messages of {bytes} bytes in each of two queues, durable: {durable}");
    let alone = drain(&core, "r", messages / 2, None);
    println!("a plain consumer alone: {alone:.0}/s");
    let begun = Instant::now();
    let selecting = {
        let core = core.clone();
        std::thread::spawn(move || {
            let wanted = messages / 1000;
            let rate = drain(&core, "q", wanted, Some("kind = 'rare'"));
            println!("all {wanted} that match: {:.3} s ({rate:.0}/s)", begun.elapsed().as_secs_f64());
        })
    };
    selecting.join().expect("it selects");
    // Beside one that goes on looking.
    let both = {
        let core = core.clone();
        std::thread::spawn(move || drain(&core, "r", 1, Some("kind = 'none' OR number = 'x'")))
    };
    std::thread::sleep(Duration::from_millis(5));
    let beside = drain(&core, "r", messages / 4, None);
    println!("a plain consumer beside one that looks through all of it: {beside:.0}/s, {:.2} of what it takes alone", beside / alone);
    core.shut_down_connections(None);
    drop(both);
    core.recount().expect("counts");
    std::process::exit(0);
}

fn connect(core: &Core) -> Box<dyn CoreSession> {
    let info = ConnectionInfo { peer: Peer::Unix, identity: None, protocol: "example", vhost: VhostName::new("/"), allow_anonymous: true };
    let mut session = core.connect(info).expect("a connection");
    let mut turn = Turn::default();
    turn.control(Token(1), Control::Login(Login { vhost: None, step: LoginStep::Anonymous }));
    session.submit(&mut turn);
    hear(&mut *session, |event, _| matches!(event, Event::Reply(..)));
    turn.control(Token(2), Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    session.submit(&mut turn);
    hear(&mut *session, |event, _| matches!(event, Event::Reply(..)));
    session
}

fn hear(session: &mut dyn CoreSession, mut wanted: impl FnMut(&Event, &EventBatch) -> bool) {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if session.poll_events(&mut cx).is_pending() {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        let mut batch = EventBatch::default();
        session.swap(&mut batch);
        session.written(usize::MAX);
        let mut found = false;
        for event in &batch.events {
            found |= wanted(event, &batch);
        }
        if found {
            return;
        }
    }
}

fn fill(session: &mut dyn CoreSession, queue: &str, messages: u64, bytes: u64, durable: bool) {
    let mut done = 0;
    let flags = HEAD_CONFIRM | if durable { HEAD_DURABLE } else { 0 };
    static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    while done < messages {
        let mut turn = Turn::default();
        let key = turn.intern(queue.as_bytes());
        let body = turn.intern(&vec![7; bytes as usize]);
        for number in done..messages.min(done + 1000) {
            let kind = if number % 1000 == 500 { "kind=rare" } else { "kind=common" };
            let origin = turn.intern(format!("number={number}\n{kind}").as_bytes());
            turn.publish(Head { key, body, origin, format: FORMAT, flags, level: 1, separator: b'.', ..Head::default() });
        }
        let count = turn.heads.len() as u64;
        done += count;
        let serial = SERIAL.fetch_add(count, std::sync::atomic::Ordering::Relaxed) + count;
        session.submit(&mut turn);
        hear(session, |event, _| matches!(event, Event::Done { through } if through.0 >= serial));
    }
}

/// Takes so many and settles them. Answers how many a second.
fn drain(core: &Core, queue: &str, messages: u64, selector: Option<&str>) -> f64 {
    let consumer = ConsumerIx(1);
    let mut session = connect(core);
    let mut turn = Turn::default();
    let consume = Consume {
        consumer,
        owner: OWNER,
        group: None,
        queue: queue.into(),
        credit: PREFETCH,
        mode: Mode::Lease,
        exclusive: false,
        alone: false,
        priority: 0,
        selector: selector.map(Into::into),
    };
    let begun = Instant::now();
    turn.control(Token(4), Control::Consume(consume));
    session.submit(&mut turn);
    let mut taken = 0u64;
    while taken < messages {
        let mut fresh = 0;
        hear(&mut *session, |event, batch| {
            let Event::Run { queue, start, count, .. } = event else {
                return matches!(event, Event::Signal(Signal::Shutdown));
            };
            for delivery in batch.run(*start, *count) {
                turn.settle(Settle { queue: *queue, first: delivery.seq, count: 1, owner: OWNER, state: 0, outcome: Outcome::Accepted });
                fresh += 1;
            }
            true
        });
        if fresh == 0 {
            break;
        }
        taken += u64::from(fresh);
        turn.credit(CreditTo::Consumer(consumer), fresh);
        session.submit(&mut turn);
    }
    taken as f64 / begun.elapsed().as_secs_f64()
}
