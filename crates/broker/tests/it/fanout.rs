//! One message for very many sessions: written once, in slices, all of it or nothing.

use super::support::*;
use broker_api::HEAD_CONFIRM;
use journal::sim::Crash;

const SESSIONS: usize = 2_500;

/// So many detached sessions that want `wide`; the first of them also wants `narrow`.
fn crowd(node: &Node, sessions: usize) {
    for n in 0..sessions {
        let mut c = Client::attach(node, &name(n));
        c.subscribe("wide", 1);
        if n == 0 {
            c.subscribe("narrow", 1);
        }
        c.cut();
    }
}

fn name(n: usize) -> String {
    format!("s{n}")
}

fn depths(node: &Node, sessions: usize) -> Vec<u64> {
    let mut all: Vec<u64> = (0..sessions).map(|n| node.depth(&name(n))).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn the_body_is_written_once() {
    let node = Node::new();
    crowd(&node, 5_000);
    let mut p = Client::transient(&node, "p");
    let before = node.core.journal_stats().bytes;
    p.publish("wide", vec![7; 100_000], 1);
    let written = node.core.journal_stats().bytes - before;
    assert!((200_000..230_000).contains(&written), "100,000 bytes once and 20 for each reference: {written}");
    assert_eq!(depths(&node, 5_000), [1]);
    // A transaction, a will or a retained message writes it in one slot; that is no different.
    let before = node.core.journal_stats().bytes;
    p.publish_msg(msg("wide", vec![8; 100_000], 1).retained());
    let written = node.core.journal_stats().bytes - before;
    assert!((300_000..330_000).contains(&written), "the retained value comes on top: {written}");
    node.check();
    drop(p);
    let node = node.restart();
    assert_eq!(depths(&node, 5_000), [2]);
    let got = Client::attach(&node, "s4321").drain();
    assert_eq!(got.iter().map(|g| (g.body[0], g.body.len())).collect::<Vec<_>>(), [(7, 100_000), (8, 100_000)]);
    node.check();
}

#[test]
fn a_crash_at_any_slice_leaves_all_or_nothing() {
    // One look at the route, ten slices of 2,500 references; the twelfth step is one too many.
    for steps_made in [0, 1, 2, 6, 10, 11, 12] {
        let whole = steps_made >= 11;
        let node = Node::new();
        crowd(&node, SESSIONS);
        let steps = node.steps.clone().expect("taken step by step");
        let mut p = Client::transient(&node, "p");
        node.settle();
        p.send(&[msg("wide", "m", 1)]);
        for _ in 0..steps_made {
            steps.read();
        }
        while steps.commit() {}
        p.hear_one();
        assert_eq!(p.done() > 0, whole, "confirmed after {steps_made} steps");
        drop((p, steps));
        let node = node.crash(Crash::PowerCut);
        let there = u64::from(whole);
        assert_eq!(depths(&node, SESSIONS), [there], "{steps_made} steps");
        node.check();
        // And it stays so: what was taken back is taken back in the log, and in checkpoints.
        let mut p = Client::transient(&node, "p");
        p.publish("wide", "next", 1);
        node.clock().pass_ms(60_000);
        node.checkpoint();
        drop(p);
        let node = node.restart();
        assert_eq!(depths(&node, SESSIONS), [there + 1], "{steps_made} steps");
        let wanted: &[&str] = if whole { &["m", "next"] } else { &["next"] };
        assert_eq!(bodies(&Client::attach(&node, "s1700").drain()), wanted);
        node.check();
    }
}

#[test]
fn nobody_sees_it_before_it_has_reached_everybody_and_order_holds() {
    let node = Node::new();
    crowd(&node, SESSIONS);
    let steps = node.steps.clone().expect("taken step by step");
    let mut first = Client::attach(&node, "s0");
    let mut p = Client::transient(&node, "p");
    p.send(&[msg("narrow", "1", 1), msg("wide", "2", 1), msg("wide", "3", 1), msg("narrow", "4", 1)]);
    p.send(&[msg("wide", "5", 1), msg("narrow", "6", 0)]);
    assert!(steps.read());
    first.hear_one();
    let seen = |c: &Client| c.log.iter().filter(|s| matches!(s, Seen::Got(_))).count();
    assert_eq!(seen(&first), 1, "what came before the fan-out");
    p.poll();
    let got = first.take();
    assert_eq!(bodies(&got), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(p.done(), p.serial);
    assert!(!p.heard("Blocked"), "it is no shortage: {:?}", p.signals());
    first.ack(&got[..5]);
    first.cut();
    assert_eq!(bodies(&Client::attach(&node, "s2499").drain()), ["2", "3", "5"]);
    node.check();
}

#[test]
fn a_publisher_that_goes_away_takes_nothing_back() {
    let node = Node::new();
    crowd(&node, SESSIONS);
    let will = msg("narrow", "will", 1);
    let mut p = Client::named(&node, "p").transient().will(will, 0).go();
    p.send(&[msg("wide", "1", 1), msg("narrow", "2", 1)]);
    p.send(&[msg("wide", "3", 1)]);
    // A proper good-bye behind it: the will must not go out.
    p.bye();
    assert_eq!(bodies(&Client::attach(&node, "s0").drain()), ["1", "2", "3"]);
    assert_eq!(bodies(&Client::attach(&node, "s2000").drain()), ["1", "3"]);
    node.check();
}

#[test]
fn a_checkpoint_waits_for_one_that_is_half_made() {
    let node = Node::new();
    crowd(&node, SESSIONS);
    let steps = node.steps.clone().expect("taken step by step");
    let mut p = Client::transient(&node, "p");
    node.settle();
    let before = node.core.journal_stats().checkpoints;
    p.send(&[msg("wide", "m", 1)]);
    steps.read();
    while steps.commit() {}
    node.clock().pass_ms(60_000);
    for _ in 0..5 {
        steps.maintain();
        while steps.commit() {}
    }
    assert_eq!(node.core.journal_stats().checkpoints, before, "none may begin in between");
    p.poll();
    assert_eq!(p.done(), p.serial);
    node.clock().pass_ms(60_000);
    node.checkpoint();
    drop((p, steps));
    let node = node.restart();
    assert_eq!(depths(&node, SESSIONS), [1]);
}

#[test]
fn many_at_once_are_taken_together() {
    let node = Node::new();
    crowd(&node, SESSIONS);
    let mut p = Client::transient(&node, "p");
    let all: Vec<Msg> = (0..150).map(|n| msg("wide", n.to_string(), 1)).collect();
    let serial = p.send(&all);
    p.confirmed(serial);
    assert_eq!(depths(&node, SESSIONS), [150]);
    assert_eq!(all[0].flags & HEAD_CONFIRM, HEAD_CONFIRM);
    drop(p);
    let node = node.restart();
    assert_eq!(bodies(&Client::attach(&node, "s77").drain()), (0..150).map(|n| n.to_string()).collect::<Vec<_>>());
    node.check();
}
