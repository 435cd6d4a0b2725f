//! Policies: what holds for queues and exchanges by their names, and changes while they live.

use super::*;
use crate::{ApplyTo, Policy, PolicyKind, PolicyValue};

fn number(n: i64) -> PolicyValue {
    PolicyValue::Int(n)
}

fn text(text: &str) -> PolicyValue {
    PolicyValue::Text(text.to_owned())
}

fn policy(name: &str, pattern: &str, priority: i32, definition: &[(&str, PolicyValue)]) -> Policy {
    let definition = definition.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Policy { name: name.to_owned(), pattern: pattern.to_owned(), apply_to: ApplyTo::All, priority, definition }
}

/// Sets a policy of users for `/`.
fn set(rig: &Rig, policy: Policy) {
    set_of(rig, PolicyKind::User, policy);
}

fn set_of(rig: &Rig, kind: PolicyKind, policy: Policy) {
    assert!(rig.core.set_policy("/", kind, policy, Box::new(|| {})).expect("a policy"));
    rig.settle();
}

fn clear(rig: &Rig, name: &str) -> bool {
    let cleared = rig.core.clear_policy("/", PolicyKind::User, name, Box::new(|| {})).expect("a virtual host");
    rig.settle();
    cleared
}

fn limited(messages: u64) -> QueueSpec {
    QueueSpec { max_length: Some(messages), ..durable() }
}

/// How many of twenty messages stay.
fn kept(rig: &Rig, c: &mut Client, queue: &str) -> u64 {
    for n in 0..20 {
        c.publish(rig, "", queue, &n.to_string());
    }
    c.counts(rig, queue).expect("there").0
}

#[test]
fn of_numbers_the_lower_holds_whoever_set_it() {
    let rig = Rig::new();
    let mut c = rig.client();
    set(&rig, policy("five", "^q", 0, &[("max-length", number(5))]));
    for (name, spec, stay) in [("q", durable(), 5), ("q3", limited(3), 3), ("q9", limited(9), 5), ("other", limited(9), 9)] {
        c.queue(&rig, name, spec);
        assert_eq!(kept(&rig, &mut c, name), stay, "{name}");
    }
    set_of(&rig, PolicyKind::Operator, policy("two", "3$|q$", 0, &[("max-length", number(4))]));
    assert_eq!(kept(&rig, &mut c, "q"), 4);
    assert_eq!(kept(&rig, &mut c, "q3"), 3);
    set(&rig, policy("five", "^q", 0, &[("max-length", number(7))]));
    assert_eq!((kept(&rig, &mut c, "q"), kept(&rig, &mut c, "q9")), (4, 7));
}

#[test]
fn the_highest_priority_applies_then_the_first_name_and_the_kind_has_to_fit() {
    let rig = Rig::new();
    let mut c = rig.client();
    let of = |apply_to, n, name: &str, priority| Policy { apply_to, ..policy(name, "q", priority, &[("max-length", number(n))]) };
    set(&rig, of(ApplyTo::Exchanges, 1, "exchanges", 9));
    set(&rig, of(ApplyTo::QuorumQueues, 2, "quorum", 8));
    set(&rig, of(ApplyTo::ClassicQueues, 3, "classic", 7));
    set(&rig, of(ApplyTo::Queues, 4, "b", 5));
    set(&rig, of(ApplyTo::Queues, 5, "a", 5));
    c.queue(&rig, "q", durable());
    c.queue(&rig, "quorum q", QueueSpec { counts_attempts: true, ..durable() });
    assert_eq!((kept(&rig, &mut c, "q"), kept(&rig, &mut c, "quorum q")), (3, 2));
    assert!(clear(&rig, "classic") && !clear(&rig, "classic"));
    assert_eq!(kept(&rig, &mut c, "q"), 5);
    let names: Vec<_> = rig.core.policies("/", PolicyKind::User).expect("a list").into_iter().map(|policy| policy.name).collect();
    assert_eq!(names, ["exchanges", "quorum", "a", "b"]);
    assert!(rig.core.policies("/", PolicyKind::Operator).expect("a list").is_empty());
    assert!(rig.core.policies("nope", PolicyKind::User).is_err());
}

