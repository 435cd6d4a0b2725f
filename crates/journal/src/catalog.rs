//! Where a range of the log lies now. Lookup and pin happen under one guard: whoever holds the `Arc` of a file keeps it from being unlinked.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::segment::Segment;

#[derive(Clone)]
pub(crate) enum Home {
    Hot(Arc<Segment>),
}

#[derive(Clone)]
pub(crate) struct Entry {
    /// `u64::MAX` while it is being written.
    pub end: u64,
    pub home: Home,
}

/// Ranges by their first LSN.
#[derive(Default)]
pub(crate) struct Catalog {
    pub ranges: BTreeMap<u64, Entry>,
}

impl Catalog {
    pub fn find(&self, lsn: u64) -> Option<&Entry> {
        let (_, entry) = self.ranges.range(..=lsn).next_back()?;
        (lsn < entry.end).then_some(entry)
    }

    pub fn add_hot(&mut self, segment: Arc<Segment>) {
        self.ranges.insert(segment.head.first_lsn, Entry { end: u64::MAX, home: Home::Hot(segment) });
    }

    pub fn seal(&mut self, first: u64, end: u64) {
        if let Some(entry) = self.ranges.get_mut(&first) {
            entry.end = end;
        }
    }
}
