//! What comes again and again: at its times, once each, whatever crashes and restarts come between.

use super::*;
use broker_api::{Cron, DELIVERY_DELAYED};

const MINUTE: u64 = 60_000;

fn recurring(rig: &Rig, client: &mut Client) {
    let spec = ExchangeSpec {
        kind: "x-delayed-message".into(),
        durable: true,
        arguments: b"x-delayed-type=fanout\nx-cron-header=when".to_vec(),
        format: LINES,
        ..ExchangeSpec::default()
    };
    client.ok(rig, exchange("d", spec));
}

fn declared(rig: &Rig) -> Client {
    let mut c = rig.client();
    c.queue(rig, "q", durable());
    recurring(rig, &mut c);
    c.bind(rig, "d", "q", "");
    c
}

fn say(client: &mut Client, rig: &Rig, body: &str, when: &str, edit: impl FnOnce(&mut Head)) -> Vec<Got> {
    client.publish_with(rig, "d", "k", body, |head, turn| {
        head.origin = turn.intern(format!("when={when}").as_bytes());
        edit(head);
    })
}

fn waiting(rig: &Rig) -> u64 {
    rig.core.delayed("/").iter().map(|delayed| delayed.messages).sum()
}

fn due(rig: &Rig) -> Option<u64> {
    rig.core.delayed("/")[0].next_ms
}

/// Lets time pass up to then, as it does.
fn pass_to(rig: &Rig, ms: u64) {
    while rig.core.now_ms() < ms {
        rig.storage.clock().pass_ms((ms - rig.core.now_ms()).min(1_000));
        rig.settle();
    }
}

fn drain(client: &mut Client, rig: &Rig) -> Vec<String> {
    std::iter::from_fn(|| client.take(rig, "q").map(|(_, body, _)| body)).collect()
}

#[test]
fn it_comes_at_each_of_its_times() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    assert!(matches!(say(&mut c, &rig, "m", "* * * * *", |_| {})[..], [Got::Done(1)]), "confirmed when it is safe");
    let first = Cron::parse("* * * * *").unwrap().next_after(rig.core.now_ms()).unwrap();
    assert_eq!((waiting(&rig), due(&rig)), (1, Some(first)));
    for round in 0..5 {
        let at = first + round * MINUTE;
        pass_to(&rig, at - 20);
        assert!(drain(&mut c, &rig).is_empty(), "round {round}");
        pass_to(&rig, at);
        let (_, body, said) = c.take(&rig, "q").expect("it is due");
        assert_eq!((body.as_str(), said.exchange.as_str(), said.key.as_str()), ("m", "d", "k"));
        assert_eq!((said.flags & DELIVERY_DELAYED, said.moved), (DELIVERY_DELAYED, None));
        assert!(drain(&mut c, &rig).is_empty());
        assert_eq!((waiting(&rig), due(&rig)), (1, Some(at + MINUTE)));
    }
    rig.core.recount().expect("counters are right");
    // It ends with its exchange.
    c.ok(&rig, Control::DeleteExchange { owner: OwnerIx(1), name: "d".into(), if_unused: false });
    pass_to(&rig, first + 10 * MINUTE);
    assert!(drain(&mut c, &rig).is_empty());
}

#[test]
fn what_is_to_come_later_comes_later() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    let first = Cron::parse("*/5 * * * *").unwrap().next_after(rig.core.now_ms()).unwrap();
    // A time that was before they came is none of theirs.
    pass_to(&rig, first);
    say(&mut c, &rig, "2s", "* * * * * +2000", |_| {});
    say(&mut c, &rig, "90s", "*/5 * * * * +90000", |_| {});
    pass_to(&rig, first + MINUTE + 1_990);
    assert!(drain(&mut c, &rig).is_empty());
    pass_to(&rig, first + MINUTE + 2_000);
    assert_eq!(drain(&mut c, &rig), ["2s"]);
    pass_to(&rig, first + 6 * MINUTE + 30_000);
    assert_eq!(drain(&mut c, &rig), ["2s", "2s", "2s", "2s", "2s", "90s"]);
    pass_to(&rig, first + 11 * MINUTE + 30_000);
    assert_eq!(drain(&mut c, &rig), ["2s", "2s", "2s", "2s", "2s", "90s"]);
}

