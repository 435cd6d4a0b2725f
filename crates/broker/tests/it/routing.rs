//! Who gets a message, how often, and how it is marked.

use crate::support::*;
use broker_api::*;

#[test]
fn at_most_once_goes_straight_and_is_not_kept() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1).subscribe("b", 0);
    let mut p = Client::transient(&node, "p");
    p.publish("a", "zero", 0).publish("b", "low", 1);
    let got = c.take();
    assert_eq!(bodies(&got), ["zero", "low"]);
    assert!(got.iter().all(|g| g.seq.is_none() && g.level == 0));
    assert_eq!(node.depth("c"), 0);
    c.cut();
    p.publish("a", "lost", 0);
    assert!(Client::attach(&node, "c").take().is_empty());
}

#[test]
fn at_least_once_is_kept_until_it_is_settled_and_the_level_is_the_lower() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1).subscribe("b", 2);
    Client::transient(&node, "p").publish("a", "1", 2).publish("b", "2", 2).publish("b", "3", 1);
    let got = c.take();
    assert_eq!(got.iter().map(|g| g.level).collect::<Vec<_>>(), [1, 2, 1]);
    assert_eq!(node.depth("c"), 3);
    c.ack(&got[..2]);
    assert_eq!(node.depth("c"), 1);
    c.ack(&got);
    assert_eq!(node.depth("c"), 0);
    node.check();
}

#[test]
fn a_message_reaches_every_session_that_wants_it_once() {
    let node = Node::new();
    let mut clients: Vec<Client> = (0..50).map(|n| Client::attach(&node, &format!("c{n}"))).collect();
    clients.iter_mut().for_each(|c| {
        c.subscribe("news/#", 1);
    });
    let mut p = Client::transient(&node, "p");
    for n in 0..20 {
        p.send(&[msg("news/today", n.to_string(), 1), msg("olds", "x", 1)]);
    }
    for c in &mut clients {
        assert_eq!(c.drain().len(), 20);
    }
    let mut node = node.restart();
    assert_eq!((0..50).map(|n| node.depth(&format!("c{n}"))).sum::<u64>(), 0);
    node = node.restart();
    node.check();
}

/// More references than one record holds.
#[test]
fn a_fan_out_over_several_records_survives() {
    let node = Node::new();
    for n in 0..1500 {
        let mut c = Client::attach(&node, &format!("c{n}"));
        c.subscribe("all", 1);
        c.cut();
    }
    Client::transient(&node, "p").publish("all", vec![7; 300], 1);
    let node = node.restart();
    let total: u64 = (0..1500).map(|n| node.depth(&format!("c{n}"))).sum();
    assert_eq!(total, 1500);
    for n in [0, 1, 1023, 1024, 1499] {
        let mut c = Client::attach(&node, &format!("c{n}"));
        assert_eq!(c.drain()[0].body, vec![7; 300]);
    }
    node.check();
}

#[test]
fn overlapping_subscriptions_are_one_delivery_at_the_highest_level_with_all_identifiers() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe_as("a/+", 1, |s| s.identifier = 11);
    c.subscribe_as("#", 2, |s| s.identifier = 22);
    c.subscribe("a/b", 0);
    Client::transient(&node, "p").publish("a/b", "x", 2).publish("a/b", "y", 0);
    let got = c.take();
    assert_eq!(got.len(), 2);
    assert_eq!((got[0].level, &got[0].ids), (2, &vec![11, 22]));
    assert_eq!((got[1].level, &got[1].ids), (0, &vec![11, 22]));
}

#[test]
fn identifiers_and_levels_come_back_after_a_restart() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe_as("a", 1, |s| s.identifier = 5);
    c.cut();
    Client::transient(&node, "p").publish("a", "before", 2);
    let node = node.restart();
    Client::transient(&node, "p").publish("a", "after", 2);
    let mut c = Client::attach(&node, "c");
    let got = c.take();
    assert_eq!(bodies(&got), ["before", "after"]);
    assert!(got.iter().all(|g| g.ids == [5] && g.level == 1));
}

#[test]
fn a_second_subscription_to_a_filter_replaces_the_first() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe_as("a", 1, |s| s.identifier = 1);
    c.subscribe_as("a", 0, |s| s.identifier = 2);
    Client::transient(&node, "p").publish("a", "x", 1);
    let got = c.take();
    assert_eq!((got.len(), got[0].level, &got[0].ids), (1, 0, &vec![2]));
    assert!(c.unsubscribe("a", None) && !c.unsubscribe("a", None));
    Client::transient(&node, "p2").publish("a", "y", 1);
    assert!(c.take().is_empty());
}

#[test]
fn no_local_keeps_back_ones_own_and_only_those() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe_as("a", 1, |s| s.no_local = true);
    c.publish("a", "own", 1).publish("a", "own", 0);
    Client::transient(&node, "p").publish("a", "other", 1).publish("a", "other", 0);
    assert_eq!(bodies(&c.take()), ["other", "other"]);
    // Another filter without the wish still matches.
    c.subscribe("#", 1);
    c.publish("a", "own", 1);
    assert_eq!(bodies(&c.take()), ["own"]);
}

#[test]
fn as_published_is_a_wish_of_the_subscription() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe_as("a", 1, |s| s.as_published = true).subscribe("b", 1);
    Client::transient(&node, "p").publish_msg(msg("a", "x", 1).retained()).publish_msg(msg("b", "y", 1).retained());
    let got = c.take();
    assert!(got[0].has(DELIVERY_AS_PUBLISHED) && !got[1].has(DELIVERY_AS_PUBLISHED));
    assert!(got.iter().all(|g| !g.has(DELIVERY_RETAINED)), "both were live");
}

#[test]
fn topics_that_start_with_a_dollar_stay_out_of_wildcards() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("#", 1).subscribe("+/x", 1);
    Client::transient(&node, "p").publish("$own/x", "hidden", 1);
    assert!(c.take().is_empty());
    c.subscribe("$own/#", 1);
    Client::transient(&node, "p2").publish("$own/x", "seen", 1);
    assert_eq!(bodies(&c.take()), ["seen"]);
}

#[test]
fn a_publish_to_nobody_is_returned_if_it_asks() {
    let node = Node::new();
    let mut p = Client::transient(&node, "p");
    p.publish_msg(msg("a", "x", 1).mandatory()).publish_msg(msg("a", "y", 0).mandatory());
    let returned: Vec<_> = p.log.iter().filter(|s| matches!(s, Seen::Returned(..))).cloned().collect();
    assert_eq!(returned, [Seen::Returned(1, 1), Seen::Returned(2, 1)]);
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    p.publish_msg(msg("a", "z", 1).mandatory());
    assert_eq!(p.log.iter().filter(|s| matches!(s, Seen::Returned(..))).count(), 2);
}

#[test]
fn nobody_publishes_or_subscribes_before_login() {
    let node = Node::new();
    let info = ConnectionInfo { peer: Peer::Unix, identity: None, protocol: "test", vhost: VhostName::new("/"), allow_anonymous: false };
    let mut session = node.core.connect(info).expect("a connection");
    let mut turn = Turn::default();
    msg("a", "x", 1).put(&mut turn, 0);
    turn.control(Token(1), Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    session.submit(&mut turn);
    node.settle();
    let mut batch = EventBatch::default();
    session.swap(&mut batch);
    assert!(batch.events.iter().any(|e| matches!(e, Event::Refused { why: Refusal::AccessRefused(_), .. })));
    assert!(batch.events.iter().any(|e| matches!(e, Event::Reply(_, r) if r.is_err())));
}
