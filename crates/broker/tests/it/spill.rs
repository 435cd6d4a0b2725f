//! Backlogs of messages that are not logged, in spill files: nothing of them is lost, repeated or reordered while the broker runs, and their
//! files go with them.

use crate::named::*;
use crate::support::*;
use broker::SpillStats;
use broker_api::*;
use journal::sim::{Crash, Rng};
use journal::storage::Storage;
use std::collections::VecDeque;

const SHARE: u64 = 32 << 10;

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.config.transient_memory = SHARE;
    setup.config.spill_file_bytes = 64 << 10;
    setup
}

fn big(n: u32) -> String {
    format!("{n:05}{}", "x".repeat(995))
}

fn bigs(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(big).collect()
}

fn transient(body: String) -> Put {
    Put { transient: true, ..put(body) }
}

/// In turns of ten.
fn fill(p: &mut Client, queue: &str, range: std::ops::Range<u32>) {
    let all: Vec<Put> = range.map(|n| transient(big(n))).collect();
    for turn in all.chunks(10) {
        p.publish_to(queue, turn);
    }
}

fn stats(node: &Node) -> SpillStats {
    node.core.spill_stats()
}

fn files(node: &Node) -> Vec<String> {
    node.setup.storage.list("spill").unwrap_or_default()
}

/// Nothing is spilled any more, and nothing of it is left anywhere.
fn empty(node: &Node) {
    node.settle();
    node.check();
    let now = stats(node);
    assert_eq!((now.files, now.messages), (0, 0));
    assert_eq!(files(node), [""; 0]);
    assert_eq!(now.lost, 0);
}

fn drain(c: &mut Client, queue: &str, n: usize) -> Vec<String> {
    let mut seen = Vec::new();
    c.consume(consume(queue, 1, 0));
    while seen.len() < n {
        c.add_credit(1, 70);
        let got = c.take();
        assert!(!got.is_empty(), "{} of {n} came", seen.len());
        c.ack(&got);
        seen.extend(bodies(&got));
    }
    c.cancel(1);
    seen
}

#[test]
fn a_backlog_leaves_memory_and_comes_back_in_order() {
    let node = setup().start();
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("q", QueueSpec::default());
    fill(&mut p, "q", 0..1000);
    node.check();
    let full = stats(&node);
    assert!(full.messages > 900 && full.written == full.messages, "{full:?}");
    assert!(full.files > 10 && files(&node).len() as u64 == full.files, "{full:?}");
    let held = node.core.memory_held();
    assert!(held < 2 * SHARE + 64 * 1000, "a reference each, and what the share lets stay: {held}");
    assert_eq!(drain(&mut c, "q", 1000), bigs(0..1000));
    empty(&node);
    assert!(stats(&node).read >= full.messages);
    assert!(node.core.memory_held() < 4000, "{}", node.core.memory_held());
}

#[test]
fn what_a_consumer_needs_next_stays_and_what_comes_meanwhile_queues_up_behind() {
    let node = setup().start();
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("q", QueueSpec::default());
    c.consume(consume("q", 1, 0));
    fill(&mut p, "q", 0..300);
    let read = stats(&node).read;
    assert!(stats(&node).messages > 200);
    c.add_credit(1, 20);
    let first = c.take();
    assert_eq!(bodies(&first), bigs(0..20));
    assert_eq!(stats(&node).read, read, "the head was in memory");
    c.ack(&first);
    // Steady overload: 30 come for each 20 that go.
    let (mut next, mut taken) = (300, 20);
    while taken < 600 {
        fill(&mut p, "q", next..next + 30);
        next += 30;
        c.add_credit(1, 20);
        let got = c.take();
        assert_eq!(bodies(&got), bigs(taken..taken + 20));
        taken += 20;
        c.ack(&got);
        node.check();
    }
    c.add_credit(1, 10_000);
    let rest = c.take();
    assert_eq!(bodies(&rest), bigs(600..next));
    c.ack(&rest);
    empty(&node);
}

