//! The core's own records and objects, as this version and every later one has to read them. Two sets of everything: one stands in a
//! checkpoint, one only in the log behind it.

use crate::support::*;
use broker::Core;
use broker_api::*;
use journal::storage::DirStorage;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Duration;

const SETS: [&str; 2] = ["checkpoint", "log"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/broker-1")
}

/// A node on real files, with the simulation's clock, which starts at the same moment each time.
fn open(dir: &Path) -> Node {
    let mut setup = Setup::new();
    setup.journal.segment_bytes = 64 << 10;
    setup.journal.checkpoint_interval = Duration::from_secs(30);
    let storage = Arc::new(DirStorage::new(dir).expect("a directory"));
    let (core, steps) = Core::open_stepped(storage, setup.journal.clone(), setup.config.clone(), Box::new(|_| {})).expect("the core opens");
    Node { core, steps: Some(Arc::new(steps)), setup, failed: Arc::new(AtomicBool::new(false)) }
}

/// Logged in to a virtual host, with an owner.
fn client(node: &Node, vhost: &str) -> Client {
    let mut c = Client::connect(node);
    let login = Login { vhost: Some(VhostName::new(vhost)), step: LoginStep::Anonymous };
    do_it(&mut c, Control::Login(login));
    do_it(&mut c, Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    c
}

fn do_it(c: &mut Client, control: Control) -> Reply {
    let token = c.control(control);
    c.reply(token).expect("accepted")
}

fn queue(c: &mut Client, name: &str, spec: QueueSpec) {
    let spec = QueueSpec { durable: true, ..spec };
    do_it(c, Control::Declare(Declare::Queue { owner: OWNER, name: QueueName::new(name), spec, passive: false }));
}

fn bind(c: &mut Client, source: &str, destination: Destination, key: &str, arguments: &[u8]) {
    let source = ExchangeName::new(source);
    do_it(c, Control::Bind(Bind { owner: OWNER, source, destination, key: key.into(), arguments: arguments.to_vec(), format: 9 }));
}

fn put(turn: &mut Turn, exchange: &str, key: &str, more: &[&str], body: &str, priority: u8) {
    let [exchange, key, body] = [exchange, key, body].map(|text| turn.intern(text.as_bytes()));
    let keys = turn.intern_keys(more.iter().map(|key| key.as_bytes()));
    let flags = HEAD_DURABLE | HEAD_CONFIRM;
    turn.publish(Head { exchange, key, keys, body, flags, priority, level: 1, separator: b'.', owner: OWNER.0, ..Head::default() });
}

/// Takes what a queue holds, under a lease that ends with the consumer.
fn look(node: &Node, vhost: &str, name: &str) -> Vec<Got> {
    let mut c = client(node, vhost);
    let got = consume(&mut c, name);
    c.cut();
    got
}

fn consume(c: &mut Client, name: &str) -> Vec<Got> {
    let (consumer, queue) = (CONSUMER, QueueName::new(name));
    let consume = Consume {
        consumer,
        owner: OWNER,
        group: None,
        queue,
        credit: 100,
        mode: Mode::Lease,
        exclusive: false,
        alone: false,
        priority: 0,
        selector: None,
    };
    do_it(c, Control::Consume(consume));
    c.take()
}

fn fill(node: &Node, set: &str) {
    sessions(node, set);
    let vhost = format!("vhost {set}");
    node.core.create_vhost(&vhost, Box::new(|| {})).expect("a name");
    node.core.create_vhost(&format!("gone {set}"), Box::new(|| {})).expect("a name");
    queue(&mut client(node, &format!("gone {set}")), "q", QueueSpec::default());
    node.core.delete_vhost(&format!("gone {set}"), Box::new(|| {})).expect("deleted");
    for vhost in ["/", &vhost] {
        queues(&mut client(node, vhost), set);
    }
}

fn sessions(node: &Node, set: &str) {
    let mut s = Client::named(node, &format!("session {set}")).will(msg(&format!("will/{set}"), "will", 1), 3600).go();
    s.subscribe_as(&format!("t/{set}/#"), 2, |subscribe| subscribe.identifier = 7).share("group", &format!("shared/{set}"), 1);
    s.subscribe("gone", 1);
    assert!(s.unsubscribe("gone", None));
    let mut p = Client::attach(node, &format!("publisher {set}"));
    p.publish(&format!("t/{set}/1"), "one", 1);
    p.publish_msg(msg(&format!("t/{set}/2"), "two", 2).with(edit(5, Some("id"), None)));
    p.publish(&format!("shared/{set}"), "for one", 1);
    p.publish_msg(msg(&format!("r/{set}"), "kept", 1).retained());
    p.publish_msg(msg(&format!("r/gone/{set}"), "not kept", 1).retained()).publish_msg(msg(&format!("r/gone/{set}"), "", 1).retained());
    let got = s.take();
    // The first is in flight, as an exactly-once delivery is.
    let lease = got.first().and_then(|g| Some((g.queue, g.seq?)));
    s.turn(|turn, _| turn.state(edit(9, Some("sent"), lease)));
    s.fence();
    s.cut();
    p.cut();
    Client::attach(node, &format!("gone {set}")).end(Some(Expiry::Seconds(0)), PartingFate::Discard);
}

fn queues(c: &mut Client, set: &str) {
    let dead = format!("dead {set}");
    queue(c, &dead, QueueSpec { max_length: Some(100), message_ttl_ms: Some(86_400_000_000), ..QueueSpec::default() });
    let spec = QueueSpec {
        max_priority: 5,
        dead_letter_exchange: Some("".into()),
        dead_letter_key: Some(dead),
        delivery_limit: Some(5),
        arguments: b"encoded".to_vec(),
        format: 9,
        ..QueueSpec::default()
    };
    let (name, from, to) = (format!("q {set}"), format!("from {set}"), format!("to {set}"));
    queue(c, &name, spec);
    queue(c, &format!("gone {set}"), QueueSpec::default());
    for (exchange, kind) in [(&from, "topic"), (&to, "direct")] {
        let spec = ExchangeSpec { kind: kind.into(), durable: true, alternate: Some("amq.fanout".into()), ..ExchangeSpec::default() };
        do_it(c, Control::Declare(Declare::Exchange { owner: OWNER, name: ExchangeName::new(exchange), spec, passive: false }));
    }
    bind(c, &from, Destination::Exchange(ExchangeName::new(&to)), "a.#", b"x=y");
    bind(c, &to, Destination::Queue(QueueName::new(&name)), "a.b", b"");
    bind(c, &to, Destination::Queue(QueueName::new(&name)), "gone", b"");
    let gone = Bind {
        owner: OWNER,
        source: to.as_str().into(),
        destination: Destination::Queue(QueueName::new(&name)),
        key: "gone".into(),
        arguments: Vec::new(),
        format: 9,
    };
    do_it(c, Control::Unbind(gone));
    c.turn(|turn, _| {
        for (body, priority) in [("accepted", 5), ("rejected", 4), ("tried", 3), ("left", 2)] {
            put(turn, &from, "a.b", &[], body, priority);
        }
        put(turn, &to, "nobody", &["a.b", "nor this"], "by its second key", 1);
    });
    let got = consume(c, &name);
    assert_eq!(bodies(&got), ["accepted", "rejected", "tried", "left", "by its second key"]);
    c.turn(|turn, token| {
        let settle = |g: &Got, outcome| Settle { queue: g.queue, first: g.seq.expect("kept"), count: 1, owner: OWNER, state: 0, outcome };
        turn.settle(settle(&got[2], Outcome::Modified));
        turn.entries.push(Entry::Scope(Some(TxIx(1))));
        turn.settle(settle(&got[0], Outcome::Accepted));
        turn.settle(settle(&got[1], Outcome::Rejected));
        put(turn, "", &name, &[], "in a transaction", 0);
        turn.entries.push(Entry::Scope(Some(TxIx(2))));
        put(turn, "", &name, &[], "never committed", 0);
        turn.settle(settle(&got[3], Outcome::Accepted));
        turn.entries.push(Entry::Scope(None));
        turn.control(Token(token), Control::Commit { owner: OWNER, tx: TxIx(1) });
    });
    c.fence();
    let name = QueueName::new(&format!("gone {set}"));
    do_it(c, Control::DeleteQueue { owner: OWNER, name, if_unused: false, if_empty: false });
}

fn check(node: &Node) {
    let names: Vec<String> = node.core.vhosts().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["/", "vhost checkpoint", "vhost log"]);
    // Before anybody comes back and takes his will along.
    wills(node);
    for set in SETS {
        for vhost in ["/", &format!("vhost {set}")] {
            let got = look(node, vhost, &format!("q {set}"));
            assert_eq!(bodies(&got), ["tried", "left", "by its second key", "in a transaction"], "{vhost}");
            assert_eq!(got[0].attempts, 1);
            assert_eq!(bodies(&look(node, vhost, &format!("dead {set}"))), ["rejected"], "{vhost}");
            // Its exchanges and bindings still lead there.
            let mut c = client(node, vhost);
            c.turn(|turn, _| put(turn, &format!("from {set}"), "a.b", &[], "new", 0));
            c.fence();
            c.cut();
            assert_eq!(look(node, vhost, &format!("q {set}")).len(), 5, "{vhost}");
        }
        assert!(!node.has_session(&format!("gone {set}")));
        let mut watcher = Client::transient(node, &format!("watcher {set}"));
        watcher.subscribe("r/#", 1);
        let kept: Vec<String> = watcher.take().iter().map(|g| g.topic.clone()).filter(|t| t.ends_with(set)).collect();
        assert_eq!(kept, [format!("r/{set}")]);
        let mut s = Client::attach(node, &format!("session {set}"));
        assert!(s.present);
        assert_eq!(keys(&s.state), [9]);
        let got = s.take();
        let mut found = bodies(&got);
        found.sort();
        assert_eq!(found, ["for one", "one", "two"]);
        assert!(got[0].has(DELIVERY_RESUMED) && got[0].text() == "one" && got[0].ids == [7]);
        assert_eq!(keys(&Client::attach(node, &format!("publisher {set}")).state), [5]);
    }
    node.check();
}

