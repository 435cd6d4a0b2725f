//! Message groups: all of one go to one consumer, in order, and nobody else is held up by it.

use super::*;
use broker_api::{CreditTo, HEAD_GROUP_ENDS};

fn put_in(c: &mut Client, group: &str, body: &str, ends: bool) {
    let group = c.turn.intern(group.as_bytes());
    c.put_with("", "q", body, |head| {
        head.group = group;
        head.flags |= if ends { HEAD_GROUP_ENDS } else { 0 };
    });
}

fn credit(c: &mut Client, rig: &Rig, ix: u32, n: u32) -> Vec<(u32, String, Seq)> {
    c.turn.credit(CreditTo::Consumer(ConsumerIx(ix)), n);
    c.submit(rig);
    handed(c, rig)
}

#[test]
fn a_group_sticks_to_one_consumer_and_holds_nobody_up() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.consume(&rig, "q", 1, 1);
    c.consume(&rig, "q", 2, 0);
    put_in(&mut c, "g", "g1", false);
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["g1"]);
    // The first has no more credit: what is its stays its.
    for body in ["g2", "g3"] {
        put_in(&mut c, "g", body, false);
    }
    c.put("", "q", "plain");
    put_in(&mut c, "h", "h1", false);
    put_in(&mut c, "g", "g4", false);
    c.submit(&rig);
    assert_eq!(handed(&mut c, &rig), []);
    let got = credit(&mut c, &rig, 2, 10);
    assert_eq!(bodies_to(&got, 2), ["plain", "h1"]);
    assert_eq!(got.len(), 2);
    rig.core.recount().expect("counted");
    assert_eq!(c.counts(&rig, "q"), Some((3, 2)));
    put_in(&mut c, "h", "h2", false);
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 2), ["h2"]);
    let got = credit(&mut c, &rig, 1, 2);
    assert_eq!((bodies_to(&got, 1), got.len()), (vec!["g2", "g3"], 2));
    let got = credit(&mut c, &rig, 1, 5);
    assert_eq!((bodies_to(&got, 1), got.len()), (vec!["g4"], 1));
    rig.core.recount().expect("counted");
}

#[test]
fn a_consumer_that_goes_leaves_its_groups_to_others_in_order() {
    let rig = Rig::new();
    let (mut a, mut b) = (rig.client(), rig.client());
    let q = a.queue(&rig, "q", durable());
    a.consume(&rig, "q", 1, 2);
    for n in 1..=5 {
        put_in(&mut a, "g", &format!("g{n}"), false);
    }
    a.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut a, &rig), 1), ["g1", "g2"]);
    b.consume(&rig, "q", 7, 100);
    assert_eq!(handed(&mut b, &rig), []);
    drop(a);
    let got = handed(&mut b, &rig);
    assert_eq!(bodies_to(&got, 7), ["g1", "g2", "g3", "g4", "g5"]);
    rig.core.recount().expect("counted");
    // What is given back goes to the same one again, before what is behind it.
    let mut c = rig.client();
    c.consume(&rig, "q", 1, 100);
    b.settle(&rig, q, got[2].2, Outcome::Released);
    assert_eq!(bodies_to(&handed(&mut b, &rig), 7), ["g3"]);
    assert_eq!(handed(&mut c, &rig), []);
    // A consumer that is cancelled keeps what it has, and no group.
    put_in(&mut c, "g", "g6", false);
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut b, &rig), 7), ["g6"]);
    b.ok(&rig, Control::Cancel { consumer: ConsumerIx(7) });
    put_in(&mut c, "g", "g7", false);
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["g7"]);
}

/// A client that was refused holds what it has until its connection ends, and so long nothing of its groups goes past it.
#[test]
fn groups_of_an_owner_that_was_stopped_wait_for_what_it_holds() {
    let rig = Rig::new();
    let (mut a, mut b) = (rig.client_of(true), rig.client());
    a.queue(&rig, "q", durable());
    a.queue(&rig, "other", durable());
    a.consume(&rig, "q", 1, 2);
    a.consume(&rig, "other", 2, 2);
    for n in 1..=4 {
        put_in(&mut b, "g", &format!("g{n}"), false);
    }
    b.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut a, &rig), 1), ["g1", "g2"]);
    b.consume(&rig, "q", 7, 100);
    a.put("nowhere", "q", "refused");
    a.submit(&rig);
    assert_eq!(handed(&mut a, &rig), []);
    put_in(&mut b, "g", "g5", false);
    b.put("", "q", "plain");
    b.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut b, &rig), 7), ["plain"]);
    // One without groups has left at once.
    assert_eq!(b.counts(&rig, "other"), Some((0, 0)));
    drop(a);
    assert_eq!(bodies_to(&handed(&mut b, &rig), 7), ["g1", "g2", "g3", "g4", "g5"]);
    rig.core.recount().expect("counted");
}

