//! Several virtual hosts.

use super::*;
use broker_api::{Attach, Expiry, Filter, GroupIx, RetainedOn, SessionName, Subscribe, HEAD_RETAIN};
use std::sync::atomic::{AtomicU32, Ordering};

fn make(rig: &Rig, name: &str) -> bool {
    let called = Arc::new(AtomicU32::new(0));
    let count = called.clone();
    let made = rig
        .core
        .create_vhost(
            name,
            Box::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            }),
        )
        .expect("a name");
    rig.settle();
    assert_eq!(called.load(Ordering::Relaxed), 1, "told once");
    made
}

fn names(rig: &Rig) -> Vec<String> {
    rig.core.vhosts().iter().map(ToString::to_string).collect()
}

/// A session with a subscription to everything.
fn subscriber(rig: &Rig, c: &mut Client, name: &str) -> bool {
    let attach = Attach {
        owner: OwnerIx(2),
        session: SessionName::new(name),
        consumer: ConsumerIx(9),
        group: GroupIx(9),
        window_bytes: None,
        clean: false,
        expiry: Expiry::Never,
        parting: None,
    };
    let Reply::Attached(attached) = c.ok(rig, Control::Attach(attach)) else { panic!("attached") };
    c.turn.credit(broker_api::CreditTo::Group(GroupIx(9)), 100);
    c.ok(
        rig,
        Control::Subscribe(Subscribe {
            owner: OwnerIx(2),
            filter: Filter { pattern: "#".into(), separator: b'/' },
            share: None,
            level: 1,
            identifier: 0,
            no_local: false,
            as_published: false,
            retained: RetainedOn::Always,
            selector: None,
        }),
    );
    attached.present
}

fn topic(c: &mut Client, rig: &Rig, key: &str, body: &str, retained: bool) {
    c.put_with("", key, body, |head| {
        (head.topic, head.separator) = (true, b'/');
        head.flags |= if retained { HEAD_RETAIN } else { 0 };
    });
    c.submit(rig);
}

#[test]
fn what_is_in_one_never_reaches_another_and_all_of_it_survives() {
    for checkpoint in [false, true] {
        each_alone(checkpoint);
    }
}

fn each_alone(checkpoint: bool) {
    let rig = Rig::new();
    assert!(make(&rig, "one") && make(&rig, "two") && !make(&rig, "one"));
    for vhost in ["/", "one", "two"] {
        let mut c = rig.client_in(vhost);
        c.queue(&rig, "q", durable());
        c.ok(&rig, exchange("x", ExchangeSpec { kind: "fanout".into(), durable: true, ..ExchangeSpec::default() }));
        c.bind(&rig, "x", "q", "");
        subscriber(&rig, &mut c, "s");
        c.publish(&rig, "x", "", vhost);
        topic(&mut c, &rig, "t", &format!("kept in {vhost}"), true);
    }
    if checkpoint {
        rig.checkpoint();
    }
    let rig = rig.crash(Crash::PowerCut);
    assert_eq!(names(&rig), ["/", "one", "two"]);
    for vhost in ["/", "one", "two"] {
        let mut c = rig.client_in(vhost);
        assert_eq!(c.counts(&rig, "q"), Some((1, 0)), "{vhost}");
        assert_eq!(c.take(&rig, "q").map(|m| m.1).as_deref(), Some(vhost));
        assert!(subscriber(&rig, &mut c, "s"));
        assert_eq!(c.bodies(&rig), [format!("kept in {vhost}"), format!("kept in {vhost}")], "sent, and retained");
        topic(&mut c, &rig, "u", "new", false);
        assert_eq!(c.bodies(&rig), ["new"]);
    }
    rig.core.recount().expect("counters are right");
}

