//! The fuzz target for sessions over its committed corpus, and a walk around it. `CARRICK_RECORD=1 cargo test -p amqp091` writes the corpus
//! anew: what each client of each transcript says.

use crate::{transcripts, words};
use amqp091::session_fuzz;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longer conversations make slow fuzzing.
const SEED_MAX: usize = 6000;
/// The first byte of a seed: how the client begins is what is left by six, the rest is the size of the pieces. 41 bytes here.
const WITH_NOTHING: u8 = 240;
const WITH_CHANNEL: u8 = 241;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/amqp091_session")
}

fn record() {
    std::fs::create_dir_all(folder()).unwrap();
    for path in transcripts::scripts() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, conversation) in text.split("== ").skip(1).enumerate() {
            for (client, bytes) in clients(conversation) {
                let name = format!("{}-{at}-{client}", path.file_stem().unwrap().to_str().unwrap());
                if (2..SEED_MAX).contains(&bytes.len()) {
                    std::fs::write(folder().join(name), bytes).unwrap();
                }
            }
        }
    }
}

fn clients(conversation: &str) -> BTreeMap<&str, Vec<u8>> {
    let mut said: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for line in conversation.lines().skip(1).filter(|line| !line.starts_with("  ") && !line.starts_with('#')) {
        let Some((client, what)) = line.split_once(' ').filter(|(client, _)| !["wait", "trace"].contains(client)) else { continue };
        let first = if what.starts_with("connect") && !what.starts_with("connection.") { WITH_CHANNEL } else { WITH_NOTHING };
        let bytes = said.entry(client).or_insert_with(|| vec![first]);
        if !what.starts_with("cut") && (first == WITH_NOTHING) {
            what.split(" ; ").for_each(|part| bytes.extend(words::encode(part, 4096)));
        }
    }
    said
}

fn seeds() -> Vec<Vec<u8>> {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if std::env::var_os("CARRICK_RECORD").is_some() {
        ONCE.call_once(record);
    }
    let files = std::fs::read_dir(folder()).expect("the corpus");
    files.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_corpus_holds() {
    let seeds = seeds();
    assert!(seeds.len() > 50, "{} seeds", seeds.len());
    for seed in &seeds {
        session_fuzz(seed);
        // The same in other pieces, and with another beginning.
        for first in [0, 1, 2, 3, 4, 5, 252] {
            session_fuzz(&[&[first], &seed[1..]].concat());
        }
    }
}

#[test]
fn the_neighbourhood_of_the_corpus() {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for seed in seeds() {
        for _ in 0..60 {
            let mut bytes = seed.clone();
            bytes[0] = (WITH_CHANNEL - 1) + random(6) as u8;
            for _ in 0..1 + random(4) {
                let at = 1 + random(bytes.len() - 1);
                match random(5) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes[at] ^= 1 << random(8),
                    2 if bytes.len() > 2 => drop(bytes.remove(at)),
                    // Numbers of methods are small, and a frame of another kind is a frame.
                    3 => bytes[at] = [1, 2, 3, 8, 10, 20, 40, 50, 60, 85, 90, 0xce][random(12)],
                    _ => bytes.insert(at, bytes[at]),
                }
            }
            session_fuzz(&bytes);
        }
    }
}
