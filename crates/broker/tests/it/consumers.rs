//! Who is served: one active consumer, priorities, exclusive consumers; and what is told of a delivery that may be a repeat.

use super::named::*;
use super::support::*;
use broker_api::*;
use journal::sim::Crash;

fn single() -> QueueSpec {
    QueueSpec { single_active_consumer: true, ..durable() }
}

fn count(got: &[Got], ix: u32) -> usize {
    got.iter().filter(|g| g.to.0 == ix).count()
}

#[test]
fn one_consumer_gets_everything_until_it_is_cancelled() {
    let node = Node::new();
    let (mut a, mut b, mut p) = (local(&node), local(&node), local(&node));
    p.declare("q", single());
    a.consume(consume("q", 1, 100));
    b.consume(consume("q", 2, 100)).consume(Consume { priority: 5, ..consume("q", 3, 100) });
    assert_eq!(a.signals(), ["Active { consumer: ConsumerIx(1) }"]);
    assert!(b.signals().is_empty(), "whoever comes later waits, at whatever priority");
    p.put_all("q", 0..10);
    assert_eq!((count(&a.take(), 1), b.take().len()), (10, 0));
    a.cancel(1);
    assert_eq!(b.poll().signals(), ["Active { consumer: ConsumerIx(3) }"], "then the highest priority");
    p.put_all("q", 10..20);
    let got = b.take();
    assert_eq!((got.len(), count(&got, 3)), (10, 10));
    b.cancel(3);
    assert_eq!(b.signals().last().map(String::as_str), Some("Active { consumer: ConsumerIx(2) }"));
    assert!(a.take().is_empty());
    node.check();
}

#[test]
fn what_the_active_one_held_goes_to_its_successor_in_order() {
    let node = Node::new();
    let (mut a, mut b, mut p) = (local(&node), local(&node), local(&node));
    p.declare("q", single());
    a.consume(consume("q", 1, 5));
    b.consume(consume("q", 2, 100));
    p.put_all("q", 0..10);
    let got = a.take();
    assert_eq!(bodies(&got), ["0", "1", "2", "3", "4"]);
    assert!(b.take().is_empty(), "one without credit is still the one");
    a.ack(&got[..2]);
    a.cut();
    assert_eq!(bodies(&b.take()), ["2", "3", "4", "5", "6", "7", "8", "9"]);
    node.check();
}

#[test]
fn a_lower_priority_is_served_only_when_no_higher_one_has_credit() {
    let node = Node::new();
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("q", durable());
    for (ix, priority, credit) in [(1, 0, 100), (2, 10, 3), (3, 10, 3), (4, -5, 100)] {
        c.consume(Consume { priority, ..consume("q", ix, credit) });
    }
    p.put_all("q", 0..20);
    let got = c.take();
    assert_eq!((1..=4).map(|ix| count(&got, ix)).collect::<Vec<_>>(), [14, 3, 3, 0]);
    assert!(got[..6].iter().all(|g| g.to.0 != 1), "the higher ones first: {:?}", by_consumer(&got));
    c.add_credit(2, 1);
    p.put_all("q", 20..22);
    assert_eq!(by_consumer(&c.take()), [(2, "20".into()), (1, "21".into())]);
}

#[test]
fn equals_take_turns() {
    let node = Node::new();
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("q", durable());
    for ix in 1..=3 {
        c.consume(Consume { priority: 7, ..consume("q", ix, 100) });
    }
    c.consume(consume("q", 4, 100));
    for n in 0..30 {
        p.put_all("q", [n]);
    }
    let got = c.take();
    assert_eq!((1..=4).map(|ix| count(&got, ix)).collect::<Vec<_>>(), [10, 10, 10, 0]);
}

#[test]
fn the_smallest_priority_of_all_is_a_priority() {
    let node = Node::new();
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("q", durable());
    c.consume(Consume { priority: i32::MIN, ..consume("q", 1, 9) }).consume(Consume { priority: i32::MAX, ..consume("q", 2, 1) });
    p.put_all("q", 0..2);
    assert_eq!(by_consumer(&c.take()), [(2, "0".into()), (1, "1".into())]);
}

