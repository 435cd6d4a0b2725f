//! Dead-lettering as moves, delivery limits, and what a crash between may and may not do.

use super::*;
use broker_api::{DeathReason, DELIVERY_REDELIVERED};

fn dead_letters_to(exchange: &str) -> QueueSpec {
    QueueSpec { dead_letter_exchange: Some(exchange.into()), ..durable() }
}

fn declared(rig: &Rig, client: &mut Client) -> (QueueId, QueueId) {
    let dead = client.queue(rig, "dead", durable());
    let source = client.queue(rig, "source", QueueSpec { dead_letter_key: Some("dead".into()), ..dead_letters_to("") });
    (source, dead)
}

#[test]
fn a_rejected_message_moves_with_its_history() {
    let rig = Rig::new();
    let mut c = rig.client();
    let (source, _) = declared(&rig, &mut c);
    c.publish(&rig, "", "source", "m");
    let records = rig.core.journal_stats().live_references;
    let (seq, _, _) = c.take(&rig, "source").expect("a message");
    c.settle(&rig, source, seq, Outcome::Rejected);
    assert_eq!((c.counts(&rig, "source"), c.counts(&rig, "dead")), (Some((0, 0)), Some((1, 0))));
    // Handed over by position: no second body, no second reference.
    assert_eq!(rig.core.journal_stats().live_references, records);
    rig.core.recount().expect("counters are right");
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    let (_, body, said) = c.take(&rig, "dead").expect("it is there after the crash");
    assert_eq!((body.as_str(), said.exchange.as_str(), said.key.as_str()), ("m", "", "dead"));
    let moved = said.moved.expect("its history");
    assert_eq!(moved.first, ("source".into(), DeathReason::Rejected, "".into()));
    let [death] = &moved.deaths[..] else { panic!("{moved:?}") };
    assert_eq!((&*death.queue, death.reason, death.count, &*death.key), ("source", DeathReason::Rejected, 1, &b"source"[..]));
    assert!(c.take(&rig, "source").is_none());
    rig.core.recount().expect("counters are right");
}

/// What the warning in the log hangs on, which is said once for a queue.
#[test]
fn a_missing_dead_letter_exchange_is_told_of_once_until_it_was_there() {
    let rig = Rig::new();
    let mut c = rig.client();
    let source = c.queue(&rig, "source", dead_letters_to("missing"));
    let dies = |c: &mut Client, lacks: bool| {
        c.publish(&rig, "", "source", "m");
        let (seq, _, _) = c.take(&rig, "source").expect("a message");
        c.settle(&rig, source, seq, Outcome::Rejected);
        let queue = rig.core.0.queue(source).expect("it is there");
        assert_eq!(queue.life.lacks_exchange.load(std::sync::atomic::Ordering::Relaxed), lacks);
    };
    dies(&mut c, true);
    dies(&mut c, true);
    let spec = ExchangeSpec { kind: "fanout".into(), ..ExchangeSpec::default() };
    c.ok(&rig, Control::Declare(Declare::Exchange { owner: OwnerIx(1), name: ExchangeName::new("missing"), spec, passive: false }));
    dies(&mut c, false);
    rig.core.recount().expect("counters are right");
}

#[test]
fn history_is_counted_by_queue_and_reason() {
    let rig = Rig::new();
    let mut c = rig.client();
    let dead = c.queue(&rig, "dead", QueueSpec { dead_letter_key: Some("source".into()), ..dead_letters_to("") });
    let source = c.queue(&rig, "source", QueueSpec { dead_letter_key: Some("dead".into()), ..dead_letters_to("") });
    c.publish(&rig, "", "source", "m");
    for _ in 0..3 {
        for (name, id) in [("source", source), ("dead", dead)] {
            let (seq, _, _) = c.take(&rig, name).expect("it goes round");
            c.settle(&rig, id, seq, Outcome::Rejected);
        }
    }
    let (_, _, said) = c.take(&rig, "source").expect("rejected on the way: no cycle");
    let deaths = said.moved.expect("history").deaths;
    let counted: Vec<_> = deaths.iter().map(|d| (&*d.queue, d.count)).collect();
    assert_eq!(counted, [("dead", 3), ("source", 3)]);
}

