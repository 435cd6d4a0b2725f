//! Transactions: nothing before the commit point, all of it or nothing after a crash, and nothing left behind.

use super::*;
use broker_api::{Limit, HEAD_MANDATORY};

const OWNER: OwnerIx = OwnerIx(1);

fn commit(tx: u32) -> Control {
    Control::Commit { owner: OWNER, tx: TxIx(tx) }
}

fn rollback(tx: u32) -> Control {
    Control::Rollback { owner: OWNER, tx: TxIx(tx) }
}

fn bodies_of(got: &[Got]) -> Vec<&str> {
    got.iter().filter_map(|g| if let Got::Message { body, .. } = g { Some(body.as_str()) } else { None }).collect()
}

fn replied(got: &[Got], token: u32) -> Option<&Result<Reply, Refusal>> {
    got.iter().find_map(|g| match g {
        Got::Reply(t, reply) if *t == token => Some(reply),
        _ => None,
    })
}

#[test]
fn nothing_shows_before_the_commit_point_and_everything_when_the_answer_is_there() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    let work = c.queue(&rig, "work", durable());
    c.publish(&rig, "", "work", "job");
    let (seq, ..) = c.take(&rig, "work").expect("a job");
    let mut d = rig.client();
    d.consume(&rig, "q", 1, 100);
    c.scope(Some(1));
    c.put("", "q", "a");
    c.put_settle(work, seq, Outcome::Accepted);
    c.put("", "q", "b");
    c.scope(None);
    c.submit(&rig);
    assert!(c.all(&rig).contains(&Got::Done(3)), "it was taken in");
    assert_eq!(d.bodies(&rig), Vec::<String>::new(), "nothing is committed");
    let token = c.put_control(commit(1));
    c.send();
    // The record is not on the disk: neither answered nor seen, by a consumer or by one who asks.
    assert!(replied(&c.look(), token).is_none());
    assert_eq!(bodies_of(&d.look()), Vec::<&str>::new());
    while rig.steps.commit() {}
    let got = c.look();
    assert_eq!(replied(&got, token), Some(&Ok(Reply::Ok)));
    // No other step was taken: the answer itself shows it.
    assert_eq!(bodies_of(&d.look()), ["a", "b"]);
    rig.settle();
    rig.core.recount().expect("counters are right");
    assert_eq!(rig.client().counts(&rig, "work"), Some((0, 0)));
}

#[test]
fn what_is_published_behind_a_commit_does_not_overtake_it() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    let mut d = rig.client();
    d.consume(&rig, "q", 1, 100);
    c.publish(&rig, "", "q", "0");
    assert_eq!(d.bodies(&rig), ["0"]);
    for (tx, body) in [(1, "1"), (2, "2")] {
        c.scope(Some(tx));
        c.put("", "q", body);
        c.scope(None);
        c.put_control(commit(tx));
    }
    c.put("", "q", "3");
    c.send();
    assert_eq!(bodies_of(&d.look()), Vec::<&str>::new());
    assert_eq!(d.bodies(&rig), ["1", "2", "3"]);
    rig.core.recount().expect("counters are right");
}

#[test]
fn it_shows_though_its_connection_is_gone() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.scope(Some(1));
    c.put("", "q", "m");
    c.put_control(commit(1));
    c.send();
    drop(c);
    rig.settle();
    assert_eq!(rig.client().take(&rig, "q").map(|m| m.1).as_deref(), Some("m"));
    rig.core.recount().expect("counters are right");
}

#[test]
fn a_rollback_forgets_publishes_and_leaves_leases_with_their_owner() {
    let rig = Rig::new();
    let mut c = rig.client();
    let q = c.queue(&rig, "q", durable());
    c.publish(&rig, "", "q", "m");
    let (seq, ..) = c.take(&rig, "q").expect("m");
    c.scope(Some(7));
    c.put("", "q", "never");
    c.put_settle(q, seq, Outcome::Accepted);
    c.scope(None);
    c.ok(&rig, Control::Recover { owner: OWNER });
    assert!(c.take(&rig, "q").is_none(), "what an open transaction has settled is not recovered");
    c.ok(&rig, rollback(7));
    // Committing what was rolled back does nothing; the lease can be settled again.
    c.ok(&rig, commit(7));
    assert_eq!(c.counts(&rig, "q"), Some((0, 0)));
    c.settle(&rig, q, seq, Outcome::Released);
    assert_eq!(c.take(&rig, "q").map(|m| m.1).as_deref(), Some("m"));
    rig.core.recount().expect("counters are right");
}

