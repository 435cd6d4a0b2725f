//! The fuzz targets over their committed corpus in `fuzz/corpus/`. `CARRICK_RECORD=1` writes the corpus anew from the samples.

use super::*;
use crate::codec::fuzz;
use std::fs;
use std::path::PathBuf;

pub(super) type Target = (&'static str, fn(&[u8]));

pub(super) const TARGETS: [Target; 4] = [
    ("mqtt_split", fuzz::fuzz_split),
    ("mqtt_packet_v3", fuzz::fuzz_packet_v3),
    ("mqtt_packet_v5", fuzz::fuzz_packet_v5),
    ("mqtt_topic", fuzz::fuzz_topic),
];

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// What the corpus is made of: each sample for its packet target, one stream per version and side, and pairs of filter and name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let samples = corpus::all();
    let packets = |v5: bool| {
        let chosen = samples.iter().filter(move |sample| sample.version.is_v5() == v5);
        chosen.map(|sample| (sample.name.clone(), sample.bytes.clone())).collect()
    };
    match target {
        "mqtt_packet_v3" => packets(false),
        "mqtt_packet_v5" => packets(true),
        "mqtt_split" => [(Version::V31, Peer::Client, 0x00), (Version::V311, Peer::Client, 0x11), (Version::V5, Peer::Client, 0x1C)]
            .into_iter()
            .chain([(Version::V311, Peer::Server, 0x02), (Version::V5, Peer::Server, 0x27)])
            .map(|(version, from, choice)| {
                let mut stream = vec![choice, 100];
                for sample in samples.iter().filter(|sample| sample.version == version && sample.from == from) {
                    let again = sample.name.contains("connect-") || sample.name.contains("connack-");
                    if !again || sample.name.ends_with("connect-minimal") {
                        stream.extend_from_slice(&sample.bytes);
                    }
                }
                (format!("{}-{from:?}", version.name().replace(' ', "")), stream)
            })
            .collect(),
        _ => {
            let pairs = ["sport/#\nsport/a/b", "+/+\n/finance", "$share/g/a/+\na/b", "#\n$SYS/x", "größe/+/日本\ngröße//日本", "a/#/b\na+"];
            pairs.iter().enumerate().map(|(at, pair)| (format!("pair-{at}"), pair.as_bytes().to_vec())).collect()
        }
    }
}

#[test]
fn every_file_of_the_corpus() {
    for (target, run) in TARGETS {
        if std::env::var_os("CARRICK_RECORD").is_some() {
            fs::create_dir_all(folder(target)).expect("the corpus folder");
            for (name, bytes) in seeds(target) {
                fs::write(folder(target).join(name), bytes).expect("a seed");
            }
        }
        for (name, bytes) in seeds(target) {
            assert_eq!(fs::read(folder(target).join(&name)).ok(), Some(bytes), "{target}/{name} is out of date: CARRICK_RECORD=1");
        }
        let mut count = 0;
        for entry in fs::read_dir(folder(target)).expect("the corpus folder") {
            run(&fs::read(entry.expect("an entry").path()).expect("a file"));
            count += 1;
        }
        assert!(count >= seeds(target).len(), "{target}");
        run(&[]);
    }
}

/// A short walk beside the corpus: each seed with bytes replaced, removed and doubled by a fixed generator.
#[test]
fn the_neighbourhood_of_the_corpus() {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for (target, run) in TARGETS {
        for (_, seed) in seeds(target) {
            for _ in 0..200 {
                let mut bytes = seed.clone();
                for _ in 0..1 + random(4) {
                    let at = random(bytes.len());
                    match random(4) {
                        0 => bytes[at] = random(256) as u8,
                        1 => bytes[at] ^= 1 << random(8),
                        2 if bytes.len() > 1 => drop(bytes.remove(at)),
                        _ => bytes.insert(at, bytes[at]),
                    }
                }
                run(&bytes);
            }
        }
    }
}
