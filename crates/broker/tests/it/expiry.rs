//! Messages that expire before they are delivered.

use crate::support::*;

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
