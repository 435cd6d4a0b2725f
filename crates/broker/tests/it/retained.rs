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

/// `count` retained messages of `size` bytes, `r/0` to `r/{count - 1}`.
fn fill(node: &Node, count: usize, size: usize) {
    let mut p = Client::transient(node, "filler");
    for n in 0..count {
        p.send(&[msg(&format!("r/{n}"), vec![b'x'; size], 1).retained()]);
        if n % 100 == 0 {
            p.poll();
            node.maintain();
        }
    }
    let last = p.serial;
    p.confirmed(last);
}

/// Asks for everything below `r`, without taking what comes of it.
fn ask_for_all(c: &mut Client, level: u8, retained: RetainedOn) {
    c.control(Control::Subscribe(Subscribe {
        owner: OWNER,
        filter: Filter { pattern: "r/#".into(), separator: b'/' },
        share: None,
        level,
        identifier: 0,
        no_local: false,
        as_published: false,
        retained,
        selector: None,
    }));
}

/// Bytes that one swap hands out; they count as written only if `written`.
fn swap_one(c: &mut Client, written: bool) -> Option<usize> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    c.node.settle();
    if c.session.poll_events(&mut cx).is_pending() {
        return None;
    }
    let before = c.log.len();
    c.swap();
    if written {
        c.session.written(usize::MAX);
    }
    let bytes = |seen: &Seen| if let Seen::Got(got) = seen { got.body.len() } else { 0 };
    Some(c.log[before..].iter().map(bytes).sum())
}

fn topics(c: &Client) -> Vec<String> {
    c.log.iter().filter_map(|seen| if let Seen::Got(got) = seen { Some(got.topic.clone()) } else { None }).collect()
}

fn assert_each_once(mut topics: Vec<String>, count: usize) {
    let all = topics.len();
    topics.sort_unstable();
    topics.dedup();
    assert_eq!((topics.len(), all), (count, count), "topics, and messages");
}

/// More than an outbox holds at once: none may be left out, at any level.
#[test]
fn a_large_store_arrives_whole() {
    let node = Node::new();
    fill(&node, 12_000, 1024);
    for level in [0, 1] {
        let mut c = Client::transient(&node, "asker");
        ask_for_all(&mut c, level, RetainedOn::Always);
        c.poll();
        let answer = c.log.iter().position(|seen| matches!(seen, Seen::Reply(_, Ok(Reply::Subscribed { .. }))));
        let first = c.log.iter().position(|seen| matches!(seen, Seen::Got(_)));
        assert!(answer < first, "answer at {answer:?}, first message at {first:?}");
        assert_each_once(topics(&c), 12_000);
    }
}

/// A subscriber that takes nothing is sent a bounded amount, and the rest once it takes what it has.
#[test]
fn what_is_sent_waits_for_the_client_to_take_it() {
    let node = Node::new();
    fill(&node, 4000, 1024);
    let mut c = Client::transient(&node, "asker");
    ask_for_all(&mut c, 0, RetainedOn::Always);
    let mut handed = 0;
    while let Some(bytes) = swap_one(&mut c, false) {
        assert!(bytes <= 512 << 10, "{bytes} bytes in one go");
        handed += bytes;
    }
    assert!((64 << 10..1 << 20).contains(&handed), "{handed} bytes for a client that takes nothing");
    c.session.written(usize::MAX);
    while swap_one(&mut c, true).is_some() {}
    assert_each_once(topics(&c), 4000);
}

/// A session's queue may be smaller than the store: what is retained then comes as the client settles.
#[test]
fn a_small_session_queue_takes_them_one_after_the_other() {
    let node = Setup::new().session_queue(20).start();
    fill(&node, 500, 10);
    let mut c = Client::named(&node, "c").credit(5).go();
    ask_for_all(&mut c, 1, RetainedOn::Always);
    let mut got = Vec::new();
    loop {
        let new = c.poll().take();
        if new.is_empty() {
            break;
        }
        assert!(new.len() <= 5);
        c.ack(&new);
        c.credit(new.len() as u32);
        got.extend(new);
    }
    assert_each_once(got.into_iter().map(|g| g.topic).collect(), 500);
    node.check();
}

#[test]
fn unsubscribing_in_the_middle_ends_it() {
    let node = Node::new();
    fill(&node, 4000, 1024);
    let mut c = Client::transient(&node, "asker");
    ask_for_all(&mut c, 0, RetainedOn::Always);
    for _ in 0..4 {
        swap_one(&mut c, false);
    }
    c.unsubscribe("r/#", None);
    c.poll();
    let some = topics(&c).len();
    assert!((1..3000).contains(&some), "{some}");
    // Asked for again, all of it comes again.
    c.log.clear();
    ask_for_all(&mut c, 0, RetainedOn::IfNew);
    c.poll();
    assert_each_once(topics(&c), 4000);
}

/// The same filter again, with other options, does not stop what the first was promised.
#[test]
fn subscribing_again_in_the_middle_does_not_end_it() {
    let node = Node::new();
    fill(&node, 3000, 1024);
    let mut c = Client::transient(&node, "asker");
    ask_for_all(&mut c, 0, RetainedOn::Always);
    for _ in 0..4 {
        swap_one(&mut c, false);
    }
    ask_for_all(&mut c, 0, RetainedOn::IfNew);
    c.poll();
    assert_each_once(topics(&c), 3000);
}

/// What changes before its turn has come was sent when it changed, and is not sent twice.
#[test]
fn a_change_in_the_middle_is_seen_once() {
    let node = Node::new();
    fill(&node, 3000, 1024);
    let mut c = Client::transient(&node, "asker");
    ask_for_all(&mut c, 0, RetainedOn::Always);
    for _ in 0..4 {
        swap_one(&mut c, false);
    }
    let early = topics(&c);
    let late = (0..3000).map(|n| format!("r/{n}")).find(|topic| !early.contains(topic)).expect("not all have been sent");
    for topic in [&early[0], &late] {
        set(&node, topic, "new", 1);
    }
    c.poll();
    let of = |topic: &str| -> Vec<bool> {
        let is = |seen: &Seen| matches!(seen, Seen::Got(got) if got.topic == topic);
        c.log.iter().filter(|seen| is(seen)).map(|seen| matches!(seen, Seen::Got(got) if got.body == b"new")).collect()
    };
    assert_eq!(of(&early[0]), [false, true]);
    assert_eq!(of(&late), [true]);
    assert_eq!(topics(&c).len(), 3001);
}

/// A session that outlives its connection is sent the rest when it comes back.
#[test]
fn a_lost_connection_in_the_middle_is_made_up_for() {
    let node = Node::new();
    fill(&node, 3000, 100);
    let mut c = Client::named(&node, "c").credit(10).go();
    ask_for_all(&mut c, 1, RetainedOn::Always);
    let mut got = c.poll().take();
    assert_eq!(got.len(), 10);
    c.ack(&got);
    c.poll();
    c.cut();
    let mut c = Client::named(&node, "c").credit(0).go();
    loop {
        c.credit(1000);
        let new = c.poll().take();
        if new.is_empty() {
            break;
        }
        c.ack(&new);
        got.extend(new);
    }
    assert_each_once(got.into_iter().map(|g| g.topic).collect(), 3000);
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