#[test]
fn what_expires_leaves_at_its_time_and_a_circle_of_expiries_ends() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "dead", durable());
    let ttl = QueueSpec { message_ttl_ms: Some(2_000), dead_letter_key: Some("dead".into()), ..dead_letters_to("") };
    c.queue(&rig, "ttl", ttl);
    let to_itself = QueueSpec { message_ttl_ms: Some(2_000), dead_letter_key: Some("circle".into()), ..dead_letters_to("") };
    c.queue(&rig, "circle", to_itself);
    c.publish(&rig, "", "ttl", "m");
    c.publish(&rig, "", "circle", "m");
    rig.storage.clock().pass_ms(1_000);
    c.pull(&rig);
    assert_eq!((c.counts(&rig, "ttl"), c.counts(&rig, "dead")), (Some((1, 0)), Some((0, 0))));
    // Nobody consumes and nobody publishes: time alone does it.
    for _ in 0..4 {
        rig.storage.clock().pass_ms(1_000);
        c.pull(&rig);
    }
    assert_eq!((c.counts(&rig, "ttl"), c.counts(&rig, "dead")), (Some((0, 0)), Some((1, 0))));
    assert_eq!(c.counts(&rig, "circle"), Some((0, 0)));
    let (_, _, said) = c.take(&rig, "dead").expect("a message");
    assert_eq!(said.moved.expect("history").deaths[0].reason, DeathReason::Expired);
    rig.core.recount().expect("counters are right");
}

/// References are written at each checkpoint and nothing of them stays in memory.
#[test]
fn what_expires_leaves_from_a_page_that_is_never_kept() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "dead", durable());
    c.queue(&rig, "ttl", QueueSpec { message_ttl_ms: Some(2_000), dead_letter_key: Some("dead".into()), ..dead_letters_to("") });
    c.queue(&rig, "other", durable());
    c.publish(&rig, "", "ttl", "m");
    for _ in 0..40 {
        c.publish(&rig, "", "other", "something to write");
        rig.checkpoint();
        rig.storage.clock().pass_ms(100);
        c.pull(&rig);
    }
    assert_eq!((c.counts(&rig, "ttl"), c.counts(&rig, "dead")), (Some((0, 0)), Some((1, 0))));
}

#[test]
fn expiry_goes_on_after_a_restart() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "dead", durable());
    c.queue(&rig, "ttl", QueueSpec { message_ttl_ms: Some(5_000), dead_letter_key: Some("dead".into()), ..dead_letters_to("") });
    c.publish(&rig, "", "ttl", "m");
    rig.checkpoint();
    let rig = rig.crash(Crash::Kill);
    let mut c = rig.client();
    for _ in 0..8 {
        rig.storage.clock().pass_ms(2_000);
        c.pull(&rig);
    }
    assert_eq!((c.counts(&rig, "ttl"), c.counts(&rig, "dead")), (Some((0, 0)), Some((1, 0))));
}

#[test]
fn a_full_queue_sends_its_oldest_on_or_refuses_the_newest() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "dead", durable());
    c.queue(&rig, "short", QueueSpec { max_length: Some(2), dead_letter_key: Some("dead".into()), ..dead_letters_to("") });
    c.queue(&rig, "strict", QueueSpec { max_length: Some(1), reject_at_bound: true, ..durable() });
    let refuser = QueueSpec { max_length: Some(1), reject_at_bound: true, dead_letter_refused: true, ..dead_letters_to("") };
    c.queue(&rig, "refuser", QueueSpec { dead_letter_key: Some("dead".into()), ..refuser });
    for body in ["1", "2", "3"] {
        c.publish(&rig, "", "short", body);
    }
    assert_eq!((c.counts(&rig, "short"), c.counts(&rig, "dead")), (Some((2, 0)), Some((1, 0))));
    let (_, body, said) = c.take(&rig, "dead").expect("the oldest");
    assert_eq!((body.as_str(), said.moved.expect("history").deaths[0].reason), ("1", DeathReason::MaxLength));
    assert!(matches!(c.publish(&rig, "", "strict", "1")[..], [Got::Done(_)]));
    let got = c.publish(&rig, "", "strict", "2");
    assert!(matches!(got[..], [Got::Refused(5, Refusal::QueueFull), Got::Done(5)]), "{got:?}");
    c.publish(&rig, "", "refuser", "1");
    let got = c.publish(&rig, "", "refuser", "2");
    assert!(matches!(got[..], [Got::Refused(7, Refusal::QueueFull), Got::Done(7)]), "{got:?}");
    let (_, body, _) = c.take(&rig, "dead").expect("what was refused");
    assert_eq!(body, "2");
    rig.core.recount().expect("counters are right");
}