#[test]
fn a_lowered_bound_is_reached_in_batches() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    for n in 0..2000 {
        c.put("", "q", &n.to_string());
    }
    c.submit(&rig);
    assert!(rig.core.set_policy("/", PolicyKind::User, policy("p", "q", 0, &[("max-length", number(10))]), Box::new(|| {})).expect("set"));
    assert!(rig.steps.time(), "the policy is looked at");
    assert!(rig.steps.time(), "a first batch goes");
    // It puts out no more than a batch either.
    c.put("", "q", "new");
    c.send();
    let mut looks = 0;
    while rig.steps.time() {
        looks += 1;
    }
    assert!((5..16).contains(&looks), "{looks} batches");
    rig.settle();
    assert_eq!(c.counts(&rig, "q"), Some((10, 0)));
    let first = c.take(&rig, "q").expect("a message").1;
    assert_eq!(first, "1991", "the oldest went");
    rig.core.recount().expect("counts agree");
}

#[test]
fn a_queue_that_refuses_keeps_what_it_has() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    kept(&rig, &mut c, "q");
    set(&rig, policy("p", "q", 0, &[("max-length", number(10)), ("overflow", text("reject-publish"))]));
    assert_eq!(c.counts(&rig, "q"), Some((20, 0)));
    assert_eq!(c.publish(&rig, "", "q", "x"), [Got::Refused(21, Refusal::QueueFull), Got::Done(21)]);
    // What it was declared with comes before the policy.
    c.queue(&rig, "q drops", QueueSpec { arguments: b"x-overflow=drop-head".to_vec(), format: LINES, ..durable() });
    assert_eq!(kept(&rig, &mut c, "q drops"), 10);
}

#[test]
fn time_to_live_expiry_and_dead_letters_by_policy() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.exchange(&rig, "dlx", "fanout");
    c.queue(&rig, "dead", durable());
    c.bind(&rig, "dlx", "dead", "");
    c.queue(&rig, "q", durable());
    c.publish(&rig, "", "q", "without");
    let definition = [
        ("message-ttl", number(2000)),
        ("dead-letter-exchange", text("dlx")),
        ("dead-letter-routing-key", text("k")),
        ("expires", number(9000)),
    ];
    set(&rig, policy("p", "^q", 0, &definition));
    c.publish(&rig, "", "q", "with");
    assert_eq!(c.take(&rig, "q").expect("a message").1, "without", "what came before the policy stays");
    rig.storage.clock().pass_ms(3000);
    rig.settle();
    let (_, body, said) = c.take(&rig, "dead").expect("dead-lettered");
    assert_eq!((body.as_str(), said.key.as_str()), ("with", "k"));
    rig.storage.clock().pass_ms(7000);
    rig.settle();
    assert_eq!(c.counts(&rig, "q"), None, "nobody used it");
    assert!(c.counts(&rig, "dead").is_some());
}

#[test]
fn a_shorter_and_a_longer_expiry_take_the_place_of_the_one_before() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.queue(&rig, "q2", durable());
    for expires in [50_000, 3_000, 20_000] {
        set(&rig, policy("p", "^q", 0, &[("expires", number(expires))]));
    }
    rig.storage.clock().pass_ms(10_000);
    rig.settle();
    assert!(c.counts(&rig, "q").is_some());
    clear(&rig, "p");
    rig.storage.clock().pass_ms(100_000);
    rig.settle();
    assert!(c.counts(&rig, "q").is_some() && c.counts(&rig, "q2").is_some());
}

#[test]
fn the_delivery_limit_is_for_quorum_queues() {
    let rig = Rig::new();
    let mut c = rig.client();
    set(&rig, policy("p", "q", 0, &[("delivery-limit", number(1))]));
    for (name, counts_attempts, left) in [("classic q", false, 1), ("quorum q", true, 0)] {
        let id = c.queue(&rig, name, QueueSpec { counts_attempts, ..durable() });
        c.publish(&rig, "", name, "x");
        for _ in 0..2 {
            let (seq, ..) = c.take(&rig, name).expect("a message");
            c.settle(&rig, id, seq, Outcome::Modified);
        }
        assert_eq!(c.counts(&rig, name), Some((left, 0)), "{name}");
    }
}

