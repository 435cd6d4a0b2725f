//! Retained messages: one per topic, the last one set, for those who subscribe later.

use crate::support::*;
use broker_api::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

fn set(node: &Node, topic: &str, body: &str, level: u8) {
    Client::transient(node, "setter").publish_msg(msg(topic, body, level).retained().confirm());
}

fn ask(node: &Node, filter: &str, level: u8) -> Vec<Got> {
    let mut c = Client::transient(node, "asker");
    c.subscribe(filter, level);
    let got = c.take();
    c.ack(&got);
    got
}

#[test]
fn set_replace_clear() {
    let node = Node::new();
    set(&node, "a/b", "1", 1);
    set(&node, "a/b", "2", 2);
    let got = ask(&node, "a/b", 1);
    assert_eq!(bodies(&got), ["2"]);
    assert!(got[0].has(DELIVERY_RETAINED) && got[0].level == 1);
    assert_eq!(ask(&node, "a/b", 0)[0].level, 0);
    set(&node, "a/b", "", 1);
    assert!(ask(&node, "a/b", 1).is_empty());
}

#[test]
fn wildcards_find_them_and_a_dollar_hides_them() {
    let node = Node::new();
    for topic in ["a", "a/b", "a/b/c", "x/b", "$own/b"] {
        set(&node, topic, topic, 1);
    }
    let mut found = bodies(&ask(&node, "a/#", 1));
    found.sort();
    assert_eq!(found, ["a", "a/b", "a/b/c"]);
    let mut found = bodies(&ask(&node, "+/b", 1));
    found.sort();
    assert_eq!(found, ["a/b", "x/b"]);
    assert_eq!(ask(&node, "#", 1).len(), 4);
    assert_eq!(bodies(&ask(&node, "$own/+", 1)), ["$own/b"]);
}

#[test]
fn they_survive_restarts_whatever_their_level_and_so_does_clearing() {
    let node = Node::new();
    set(&node, "zero", "0", 0);
    set(&node, "one", "1", 1);
    set(&node, "gone", "x", 1);
    node.checkpoint();
    set(&node, "gone", "", 0);
    set(&node, "one", "1b", 1);
    let node = node.restart();
    let mut found = bodies(&ask(&node, "#", 1));
    found.sort();
    assert_eq!(found, ["0", "1b"]);
    node.checkpoint();
    let node = node.restart();
    assert_eq!(ask(&node, "#", 1).len(), 2);
}

#[test]
fn when_a_subscription_is_sent_them() {
    let node = Node::new();
    set(&node, "a", "x", 1);
    let mut c = Client::attach(&node, "c");
    c.subscribe_as("a", 1, |s| s.retained = RetainedOn::Never);
    assert!(c.take().is_empty());
    c.subscribe_as("a", 1, |s| s.retained = RetainedOn::IfNew);
    assert!(c.take().is_empty(), "it is not new");
    c.subscribe_as("a", 1, |s| s.retained = RetainedOn::Always);
    assert_eq!(c.take().len(), 1);
    c.unsubscribe("a", None);
    c.subscribe_as("a", 1, |s| s.retained = RetainedOn::IfNew);
    assert_eq!(c.take().len(), 1);
}

#[test]
fn identifiers_of_the_subscription_come_along() {
    let node = Node::new();
    set(&node, "a", "x", 1);
    let mut c = Client::attach(&node, "c");
    c.subscribe_as("a", 1, |s| s.identifier = 9);
    assert_eq!(c.take()[0].ids, [9]);
}

#[test]
fn an_expired_one_is_gone() {
    let node = Node::new();
    let mut p = Client::transient(&node, "p");
    p.publish_msg(msg("a", "x", 1).retained().expires(60));
    assert_eq!(ask(&node, "a", 1).len(), 1);
    node.pass_secs(61);
    assert!(ask(&node, "a", 1).is_empty());
    drop(p);
    let node = node.restart();
    assert!(ask(&node, "a", 0).is_empty());
}

