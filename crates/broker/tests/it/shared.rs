//! Shared subscriptions: one queue for a group and filter, members as consumers.

use crate::support::*;
use broker_api::*;

fn publish(node: &Node, n: std::ops::Range<u32>) {
    let mut p = Client::transient(node, "p");
    for i in n {
        p.publish("jobs", i.to_string(), 1);
    }
}

fn sorted(mut all: Vec<String>) -> Vec<u32> {
    all.sort_by_key(|s| s.parse::<u32>().unwrap());
    all.iter().map(|s| s.parse().unwrap()).collect()
}

#[test]
fn each_message_goes_to_one_member_and_all_get_work() {
    let node = Node::new();
    let mut members: Vec<Client> = (0..3).map(|n| Client::attach(&node, &format!("m{n}"))).collect();
    members.iter_mut().for_each(|m| {
        m.share("g", "jobs", 1);
    });
    publish(&node, 0..90);
    let mut all = Vec::new();
    for m in &mut members {
        let got = m.drain();
        assert!(got.len() >= 10, "a member got {} of 90", got.len());
        all.extend(bodies(&got));
    }
    assert_eq!(sorted(all), (0..90).collect::<Vec<_>>());
    node.check();
}

#[test]
fn at_most_once_goes_round_the_members_that_are_there() {
    let node = Node::new();
    let mut a = Client::attach(&node, "a");
    let mut b = Client::attach(&node, "b");
    a.share("g", "jobs", 0);
    b.share("g", "jobs", 0);
    let mut p = Client::transient(&node, "p");
    for n in 0..10 {
        p.publish("jobs", n.to_string(), 0);
    }
    let (one, two) = (a.take(), b.take());
    assert_eq!((one.len(), two.len()), (5, 5));
    b.cut();
    p.publish("jobs", "x", 0).publish("jobs", "y", 0);
    assert_eq!(bodies(&a.take()), ["x", "y"]);
}

#[test]
fn groups_and_filters_are_apart() {
    let node = Node::new();
    let mut a = Client::attach(&node, "a");
    let mut b = Client::attach(&node, "b");
    let mut c = Client::attach(&node, "c");
    a.share("g", "jobs", 1);
    b.share("h", "jobs", 1);
    c.subscribe("jobs", 1);
    publish(&node, 0..1);
    assert_eq!((a.drain().len(), b.drain().len(), c.drain().len()), (1, 1, 1));
}

#[test]
fn what_a_leaving_member_had_goes_to_another_at_once() {
    for leave in ["cut", "unsubscribe", "end"] {
        let node = Node::new();
        let mut a = Client::attach(&node, "a");
        a.share("g", "jobs", 1);
        publish(&node, 0..6);
        assert_eq!(a.take().len(), 6);
        let mut b = Client::attach(&node, "b");
        b.share("g", "jobs", 1);
        match leave {
            "cut" => a.cut(),
            "unsubscribe" => assert!(a.unsubscribe("jobs", Some("g"))),
            _ => a.end(Some(Expiry::WithConnection), PartingFate::Discard),
        }
        let got = b.drain();
        assert_eq!(bodies(&got), ["0", "1", "2", "3", "4", "5"], "{leave}");
        assert!(got.iter().all(|g| g.has(DELIVERY_REDELIVERED)), "{leave}");
        node.check();
    }
}

#[test]
fn a_late_acknowledgement_of_a_member_that_left_counts_for_nothing() {
    let node = Node::new();
    let mut a = Client::attach(&node, "a");
    let mut b = Client::attach(&node, "b");
    a.share("g", "jobs", 1);
    publish(&node, 0..1);
    let got = a.take();
    b.share("g", "jobs", 1);
    a.unsubscribe("jobs", Some("g"));
    a.ack(&got);
    assert_eq!(b.drain().len(), 1);
    node.check();
}

#[test]
fn durable_members_find_what_came_while_nobody_was_there_also_after_a_restart() {
    let node = Node::new();
    let mut a = Client::attach(&node, "a");
    let mut b = Client::attach(&node, "b");
    a.share("g", "jobs", 1);
    b.share("g", "jobs", 1);
    a.cut();
    b.cut();
    publish(&node, 0..20);
    let node = node.restart();
    publish(&node, 20..40);
    let mut a = Client::attach(&node, "a");
    assert!(a.present);
    let mut b = Client::attach(&node, "b");
    let mut all = bodies(&a.drain());
    all.extend(bodies(&b.drain()));
    assert_eq!(sorted(all), (0..40).collect::<Vec<_>>());
    node.check();
}

