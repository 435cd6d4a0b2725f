//! The life of queues and of those who use them.

use super::*;

#[test]
fn an_exclusive_queue_is_its_connections_alone_and_goes_with_it() {
    let rig = Rig::new();
    let (mut mine, mut other) = (rig.client(), rig.client());
    mine.queue(&rig, "q", QueueSpec { exclusive: true, ..durable() });
    let why = other.ask(&rig, Control::Consume(consume("q", 1, 1)));
    assert!(matches!(why, Err(Refusal::Locked(_))), "{why:?}");
    assert_eq!(mine.counts(&rig, "q"), Some((0, 0)));
    drop(mine);
    assert!(other.counts(&rig, "q").is_none());
    rig.core.recount().expect("counters are right");
}

#[test]
fn auto_delete_comes_after_the_last_consumer_and_not_before_the_first() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", QueueSpec { auto_delete: true, ..durable() });
    c.publish(&rig, "", "q", "m");
    assert_eq!(c.counts(&rig, "q"), Some((1, 0)));
    c.consume(&rig, "q", 1, 0);
    c.consume(&rig, "q", 2, 0);
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(1) });
    assert_eq!(c.counts(&rig, "q"), Some((1, 1)));
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(2) });
    assert!(c.counts(&rig, "q").is_none());
    let rig = rig.crash(Crash::PowerCut);
    assert!(rig.client().counts(&rig, "q").is_none());
}

#[test]
fn an_unused_queue_expires_and_a_used_one_does_not() {
    let rig = Rig::new();
    let (mut c, mut user) = (rig.client(), rig.client());
    for queue in ["unused", "used"] {
        c.queue(&rig, queue, QueueSpec { expires_ms: Some(3_000), ..durable() });
    }
    user.consume(&rig, "used", 1, 0);
    for _ in 0..5 {
        rig.storage.clock().pass_ms(1_000);
        c.pull(&rig);
    }
    assert!(c.counts(&rig, "unused").is_none());
    assert_eq!(c.counts(&rig, "used"), Some((0, 1)));
}

#[test]
fn deleting_a_queue_tells_its_consumers() {
    let rig = Rig::new();
    let (mut c, mut other) = (rig.client(), rig.client());
    c.queue(&rig, "q", durable());
    // What a consumer has in hand is in use, but the queue is empty without it: this one takes nothing.
    other.consume(&rig, "q", 7, 0);
    let delete = |if_unused, if_empty| Control::DeleteQueue { owner: OwnerIx(1), name: "q".into(), if_unused, if_empty };
    assert!(matches!(c.ask(&rig, delete(true, false)), Err(Refusal::PreconditionFailed(_))));
    c.publish(&rig, "", "q", "m");
    assert!(matches!(c.ask(&rig, delete(false, true)), Err(Refusal::PreconditionFailed(_))));
    assert_eq!(c.ok(&rig, delete(false, false)), Reply::Messages(1));
    other.pull(&rig);
    assert_eq!(other.got.last(), Some(&Got::Ended(7)));
    // Again, and it is no error.
    assert_eq!(c.ok(&rig, delete(false, false)), Reply::Messages(0));
}

#[test]
fn taking_and_recovering() {
    let rig = Rig::new();
    let mut c = rig.client();
    let queue = c.queue(&rig, "q", durable());
    for body in ["1", "2", "3"] {
        c.publish(&rig, "", "q", body);
    }
    let (first, body, _) = c.take(&rig, "q").expect("the first");
    assert_eq!(body, "1");
    assert_eq!(c.take(&rig, "q").map(|m| m.1).as_deref(), Some("2"));
    c.settle(&rig, queue, first, Outcome::Accepted);
    assert_eq!(c.counts(&rig, "q"), Some((1, 0)));
    c.ok(&rig, Control::Recover { owner: OwnerIx(1) });
    assert_eq!(c.take(&rig, "q").map(|m| m.1).as_deref(), Some("2"), "in its old place");
    // What a connection took and did not settle goes back when it ends, without a consumer too.
    drop(c);
    let mut c = rig.client();
    assert_eq!(c.counts(&rig, "q"), Some((2, 0)));
    assert_eq!(c.ok(&rig, Control::Purge { owner: OwnerIx(1), queue: "q".into() }), Reply::Messages(2));
    let rig = rig.crash(Crash::PowerCut);
    assert_eq!(rig.client().counts(&rig, "q"), Some((0, 0)));
}

