//! The state map that a session keeps for its protocol: edits in one record with what they belong to, leases that it pins.

use crate::support::*;
use broker_api::*;
use journal::sim::Crash;

#[test]
fn edits_survive_and_are_removed() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.put(1, "one").put(2, "two").put(2, "zwei");
    c.turn(|turn, _| turn.state(edit(1, None, None)));
    c.fence();
    c.cut();
    for checkpoint in [false, true] {
        if checkpoint {
            node.checkpoint();
        }
        let mut c = Client::attach(&node, "c");
        assert_eq!(c.state, [(2, StateValue::from_slice(b"zwei"))]);
        c.poll();
        c.cut();
    }
    let node = node.restart();
    assert_eq!(keys(&Client::attach(&node, "c").state), [2]);
}

/// Cut before and after each commit, the id is there exactly if the message is: with a subscriber, and with none.
#[test]
fn an_edit_is_in_the_record_of_its_publish() {
    for subscribed in [true, false] {
        for commits in 0..3 {
            let node = Node::new();
            let mut w = Client::attach(&node, "w");
            if subscribed {
                w.subscribe("a", 2);
            }
            let mut c = Client::attach(&node, "c");
            c.send(&[msg("a", "x", 2).with(edit(7, Some("id"), None))]);
            let steps = node.steps.clone().unwrap();
            (0..commits).for_each(|_| {
                steps.commit();
            });
            c.hear();
            let confirmed = c.done() == c.serial;
            drop((w, c));
            let node = node.crash(Crash::PowerCut);
            let known = keys(&Client::attach(&node, "c").state) == [7];
            assert!(known || !confirmed);
            if subscribed {
                assert_eq!(node.depth("w"), u64::from(known));
            }
        }
    }
}

#[test]
fn an_edit_is_in_the_record_of_its_settlement() {
    for commits in 0..3 {
        let node = Node::new();
        let mut c = Client::attach(&node, "c");
        c.subscribe("a", 2);
        c.publish("a", "x", 2);
        let got = c.take();
        let lease = (got[0].queue, got[0].seq.unwrap());
        c.turn(|turn, _| turn.state(edit(7, Some("sent"), Some(lease))));
        c.fence();
        c.turn(|turn, _| {
            let state = turn.keep_state(edit(7, Some("released"), None));
            turn.settle(Settle { queue: lease.0, first: lease.1, count: 1, owner: OWNER, state, outcome: Outcome::Accepted });
        });
        let steps = node.steps.clone().unwrap();
        (0..commits).for_each(|_| {
            steps.commit();
        });
        drop(c);
        let node = node.crash(Crash::PowerCut);
        let mut c = Client::attach(&node, "c");
        let released = c.state[0].1.as_slice() == b"released";
        assert_eq!(released, commits > 0);
        assert_eq!(c.take().len(), usize::from(!released));
        node.check();
    }
}

/// A checkpoint between any two steps holds nothing that the log does not.
#[test]
fn a_checkpoint_in_between_does_not_tear_them_apart() {
    for at in 0..4 {
        let node = Node::new();
        let mut c = Client::attach(&node, "c");
        c.subscribe("a", 2);
        c.send(&[msg("a", "x", 2).with(edit(7, Some("id"), None))]);
        let steps = node.steps.clone().unwrap();
        for step in 0..4 {
            if step == at {
                steps.maintain();
            }
            if step == 2 {
                steps.commit();
            }
        }
        steps.maintain();
        drop(c);
        let node = node.crash(Crash::PowerCut);
        let known = keys(&Client::attach(&node, "c").state) == [7];
        assert_eq!(node.depth("c"), u64::from(known));
        node.check();
    }
}

#[test]
fn pinned_leases_come_first_and_flagged_after_every_kind_of_return() {
    for restart in [false, true] {
        for checkpoint in [false, true] {
            let node = Node::new();
            let mut c = Client::named(&node, "c").credit(4).go();
            c.subscribe("a", 2);
            let mut p = Client::transient(&node, "p");
            (0..6).for_each(|n| {
                p.publish("a", n.to_string(), 2);
            });
            let got = c.take();
            assert_eq!(got.len(), 4);
            for n in [1, 3] {
                let lease = (got[n].queue, got[n].seq.unwrap());
                c.turn(|turn, _| turn.state(edit(n as u64, Some("sent"), Some(lease))));
            }
            c.fence();
            c.cut();
            drop(p);
            if checkpoint {
                node.checkpoint();
            }
            let node = if restart { node.restart() } else { node };
            let mut c = Client::named(&node, "c").credit(0).go();
            let first = c.take();
            assert_eq!(bodies(&first), ["1", "3"], "restart {restart}, checkpoint {checkpoint}");
            assert!(first.iter().all(|g| g.has(DELIVERY_RESUMED)));
            c.credit(10);
            let rest = c.take();
            assert_eq!(bodies(&rest), ["0", "2", "4", "5"]);
            assert!(rest.iter().all(|g| !g.has(DELIVERY_RESUMED)));
            c.ack(&first);
            c.ack(&rest);
            assert_eq!(node.depth("c"), 0);
            node.check();
        }
    }
}

#[test]
fn a_lease_whose_key_is_gone_is_ordinary_again() {
    let node = Node::new();
    let mut c = Client::attach(&node, "c");
    c.subscribe("a", 2);
    c.publish("a", "x", 2);
    let got = c.take();
    let lease = (got[0].queue, got[0].seq.unwrap());
    c.turn(|turn, _| turn.state(edit(7, Some("sent"), Some(lease))));
    c.turn(|turn, _| turn.state(edit(7, None, None)));
    c.fence();
    c.cut();
    let node = node.restart();
    let got = Client::attach(&node, "c").drain();
    assert!(got.len() == 1 && !got[0].has(DELIVERY_RESUMED));
}
