//! A second connection takes a session: last words, at once or late, two at a time and three.

use crate::support::*;
use broker_api::*;

fn superseded(c: &Client) -> bool {
    c.heard("Superseded")
}

#[test]
fn the_new_connection_waits_for_the_last_words_of_the_old() {
    let node = Node::new();
    let mut old = Client::attach(&node, "c");
    old.subscribe("a", 1);
    Client::transient(&node, "p").publish("a", "1", 1);
    let got = old.take();
    let mut new = Client::named(&node, "c").send();
    new.poll();
    old.poll();
    assert!(superseded(&old));
    assert!(!new.log.iter().any(|s| matches!(s, Seen::Reply(_, Ok(Reply::Attached(_))))), "not before the last words");
    let words = edit(17, Some("in flight"), Some((got[0].queue, got[0].seq.unwrap())));
    old.turn(|turn, _| turn.state(words));
    old.cut();
    let attached = new.attached();
    assert!(attached.present);
    assert_eq!(keys(&attached.state), [17]);
    let again = new.take();
    assert!(again[0].has(DELIVERY_RESUMED) && again[0].seq == got[0].seq);
}

#[test]
fn after_a_second_it_waits_no_longer() {
    let node = Node::new();
    let mut old = Client::attach(&node, "c");
    old.subscribe("a", 1);
    let mut new = Client::named(&node, "c").send();
    new.poll();
    node.pass_secs(2);
    assert!(new.attached().present);
    new.credit(10);
    // Too late: nothing from the old one counts any more.
    old.turn(|turn, _| turn.state(edit(17, Some("late"), None)));
    old.cut();
    Client::transient(&node, "p").publish("a", "1", 1);
    assert_eq!(bodies(&new.take()), ["1"]);
    new.cut();
    assert!(Client::attach(&node, "c").state.is_empty());
}

#[test]
fn settlements_of_the_old_connection_change_nothing() {
    let node = Node::new();
    let mut old = Client::attach(&node, "c");
    old.subscribe("a", 1);
    Client::transient(&node, "p").publish("a", "1", 1);
    let got = old.take();
    let mut new = Client::named(&node, "c").send();
    old.ack(&got);
    old.cut();
    new.attached();
    new.credit(10);
    assert_eq!(bodies(&new.drain()), ["1"]);
    node.check();
}

#[test]
fn a_publish_of_the_old_connection_with_an_edit_is_in_both_or_in_none() {
    let node = Node::new();
    let mut watch = Client::attach(&node, "watch");
    watch.subscribe("a", 2);
    let mut old = Client::attach(&node, "c");
    let mut new = Client::named(&node, "c").send();
    new.poll();
    old.send(&[msg("a", "once", 2).with(edit(9, Some("id"), None))]);
    node.pass_secs(2);
    let attached = new.attached();
    let known = keys(&attached.state) == [9];
    let came = watch.take().len();
    assert_eq!(came, usize::from(known), "published {came} times, and its id is known: {known}");
    // After that it is too late for both.
    old.send(&[msg("a", "late", 2).with(edit(10, Some("id"), None))]);
    old.poll();
    assert!(watch.take().is_empty());
}

#[test]
fn two_at_once() {
    let node = Node::new();
    let mut a = Client::attach(&node, "c");
    a.subscribe("t", 1);
    let mut b = Client::named(&node, "c").send();
    a.poll();
    assert!(superseded(&a));
    a.cut();
    assert!(b.attached().present);
    let mut c = Client::named(&node, "c").send();
    b.poll();
    assert!(superseded(&b));
    b.cut();
    assert!(c.attached().present);
    c.credit(10);
    Client::transient(&node, "p").publish("t", "1", 1);
    assert_eq!(bodies(&c.take()), ["1"]);
    node.check();
}

#[test]
fn a_third_supersedes_the_second_that_still_waits() {
    let node = Node::new();
    let mut a = Client::attach(&node, "c");
    a.subscribe("t", 1);
    Client::transient(&node, "p").publish("t", "1", 1);
    let got = a.take();
    let mut b = Client::named(&node, "c").send();
    let mut c = Client::named(&node, "c").send();
    b.poll();
    assert!(superseded(&b), "{:?}", b.log);
    a.poll();
    let words = edit(3, Some("words"), Some((got[0].queue, got[0].seq.unwrap())));
    a.turn(|turn, _| turn.state(words));
    a.cut();
    b.cut();
    let attached = c.attached();
    assert_eq!(keys(&attached.state), [3], "the last words of the first reach the third");
    c.credit(10);
    assert_eq!(bodies(&c.take()), ["1"]);
    assert!(node.has_session("c"));
    node.check();
}

#[test]
fn the_second_goes_away_while_it_waits() {
    let node = Node::new();
    let a = Client::named(&node, "c").expiry(100).go();
    let b = Client::named(&node, "c").expiry(100).send();
    b.cut();
    a.cut();
    assert!(node.has_session("c"));
    node.pass_secs(5);
    assert!(Client::attach(&node, "c").present);
    node.check();
}

#[test]
fn a_clean_newcomer_waits_for_nobody() {
    let node = Node::new();
    let mut old = Client::attach(&node, "c");
    old.subscribe("a", 1).put(1, "x");
    let mut new = Client::named(&node, "c").clean().send();
    let attached = new.attached();
    assert!(!attached.present && attached.state.is_empty());
    old.poll();
    assert!(superseded(&old));
    old.turn(|turn, _| turn.state(edit(2, Some("late"), None)));
    old.cut();
    assert!(node.has_session("c"), "the end of the old one is not the end of the new");
    new.cut();
    assert!(Client::attach(&node, "c").state.is_empty());
}

#[test]
fn a_transient_session_is_taken_over_by_ending_it() {
    let node = Node::new();
    let mut old = Client::transient(&node, "c");
    old.subscribe("a", 1);
    let mut new = Client::named(&node, "c").send();
    assert!(!new.attached().present);
    old.poll();
    assert!(superseded(&old));
}

/// With threads: many connections fight for one session; the last one has it, and it works.
#[test]
fn a_storm_of_take_overs() {
    let node = Setup::new().threads().start();
    let mut first = Client::attach(&node, "c");
    first.subscribe("t", 1);
    let fighters: Vec<_> = (0..4)
        .map(|_| {
            let node = node.clone();
            std::thread::spawn(move || {
                for _ in 0..25 {
                    let mut c = Client::named(&node, "c").send();
                    let end = |c: &Client| superseded(c) || c.log.iter().any(|s| matches!(s, Seen::Reply(_, Ok(Reply::Attached(_)))));
                    c.until("an answer", end);
                    c.cut();
                }
            })
        })
        .collect();
    fighters.into_iter().for_each(|f| f.join().expect("a fighter ends"));
    first.cut();
    let mut c = Client::attach(&node, "c");
    assert!(c.present);
    Client::transient(&node, "p").publish("t", "1", 1);
    assert_eq!(bodies(&c.take_n(1)), ["1"]);
    c.cut();
    node.check();
    node.core.close().expect("a clean stop");
}