/// The same from a checkpoint: queue, members and references are objects then.
#[test]
fn a_share_comes_back_from_a_checkpoint() {
    let node = Node::new();
    let mut a = Client::attach(&node, "a");
    a.share("g", "jobs", 1);
    a.cut();
    publish(&node, 0..300);
    node.checkpoint();
    publish(&node, 300..310);
    let node = node.restart();
    let mut a = Client::attach(&node, "a");
    assert_eq!(sorted(bodies(&a.drain())), (0..310).collect::<Vec<_>>());
    node.check();
}

#[test]
fn members_see_their_own_subscription() {
    let node = Node::new();
    let mut a = Client::attach(&node, "a");
    let mut b = Client::attach(&node, "b");
    a.subscribe_as("jobs", 1, |s| (s.share, s.identifier, s.as_published) = (Some("g".into()), 7, true));
    b.subscribe_as("jobs", 2, |s| (s.share, s.identifier) = (Some("g".into()), 8));
    let mut p = Client::transient(&node, "p");
    for _ in 0..20 {
        p.publish("jobs", "x", 2);
    }
    let (one, two) = (a.take(), b.take());
    assert!(!one.is_empty() && one.iter().all(|g| g.ids == [7] && g.level == 1 && g.has(DELIVERY_AS_PUBLISHED)));
    assert!(!two.is_empty() && two.iter().all(|g| g.ids == [8] && g.level == 2 && !g.has(DELIVERY_AS_PUBLISHED)));
}

#[test]
fn a_share_is_sent_nothing_retained() {
    let node = Node::new();
    Client::transient(&node, "p").publish_msg(msg("jobs", "old", 1).retained());
    let mut a = Client::attach(&node, "a");
    a.share("g", "jobs", 1);
    assert!(a.take().is_empty());
}

#[test]
fn the_queue_goes_with_the_last_member() {
    let node = Node::new();
    let mut a = Client::attach(&node, "a");
    a.share("g", "jobs", 1);
    publish(&node, 0..3);
    a.take();
    a.unsubscribe("jobs", Some("g"));
    publish(&node, 3..5);
    a.share("g", "jobs", 1);
    assert!(a.take().is_empty(), "a new group starts empty");
    publish(&node, 5..6);
    assert_eq!(bodies(&a.drain()), ["5"]);
    let node = node.restart();
    node.check();
}

/// A lease that the session's state names stays with it while it is away (QoS 2 has to finish with the same client).
#[test]
fn a_pinned_delivery_waits_for_its_member() {
    let node = Node::new();
    let mut a = Client::attach(&node, "a");
    a.share("g", "jobs", 2);
    publish(&node, 0..3);
    let got = a.take();
    let pin = edit(1, Some("sent"), Some((got[1].queue, got[1].seq.unwrap())));
    a.turn(|turn, _| turn.state(pin));
    a.fence();
    let mut b = Client::attach(&node, "b");
    b.share("g", "jobs", 2);
    a.cut();
    assert_eq!(bodies(&b.drain()), ["0", "2"]);
    b.cut();
    let node = node.restart();
    let mut b = Client::attach(&node, "b");
    assert!(b.take().is_empty(), "not handed to another after a restart either");
    let mut a = Client::attach(&node, "a");
    let again = a.take();
    assert_eq!(bodies(&again), ["1"]);
    assert!(again[0].has(DELIVERY_RESUMED));
    a.ack(&again);
    a.fence();
    node.check();
}

/// Leases pinned in recovery lie beyond the queue's cursor; given back, they must neither jump the queue nor hide what stands before them.
#[test]
fn a_pinned_delivery_given_back_after_a_restart_keeps_its_place() {
    let node = Node::new();
    let mut a = Client::attach(&node, "a");
    a.share("g", "jobs", 1);
    publish(&node, 0..6);
    let got = a.take();
    let pin = edit(1, Some("sent"), Some((got[3].queue, got[3].seq.unwrap())));
    a.turn(|turn, _| turn.state(pin));
    a.fence();
    a.cut();
    let node = node.restart();
    let mut b = Client::named(&node, "b").credit(0).go();
    b.share("g", "jobs", 1);
    let mut a = Client::named(&node, "a").credit(0).go();
    assert_eq!(bodies(&a.take()), ["3"]);
    a.unsubscribe("jobs", Some("g"));
    b.credit(100);
    assert_eq!(bodies(&b.drain()), ["0", "1", "2", "3", "4", "5"]);
    node.check();
}
