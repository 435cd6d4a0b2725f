//! The retained index against a map that is searched one by one.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::matching::{naive, name_of, name_words, pattern_text};
use crate::routing::retained::{Change, Retained};
use crate::routing::topic::{Encoded, Name, Pattern};
use crate::routing::trie::Dollar;

fn all_of(index: &Retained<u32>, pattern: &Pattern<'_>, max: usize) -> Vec<(Encoded, u32)> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = index.page(pattern, cursor, max);
        assert!(page.found.len() <= max);
        found.extend(page.found);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return found,
        }
    }
}

fn model_of(words: &[Vec<String>]) -> BTreeMap<Vec<String>, u32> {
    words.iter().enumerate().map(|(value, words)| (words.clone(), value as u32)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn pages_hold_what_matches((syntax, text) in pattern_text(), words in prop::collection::vec(name_words(), 0..80), max in 1usize..8) {
        let index = Retained::default();
        let model = model_of(&words);
        for (words, value) in &model {
            index.set(&name_of(words), *value);
        }
        prop_assert_eq!(index.len(), model.len());
        let matching = |words: &Vec<String>| naive(syntax, &text, &words.iter().map(String::as_str).collect::<Vec<_>>(), Dollar::Hidden);
        let mut expected: Vec<_> = model.iter().filter(|(words, _)| matching(words)).map(|(words, value)| (Encoded::of_name(&name_of(words)), *value)).collect();
        expected.sort();
        let mut found = all_of(&index, &Pattern::parse(syntax, text.as_bytes()).expect("a legal pattern"), max);
        found.sort();
        prop_assert_eq!(found, expected);
    }

    /// Checkpoints taken at random moments, applied to a copy, always make it equal.
    #[test]
    fn changes_rebuild_the_index(history in prop::collection::vec((name_words(), any::<u32>(), 0u8..8), 1..120)) {
        let index = Retained::default();
        let mut objects: HashMap<u64, (Encoded, u32)> = HashMap::new();
        let take = |objects: &mut HashMap<u64, (Encoded, u32)>| loop {
            let changes = index.take_changes(3);
            if changes.is_empty() {
                break;
            }
            for change in changes {
                match change {
                    Change::Put { id, topic, value } => drop(objects.insert(id, (topic, value))),
                    Change::Delete { id } => assert!(objects.remove(&id).is_some(), "a deletion of what no checkpoint held"),
                }
            }
        };
        for (words, value, action) in &history {
            match action {
                0 => take(&mut objects),
                1 | 2 => drop(index.remove(&name_of(words))),
                _ => drop(index.set(&name_of(words), *value)),
            }
        }
        take(&mut objects);
        prop_assert!(!index.has_changes());
        let copy = Retained::default();
        for (id, (topic, value)) in &objects {
            copy.restore(*id, topic.clone(), *value);
        }
        prop_assert!(!copy.has_changes());
        let list = |index: &Retained<u32>| {
            let (mut all, mut cursor) = (Vec::new(), None);
            loop {
                let page = index.page_of_all(cursor, 2);
                all.extend(page.found);
                cursor = page.next;
                if cursor.is_none() {
                    all.sort();
                    return all;
                }
            }
        };
        prop_assert_eq!(list(&copy), list(&index));
        prop_assert_eq!(copy.len(), index.len());
    }
}

#[test]
fn set_replace_remove_and_hidden() {
    let index = Retained::default();
    let name = Name::mqtt(b"a/b").unwrap();
    assert_eq!((index.set(&name, 1), index.set(&name, 2), index.get(&name), index.len()), (None, Some(1), Some(2), 1));
    assert_eq!(index.remove_if(&name, |value| *value == 1), None);
    index.set(&Name::mqtt(b"$SYS/up").unwrap(), 3);
    let texts = |filter: &str| -> Vec<Vec<u8>> {
        all_of(&index, &Pattern::mqtt(filter.as_bytes()).unwrap(), 10).iter().map(|(topic, _)| topic.join(b'/')).collect()
    };
    assert_eq!(texts("#"), [b"a/b".to_vec()]);
    assert_eq!(texts("+/+"), [b"a/b".to_vec()]);
    assert_eq!(texts("$SYS/#"), [b"$SYS/up".to_vec()]);
    assert_eq!(texts("a/b/#"), [b"a/b".to_vec()]);
    assert_eq!((index.remove(&name), index.remove(&name), index.len()), (Some(2), None, 1));
}

/// What stands while a search is under way is seen once, though topics come and go between its pages.
#[test]
fn paging_is_stable_under_changes() {
    let index = Retained::default();
    for number in 0..1000u32 {
        index.set(&Name::mqtt(format!("s/{number}/t").as_bytes()).unwrap(), number);
    }
    let (mut seen, mut cursor, mut round) = (Vec::new(), None, 0u32);
    loop {
        let page = index.page(&Pattern::mqtt(b"s/+/t").unwrap(), cursor, 7);
        seen.extend(page.found.into_iter().map(|(_, value)| value));
        // Odd ones go, new ones come.
        round += 1;
        index.remove(&Name::mqtt(format!("s/{}/t", (round * 34 + 1) % 1000).as_bytes()).unwrap());
        index.set(&Name::mqtt(format!("s/new{round}/t").as_bytes()).unwrap(), 5000 + round);
        match page.next {
            Some(next) if round < 5000 => cursor = Some(next),
            Some(_) => panic!("the search does not end"),
            None => break,
        }
    }
    let mut standing: Vec<u32> = seen.iter().copied().filter(|value| value % 2 == 0 && *value < 1000).collect();
    standing.sort_unstable();
    assert_eq!(standing, (0..1000).step_by(2).collect::<Vec<_>>());
}

/// A filter that matches little in a large index: pages are bounded by work, and jumps make few of them.
#[test]
fn a_search_jumps_over_what_cannot_match() {
    let index = Retained::default();
    for site in 0..100 {
        for sensor in 0..100 {
            index.set(&Name::mqtt(format!("site/{site}/s{sensor}").as_bytes()).unwrap(), site);
        }
    }
    let count_pages = |filter: &[u8]| {
        let (mut pages, mut found, mut cursor) = (0, 0, None);
        loop {
            let page = index.page(&Pattern::mqtt(filter).unwrap(), cursor, 10);
            (pages, found) = (pages + 1, found + page.found.len());
            cursor = page.next;
            if cursor.is_none() {
                return (pages, found);
            }
        }
    };
    // 64 steps a page: about three for each of 100 sites, where a scan of 10,000 topics would take 157 pages.
    let (pages, found) = count_pages(b"site/+/s50");
    assert!(found == 100 && pages <= 12, "{pages} pages, {found} found");
    let (pages, found) = count_pages(b"site/+/none");
    assert!(found == 0 && pages <= 6, "{pages} pages, {found} found");
    assert_eq!(count_pages(b"site/42/s7"), (1, 1));
    assert_eq!(count_pages(b"other/#"), (1, 0));
    assert_eq!(count_pages(b"#").1, 10_000);
}

#[test]
fn a_failed_checkpoint_loses_nothing() {
    let index = Retained::default();
    let (kept, gone) = (Name::mqtt(b"kept").unwrap(), Name::mqtt(b"gone").unwrap());
    index.set(&kept, 1);
    index.set(&gone, 2);
    assert_eq!(index.take_changes(10).len(), 2);
    index.remove(&gone);
    let failed = index.take_changes(10);
    assert!(matches!(failed[..], [Change::Delete { .. }]));
    index.all_changed(failed.iter().filter_map(|change| match change {
        Change::Delete { id } => Some(*id),
        Change::Put { .. } => None,
    }));
    let again = index.take_changes(10);
    assert!(again.contains(&failed[0]) && again.len() == 2);
}
