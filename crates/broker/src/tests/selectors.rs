//! Consumers, subscriptions and queues with selectors, and consumers that only look.

use super::*;
use broker_api::{Attach, Expiry, Filter, GroupIx, RetainedOn, SessionName, Subscribe};

/// Appends a publish with headers to a queue.
fn put_to(c: &mut Client, queue: &str, body: &str, headers: &str) {
    let origin = c.turn.intern(headers.as_bytes());
    c.put_with("", queue, body, |head| head.origin = origin);
}

fn selecting(queue: &str, ix: u32, credit: u32, selector: &str) -> Consume {
    Consume { selector: Some(selector.into()), ..consume(queue, ix, credit) }
}

fn browsing(queue: &str, ix: u32, credit: u32) -> Consume {
    Consume { mode: Mode::Browse, ..consume(queue, ix, credit) }
}

/// With something to write, or there would be none.
fn checkpoint(c: &mut Client, rig: &Rig) {
    put_to(c, "x", "", "");
    c.submit(rig);
    rig.checkpoint();
}

#[test]
fn a_consumer_with_a_selector_leaves_the_others_alone() {
    let rig = Rig::new();
    let mut c = rig.client();
    let q = c.queue(&rig, "q", durable());
    for n in 0..6 {
        put_to(&mut c, "q", &n.to_string(), if n % 3 == 0 { "color=red" } else { "color=blue" });
    }
    c.submit(&rig);
    c.ok(&rig, Control::Consume(selecting("q", 1, 100, "color = 'red'")));
    let got = handed(&mut c, &rig);
    assert_eq!(bodies_to(&got, 1), ["0", "3"]);
    assert_eq!(c.counts(&rig, "q"), Some((4, 1)));
    // What comes is offered as it comes.
    put_to(&mut c, "q", "6", "color=blue");
    put_to(&mut c, "q", "7", "color=red");
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["7"]);
    c.consume(&rig, "q", 2, 3);
    let rest = handed(&mut c, &rig);
    assert_eq!(bodies_to(&rest, 2), ["1", "2", "4"]);
    // What comes back goes to who may have it, whoever had it.
    c.settle(&rig, q, got[1].2, Outcome::Released);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["3"]);
    c.settle(&rig, q, rest[0].2, Outcome::Released);
    assert_eq!(handed(&mut c, &rig), [], "1 is blue, and who takes blue has no credit");
    c.turn.credit(broker_api::CreditTo::Consumer(ConsumerIx(2)), 2);
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 2), ["1", "5"]);
    rig.core.recount().expect("counted");
}

#[test]
fn credit_bounds_what_is_found_and_what_a_plain_consumer_gave_back_is_found_too() {
    let rig = Rig::new();
    let mut c = rig.client();
    let q = c.queue(&rig, "q", durable());
    c.consume(&rig, "q", 2, 2);
    for n in 0..8 {
        put_to(&mut c, "q", &n.to_string(), "color=red");
    }
    c.submit(&rig);
    let plain = handed(&mut c, &rig);
    assert_eq!(bodies_to(&plain, 2), ["0", "1"]);
    c.ok(&rig, Control::Consume(selecting("q", 1, 3, "color = 'red'")));
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["2", "3", "4"]);
    c.settle(&rig, q, plain[1].2, Outcome::Released);
    assert_eq!(handed(&mut c, &rig), []);
    c.turn.credit(broker_api::CreditTo::Consumer(ConsumerIx(1)), 2);
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["1", "5"], "at its original place");
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(1) });
    c.ok(&rig, Control::Consume(selecting("q", 3, 9, "color = 'red'")));
    assert_eq!(bodies_to(&handed(&mut c, &rig), 3), ["6", "7"]);
    rig.core.recount().expect("counted");
}