/// What waits aside is free again even where its consumer held nothing.
#[test]
fn what_waits_for_a_consumer_that_held_nothing_is_free_when_it_goes() {
    for cut in [true, false] {
        let rig = Rig::new();
        let (mut a, mut b) = (rig.client(), rig.client());
        a.queue(&rig, "q", durable());
        a.ok(&rig, Control::Consume(Consume { mode: Mode::Settled, ..consume("q", 1, 1) }));
        put_in(&mut b, "g", "g1", false);
        put_in(&mut b, "g", "g2", false);
        b.submit(&rig);
        assert_eq!(bodies_to(&handed(&mut a, &rig), 1), ["g1"]);
        b.consume(&rig, "q", 7, 100);
        assert_eq!(handed(&mut b, &rig), []);
        match cut {
            true => drop(a),
            false => drop(a.ok(&rig, Control::Cancel { consumer: ConsumerIx(1) })),
        }
        assert_eq!(bodies_to(&handed(&mut b, &rig), 7), ["g2"], "cut: {cut}");
        rig.core.recount().expect("counted");
    }
}

#[test]
fn a_group_that_ends_may_go_to_another() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.consume(&rig, "q", 1, 1);
    c.consume(&rig, "q", 2, 100);
    put_in(&mut c, "g", "g1", false);
    put_in(&mut c, "g", "g2", true);
    put_in(&mut c, "g", "new 1", false);
    put_in(&mut c, "g", "new 2", false);
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["g1"]);
    let got = credit(&mut c, &rig, 1, 1);
    assert_eq!((bodies_to(&got, 1), bodies_to(&got, 2)), (vec!["g2"], vec!["new 1", "new 2"]));
    rig.core.recount().expect("counted");
}

/// More groups than are known one by one: each still has one consumer, and comes in order.
#[test]
fn any_number_of_groups_each_have_one_consumer() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    for ix in 1..=3 {
        c.consume(&rig, "q", ix, 1_000_000);
    }
    let mut whose = std::collections::HashMap::new();
    let (mut next, mut each) = (std::collections::HashMap::new(), [0; 4]);
    for round in 0..4 {
        for group in 0..3000 {
            put_in(&mut c, &format!("g{group}"), &format!("{group} {round}"), round == 1 && group % 2 == 0);
        }
        c.submit(&rig);
        for (to, body, _) in handed(&mut c, &rig) {
            let (group, number) = body.split_once(' ').expect("two words");
            let group: u32 = group.parse().expect("a number");
            assert_eq!(*next.entry(group).or_insert(0), number.parse::<u32>().expect("a number"), "{body}");
            next.insert(group, number.parse::<u32>().expect("a number") + 1);
            // Those that ended may have gone elsewhere.
            if group % 2 == 1 {
                assert_eq!(*whose.entry(group).or_insert(to), to, "{body}");
            }
            each[to as usize] += 1;
        }
    }
    assert_eq!(each.iter().sum::<u32>(), 12_000);
    assert!(each[1..].iter().all(|n| *n > 1000), "{each:?}");
}

/// At the bound everybody waits for the one; it goes on as soon as that one takes.
#[test]
fn what_is_put_aside_has_a_bound() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.consume(&rig, "q", 1, 1);
    c.consume(&rig, "q", 2, 10);
    for n in 0..4098 {
        put_in(&mut c, "g", &n.to_string(), false);
    }
    c.put("", "q", "behind");
    c.submit(&rig);
    let got = handed(&mut c, &rig);
    assert_eq!((bodies_to(&got, 1), bodies_to(&got, 2).len()), (vec!["0"], 0), "4,096 are aside, one more does not fit");
    rig.core.recount().expect("counted");
    let got = credit(&mut c, &rig, 1, 1);
    assert_eq!((bodies_to(&got, 1), bodies_to(&got, 2)), (vec!["1"], vec!["behind"]));
    let got = credit(&mut c, &rig, 1, 5000);
    let numbers: Vec<u32> = bodies_to(&got, 1).iter().map(|body| body.parse().expect("a number")).collect();
    assert_eq!(numbers, (2..4098).collect::<Vec<_>>());
    rig.core.recount().expect("counted");
}

