//! Messages that expire before they are delivered.

use crate::named::*;
use crate::support::*;
use broker_api::QueueSpec;

#[test]
fn what_has_expired_is_not_delivered_and_is_gone_for_good() {
    let node = Node::new();
    let mut c = Client::named(&node, "c").credit(0).go();
    c.subscribe("a", 1);
    let mut p = Client::transient(&node, "p");
    for n in 0..10 {
        p.publish_msg(msg("a", n.to_string(), 1).expires(if n % 2 == 0 { 50 } else { 500 }));
    }
    p.publish("a", "never", 1);
    node.pass_secs(49);
    c.credit(1);
    let first = c.take();
    assert_eq!(bodies(&first), ["0"]);
    node.pass_secs(3);
    c.credit(100);
    assert_eq!(bodies(&c.take()), ["1", "3", "5", "7", "9", "never"]);
    // Its delivery had begun: it may still be settled, and is not dropped.
    assert_eq!(node.depth("c"), 7);
    c.ack(&first);
    c.cut();
    drop(p);
    let node = node.restart();
    assert_eq!(Client::attach(&node, "c").drain().len(), 6);
    assert_eq!(node.depth("c"), 0);
    node.check();
}

#[test]
fn what_expired_while_we_were_down_does_not_come() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    c.cut();
    let mut p = Client::transient(&node, "p");
    p.publish_msg(msg("a", "short", 1).expires(50)).publish_msg(msg("a", "long", 1).expires(5000));
    drop(p);
    node.settle();
    node.setup.storage.crash(journal::sim::Crash::Kill);
    node.clock().pass_ms(100_000);
    let setup = node.setup.clone();
    drop(node);
    let node = setup.start();
    assert_eq!(bodies(&Client::attach(&node, "c").drain()), ["long"]);
}

/// A message with its own time to live.
fn lives(body: &str, ttl_ms: u64) -> Put {
    Put { ttl_ms: Some(ttl_ms), ..put(body) }
}

fn pass_ms(node: &Node, ms: u64) {
    node.clock().pass_ms(ms);
    node.settle();
}

#[test]
fn a_time_to_live_is_exact_to_a_tenth_of_a_second_and_nobody_has_to_look() {
    let node = Node::new();
    let mut c = local(&node);
    let ttl = |ms| QueueSpec { message_ttl_ms: Some(ms), ..durable() };
    c.declare("queue", ttl(450)).declare("message", durable());
    c.publish_to("queue", &[put("a"), lives("b", 200), lives("c", 9_000)]);
    c.publish_to("message", &[lives("d", 450), put("e")]);
    pass_ms(&node, 440);
    assert_eq!((c.ready("queue"), c.ready("message")), (Some(3), Some(2)), "b stands behind a, which has time left");
    pass_ms(&node, 210);
    assert_eq!((c.ready("queue"), c.ready("message")), (Some(0), Some(1)));
    c.consume(consume("message", 1, 9));
    assert_eq!(bodies(&c.take()), ["e"]);
    node.check();
}

#[test]
fn what_expires_goes_to_the_dead_letter_exchange_in_time() {
    let node = Node::new();
    let (mut c, mut p) = (local(&node), local(&node));
    let dies = QueueSpec { dead_letter_exchange: Some(String::new()), dead_letter_key: Some("dead".into()), ..durable() };
    p.declare("q", dies).declare("dead", durable());
    c.consume(consume("dead", 1, 9));
    p.publish_to("q", &[lives("soon", 300), lives("later", 1_500)]);
    assert!(c.take().is_empty());
    pass_ms(&node, 500);
    assert_eq!(bodies(&c.take()), ["soon"]);
    pass_ms(&node, 1_200);
    assert_eq!(bodies(&c.take()), ["later"]);
    node.check();
}

#[test]
fn a_time_to_live_of_nothing_is_for_a_consumer_that_is_there() {
    for spec in [durable(), QueueSpec { message_ttl_ms: Some(0), ..durable() }] {
        let node = Node::new();
        let (mut c, mut p) = (local(&node), local(&node));
        let message = || Put { ttl_ms: spec.message_ttl_ms.is_none().then_some(0), ..put("m") };
        p.declare("q", spec.clone());
        p.publish_to("q", &[message(), message()]);
        assert_eq!(p.ready("q"), Some(0), "nobody was there");
        c.consume(consume("q", 1, 1));
        p.publish_to("q", &[message(), message()]);
        assert_eq!(c.take().len(), 1, "credit for one");
        assert_eq!(p.ready("q"), Some(0));
        drop((c, p));
        let node = node.restart();
        assert_eq!(local(&node).ready("q"), Some(0), "what came back had no time left");
        node.check();
    }
}

#[test]
fn what_expires_behind_a_message_that_does_not_is_found_too() {
    let node = Node::new();
    let mut c = local(&node);
    c.declare("q", durable());
    c.publish_to("q", &[put("stays")]);
    for n in 0..30 {
        c.publish_to("q", &(0..200).map(|i| lives(&format!("{n}/{i}"), 1_000)).collect::<Vec<_>>());
    }
    for _ in 0..40 {
        pass_ms(&node, 1_000);
    }
    assert_eq!(c.ready("q"), Some(1));
    c.consume(consume("q", 1, 9));
    assert_eq!(bodies(&c.take()), ["stays"]);
    node.check();
}

#[test]
fn many_that_expire_at_once_go_in_pieces_and_stay_gone() {
    let node = Node::new();
    let mut c = local(&node);
    c.declare("q", QueueSpec { message_ttl_ms: Some(1_000), ..durable() });
    for _ in 0..50 {
        c.publish_to("q", &vec![put("x"); 100]);
    }
    assert_eq!(c.ready("q"), Some(5_000));
    pass_ms(&node, 1_200);
    for _ in 0..10 {
        pass_ms(&node, 2);
    }
    assert_eq!(c.ready("q"), Some(0));
    drop(c);
    let node = node.restart();
    assert_eq!(local(&node).ready("q"), Some(0));
    node.check();
}