/// Neither references nor messages in memory: the reader thread looks.
#[test]
fn a_backlog_is_looked_through_where_it_lies() {
    for transient in [false, true] {
        let rig = Rig::new();
        let mut c = rig.client();
        c.queue(&rig, "q", durable());
        c.queue(&rig, "x", durable());
        let mut wanted = Vec::new();
        for n in 0..3000 {
            let red = n % 100 == 7;
            put_to(&mut c, "q", &n.to_string(), if red { "color=red" } else { "color=blue" });
            if red {
                wanted.push(n.to_string());
            }
            if n % 500 == 499 {
                if transient {
                    c.turn.heads.iter_mut().for_each(|head| head.flags &= !HEAD_DURABLE);
                }
                c.submit(&rig);
            }
        }
        if !transient {
            checkpoint(&mut c, &rig);
            checkpoint(&mut c, &rig);
        }
        c.got.clear();
        c.ok(&rig, Control::Consume(selecting("q", 1, 1000, "color = 'red'")));
        let got = handed(&mut c, &rig);
        assert_eq!(bodies_to(&got, 1), wanted, "transient: {transient}");
        assert_eq!(c.counts(&rig, "q"), Some((2970, 1)));
        rig.core.recount().expect("counted");
        c.consume(&rig, "q", 2, 5);
        assert_eq!(bodies_to(&handed(&mut c, &rig), 2), ["0", "1", "2", "3", "4"]);
        // All the rest, in order.
        c.turn.credit(broker_api::CreditTo::Consumer(ConsumerIx(2)), 10_000);
        c.submit(&rig);
        let rest = handed(&mut c, &rig);
        let numbers: Vec<u32> = bodies_to(&rest, 2).iter().map(|body| body.parse().expect("a number")).collect();
        assert!(numbers.is_sorted() && numbers.len() == 2965, "{}", numbers.len());
        rig.core.recount().expect("counted");
    }
}

#[test]
fn the_highest_priority_is_found_first_and_a_transaction_hides_what_is_behind_it() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", QueueSpec { max_priority: 5, ..durable() });
    for (body, priority) in [("low", 0), ("high", 5), ("middle", 3)] {
        let origin = c.turn.intern(b"color=red");
        c.put_with("", "q", body, |head| (head.origin, head.priority) = (origin, priority));
    }
    c.submit(&rig);
    c.ok(&rig, Control::Consume(selecting("q", 1, 2, "JMSPriority >= 0")));
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["high", "middle"]);
    let mut d = rig.client();
    d.queue(&rig, "t", durable());
    d.ok(&rig, Control::Consume(selecting("t", 1, 9, "color = 'red'")));
    d.scope(Some(1));
    put_to(&mut d, "t", "in", "color=red");
    d.scope(None);
    d.put_control(Control::Commit { owner: OwnerIx(1), tx: TxIx(1) });
    put_to(&mut d, "t", "behind", "color=red");
    d.send();
    assert!(!d.look().iter().any(|got| matches!(got, Got::Message { .. })), "nothing is there before the commit point");
    assert_eq!(bodies_to(&handed(&mut d, &rig), 1), ["in", "behind"]);
    rig.core.recount().expect("counted");
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    let refused = |c: &mut Client, control: Control| match c.ask(&rig, control) {
        Err(Refusal::Invalid { what: "selector", why }) => why,
        other => panic!("{other:?}"),
    };
    let why = "at character 9: expected a value, found the end";
    assert_eq!(refused(&mut c, Control::Consume(selecting("q", 1, 1, "color = "))), why);
    let spec = QueueSpec { selector: Some("color = ".into()), ..durable() };
    let declare = Declare::Queue { owner: OwnerIx(1), name: QueueName::new("r"), spec, passive: false };
    assert_eq!(refused(&mut c, Control::Declare(declare)), why);
    assert_eq!(c.counts(&rig, "r"), None);
    assert_eq!(c.counts(&rig, "q"), Some((0, 0)));
}

#[test]
fn a_queue_with_a_selector_is_given_only_what_matches_also_after_a_restart() {
    let mut rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "all", durable());
    c.queue(&rig, "red", QueueSpec { selector: Some("color = 'red'".into()), ..durable() });
    c.bind(&rig, "amq.fanout", "all", "");
    c.bind(&rig, "amq.fanout", "red", "");
    c.bind(&rig, "amq.topic", "red", "#");
    for restart in [false, true] {
        if restart {
            rig = rig.crash(Crash::Kill);
            c = rig.client();
        }
        for exchange in ["amq.fanout", "amq.topic"] {
            for color in ["color=red", "color=blue", ""] {
                let origin = c.turn.intern(color.as_bytes());
                c.put_with(exchange, "k", color, |head| head.origin = origin);
            }
        }
        c.submit(&rig);
        let (mut all, mut red) = (0, 0);
        while c.take(&rig, "all").is_some() {
            all += 1;
        }
        while let Some((_, body, _)) = c.take(&rig, "red") {
            assert_eq!(body, "color=red");
            red += 1;
        }
        // What was taken and not settled before the crash comes again.
        assert_eq!((all, red), if restart { (6, 4) } else { (3, 2) });
    }
}