/// What stands aside leaves like anything else: at a bound, by its time, by a purge, with a restart.
#[test]
fn what_is_put_aside_leaves_in_other_ways_too() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", QueueSpec { max_length: Some(3), ..durable() });
    c.consume(&rig, "q", 1, 1);
    c.consume(&rig, "q", 2, 1);
    for n in 0..6 {
        put_in(&mut c, "g", &n.to_string(), false);
        c.submit(&rig);
    }
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["0"]);
    assert_eq!(c.counts(&rig, "q"), Some((3, 2)), "the oldest went");
    rig.core.recount().expect("counted");
    let now = rig.core.now_ms();
    let group = c.turn.intern(b"g");
    c.put_with("", "q", "short", |head| (head.group, head.expires_ms) = (group, now + 1000));
    c.submit(&rig);
    rig.storage.clock().pass_ms(20_000);
    let got = credit(&mut c, &rig, 1, 10);
    assert_eq!(bodies_to(&got, 1), ["4", "5"]);
    rig.core.recount().expect("counted");
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(1) });
    c.consume(&rig, "q", 3, 0);
    for n in 6..9 {
        put_in(&mut c, "g", &n.to_string(), false);
    }
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 2), ["6"]);
    assert_eq!(credit(&mut c, &rig, 3, 5), [], "put aside for the second");
    c.ok(&rig, Control::Purge { owner: OwnerIx(1), queue: QueueName::new("q") });
    assert_eq!(c.counts(&rig, "q"), Some((0, 2)));
    rig.core.recount().expect("counted");
    put_in(&mut c, "g", "9", false);
    c.submit(&rig);
    drop(c);
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    c.consume(&rig, "q", 1, 1);
    c.consume(&rig, "q", 2, 10);
    let got = handed(&mut c, &rig);
    assert!(!got.is_empty() && bodies_to(&got, 2).is_empty(), "read back from the log, and still a group: {got:?}");
    rig.core.recount().expect("counted");
}

/// A page that went away while its messages stood aside comes back.
#[test]
fn what_is_put_aside_may_be_away() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.consume(&rig, "q", 1, 1);
    c.consume(&rig, "q", 2, 10_000);
    for n in 0..1500 {
        put_in(&mut c, "g", &format!("g{n}"), false);
        put_in(&mut c, "", &format!("p{n}"), false);
    }
    c.submit(&rig);
    let got = handed(&mut c, &rig);
    assert_eq!((bodies_to(&got, 1), bodies_to(&got, 2).len()), (vec!["g0"], 1500));
    for _ in 0..3 {
        c.put("", "q", "");
        c.submit(&rig);
        rig.checkpoint();
    }
    rig.core.recount().expect("counted");
    c.got.clear();
    let got = credit(&mut c, &rig, 1, 5000);
    let numbers: Vec<String> = (1..1500).map(|n| format!("g{n}")).collect();
    assert_eq!(bodies_to(&got, 1), numbers);
    rig.core.recount().expect("counted");
}

#[test]
fn selectors_and_groups_go_together() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    let put = |c: &mut Client, body: &str, color: &str| {
        let (group, origin) = (c.turn.intern(b"g"), c.turn.intern(format!("color={color}").as_bytes()));
        c.put_with("", "q", body, |head| (head.group, head.origin) = (group, origin));
    };
    let red = |ix, credit| Consume { selector: Some("color = 'red'".into()), ..consume("q", ix, credit) };
    c.ok(&rig, Control::Consume(red(1, 1)));
    put(&mut c, "red 1", "red");
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["red 1"]);
    c.ok(&rig, Control::Consume(red(2, 10)));
    c.consume(&rig, "q", 3, 10);
    put(&mut c, "red 2", "red");
    // Its group is one's who does not want it.
    put(&mut c, "blue", "blue");
    put(&mut c, "red 3", "red");
    c.put("", "q", "plain");
    c.submit(&rig);
    let got = handed(&mut c, &rig);
    assert_eq!((bodies_to(&got, 3), got.len()), (vec!["blue", "plain"], 2));
    rig.core.recount().expect("counted");
    let got = credit(&mut c, &rig, 1, 10);
    assert_eq!((bodies_to(&got, 1), got.len()), (vec!["red 2", "red 3"], 2));
    put(&mut c, "red 4", "red");
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["red 4"]);
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(1) });
    put(&mut c, "red 5", "red");
    c.submit(&rig);
    let got = handed(&mut c, &rig);
    assert_eq!(got.len(), 1);
    rig.core.recount().expect("counted");
}

