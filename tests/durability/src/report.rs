//! What a rig prints: its figures on one line, and a TAP line. A figure that must not be zero fails the rig when it is.

use std::fmt::Write;

use anyhow::{ensure, Result};

use crate::checker::Verdict;
use crate::watch::Seen;

#[derive(Default)]
pub struct Figures {
    shown: Vec<(&'static str, u64)>,
    zeros: Vec<&'static str>,
}

impl Figures {
    /// Must not be zero.
    pub fn needs(&mut self, name: &'static str, value: u64) {
        if value == 0 {
            self.zeros.push(name);
        }
        self.shown.push((name, value));
    }

    /// Of interest only.
    pub fn shows(&mut self, name: &'static str, value: u64) {
        self.shown.push((name, value));
    }

    pub fn journal(&mut self, seen: &Seen) {
        self.needs("segments_rotated", (seen.segments.len() as u64).saturating_sub(1));
        self.needs("checkpoints", seen.checkpoints.len() as u64);
        self.needs("evacuations", seen.cold.len() as u64);
    }

    /// For a rig whose rounds are too short for them; it says why.
    pub fn journal_as_it_came(&mut self, seen: &Seen) {
        self.shows("segments_rotated", (seen.segments.len() as u64).saturating_sub(1));
        self.shows("checkpoints", seen.checkpoints.len() as u64);
        self.shows("evacuations", seen.cold.len() as u64);
    }

    pub fn print(&self, rig: &str) {
        let mut line = String::new();
        for (name, value) in &self.shown {
            let _ = write!(line, " {name}={value}");
        }
        println!("# {rig}:{line}");
    }

    pub fn judge(&self) -> Result<()> {
        ensure!(self.zeros.is_empty(), "the rig has no teeth: zero {}", self.zeros.join(", "));
        Ok(())
    }
}

pub fn judge(verdict: &Verdict) -> Result<()> {
    ensure!(verdict.is_clean(), "{}", verdict.broken());
    Ok(())
}