#[test]
fn a_subscription_with_a_selector_is_sent_only_what_matches() {
    let rig = Rig::new();
    let mut c = rig.client();
    let attach = Attach {
        owner: OwnerIx(2),
        session: SessionName::new("s"),
        consumer: ConsumerIx(9),
        group: GroupIx(9),
        window_bytes: None,
        clean: true,
        expiry: Expiry::Never,
        parting: None,
    };
    c.ok(&rig, Control::Attach(attach));
    c.turn.credit(broker_api::CreditTo::Group(GroupIx(9)), 100);
    let subscribe = |pattern: &str, selector: &str, share: Option<&str>| {
        Control::Subscribe(Subscribe {
            owner: OwnerIx(2),
            filter: Filter { pattern: pattern.into(), separator: b'/' },
            share: share.map(Into::into),
            level: 1,
            identifier: 0,
            no_local: false,
            as_published: false,
            retained: RetainedOn::Always,
            selector: Some(selector.into()),
        })
    };
    let publish = |c: &mut Client, topic: &str, body: &str, headers: &str, retain: bool| {
        let origin = c.turn.intern(headers.as_bytes());
        c.put_with("", topic, body, |head| {
            (head.origin, head.topic, head.separator) = (origin, true, b'/');
            head.flags |= if retain { broker_api::HEAD_RETAIN } else { 0 };
        });
    };
    publish(&mut c, "r/1", "kept red", "color=red", true);
    publish(&mut c, "r/2", "kept blue", "color=blue", true);
    c.ok(&rig, subscribe("t/#", "color = 'red'", None));
    c.ok(&rig, subscribe("r/#", "color = 'red'", None));
    for color in ["red", "blue", "red", "green"] {
        publish(&mut c, "t/x", color, &format!("color={color}"), false);
    }
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 9), ["kept red", "red", "red"]);
    assert!(matches!(c.ask(&rig, subscribe("t/#", "color = 'red'", Some("g"))), Err(Refusal::Invalid { what: "selector", .. })));
    drop(c);
    // It stays with the session.
    let rig = rig.crash(Crash::Kill);
    let mut c = rig.client();
    for color in ["blue", "red"] {
        publish(&mut c, "t/x", color, &format!("color={color}"), false);
    }
    c.submit(&rig);
    assert_eq!(rig.core.session_depth("/", "s"), Some(4), "three that were not settled, and one of the two");
}

#[test]
fn who_only_looks_sees_everything_in_order_and_takes_nothing() {
    let rig = Rig::new();
    let mut c = rig.client();
    let q = c.queue(&rig, "q", durable());
    for n in 0..1000 {
        put_to(&mut c, "q", &n.to_string(), if n % 2 == 0 { "even=yes" } else { "" });
    }
    c.submit(&rig);
    rig.checkpoint();
    let first = c.take(&rig, "q").expect("a message");
    c.got.clear();
    c.ok(&rig, Control::Consume(browsing("q", 1, u32::MAX)));
    put_to(&mut c, "q", "late", "even=yes");
    c.submit(&rig);
    let ended = |c: &Client, ix: u32| c.got.iter().filter(|got| **got == Got::Browsed(ix)).count();
    c.pull(&rig);
    assert_eq!((ended(&c, 1), c.got.iter().position(|got| *got == Got::Browsed(1)).is_some()), (1, true));
    let last = c.got.iter().rposition(|got| matches!(got, Got::Message { to: 1, .. }));
    assert!(last < c.got.iter().position(|got| *got == Got::Browsed(1)), "the end comes last");
    let seen = handed(&mut c, &rig);
    let expected: Vec<String> = (1..1000).map(|n| n.to_string()).collect();
    assert_eq!(bodies_to(&seen, 1), expected, "not what somebody has, and not what came later");
    assert_eq!(c.counts(&rig, "q"), Some((1000, 0)), "who looks is no consumer");
    // Credit and a selector hold for who looks, too.
    c.ok(&rig, Control::Consume(Consume { selector: Some("even = 'yes'".into()), ..browsing("q", 2, 3) }));
    assert_eq!((bodies_to(&handed(&mut c, &rig), 2), ended(&c, 2)), (vec!["2", "4", "6"], 0));
    c.turn.credit(broker_api::CreditTo::Consumer(ConsumerIx(2)), 2000);
    c.submit(&rig);
    c.pull(&rig);
    assert_eq!(ended(&c, 2), 1);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 2).len(), 497);
    // Nothing that it saw is its to settle.
    c.settle(&rig, q, Seq::new(0, 5), Outcome::Accepted);
    c.settle(&rig, q, first.0, Outcome::Accepted);
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(2) });
    assert_eq!(c.counts(&rig, "q"), Some((1000, 0)));
    c.ok(&rig, Control::Consume(browsing("q", 3, 0)));
    let delete = Control::DeleteQueue { owner: OwnerIx(1), name: "q".into(), if_unused: true, if_empty: false };
    c.ok(&rig, delete);
    assert!(c.got.contains(&Got::Ended(3)));
    rig.core.recount().expect("counted");
}

