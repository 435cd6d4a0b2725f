//! Credit, and what becomes of deliveries: settled, released, modified, given back.

use crate::support::*;
use broker_api::*;

fn fill(node: &Node, n: u32) {
    let mut p = Client::transient(node, "p");
    for i in 0..n {
        p.send(&[msg("a", i.to_string(), 1)]);
    }
    p.fence();
}

#[test]
fn nothing_leaves_without_credit_and_only_credit_entries_move_it() {
    let node = Node::new();
    let mut c = Client::named(&node, "c").credit(0).go();
    c.subscribe("a", 1);
    fill(&node, 10);
    assert!(c.take().is_empty());
    c.credit(3);
    let got = c.take();
    assert_eq!(bodies(&got), ["0", "1", "2"]);
    c.ack(&got);
    assert!(c.take().is_empty(), "a settlement gives no credit");
    c.release(&got);
    c.credit(100);
    assert_eq!(c.take().len(), 7);
    node.check();
}

#[test]
fn one_group_bounds_consumers_of_several_queues() {
    let node = Node::new();
    let mut c = Client::named(&node, "c").credit(5).go();
    c.subscribe("a", 1).share("g", "s", 1);
    let mut p = Client::transient(&node, "p");
    for n in 0..10 {
        p.publish("a", n.to_string(), 1).publish("s", n.to_string(), 1);
    }
    let mut all = c.take();
    assert_eq!(all.len(), 5);
    while all.len() < 20 {
        c.credit(1);
        let more = c.take();
        assert_eq!(more.len(), 1, "after {}", all.len());
        all.extend(more);
    }
    for topic in ["a", "s"] {
        let of: Vec<_> = all.iter().filter(|g| g.topic == topic).map(Got::text).collect();
        assert_eq!(of, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

/// A window of k with k in flight at the reconnect admits nothing new: resumed leases spend credit too (SEAM).
#[test]
fn resumed_leases_count_against_the_window() {
    let node = Node::new();
    let mut c = Client::named(&node, "c").credit(3).go();
    c.subscribe("a", 1);
    fill(&node, 10);
    let got = c.take();
    for (n, g) in got.iter().enumerate() {
        c.turn(|turn, _| turn.state(edit(n as u64, Some("sent"), Some((g.queue, g.seq.unwrap())))));
    }
    c.fence();
    c.cut();
    let mut c = Client::named(&node, "c").credit(3).go();
    let again = c.take();
    assert_eq!(bodies(&again), ["0", "1", "2"]);
    c.ack(&again[..1]).credit(1);
    assert_eq!(bodies(&c.take()), ["3"]);
}

#[test]
fn released_and_modified_go_back_to_their_places() {
    let node = Node::new();
    let mut c = Client::named(&node, "c").credit(5).go();
    c.subscribe("a", 1);
    fill(&node, 8);
    let got = c.take();
    c.release(&got[3..4]);
    c.settle_with(&got[1..2], Outcome::Modified);
    c.ack(&got[0..1]);
    c.credit(10);
    let again = c.take();
    assert_eq!(bodies(&again), ["1", "3", "5", "6", "7"], "returned ones first, in their order");
    assert_eq!((again[0].attempts, again[1].attempts), (1, 0));
    assert!(again[0].has(DELIVERY_REDELIVERED) && again[1].has(DELIVERY_REDELIVERED) && !again[2].has(DELIVERY_REDELIVERED));
    c.settle_with(&again[0..1], Outcome::Modified);
    c.credit(1);
    assert_eq!(c.take()[0].attempts, 2);
    node.check();
}

#[test]
fn what_a_lost_connection_had_comes_again_in_the_original_order() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    fill(&node, 700);
    let got = c.take();
    assert_eq!(got.len(), 700);
    let odd: Vec<Got> = got.iter().enumerate().filter(|(n, _)| n % 2 == 1).map(|(_, g)| g.clone()).collect();
    c.ack(&odd);
    c.cut();
    fill(&node, 5);
    let mut c = Client::attach(&node, "c");
    let again = bodies(&c.drain());
    let mut wanted: Vec<String> = (0..700).step_by(2).map(|n| n.to_string()).collect();
    wanted.extend((0..5).map(|n| n.to_string()));
    assert_eq!(again, wanted);
    node.check();
}

#[test]
fn rejected_is_gone() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    fill(&node, 2);
    let got = c.take();
    c.settle_with(&got[..1], Outcome::Rejected);
    c.fence();
    c.cut();
    let node = node.restart();
    assert_eq!(bodies(&Client::attach(&node, "c").drain()), ["1"]);
}

#[test]
fn settling_what_one_does_not_have_is_no_error() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    fill(&node, 3);
    let got = c.take();
    let mut other = Client::attach(&node, "other");
    other.ack(&got);
    c.turn(|turn, _| {
        let first = got[0].seq.unwrap();
        for (queue, count) in [(QueueId(u64::MAX), 1), (got[0].queue, 1_000)] {
            turn.settle(Settle { queue, first, count, owner: OwnerIx(99), state: 0, outcome: Outcome::Accepted });
        }
    });
    c.poll();
    assert_eq!(node.depth("c"), 3);
    // A range wider than what is there settles what is there.
    c.turn(|turn, _| {
        turn.settle(Settle {
            queue: got[0].queue,
            first: got[0].seq.unwrap(),
            count: 500,
            owner: OWNER,
            state: 0,
            outcome: Outcome::Accepted,
        })
    });
    c.fence();
    assert_eq!(node.depth("c"), 0);
    node.check();
}

#[test]
fn a_settlement_of_a_later_copy_of_the_turn_is_idempotent() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    fill(&node, 2);
    let got = c.take();
    c.ack(&got[..1]).ack(&got[..1]).ack(&got[..1]);
    assert_eq!(node.depth("c"), 1);
    node.check();
}

/// A connection that does not write holds its own budget only: the queue keeps the rest and goes on when room comes back.
#[test]
fn a_slow_connection_leaves_messages_in_the_queue() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 1);
    c.hold(true);
    let mut p = Client::transient(&node, "p");
    for n in 0..6000u32 {
        p.send(&[msg("a", [&n.to_le_bytes()[..], &[0; 1020]].concat(), 1)]);
        if n % 200 == 0 {
            p.poll();
            node.maintain();
        }
    }
    let last = p.serial;
    p.confirmed(last);
    c.hold(false);
    let got = c.drain();
    let order: Vec<u32> = got.iter().map(|g| u32::from_le_bytes(g.body[..4].try_into().unwrap())).collect();
    assert_eq!(order, (0..6000).collect::<Vec<_>>());
    node.check();
}
