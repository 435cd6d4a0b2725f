//! Exchanges, bindings and the way of a message.

use super::*;
use broker_api::HEAD_MANDATORY;

fn ready(client: &mut Client, rig: &Rig, queues: &[&str]) -> Vec<u64> {
    queues.iter().map(|q| client.counts(rig, q).map_or(u64::MAX, |(ready, _)| ready)).collect()
}

#[test]
fn each_type_routes_by_its_own_rule() {
    let rig = Rig::new();
    let mut c = rig.client();
    for queue in ["a", "b"] {
        c.queue(&rig, queue, durable());
    }
    c.bind(&rig, "amq.direct", "a", "k");
    c.bind(&rig, "amq.fanout", "a", "");
    c.bind(&rig, "amq.fanout", "b", "");
    c.bind(&rig, "amq.topic", "b", "x.*");
    c.exchange(&rig, "t", "topic");
    c.bind(&rig, "t", "a", "#.end");
    c.ok(&rig, Control::Bind(binding("amq.headers", Destination::Queue("b".into()), "", b"x-match=any\ncolour=red\nsize=big")));
    let mut steps = vec![("", "a", [1, 0]), ("amq.direct", "k", [1, 0]), ("amq.direct", "z", [0, 0]), ("amq.fanout", "any", [1, 1])];
    steps.extend([("amq.topic", "x.y", [0, 1]), ("amq.topic", "x.y.z", [0, 0]), ("t", "the.end", [1, 0]), ("t", "x.y", [0, 0])]);
    let mut expected = [0, 0];
    for (exchange, key, more) in steps {
        for _ in 0..2 {
            // The second time comes from the route cache.
            c.publish(&rig, exchange, key, "m");
            expected = [expected[0] + more[0], expected[1] + more[1]];
            assert_eq!(ready(&mut c, &rig, &["a", "b"]), expected, "{exchange} {key}");
        }
    }
    for (headers, more) in [("size=big\nother=1", 1), ("size=small", 0), ("colour=red", 1)] {
        c.publish_with(&rig, "amq.headers", "", "m", |head, turn| head.origin = turn.intern(headers.as_bytes()));
        expected[1] += more;
        assert_eq!(ready(&mut c, &rig, &["a", "b"]), expected, "{headers}");
    }
    rig.core.recount().expect("counters are right");
}

#[test]
fn exchanges_lead_to_exchanges_and_a_circle_gives_one_copy() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    for name in ["one", "two"] {
        c.exchange(&rig, name, "fanout");
        c.bind(&rig, name, "q", "");
    }
    c.ok(&rig, Control::Bind(binding("one", Destination::Exchange("two".into()), "", b"")));
    c.ok(&rig, Control::Bind(binding("two", Destination::Exchange("one".into()), "", b"")));
    c.ok(&rig, Control::Bind(binding("amq.topic", Destination::Exchange("two".into()), "a.#", b"")));
    c.publish(&rig, "one", "k", "m");
    assert_eq!(ready(&mut c, &rig, &["q"]), [1]);
    c.publish(&rig, "amq.topic", "a.b", "m");
    c.publish(&rig, "amq.topic", "b.b", "m");
    assert_eq!(ready(&mut c, &rig, &["q"]), [2]);
    // A remembered route ends with the exchange that it went through.
    c.ok(&rig, Control::Unbind(binding("one", Destination::Queue("q".into()), "", b"")));
    c.ok(&rig, Control::DeleteExchange { owner: OwnerIx(1), name: "two".into(), if_unused: false });
    let got = c.publish_with(&rig, "amq.topic", "a.b", "m", |head, _| head.flags |= HEAD_MANDATORY);
    assert!(matches!(got[..], [Got::Returned(_), Got::Done(_)]), "{got:?}");
    assert_eq!(ready(&mut c, &rig, &["q"]), [2]);
}

