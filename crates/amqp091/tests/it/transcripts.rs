//! The conversations in `transcripts/`, with a real core behind the session: each comes out as it is written there, also if the clients'
//! bytes come one by one.
//!
//! `CARRICK_RECORD=1 cargo test -p amqp091` writes down what happens now; the difference is for a reviewer to judge.

use crate::rig::Rig;
use std::fs;
use std::path::{Path, PathBuf};

pub fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcripts");
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    assert!(!all.is_empty(), "the transcripts are missing");
    all
}

/// A file holds several conversations, each after a line `== what it shows`; what came of a step stands behind it, indented.
fn run(text: &str, pieces: usize) -> String {
    let mut after = String::new();
    let mut rig = Rig::new(pieces);
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        after += line;
        after.push('\n');
        match line {
            line if line.starts_with("== ") => rig = Rig::new(pieces),
            line if line.is_empty() || line.starts_with('#') => {}
            step => rig.step(step),
        }
        rig.lines.drain(..).for_each(|line| after += &format!("  {line}\n"));
    }
    after
}

#[test]
fn every_conversation_goes_as_written() {
    let record = std::env::var_os("CARRICK_RECORD").is_some();
    let mut wrong = String::new();
    for path in scripts() {
        let before = fs::read_to_string(&path).unwrap();
        let after = run(&before, usize::MAX);
        if before != after && record {
            fs::write(&path, &after).unwrap();
        } else if before != after {
            wrong += &first_difference(&path, &before, &after);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn bytes_that_come_one_by_one_change_nothing() {
    let mut wrong = String::new();
    for path in scripts() {
        let before = fs::read_to_string(&path).unwrap();
        for pieces in [1, 13] {
            let after = run(&before, pieces);
            if before != after {
                wrong += &first_difference(&path, &before, &after);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn first_difference(path: &Path, before: &str, after: &str) -> String {
    let same = before.lines().zip(after.lines()).take_while(|(old, new)| old == new).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    format!("{}:{}\n  written {}\n  is now  {}\n", path.display(), same + 1, line(before), line(after))
}
