//! What an exchange holds back: when it goes on, in which order, and what restarts and crashes may and may not do to it.

use super::*;
use broker_api::{DELIVERY_DELAYED, HEAD_MANDATORY};

fn delaying(rig: &Rig, client: &mut Client, name: &str, kind: &str) {
    let spec = ExchangeSpec {
        kind: "x-delayed-message".into(),
        durable: true,
        arguments: format!("x-delayed-type={kind}").into_bytes(),
        format: LINES,
        ..ExchangeSpec::default()
    };
    client.ok(rig, exchange(name, spec));
}

/// A fanout that delays, and a queue behind it.
fn declared(rig: &Rig) -> Client {
    let mut c = rig.client();
    c.queue(rig, "q", durable());
    delaying(rig, &mut c, "d", "fanout");
    c.bind(rig, "d", "q", "");
    c
}

fn delay(client: &mut Client, rig: &Rig, body: &str, ms: u32) -> Vec<Got> {
    client.publish_with(rig, "d", "k", body, |head, _| head.delay_ms = ms)
}

fn waiting(rig: &Rig) -> u64 {
    rig.core.delayed("/").iter().map(|delayed| delayed.messages).sum()
}

/// Lets time pass, in steps, as it does.
fn pass(rig: &Rig, ms: u64) {
    for _ in 0..ms / 10 {
        rig.storage.clock().pass_ms(10);
        rig.settle();
    }
}

fn drain(client: &mut Client, rig: &Rig) -> Vec<String> {
    std::iter::from_fn(|| client.take(rig, "q").map(|(_, body, _)| body)).collect()
}

#[test]
fn messages_go_on_when_they_are_due_and_not_before() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    assert!(matches!(delay(&mut c, &rig, "late", 3_000)[..], [Got::Done(1)]), "confirmed when it is safe");
    delay(&mut c, &rig, "soon", 500);
    delay(&mut c, &rig, "now", 0);
    delay(&mut c, &rig, "soon too", 500);
    assert_eq!(drain(&mut c, &rig), ["now"]);
    let [listed] = &rig.core.delayed("/")[..] else { panic!("one exchange delays") };
    assert_eq!((listed.exchange.as_str(), listed.messages), ("d", 3));
    assert!(listed.next_ms.is_some_and(|at| at >= rig.core.now_ms()));
    pass(&rig, 490);
    assert_eq!(c.counts(&rig, "q").map(|c| c.0), Some(0));
    pass(&rig, 30);
    let (_, body, said) = c.take(&rig, "q").expect("it is due");
    assert_eq!((body.as_str(), said.exchange.as_str(), said.key.as_str()), ("soon", "d", "k"));
    assert_eq!(said.flags & DELIVERY_DELAYED, DELIVERY_DELAYED);
    assert!(said.moved.is_none(), "it is no dead letter");
    assert_eq!(drain(&mut c, &rig), ["soon too"]);
    pass(&rig, 3_000);
    assert_eq!(drain(&mut c, &rig), ["late"]);
    assert_eq!((waiting(&rig), rig.core.delayed("/")[0].next_ms), (0, None));
    rig.core.recount().expect("counters are right");
}

#[test]
fn the_type_behind_it_is_checked() {
    let rig = Rig::new();
    let mut c = rig.client();
    let mut refused = |arguments: &str| {
        let kind = "x-delayed-message".to_owned();
        let spec = ExchangeSpec { kind, arguments: arguments.into(), format: LINES, ..ExchangeSpec::default() };
        c.ask(&rig, exchange("d", spec)).unwrap_err()
    };
    let missing = Refusal::PreconditionFailed("Invalid argument, 'x-delayed-type' must be an existing exchange type".into());
    assert_eq!(refused(""), missing);
    assert_eq!(refused("x-delayed-type=x-delayed-message"), missing);
    let why = "unknown exchange type 'wat'".to_owned();
    assert_eq!(refused("x-delayed-type=wat"), Refusal::Invalid { what: "exchange type", why });
}

#[test]
fn it_is_routed_by_what_is_bound_when_it_is_due() {
    let rig = Rig::new();
    let mut c = rig.client();
    delaying(&rig, &mut c, "d", "direct");
    for queue in ["early", "later", "other"] {
        c.queue(&rig, queue, durable());
    }
    c.bind(&rig, "d", "early", "k");
    delay(&mut c, &rig, "m", 1_000);
    c.ok(&rig, Control::Unbind(binding("d", Destination::Queue("early".into()), "k", b"")));
    c.bind(&rig, "d", "later", "k");
    c.bind(&rig, "d", "other", "z");
    pass(&rig, 1_100);
    let ready = ["early", "later", "other"].map(|queue| c.counts(&rig, queue).map(|c| c.0));
    assert_eq!(ready, [Some(0), Some(1), Some(0)]);
    // What then has no route is dropped.
    c.ok(&rig, Control::Unbind(binding("d", Destination::Queue("later".into()), "k", b"")));
    delay(&mut c, &rig, "nowhere", 100);
    pass(&rig, 200);
    assert_eq!((waiting(&rig), rig.core.journal_stats().live_references), (0, 1));
}