#[test]
fn attempts_survive_only_by_their_record_and_the_limit_ends_them() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "dead", durable());
    let spec = QueueSpec { delivery_limit: Some(2), dead_letter_key: Some("dead".into()), ..dead_letters_to("") };
    let queue = c.queue(&rig, "q", spec);
    c.publish(&rig, "", "q", "m");
    let (seq, _, said) = c.take(&rig, "q").expect("first");
    assert_eq!((said.attempts, said.flags & DELIVERY_REDELIVERED), (0, 0));
    c.settle(&rig, queue, seq, Outcome::Modified);
    let (seq, _, said) = c.take(&rig, "q").expect("second");
    assert_eq!((said.attempts, said.flags & DELIVERY_REDELIVERED), (1, DELIVERY_REDELIVERED));
    c.settle(&rig, queue, seq, Outcome::Released);
    c.take(&rig, "q").expect("third, and held at the crash");
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    for attempts in [1, 2] {
        let (seq, _, said) = c.take(&rig, "q").expect("the crash counted nothing");
        assert_eq!(said.attempts, attempts);
        c.settle(&rig, queue, seq, Outcome::Modified);
        if attempts == 1 {
            rig.checkpoint();
        }
    }
    assert!(c.take(&rig, "q").is_none());
    let (_, _, said) = c.take(&rig, "dead").expect("past the limit");
    assert_eq!(said.moved.expect("history").deaths[0].reason, DeathReason::DeliveryLimit);
}

#[test]
fn several_targets_and_transient_ones_get_copies() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "one", durable());
    c.queue(&rig, "two", durable());
    c.queue(&rig, "three", QueueSpec::default());
    for queue in ["one", "two", "three"] {
        c.bind(&rig, "amq.fanout", queue, "");
    }
    let source = c.queue(&rig, "source", dead_letters_to("amq.fanout"));
    c.publish(&rig, "", "source", "m");
    let (seq, _, _) = c.take(&rig, "source").expect("a message");
    c.settle(&rig, source, seq, Outcome::Rejected);
    for queue in ["one", "two", "three"] {
        assert_eq!(c.counts(&rig, queue), Some((1, 0)), "{queue}");
    }
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    for (queue, left) in [("one", 1), ("two", 1), ("source", 0)] {
        assert_eq!(c.counts(&rig, queue), Some((left, 0)), "{queue}");
    }
    let (_, _, said) = c.take(&rig, "one").expect("a copy");
    assert_eq!((said.exchange.as_str(), said.key.as_str()), ("amq.fanout", "source"));
}

#[test]
fn of_several_targets_one_that_is_a_circle_leaves_the_others_whole() {
    let rig = Rig::new();
    let mut c = rig.client();
    let circle = QueueSpec { message_ttl_ms: Some(1_000), ..dead_letters_to("amq.fanout") };
    c.queue(&rig, "a circle", circle);
    c.queue(&rig, "one", durable());
    c.queue(&rig, "two", durable());
    for queue in ["a circle", "one", "two"] {
        c.bind(&rig, "amq.fanout", queue, "");
    }
    c.publish(&rig, "", "a circle", "m");
    for _ in 0..3 {
        rig.storage.clock().pass_ms(1_000);
        c.pull(&rig);
    }
    let there = |c: &mut Client, rig: &Rig| ["a circle", "one", "two"].map(|queue| c.counts(rig, queue));
    assert_eq!(there(&mut c, &rig), [Some((0, 0)), Some((1, 0)), Some((1, 0))]);
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!(there(&mut c, &rig), [Some((0, 0)), Some((1, 0)), Some((1, 0))]);
    assert_eq!(rig.core.journal_stats().live_references, 2);
    for queue in ["one", "two"] {
        assert_eq!(c.take(&rig, queue).expect("a copy").1, "m", "{queue}");
    }
    rig.core.recount().expect("counters are right");
}

