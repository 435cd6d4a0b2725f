//! Sessions: resumed, forgotten, expired.

use crate::support::*;
use broker_api::*;
use journal::sim::Crash;

#[test]
fn a_session_keeps_subscriptions_and_messages() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    assert!(!c.present);
    c.subscribe("a", 1);
    c.cut();
    Client::transient(&node, "p").publish("a", "1", 1).publish("a", "2", 2);
    let mut c = Client::attach(&node, "c");
    assert!(c.present);
    assert_eq!(bodies(&c.drain()), ["1", "2"]);
    c.cut();
    assert!(Client::attach(&node, "c").take().is_empty(), "settled is never sent again");
}

#[test]
fn clean_forgets_all_of_it() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1).put(5, "five");
    c.cut();
    let mut p = Client::transient(&node, "p");
    p.publish("a", "1", 1);
    let mut c = Client::named(&node, "c").clean().go();
    assert!(!c.present && c.state.is_empty() && c.take().is_empty());
    p.publish("a", "2", 1);
    assert!(c.take().is_empty(), "its subscriptions went as well");
    drop((c, p));
    let node = node.restart();
    let c = Client::attach(&node, "c");
    assert!(c.present && c.state.is_empty());
    assert_eq!(node.depth("c"), 0);
}

#[test]
fn a_transient_session_dies_with_its_connection() {
    let node = Node::new();
    let mut c = Client::transient(&node, "c");
    c.subscribe("a", 1);
    c.cut();
    assert!(!node.has_session("c"));
    let c = Client::transient(&node, "c");
    assert!(!c.present);
    drop(c);
    // Killed with the broker, too.
    let mut c = Client::transient(&node, "d");
    c.subscribe("a", 1);
    let node = node.restart();
    assert!(!node.has_session("d"));
    drop(c);
}

#[test]
fn a_session_expires_after_its_time_and_not_before() {
    let node = Node::new();
    let mut c = Client::named(&node, "c").expiry(100).go();
    c.subscribe("a", 1);
    node.pass_secs(1000);
    assert!(node.has_session("c"), "the time starts when the connection ends");
    c.cut();
    node.pass_secs(99);
    assert!(node.has_session("c"));
    node.pass_secs(2);
    assert!(!node.has_session("c"));
    assert!(!Client::attach(&node, "c").present);
}

#[test]
fn a_session_that_comes_back_does_not_expire() {
    let node = Node::new();
    Client::named(&node, "c").expiry(100).go().cut();
    node.pass_secs(50);
    let c = Client::named(&node, "c").expiry(100).go();
    assert!(c.present);
    node.pass_secs(200);
    assert!(node.has_session("c"));
    c.cut();
    node.pass_secs(99);
    assert!(node.has_session("c"));
    node.pass_secs(2);
    assert!(!node.has_session("c"));
}

#[test]
fn the_last_word_on_expiry_is_the_disconnect() {
    let node = Node::new();
    Client::named(&node, "c").expiry(1000).go().end(Some(Expiry::Seconds(10)), PartingFate::Discard);
    node.pass_secs(11);
    assert!(!node.has_session("c"));
    Client::attach(&node, "d").end(Some(Expiry::WithConnection), PartingFate::Discard);
    assert!(!node.has_session("d"));
    Client::attach(&node, "e").end(None, PartingFate::Discard);
    node.pass_secs(1_000_000);
    assert!(node.has_session("e"));
}

#[test]
fn expiry_counts_from_the_logged_disconnect_over_a_restart() {
    let node = Node::new();
    Client::named(&node, "gone").expiry(100).go().cut();
    let on = Client::named(&node, "on").expiry(100).go();
    node.pass_secs(60);
    let node = node.restart();
    drop(on);
    node.pass_secs(39);
    assert!(node.has_session("gone") && node.has_session("on"));
    node.pass_secs(2);
    assert!(!node.has_session("gone"));
    assert!(node.has_session("on"), "a connection that the restart cut counts from then");
    node.pass_secs(60);
    assert!(!node.has_session("on"));
    let node = node.restart();
    assert!(!node.has_session("gone") && !node.has_session("on"));
}