#[test]
fn a_message_that_stands_in_several_queues_is_written_once() {
    let node = setup().start();
    let mut subscribers: Vec<Client> = (0..4).map(|n| Client::named(&node, &format!("s{n}")).transient().credit(0).go()).collect();
    for s in &mut subscribers {
        s.subscribe("a", 1);
    }
    let mut p = Client::transient(&node, "p");
    for turn in 0..50u32 {
        let turn: Vec<Msg> = (turn * 10..turn * 10 + 10).map(|n| msg("a", big(n), 1)).collect();
        p.send(&turn);
        p.poll();
    }
    node.check();
    let full = stats(&node);
    assert!(full.messages > 1500, "{full:?}");
    assert!(full.written <= 520, "{full:?}");
    for (n, s) in subscribers.iter_mut().enumerate() {
        s.credit(1000);
        let got = s.take();
        assert_eq!(bodies(&got), bigs(0..500), "subscriber {n}");
        s.ack(&got);
        assert_eq!(stats(&node).messages > 0, n < 3, "the others still need them");
    }
    empty(&node);
}

#[test]
fn the_end_of_a_session_its_queue_or_a_purge_frees_the_files() {
    let node = setup().start();
    let mut s = Client::named(&node, "s").transient().credit(0).go();
    s.subscribe("a", 1);
    let mut p = local(&node);
    for n in 0..200 {
        p.send(&[msg("a", big(n), 1)]);
    }
    node.settle();
    assert!(stats(&node).messages > 100);
    s.cut();
    empty(&node);
    p.declare("q", QueueSpec::default());
    fill(&mut p, "q", 0..200);
    assert!(stats(&node).messages > 100);
    let token = p.control(Control::Purge { owner: OWNER, queue: "q".into() });
    assert_eq!(p.reply(token).expect("purged"), Reply::Messages(200));
    empty(&node);
    fill(&mut p, "q", 0..200);
    assert!(stats(&node).messages > 100);
    let token = p.control(Control::DeleteQueue { owner: OWNER, name: "q".into(), if_unused: false, if_empty: false });
    assert_eq!(p.reply(token).expect("deleted"), Reply::Messages(200));
    empty(&node);
    // With its connection.
    let mut x = local(&node);
    x.declare("x", QueueSpec { exclusive: true, ..QueueSpec::default() });
    fill(&mut x, "x", 0..200);
    assert!(stats(&node).messages > 100);
    x.cut();
    empty(&node);
}

#[test]
fn expiry_and_a_full_queue_free_the_files() {
    let node = setup().start();
    let mut p = local(&node);
    p.declare("old", QueueSpec { message_ttl_ms: Some(5000), ..QueueSpec::default() });
    fill(&mut p, "old", 0..200);
    assert!(stats(&node).messages > 100);
    for _ in 0..10 {
        node.pass_secs(2);
    }
    assert_eq!(p.ready("old"), Some(0));
    empty(&node);
    p.declare("short", QueueSpec { max_length: Some(150), ..QueueSpec::default() });
    fill(&mut p, "short", 0..400);
    node.check();
    assert!(stats(&node).files < 6, "what was dropped at the head is let go of: {:?}", stats(&node));
    assert_eq!(drain(&mut local(&node), "short", 150), bigs(250..400));
    empty(&node);
    // One by one, behind others that stay.
    p.declare("mixed", QueueSpec::default());
    for n in 0..200 {
        p.publish_to("mixed", &[Put { ttl_ms: (n % 2 == 1).then_some(5000), ..transient(big(n)) }]);
    }
    assert!(stats(&node).messages > 100);
    for _ in 0..10 {
        node.pass_secs(2);
    }
    assert_eq!(p.ready("mixed"), Some(100));
    assert_eq!(drain(&mut local(&node), "mixed", 100), (0..200).step_by(2).map(big).collect::<Vec<_>>());
    empty(&node);
}

