//! Exchanges that remember what went through them last.

use super::*;

fn remembering(rig: &Rig, client: &mut Client, name: &str, arguments: &str) -> Result<Reply, Refusal> {
    let (kind, arguments) = ("x-recent-history".to_owned(), arguments.into());
    client.ask(rig, exchange(name, ExchangeSpec { kind, durable: true, arguments, format: LINES, ..ExchangeSpec::default() }))
}

fn drain(client: &mut Client, rig: &Rig, queue: &str) -> Vec<String> {
    std::iter::from_fn(|| client.take(rig, queue).map(|(_, body, _)| body)).collect()
}

#[test]
fn who_is_bound_anew_gets_what_was_last() {
    let rig = Rig::new();
    let mut c = rig.client();
    remembering(&rig, &mut c, "h", "").unwrap();
    for queue in ["first", "second", "third"] {
        c.queue(&rig, queue, durable());
    }
    for n in 0..25 {
        c.publish(&rig, "h", "k", &n.to_string());
    }
    c.bind(&rig, "h", "first", "");
    let last: Vec<String> = (5..25).map(|n| n.to_string()).collect();
    assert_eq!(drain(&mut c, &rig, "first"), last);
    // Again the same binding is nothing new; another one is.
    c.bind(&rig, "h", "first", "");
    assert_eq!(c.counts(&rig, "first").map(|c| c.0), Some(0));
    c.publish(&rig, "h", "k", "25");
    assert_eq!(drain(&mut c, &rig, "first"), ["25"]);
    // Through another exchange, by its own bindings.
    c.exchange(&rig, "d", "direct");
    c.bind(&rig, "d", "second", "k");
    c.bind(&rig, "d", "third", "z");
    c.ok(&rig, Control::Bind(binding("h", Destination::Exchange("d".into()), "", b"")));
    assert_eq!(c.counts(&rig, "second").map(|c| c.0), Some(20));
    assert_eq!(c.counts(&rig, "third").map(|c| c.0), Some(0));
    // What it is given is as safe as what is published: it is what it remembers that a restart takes.
    let rig = rig.crash(Crash::PowerCut);
    let mut c = rig.client();
    assert_eq!(c.counts(&rig, "second").map(|c| c.0), Some(20));
    c.bind(&rig, "h", "third", "");
    assert_eq!(c.counts(&rig, "third").map(|c| c.0), Some(0));
    rig.core.recount().expect("counters are right");
}

#[test]
fn in_a_transaction_what_is_committed_is_remembered() {
    let rig = Rig::new();
    let mut c = rig.client();
    remembering(&rig, &mut c, "h", "").unwrap();
    c.queue(&rig, "q", durable());
    for (tx, body) in [(1, "kept"), (2, "rolled back")] {
        c.scope(Some(tx));
        c.put("h", "k", body);
        c.scope(None);
    }
    c.put_control(Control::Rollback { owner: OwnerIx(1), tx: TxIx(2) });
    c.put_control(Control::Commit { owner: OwnerIx(1), tx: TxIx(1) });
    c.submit(&rig);
    c.bind(&rig, "h", "q", "");
    assert_eq!(drain(&mut c, &rig, "q"), ["kept"]);
}

#[test]
fn what_it_remembers_is_bounded() {
    let rig = Rig::new();
    let mut c = rig.client();
    c.queue(&rig, "q", durable());
    // The arguments of these tests are texts; protocols say numbers.
    let why = remembering(&rig, &mut c, "h", "x-recent-history-length=5").map_err(|refusal| refusal.to_string());
    assert_eq!(why, Err("Invalid argument '5', 'x-recent-history-length' must be a positive integer".to_owned()));
    remembering(&rig, &mut c, "h", "").unwrap();
    let large = "x".repeat(6 << 20);
    for _ in 0..5 {
        c.publish(&rig, "h", "k", &large);
    }
    c.bind(&rig, "h", "q", "");
    assert_eq!(c.counts(&rig, "q").map(|c| c.0), Some(2), "of 16 MiB");
    c.ok(&rig, Control::DeleteExchange { owner: OwnerIx(1), name: "h".into(), if_unused: false });
    c.ok(&rig, Control::Purge { owner: OwnerIx(1), queue: "q".into() });
    rig.settle();
    assert!(rig.core.memory_held() < 1 << 20, "{}", rig.core.memory_held());
}