/// The disk fails at each operation of the scene in turn; after the power cut the message is in exactly one of the two queues.
#[test]
fn no_crash_loses_or_doubles_a_message_that_moves() {
    let (mut before, mut after) = (0, 0);
    for fail_at in 0..40 {
        for checkpoint in [false, true] {
            let rig = Rig::new();
            let mut c = rig.client();
            let (source, _) = declared(&rig, &mut c);
            c.publish(&rig, "", "source", "m");
            if checkpoint {
                rig.checkpoint();
            }
            let (seq, _, _) = c.take(&rig, "source").expect("a message");
            rig.storage.crash_after(fail_at);
            c.settle(&rig, source, seq, Outcome::Rejected);
            if checkpoint {
                rig.storage.clock().pass_ms(60_000);
                for _ in 0..32 {
                    let _ = (rig.steps.maintain(), rig.steps.commit());
                }
            }
            drop(c);
            rig.storage.crash_after(u64::MAX);
            let rig = rig.crash(Crash::PowerCut);
            let mut c = rig.client();
            let found = (c.counts(&rig, "source").map(|c| c.0), c.counts(&rig, "dead").map(|c| c.0));
            match found {
                (Some(1), Some(0)) => before += 1,
                (Some(0), Some(1)) => after += 1,
                other => panic!("crash at operation {fail_at}, checkpoint {checkpoint}: {other:?}"),
            }
            let body = c.take(&rig, if found.0 == Some(1) { "source" } else { "dead" }).expect("it can be read").1;
            assert_eq!(body, "m");
            assert_eq!(rig.core.journal_stats().live_references, 1, "crash at {fail_at}");
            rig.core.recount().expect("counters are right");
        }
    }
    assert!(before > 0 && after > 0, "the crashes hit both sides: {before} before, {after} after");
}

/// The source ends after the move, and a checkpoint has forgotten it: redo must not let go of what moved on.
#[test]
fn a_move_outlives_its_source() {
    for checkpoints in [[false, false], [true, false], [false, true], [true, true]] {
        let rig = Rig::new();
        let mut c = rig.client();
        let (source, _) = declared(&rig, &mut c);
        c.publish(&rig, "", "source", "m");
        if checkpoints[0] {
            rig.checkpoint();
        }
        let (seq, _, _) = c.take(&rig, "source").expect("a message");
        c.settle(&rig, source, seq, Outcome::Rejected);
        c.ok(&rig, Control::DeleteQueue { owner: OwnerIx(1), name: "source".into(), if_unused: false, if_empty: false });
        if checkpoints[1] {
            rig.checkpoint();
        }
        let rig = rig.crash(Crash::PowerCut);
        let mut c = rig.client();
        assert_eq!(c.take(&rig, "dead").map(|m| m.1).as_deref(), Some("m"), "checkpoints {checkpoints:?}");
        assert_eq!(rig.core.journal_stats().live_references, 1, "checkpoints {checkpoints:?}");
    }
}

fn at_least_once(exchange: &str) -> QueueSpec {
    let spec = QueueSpec { max_length: Some(3), reject_at_bound: true, dead_letter_at_least_once: Some(true), ..dead_letters_to(exchange) };
    QueueSpec { dead_letter_key: Some("dead".into()), ..spec }
}

fn pass_a_second(rig: &Rig) {
    rig.storage.clock().pass_ms(1_100);
    rig.settle();
}

