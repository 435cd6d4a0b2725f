//! Whether a remembered route may still be used.
//!
//! A counter per first segment (1024 of them, by hash) and one for patterns that start with a wildcard. A change bumps the counter
//! of its pattern; a remembered route carries what its name's counters were before it was computed. So a client that
//! subscribes each second under its own first segment empties no one else's cache.
//!
//! Two rules make it safe: take the stamp *before* looking the route up, and bump *after* the change is published. A route that
//! missed the change then has a stamp from before the bump.

use std::sync::atomic::{AtomicU64, Ordering};

use super::topic::{hash_bytes, Name, Pattern, Piece, Segment};

const SLOTS: usize = 1024;

/// The counters that a name depends on, as they were. Compare it only with stamps for the same first segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

pub struct Generations {
    by_first: Box<[AtomicU64]>,
    wild: AtomicU64,
}

impl Default for Generations {
    fn default() -> Self {
        Generations { by_first: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), wild: AtomicU64::new(0) }
    }
}

impl Generations {
    /// Both counters only grow, so their sum stays the same only if neither moved.
    pub fn stamp(&self, first: Option<Segment<'_>>) -> Stamp {
        let slot = self.slot(first.map(|segment| segment.hash)).load(Ordering::Acquire);
        Stamp(slot.wrapping_add(self.wild.load(Ordering::Acquire)))
    }

    pub fn stamp_of(&self, name: &Name<'_>) -> Stamp {
        self.stamp(name.first())
    }

    /// For routes that are remembered by raw key: exchanges without segments.
    pub fn stamp_of_key(&self, key: &[u8]) -> Stamp {
        self.stamp(Some(Segment { bytes: key, hash: hash_bytes(key) }))
    }

    /// After a pattern was added, removed, or got another value.
    pub fn bump(&self, pattern: &Pattern<'_>) {
        match pattern.pieces().first() {
            Some(Piece::Literal(first)) => self.slot(Some(first.hash)).fetch_add(1, Ordering::Release),
            Some(Piece::One | Piece::Many) => self.wild.fetch_add(1, Ordering::Release),
            None => self.slot(None).fetch_add(1, Ordering::Release),
        };
    }

    pub fn bump_key(&self, key: &[u8]) {
        self.slot(Some(hash_bytes(key))).fetch_add(1, Ordering::Release);
    }

    /// After a change that concerns any name.
    pub fn bump_all(&self) {
        self.wild.fetch_add(1, Ordering::Release);
    }

    fn slot(&self, first: Option<u64>) -> &AtomicU64 {
        &self.by_first[first.unwrap_or(0) as usize % SLOTS]
    }
}