#[test]
fn open_transactions_end_with_their_owner_and_with_their_connection() {
    for by_owner in [true, false] {
        let rig = Rig::new();
        let mut c = rig.client();
        let q = c.queue(&rig, "q", durable());
        c.publish(&rig, "", "q", "m");
        let (seq, ..) = c.take(&rig, "q").expect("m");
        c.scope(Some(1));
        c.put("", "q", "never");
        c.put_settle(q, seq, Outcome::Accepted);
        if by_owner {
            let end = broker_api::EndOwner { owner: OWNER, expiry: None, parting: broker_api::PartingFate::Discard };
            c.put_control(Control::EndOwner(end));
            let token = c.put_control(commit(1));
            c.submit(&rig);
            assert_eq!(replied(&c.all(&rig), token), Some(&Ok(Reply::Ok)), "there is nothing to commit");
        } else {
            c.submit(&rig);
            drop(c);
        }
        let mut d = rig.client();
        assert_eq!(d.take(&rig, "q").map(|m| m.1).as_deref(), Some("m"));
        assert!(d.take(&rig, "q").is_none());
    }
}

#[test]
fn several_are_open_and_a_turn_goes_back_and_forth() {
    let rig = Rig::new();
    let mut c = rig.client();
    let q = c.queue(&rig, "q", durable());
    c.queue(&rig, "out", durable());
    for body in ["1", "2", "3"] {
        c.publish(&rig, "", "q", body);
    }
    let seqs: Vec<Seq> = (0..3).map(|_| c.take(&rig, "q").expect("there").0).collect();
    c.scope(Some(1));
    c.put("", "out", "a1");
    c.scope(Some(2));
    c.put("", "out", "b1");
    c.put_settle(q, seqs[1], Outcome::Accepted);
    c.scope(None);
    c.put("", "out", "now");
    c.put_settle(q, seqs[2], Outcome::Accepted);
    c.scope(Some(1));
    c.put("", "out", "a2");
    c.put_settle(q, seqs[0], Outcome::Accepted);
    c.scope(None);
    c.put_control(rollback(2));
    c.put_control(commit(1));
    c.submit(&rig);
    let rig = {
        drop(c);
        rig.crash(Crash::PowerCut)
    };
    let mut c = rig.client();
    let out: Vec<String> = std::iter::from_fn(|| c.take(&rig, "out").map(|m| m.1)).collect();
    assert_eq!(out, ["now", "a1", "a2"]);
    assert_eq!(c.take(&rig, "q").map(|m| m.1).as_deref(), Some("2"));
    assert!(c.take(&rig, "q").is_none());
}

#[test]
fn returns_and_full_queues_are_told_before_the_answer() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "strict", QueueSpec { max_length: Some(1), reject_at_bound: true, ..durable() });
    c.queue(&rig, "short", QueueSpec { max_length: Some(2), ..durable() });
    c.publish(&rig, "", "short", "old");
    c.scope(Some(1));
    c.put_with("", "nowhere", "r", |head| head.flags |= HEAD_MANDATORY);
    c.put("", "strict", "s1");
    c.put("", "strict", "s2");
    c.put("", "short", "n1");
    c.put("", "short", "n2");
    c.scope(None);
    c.submit(&rig);
    assert!(c.all(&rig).iter().all(|g| matches!(g, Got::Done(_))), "nothing is returned before the commit");
    let token = c.put_control(commit(1));
    c.submit(&rig);
    let got = c.all(&rig);
    assert_eq!(got, [Got::Returned(2), Got::Refused(4, Refusal::QueueFull), Got::Reply(token, Ok(Reply::Ok))]);
    let short: Vec<String> = std::iter::from_fn(|| c.take(&rig, "short").map(|m| m.1)).collect();
    assert_eq!(short, ["n1", "n2"], "the oldest went when the new ones showed");
    rig.core.recount().expect("counters are right");
}

