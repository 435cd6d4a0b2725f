//! Parting messages, in every case of the MQTT specification (3.1.2.5, and features §1.6.1).

use crate::support::*;
use broker_api::*;

fn watch(node: &Node) -> Client {
    let mut w = Client::attach(node, "watch");
    w.subscribe("will", 1);
    w
}

fn will() -> Msg {
    msg("will", "gone", 1)
}

#[test]
fn a_lost_connection_fires_it_and_a_good_bye_does_not() {
    let node = Node::new();
    let mut w = watch(&node);
    Client::named(&node, "c").will(will(), 0).go().cut();
    assert_eq!(bodies(&w.drain()), ["gone"]);
    Client::named(&node, "c").will(will(), 0).go().bye();
    assert!(w.drain().is_empty());
    Client::named(&node, "c").will(will(), 0).go().end(None, PartingFate::Fire);
    assert_eq!(w.drain().len(), 1, "disconnect with will");
}

#[test]
fn it_fires_for_transient_sessions_at_once_whatever_its_delay() {
    let node = Node::new();
    let mut w = watch(&node);
    Client::named(&node, "c").transient().will(will(), 30).go().cut();
    assert_eq!(w.drain().len(), 1);
    node.pass_secs(100);
    assert!(w.drain().is_empty(), "once");
}

#[test]
fn a_delay_gives_the_client_time_to_come_back() {
    let node = Node::new();
    let mut w = watch(&node);
    Client::named(&node, "c").will(will(), 30).go().cut();
    node.pass_secs(29);
    assert!(w.drain().is_empty());
    let c = Client::attach(&node, "c");
    node.pass_secs(100);
    assert!(w.drain().is_empty(), "it came back");
    c.cut();
    node.pass_secs(100);
    assert!(w.drain().is_empty(), "the new connection has no will");
    Client::named(&node, "c").will(will(), 30).go().cut();
    node.pass_secs(31);
    assert_eq!(w.drain().len(), 1);
    node.pass_secs(100);
    assert!(w.drain().is_empty());
}

#[test]
fn the_end_of_the_session_cuts_the_delay_short() {
    let node = Node::new();
    let mut w = watch(&node);
    Client::named(&node, "c").expiry(10).will(will(), 30).go().cut();
    node.pass_secs(9);
    assert!(w.drain().is_empty());
    node.pass_secs(2);
    assert_eq!(w.drain().len(), 1);
    assert!(!node.has_session("c"));
    // A clean start ends the session, too.
    Client::named(&node, "c").will(will(), 30).go().cut();
    let c = Client::named(&node, "c").clean().go();
    assert_eq!(w.drain().len(), 1);
    drop(c);
}

#[test]
fn take_over_fires_it_when_nothing_gives_it_time() {
    let cases =
        [(0, Expiry::Never, false, 1), (30, Expiry::Never, false, 0), (30, Expiry::WithConnection, false, 1), (30, Expiry::Never, true, 1)];
    for (delay, expiry, clean, fired) in cases {
        let node = Node::new();
        let mut w = watch(&node);
        let old = Client::named(&node, "c").will(will(), delay);
        let old = if expiry == Expiry::WithConnection { old.transient() } else { old };
        let mut old = old.go();
        let new = Client::named(&node, "c");
        let mut new = if clean { new.clean() } else { new }.send();
        old.poll();
        assert!(old.heard("Superseded"));
        old.cut();
        new.attached();
        node.pass_secs(100);
        assert_eq!(w.drain().len(), fired, "delay {delay}, {expiry:?}, clean {clean}");
        new.cut();
        node.pass_secs(100);
        assert!(w.drain().is_empty(), "the new connection has none");
    }
}

#[test]
fn it_is_an_ordinary_message() {
    let node = Node::new();
    Client::named(&node, "c").will(msg("will", "kept", 1).retained(), 0).go().cut();
    let mut late = Client::attach(&node, "late");
    late.subscribe("will", 1);
    let got = late.drain();
    assert!(got[0].has(DELIVERY_RETAINED) && got[0].text() == "kept");
    // Its expiry counts from when it fires.
    let mut w = Client::named(&node, "watch").credit(0).go();
    w.subscribe_as("will", 1, |s| s.retained = RetainedOn::Never);
    Client::named(&node, "c").will(will().expires(50), 30).go().cut();
    node.pass_secs(31);
    node.pass_secs(40);
    w.credit(1);
    assert_eq!(w.drain().len(), 1, "70 s after the disconnect, 40 s after it fired");
}

#[test]
fn after_a_restart_the_client_has_a_grace() {
    for durable in [true, false] {
        let node = Node::new();
        watch(&node).cut();
        let c = Client::named(&node, "c");
        let c = if durable { c } else { c.transient() };
        let c = c.will(will(), 0).go();
        let node = node.restart();
        drop(c);
        let mut w = watch(&node);
        node.pass_secs(4);
        assert!(w.drain().is_empty(), "durable {durable}: too early");
        node.pass_secs(2);
        assert_eq!(w.drain().len(), 1, "durable {durable}");
        w.cut();
        let node = node.restart();
        let mut w = watch(&node);
        node.pass_secs(100);
        assert!(w.drain().is_empty(), "durable {durable}: fired twice");
    }
}

#[test]
fn coming_back_within_the_grace_cancels_it() {
    let node = Node::new();
    watch(&node).cut();
    let c = Client::named(&node, "c").will(will(), 0).go();
    let node = node.restart();
    drop(c);
    let mut w = watch(&node);
    node.pass_secs(2);
    let _c = Client::attach(&node, "c");
    node.pass_secs(100);
    assert!(w.drain().is_empty());
}

#[test]
fn a_delay_that_was_running_goes_on_after_a_restart() {
    let node = Node::new();
    watch(&node).cut();
    Client::named(&node, "c").will(will(), 60).go().cut();
    node.pass_secs(40);
    node.checkpoint();
    let node = node.restart();
    let mut w = watch(&node);
    node.pass_secs(15);
    assert!(w.drain().is_empty());
    node.pass_secs(10);
    assert_eq!(w.drain().len(), 1);
}

#[test]
fn a_discarded_one_stays_discarded_over_a_restart() {
    let node = Node::new();
    watch(&node).cut();
    Client::named(&node, "c").will(will(), 60).go().bye();
    let node = node.restart();
    let mut w = watch(&node);
    node.pass_secs(1000);
    assert!(w.drain().is_empty());
}
