//! When a message leaves for its consumers: at once, or after the commit point.

use super::named::*;
use super::support::*;
use broker::DeliveryPoint;
use journal::sim::Crash;

fn node(delivery: DeliveryPoint) -> Node {
    let mut setup = Setup::new();
    setup.config.delivery = delivery;
    setup.start()
}

fn seen(client: &Client) -> Vec<String> {
    client.log.iter().filter_map(|s| if let Seen::Got(got) = s { Some(got.text()) } else { None }).collect()
}

#[test]
fn early_delivery_does_not_wait_for_the_disk() {
    let node = node(DeliveryPoint::Early);
    let (mut c, mut p) = (Client::attach(&node, "c"), Client::transient(&node, "p"));
    c.subscribe("a", 1);
    p.send(&[msg("a", "1", 1)]);
    c.hear_one();
    assert_eq!(seen(&c), ["1"]);
    assert_eq!(p.done(), 0);
}

#[test]
fn committed_delivery_comes_after_the_disk_has_it_and_in_order() {
    let node = node(DeliveryPoint::Committed);
    let (mut c, mut p) = (Client::attach(&node, "c"), Client::transient(&node, "p"));
    c.subscribe("a", 1);
    // Its deliveries are at most once: nothing is logged for it, and it waits for nothing.
    let mut direct = Client::transient(&node, "direct");
    direct.subscribe("a", 0);
    for n in 0..5 {
        p.send(&[msg("a", n.to_string(), 1), msg("a", format!("{n}+"), 1)]);
        c.hear_one();
        direct.hear_one();
    }
    assert!(seen(&c).is_empty(), "no sync has come back");
    assert_eq!(seen(&direct).len(), 10);
    c.poll();
    assert_eq!(seen(&c), ["0", "0+", "1", "1+", "2", "2+", "3", "3+", "4", "4+"]);
    p.send(&[msg("a", "never", 1)]);
    c.hear_one();
    drop((c, p, direct));
    let node = node.crash(Crash::PowerCut);
    assert!(!bodies(&Client::attach(&node, "c").drain()).contains(&"never".into()));
    node.check();
}

#[test]
fn what_is_not_durable_waits_for_nothing_and_a_new_consumer_gets_what_is_committed() {
    let node = node(DeliveryPoint::Committed);
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("transient", Default::default()).declare("q", durable());
    c.consume(consume("transient", 1, 9));
    p.send_to("transient", &[put("t")]);
    c.hear_one();
    assert_eq!(seen(&c), ["t"]);
    p.publish_to("q", &[put("1")]);
    p.send_to("q", &[put("2")]);
    c.consume(consume("q", 2, 9));
    assert_eq!(by_consumer(&c.take()), [(1, "t".into()), (2, "1".into()), (2, "2".into())]);
    node.check();
}