#[test]
fn at_least_once_a_dead_letter_that_nothing_takes_stays_and_counts() {
    let rig = Rig::new();
    let mut c = rig.client();
    let source = c.queue(&rig, "source", at_least_once(""));
    for body in ["1", "2", "3"] {
        c.publish(&rig, "", "source", body);
        let (seq, _, _) = c.take(&rig, "source").expect("a message");
        c.settle(&rig, source, seq, Outcome::Rejected);
    }
    assert_eq!((c.counts(&rig, "source"), rig.core.journal_stats().live_references), (Some((0, 0)), 3));
    let got = c.publish(&rig, "", "source", "4");
    assert!(matches!(got[..], [Got::Refused(_, Refusal::QueueFull), Got::Done(_)]), "what waits counts: {got:?}");
    rig.core.recount().expect("counters are right");
    pass_a_second(&rig);
    assert_eq!(rig.core.journal_stats().live_references, 3);
    // A crash makes them ready again, and they can be rejected again.
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    let left: Vec<_> = std::iter::from_fn(|| c.take(&rig, "source")).collect();
    assert_eq!(left.iter().map(|m| m.1.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    left.iter().for_each(|m| c.settle(&rig, source, m.0, Outcome::Rejected));
    c.queue(&rig, "dead", durable());
    pass_a_second(&rig);
    let dead: Vec<_> = std::iter::from_fn(|| c.take(&rig, "dead")).collect();
    assert_eq!(dead.iter().map(|m| m.1.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert_eq!(dead[0].2.moved.as_ref().expect("history").deaths[0].count, 1);
    assert!(matches!(c.publish(&rig, "", "source", "5")[..], [Got::Done(_)]), "there is room again");
    rig.core.recount().expect("counters are right");
}

#[test]
fn at_least_once_a_full_queue_is_tried_again() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "dead", QueueSpec { max_length: Some(1), reject_at_bound: true, ..durable() });
    c.queue(&rig, "roomy", durable());
    for (exchange, bound) in [("", 1), ("amq.fanout", 2)] {
        if bound == 2 {
            c.bind(&rig, "amq.fanout", "dead", "");
            c.bind(&rig, "amq.fanout", "roomy", "");
        }
        let name = format!("source{bound}");
        let source = c.queue(&rig, &name, at_least_once(exchange));
        for body in ["1", "2", "3"] {
            c.publish(&rig, "", &name, body);
        }
        while let Some((seq, _, _)) = c.take(&rig, &name) {
            c.settle(&rig, source, seq, Outcome::Rejected);
        }
        for body in ["1", "2", "3"] {
            let (seq, found, _) = c.take(&rig, "dead").expect("room for one");
            assert_eq!(found, body);
            let dead = c.queue(&rig, "dead", QueueSpec { max_length: Some(1), reject_at_bound: true, ..durable() });
            c.settle(&rig, dead, seq, Outcome::Accepted);
            pass_a_second(&rig);
            rig.core.recount().expect("counters are right");
        }
        assert!(c.take(&rig, "dead").is_none());
    }
    let roomy: Vec<_> = std::iter::from_fn(|| c.take(&rig, "roomy").map(|m| m.1)).collect();
    assert_eq!(roomy, ["1", "2", "3"]);
}

#[test]
fn at_least_once_needs_a_bound_that_refuses_and_may_come_by_policy() {
    let rig = Rig::new();
    let mut c = rig.client();
    let drops = c.queue(&rig, "drops", QueueSpec { reject_at_bound: false, ..at_least_once("nowhere") });
    let keeps = c.queue(&rig, "keeps", QueueSpec { counts_attempts: true, ..durable() });
    let setting = |key: &str, value: &str| (key.to_owned(), crate::PolicyValue::Text(value.to_owned()));
    let policy = crate::Policy {
        name: "p".into(),
        pattern: "keeps".into(),
        apply_to: crate::ApplyTo::Queues,
        priority: 0,
        definition: [
            setting("dead-letter-exchange", "nowhere"),
            setting("dead-letter-strategy", "at-least-once"),
            setting("overflow", "reject-publish"),
        ]
        .into(),
    };
    assert!(rig.core.set_policy("/", crate::PolicyKind::User, policy, Box::new(|| {})).expect("a policy"));
    rig.settle();
    for (name, id, left) in [("drops", drops, 0), ("keeps", keeps, 1)] {
        c.publish(&rig, "", name, "m");
        let (seq, _, _) = c.take(&rig, name).expect("a message");
        c.settle(&rig, id, seq, Outcome::Rejected);
        assert_eq!(rig.core.journal_stats().live_references, left, "{name}");
    }
    // Its queue takes it along.
    c.ok(&rig, Control::DeleteQueue { owner: OwnerIx(1), name: "keeps".into(), if_unused: false, if_empty: false });
    pass_a_second(&rig);
    assert_eq!(rig.core.journal_stats().live_references, 0);
}