#[test]
fn files_of_an_earlier_run_are_removed_at_start_and_at_a_clean_stop() {
    let node = setup().start();
    let mut p = local(&node);
    p.declare("q", durable());
    fill(&mut p, "q", 0..300);
    p.put_all("q", ["kept"]);
    assert!(!files(&node).is_empty());
    node.setup.storage.plant("spill/99999999", vec![1; 100]);
    let storage = node.setup.storage.clone();
    let setup = node.setup.clone();
    drop(p);
    storage.crash(Crash::Kill);
    let node = setup.start();
    assert_eq!(files(&node), [""; 0]);
    assert_eq!(local(&node).ready("q"), Some(1), "transient messages are gone, the durable one is not");
    empty(&node);
    let mut p = local(&node);
    fill(&mut p, "q", 0..300);
    assert!(!files(&node).is_empty());
    drop(p);
    node.core.close().expect("closes");
    assert_eq!(storage.list("spill").unwrap_or_default(), [""; 0]);
}

#[test]
fn a_damaged_file_loses_its_messages_and_no_others() {
    let node = setup().start();
    let mut p = local(&node);
    p.declare("q", QueueSpec::default());
    fill(&mut p, "q", 0..500);
    let all = files(&node);
    assert!(all.len() > 4, "{all:?}");
    let storage = &node.setup.storage;
    // One byte in one record, half of a file, and a whole one.
    let mut bytes = storage.contents(&format!("spill/{}", all[0])).expect("there");
    bytes[5000] ^= 1;
    storage.plant(&format!("spill/{}", all[0]), bytes);
    let bytes = storage.contents(&format!("spill/{}", all[1])).expect("there");
    storage.plant(&format!("spill/{}", all[1]), bytes[..bytes.len() / 2].to_vec());
    storage.plant(&format!("spill/{}", all[2]), vec![0xff; bytes.len()]);
    let mut c = local(&node);
    c.consume(consume("q", 1, 10_000));
    let got = c.take();
    let numbers: Vec<u32> = got.iter().map(|g| g.text()[..5].parse().expect("a number")).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    assert!(got.iter().zip(&numbers).all(|(g, n)| g.text() == big(*n)));
    let lost = 500 - got.len() as u64;
    let now = stats(&node);
    assert_eq!(now.lost, lost);
    assert!((60..200).contains(&lost), "{lost}");
    c.ack(&got);
    assert_eq!(c.ready("q"), Some(0));
    node.check();
    assert_eq!((stats(&node).files, stats(&node).messages), (0, 0));
}

#[test]
fn a_full_disk_stops_spilling_and_publishers_wait_as_before() {
    let mut setup = setup();
    setup.config.memory_high = 400_000;
    let node = setup.start();
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("q", QueueSpec::default());
    node.setup.storage.set_budget(node.setup.storage.used_bytes() + (1 << 20));
    for n in 0..500 {
        p.send_to("q", &[transient(big(n))]);
    }
    p.poll();
    assert_eq!(stats(&node).written, 0, "what is kept free for the log is not used up");
    assert!(p.heard("Blocked(\"low on memory\")"), "{:?}", p.signals());
    assert!(p.done() < p.serial);
    // Room comes back, and all of it goes in.
    node.setup.storage.set_budget(u64::MAX);
    for _ in 0..200 {
        node.clock().pass_ms(60);
        p.poll();
        if p.done() == p.serial {
            break;
        }
    }
    assert_eq!(p.done(), p.serial, "{} {:?} {:?}", node.core.memory_held(), stats(&node), p.signals());
    assert!(stats(&node).written > 300);
    assert_eq!(drain(&mut c, "q", 500), bigs(0..500));
    empty(&node);
}

#[test]
fn a_write_that_fails_loses_nothing_and_is_no_fault_of_the_store() {
    let node = setup().start();
    let mut p = local(&node);
    p.declare("q", QueueSpec::default());
    fill(&mut p, "q", 0..100);
    let before = stats(&node).messages;
    node.setup.storage.fail_write_after(0);
    fill(&mut p, "q", 100..200);
    assert_eq!(node.setup.storage.injected().write_errors, 1);
    assert_eq!(stats(&node).messages, before, "it rests");
    node.check();
    node.pass_secs(2);
    fill(&mut p, "q", 200..300);
    assert!(stats(&node).messages > 200);
    assert!(!node.failed.load(std::sync::atomic::Ordering::Acquire));
    p.declare("d", durable());
    p.put_all("d", ["the log still works"]);
    assert_eq!(drain(&mut local(&node), "q", 300), bigs(0..300));
    empty(&node);
}