#[test]
fn taking_reads_what_only_the_log_has() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    for n in 0..600 {
        c.publish(&rig, "", "q", &format!("{n}"));
    }
    rig.checkpoint();
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    for n in 0..600 {
        assert_eq!(c.take(&rig, "q").map(|m| m.1), Some(format!("{n}")));
    }
    assert!(c.take(&rig, "q").is_none());
}

#[test]
fn an_exclusive_consumer_is_alone() {
    let rig = Rig::new();
    let (mut c, mut other) = (rig.client(), rig.client());
    c.queue(&rig, "q", durable());
    c.ok(&rig, Control::Consume(Consume { exclusive: true, ..consume("q", 1, 1) }));
    assert!(matches!(other.ask(&rig, Control::Consume(consume("q", 1, 1))), Err(Refusal::AccessRefused(_))));
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(1) });
    other.consume(&rig, "q", 1, 1);
    let late = Control::Consume(Consume { exclusive: true, ..consume("q", 2, 1) });
    assert!(matches!(c.ask(&rig, late), Err(Refusal::AccessRefused(_))));
}

#[test]
fn declaring_again_must_mean_the_same() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", QueueSpec { max_length: Some(5), arguments: b"max=5".to_vec(), ..durable() });
    let mut again = |spec: QueueSpec| {
        let declare = Declare::Queue { owner: OwnerIx(1), name: "q".into(), spec, passive: false };
        match c.ask(&rig, Control::Declare(declare)) {
            Ok(_) => "",
            Err(Refusal::Inequivalent(why)) => why.property,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(again(QueueSpec { max_length: Some(5), arguments: b"max=5".to_vec(), ..durable() }), "");
    assert_eq!(again(QueueSpec { durable: false, ..QueueSpec::default() }), "durable");
    assert_eq!(again(QueueSpec { auto_delete: true, ..durable() }), "auto_delete");
    assert_eq!(again(QueueSpec { max_length: Some(6), arguments: b"max=6".to_vec(), ..durable() }), "arguments");
    assert_eq!(again(durable()), "arguments");
}

#[test]
fn arguments_are_kept_as_they_came_and_compared_where_they_make_a_difference() {
    let storage = SimStorage::new(7);
    let of = |arguments: &str| QueueSpec { arguments: arguments.into(), format: LINES, ..durable() };
    let first = "note=mine\ntype=plain\nmax=5";
    {
        let rig = Rig::with(storage.clone(), config());
        rig.client().queue(&rig, "q", of(first));
    }
    storage.crash(Crash::PowerCut);
    let rig = Rig::with(storage, config());
    let mut c = rig.client();
    let mut again = |arguments: &str| {
        let declare = Declare::Queue { owner: OwnerIx(1), name: "q".into(), spec: of(arguments), passive: false };
        match c.ask(&rig, Control::Declare(declare)) {
            Ok(_) => None,
            Err(Refusal::Inequivalent(why)) => Some(String::from_utf8(why.arguments).unwrap()),
            Err(other) => panic!("{other:?}"),
        }
    };
    for same in [first, "max=5", "max=5\nnote=another", "max=5\ntype=plain"] {
        assert_eq!(again(same), None, "{same}");
    }
    for other in ["", "max=6", "max=5\ntype=other", "note=mine"] {
        assert_eq!(again(other).as_deref(), Some(first), "{other}");
    }
}

/// RabbitMQ's `quorum_queue.property_equivalence.relaxed_checks_on_redeclaration`.
#[test]
fn where_it_is_relaxed_a_queue_that_counts_attempts_takes_who_asks_for_one_that_does_not() {
    let counting = || QueueSpec { counts_attempts: true, expires_ms: Some(1000), arguments: b"type=quorum".to_vec(), ..durable() };
    let plain = || QueueSpec { expires_ms: Some(1000), arguments: b"expires=1000".to_vec(), ..durable() };
    for relaxed in [false, true] {
        let rig = Rig::with(SimStorage::new(7), Config { relaxed_redeclare: relaxed, ..config() });
        let mut c = rig.client();
        c.queue(&rig, "counting", counting());
        c.queue(&rig, "plain", plain());
        let mut again = |name: &str, spec: QueueSpec| {
            let declare = Declare::Queue { owner: OwnerIx(1), name: name.into(), spec, passive: false };
            c.ask(&rig, Control::Declare(declare)).is_ok()
        };
        assert!(again("counting", counting()) && again("plain", plain()));
        assert_eq!(again("counting", plain()), relaxed);
        assert_eq!(again("counting", QueueSpec { max_priority: 5, ..plain() }), relaxed, "a counting queue has no priorities");
        // What both can have must be the same, and nothing is relaxed the other way round.
        assert!(!again("counting", QueueSpec { message_ttl_ms: Some(5), ..plain() }));
        assert!(!again("counting", QueueSpec { durable: false, ..plain() }));
        assert!(!again("plain", counting()));
    }
}

#[test]
fn queues_and_exchanges_are_limited_over_all_virtual_hosts() {
    let storage = SimStorage::new(7);
    // Those that are always there count.
    let fixed = crate::exchange::Exchange::fixed().count() as u64;
    let limits = Config { queues_max: 2, exchanges_max: 2 * fixed + 1, vhosts: vec!["other".into()], ..config() };
    let rig = Rig::with(storage, limits);
    let mut c = rig.client();
    c.queue(&rig, "1", durable());
    c.queue(&rig, "2", durable());
    let queue = |name: &str| Control::Declare(Declare::Queue { owner: OwnerIx(1), name: name.into(), spec: durable(), passive: false });
    let exchange = |name: &str| {
        let spec = ExchangeSpec { kind: "fanout".into(), ..ExchangeSpec::default() };
        Control::Declare(Declare::Exchange { owner: OwnerIx(1), name: ExchangeName::new(name), spec, passive: false })
    };
    let over = |answer: Result<Reply, Refusal>| match answer {
        Err(Refusal::OverLimit { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(over(c.ask(&rig, queue("3"))), "cannot declare queue '3': queue limit in cluster (2) is reached");
    c.ok(&rig, queue("2"));
    c.ok(&rig, Control::DeleteQueue { owner: OwnerIx(1), name: "1".into(), if_unused: false, if_empty: false });
    c.ok(&rig, queue("3"));
    c.ok(&rig, exchange("x"));
    let text = format!("cannot declare exchange 'y' in vhost '/': exchange limit of {} is reached", 2 * fixed + 1);
    assert_eq!(over(c.ask(&rig, exchange("y"))), text);
    c.ok(&rig, exchange("x"));
}

#[test]
fn priorities_go_first_and_a_consumer_starts_after_its_reply() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", QueueSpec { max_priority: 9, ..durable() });
    for (body, priority) in [("low", 0), ("high", 9), ("over", 200), ("middle", 5)] {
        c.publish_with(&rig, "", "q", body, |head, _| head.priority = priority);
    }
    c.turn.control(Token(500), Control::Consume(consume("q", 1, 10)));
    c.submit(&rig);
    assert!(matches!(c.got[0], Got::Reply(500, Ok(_))), "{:?}", c.got);
    assert_eq!(c.bodies(&rig), ["high", "over", "middle", "low"]);
}

/// As RabbitMQ counts: what is handed out does not fill a queue, and what comes back to a full one pushes the oldest out.
#[test]
fn a_bound_counts_what_is_ready() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "two", QueueSpec { max_length: Some(2), ..durable() });
    c.publish(&rig, "", "two", "1");
    c.publish(&rig, "", "two", "2");
    c.consume(&rig, "two", 7, 2);
    c.publish(&rig, "", "two", "3");
    c.publish(&rig, "", "two", "4");
    assert_eq!(c.counts(&rig, "two"), Some((2, 1)), "two are ready beside the two that are handed out");
    c.ok(&rig, Control::Cancel { consumer: ConsumerIx(7) });
    c.ok(&rig, Control::Recover { owner: OwnerIx(1) });
    let left: Vec<String> = std::iter::from_fn(|| c.take(&rig, "two").map(|m| m.1)).collect();
    assert_eq!(left, ["3", "4"]);
    rig.core.recount().expect("counters are right");
}

/// The checkpoint after a restart begins behind the record that made the queue: it has to hold it, also if nothing came to it yet.
#[test]
fn a_queue_that_was_empty_at_a_restart_is_there_after_the_next() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    let rig = rig.crash(Crash::PowerCut);
    rig.checkpoint();
    let mut c = rig.client();
    assert!(matches!(c.publish(&rig, "", "q", "m")[..], [Got::Done(1)]));
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!(c.take(&rig, "q").map(|m| m.1).as_deref(), Some("m"));
}
