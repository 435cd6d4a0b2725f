//! A disk that is full, and one that fails.

use crate::support::*;
use broker_api::*;
use journal::sim::Crash;
use std::sync::atomic::Ordering;

/// Fills the disk with a backlog for "c" until publishes are held; answers how many were confirmed, and the publisher.
fn fill(node: &Node) -> (u64, Client) {
    let mut p = Client::transient(node, "p");
    for _ in 0..20_000 {
        p.send(&[msg("a", vec![5; 3000], 1)]);
        p.poll();
        node.maintain();
        p.poll();
        if p.heard("Blocked") {
            return (p.done(), p);
        }
    }
    panic!("the disk is never full");
}

#[test]
fn a_full_disk_holds_publishes_and_settlements_overtake_them() {
    let setup = Setup::new().tiny();
    let node = setup.start();
    let mut c = Client::named(&node, "c").credit(0).go();
    c.subscribe("a", 1);
    node.maintain();
    node.maintain();
    setup.storage.set_budget(setup.storage.used_bytes() + 600_000);
    let (confirmed, mut p) = fill(&node);
    assert!(confirmed >= 10, "{confirmed}");
    assert!(p.serial > confirmed, "some wait");
    assert_eq!(node.depth("c"), confirmed);
    // At most once needs no disk.
    let mut q = Client::transient(&node, "q");
    q.subscribe("b", 0);
    q.publish("b", "free", 0);
    assert_eq!(bodies(&q.take()), ["free"]);
    // The backlog drains to nothing, with the disk as full as it is.
    c.credit(1_000_000);
    let mut drained = 0;
    for _ in 0..10_000 {
        let got = c.take();
        drained += got.len() as u64;
        c.ack(&got);
        c.fence();
        node.clock().pass_ms(200);
        node.maintain();
        p.poll();
        if p.heard("Unblocked") && p.done() == p.serial && node.depth("c") == 0 {
            break;
        }
    }
    assert_eq!(p.done(), p.serial, "what was held went on");
    assert_eq!(drained, p.serial);
    assert!(!node.failed.load(Ordering::Acquire));
    node.check();
    drop((c, p, q));
    let node = node.restart();
    assert_eq!(node.depth("c"), 0);
}

#[test]
fn commands_wait_behind_held_publishes_in_their_order() {
    let setup = Setup::new().tiny();
    let node = setup.start();
    let mut c = Client::named(&node, "c").credit(0).go();
    c.subscribe("a", 1);
    node.maintain();
    setup.storage.set_budget(setup.storage.used_bytes() + 300_000);
    let (_, mut p) = fill(&node);
    let token = p.control(Control::Unsubscribe { owner: OWNER, filter: Filter { pattern: "x".into(), separator: b'/' }, share: None });
    p.turn(|turn, _| turn.fence());
    p.poll();
    assert_eq!(p.replied(token), None);
    assert!(p.done() < p.serial);
    setup.storage.set_budget(u64::MAX);
    for _ in 0..20 {
        node.clock().pass_ms(200);
        node.maintain();
        p.poll();
    }
    assert_eq!(p.reply(token), Ok(Reply::Unsubscribed { existed: false }));
    assert_eq!(p.done(), p.serial);
    assert_eq!(node.depth("c"), p.serial - 1);
}

#[test]
fn a_retained_message_at_level_0_waits_for_the_disk_too() {
    let setup = Setup::new().tiny();
    let node = setup.start();
    let mut c = Client::named(&node, "c").credit(0).go();
    c.subscribe("a", 1);
    node.maintain();
    setup.storage.set_budget(setup.storage.used_bytes() + 300_000);
    let (_, _p) = fill(&node);
    let mut q = Client::transient(&node, "q");
    q.send(&[msg("r", "x", 0).retained()]);
    q.poll();
    assert!(q.heard("Blocked"));
}

#[test]
fn a_disk_that_fails_is_lost_and_nothing_is_confirmed_after() {
    for what in ["sync", "write"] {
        let node = Node::new();
        let mut c = Client::attach(&node, "c");
        c.subscribe("a", 1);
        let mut p = Client::transient(&node, "p");
        p.publish("a", "safe", 1);
        if what == "sync" {
            node.setup.storage.fail_sync_after(0);
        } else {
            node.setup.storage.fail_write_after(0);
        }
        p.send(&[msg("a", "unsafe", 1)]);
        p.poll();
        assert!(node.failed.load(Ordering::Acquire), "{what}");
        assert!(p.heard("Lost") && c.poll().heard("Lost"), "{what}");
        let last = p.done();
        p.send(&[msg("a", "later", 1)]);
        p.turn(|turn, _| turn.fence());
        p.poll();
        assert_eq!(p.done(), last, "{what}: a confirm after the failure");
        assert!(p.log.iter().any(|s| matches!(s, Seen::Refused(_, _, Refusal::StoreFailed))), "{what}");
        let mut d = Client::named(&node, "d").send();
        d.poll();
        assert!(d.log.iter().any(|s| matches!(s, Seen::Reply(_, Err(Refusal::StoreFailed)))), "{what}");
        drop((c, p, d));
        let node = node.crash(Crash::PowerCut);
        let got = bodies(&Client::attach(&node, "c").drain());
        assert_eq!(got[0], "safe", "{what}");
        node.check();
    }
}

/// A real directory and real threads: stop cleanly, start again, and find everything.
#[test]
fn a_real_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let try_open = || {
        let storage = std::sync::Arc::new(journal::storage::DirStorage::new(dir.path()).expect("the directory"));
        let config = journal::Config { segment_bytes: 1 << 20, ..journal::Config::default() };
        broker::Core::open(storage, config, broker::Config { sys_interval_secs: 1, ..Default::default() }, Box::new(|_| {}))
    };
    let open = || {
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            match try_open() {
                // A thread of the core before has not noticed yet that it is gone.
                Err(broker::CoreError::Journal(journal::OpenError::Locked { .. })) if std::time::Instant::now() < until => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                core => break Node { core: core.expect("it opens"), steps: None, setup: Setup::new(), failed: Default::default() },
            }
        }
    };
    let node = open();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    c.cut();
    let mut p = Client::transient(&node, "p");
    for n in 0..2000u32 {
        p.send(&[msg("a", [&n.to_le_bytes()[..], &[1; 2000]].concat(), 1)]);
    }
    p.fence();
    p.cut();
    node.core.close().expect("a clean stop");
    drop(node);
    let node = open();
    assert_eq!(node.depth("c"), 2000);
    let mut c = Client::attach(&node, "c");
    let got = c.take_n(2000);
    let order: Vec<u32> = got.iter().map(|g| u32::from_le_bytes(g.body[..4].try_into().unwrap())).collect();
    assert_eq!(order, (0..2000).collect::<Vec<_>>());
    c.ack(&got);
    c.fence();
    node.check();
    c.cut();
    let mut s = Client::transient(&node, "s");
    s.subscribe("$SYS/#", 0);
    s.until("the broker's own topics", |s| s.log.iter().any(|x| matches!(x, Seen::Got(g) if g.topic == "$SYS/broker/uptime")));
    s.cut();
    node.core.close().expect("a clean stop");
}