#[test]
fn spilled_messages_are_dead_lettered_whole() {
    let node = setup().start();
    let (mut p, mut c) = (local(&node), local(&node));
    let to_dead = |spec: QueueSpec| QueueSpec { dead_letter_exchange: Some("".into()), dead_letter_key: Some("dead".into()), ..spec };
    p.declare("dead", QueueSpec::default());
    p.declare("ttl", to_dead(QueueSpec { message_ttl_ms: Some(3000), ..QueueSpec::default() }));
    fill(&mut p, "ttl", 0..200);
    assert!(stats(&node).messages > 100);
    for _ in 0..10 {
        node.pass_secs(1);
    }
    assert_eq!(p.ready("ttl"), Some(0));
    assert_eq!(p.ready("dead"), Some(200));
    assert!(stats(&node).messages > 100, "they are spilled from there");
    assert_eq!(drain(&mut c, "dead", 200), bigs(0..200));
    empty(&node);
    p.declare("max", to_dead(QueueSpec { max_length: Some(100), ..QueueSpec::default() }));
    fill(&mut p, "max", 0..300);
    assert_eq!(drain(&mut c, "dead", 200), bigs(0..200));
    // Rejected by who got them.
    c.consume(consume("max", 2, 100));
    let got = c.take();
    assert_eq!(bodies(&got), bigs(200..300));
    c.settle_with(&got, Outcome::Rejected);
    assert_eq!(drain(&mut local(&node), "dead", 100), bigs(200..300));
    empty(&node);
}

#[test]
fn levels_of_priority_spill_the_lowest_first_and_keep_their_order() {
    let node = setup().start();
    let mut p = local(&node);
    p.declare("q", QueueSpec { max_priority: 5, ..QueueSpec::default() });
    for n in 0..400 {
        p.publish_to("q", &[Put { priority: (n % 3) as u8, ..transient(big(n)) }]);
    }
    assert!(stats(&node).messages > 300);
    let wanted: Vec<String> = [2, 1, 0].into_iter().flat_map(|level| (0..400).filter(move |n| n % 3 == level)).map(big).collect();
    assert_eq!(drain(&mut local(&node), "q", 400), wanted);
    empty(&node);
}

#[test]
fn given_back_and_taken_one_by_one() {
    let node = setup().start();
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("q", QueueSpec::default());
    fill(&mut p, "q", 0..300);
    c.consume(consume("q", 1, 200));
    let got = c.take();
    assert_eq!(bodies(&got), bigs(0..200));
    // What comes back goes out again at its place, as redelivered.
    c.ack(&got[..50]);
    c.release(&got[50..150]);
    c.cancel(1);
    node.check();
    // A get is answered with its message at once, which this client leaves in the outbox.
    c.hold(true);
    c.control(Control::Take(Take { owner: OWNER, queue: "q".into(), max: 1, settled: false }));
    node.settle();
    assert_eq!(p.ready("q"), Some(199));
    c.cut();
    node.check();
    let mut c = local(&node);
    c.consume(consume("q", 1, 10_000));
    let again = c.take();
    assert_eq!(bodies(&again), bigs(50..300), "the connection's leases came back too");
    assert!(again[..150].iter().all(|g| g.has(DELIVERY_REDELIVERED)) && !again.last().expect("some").has(DELIVERY_REDELIVERED));
    c.ack(&again);
    empty(&node);
}

