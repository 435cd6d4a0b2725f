//! What grows, and what happens at its bound.

use crate::support::*;
use broker_api::*;

#[test]
fn a_full_session_queue_drops_what_is_new() {
    let node = Setup::new().session_queue(5).start();
    let mut c = Client::named(&node, "c").credit(2).go();
    c.subscribe("a", 1);
    let mut p = Client::transient(&node, "p");
    for n in 0..9 {
        p.publish("a", n.to_string(), 1);
    }
    assert_eq!(node.depth("c"), 5, "deliveries in flight count as well");
    let got = c.take();
    c.ack(&got);
    p.publish("a", "10", 1);
    c.credit(100);
    assert_eq!(bodies(&c.drain()), ["2", "3", "4", "10"]);
    node.check();
    drop((c, p));
    let node = node.restart();
    assert_eq!(node.depth("c"), 0, "what was dropped does not come back");
    assert_eq!(node.core.journal_stats().live_references, 0);
}

#[test]
fn the_bound_holds_within_one_turn_and_after_a_checkpoint() {
    let node = Setup::new().session_queue(5).start();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    c.cut();
    let turn: Vec<Msg> = (0..20).map(|n| msg("a", n.to_string(), 1)).collect();
    Client::transient(&node, "p").send(&turn);
    node.settle();
    assert_eq!(node.depth("c"), 5);
    node.checkpoint();
    let node = node.restart();
    assert_eq!(node.depth("c"), 5);
    Client::transient(&node, "p").send(&turn);
    node.settle();
    assert_eq!(node.depth("c"), 5, "the bound is forgotten");
    assert_eq!(bodies(&Client::attach(&node, "c").drain()), ["0", "1", "2", "3", "4"]);
}

#[test]
fn a_declared_queue_drops_its_oldest_and_that_survives() {
    let node = Node::new();
    let mut c = Client::connect(&node);
    c.control(Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    let spec = QueueSpec { durable: true, max_length: Some(3), ..QueueSpec::default() };
    c.control(Control::Declare(Declare::Queue { owner: OWNER, name: "q".into(), spec: spec.clone(), passive: false }));
    let bind = Bind {
        owner: OwnerIx(1),
        source: "amq.topic".into(),
        destination: Destination::Queue("q".into()),
        key: "a".into(),
        arguments: Vec::new(),
        format: 0,
    };
    c.control(Control::Bind(bind));
    let turn: Vec<Msg> = (0..10).map(|n| msg("a", n.to_string(), 1)).collect();
    let last = c.send(&turn);
    c.confirmed(last);
    drop(c);
    let node = node.restart();
    let mut c = Client::connect(&node);
    c.control(Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    let declared = c.control(Control::Declare(Declare::Queue { owner: OWNER, name: "q".into(), spec, passive: true }));
    assert!(matches!(c.reply(declared), Ok(Reply::Queue { ready: 3, .. })));
    c.control(Control::Consume(Consume {
        consumer: CONSUMER,
        owner: OWNER,
        group: None,
        queue: "q".into(),
        credit: 10,
        mode: Mode::Settled,
        exclusive: false,
        alone: false,
        priority: 0,
        selector: None,
    }));
    assert_eq!(bodies(&c.take()), ["7", "8", "9"]);
    node.check();
}

/// Settled as they leave: never seen again, whatever order the log had them in.
#[test]
fn what_is_settled_as_it_leaves_does_not_come_back() {
    let node = Node::new();
    let mut c = Client::connect(&node);
    c.control(Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    let spec = QueueSpec { durable: true, ..QueueSpec::default() };
    c.control(Control::Declare(Declare::Queue { owner: OWNER, name: "q".into(), spec: spec.clone(), passive: false }));
    let bind = Bind {
        owner: OwnerIx(1),
        source: "amq.topic".into(),
        destination: Destination::Queue("q".into()),
        key: "a".into(),
        arguments: Vec::new(),
        format: 0,
    };
    c.control(Control::Bind(bind));
    c.control(Control::Consume(Consume {
        consumer: CONSUMER,
        owner: OWNER,
        group: None,
        queue: "q".into(),
        credit: 1000,
        mode: Mode::Settled,
        exclusive: false,
        alone: false,
        priority: 0,
        selector: None,
    }));
    let mut p = Client::transient(&node, "p");
    for n in 0..20 {
        p.publish("a", n.to_string(), 1);
    }
    assert_eq!(c.take().len(), 20);
    drop((c, p));
    let node = node.restart();
    let mut c = Client::connect(&node);
    c.control(Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    let declared = c.control(Control::Declare(Declare::Queue { owner: OWNER, name: "q".into(), spec, passive: true }));
    assert!(matches!(c.reply(declared), Ok(Reply::Queue { ready: 0, .. })));
}

/// A backlog far above what a queue keeps in memory: read back from the log in order, by pages, with the right depth.
#[test]
fn a_backlog_larger_than_memory_comes_back_in_order() {
    backlog(100_000, false);
}

#[test]
fn a_backlog_larger_than_memory_survives_a_restart_half_way() {
    backlog(100_000, true);
}

fn backlog(n: u32, restart: bool) {
    let mut setup = Setup::new();
    setup.journal.segment_bytes = 16 << 20;
    setup.journal.checkpoint_bytes = 16 << 20;
    setup.journal.staging_bytes = 16 << 20;
    setup.journal.checkpoint_interval = std::time::Duration::from_secs(30);
    let node = setup.start();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    c.cut();
    let mut p = Client::transient(&node, "p");
    for first in (0..n).step_by(100) {
        let turn: Vec<Msg> = (first..first + 100).map(|n| msg("a", [&n.to_le_bytes()[..], &[7; 1020]].concat(), 1)).collect();
        p.send(&turn);
        p.poll();
        node.maintain();
    }
    let last = p.serial;
    p.confirmed(last);
    assert_eq!(node.depth("c"), u64::from(n));
    drop(p);
    node.check();
    let mut node = node;
    let mut next = 0u32;
    for part in [n / 3, n - n / 3] {
        let mut c = Client::named(&node, "c").credit(0).go();
        let end = next + part;
        while next < end {
            c.credit(1000.min(end - next));
            let got = c.take();
            assert!(!got.is_empty(), "stuck at {next}");
            for g in &got {
                assert_eq!(u32::from_le_bytes(g.body[..4].try_into().unwrap()), next);
                assert_eq!(g.body.len(), 1024);
                next += 1;
            }
            c.ack(&got);
            c.log.clear();
            c.taken_from_start();
            node.maintain();
        }
        c.fence();
        c.cut();
        assert_eq!(node.depth("c"), u64::from(n - end));
        if restart {
            node = node.restart();
        }
        node.check();
        assert_eq!(node.depth("c"), u64::from(n - end));
    }
    assert_eq!(node.core.journal_stats().live_references, 0);
}
