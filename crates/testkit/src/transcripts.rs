//! Conversations written down in files: several in each, one behind every line `== what it shows`. A line is a step; what came of it stands behind
//! it, indented. Each comes out as it is written there, also if the clients' bytes come in pieces.
//!
//! With `CARRICK_RECORD=1` what happens now is written down; the difference is for a reviewer to judge.

use std::fs;
use std::path::{Path, PathBuf};

/// What plays a conversation.
pub trait Stage {
    fn step(&mut self, step: &str);
    /// What was said since this was last asked.
    fn said(&mut self) -> Vec<String>;
}

/// The files of a folder, which is below the crate's own.
pub fn scripts(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let folder = folder.as_ref();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut all: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.sort();
    assert!(!all.is_empty(), "the transcripts are missing");
    all
}

/// Plays all of them, on a stage that is opened anew for each conversation: for a file, with bytes in pieces of so many.
pub fn play<S: Stage>(folder: impl AsRef<Path>, pieces: &[usize], open: impl Fn(&Path, usize) -> S) {
    let record = std::env::var_os("CARRICK_RECORD").is_some();
    let mut wrong = String::new();
    for path in scripts(folder) {
        let before = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for pieces in pieces {
            let after = run(&before, || open(&path, *pieces));
            if before == after {
                continue;
            }
            // In one piece, as they are meant.
            if record && *pieces == usize::MAX {
                fs::write(&path, &after).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            } else {
                wrong += &first_difference(&path, &before, &after);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn run<S: Stage>(text: &str, open: impl Fn() -> S) -> String {
    let mut after = String::new();
    let mut stage = open();
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        after += line;
        after.push('\n');
        match line {
            line if line.starts_with("== ") => stage = open(),
            line if line.is_empty() || line.starts_with('#') => {}
            step => stage.step(step),
        }
        stage.said().into_iter().for_each(|line| after += &format!("  {line}\n"));
    }
    after
}

fn first_difference(path: &Path, before: &str, after: &str) -> String {
    let same = before.lines().zip(after.lines()).take_while(|(old, new)| old == new).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    format!("{}:{}\n  written {}\n  is now  {}\n", path.display(), same + 1, line(before), line(after))
}