#[test]
fn looking_into_an_empty_queue_ends_at_once() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.ok(&rig, Control::Consume(browsing("q", 1, 10)));
    c.pull(&rig);
    assert!(c.got.contains(&Got::Browsed(1)));
}

/// Whatever happens: each message is with one who may have it, in order, and none is left that somebody would take.
#[test]
fn consumers_come_and_go_and_give_back() {
    for seed in 0..60u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = move |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        let rig = Rig::new();
        let mut c = rig.client();
        let q = c.queue(&rig, "q", QueueSpec { max_priority: 2, ..durable() });
        c.queue(&rig, "x", durable());
        let kinds = [None, Some("k = 'a'"), Some("k = 'b' OR k = 'a'"), Some("k IS NULL")];
        let may = |kind: usize, body: &str| match kind {
            0 => true,
            1 => body.starts_with('a'),
            2 => !body.starts_with('c'),
            _ => body.starts_with('c'),
        };
        let mut consumers: Vec<(u32, usize)> = Vec::new();
        let mut held: Vec<(u32, String, Seq)> = Vec::new();
        let mut settled = 0;
        let (mut published, mut next) = (0u32, 1u32);
        for _ in 0..120 {
            match random(10) {
                0..=3 => {
                    for _ in 0..=random(40) {
                        let kind = ["a", "b", "c"][random(3) as usize];
                        let origin = c.turn.intern(format!("{}={kind}", if kind == "c" { "x" } else { "k" }).as_bytes());
                        let (priority, transient) = (random(3) as u8, random(2) == 0);
                        c.put_with("", "q", &format!("{kind}{published}"), |head| {
                            (head.origin, head.priority) = (origin, priority);
                            head.flags &= if transient { !HEAD_DURABLE } else { !0 };
                        });
                        published += 1;
                    }
                    c.submit(&rig);
                }
                4 if consumers.len() < 4 => {
                    let kind = random(4) as usize;
                    let selector = kinds[kind].map(Into::into);
                    c.ok(&rig, Control::Consume(Consume { selector, ..consume("q", next, random(20) as u32) }));
                    consumers.push((next, kind));
                    next += 1;
                }
                5 if !consumers.is_empty() => {
                    let (ix, _) = consumers.swap_remove(random(consumers.len() as u64) as usize);
                    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(ix) });
                }
                6 if !consumers.is_empty() => {
                    let (ix, _) = consumers[random(consumers.len() as u64) as usize];
                    c.turn.credit(broker_api::CreditTo::Consumer(ConsumerIx(ix)), 1 + random(30) as u32);
                    c.submit(&rig);
                }
                7 if random(4) == 0 => checkpoint(&mut c, &rig),
                _ if !held.is_empty() => {
                    let outcome = if random(2) == 0 { Outcome::Accepted } else { Outcome::Released };
                    for _ in 0..=random(5).min(held.len() as u64 - 1) {
                        let (_, _, seq) = held.swap_remove(random(held.len() as u64) as usize);
                        c.put_settle(q, seq, outcome);
                        settled += u64::from(outcome == Outcome::Accepted);
                    }
                    c.submit(&rig);
                }
                _ => {}
            }
            let fresh = handed(&mut c, &rig);
            for (to, body, seq) in &fresh {
                // A consumer that was cancelled a moment ago may still hold something.
                let kind = consumers.iter().find(|(ix, _)| ix == to).map_or(0, |(_, kind)| *kind);
                assert!(may(kind, body), "seed {seed}: {body} to one of kind {kind}");
                assert!(!held.iter().any(|(_, _, other)| other == seq), "seed {seed}: {body} is with two");
            }
            held.extend(fresh);
            rig.core.recount().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        }
        // Nobody who has credit is left waiting for what he may have.
        consumers.iter().for_each(|(ix, _)| c.turn.credit(broker_api::CreditTo::Consumer(ConsumerIx(*ix)), 1_000_000));
        c.submit(&rig);
        held.extend(handed(&mut c, &rig));
        let before = held.len() as u64 + settled;
        c.consume(&rig, "q", next, u32::MAX);
        let rest = handed(&mut c, &rig);
        assert_eq!(before + rest.len() as u64, u64::from(published), "seed {seed}");
        for (_, body, _) in &rest {
            assert!(!consumers.iter().any(|(_, kind)| may(*kind, body)), "seed {seed}: {body} was left");
        }
        rig.core.recount().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}
