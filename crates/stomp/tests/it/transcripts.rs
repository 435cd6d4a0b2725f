//! The conversations in `transcripts/`, with a real core behind the session ([`testkit::transcripts`]).

use crate::rig::Rig;
use std::path::Path;
use stomp::{Config, Dialect};
use testkit::transcripts;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/transcripts");

/// Those in `activemq.txt` are with a listener of that dialect, and `golden.txt` is what RabbitMQ was seen to refuse.
fn open(path: &Path, pieces: usize) -> Rig {
    let config = match path.ends_with("activemq.txt") {
        true => Config::default().speaking(Dialect::ActiveMq),
        false => Config { strict: path.ends_with("golden.txt"), ..Config::default() },
    };
    Rig::with(config, pieces)
}

impl transcripts::Stage for Rig {
    fn step(&mut self, step: &str) {
        Rig::step(self, step);
    }

    fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

#[test]
fn every_conversation_goes_as_written() {
    transcripts::play(FOLDER, &[usize::MAX], open);
}

#[test]
fn bytes_that_come_one_by_one_change_nothing() {
    transcripts::play(FOLDER, &[1, 13], open);
}
