//! Making hot segments: prepared one ahead in the background where possible, in place where not, from the reserve when the disk is full.

use std::io;
use std::sync::Arc;

use crate::journal::Core;
use crate::segment::{file_name, Segment, SegmentHead, SEGMENT_HEADER};
use crate::storage::{self, File, Storage};
use crate::{mutants, Failure};

pub(crate) const FRESH: &str = "j/fresh.tmp";

/// Writes the header and `frames` into `file` (which has the name `from`), syncs it and gives it its final name, durably.
pub(crate) fn complete(
    storage: &dyn Storage,
    file: Arc<dyn File>,
    from: &str,
    head: SegmentHead,
    frames: impl FnOnce(&dyn File) -> io::Result<()>,
) -> io::Result<Arc<Segment>> {
    file.write_at(&head.encode(), 0)?;
    frames(file.as_ref())?;
    mutants::sync_data(file.as_ref())?;
    storage.rename(from, &file_name(head.first_lsn))?;
    mutants::sync_dir(storage, "j")?;
    let segment = Segment::new(head, file);
    segment.index_complete();
    Ok(Arc::new(segment))
}

/// A new file of this size under a temporary name. A full disk is an answer (`None`), not a failure.
pub(crate) fn allocate(storage: &dyn Storage, name: &str, bytes: u64) -> io::Result<Option<Arc<dyn File>>> {
    let made = storage.create(name).and_then(|file| file.allocate(bytes).map(|()| file));
    match made {
        Ok(file) => Ok(Some(file)),
        Err(error) if storage::is_full(&error) => {
            storage.remove(name).ok();
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The segment that the commit thread goes on in.
pub(crate) fn next(core: &Core, mut head: SegmentHead) -> Result<Option<Arc<Segment>>, Failure> {
    let fail = |error: io::Error| core.fail("starting a segment", &error);
    let storage = core.storage.as_ref();
    let Some((file, name)) = core.spares.take(core, head.file_bytes).map_err(fail)? else { return Ok(None) };
    head.file_bytes = head.file_bytes.max(file.len().map_err(fail)?);
    debug_assert!(head.file_bytes > SEGMENT_HEADER);
    complete(storage, file, &name, head, |_| Ok(())).map(Some).map_err(fail)
}
