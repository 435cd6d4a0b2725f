//! What happened, line by line, and a hash of it: equal for equal seeds.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Lines that are kept for who wants to read them, the last ones.
const LINES_MAX: usize = 4000;

#[derive(Default)]
struct Inner {
    hash: u64,
    lines: std::collections::VecDeque<String>,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Inner>>);

impl Trace {
    pub fn note(&self, at: Duration, who: &dyn Display, what: &str) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{:>10.3} ms  {who}: {what}", at.as_secs_f64() * 1000.0);
        // FNV-1a over the time to the nanosecond, and the line.
        let mut hash = inner.hash ^ 0xcbf2_9ce4_8422_2325;
        for byte in at.as_nanos().to_le_bytes().iter().chain(line.as_bytes()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        inner.hash = hash;
        inner.lines.push_back(line);
        if inner.lines.len() > LINES_MAX {
            inner.lines.pop_front();
        }
    }

    pub fn hash(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hash
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lines.iter().cloned().collect()
    }
}