#[test]
fn one_refused_publish_spoils_the_transaction() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.scope(Some(1));
    c.put("", "q", "a");
    c.put("no such exchange", "q", "b");
    c.put("", "q", "c");
    c.scope(None);
    c.submit(&rig);
    let got = c.all(&rig);
    assert!(
        matches!(&got[..], [Got::Refused(2, Refusal::NotFound { .. }), Got::Refused(3, Refusal::NotFound { .. }), Got::Done(3)]),
        "{got:?}"
    );
    assert!(matches!(c.ask(&rig, commit(1)), Err(Refusal::NotFound { .. })));
    assert_eq!(c.counts(&rig, "q"), Some((0, 0)));
    // An exchange that goes after the publish leads nowhere, which is no error.
    c.ok(&rig, exchange("x", ExchangeSpec { kind: "fanout".into(), durable: true, ..ExchangeSpec::default() }));
    c.bind(&rig, "x", "q", "");
    c.scope(Some(2));
    c.put("x", "", "gone");
    c.put("", "q", "kept");
    c.scope(None);
    c.submit(&rig);
    c.ok(&rig, Control::DeleteExchange { owner: OWNER, name: "x".into(), if_unused: false });
    c.ok(&rig, commit(2));
    assert_eq!(c.take(&rig, "q").map(|m| m.1).as_deref(), Some("kept"));
}

#[test]
fn a_fail_stop_owner_is_stopped_by_a_publish_in_a_transaction() {
    let rig = Rig::new();
    let mut c = rig.client_of(true);
    c.queue(&rig, "q", durable());
    c.scope(Some(1));
    c.put("no such exchange", "q", "b");
    c.put("", "q", "c");
    let token = c.put_control(commit(1));
    c.submit(&rig);
    let got = c.all(&rig);
    assert!(matches!(&got[..2], [Got::Refused(1, Refusal::NotFound { .. }), Got::Refused(2, Refusal::OwnerEnded)]), "{got:?}");
    assert_eq!(replied(&got, token), Some(&Err(Refusal::OwnerEnded)));
    assert_eq!(rig.client().counts(&rig, "q"), Some((0, 0)));
}

#[test]
fn a_transaction_past_its_bound_is_refused_and_let_go() {
    let storage = SimStorage::new(7);
    let bounded = Config { transaction_bytes: 4096, ..config() };
    let rig = Rig::with(storage, bounded);
    let mut c = rig.client();
    let q = c.queue(&rig, "q", durable());
    c.scope(Some(1));
    c.put("", "q", "small");
    c.put("", "q", &"x".repeat(5000));
    c.put("", "q", "too late");
    c.scope(Some(2));
    c.put("", "q", "other");
    c.scope(None);
    c.submit(&rig);
    let got = c.all(&rig);
    let limit = || Refusal::LimitReached(Limit::Transaction);
    assert_eq!(got, [Got::Refused(2, limit()), Got::Refused(3, limit()), Got::Done(4)]);
    assert_eq!(c.ask(&rig, commit(1)), Err(limit()));
    c.ok(&rig, commit(2));
    assert_eq!(c.take(&rig, "q").map(|m| m.1).as_deref(), Some("other"));
    // Settlements have no serial: the commit tells.
    c.scope(Some(3));
    (0..200).for_each(|n| c.put_settle(q, Seq::new(0, 1000 + 2 * n), Outcome::Accepted));
    c.scope(None);
    c.submit(&rig);
    assert_eq!(c.ask(&rig, commit(3)), Err(limit()));
}

#[test]
fn what_it_rejects_goes_to_the_dead_letter_exchange_with_it() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "dead", durable());
    c.queue(&rig, "dead too", durable());
    c.bind(&rig, "amq.fanout", "dead", "");
    c.bind(&rig, "amq.fanout", "dead too", "");
    let one = QueueSpec { dead_letter_exchange: Some("".into()), dead_letter_key: Some("dead".into()), ..durable() };
    let one = c.queue(&rig, "one", one);
    let two = c.queue(&rig, "two", QueueSpec { dead_letter_exchange: Some("amq.fanout".into()), ..durable() });
    c.publish(&rig, "", "one", "1");
    c.publish(&rig, "", "two", "2");
    let (first, ..) = c.take(&rig, "one").expect("there");
    let (second, ..) = c.take(&rig, "two").expect("there");
    let mut d = rig.client();
    d.consume(&rig, "dead", 1, 100);
    c.scope(Some(1));
    c.put_settle(one, first, Outcome::Rejected);
    c.put_settle(two, second, Outcome::Rejected);
    c.scope(None);
    c.submit(&rig);
    assert_eq!((d.bodies(&rig).len(), c.counts(&rig, "one")), (0, Some((0, 0))));
    c.put_control(commit(1));
    c.send();
    assert_eq!(bodies_of(&d.look()).len(), 0, "not before the commit point");
    assert_eq!(d.bodies(&rig), ["1", "2"]);
    assert_eq!(c.counts(&rig, "dead too"), Some((1, 0)));
    rig.core.recount().expect("counters are right");
    drop((c, d));
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    for (queue, left) in [("one", 0), ("two", 0), ("dead", 2), ("dead too", 1)] {
        assert_eq!(c.counts(&rig, queue), Some((left, 0)), "{queue}");
    }
    rig.core.recount().expect("counters are right");
}