#[test]
fn nobody_promises_where_a_delayed_message_goes() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    let got = c.publish_with(&rig, "d", "k", "m", |head, _| {
        head.delay_ms = 100;
        head.flags |= HEAD_MANDATORY;
    });
    assert_eq!(got, [Got::Returned(1), Got::Done(1)]);
    pass(&rig, 200);
    assert_eq!(drain(&mut c, &rig), ["m"]);
}

#[test]
fn one_delay_is_enough_whatever_comes_behind() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    // Into a queue whose dead letters go through an exchange that delays as well.
    delaying(&rig, &mut c, "again", "fanout");
    let spec = QueueSpec { dead_letter_exchange: Some("again".into()), ..durable() };
    let source = c.queue(&rig, "source", spec);
    c.bind(&rig, "again", "q", "");
    c.ok(&rig, Control::Bind(binding("d", Destination::Exchange("again".into()), "", b"")));
    c.ok(&rig, Control::Unbind(binding("d", Destination::Queue("q".into()), "", b"")));
    delay(&mut c, &rig, "m", 100);
    pass(&rig, 200);
    assert_eq!((drain(&mut c, &rig), waiting(&rig)), (vec!["m".to_owned()], 0));
    // A dead letter that was not held back yet is, by the delay it was published with.
    c.publish_with(&rig, "", "source", "dead", |head, _| head.delay_ms = 300);
    let (seq, _, _) = c.take(&rig, "source").expect("not delayed on this way");
    c.settle(&rig, source, seq, Outcome::Rejected);
    assert_eq!(waiting(&rig), 1);
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!(drain(&mut c, &rig), ["m"], "it was not settled");
    pass(&rig, 200);
    assert_eq!(waiting(&rig), 1);
    pass(&rig, 200);
    let (_, body, said) = c.take(&rig, "q").expect("due");
    assert_eq!((body.as_str(), said.exchange.as_str()), ("dead", "again"));
    assert_eq!(said.moved.expect("history").deaths.len(), 1);
    rig.core.recount().expect("counters are right");
}

#[test]
fn a_time_to_live_begins_when_the_delay_is_over() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    let expires_ms = rig.core.now_ms() + 1_000;
    c.publish_with(&rig, "d", "k", "m", |head, _| (head.delay_ms, head.expires_ms) = (2_000, expires_ms));
    pass(&rig, 2_500);
    assert_eq!(c.counts(&rig, "q").map(|c| c.0), Some(1));
    pass(&rig, 1_000);
    assert_eq!(c.counts(&rig, "q").map(|c| c.0), Some(0));
}

#[test]
fn what_is_committed_waits_from_the_commit_on() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    c.scope(Some(1));
    c.put_with("d", "k", "m", |head| head.delay_ms = 500);
    c.scope(None);
    c.submit(&rig);
    pass(&rig, 1_000);
    assert_eq!(waiting(&rig), 0);
    // The commit point comes late: it is due before anybody may see it.
    c.put_control(Control::Commit { owner: OwnerIx(1), tx: TxIx(1) });
    c.send();
    rig.storage.clock().pass_ms(700);
    while rig.steps.time() || rig.steps.read() {}
    assert_eq!(waiting(&rig), 1);
    c.pull(&rig);
    rig.storage.clock().pass_ms(10);
    assert_eq!(drain(&mut c, &rig), ["m"]);
    rig.core.recount().expect("counters are right");
}

#[test]
fn a_bound_refuses_the_publisher() {
    let rig = Rig::with(SimStorage::new(7), Config { delayed_max: 2, ..config() });
    let mut c = declared(&rig);
    delay(&mut c, &rig, "1", 100);
    delay(&mut c, &rig, "2", 100);
    assert_eq!(delay(&mut c, &rig, "3", 100), [Got::Refused(3, Refusal::QueueFull), Got::Done(3)]);
    pass(&rig, 200);
    assert_eq!(drain(&mut c, &rig), ["1", "2"]);
    assert_eq!(delay(&mut c, &rig, "4", 100), [Got::Done(4)]);
}

