//! Several connections at once on real threads, with a checker.

use crate::support::*;
use broker_api::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

const PRODUCERS: u32 = 4;
const EACH: u32 = 3000;

/// (producer, number) as a body.
fn body(producer: u32, n: u32) -> Vec<u8> {
    [producer.to_le_bytes(), n.to_le_bytes()].concat()
}

/// How many messages one producer sends.
fn total() -> u32 {
    let mut n = 0;
    while n < EACH {
        n += 1 + n % 7;
    }
    n
}

fn parse(body: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
    (word(0), word(4))
}

fn produce(node: &Node, producer: u32) {
    let mut p = Client::transient(node, &format!("p{producer}"));
    let mut n = 0;
    while n < EACH {
        let turn: Vec<Msg> = (0..1 + n % 7).map(|i| msg(&format!("t/{}", (n + i) % 3), body(producer, n + i), 1)).collect();
        n += turn.len() as u32;
        p.send(&turn);
        p.hear();
    }
    let last = p.serial;
    p.confirmed(last);
    p.cut();
}

/// What consumers of one logical subscription saw between them.
#[derive(Default)]
struct Ledger {
    seen: HashMap<(u32, u32), u32>,
}

#[test]
fn producers_and_consumers_at_once() {
    let mut setup = Setup::new().threads();
    setup.journal.segment_bytes = 256 << 10;
    setup.journal.checkpoint_bytes = 1 << 20;
    let node = setup.start();
    for name in ["own0", "own1"] {
        let mut c = Client::attach(&node, name);
        c.subscribe("t/#", 1).subscribe("t/1", 1);
        c.cut();
    }
    for n in 0..3 {
        let mut c = Client::attach(&node, &format!("member{n}"));
        c.share("g", "t/+", 1);
        c.cut();
    }
    let produced = PRODUCERS * total();
    let shared = Arc::new(AtomicU64::new(0));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|p| {
            let node = node.clone();
            std::thread::spawn(move || produce(&node, p))
        })
        .collect();
    let owners: Vec<_> = ["own0", "own1"]
        .map(|name| {
            let node = node.clone();
            std::thread::spawn(move || consume_own(&node, name, produced))
        })
        .into();
    let members: Vec<_> = (0..3)
        .map(|n| {
            let (node, shared) = (node.clone(), shared.clone());
            std::thread::spawn(move || consume_share(&node, n, &shared, u64::from(produced)))
        })
        .collect();
    producers.into_iter().for_each(|t| t.join().expect("a producer ends"));
    owners.into_iter().for_each(|t| t.join().expect("an owner ends"));
    let mut all = Ledger::default();
    for member in members {
        for id in member.join().expect("a member ends") {
            *all.seen.entry(id).or_default() += 1;
        }
    }
    assert_eq!(all.seen.len(), produced as usize, "a message of the share is lost");
    assert!(all.seen.values().all(|n| *n == 1), "a settled message of the share came twice");
    node.check();
    assert_eq!(node.depth("own0") + node.depth("own1"), 0);
    node.core.close().expect("a clean stop");
}

