//! What is given back waits longer each time, where a policy asks for that.

use super::*;
use crate::{ApplyTo, Policy, PolicyKind, PolicyValue};
use broker_api::DELIVERY_REDELIVERED;

/// A second, two, and three at most.
const LONGER: [(&str, i64); 3] = [("redelivery-delay", 1_000), ("redelivery-delay-multiplier", 2), ("redelivery-delay-max", 3_000)];

fn back_off(rig: &Rig, settings: &[(&str, i64)]) {
    let definition = settings.iter().map(|(key, ms)| ((*key).to_owned(), PolicyValue::Int(*ms))).collect();
    let policy = Policy { name: "p".to_owned(), pattern: "^q".to_owned(), apply_to: ApplyTo::All, priority: 0, definition };
    assert!(rig.core.set_policy("/", PolicyKind::User, policy, Box::new(|| {})).expect("a policy"));
    rig.settle();
}

fn pass(rig: &Rig, ms: u64) {
    rig.storage.clock().pass_ms(ms);
    rig.settle();
    rig.core.recount().expect("counted");
}

fn fail(c: &mut Client, rig: &Rig, q: QueueId, seq: Seq) {
    c.settle(rig, q, seq, Outcome::Modified);
    rig.core.recount().expect("counted");
}

#[test]
fn each_attempt_waits_longer_and_others_pass_by() {
    let rig = Rig::new();
    let mut c = rig.client();
    back_off(&rig, &LONGER);
    for (name, counts_attempts) in [("q classic", false), ("q quorum", true)] {
        let q = c.queue(&rig, name, QueueSpec { counts_attempts, ..durable() });
        c.publish(&rig, "", name, "bad");
        c.publish(&rig, "", name, "good");
        for wait in [1_000, 2_000, 3_000, 3_000] {
            let (seq, body, _) = c.take(&rig, name).expect("a message");
            assert_eq!(body, "bad");
            fail(&mut c, &rig, q, seq);
            let (other, body, _) = c.take(&rig, name).expect("the next one");
            assert_eq!(body, "good");
            c.settle(&rig, q, other, Outcome::Released);
            pass(&rig, wait - 1);
            assert_eq!(c.counts(&rig, name), Some((1, 0)), "{name} after {wait}");
            pass(&rig, 1);
            assert_eq!(c.counts(&rig, name), Some((2, 0)), "{name} after {wait}");
        }
        let (_, _, said) = c.take(&rig, name).expect("a message");
        assert_eq!((said.attempts, said.flags & DELIVERY_REDELIVERED), (4, DELIVERY_REDELIVERED));
        assert_eq!(said.flags & crate::queue::INSIDE, 0);
    }
}

#[test]
fn a_consumer_that_is_there_gets_it_when_its_time_has_come() {
    let rig = Rig::new();
    let mut c = rig.client();
    back_off(&rig, &[("redelivery-delay", 500), ("redelivery-limit", 2)]);
    let q = c.queue(&rig, "q", durable());
    c.consume(&rig, "q", 1, 10);
    c.put("", "q", "one");
    c.submit(&rig);
    for _ in 0..2 {
        let got = handed(&mut c, &rig);
        assert_eq!(bodies_to(&got, 1), ["one"]);
        fail(&mut c, &rig, q, got[0].2);
        assert_eq!(handed(&mut c, &rig), []);
        pass(&rig, 500);
    }
    // The limit holds as well.
    let got = handed(&mut c, &rig);
    fail(&mut c, &rig, q, got[0].2);
    pass(&rig, 5_000);
    assert_eq!(handed(&mut c, &rig), []);
    assert_eq!(c.counts(&rig, "q"), Some((0, 1)));
}

#[test]
fn a_restart_makes_no_message_come_early_and_forgets_no_attempt() {
    for checkpoint in [false, true] {
        let rig = Rig::new();
        let mut c = rig.client();
        back_off(&rig, &LONGER);
        let q = c.queue(&rig, "q", durable());
        c.publish(&rig, "", "q", "one");
        for _ in 0..2 {
            let (seq, ..) = c.take(&rig, "q").expect("a message");
            fail(&mut c, &rig, q, seq);
            if checkpoint {
                rig.checkpoint();
            }
            pass(&rig, 2_000);
        }
        let (seq, ..) = c.take(&rig, "q").expect("a message");
        fail(&mut c, &rig, q, seq);
        let rig = rig.crash(Crash::PowerCut);
        let mut c = rig.client();
        assert_eq!(c.counts(&rig, "q"), Some((1, 0)));
        assert_eq!(c.take(&rig, "q"), None);
        pass(&rig, 2_999);
        assert_eq!(c.take(&rig, "q"), None);
        pass(&rig, 1);
        let (_, body, said) = c.take(&rig, "q").expect("a message");
        assert_eq!((body.as_str(), said.attempts), ("one", 3));
        rig.core.recount().expect("counted");
    }
}

#[test]
fn what_rests_counts_for_the_bound_and_goes_with_its_queue() {
    let rig = Rig::new();
    let mut c = rig.client();
    back_off(&rig, &LONGER);
    let q = c.queue(&rig, "q", QueueSpec { max_length: Some(2), reject_at_bound: true, ..durable() });
    c.publish(&rig, "", "q", "one");
    let (seq, ..) = c.take(&rig, "q").expect("a message");
    fail(&mut c, &rig, q, seq);
    c.publish(&rig, "", "q", "two");
    let refused = |got: Vec<Got>| got.iter().any(|got| matches!(got, Got::Refused(..)));
    assert!(refused(c.publish_with(&rig, "", "q", "three", |head, _| head.flags |= broker_api::HEAD_CONFIRM)));
    c.ok(&rig, Control::DeleteQueue { owner: OwnerIx(1), name: "q".into(), if_unused: false, if_empty: false });
    pass(&rig, 60_000);
    rig.core.audit().expect("nothing is left");
}
