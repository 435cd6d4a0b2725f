//! The conversations in `transcripts/`, with a real core behind the session ([`testkit::transcripts`]).

use crate::rig::Rig;
use std::path::PathBuf;
use testkit::transcripts;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/transcripts");

pub fn scripts() -> Vec<PathBuf> {
    transcripts::scripts(FOLDER)
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
    transcripts::play(FOLDER, &[usize::MAX], |_, pieces| Rig::new(pieces));
}

#[test]
fn bytes_that_come_one_by_one_change_nothing() {
    transcripts::play(FOLDER, &[1, 13], |_, pieces| Rig::new(pieces));
}