#[test]
fn a_login_chooses_and_an_unknown_one_is_refused() {
    let rig = Rig::new();
    make(&rig, "one");
    let mut c = rig.stranger();
    let login = |name: &str| Control::Login(Login { vhost: Some(VhostName::new(name)), step: LoginStep::Anonymous });
    assert!(matches!(c.ask(&rig, login("none")), Err(Refusal::NotFound { what: "vhost", .. })));
    c.ok(&rig, login("one"));
    c.ok(&rig, Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 });
    assert!(matches!(c.ask(&rig, login("/")), Err(Refusal::PreconditionFailed(_))), "too late to go elsewhere");
    c.ok(&rig, login("one"));
    assert!(rig.core.create_vhost("", Box::new(|| {})).is_err() && rig.core.create_vhost("a\nb", Box::new(|| {})).is_err());
    assert!(rig.core.delete_vhost("/", Box::new(|| {})).is_err());
}

#[test]
fn a_deleted_one_takes_everything_along_and_comes_back_empty() {
    for (checkpoint_before, checkpoint_after) in [(false, false), (true, false), (true, true)] {
        let rig = Rig::new();
        make(&rig, "one");
        let mut c = rig.client_in("one");
        c.queue(&rig, "q", durable());
        c.ok(&rig, exchange("x", ExchangeSpec { kind: "topic".into(), durable: true, ..ExchangeSpec::default() }));
        c.bind(&rig, "x", "q", "#");
        subscriber(&rig, &mut c, "s");
        c.publish(&rig, "x", "k", "m");
        topic(&mut c, &rig, "t", "kept", true);
        let mut other = rig.client();
        other.queue(&rig, "q", durable());
        other.publish(&rig, "", "q", "stays");
        if checkpoint_before {
            rig.checkpoint();
        }
        assert!(rig.core.delete_vhost("one", Box::new(|| {})).expect("deleted"));
        assert!(c.all(&rig).contains(&Got::Kicked), "its connections are told to go");
        // Whoever does not go does nothing any more.
        c.put("", "q", "late");
        c.put_control(Control::Owner { owner: OwnerIx(5), fail_stop: false, channel: 0 });
        c.submit(&rig);
        assert_eq!(c.all(&rig), []);
        drop((c, other));
        if checkpoint_after {
            rig.checkpoint();
        }
        let rig = rig.crash(Crash::PowerCut);
        assert_eq!(names(&rig), ["/"]);
        assert_eq!(rig.core.journal_stats().live_references, 1, "only what is in the other one");
        assert_eq!(rig.client().take(&rig, "q").map(|m| m.1).as_deref(), Some("stays"));
        assert!(make(&rig, "one"));
        let mut c = rig.client_in("one");
        assert_eq!(c.counts(&rig, "q"), None);
        assert!(!subscriber(&rig, &mut c, "s"));
        assert_eq!(c.bodies(&rig), Vec::<String>::new(), "nothing is retained");
        assert!(c.ask(&rig, Control::DeleteExchange { owner: OwnerIx(1), name: "x".into(), if_unused: false }).is_ok());
        rig.core.recount().expect("counters are right");
        drop(c);
        let rig = {
            rig.checkpoint();
            rig.crash(Crash::PowerCut)
        };
        assert_eq!(names(&rig), ["/", "one"]);
    }
}

#[test]
fn the_configuration_names_some() {
    let storage = SimStorage::new(7);
    let with = || Config { vhosts: vec!["a".into(), "b".into()], ..config() };
    let rig = Rig::with(storage.clone(), with());
    rig.client_in("b").queue(&rig, "q", durable());
    drop(rig);
    storage.crash(Crash::Kill);
    let rig = Rig::with(storage, with());
    assert_eq!(names(&rig), ["/", "a", "b"]);
    assert_eq!(rig.client_in("b").counts(&rig, "q"), Some((0, 0)));
}

#[test]
fn there_are_as_many_as_the_operator_lets_be() {
    let rig = Rig::with(SimStorage::new(7), Config { vhosts_max: 2, ..config() });
    assert!(make(&rig, "one") && !make(&rig, "one"));
    let why = rig.core.create_vhost("two", Box::new(|| {}));
    assert!(
        matches!(&why, Err(Refusal::OverLimit { why, .. }) if why == "cannot create vhost 'two': vhost limit of 2 is reached"),
        "{why:?}"
    );
}