/// What happens between the noting of a run and its writing is not undone by it.
#[test]
fn a_run_that_was_noted_and_then_purged_or_consumed_leaves_nothing() {
    let node = setup().start();
    let steps = node.steps.clone().expect("stepped");
    for consumed in [false, true] {
        let (mut c, mut p) = (local(&node), local(&node));
        p.declare("q", QueueSpec::default());
        for n in 0..100 {
            p.send_to("q", &[transient(big(n))]);
        }
        assert!(steps.spill(), "noted");
        assert_eq!(files(&node), [""; 0], "and not written");
        // Without the spiller: `settle` would let it go on.
        if consumed {
            c.turn(|turn, token| turn.control(Token(token), Control::Consume(consume("q", 1, 60))));
            c.hear_one();
        } else {
            p.turn(|turn, token| turn.control(Token(token), Control::Purge { owner: OWNER, queue: "q".into() }));
        }
        assert!(steps.spill(), "written");
        node.settle();
        node.check();
        if consumed {
            c.add_credit(1, 1000);
            let got = c.take();
            assert_eq!(bodies(&got), bigs(0..100));
            c.ack(&got);
        }
        assert_eq!(p.ready("q"), Some(0));
        empty(&node);
        p.control(Control::DeleteQueue { owner: OWNER, name: "q".into(), if_unused: false, if_empty: false });
        p.poll();
    }
}

#[test]
fn transactions_show_before_they_spill() {
    let node = setup().start();
    let mut p = local(&node);
    p.declare("q", QueueSpec::default());
    for tx in 0..20u32 {
        p.turn(|turn, token| {
            turn.entries.push(Entry::Scope(Some(TxIx(1))));
            for n in tx * 10..tx * 10 + 10 {
                let (key, body) = (turn.intern(b"q"), turn.intern(big(n).as_bytes()));
                turn.publish(Head { key, body, level: 1, separator: b'.', owner: OWNER.0, ..Head::default() });
            }
            turn.entries.push(Entry::Scope(None));
            turn.control(Token(token), Control::Commit { owner: OWNER, tx: TxIx(1) });
        });
    }
    p.poll();
    node.check();
    assert!(stats(&node).messages > 100, "{:?}", stats(&node));
    assert_eq!(drain(&mut local(&node), "q", 200), bigs(0..200));
    empty(&node);
}

/// Durable and transient ones in one queue: each comes back from where it is.
#[test]
fn mixed_queues_are_read_from_the_log_and_from_spill_files() {
    let node = setup().start();
    let mut p = local(&node);
    p.declare("q", durable());
    for n in 0..400 {
        p.publish_to("q", &[Put { transient: n % 3 == 0, ..put(big(n)) }]);
    }
    node.checkpoint();
    assert!(stats(&node).messages > 80, "{:?}", stats(&node));
    assert_eq!(drain(&mut local(&node), "q", 400), bigs(0..400));
    empty(&node);
}

/// Random work on a few queues, one step of the spiller here and there; a model beside it says what has to come next.
#[test]
fn random_work_keeps_every_queue_as_its_model() {
    for seed in 0..12 {
        random_work(seed);
    }
}

/// Says where they differ, without the bodies.
fn same(got: &[String], expected: &[String], seed: u64) {
    assert_eq!(got.len(), expected.len(), "seed {seed}");
    if let Some(at) = (0..got.len()).find(|at| got[*at] != expected[*at]) {
        panic!("seed {seed}: {} instead of {} at {at}", &got[at][..6], &expected[at][..6]);
    }
}

