//! What a backlog of messages that are not logged weighs, and how fast it goes in and comes out: the core on a real directory, without protocol
//! and sockets. `cargo run --release -p broker --example transient_backlog -- [messages] [bytes] [messages per turn] [transient_memory in MiB]`

use broker::Core;
use broker_api::*;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

const OWNER: OwnerIx = OwnerIx(1);
const CONSUMER: ConsumerIx = ConsumerIx(1);
/// A consumer's prefetch.
const PREFETCH: u32 = 4096;

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let (messages, bytes) = (args.next().unwrap_or(1_000_000), args.next().unwrap_or(1024));
    let (per_turn, share) = (args.next().unwrap_or(100), args.next().unwrap_or(64));
    let dir = match std::env::var_os("CARRICK_DIR") {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    };
    let dir = dir.expect("a directory");
    let storage = Arc::new(journal::storage::DirStorage::new(dir.path()).expect("the directory"));
    let config = broker::Config { sys_interval_secs: 0, transient_memory: share << 20, ..Default::default() };
    let core = Core::open(storage, journal::Config::default(), config, Box::new(|_| {})).expect("it opens");
    let mut publisher = connect(&core);
    let mut turn = Turn::default();
    let spec = QueueSpec::default();
    turn.control(Token(3), Control::Declare(Declare::Queue { owner: OWNER, name: "q".into(), spec, passive: false }));
    publisher.submit(&mut turn);
    hear(&mut *publisher, |event, _| matches!(event, Event::Reply(..)));
    say("start", &core, 0, Instant::now());

    let begun = Instant::now();
    fill(&mut *publisher, messages, bytes, per_turn);
    say("published", &core, messages, begun);
    std::thread::sleep(Duration::from_secs(1));
    say("a second later", &core, 0, Instant::now());
    let begun = Instant::now();
    drain(&core, messages);
    say("drained", &core, messages, begun);
    std::thread::sleep(Duration::from_millis(300));
    let left = std::fs::read_dir(dir.path().join("spill")).map_or(0, Iterator::count);
    println!("{left} spill files are left; {:?}", core.spill_stats());
    core.recount().expect("counts");
    core.close().expect("closes");
}

fn say(what: &str, core: &Core, messages: u64, since: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        status.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let (rss, peak, held) = (of("VmRSS:") / 1024, of("VmHWM:") / 1024, core.memory_held() >> 20);
    let (secs, spilled) = (since.elapsed().as_secs_f64(), core.spill_stats().messages);
    let rate = messages as f64 / secs.max(1e-9);
    println!("{what:16} {secs:7.2} s {rate:9.0}/s  resident {rss} MiB, at the most {peak} MiB, counted {held} MiB, spilled {spilled}");
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

fn fill(session: &mut dyn CoreSession, messages: u64, bytes: u64, per_turn: u64) {
    let mut serial = 0u64;
    for number in 0..messages.div_ceil(per_turn) {
        let mut turn = Turn::default();
        // As it comes from a socket: one block, into which the heads point.
        let mut block = Vec::with_capacity((per_turn * (bytes + 1)) as usize);
        block.push(b'q');
        for _ in 0..per_turn {
            let at = block.len();
            block.resize(at + bytes as usize, 7);
            block[at..at + 8].copy_from_slice(&serial.to_le_bytes());
            let (key, body) = (Span::block(0, 1), Span::block(at, bytes as usize));
            turn.publish(Head { key, body, flags: HEAD_CONFIRM, level: 1, separator: b'.', ..Head::default() });
            serial += 1;
        }
        turn.block = block.into();
        session.submit(&mut turn);
        // A window of some thousand, as clients have.
        if number % 50 == 49 {
            hear(session, |event, _| matches!(event, Event::Done { through } if through.0 >= serial));
        }
    }
    if messages.div_ceil(per_turn) % 50 != 0 {
        hear(session, |event, _| matches!(event, Event::Done { through } if through.0 >= serial));
    }
}

/// Takes everything, checks its order, and settles it.
fn drain(core: &Core, messages: u64) {
    let mut session = connect(core);
    let mut turn = Turn::default();
    let consume = Consume {
        consumer: CONSUMER,
        owner: OWNER,
        group: None,
        queue: "q".into(),
        credit: PREFETCH,
        mode: Mode::Lease,
        exclusive: false,
        alone: false,
        priority: 0,
        selector: None,
    };
    turn.control(Token(4), Control::Consume(consume));
    session.submit(&mut turn);
    let mut next = 0u64;
    while next < messages {
        let mut settles = Vec::new();
        let before = next;
        hear(&mut *session, |event, batch| {
            let Event::Run { queue, batch: held, start, count, .. } = event else { return false };
            for delivery in batch.run(*start, *count) {
                let body = held.body(&held.heads[delivery.index as usize]);
                let number = body.first_chunk::<8>().map(|eight| u64::from_le_bytes(*eight));
                assert_eq!(number, Some(next), "out of order");
                settles.push((*queue, delivery.seq));
                next += 1;
            }
            true
        });
        for (queue, seq) in settles {
            match turn.entries.last_mut() {
                Some(Entry::Settle(last)) if last.first.plus(u64::from(last.count)) == seq => last.count += 1,
                _ => turn.settle(Settle { queue, first: seq, count: 1, owner: OWNER, state: 0, outcome: Outcome::Accepted }),
            }
        }
        turn.credit(CreditTo::Consumer(CONSUMER), (next - before) as u32);
        session.submit(&mut turn);
    }
}