/// A name and its two spellings: a dot inside a topic's level is `%2E` in a key, to topic exchanges and to those that compare text.
#[test]
fn topics_and_keys_meet_where_they_say_the_same() {
    let rig = Rig::new();
    let mut c = rig.client();
    let queues = ["exact", "wild", "other", "topic", "direct", "exact2"];
    for queue in queues {
        c.queue(&rig, queue, durable());
    }
    c.bind(&rig, "amq.topic", "exact", "a.b%2Ec");
    c.bind(&rig, "amq.topic", "wild", "*.b%2Ec");
    c.bind(&rig, "amq.topic", "other", "a.b.c");
    for (name, kind, key) in [("t", "topic", "#.b%2Ec"), ("d", "direct", "a.b%2Ec")] {
        c.exchange(&rig, name, kind);
        c.ok(&rig, Control::Bind(binding("amq.topic", Destination::Exchange(name.into()), "a.#", b"")));
        c.bind(&rig, name, if kind == "topic" { "topic" } else { "direct" }, key);
    }
    let topic = |head: &mut Head, _: &mut Turn| (head.topic, head.separator) = (true, b'/');
    for _ in 0..2 {
        // The second time comes from the route cache.
        c.publish_with(&rig, "", "a/b.c", "m", topic);
        c.publish(&rig, "amq.topic", "a.b%2Ec", "m");
    }
    assert_eq!(ready(&mut c, &rig, &queues), [4, 4, 0, 4, 4, 0]);
    c.publish_with(&rig, "", "a/b/c", "m", topic);
    assert_eq!(ready(&mut c, &rig, &queues), [4, 4, 1, 4, 4, 0]);
    // What only looks like it: a topic's percent sign is one, and a key has another for it.
    c.publish_with(&rig, "", "a/b%2Ec", "m", topic);
    assert_eq!(ready(&mut c, &rig, &queues), [4, 4, 1, 4, 4, 0]);
    c.bind(&rig, "amq.topic", "exact2", "a.b%252Ec");
    c.publish_with(&rig, "", "a/b%2Ec", "m", topic);
    assert_eq!(ready(&mut c, &rig, &queues), [4, 4, 1, 4, 4, 1]);
    // Unbound as it was bound, also after a restart.
    drop(c);
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    c.publish_with(&rig, "", "a/b.c", "m", topic);
    assert_eq!(ready(&mut c, &rig, &queues), [5, 5, 1, 5, 5, 1]);
    for (source, queue, key) in [("amq.topic", "exact", "a.b%2Ec"), ("t", "topic", "#.b%2Ec")] {
        c.ok(&rig, Control::Unbind(binding(source, Destination::Queue(queue.into()), key, b"")));
    }
    c.publish_with(&rig, "", "a/b.c", "m", topic);
    assert_eq!(ready(&mut c, &rig, &queues), [5, 6, 1, 5, 6, 1]);
}

#[test]
fn an_alternate_takes_what_the_exchange_does_not() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "rest", durable());
    c.queue(&rig, "q", durable());
    let spec = ExchangeSpec { kind: "direct".into(), durable: true, alternate: Some("late".into()), ..ExchangeSpec::default() };
    c.ok(&rig, exchange("x", spec));
    c.bind(&rig, "x", "q", "k");
    let lost = c.publish_with(&rig, "x", "other", "m", |head, _| head.flags |= HEAD_MANDATORY);
    assert!(matches!(lost[..], [Got::Returned(_), Got::Done(_)]), "{lost:?}");
    // It may come into being later.
    c.exchange(&rig, "late", "fanout");
    c.bind(&rig, "late", "rest", "");
    c.publish(&rig, "x", "other", "m");
    c.publish(&rig, "x", "k", "m");
    assert_eq!(ready(&mut c, &rig, &["q", "rest"]), [1, 1]);
}

#[test]
fn refusals_say_what_was_wrong() {
    let rig = Rig::new();
    let mut c = rig.client();
    let got = c.publish(&rig, "nope", "k", "m");
    assert!(matches!(&got[0], Got::Refused(1, Refusal::NotFound { what: "exchange", name }) if name == "nope"), "{got:?}");
    assert_eq!(got[1], Got::Done(1));
    c.ok(&rig, exchange("in", ExchangeSpec { kind: "fanout".into(), internal: true, ..ExchangeSpec::default() }));
    let got = c.publish(&rig, "in", "k", "m");
    assert!(matches!(&got[0], Got::Refused(2, Refusal::AccessRefused(_))), "{got:?}");
    let again = ExchangeSpec { kind: "direct".into(), internal: true, ..ExchangeSpec::default() };
    let why = c.ask(&rig, exchange("in", again)).expect_err("another type");
    assert!(matches!(&why, Refusal::Inequivalent(i) if i.property == "type" && i.given == "direct" && i.current == "fanout"), "{why:?}");
    for (control, text) in [
        (exchange("amq.mine", ExchangeSpec { kind: "direct".into(), ..ExchangeSpec::default() }), "reserved prefix"),
        (Control::DeleteExchange { owner: OwnerIx(1), name: "amq.topic".into(), if_unused: false }, "system exchange"),
        (Control::Bind(binding("", Destination::Exchange("in".into()), "", b"")), "default exchange"),
        (exchange("y", ExchangeSpec { kind: "wat".into(), ..ExchangeSpec::default() }), "unknown exchange type 'wat'"),
        (Control::Bind(binding("in", Destination::Queue("nope".into()), "", b"")), "nope"),
    ] {
        let why = c.ask(&rig, control).expect_err(text);
        assert!(why.to_string().contains(text), "{why}");
    }
}