fn random_work(seed: u64) {
    const QUEUES: usize = 3;
    let mut rng = Rng::new(seed + 77);
    let node = setup().start();
    let steps = node.steps.clone().expect("stepped");
    let mut p = local(&node);
    let mut consumers: Vec<Client> = (0..QUEUES).map(|_| local(&node)).collect();
    let mut model: Vec<VecDeque<String>> = vec![VecDeque::new(); QUEUES];
    let name = |q: usize| format!("q{q}");
    for (q, c) in consumers.iter_mut().enumerate() {
        p.declare(&name(q), QueueSpec::default());
        c.consume(consume(&name(q), 1, 0));
    }
    let mut next = 0;
    let mut most = 0;
    for _ in 0..600 {
        let q = rng.below(QUEUES as u64) as usize;
        match rng.below(20) {
            0..=9 => {
                let n = 1 + rng.below(20) as u32;
                let turn: Vec<Put> =
                    (next..next + n).map(|n| transient(format!("{n:06}{}", "y".repeat(rng.below(3000) as usize)))).collect();
                model[q].extend(turn.iter().map(|p| p.body.clone()));
                next += n;
                p.send_to(&name(q), &turn);
            }
            10..=14 => {
                // What waits for the spiller goes in.
                p.poll();
                let wanted = (rng.below(30) as usize).min(model[q].len());
                let c = &mut consumers[q];
                c.add_credit(1, wanted as u32);
                let got = c.take();
                let expected: Vec<String> = model[q].drain(..wanted).collect();
                same(&bodies(&got), &expected, seed);
                let back = rng.below(4) as usize * wanted / 8;
                c.ack(&got[..wanted - back]);
                // In reverse, so that it stands in the order it had.
                for g in got[wanted - back..].iter().rev() {
                    model[q].push_front(g.text());
                    c.release(std::slice::from_ref(g));
                }
            }
            15 if rng.chance(20) => {
                let token = p.control(Control::Purge { owner: OWNER, queue: QueueName::new(&name(q)) });
                p.reply(token).expect("purged");
                model[q].clear();
            }
            16 => drop(steps.read()),
            _ => drop(steps.spill()),
        }
        most = most.max(stats(&node).messages);
        if rng.chance(10) {
            node.check();
        }
    }
    assert!(most > 50, "seed {seed} spilled {most}");
    p.poll();
    for (q, c) in consumers.iter_mut().enumerate() {
        c.add_credit(1, 100_000);
        let got = c.take();
        same(&bodies(&got), model[q].make_contiguous(), seed);
        c.ack(&got);
    }
    empty(&node);
}

/// Publishers that are faster than the spiller wait for it, are not told that they are blocked, and lose nothing, also where they leave at once.
#[test]
fn who_publishes_faster_than_is_written_waits_without_hearing_of_it() {
    let node = setup().start();
    let steps = node.steps.clone().expect("stepped");
    let mut p = local(&node);
    p.declare("q", QueueSpec::default());
    fill(&mut p, "q", 0..60);
    // Without the spiller's steps from here on.
    for n in 60..400 {
        p.send_to("q", &[transient(big(n))]);
        p.hear_one();
    }
    assert!(steps.spill() && steps.spill());
    for n in 400..500 {
        p.send_to("q", &[transient(big(n))]);
        p.hear_one();
    }
    assert!((410..480).contains(&p.done()), "{} are in", p.done());
    let (mut other, mut direct) = (local(&node), Client::transient(&node, "d"));
    direct.subscribe("b", 0);
    other.send(&[msg("b", "at most once", 0)]);
    direct.hear();
    assert_eq!(bodies(&direct.take()), ["at most once"]);
    p.poll();
    assert_eq!(p.done(), p.serial);
    assert!(!p.heard("Blocked"), "{:?}", p.signals());
    assert_eq!(drain(&mut local(&node), "q", 500), bigs(0..500));
    empty(&node);
}

/// With the real threads: the spiller, the reader and the publisher meet in one queue.
#[test]
fn threads_keep_the_order() {
    let mut setup = setup().threads();
    setup.config.transient_memory = 128 << 10;
    let node = setup.start();
    let (mut c, mut p) = (local(&node), local(&node));
    p.declare("q", QueueSpec::default());
    c.consume(consume("q", 1, 0));
    let (mut sent, mut seen) = (0u32, 0u32);
    while seen < 6000 {
        if sent < 6000 {
            let turn: Vec<Put> = (sent..sent + 50).map(|n| transient(big(n))).collect();
            p.send_to("q", &turn);
            sent += 50;
            p.poll();
        }
        if sent % 500 == 0 {
            let n = 300.min(6000 - seen);
            c.add_credit(1, n);
            c.until("deliveries", |c| {
                // Its publishes may wait for the spiller.
                p.hear();
                c.log.iter().filter(|seen| matches!(seen, Seen::Got(_))).count() as u32 >= seen + n
            });
            let got = c.take();
            assert_eq!(got.len() as u32, n);
            for g in &got {
                assert_eq!(g.text(), big(seen));
                seen += 1;
            }
            c.ack(&got);
        }
    }
    // How much, is a matter of which thread the machine lets run.
    assert!(stats(&node).written > 0, "{:?}", stats(&node));
    c.until("all files gone", |_| stats(&node).files == 0 && files(&node).is_empty());
    node.check();
}