fn wills(node: &Node) {
    let mut watcher = Client::transient(node, "will watcher");
    watcher.subscribe("will/#", 1);
    node.pass_secs(4000);
    let mut topics: Vec<String> = watcher.take().iter().map(|g| g.topic.clone()).collect();
    topics.sort();
    assert_eq!(topics, ["will/checkpoint", "will/log"]);
}

fn build(dir: &Path) {
    // The README stays.
    for part in ["c", "j", "p", "x"] {
        let _ = std::fs::remove_dir_all(dir.join(part));
    }
    let _ = std::fs::remove_file(dir.join("meta"));
    let node = open(dir);
    fill(&node, SETS[0]);
    node.clock().pass_ms(60_000);
    node.checkpoint();
    fill(&node, SETS[1]);
    node.settle();
    node.core.close().expect("closed");
}

/// Level 1 must open for ever. `BROKER_GOLDEN=write` makes the directory anew (only before a release; after it, a new one beside it).
#[test]
fn the_golden_directory_opens() {
    if std::env::var("BROKER_GOLDEN").is_ok_and(|value| value == "write") {
        build(&golden());
        forget_reserves(&golden());
    }
    let dir = tempfile::tempdir().expect("a directory");
    copy(&golden(), dir.path());
    // Empty, so not in the repository.
    std::fs::create_dir_all(dir.path().join("c")).expect("a directory");
    let report = journal::verify::run(dir.path(), &mut Vec::new()).expect("readable");
    assert!(report.problems.is_empty(), "{report:?}");
    check(&open(dir.path()));
}

/// What this version writes reads the same, whatever the directory in the repository holds.
#[test]
fn what_is_written_now_opens() {
    let dir = tempfile::tempdir().expect("a directory");
    build(dir.path());
    check(&open(dir.path()));
}

/// What is made anew at each start, and large.
fn forget_reserves(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            forget_reserves(&path);
        } else if path.extension().is_some_and(|extension| extension == "tmp") || path.ends_with("lock") {
            std::fs::remove_file(path).expect("removed");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("the golden directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir_all(&target).expect("a directory");
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// The same by a process that is the version after this one (journal's `next`).
#[test]
fn the_next_version_opens_it_too() {
    let mut again = std::process::Command::new(std::env::current_exe().expect("this program"));
    again.args(["--exact", "golden::the_golden_directory_opens"]).env("CARRICK_FORMAT", "next");
    let done = again.output().expect("it runs");
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains("1 passed"), "{text}");
}