#[test]
fn restarts_change_no_due_time() {
    for checkpoint in [false, true] {
        for crash in [Crash::Kill, Crash::PowerCut] {
            let rig = Rig::new();
            let mut c = declared(&rig);
            delay(&mut c, &rig, "2", 120_000);
            delay(&mut c, &rig, "1", 90_000);
            delay(&mut c, &rig, "3", 49 * 86_400_000);
            let due = rig.core.delayed("/")[0].next_ms;
            if checkpoint {
                rig.checkpoint();
            }
            let rig = rig.crash(crash);
            assert_eq!((waiting(&rig), rig.core.delayed("/")[0].next_ms), (3, due), "checkpoint {checkpoint}");
            let mut c = rig.client();
            assert_eq!(c.counts(&rig, "q").map(|c| c.0), Some(0));
            let left = due.unwrap() - rig.core.now_ms();
            rig.storage.clock().pass_ms(left - 20);
            rig.settle();
            assert!(drain(&mut c, &rig).is_empty());
            pass(&rig, 40);
            assert_eq!(drain(&mut c, &rig), ["1"]);
            // What became due while nobody was there comes at once.
            let rig = rig.crash(crash);
            rig.storage.clock().pass_ms(30_000);
            let mut c = rig.client();
            c.pull(&rig);
            assert!(drain(&mut c, &rig).ends_with(&["2".to_owned()]));
            assert_eq!(waiting(&rig), 1);
            rig.core.recount().expect("counters are right");
        }
    }
}

/// The disk fails at each operation of the scene in turn; after the power cut the message is in exactly one place.
#[test]
fn no_crash_loses_or_doubles_a_message_that_is_due() {
    let (mut before, mut after) = (0, 0);
    for fail_at in 0..40 {
        for checkpoint in [false, true] {
            let rig = Rig::new();
            let mut c = declared(&rig);
            delay(&mut c, &rig, "m", 200_000);
            if checkpoint {
                rig.checkpoint();
            }
            rig.storage.clock().pass_ms(200_000);
            rig.storage.crash_after(fail_at);
            for _ in 0..32 {
                let _ = (rig.steps.time(), rig.steps.read(), checkpoint && rig.steps.maintain(), rig.steps.commit());
            }
            drop(c);
            rig.storage.crash_after(u64::MAX);
            let rig = rig.crash(Crash::PowerCut);
            // Before its threads do anything.
            match (waiting(&rig), rig.core.journal_stats().live_references) {
                (1, 1) => before += 1,
                (0, 1) => after += 1,
                other => panic!("crash at operation {fail_at}, checkpoint {checkpoint}: {other:?}"),
            }
            let mut c = rig.client();
            assert_eq!(drain(&mut c, &rig), ["m"], "crash at {fail_at}");
            assert_eq!(rig.core.journal_stats().live_references, 1, "crash at {fail_at}");
            rig.core.recount().expect("counters are right");
        }
    }
    assert!(before > 0 && after > 0, "the crashes hit both sides: {before} before, {after} after");
}

/// Several pages of 256, sent away by checkpoints, with delays in no order.
#[test]
fn many_delays_come_in_the_order_of_their_times() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    c.queue(&rig, "q2", durable());
    let mut expected = Vec::new();
    let base = rig.core.now_ms();
    for n in 0..1_500u32 {
        let ms = 200_000 + n.wrapping_mul(2_654_435_761) % 9_000 / 10 * 10;
        // All of a tick arrive at one time, so that the order is that of the delays and then of the publishes.
        c.put_with("d", "k", &format!("{n}"), |head| head.delay_ms = ms);
        expected.push((ms, n));
        if n % 100 == 99 {
            c.submit(&rig);
        }
    }
    assert_eq!(rig.core.now_ms(), base, "the clock stood still");
    rig.checkpoint();
    assert_eq!(waiting(&rig), 1_500);
    let rig = rig.crash(Crash::Kill);
    let mut c = rig.client();
    assert_eq!(waiting(&rig), 1_500);
    // More behind the pages that are away, and a second target for some.
    for n in 1_500..1_600u32 {
        let ms = 200_000 + n.wrapping_mul(2_654_435_761) % 9_000 / 10 * 10;
        let since = (rig.core.now_ms() - base) as u32;
        delay(&mut c, &rig, &format!("{n}"), ms - since);
        expected.push((ms, n));
    }
    rig.checkpoint();
    expected.sort_unstable();
    let mut got = Vec::new();
    while rig.core.now_ms() < base + 202_000 {
        pass(&rig, 500);
    }
    c.bind(&rig, "d", "q2", "");
    let doubled = waiting(&rig);
    assert!((100..1_500).contains(&doubled), "{doubled}");
    while waiting(&rig) > 0 && rig.core.now_ms() < base + 300_000 {
        pass(&rig, 100);
        got.append(&mut drain(&mut c, &rig));
    }
    got.append(&mut drain(&mut c, &rig));
    let expected: Vec<String> = expected.iter().map(|(_, n)| n.to_string()).collect();
    assert_eq!(got, expected);
    assert_eq!(c.counts(&rig, "q2").map(|c| c.0), Some(doubled));
    rig.core.recount().expect("counters are right");
}