#[test]
fn its_own_expiry_ends_it() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    let first = Cron::parse("* * * * *").unwrap().next_after(rig.core.now_ms()).unwrap();
    say(&mut c, &rig, "m", "* * * * *", |head| head.expires_ms = first + 2 * MINUTE + 1);
    say(&mut c, &rig, "never", "* * * * *", |head| head.expires_ms = first - 1);
    for round in 0..3 {
        pass_to(&rig, first + round * MINUTE);
        assert_eq!(drain(&mut c, &rig), ["m"], "round {round}");
    }
    assert_eq!((waiting(&rig), due(&rig)), (0, None));
    pass_to(&rig, first + 5 * MINUTE);
    assert!(drain(&mut c, &rig).is_empty());
    rig.core.recount().expect("counters are right");
}

#[test]
fn what_nobody_consumed_expires_when_it_ends() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    let first = Cron::parse("* * * * *").unwrap().next_after(rig.core.now_ms()).unwrap();
    say(&mut c, &rig, "m", "* * * * *", |head| head.expires_ms = first + MINUTE + 5_000);
    pass_to(&rig, first + MINUTE + 2_000);
    assert_eq!(c.counts(&rig, "q").map(|c| c.0), Some(2));
    pass_to(&rig, first + MINUTE + 8_000);
    assert_eq!(c.counts(&rig, "q").map(|c| c.0), Some(0));
}

/// A delay has 32 bits; a year has more.
#[test]
fn it_may_be_long_until_the_next_time() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    let when = "0 0 29 2 *";
    say(&mut c, &rig, "m", when, |_| {});
    let next = Cron::parse(when).unwrap().next_after(rig.core.now_ms()).unwrap();
    assert!(next - rig.core.now_ms() > 60 * 86_400_000);
    let mut looks = 0;
    while let Some(at) = due(&rig).filter(|at| *at < next) {
        rig.storage.clock().pass_ms(at - rig.core.now_ms());
        rig.settle();
        assert!(drain(&mut c, &rig).is_empty(), "only looked at");
        looks += 1;
    }
    assert!(looks > 0);
    assert_eq!((waiting(&rig), due(&rig), rig.core.journal_stats().live_references), (1, Some(next), 1));
    rig.storage.clock().pass_ms(next - rig.core.now_ms());
    rig.settle();
    assert_eq!(drain(&mut c, &rig), ["m"]);
    assert_eq!(waiting(&rig), 1);
}

#[test]
fn what_is_no_expression_goes_on_at_once_and_what_has_no_time_goes_nowhere() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    say(&mut c, &rig, "none", "soon", |_| {});
    c.publish(&rig, "d", "k", "no header");
    assert_eq!(drain(&mut c, &rig), ["none", "no header"]);
    say(&mut c, &rig, "never", "0 0 30 2 *", |_| {});
    pass_to(&rig, rig.core.now_ms() + 1_000);
    assert_eq!((waiting(&rig), drain(&mut c, &rig)), (0, Vec::<String>::new()));
    // A delay of its own is held to where there is no expression.
    say(&mut c, &rig, "later", "soon", |head| head.delay_ms = 500);
    assert!(drain(&mut c, &rig).is_empty());
    pass_to(&rig, rig.core.now_ms() + 510);
    assert_eq!((waiting(&rig), drain(&mut c, &rig)), (0, vec!["later".to_owned()]));
}

#[test]
fn the_name_of_the_header_is_checked() {
    let rig = Rig::new();
    let mut c = rig.client();
    let arguments = b"x-delayed-type=fanout\nx-cron-header=".to_vec();
    let spec = ExchangeSpec { kind: "x-delayed-message".into(), arguments, format: LINES, ..ExchangeSpec::default() };
    let refused = c.ask(&rig, exchange("d", spec)).unwrap_err();
    assert_eq!(refused, Refusal::PreconditionFailed("Invalid argument, 'x-cron-header' must be the name of a header".into()));
}