#[test]
fn auto_delete_follows_the_last_binding() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    let spec = ExchangeSpec { kind: "fanout".into(), durable: true, auto_delete: true, ..ExchangeSpec::default() };
    c.ok(&rig, exchange("outer", spec.clone()));
    c.ok(&rig, exchange("inner", spec));
    c.ok(&rig, Control::Bind(binding("outer", Destination::Exchange("inner".into()), "", b"")));
    c.bind(&rig, "inner", "q", "");
    let why = c.ask(&rig, Control::DeleteExchange { owner: OwnerIx(1), name: "inner".into(), if_unused: true });
    assert!(matches!(why, Err(Refusal::PreconditionFailed(_))), "{why:?}");
    // The queue takes its binding along, that the inner exchange, and that the outer one: in one record set.
    c.ok(&rig, Control::DeleteQueue { owner: OwnerIx(1), name: "q".into(), if_unused: false, if_empty: false });
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    for name in ["outer", "inner"] {
        let passive = Declare::Exchange { owner: OwnerIx(1), name: name.into(), spec: ExchangeSpec::default(), passive: true };
        assert!(matches!(c.ask(&rig, Control::Declare(passive)), Err(Refusal::NotFound { .. })), "{name}");
    }
}

#[test]
fn what_was_answered_is_there_after_a_power_cut_with_and_without_a_checkpoint() {
    for checkpoint in [false, true] {
        let rig = Rig::new();
        let mut c = rig.client();
        for queue in ["a", "b", "gone"] {
            c.queue(&rig, queue, durable());
        }
        c.exchange(&rig, "x", "direct");
        c.exchange(&rig, "y", "headers");
        for queue in ["a", "b", "gone"] {
            c.bind(&rig, "x", queue, "k");
        }
        c.bind(&rig, "amq.topic", "a", "t.#");
        c.ok(&rig, Control::Bind(binding("x", Destination::Exchange("y".into()), "k", b"")));
        c.ok(&rig, Control::Bind(binding("y", Destination::Queue("b".into()), "", b"colour=red")));
        if checkpoint {
            rig.checkpoint();
        }
        c.ok(&rig, Control::Unbind(binding("x", Destination::Queue("b".into()), "k", b"")));
        c.ok(&rig, Control::DeleteQueue { owner: OwnerIx(1), name: "gone".into(), if_unused: false, if_empty: false });
        let rig = rig.crash(Crash::PowerCut);
        let mut c = rig.client();
        c.publish_with(&rig, "x", "k", "m", |head, turn| head.origin = turn.intern(b"colour=red"));
        assert_eq!(ready(&mut c, &rig, &["a", "b"]), [1, 1], "checkpoint: {checkpoint}");
        c.publish(&rig, "x", "k", "m");
        c.publish(&rig, "amq.topic", "t", "m");
        assert_eq!(ready(&mut c, &rig, &["a", "b"]), [3, 1], "checkpoint: {checkpoint}");
        // What was recovered can be deleted, and stays deleted over a checkpoint.
        c.ok(&rig, Control::DeleteExchange { owner: OwnerIx(1), name: "y".into(), if_unused: false });
        rig.checkpoint();
        let rig = rig.crash(Crash::PowerCut);
        let mut c = rig.client();
        c.publish_with(&rig, "x", "k", "m", |head, turn| head.origin = turn.intern(b"colour=red"));
        assert_eq!(ready(&mut c, &rig, &["a", "b"]), [4, 1], "checkpoint: {checkpoint}");
    }
}
