//! What many offline sessions with some messages each weigh, and how long checkpoints and a restart take: the core on a real directory,
//! without protocol and sockets. `cargo run --release -p broker --example offline_sessions -- [sessions] [messages] [bytes]`
//!
//! The restart is a process of its own (`-- restart DIRECTORY NAME`), so that what the first one had freed does not count.

use broker::Core;
use broker_api::*;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

fn main() {
    // The server's habit: see its `limits.rs`.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(4 << 20)));
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, dir, name] = args.as_slice() {
        if word == "restart" {
            return restart(dir.as_ref(), name);
        }
    }
    let mut args = args.iter().map(|a| a.parse::<u64>().expect("a number"));
    let (sessions, messages, bytes) = (args.next().unwrap_or(100_000), args.next().unwrap_or(100), args.next().unwrap_or(100));
    let dir = tempfile::tempdir().expect("a directory");
    let core = open(dir.path());
    say("start", &core, Instant::now());
    let begun = Instant::now();
    (0..sessions).for_each(|n| offline(&core, n));
    say("sessions made", &core, begun);
    let begun = Instant::now();
    let longest = fill(&core, sessions, messages, bytes);
    say("filled", &core, begun);
    println!("the longest wait for the confirms of 5,000 messages: {:.0} ms", longest.as_secs_f64() * 1e3);
    let begun = Instant::now();
    let before = core.journal_stats().checkpoints;
    while core.journal_stats().checkpoints == before && begun.elapsed() < Duration::from_secs(90) {
        std::thread::sleep(Duration::from_millis(100));
    }
    say("and a checkpoint", &core, begun);
    core.close().expect("closes");
    drop(core);
    // The threads of a core let go of its directory when they notice.
    std::thread::sleep(Duration::from_secs(3));
    let (program, name) = (std::env::current_exe().expect("our path"), format!("s{}", sessions / 2));
    let status = std::process::Command::new(program).arg("restart").arg(dir.path()).arg(name).status();
    assert!(status.expect("a second process").success());
}

fn restart(dir: &std::path::Path, name: &str) {
    let begun = Instant::now();
    let core = open(dir);
    say("restarted", &core, begun);
    let begun = Instant::now();
    let before = core.journal_stats().checkpoints;
    while core.journal_stats().checkpoints == before && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(100));
    }
    say("and a checkpoint", &core, begun);
    println!("session {name} holds {:?}", core.session_depth("/", name));
    core.close().expect("closes");
}

fn open(dir: &std::path::Path) -> Core {
    let storage = Arc::new(journal::storage::DirStorage::new(dir).expect("the directory"));
    let config = broker::Config { sys_interval_secs: 0, ..Default::default() };
    Core::open(storage, journal::Config::default(), config, Box::new(|_| {})).expect("it opens")
}

fn say(what: &str, core: &Core, since: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        status.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let (rss, peak, held) = (of("VmRSS:") / 1024, of("VmHWM:") / 1024, core.memory_held() >> 20);
    let stats = core.journal_stats();
    println!(
        "{what:22} {:7.2} s  resident {rss} MiB, at the most {peak} MiB, messages in memory {held} MiB, objects {}, checkpoints {} \
         of {:.2} s, at the most {:.2} s, pages merged {}",
        since.elapsed().as_secs_f64(),
        stats.objects,
        stats.checkpoints,
        stats.checkpoint_ns as f64 / 1e9 / stats.checkpoints.max(1) as f64,
        stats.checkpoint_longest_ns as f64 / 1e9,
        core.pages_merged(),
    );
}

fn connect(core: &Core) -> Box<dyn CoreSession> {
    let info = ConnectionInfo { peer: Peer::Unix, identity: None, protocol: "example", vhost: VhostName::new("/"), allow_anonymous: true };
    let mut session = core.connect(info).expect("a connection");
    let mut turn = Turn::default();
    turn.control(Token(1), Control::Login(Login { vhost: None, step: LoginStep::Anonymous }));
    session.submit(&mut turn);
    hear(&mut *session, |event| matches!(event, Event::Reply(..)));
    session
}

fn hear(session: &mut dyn CoreSession, mut wanted: impl FnMut(&Event) -> bool) {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if session.poll_events(&mut cx).is_pending() {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        let mut batch = EventBatch::default();
        session.swap(&mut batch);
        session.written(usize::MAX);
        if batch.events.iter().any(&mut wanted) {
            return;
        }
    }
}

/// Attaches, subscribes and leaves, without waiting for the disk.
fn offline(core: &Core, n: u64) {
    let mut session = connect(core);
    let mut turn = Turn::default();
    let owner = OwnerIx(1);
    let name = SessionName::new(&format!("s{n}"));
    let (consumer, group) = (ConsumerIx(1), GroupIx(1));
    let attach = Attach { owner, session: name, consumer, group, window_bytes: None, clean: false, expiry: Expiry::Never, parting: None };
    turn.control(Token(2), Control::Attach(attach));
    let filter = Filter { pattern: format!("t/{n}").into(), separator: b'/' };
    let retained = RetainedOn::Never;
    let subscribe =
        Subscribe { owner, filter, share: None, level: 1, identifier: 0, no_local: false, as_published: false, retained, selector: None };
    turn.control(Token(3), Control::Subscribe(subscribe));
    session.submit(&mut turn);
    session.disconnect();
}

/// Answers how long the slowest window took to be confirmed.
fn fill(core: &Core, sessions: u64, messages: u64, bytes: u64) -> Duration {
    let mut longest = Duration::ZERO;
    let mut session = connect(core);
    let body = vec![7u8; bytes as usize];
    let mut serial = 0;
    for number in 0..messages * sessions / 100 {
        let mut turn = Turn::default();
        for n in 0..100 {
            let key = turn.intern(format!("t/{}", (number * 100 + n) % sessions).as_bytes());
            let body = turn.intern(&body);
            let flags = HEAD_DURABLE | HEAD_CONFIRM;
            turn.publish(Head { key, body, flags, level: 1, separator: b'/', topic: true, ..Head::default() });
            serial += 1;
        }
        session.submit(&mut turn);
        // A window of some thousand, as clients have.
        if number % 50 == 49 {
            let begun = Instant::now();
            hear(&mut *session, |event| matches!(event, Event::Done { through } if through.0 >= serial));
            longest = longest.max(begun.elapsed());
        }
    }
    longest
}