#[test]
fn time_that_passed_while_we_were_down_counts() {
    let node = Node::new();
    Client::named(&node, "c").expiry(100).go().cut();
    node.settle();
    let clock = node.clock();
    node.setup.storage.crash(Crash::Kill);
    clock.pass_ms(200_000);
    let setup = node.setup.clone();
    drop(node);
    let node = setup.start();
    node.settle();
    assert!(!node.has_session("c"));
}

/// What an expired session held lets the log shrink, and its queue is gone for publishers.
#[test]
fn an_expired_session_lets_go_of_its_messages() {
    let node = Node::new();
    let mut c = Client::named(&node, "c").expiry(10).go();
    c.subscribe("a", 1);
    c.cut();
    let mut p = Client::transient(&node, "p");
    for _ in 0..50 {
        p.publish("a", vec![1; 500], 1);
    }
    node.checkpoint();
    assert!(node.core.journal_stats().live_references >= 50);
    node.pass_secs(11);
    assert!(!node.has_session("c"));
    assert_eq!(node.core.journal_stats().live_references, 0);
    p.publish_msg(msg("a", "x", 1).mandatory());
    assert!(p.log.iter().any(|s| matches!(s, Seen::Returned(..))));
    drop(p);
    let node = node.restart();
    assert!(!node.has_session("c"));
    assert_eq!(node.core.journal_stats().live_references, 0);
}

#[test]
fn many_restarts_change_nothing() {
    let mut node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a/#", 2).put(1, "one");
    c.cut();
    for n in 0..6 {
        Client::transient(&node, "p").publish(&format!("a/{n}"), n.to_string(), 1);
        if n % 2 == 0 {
            node.checkpoint();
        }
        node = node.restart();
        assert_eq!(node.depth("c"), n + 1);
    }
    let mut c = Client::attach(&node, "c");
    assert_eq!(keys(&c.state), [1]);
    assert_eq!(bodies(&c.drain()), ["0", "1", "2", "3", "4", "5"]);
    node.check();
}

#[test]
fn a_session_s_queue_is_not_a_queue_for_others() {
    let node = Node::new();
    let mut c = Client::attach(&node, "mine");
    c.subscribe("a", 1);
    c.publish("a", "secret", 1);
    c.cut();
    node.checkpoint();
    let node = node.restart();
    let mut spy = Client::connect(&node);
    spy.control(Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    let token = spy.control(Control::Consume(Consume {
        consumer: CONSUMER,
        owner: OWNER,
        group: None,
        queue: "mine".into(),
        credit: 10,
        mode: Mode::Settled,
        exclusive: false,
        alone: false,
        priority: 0,
        selector: None,
    }));
    assert!(matches!(spy.reply(token), Err(Refusal::NotFound { .. })));
}

#[test]
fn commands_of_an_owner_that_is_not_there_are_refused() {
    let node = Node::new();
    let mut c = Client::connect(&node);
    let filter = Filter { pattern: "a".into(), separator: b'/' };
    let token = c.control(Control::Unsubscribe { owner: OWNER, filter, share: None });
    assert_eq!(c.reply(token), Err(Refusal::OwnerEnded));
}

#[test]
fn too_many_sessions_are_refused() {
    let mut setup = Setup::new();
    setup.config.sessions_max = 2;
    let node = setup.start();
    let (_a, _b) = (Client::attach(&node, "a"), Client::attach(&node, "b"));
    let mut c = Client::named(&node, "c").send();
    c.until("a refusal", |c| c.log.iter().any(|s| matches!(s, Seen::Reply(_, Err(Refusal::LimitReached(Limit::Sessions))))));
}
