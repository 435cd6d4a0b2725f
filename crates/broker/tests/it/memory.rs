//! The high-watermark of memory, and what is let go of.

use super::named::*;
use super::support::*;
use broker_api::*;

fn bounded(high: u64) -> Node {
    let mut setup = Setup::new();
    setup.config.memory_high = high;
    setup.start()
}

fn big(n: usize) -> String {
    format!("{n:05}{}", "x".repeat(995))
}

#[test]
fn publishers_wait_above_the_watermark_and_go_on_when_consumers_make_room() {
    let mut setup = Setup::new();
    (setup.config.memory_high, setup.config.transient_memory) = (200_000, 0);
    let node = setup.start();
    let (mut c, mut p, mut other) = (local(&node), local(&node), local(&node));
    // Only memory has what is in here, and nothing is spilled.
    p.declare("q", QueueSpec::default());
    for n in 0..250 {
        p.send_to("q", &[Put { transient: true, ..put(big(n)) }]);
    }
    p.poll();
    assert!(p.heard("Blocked(\"low on memory\")"), "{:?}", p.signals());
    let held = node.core.memory_held();
    assert!(held <= 1 << 20, "one connection's held turns come on top: {held}");
    let confirmed = p.done();
    assert!(confirmed < 250, "not all went in");
    assert!(!other.heard("Blocked"), "who publishes nothing hears nothing");
    // Consuming, settling and credit are not held; the rest follows by itself.
    c.consume(consume("q", 1, 20));
    let mut seen = Vec::new();
    for _ in 0..100 {
        let got = c.take();
        c.ack(&got);
        c.add_credit(1, got.len() as u32);
        seen.extend(bodies(&got));
        node.clock().pass_ms(60);
        p.poll();
        if seen.len() == 250 {
            break;
        }
    }
    assert_eq!(seen, (0..250).map(big).collect::<Vec<_>>());
    assert_eq!(p.done(), p.serial);
    assert_eq!(p.signals().last().map(String::as_str), Some("Unblocked"));
    drop((c, p));
    other.poll();
    assert!(node.core.memory_held() < 4000, "everything is given back: {}", node.core.memory_held());
    node.check();
}

#[test]
fn durable_messages_are_no_reason_to_wait_once_the_log_has_them() {
    let node = bounded(300_000);
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("q", durable());
    // A consumer without credit: its queue keeps what comes next in memory, as long as there is room.
    c.consume(consume("q", 1, 0));
    let turns: Vec<Vec<Put>> = (0..40).map(|t| (0..20).map(|n| put(big(t * 20 + n))).collect()).collect();
    for turn in &turns {
        p.send_to("q", turn);
        p.poll();
        node.clock().pass_ms(60);
        p.poll();
        assert_eq!(p.done(), p.serial);
    }
    assert!(node.core.memory_held() <= 320_000, "{}", node.core.memory_held());
    let mut got = Vec::new();
    while got.len() < 800 {
        c.add_credit(1, 100);
        let more = c.take();
        assert!(!more.is_empty(), "{} came", got.len());
        c.ack(&more);
        got.extend(bodies(&more));
    }
    assert_eq!(got, (0..800).map(big).collect::<Vec<_>>());
    node.check();
}

#[test]
fn queues_without_consumers_keep_no_message_that_the_log_has() {
    let node = Node::new();
    let mut p = local(&node);
    for q in 0..50 {
        p.declare(&format!("q{q}"), durable());
    }
    for n in 0..20 {
        for q in 0..50 {
            p.publish_to(&format!("q{q}"), &[put(big(n))]);
        }
    }
    let held = node.core.memory_held();
    assert!(held < 2 * 50 * 1300, "one message for each queue or two, not twenty: {held}");
    let mut c = local(&node);
    c.consume(consume("q7", 1, 100));
    assert_eq!(bodies(&c.take()), (0..20).map(big).collect::<Vec<_>>());
    node.check();
}