#[test]
fn an_exclusive_consumer_is_alone_or_refused() {
    let node = Node::new();
    let (mut a, mut b) = (local(&node), local(&node));
    a.declare("q", durable()).declare("one", single());
    let exclusive = |ix| Consume { exclusive: true, ..consume("q", ix, 1) };
    a.consume(exclusive(1));
    for refused in [consume("q", 2, 1), exclusive(3)] {
        assert!(matches!(b.try_consume(refused), Err(Refusal::AccessRefused(_))));
    }
    a.cancel(1);
    b.consume(consume("q", 4, 1));
    assert!(matches!(a.try_consume(exclusive(5)), Err(Refusal::AccessRefused(_))), "somebody is there");
    let both = Consume { exclusive: true, ..consume("one", 6, 1) };
    assert!(matches!(a.try_consume(both), Err(Refusal::AccessRefused(_))), "one active consumer and an exclusive one");
}

fn redelivered(got: &[Got]) -> Vec<bool> {
    got.iter().map(|g| g.has(DELIVERY_REDELIVERED)).collect()
}

#[test]
fn a_second_crash_does_not_forget_what_may_have_been_delivered() {
    let node = Node::new();
    let mut s = Client::attach(&node, "s");
    s.subscribe("a", 1);
    let mut p = Client::transient(&node, "p");
    p.publish("a", "1", 1).publish("a", "2", 1);
    assert_eq!(s.take().len(), 2);
    // Once without and once with a checkpoint of the first reign after the crash.
    for checkpoint in [false, true] {
        let node = node.clone().restart();
        if checkpoint {
            let mut p = Client::transient(&node, "p");
            p.publish("elsewhere", "x", 1);
            node.clock().pass_ms(60_000);
            node.checkpoint();
        }
        let node = node.restart();
        let mut p = Client::transient(&node, "p");
        p.publish("a", "3", 1);
        let mut s = Client::attach(&node, "s");
        assert_eq!(redelivered(&s.take()), [true, true, false], "checkpoint: {checkpoint}");
        // So that it was attached when the next crash comes, and the same is there.
        if !checkpoint {
            let got = s.poll().log.iter().filter_map(|l| if let Seen::Got(g) = l { Some(g.clone()) } else { None }).collect::<Vec<_>>();
            s.ack(&got[2..]).fence();
        }
    }
}

#[test]
fn what_came_back_from_a_consumer_is_redelivered_after_a_crash_and_the_rest_is_not() {
    let node = Node::new();
    let mut s = Client::named(&node, "s").credit(2).go();
    s.subscribe("a", 1);
    let mut p = Client::transient(&node, "p");
    for n in 0..4 {
        p.publish("a", n.to_string(), 1);
    }
    assert_eq!(s.take().len(), 2);
    s.cut();
    let node = node.restart();
    let mut s = Client::attach(&node, "s");
    assert_eq!(redelivered(&s.take()), [true, true, false, false]);
}

#[test]
fn after_a_crash_a_named_queue_says_that_it_may_repeat_and_after_a_clean_stop_only_what_was_handed_out() {
    for clean in [false, true] {
        let node = Node::new();
        let (mut c, mut p) = (local(&node), local(&node));
        p.declare("q", durable()).put_all("q", 0..3);
        c.consume(consume("q", 1, 1));
        assert_eq!(c.take().len(), 1);
        c.cut();
        p.cut();
        let node = if clean {
            node.settle();
            node.core.close().expect("closes");
            let setup = node.setup.clone();
            drop(node);
            setup.start()
        } else {
            node.restart()
        };
        let mut c = local(&node);
        c.consume(consume("q", 1, 9));
        assert_eq!(redelivered(&c.take()), if clean { [true, false, false] } else { [true; 3] }, "clean: {clean}");
    }
}

#[test]
fn messages_in_flight_that_only_the_log_has_come_again_first_and_in_order() {
    let node = Node::new();
    let mut s = Client::named(&node, "s").credit(4).go();
    s.subscribe("a", 1);
    let mut p = Client::transient(&node, "p");
    for n in 0..8 {
        p.publish("a", n.to_string(), 1);
    }
    let got = s.take();
    let queue = s.queue;
    s.turn(|turn, _| {
        for (n, g) in got.iter().enumerate() {
            turn.state(edit(n as u64, Some("x"), Some((queue, g.seq.expect("kept")))));
        }
    });
    s.fence();
    let node = node.crash(Crash::PowerCut);
    let mut s = Client::attach(&node, "s");
    let again = s.take();
    assert_eq!(bodies(&again), (0..8).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(again[..4].iter().all(|g| g.has(DELIVERY_RESUMED)) && again[4..].iter().all(|g| !g.has(DELIVERY_RESUMED)));
    node.check();
}
