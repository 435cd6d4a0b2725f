//! What a session may rely on (broker-api's guarantees, by number).

use crate::support::*;
use broker_api::*;

/// Place of the first event that is like this.
fn place(client: &Client, like: impl Fn(&Seen) -> bool) -> usize {
    client.log.iter().position(like).unwrap_or_else(|| panic!("not heard: {:?}", client.log))
}

#[test]
fn deliveries_of_one_queue_keep_its_order() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("#", 1);
    let mut p = Client::transient(&node, "p");
    for n in 0..500 {
        p.send(&[msg(if n % 3 == 0 { "a" } else { "b/c" }, n.to_string(), 1)]);
    }
    let got = c.drain();
    assert_eq!(bodies(&got), (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(got.windows(2).all(|w| w[0].seq < w[1].seq));
}

#[test]
fn a_subscription_is_answered_before_what_it_brings() {
    let node = Node::new();
    Client::transient(&node, "p").publish_msg(msg("r", "old", 1).retained());
    let mut c = Client::attach(&node, "c");
    let filter = Filter { pattern: "r".into(), separator: b'/' };
    let token = c.control(Control::Subscribe(Subscribe {
        owner: OWNER,
        filter,
        share: None,
        level: 1,
        identifier: 0,
        no_local: false,
        as_published: false,
        retained: RetainedOn::Always,
        selector: None,
    }));
    c.poll();
    let reply = place(&c, |s| matches!(s, Seen::Reply(t, Ok(_)) if *t == token));
    assert!(reply < place(&c, |s| matches!(s, Seen::Got(_))));
}

#[test]
fn an_attached_session_hears_the_answer_before_its_backlog() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    c.cut();
    Client::transient(&node, "p").publish("a", "kept", 1);
    let mut c = Client::named(&node, "c").send();
    c.turn(|turn, _| turn.credit(CreditTo::Group(GROUP), 10));
    c.poll();
    let reply = place(&c, |s| matches!(s, Seen::Reply(_, Ok(Reply::Attached(_)))));
    assert!(reply < place(&c, |s| matches!(s, Seen::Got(_))));
}

#[test]
fn nothing_comes_after_the_answer_to_cancel() {
    let node = Node::new();
    let mut c = Client::connect(&node);
    c.control(Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    let spec = QueueSpec { durable: true, ..QueueSpec::default() };
    c.control(Control::Declare(Declare::Queue { owner: OWNER, name: "q".into(), spec, passive: false }));
    let bind = Bind {
        owner: OwnerIx(1),
        source: "amq.topic".into(),
        destination: Destination::Queue("q".into()),
        key: "a".into(),
        arguments: Vec::new(),
        format: 0,
    };
    c.control(Control::Bind(bind));
    c.control(Control::Consume(Consume {
        consumer: ConsumerIx(7),
        owner: OWNER,
        group: None,
        queue: "q".into(),
        credit: 100,
        mode: Mode::Lease,
        exclusive: false,
        alone: false,
        priority: 0,
        selector: None,
    }));
    let mut p = Client::transient(&node, "p");
    p.publish("a", "1", 1);
    assert_eq!(bodies(&c.take()), ["1"]);
    let token = c.control(Control::Cancel { consumer: ConsumerIx(7) });
    p.publish("a", "2", 1);
    c.reply(token).expect("cancelled");
    assert!(c.take().is_empty());
    node.check();
}

#[test]
fn done_is_a_watermark_behind_the_commit_and_behind_what_was_refused() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    let mut p = Client::transient(&node, "p");
    let last = p.send(&[msg("a", "1", 1), msg("bad/+/topic", "x", 1), msg("nobody", "x", 1).mandatory(), msg("a", "2", 1)]);
    p.hear_one();
    assert_eq!(p.done(), 0, "nothing is committed yet");
    p.confirmed(last);
    let done = place(&p, |s| matches!(s, Seen::Done(n) if *n >= 2));
    assert!(place(&p, |s| matches!(s, Seen::Refused(2, 2, Refusal::Invalid { .. }))) < done);
    assert!(place(&p, |s| matches!(s, Seen::Returned(3, 1))) < done);
    assert_eq!(bodies(&c.take()), ["1", "2"]);
}

