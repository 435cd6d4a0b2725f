//! Queues that keep everything: what need not be durable is as safe in them as the rest, on every way that leads there.

use super::*;

fn keeps() -> QueueSpec {
    QueueSpec { keeps_all: true, ..durable() }
}

fn transient(head: &mut Head) {
    (head.flags, head.level) = (HEAD_CONFIRM, 0);
}

/// Bodies of a queue, in order.
fn drain(c: &mut Client, rig: &Rig, queue: &str) -> Vec<String> {
    std::iter::from_fn(|| c.take(rig, queue)).map(|(_, body, _)| body).collect()
}

#[test]
fn what_need_not_be_durable_is_there_after_a_crash() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "keeps", keeps());
    c.queue(&rig, "plain", durable());
    for queue in ["keeps", "plain"] {
        c.bind(&rig, "amq.fanout", queue, "");
    }
    for body in ["a", "b"] {
        let got = c.publish_with(&rig, "amq.fanout", "", body, |head, _| transient(head));
        assert!(matches!(got[..], [Got::Done(_)]), "{got:?}");
    }
    c.publish(&rig, "amq.fanout", "", "c");
    rig.core.recount().expect("counters are right");
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!(drain(&mut c, &rig, "plain"), ["c"]);
    rig.checkpoint();
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!(drain(&mut c, &rig, "keeps"), ["a", "b", "c"]);
    rig.core.recount().expect("counters are right");
}

#[test]
fn a_confirm_waits_until_the_log_has_it() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "keeps", keeps());
    c.put_with("", "keeps", "m", transient);
    c.send();
    assert_eq!(c.look(), [], "nothing is written yet");
    assert!(matches!(c.all(&rig)[..], [Got::Done(_)]));
}

#[test]
fn transactions_and_dead_letters_keep_it() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "keeps", keeps());
    let to_keeps = QueueSpec { dead_letter_exchange: Some("".into()), dead_letter_key: Some("keeps".into()), ..durable() };
    let source = c.queue(&rig, "source", to_keeps);
    c.scope(Some(1));
    c.put_with("", "keeps", "committed", transient);
    c.scope(None);
    c.submit(&rig);
    c.ok(&rig, Control::Commit { owner: OwnerIx(1), tx: TxIx(1) });
    c.publish_with(&rig, "", "source", "dead", |head, _| transient(head));
    let (seq, _, _) = c.take(&rig, "source").expect("a message");
    c.settle(&rig, source, seq, Outcome::Rejected);
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!(drain(&mut c, &rig, "keeps"), ["committed", "dead"]);
    rig.core.recount().expect("counters are right");
}

/// And the other way: a queue that does not keep it forgets what one that does had.
#[test]
fn what_moves_on_is_kept_where_it_then_is() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "plain", durable());
    c.queue(&rig, "keeps too", keeps());
    for (name, to, left) in [("one", "plain", 0), ("two", "keeps too", 1)] {
        let spec = QueueSpec { dead_letter_exchange: Some("".into()), dead_letter_key: Some(to.into()), ..keeps() };
        let source = c.queue(&rig, name, spec);
        c.publish_with(&rig, "", name, "m", |head, _| transient(head));
        let (seq, _, _) = c.take(&rig, name).expect("a message");
        c.settle(&rig, source, seq, Outcome::Rejected);
        assert_eq!((c.counts(&rig, to), rig.core.journal_stats().live_references), (Some((1, 0)), left));
    }
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!((drain(&mut c, &rig, "plain"), drain(&mut c, &rig, "keeps too")), (vec![], vec!["m".to_owned()]));
    rig.core.recount().expect("counters are right");
}

#[test]
fn a_wide_fan_out_keeps_it() {
    let rig = Rig::new();
    let mut c = rig.client();
    for n in 0..1100 {
        let name = format!("q{n}");
        c.queue(&rig, &name, if n % 100 == 0 { keeps() } else { durable() });
        c.bind(&rig, "amq.fanout", &name, "");
    }
    c.publish_with(&rig, "amq.fanout", "", "m", |head, _| transient(head));
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    let there: Vec<u32> = (0..1100).filter(|n| c.counts(&rig, &format!("q{n}")) == Some((1, 0))).collect();
    assert_eq!(there, (0..11).map(|n| n * 100).collect::<Vec<_>>());
}