#[test]
fn an_exchange_takes_along_what_it_holds_back() {
    for checkpoints in [[false, false], [true, false], [false, true], [true, true]] {
        let rig = Rig::new();
        let mut c = declared(&rig);
        delay(&mut c, &rig, "m", 300_000);
        c.publish(&rig, "", "q", "stays");
        if checkpoints[0] {
            rig.checkpoint();
        }
        c.ok(&rig, Control::DeleteExchange { owner: OwnerIx(1), name: "d".into(), if_unused: false });
        assert_eq!((waiting(&rig), rig.core.journal_stats().live_references), (0, 1));
        if checkpoints[1] {
            rig.checkpoint();
        }
        let rig = rig.crash(Crash::PowerCut);
        rig.settle();
        assert_eq!(rig.core.journal_stats().live_references, 1, "{checkpoints:?}");
        // Another of the same name begins with nothing.
        let mut c = rig.client();
        delaying(&rig, &mut c, "d", "fanout");
        rig.storage.clock().pass_ms(400_000);
        rig.settle();
        assert_eq!((waiting(&rig), drain(&mut c, &rig)), (0, vec!["stays".to_owned()]));
        rig.core.recount().expect("counters are right");
    }
}

/// The crash comes anywhere between the two records of an exchange's end.
#[test]
fn no_crash_leaves_messages_without_their_exchange() {
    let (mut there, mut gone) = (0, 0);
    for fail_at in 0..30 {
        let rig = Rig::new();
        let mut c = declared(&rig);
        delay(&mut c, &rig, "m", 300_000);
        rig.storage.crash_after(fail_at);
        c.put_control(Control::DeleteExchange { owner: OwnerIx(1), name: "d".into(), if_unused: false });
        c.send();
        rig.settle();
        drop(c);
        rig.storage.crash_after(u64::MAX);
        let rig = rig.crash(Crash::PowerCut);
        rig.settle();
        match (rig.core.delayed("/").len(), rig.core.journal_stats().live_references) {
            (1, 1) => there += 1,
            (0, 0) => gone += 1,
            other => panic!("crash at operation {fail_at}: {other:?}"),
        }
    }
    assert!(there > 0 && gone > 0, "{there} {gone}");
}

fn transient_delay() -> ExchangeSpec {
    let (kind, arguments) = ("x-delayed-message".into(), b"x-delayed-type=fanout".to_vec());
    ExchangeSpec { kind, arguments, format: LINES, ..ExchangeSpec::default() }
}

#[test]
fn transient_messages_and_exchanges_delay_as_well() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    c.ok(&rig, exchange("t", transient_delay()));
    c.bind(&rig, "t", "q", "");
    for (exchange, durable) in [("d", false), ("t", true), ("t", false)] {
        c.publish_with(&rig, exchange, "k", exchange, |head, _| {
            head.delay_ms = 200;
            head.flags = if durable { head.flags } else { HEAD_CONFIRM };
        });
    }
    // A durable exchange keeps what need not be durable, too: who is confirmed may have meant a queue that keeps it.
    assert_eq!((waiting(&rig), rig.core.journal_stats().live_references), (3, 1));
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!(waiting(&rig), 1);
    c.ok(&rig, exchange("t", transient_delay()));
    c.bind(&rig, "t", "q", "");
    for durable in [true, false] {
        c.publish_with(&rig, "t", "k", "t", |head, _| {
            head.delay_ms = 200;
            head.flags = if durable { head.flags } else { HEAD_CONFIRM };
        });
    }
    pass(&rig, 300);
    assert_eq!((waiting(&rig), c.counts(&rig, "q").map(|c| c.0)), (0, Some(3)));
    // The one that is to be kept is, now that it is where it can be.
    assert_eq!(rig.core.journal_stats().live_references, 1);
    rig.core.recount().expect("counters are right");
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!(drain(&mut c, &rig), ["t"]);
    assert_eq!(rig.core.delayed("/").len(), 1);
}
