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

/// Settles what was got and gives the place in the window back, with its bytes.
fn done_with(client: &mut Client, got: &[Got]) {
    client.ack(got);
    let bytes = got.iter().map(|g| g.body.len() as u64).sum();
    client.turn(|turn, _| turn.credit_with_bytes(CreditTo::Group(GROUP), got.len() as u32, bytes));
    client.poll();
}

#[test]
fn a_window_of_bytes_lets_one_message_over_and_no_more() {
    let node = Node::new();
    let mut s = Client::named(&node, "s").window_bytes(10).go();
    s.subscribe("a", 1);
    let mut p = Client::transient(&node, "p");
    for body in ["1234", "5678", "nine-too-many", "x", "y"] {
        p.publish("a", body, 1);
    }
    let first = s.take();
    assert_eq!(bodies(&first), ["1234", "5678", "nine-too-many"], "8 of 10 bytes are under way, so one more goes");
    done_with(&mut s, &first[..2]);
    assert_eq!(bodies(&s.take()), [] as [&str; 0], "13 bytes are under way");
    done_with(&mut s, &first[2..]);
    assert_eq!(bodies(&s.take()), ["x", "y"]);
    node.check();
}

#[test]
fn a_message_larger_than_the_whole_window_goes_alone() {
    let node = Node::new();
    let mut s = Client::named(&node, "s").window_bytes(1).go();
    s.subscribe("a", 1);
    let mut p = Client::transient(&node, "p");
    for n in 0..3 {
        p.publish("a", format!("larger {n}"), 1);
    }
    for n in 0..3 {
        let got = s.take();
        assert_eq!(bodies(&got), [format!("larger {n}")]);
        done_with(&mut s, &got);
    }
}

#[test]
fn a_window_of_bytes_counts_over_all_queues_and_wakes_those_that_met_it_shut() {
    let node = Node::new();
    let mut s = Client::named(&node, "s").window_bytes(4).go();
    s.subscribe("own", 1).share("g", "b", 1).share("g", "c", 1);
    let mut p = Client::transient(&node, "p");
    for n in 0..20 {
        for topic in ["own", "b", "c"] {
            p.publish(topic, format!("{topic}{n}-longer"), 1);
        }
    }
    let mut seen = Vec::new();
    for _ in 0..60 {
        let got = s.take();
        assert_eq!(got.len(), 1, "after {}", seen.len());
        done_with(&mut s, &got);
        seen.extend(bodies(&got));
    }
    assert!(s.take().is_empty());
    for topic in ["own", "b", "c"] {
        let of = seen.iter().filter(|body| body.starts_with(topic)).collect::<Vec<_>>();
        assert_eq!(of, (0..20).map(|n| format!("{topic}{n}-longer")).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
}

#[test]
fn what_is_resumed_counts_in_a_window_of_bytes() {
    let node = Node::new();
    let mut s = Client::named(&node, "s").window_bytes(10).go();
    s.subscribe("a", 1);
    let mut p = Client::transient(&node, "p");
    for body in ["123456789", "abcdefghi", "x"] {
        p.publish("a", body, 1);
    }
    let got = s.take();
    assert_eq!(got.len(), 2);
    let queue = s.queue;
    s.turn(|turn, _| {
        for (n, g) in got.iter().enumerate() {
            turn.state(edit(n as u64, Some("x"), Some((queue, g.seq.expect("kept")))));
        }
    });
    s.fence();
    s.cut();
    let mut s = Client::named(&node, "s").window_bytes(10).go();
    let again = s.take();
    assert_eq!(bodies(&again), ["123456789", "abcdefghi"]);
    done_with(&mut s, &again);
    assert_eq!(bodies(&s.take()), ["x"]);
}
