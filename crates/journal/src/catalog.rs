//! Where a range of the log lies now. Lookup and pin happen under one guard: whoever holds the `Arc` of a file keeps it from being unlinked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cold::ColdFile;
use crate::segment::Segment;

#[derive(Clone)]
pub(crate) enum Home {
    Hot(Arc<Segment>),
    Cold(Arc<ColdFile>),
}

#[derive(Clone)]
pub(crate) struct Entry {
    /// `u64::MAX` while it is being written.
    pub end: u64,
    pub home: Home,
}

/// Ranges by their first LSN, and the cold files that some of them lie in.
#[derive(Default)]
pub(crate) struct Catalog {
    pub ranges: BTreeMap<u64, Entry>,
    pub cold: BTreeMap<u64, Arc<ColdFile>>,
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

    pub fn add_cold(&mut self, file: Arc<ColdFile>) {
        self.cold.insert(file.number, file);
    }

    /// Moves the cold files that no range lies in any more, and that no reader holds, to `gone`; others stay for a later sweep.
    pub fn take_unused(&mut self, gone: &mut BTreeMap<u64, Arc<ColdFile>>) {
        let used: BTreeSet<u64> = (self.ranges.values())
            .filter_map(|entry| match &entry.home {
                Home::Cold(file) => Some(file.number),
                Home::Hot(_) => None,
            })
            .collect();
        gone.clear();
        let unused: Vec<u64> = (self.cold.iter())
            .filter(|(number, file)| !used.contains(number) && Arc::strong_count(file) == 1)
            .map(|(number, _)| *number)
            .collect();
        for number in unused {
            if let Some(file) = self.cold.remove(&number) {
                gone.insert(number, file);
            }
        }
    }

    pub fn hot_count(&self) -> u64 {
        self.ranges.values().filter(|entry| matches!(entry.home, Home::Hot(_))).count() as u64
    }
}