/// The disk fails at each operation in turn; after the power cut all of the transaction is there, or nothing of it.
#[test]
fn no_crash_tears_a_transaction() {
    let (mut before, mut after) = (0, 0);
    for fail_at in 0..40 {
        for checkpoint in [false, true] {
            let rig = Rig::new();
            let mut c = rig.client();
            for queue in ["a", "b", "dead"] {
                c.queue(&rig, queue, durable());
            }
            let spec = QueueSpec { dead_letter_exchange: Some("".into()), dead_letter_key: Some("dead".into()), ..durable() };
            let work = c.queue(&rig, "work", spec);
            c.publish(&rig, "", "work", "1");
            c.publish(&rig, "", "work", "2");
            let seqs = [c.take(&rig, "work").expect("1").0, c.take(&rig, "work").expect("2").0];
            c.scope(Some(1));
            c.put("", "a", "x");
            c.put_settle(work, seqs[0], Outcome::Accepted);
            c.put("", "b", "y");
            c.put_settle(work, seqs[1], Outcome::Rejected);
            c.put("", "a", "z");
            c.scope(None);
            c.submit(&rig);
            rig.storage.crash_after(fail_at);
            let token = c.put_control(commit(1));
            c.send();
            if checkpoint {
                rig.storage.clock().pass_ms(60_000);
                for _ in 0..32 {
                    let _ = (rig.steps.maintain(), rig.steps.commit());
                }
            }
            let answered = replied(&c.all(&rig), token).is_some_and(Result::is_ok);
            drop(c);
            rig.storage.crash_after(u64::MAX);
            let rig = rig.crash(Crash::PowerCut);
            let mut c = rig.client();
            let found = ["a", "b", "dead", "work"].map(|queue| c.counts(&rig, queue).map_or(0, |c| c.0));
            match found {
                [0, 0, 0, 2] if !answered => before += 1,
                [2, 1, 1, 0] => after += 1,
                other => panic!("crash at operation {fail_at}, checkpoint {checkpoint}, answered {answered}: {other:?}"),
            }
            assert_eq!(rig.core.journal_stats().live_references, found.iter().sum::<u64>(), "crash at {fail_at}");
            rig.core.recount().expect("counters are right");
        }
    }
    assert!(before > 0 && after > 0, "the crashes hit both sides: {before} before, {after} after");
}

/// A checkpoint between the commit's effects in memory and its record on the disk.
#[test]
fn a_checkpoint_holds_no_more_of_it_than_the_log() {
    let rig = Rig::new();
    let mut c = rig.client();
    let q = c.queue(&rig, "q", durable());
    c.publish(&rig, "", "q", "old");
    let (seq, ..) = c.take(&rig, "q").expect("old");
    c.scope(Some(1));
    c.put("", "q", "new");
    c.put_settle(q, seq, Outcome::Accepted);
    c.scope(None);
    c.put_control(commit(1));
    c.send();
    rig.checkpoint();
    drop(c);
    let rig = rig.crash(Crash::Kill);
    let mut c = rig.client();
    assert_eq!(c.take(&rig, "q").map(|m| m.1).as_deref(), Some("new"));
    assert!(c.take(&rig, "q").is_none());
}

#[test]
fn a_large_transaction_and_transient_messages() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.queue(&rig, "memory", QueueSpec::default());
    c.scope(Some(1));
    let big = "b".repeat(200 << 10);
    for n in 0..100 {
        c.put("", "q", &format!("{n}{big}"));
    }
    c.put_with("", "memory", "transient", |head| head.flags = 0);
    c.scope(None);
    c.put_control(commit(1));
    c.submit(&rig);
    assert_eq!((c.counts(&rig, "q"), c.counts(&rig, "memory")), (Some((100, 0)), Some((1, 0))));
    drop(c);
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    for n in 0..100 {
        let body = c.take(&rig, "q").expect("there").1;
        assert!(body.len() == big.len() + n.to_string().len() && body.starts_with(&n.to_string()), "{n}");
    }
}