/// The exchange is made, bound and published to by one turn, as a session does that waits for nothing.
#[test]
fn one_turn_may_do_all_of_it() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    let kind = "x-delayed-message".to_owned();
    let arguments = b"x-delayed-type=fanout\nx-cron-header=when".to_vec();
    let spec = ExchangeSpec { kind, durable: true, arguments, format: LINES, ..ExchangeSpec::default() };
    c.put_control(exchange("d", spec));
    c.put_control(Control::Bind(binding("d", Destination::Queue("q".into()), "", b"")));
    let origin = c.turn.intern(b"when=* * * * *");
    c.put_with("", "q", "before", |_| {});
    for body in ["1", "2"] {
        c.put_with("d", "k", body, |head| head.origin = origin);
    }
    c.put_with("", "q", "after", |_| {});
    c.submit(&rig);
    assert!(c.got.contains(&Got::Done(4)), "{:?}", c.got);
    assert_eq!((waiting(&rig), drain(&mut c, &rig)), (2, vec!["before".to_owned(), "after".to_owned()]));
    pass_to(&rig, due(&rig).unwrap());
    assert_eq!(drain(&mut c, &rig), ["1", "2"]);
    rig.core.recount().expect("counters are right");
}

/// So whoever deletes a queue ends what comes to it; a topic to which nobody listens now is something else.
#[test]
fn it_ends_when_nothing_is_bound_any_more() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    c.exchange(&rig, "behind", "topic");
    c.ok(&rig, Control::Bind(binding("d", Destination::Exchange("behind".into()), "", b"")));
    say(&mut c, &rig, "m", "* * * * *", |_| {});
    let first = due(&rig).unwrap();
    pass_to(&rig, first);
    assert_eq!(drain(&mut c, &rig), ["m"]);
    c.ok(&rig, Control::Unbind(binding("d", Destination::Queue("q".into()), "", b"")));
    pass_to(&rig, first + MINUTE);
    assert_eq!((waiting(&rig), drain(&mut c, &rig)), (1, Vec::<String>::new()), "it goes through another exchange");
    c.ok(&rig, Control::Unbind(binding("d", Destination::Exchange("behind".into()), "", b"")));
    assert_eq!(waiting(&rig), 1);
    pass_to(&rig, first + 2 * MINUTE);
    assert_eq!((waiting(&rig), drain(&mut c, &rig)), (0, Vec::<String>::new()));
    rig.core.recount().expect("counters are right");
}

/// A full exchange refuses publishers, and keeps what it promised.
#[test]
fn a_bound_ends_nothing_that_was_taken() {
    let rig = Rig::with(SimStorage::new(7), Config { delayed_max: 1, ..config() });
    let mut c = declared(&rig);
    say(&mut c, &rig, "m", "* * * * *", |_| {});
    let first = due(&rig).unwrap();
    assert_eq!(say(&mut c, &rig, "more", "* * * * *", |_| {}), [Got::Refused(2, Refusal::QueueFull), Got::Done(2)]);
    for round in 0..3 {
        pass_to(&rig, first + round * MINUTE);
        assert_eq!(drain(&mut c, &rig), ["m"], "round {round}");
    }
}

#[test]
fn a_transaction_counts_from_its_commit() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    c.scope(Some(1));
    let origin = c.turn.intern(b"when=* * * * *");
    c.put_with("d", "k", "m", |head| head.origin = origin);
    c.scope(None);
    c.submit(&rig);
    let begun = rig.core.now_ms();
    pass_to(&rig, begun + 3 * MINUTE);
    assert_eq!(waiting(&rig), 0);
    c.ok(&rig, Control::Commit { owner: OwnerIx(1), tx: TxIx(1) });
    let next = Cron::parse("* * * * *").unwrap().first_after(rig.core.now_ms());
    assert_eq!((waiting(&rig), due(&rig)), (1, next));
    pass_to(&rig, next.unwrap());
    assert_eq!(drain(&mut c, &rig), ["m"]);
}