/// A consumer that is to be alone takes over what waits for others.
#[test]
fn one_that_is_alone_is_handed_everything_while_it_is_there() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    c.consume(&rig, "q", 1, 1);
    c.consume(&rig, "q", 2, 100);
    for n in 1..=3 {
        put_in(&mut c, "g", &format!("g{n}"), false);
    }
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 1), ["g1"]);
    c.ok(&rig, Control::Consume(Consume { alone: true, priority: -5, ..consume("q", 3, 3) }));
    let got = handed(&mut c, &rig);
    assert_eq!((bodies_to(&got, 3), got.len()), (vec!["g2", "g3"], 2));
    // Of several the first; and the others take nothing that it has no credit for.
    c.ok(&rig, Control::Consume(Consume { alone: true, priority: -5, ..consume("q", 4, 100) }));
    put_in(&mut c, "h", "h1", false);
    c.put("", "q", "plain");
    c.submit(&rig);
    let got = handed(&mut c, &rig);
    assert_eq!((bodies_to(&got, 3), got.len()), (vec!["h1"], 1));
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(3) });
    put_in(&mut c, "h", "h2", false);
    c.submit(&rig);
    let got = handed(&mut c, &rig);
    assert_eq!((bodies_to(&got, 4), got.len()), (vec!["plain", "h2"], 2));
    // Unless one of a higher priority comes.
    c.ok(&rig, Control::Consume(Consume { alone: true, ..consume("q", 5, 100) }));
    put_in(&mut c, "h", "higher", false);
    c.submit(&rig);
    let got = handed(&mut c, &rig);
    assert_eq!((bodies_to(&got, 5), got.len()), (vec!["higher"], 1));
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(5) });
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(4) });
    put_in(&mut c, "h", "h3", false);
    c.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut c, &rig), 2), ["h3"]);
    rig.core.recount().expect("counted");
}

#[test]
fn what_the_same_connection_publishes_can_be_left_out() {
    let rig = Rig::new();
    let (mut a, mut b) = (rig.client(), rig.client());
    a.exchange(&rig, "t", "topic");
    for (queue, no_local) in [("other", true), ("all", false)] {
        a.queue(&rig, queue, QueueSpec { exclusive: true, no_local, ..QueueSpec::default() });
        a.bind(&rig, "t", queue, "#");
        a.consume(&rig, queue, 1 + u32::from(no_local), 100);
    }
    for round in 0..2 {
        for c in [&mut a, &mut b] {
            c.put("t", "x", &round.to_string());
            c.submit(&rig);
        }
    }
    let got = handed(&mut a, &rig);
    assert_eq!((bodies_to(&got, 1), bodies_to(&got, 2)), (vec!["0", "0", "1", "1"], vec!["0", "1"]));
}

/// A queue that stays leaves out what the connection publishes that consumes from it, and what others do while nobody consumes is put in.
#[test]
fn a_durable_queue_leaves_out_what_its_consumers_connection_publishes() {
    let rig = Rig::new();
    let spec = QueueSpec { no_local: true, ..durable() };
    let (mut a, mut b) = (rig.client(), rig.client());
    a.exchange(&rig, "t", "topic");
    a.queue(&rig, "q", spec.clone());
    a.bind(&rig, "t", "q", "#");
    let differs = a.ask(&rig, Control::Declare(Declare::Queue { owner: OwnerIx(1), name: "q".into(), spec: durable(), passive: false }));
    assert!(matches!(differs, Err(Refusal::Inequivalent(what)) if what.property == "no_local"));
    for (consumes, body) in [(false, "before"), (true, "own")] {
        if consumes {
            a.consume(&rig, "q", 1, 100);
        }
        a.put("t", "x", body);
        a.submit(&rig);
    }
    b.put("t", "x", "other's");
    b.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut a, &rig), 1), ["before", "other's"]);
    a.ok(&rig, Control::Cancel { consumer: ConsumerIx(1) });
    a.put("t", "x", "after");
    a.submit(&rig);
    drop(a);
    let rig = rig.crash(Crash::PowerCut);
    let mut a = rig.client();
    a.queue(&rig, "q", spec);
    a.consume(&rig, "q", 1, 100);
    a.put("t", "x", "own again");
    a.submit(&rig);
    assert_eq!(bodies_to(&handed(&mut a, &rig), 1), ["before", "other's", "after"]);
}

/// However many first messages of groups are ready at once.
#[test]
fn groups_are_spread_over_the_consumers() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    for ix in 1..=3 {
        c.consume(&rig, "q", ix, 1000);
    }
    for n in 0..90 {
        put_in(&mut c, &format!("g{}", n % 9), &n.to_string(), false);
    }
    c.submit(&rig);
    let got = handed(&mut c, &rig);
    assert_eq!([1, 2, 3].map(|ix| bodies_to(&got, ix).len()), [30, 30, 30]);
    rig.core.recount().expect("counted");
}
