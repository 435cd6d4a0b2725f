//! The conversations in `transcripts/`: each comes out as it is written there, also if the client's bytes are torn at any place.
//!
//! `CARRICK_RECORD=1 cargo test -p mqtt` writes down what happens now; the difference is for a reviewer to judge.

use crate::script::{run, Cut};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcripts");
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    assert!(all.len() >= 10, "the transcripts are missing");
    all
}

/// A file holds several conversations, each after a line `== what it shows`.
fn conversations(text: &str) -> impl Iterator<Item = &str> {
    let mut starts: Vec<usize> =
        text.match_indices("== ").filter(|(at, _)| *at == 0 || text[..*at].ends_with('\n')).map(|(at, _)| at).collect();
    starts.push(text.len());
    (1..starts.len()).map(move |n| (starts[n - 1], starts[n])).map(move |(from, to)| &text[from..to]).collect::<Vec<_>>().into_iter()
}

#[test]
fn every_conversation_goes_as_written() {
    let record = std::env::var_os("CARRICK_RECORD").is_some();
    let mut wrong = String::new();
    for path in scripts() {
        let before = fs::read_to_string(&path).unwrap();
        let mut after = String::new();
        for conversation in conversations(&before) {
            let (title, script) = conversation.split_once('\n').unwrap();
            after += &format!("{title}\n{}", run(script, Cut::Nowhere).text);
        }
        if before != after && record {
            fs::write(&path, &after).unwrap();
        } else if before != after {
            let same = before.lines().zip(after.lines()).take_while(|(old, new)| old == new).count();
            let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
            wrong += &format!("{}:{}\n  written {}\n  is now  {}\n", path.display(), same + 1, line(&before), line(&after));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// What the client sees, by kind of packet: tearing a read may move an answer of the core before one of the session, never more.
fn by_kind(seen: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in seen {
        let kind = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        kinds.entry(kind).or_default().push(line.clone());
    }
    kinds
}

#[test]
fn a_conversation_torn_anywhere_is_the_same() {
    let mut wrong = String::new();
    for path in scripts() {
        let text = fs::read_to_string(&path).unwrap();
        for conversation in conversations(&text) {
            let (title, script) = conversation.split_once('\n').unwrap();
            let whole = run(script, Cut::Nowhere);
            let expected = by_kind(&whole.seen);
            // Long payloads are torn less often: what matters happens at the borders of packets.
            let step = 1 + whole.bytes / 600;
            let cuts = (1..whole.bytes).step_by(step).map(Cut::At).chain([Cut::Everywhere]);
            if let Some(cut) = cuts.into_iter().find(|cut| by_kind(&run(script, *cut).seen) != expected) {
                let now = by_kind(&run(script, cut).seen);
                wrong += &format!("{}: {title}: torn {cut:?}\n  whole {expected:?}\n  torn  {now:?}\n", path.display());
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
