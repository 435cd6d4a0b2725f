//! A version that does not exist: what would come after this one, for tests of upgrades and of the way back. In a build with debug assertions
//! `CARRICK_FORMAT=next` makes a process that version: it understands level 2 of the log, where each batch ends with a record of a kind that this
//! version does not know, and the next version of the link. Without debug assertions there is nothing of it.

use std::sync::atomic::Ordering;
use std::sync::OnceLock;

use crate::journal::Core;
use crate::{Lsn, OpenError, RecordHead, Records};

pub(crate) const LEVEL: u8 = 2;
/// The last of the journal's own.
const KIND: u8 = 15;

pub fn is_on() -> bool {
    static CHOSEN: OnceLock<bool> = OnceLock::new();
    cfg!(debug_assertions) && *CHOSEN.get_or_init(|| std::env::var_os("CARRICK_FORMAT").is_some_and(|format| format == "next"))
}

/// Whether it is that version's own.
pub(crate) fn knows(head: &RecordHead) -> bool {
    is_on() && head.kind == KIND
}

/// What that version puts at the end of the batch that stands at `lsn`, once its level is in force.
pub(crate) fn of_batch(core: &Core, lsn: u64) -> Option<Records> {
    if !is_on() || core.level.load(Ordering::Relaxed) < LEVEL {
        return None;
    }
    let mut records = Records::new();
    records.push(KIND, LEVEL, 0, 0, |out| out.extend_from_slice(&lsn.to_le_bytes()));
    Some(records)
}

/// It names the batch that it stands in.
pub(crate) fn read(lsn: Lsn, fields: &[u8]) -> Result<(), OpenError> {
    let batch = fields.try_into().map(u64::from_le_bytes).ok().filter(|batch| *batch < lsn.0);
    batch.map(drop).ok_or_else(|| OpenError::corrupt("j", format!("the record at {lsn} does not name its batch")))
}