/// Everything once settled exactly once, in the order of each producer, over reconnects that leave deliveries unsettled.
fn consume_own(node: &Node, name: &str, wanted: u32) {
    let mut next: HashMap<u32, u32> = HashMap::new();
    let mut settled = 0;
    let mut round = 0u32;
    while settled < wanted {
        round += 1;
        let mut c = Client::named(node, name).credit(0).go();
        let mut left: u32 = 700 + round * 300;
        while left > 0 && settled < wanted {
            c.credit(50);
            let got = c.take();
            let mine = &got[..got.len() * 3 / 4];
            let keep = if left <= 50 { mine } else { &got[..] };
            for g in keep {
                let (producer, n) = parse(&g.body);
                let expected = next.entry(producer).or_default();
                assert_eq!(n, *expected, "{name}: producer {producer} out of order");
                *expected += 1;
                settled += 1;
            }
            c.ack(keep);
            c.fence();
            left = left.saturating_sub(50);
            if got.is_empty() {
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        }
        c.cut();
    }
}

/// Settles what it gets until the group together has everything; comes and goes meanwhile.
fn consume_share(node: &Node, n: u32, shared: &AtomicU64, wanted: u64) -> Vec<(u32, u32)> {
    let mut mine = Vec::new();
    let end = std::time::Instant::now() + PATIENCE;
    while shared.load(Ordering::Relaxed) < wanted {
        let mut c = Client::named(node, &format!("member{n}")).credit(64).go();
        for _ in 0..40 {
            let got = c.take();
            c.ack(&got);
            c.fence();
            mine.extend(got.iter().map(|g| parse(&g.body)));
            shared.fetch_add(got.len() as u64, Ordering::Relaxed);
            c.credit(got.len() as u32);
            if shared.load(Ordering::Relaxed) >= wanted {
                break;
            }
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        c.cut();
        assert!(std::time::Instant::now() < end, "the group has {} of {wanted}", shared.load(Ordering::Relaxed));
    }
    mine
}

/// Sessions that come, subscribe, are taken over and expire while others publish to them: no counter may drift, nothing may hang.
#[test]
fn sessions_come_and_go_under_load() {
    let node = Setup::new().threads().start();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let publishers: Vec<_> = (0..2)
        .map(|p| {
            let (node, stop) = (node.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut client = Client::transient(&node, &format!("p{p}"));
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    client.send(&[msg(&format!("t/{}", n % 5), body(p, n), 1).retained(), msg("t/x", "0", 0)]);
                    if n % 32 == 0 {
                        client.fence();
                    }
                }
                client.fence();
            })
        })
        .collect();
    let comers: Vec<_> = (0..3u32)
        .map(|t| {
            let node = node.clone();
            std::thread::spawn(move || {
                for round in 0..150u32 {
                    // Two of three threads use the same names, so that they take over from each other.
                    let name = format!("s{}", (t / 2 * 10) + round % 3);
                    let mut how = Client::named(&node, &name);
                    if round % 4 == 0 {
                        how = how.clean();
                    }
                    if round % 5 == 0 {
                        how = how.transient();
                    }
                    let mut c = how.send();
                    let over = |c: &Client| c.heard("Superseded") || c.log.iter().any(|s| matches!(s, Seen::Reply(2, _)));
                    c.until("an answer", over);
                    c.turn(|turn, token| {
                        turn.credit(CreditTo::Group(GROUP), 20);
                        let filter = Filter { pattern: "t/+".into(), separator: b'/' };
                        let subscribe = Subscribe {
                            owner: OWNER,
                            filter,
                            share: (round % 3 == 0).then(|| "g".into()),
                            level: 1,
                            identifier: 0,
                            no_local: false,
                            as_published: false,
                            retained: RetainedOn::Always,
                            selector: None,
                        };
                        turn.control(Token(token), Control::Subscribe(subscribe));
                    });
                    let got = c.take();
                    c.ack(&got[..got.len() / 2]);
                    if round % 7 == 0 {
                        c.end(Some(Expiry::WithConnection), PartingFate::Fire);
                    } else {
                        c.cut();
                    }
                }
            })
        })
        .collect();
    comers.into_iter().for_each(|t| t.join().expect("a comer ends"));
    stop.store(true, Ordering::Relaxed);
    publishers.into_iter().for_each(|t| t.join().expect("a publisher ends"));
    node.check();
    let setup = node.setup.clone();
    let depths: Vec<(String, u64)> = ["s0", "s1", "s2", "s10", "s11", "s12"].map(|s| (s.to_owned(), node.depth(s))).into();
    node.core.close().expect("a clean stop");
    setup.storage.crash(journal::sim::Crash::PowerCut);
    drop(node);
    let node = Setup { threads: false, ..setup }.start();
    node.settle();
    node.check();
    for (name, depth) in depths {
        assert_eq!(node.depth(&name), depth, "{name} after a restart");
    }
}