#[test]
fn the_redelivery_limit_is_for_queues_of_every_type() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "dead", durable());
    let settings = [("redelivery-limit", number(1)), ("dead-letter-exchange", text("")), ("dead-letter-routing-key", text("dead"))];
    set(&rig, policy("p", " q$", 0, &settings));
    for (name, counts_attempts) in [("classic q", false), ("quorum q", true)] {
        let id = c.queue(&rig, name, QueueSpec { counts_attempts, ..durable() });
        c.publish(&rig, "", name, name);
        for left in [1, 0] {
            let (seq, ..) = c.take(&rig, name).expect("a message");
            c.settle(&rig, id, seq, Outcome::Modified);
            assert_eq!(c.counts(&rig, name), Some((left, 0)), "{name}");
        }
    }
    assert_eq!(c.counts(&rig, "dead"), Some((2, 0)));
}

#[test]
fn an_alternate_exchange_by_policy_changes_routes_that_are_remembered() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "rest", durable());
    c.exchange(&rig, "unrouted", "fanout");
    c.bind(&rig, "unrouted", "rest", "");
    c.exchange(&rig, "x", "direct");
    c.publish(&rig, "x", "k", "1");
    let alternate = policy("p", "^x$", 0, &[("alternate-exchange", text("unrouted"))]);
    set(&rig, alternate.clone());
    c.publish(&rig, "x", "k", "2");
    assert_eq!(c.counts(&rig, "rest"), Some((1, 0)));
    clear(&rig, "p");
    c.publish(&rig, "x", "k", "3");
    assert_eq!(c.counts(&rig, "rest"), Some((1, 0)));
    // It holds for exchanges that come later, and after a restart.
    set(&rig, alternate);
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    c.publish(&rig, "x", "k", "4");
    assert_eq!(c.counts(&rig, "rest"), Some((2, 0)));
}

#[test]
fn policies_survive_and_hold_after_a_restart_as_before() {
    for checkpoint in [false, true] {
        let rig = Rig::new();
        let mut c = rig.client();
        rig.core.create_vhost("other", Box::new(|| {})).expect("made");
        let mut values = policy("p", "^q", -3, &[("max-length", number(5)), ("message-ttl", number(60_000)), ("ha-mode", text("all"))]);
        values.apply_to = ApplyTo::ClassicQueues;
        values.definition.insert("ha-params".into(), PolicyValue::List(vec![text("a"), PolicyValue::Bool(true), number(-1)]));
        set(&rig, values.clone());
        set(&rig, policy("gone", "x", 0, &[("max-length", number(1))]));
        set_of(&rig, PolicyKind::Operator, policy("op", "2", 0, &[("max-length", number(2))]));
        rig.core
            .set_policy("other", PolicyKind::User, policy("theirs", "", 0, &[("max-length", number(1))]), Box::new(|| {}))
            .expect("set");
        clear(&rig, "gone");
        for name in ["q1", "q2"] {
            c.queue(&rig, name, durable());
            kept(&rig, &mut c, name);
        }
        if checkpoint {
            rig.checkpoint();
        }
        let rig = rig.crash(Crash::PowerCut);
        rig.settle();
        assert_eq!(rig.core.policies("/", PolicyKind::User).expect("a list"), [values]);
        assert_eq!(rig.core.policies("/", PolicyKind::Operator).expect("a list").len(), 1);
        assert_eq!(rig.core.policies("other", PolicyKind::User).expect("a list").len(), 1);
        let mut c = rig.client();
        assert_eq!((kept(&rig, &mut c, "q1"), kept(&rig, &mut c, "q2")), (5, 2), "checkpoint {checkpoint}");
        // What came before the crash has its time to live too.
        rig.storage.clock().pass_ms(70_000);
        rig.settle();
        assert_eq!(c.counts(&rig, "q1"), Some((0, 0)), "checkpoint {checkpoint}");
    }
}

#[test]
fn a_deleted_virtual_host_takes_its_policies_along() {
    let rig = Rig::new();
    rig.core.create_vhost("v", Box::new(|| {})).expect("made");
    rig.core.set_policy("v", PolicyKind::User, policy("p", "", 0, &[("max-length", number(1))]), Box::new(|| {})).expect("set");
    rig.checkpoint();
    rig.core.delete_vhost("v", Box::new(|| {})).expect("deleted");
    rig.checkpoint();
    rig.core.create_vhost("v", Box::new(|| {})).expect("made");
    rig.settle();
    let rig = rig.crash(Crash::PowerCut);
    assert!(rig.core.policies("v", PolicyKind::User).expect("a list").is_empty());
}

