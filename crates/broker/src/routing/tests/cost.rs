//! What a change in a large table may cost, in copied nodes rather than in time, and a print of the times for who wants them
//! (`cargo test --release -p broker routing::tests::cost -- --nocapture`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use crate::routing::retained::Retained;
use crate::routing::topic::{Name, Pattern};
use crate::routing::trie::Trie;

/// Counts how often values are cloned: a change clones the values beside the one it changes, and nothing else tells how much of
/// the table was copied.
struct Counted(Arc<AtomicUsize>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.0.clone())
    }
}

/// 100,000 subscribers of one filter: the next one copies a path, not the list.
#[test]
fn many_values_under_one_pattern() {
    for filter in ["all", "all/+"] {
        let (trie, clones) = (Trie::default(), Arc::new(AtomicUsize::new(0)));
        let pattern = Pattern::mqtt(filter.as_bytes()).unwrap();
        for id in 0..100_000 {
            trie.insert(&pattern, id, Counted(clones.clone()));
        }
        assert!(clones.load(Ordering::Relaxed) < 100_000 * 12, "{filter}: {} clones", clones.load(Ordering::Relaxed));
        clones.store(0, Ordering::Relaxed);
        for id in 0..100_000 {
            assert!(trie.remove(&pattern, id).is_some());
        }
        assert!(clones.load(Ordering::Relaxed) < 100_000 * 14, "{filter}: {} clones", clones.load(Ordering::Relaxed));
        assert!(trie.is_empty());
    }
}

/// 100,000 children of one parent: a change shares all but a path of narrow branches with the tree before.
#[test]
fn many_children_under_one_parent() {
    let trie = Trie::default();
    let text = |number: u32| format!("one/{number}/+");
    let insert = |number: u32| trie.insert(&Pattern::mqtt(text(number).as_bytes()).unwrap(), 1, number);
    for number in 0..100_000 {
        insert(number);
    }
    for number in 100_000..100_003 {
        let before = trie.snapshot_of(b"one").expect("there are patterns below");
        insert(number);
        let after = trie.snapshot_of(b"one").expect("there are patterns below");
        let copied = after.slots_not_shared_with(&before);
        assert!(copied <= 12 * 8, "{copied} slots copied for one insert among {number}");
    }
}

/// The case: 1,000 clients, 100 filters each, half with wildcards, with readers running. Prints; asserts only the result.
#[test]
fn times() {
    let texts: Vec<String> = (0..1000)
        .flat_map(|client| {
            (0..100).map(move |filter| match filter % 4 {
                0 => format!("client/{client}/in/{filter}/+"),
                1 => format!("client/{client}/{filter}/#"),
                2 => format!("client/{client}/state/{filter}"),
                _ => format!("site{}/{client}/{filter}/temp", filter % 10),
            })
        })
        .collect();
    let trie = Trie::<u64>::default();
    let per = |start: Instant, count: usize| start.elapsed().as_nanos() / count as u128;
    let start = Instant::now();
    for (id, text) in texts.iter().enumerate() {
        trie.insert(&Pattern::mqtt(text.as_bytes()).unwrap(), id as u64 / 100, id as u64);
    }
    println!("insert into the trie: {} ns each, {} entries", per(start, texts.len()), trie.len());

    let names: Vec<String> = (0..1000).flat_map(|client| [format!("client/{client}/in/4/x"), format!("client/{client}/state/2")]).collect();
    let (start, mut found) = (Instant::now(), 0);
    for _ in 0..20 {
        for name in &names {
            trie.matches(&Name::mqtt(name.as_bytes()).unwrap(), |_, _| found += 1);
        }
    }
    println!("parse and match a name: {} ns each", per(start, 20 * names.len()));
    assert_eq!(found, 20 * names.len());

    let flat: Vec<String> = (0..100_000).map(|number| format!("one/{number}/+")).collect();
    let (trie_flat, start) = (Trie::<u64>::default(), Instant::now());
    for text in &flat {
        trie_flat.insert(&Pattern::mqtt(text.as_bytes()).unwrap(), 1, 1);
    }
    println!("insert 100,000 children of one parent: {} ns each", per(start, flat.len()));

    let start = Instant::now();
    for (id, text) in texts.iter().enumerate() {
        assert!(trie.remove(&Pattern::mqtt(text.as_bytes()).unwrap(), id as u64 / 100).is_some());
    }
    println!("remove from the trie: {} ns each", per(start, texts.len()));
    assert!(trie.is_empty());

    let (index, start) = (Retained::<u64>::default(), Instant::now());
    for number in 0..100_000u64 {
        index.set(&Name::mqtt(format!("site/{}/{}/temp", number % 100, number / 100).as_bytes()).unwrap(), number);
    }
    println!("set retained: {} ns each", per(start, 100_000));
    let (start, mut cursor, mut count) = (Instant::now(), None, 0);
    loop {
        let page = index.page(&Pattern::mqtt(b"site/+/5/#").unwrap(), cursor, 100);
        count += page.found.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    println!("retained site/+/5/# in 100,000 topics: {} us for {count}", start.elapsed().as_micros());
    assert_eq!(count, 100);
}