#[test]
fn transient_ones_come_on_over_a_restart_and_are_not_kept_where_they_go() {
    let rig = Rig::new();
    let mut c = declared(&rig);
    say(&mut c, &rig, "m", "* * * * *", |head| head.flags = HEAD_CONFIRM);
    let first = due(&rig).unwrap();
    for round in 0..2 {
        pass_to(&rig, first + round * MINUTE);
        assert_eq!(drain(&mut c, &rig), ["m"], "round {round}");
    }
    assert_eq!(rig.core.journal_stats().live_references, 1);
    pass_to(&rig, first + 2 * MINUTE);
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!((waiting(&rig), drain(&mut c, &rig).len()), (1, 0));
    rig.core.recount().expect("counters are right");
}

/// What passed while nobody served comes once, and then it goes on as it was.
#[test]
fn restarts_keep_its_times() {
    for checkpoint in [false, true] {
        for crash in [Crash::Kill, Crash::PowerCut] {
            let rig = Rig::new();
            let mut c = declared(&rig);
            say(&mut c, &rig, "m", "*/10 * * * *", |_| {});
            let first = due(&rig).unwrap();
            pass_to(&rig, first);
            assert_eq!(drain(&mut c, &rig).len(), 1);
            if checkpoint {
                rig.checkpoint();
            }
            let held = rig.core.journal_stats().live_references;
            let rig = rig.crash(crash);
            assert_eq!((waiting(&rig), due(&rig)), (1, Some(first + 10 * MINUTE)), "checkpoint {checkpoint}");
            assert_eq!(rig.core.journal_stats().live_references, held);
            // Time that passes between two lives is adopted when the second begins.
            rig.storage.clock().pass_ms(35 * MINUTE);
            let rig = rig.crash(crash);
            let mut c = rig.client();
            c.pull(&rig);
            // The first of all was taken and not settled.
            assert_eq!(drain(&mut c, &rig), ["m", "m"], "checkpoint {checkpoint}");
            let next = due(&rig).unwrap();
            assert_eq!((next - first) % (10 * MINUTE), 0);
            assert!(next > rig.core.now_ms() && next <= rig.core.now_ms() + 10 * MINUTE);
            rig.core.recount().expect("counters are right");
        }
    }
}

/// The disk fails at each operation of a round in turn: after the power cut it is held back once, and in the queue once or not at all.
#[test]
fn no_crash_ends_it_or_doubles_a_time() {
    let (mut before, mut after) = (0, 0);
    for fail_at in 0..40 {
        for checkpoint in [false, true] {
            let rig = Rig::new();
            let mut c = declared(&rig);
            say(&mut c, &rig, "m", "*/10 * * * *", |_| {});
            if checkpoint {
                rig.checkpoint();
            }
            let first = due(&rig).unwrap();
            rig.storage.clock().pass_ms(first - rig.core.now_ms());
            rig.storage.crash_after(fail_at);
            for _ in 0..32 {
                let _ = (rig.steps.time(), rig.steps.read(), checkpoint && rig.steps.maintain(), rig.steps.commit());
            }
            drop(c);
            rig.storage.crash_after(u64::MAX);
            let rig = rig.crash(Crash::PowerCut);
            // Before its threads do anything.
            match (waiting(&rig), rig.core.journal_stats().live_references, due(&rig)) {
                (1, 1, Some(at)) if at == first => before += 1,
                (1, 2, Some(at)) if at == first + 10 * MINUTE => after += 1,
                other => panic!("crash at operation {fail_at}, checkpoint {checkpoint}: {other:?}"),
            }
            let mut c = rig.client();
            assert_eq!(drain(&mut c, &rig), ["m"], "crash at {fail_at}");
            assert_eq!((waiting(&rig), due(&rig)), (1, Some(first + 10 * MINUTE)), "crash at {fail_at}");
            rig.core.recount().expect("counters are right");
        }
    }
    assert!(before > 0 && after > 0, "the crashes hit both sides: {before} before, {after} after");
}