#[test]
fn what_is_no_policy_is_refused_with_a_reason() {
    let rig = Rig::new();
    let set = |policy: Policy| rig.core.set_policy("/", PolicyKind::User, policy, Box::new(|| {}));
    let why = |policy: Policy| set(policy).expect_err("refused").to_string();
    assert_eq!(why(policy("p", "q", 0, &[("max-lenght", number(1))])), "invalid policy: max-lenght: not a policy setting that is known");
    assert!(why(policy("p", "(", 0, &[("max-length", number(1))])).contains("pattern"));
    assert_eq!(why(policy("", "q", 0, &[("max-length", number(1))])), "invalid policy: the name has to have 1 to 255 bytes");
    let other = rig.core.set_policy("nope", PolicyKind::User, policy("p", "q", 0, &[("expires", number(1))]), Box::new(|| {}));
    assert_eq!(other, Err(Refusal::NotFound { what: "vhost", name: "nope".into() }));
    assert!(set(policy("p", "q", 0, &[("max-length", number(1))])).expect("set"));
    assert!(!set(policy("p", "q", 0, &[("max-length", number(1))])).expect("the same"), "nothing changed");
    for n in 1..1000 {
        set(policy(&n.to_string(), "^a$", 0, &[("max-length", number(1))])).expect("set");
    }
    assert!(why(policy("more", "q", 0, &[("max-length", number(1))])).contains("1000 policies"));
}

#[test]
fn consumers_are_told_how_long_they_may_take() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", QueueSpec { consumer_timeout_ms: Some(5_000), ..durable() });
    c.queue(&rig, "other", durable());
    c.publish(&rig, "", "q", "m");
    c.consume(&rig, "q", 1, 10);
    c.consume(&rig, "other", 2, 10);
    let told = |c: &mut Client| c.all(&rig).into_iter().filter(|got| !matches!(got, Got::Reply(..))).collect::<Vec<_>>();
    assert!(matches!(told(&mut c)[..], [Got::Within(1, Some(5_000)), Got::Message { to: 1, .. }]));
    set(&rig, policy("p", "", 0, &[("consumer-timeout", number(3_000))]));
    let mut both = told(&mut c);
    both.sort_by_key(|got| if let Got::Within(to, _) = got { *to } else { 0 });
    assert_eq!(both, [Got::Within(1, Some(3_000)), Got::Within(2, Some(3_000))]);
    assert!(clear(&rig, "p"));
    let mut both = told(&mut c);
    both.sort_by_key(|got| if let Got::Within(to, _) = got { *to } else { 0 });
    assert_eq!(both, [Got::Within(1, Some(5_000)), Got::Within(2, None)]);
    // It is a part of what the queue is.
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    c.consume(&rig, "q", 1, 10);
    assert!(c.all(&rig).contains(&Got::Within(1, Some(5_000))));
}

#[test]
fn queues_that_a_policy_makes_when_they_are_named() {
    let rig = Rig::new();
    let mut c = rig.client();
    let named = |protocol: &str| policy("p", "^auto", 0, &[("auto-create", PolicyValue::List(vec![text(protocol)]))]);
    // Of clients of another protocol it says nothing.
    set(&rig, named("stomp"));
    c.publish(&rig, "", "auto.1", "lost");
    assert_eq!(c.counts(&rig, "auto.1"), None);
    assert!(matches!(c.ask(&rig, Control::Consume(consume("auto.1", 1, 1))), Err(Refusal::NotFound { .. })));
    set(&rig, policy("p", "^auto", 0, &[("auto-create", PolicyValue::Bool(true))]));
    for body in ["1", "2"] {
        c.publish(&rig, "", "auto.1", body);
    }
    c.consume(&rig, "auto.2", 2, 1);
    c.publish(&rig, "", "other", "lost");
    c.publish(&rig, "amq.direct", "auto.3", "lost");
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    let counts = ["auto.1", "auto.2", "auto.3", "other", "amq.direct"].map(|name| c.counts(&rig, name));
    assert_eq!(counts, [Some((2, 0)), Some((0, 0)), None, None, None]);
    // Who asks for one message has it made as well.
    assert_eq!(c.take(&rig, "auto.4"), None);
    assert_eq!(c.counts(&rig, "auto.4"), Some((0, 0)));
    let wrong = policy("w", "x", 0, &[("auto-create", text("mqtt"))]);
    let refused = rig.core.set_policy("/", PolicyKind::User, wrong, Box::new(|| {}));
    assert!(refused.is_err_and(|why| why.to_string().contains("auto-create: a list of protocols (amqp, stomp), or true or false")));
}
