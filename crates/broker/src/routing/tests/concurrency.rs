//! Readers run while a writer changes the tables: they see each entry either there or not, and never miss a standing one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::routing::exchange::{by_name, Arguments, BindKey, Key, NoHeaders};
use crate::routing::generation::Generations;
use crate::routing::topic::{Name, Pattern};
use crate::routing::trie::Trie;

const CHANGES: u64 = 20_000;

/// Raised when dropped, so that a failing writer does not leave its readers running.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn readers_never_miss_what_stands() {
    let trie = Trie::<u64>::default();
    let standing = ["site/1/temp", "site/+/temp", "site/#", "#", "+/1/+"];
    for (id, text) in standing.iter().enumerate() {
        trie.insert(&Pattern::mqtt(text.as_bytes()).unwrap(), id as u64, id as u64);
    }
    let (done, started) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let name = Name::mqtt(b"site/1/temp").unwrap();
                started.fetch_add(1, Ordering::Release);
                while !done.load(Ordering::Acquire) {
                    let (mut mask, mut others) = (0u32, 0);
                    trie.matches(&name, |id, value| match id {
                        0..=4 => mask |= 1 << value,
                        _ => others += 1,
                    });
                    assert_eq!(mask, 0b11111);
                    assert!(others <= 3, "an entry was seen twice");
                }
            });
        }
        let _done = Raise(&done);
        while started.load(Ordering::Acquire) < 2 {
            std::thread::yield_now();
        }
        for change in 0..CHANGES {
            for text in ["site/1/temp", "site/+/temp", "+/1/#"] {
                trie.insert(&Pattern::mqtt(text.as_bytes()).unwrap(), 10, change);
            }
            let other = format!("site/other{change}/+");
            trie.insert(&Pattern::mqtt(other.as_bytes()).unwrap(), 11 + change, change);
            for text in ["site/1/temp", "site/+/temp", "+/1/#"] {
                assert_eq!(trie.remove(&Pattern::mqtt(text.as_bytes()).unwrap(), 10), Some(change));
            }
            trie.remove(&Pattern::mqtt(other.as_bytes()).unwrap(), 11 + change);
        }
    });
    assert_eq!(trie.len(), standing.len());
}

/// Writers on different and on the same first segments lose none of each other's entries.
#[test]
fn writers_lose_nothing_of_each_other() {
    let trie = Trie::<u64>::default();
    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let trie = &trie;
            scope.spawn(move || {
                for entry in 0..500 {
                    for text in [format!("same/{entry}/+"), format!("{writer}/{entry}/#"), format!("same/{entry}"), "+/all".into()] {
                        trie.insert(&Pattern::mqtt(text.as_bytes()).unwrap(), writer * 1000 + entry, entry);
                    }
                }
            });
        }
    });
    assert_eq!(trie.len(), 4 * 500 * 4);
    let mut found = 0;
    trie.matches(&Name::mqtt(b"same/all").unwrap(), |_, _| found += 1);
    assert_eq!(found, 4 * 500);
}

/// Binding and unbinding the same route from two sides leaves table and routes agreeing.
#[test]
fn table_and_routes_agree_after_a_race() {
    for kind in ["direct", "fanout", "topic"] {
        let exchange = by_name::<u64>(kind).unwrap()(&Arguments::NONE);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let _ = exchange.bind(BindKey::amqp(b"a.b"), &Arguments::NONE, 7, 7);
                        exchange.unbind(BindKey::amqp(b"a.b"), &Arguments::NONE, 7);
                    }
                });
            }
        });
        let mut out = Vec::new();
        exchange.route(&Key::amqp(b"a.b"), &NoHeaders, &mut out);
        assert_eq!((out.len(), exchange.len()), (0, 0), "{kind}");
    }
}

/// A route computed under a stamp that is still valid is never older than a change that was finished before.
#[test]
fn a_valid_stamp_means_a_fresh_route() {
    let (trie, generations) = (Trie::<u64>::default(), Generations::default());
    let (done, finished) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let name = Name::mqtt(b"a/b").unwrap();
            let mut cached = None;
            while !done.load(Ordering::Acquire) {
                let at_least = finished.load(Ordering::Acquire) as u64;
                let stamp = generations.stamp_of(&name);
                let route = match cached {
                    Some((of, route)) if of == stamp => route,
                    _ => {
                        let mut route = 0;
                        trie.matches(&name, |_, value| route = *value);
                        cached = Some((stamp, route));
                        route
                    }
                };
                assert!(route >= at_least, "the cache kept {route} after {at_least}");
            }
        });
        let _done = Raise(&done);
        let pattern = Pattern::mqtt(b"a/+").unwrap();
        for change in 1..=CHANGES {
            trie.insert(&pattern, 1, change);
            generations.bump(&pattern);
            finished.store(change as usize, Ordering::Release);
        }
    });
}

#[test]
fn generations_are_apart_by_first_segment() {
    let generations = Generations::default();
    let names: Vec<String> = (0..200).map(|client| format!("client{client}/x")).collect();
    let stamps = || names.iter().map(|name| generations.stamp_of(&Name::mqtt(name.as_bytes()).unwrap())).collect::<Vec<_>>();
    let before = stamps();
    generations.bump(&Pattern::mqtt(b"client7/+").unwrap());
    let after = stamps();
    assert_ne!(before[7], after[7]);
    // 200 names on 1024 counters: some may share the bumped one, hardly ever ten.
    assert!(before.iter().zip(&after).filter(|(before, after)| before != after).count() < 10);
    generations.bump(&Pattern::amqp(b"#.x").unwrap());
    assert!(after.iter().zip(&stamps()).all(|(before, after)| before != after));
}