#[test]
fn a_fence_covers_settlements_before_it_and_waits_for_the_disk() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    Client::transient(&node, "p").publish("a", "1", 1);
    let got = c.take();
    c.turn(|turn, _| {
        turn.settle(Settle {
            queue: got[0].queue,
            first: got[0].seq.unwrap(),
            count: 1,
            owner: OWNER,
            state: 0,
            outcome: Outcome::Accepted,
        });
        turn.fence();
    });
    c.hear();
    assert_eq!(c.done(), 0);
    let serial = c.serial;
    c.confirmed(serial);
}

#[test]
fn a_fence_with_nothing_before_it_is_done_at_once() {
    let node = Node::new();
    let mut c = Client::transient(&node, "c");
    c.turn(|turn, _| turn.fence());
    c.hear();
    assert_eq!(c.done(), c.serial);
}

/// An acknowledgement sent before a publish whose confirm has come is durable, whatever stands between them in the turn.
#[test]
fn a_confirm_covers_the_settlement_before_a_command_in_its_turn() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    c.publish("a", "1", 1);
    let got = c.take();
    let now = c.session.now_ms();
    c.turn(|turn, token| {
        turn.settle(Settle {
            queue: got[0].queue,
            first: got[0].seq.unwrap(),
            count: 1,
            owner: OWNER,
            state: 0,
            outcome: Outcome::Accepted,
        });
        turn.control(
            Token(token),
            Control::Unsubscribe { owner: OWNER, filter: Filter { pattern: "none".into(), separator: b'/' }, share: None },
        );
        msg("elsewhere", "2", 1).put(turn, now);
    });
    // Step by step: whenever the confirm is there, so is the settlement.
    let steps = node.steps.clone().unwrap();
    while c.done() < c.serial {
        steps.commit();
        c.hear();
    }
    drop(c);
    let node = node.crash(journal::sim::Crash::PowerCut);
    assert_eq!(node.depth("c"), 0);
}

#[test]
fn replies_come_in_the_order_of_their_commands_and_when_they_are_durable() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    let mut tokens = Vec::new();
    for n in 0..5 {
        let filter = Filter { pattern: format!("t/{n}").into(), separator: b'/' };
        let subscribe = Subscribe {
            owner: OWNER,
            filter,
            share: None,
            level: 1,
            identifier: 0,
            no_local: false,
            as_published: false,
            retained: RetainedOn::Always,
            selector: None,
        };
        tokens.push(c.control(Control::Subscribe(subscribe)));
    }
    let spec = QueueSpec { durable: true, ..QueueSpec::default() };
    tokens.push(c.control(Control::Declare(Declare::Queue { owner: OWNER, name: "q".into(), spec, passive: false })));
    tokens.push(c.control(Control::DeleteQueue { owner: OWNER, name: "q".into(), if_unused: false, if_empty: false }));
    tokens.push(c.control(Control::Unsubscribe { owner: OWNER, filter: Filter { pattern: "t/0".into(), separator: b'/' }, share: None }));
    let before = c.log.len();
    c.hear();
    assert_eq!(c.log.len(), before, "nothing is committed, so nothing is answered");
    c.poll();
    let replies: Vec<u32> = c.log[before..].iter().filter_map(|s| if let Seen::Reply(t, Ok(_)) = s { Some(*t) } else { None }).collect();
    assert_eq!(replies, tokens);
}

#[test]
fn superseded_is_the_last_event_of_its_owner() {
    let node = Node::new();
    let mut old = Client::attach(&node, "c");
    old.subscribe("#", 1);
    let mut new = Client::named(&node, "c").send();
    Client::transient(&node, "p").publish("a", "1", 1).publish("a", "0", 0);
    old.poll();
    assert!(matches!(old.log.last(), Some(Seen::Signal(s)) if s.starts_with("Superseded")), "{:?}", old.log.last());
    old.cut();
    new.attached();
    new.credit(10);
    assert_eq!(bodies(&new.take()), ["1"]);
}

#[test]
fn a_turn_after_the_end_changes_nothing() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    c.session.disconnect();
    c.session.disconnect();
    c.send(&[msg("a", "late", 1)]);
    node.settle();
    assert_eq!(node.depth("c"), 0);
    assert_eq!(node.core.connections(), 0);
}