#[test]
fn an_unsent_one_expires_in_the_queue_too() {
    let node = Node::new();
    Client::transient(&node, "p").publish_msg(msg("a", "x", 1).retained().expires(60));
    let mut c = Client::named(&node, "c").credit(0).go();
    c.subscribe("a", 1);
    assert_eq!(node.depth("c"), 1);
    node.pass_secs(61);
    c.credit(1);
    assert!(c.take().is_empty());
    assert_eq!(node.depth("c"), 0);
}

#[test]
fn those_queued_for_a_session_survive_a_restart() {
    let node = Node::new();
    set(&node, "a", "x", 1);
    let mut c = Client::named(&node, "c").credit(0).go();
    c.subscribe("a", 1);
    c.cut();
    let node = node.restart();
    let got = Client::attach(&node, "c").drain();
    assert_eq!(bodies(&got), ["x"]);
    assert!(got[0].has(DELIVERY_RETAINED));
}

/// More than an outbox holds at once: none may be left out, at any level.
#[test]
fn a_large_store_arrives_whole() {
    let node = Node::new();
    let mut p = Client::transient(&node, "p");
    for n in 0..3000 {
        p.send(&[msg(&format!("r/{n}"), vec![b'x'; 1024], 1).retained()]);
        if n % 100 == 0 {
            p.poll();
            node.maintain();
        }
    }
    let last = p.serial;
    p.confirmed(last);
    assert_eq!(ask(&node, "r/#", 1).len(), 3000, "at level 1");
    assert_eq!(ask(&node, "r/#", 0).len(), 3000, "at level 0");
}

/// Whatever order a writer and new subscribers come in, the last value that each of them sees is the newest.
#[test]
fn a_writer_races_with_subscribers_and_the_last_value_is_the_newest() {
    for level in [0, 1] {
        let node = Setup::new().threads().start();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (node, stop) = (node.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut p = Client::transient(&node, "writer");
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    p.send(&[msg("v", n.to_string(), level).retained()]);
                    if n % 64 == 0 {
                        p.fence();
                    }
                }
                p.fence();
                n
            })
        };
        let mut clients: Vec<Client> = Vec::new();
        let mut first = Client::transient(&node, "first");
        first.subscribe("v", level);
        first.until("the writer's first value", |c| c.log.iter().any(|s| matches!(s, Seen::Got(_))));
        clients.push(first);
        for round in 0..40 {
            let mut c = Client::transient(&node, &format!("s{round}"));
            c.subscribe(if round % 2 == 0 { "v" } else { "#" }, level);
            clients.push(c);
            clients.iter_mut().for_each(|c| {
                c.poll();
            });
        }
        stop.store(true, Ordering::Relaxed);
        let last = writer.join().expect("the writer ends").to_string();
        for c in &mut clients {
            c.until("the newest value", |c| c.log.iter().any(|s| matches!(s, Seen::Got(g) if g.text() == last)));
            let seen: Vec<u64> = c.take().iter().map(|g| g.text().parse().unwrap()).collect();
            let unordered = seen.windows(2).filter(|w| w[1] < w[0]).count();
            assert!(unordered == 0, "level {level}: a value came after a newer one: {seen:?}");
        }
        clients.into_iter().for_each(Client::cut);
        node.check();
        node.core.close().expect("a clean stop");
    }
}

#[test]
fn one_that_expires_is_removed_though_nobody_asks_and_stays_removed() {
    let node = Node::new();
    let mut p = Client::transient(&node, "p");
    for n in 0..10 {
        p.publish_msg(msg(&format!("r/{n}"), "x", 1).retained().expires(if n < 7 { 30 } else { 300 }));
    }
    // Replaced by one that lives longer: the first one's time says nothing of it.
    p.publish_msg(msg("r/0", "y", 1).retained());
    assert_eq!(node.core.retained("/"), 10);
    node.pass_secs(29);
    assert_eq!(node.core.retained("/"), 10);
    node.pass_secs(3);
    assert_eq!(node.core.retained("/"), 4);
    drop(p);
    let node = node.restart();
    assert_eq!(node.core.retained("/"), 4);
    node.pass_secs(300);
    assert_eq!(node.core.retained("/"), 1, "also those that came back from the log");
    let mut c = Client::attach(&node, "c");
    c.subscribe("r/#", 1);
    assert_eq!(bodies(&c.take()), ["y"]);
}
