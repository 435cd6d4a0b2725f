//! Taking the end off a log: what another node never had, and nobody was told of. It is kept aside.

use std::sync::Arc;

use crate::batch::{BatchHead, BATCH_HEADER, FRAME_HEADER};
use crate::recover::{lock, open_segments, read_meta};
use crate::segment::{file_name, Segment, SegmentHead, Window, SEGMENT_HEADER};
use crate::storage::Storage;
use crate::{checkpoint, mutants, segment_files, Config, Lsn, OpenError};

/// What [`cut`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cut {
    /// The log ends at the position now; what stood behind it is in this file, if there was anything.
    Done { kept_in: Option<String> },
    /// The store's checkpoint holds what would be cut off, or the log does not reach back so far: only a copy of the other node's helps.
    TooLate,
}

/// Cuts the log of a store that nobody has open off at `to`, which is where a batch begins. It was opened before, so everything in it is synced.
/// Can be repeated when it was interrupted.
pub fn cut(storage: &dyn Storage, config: &Config, to: Lsn) -> Result<Cut, OpenError> {
    let _lock = lock(storage)?;
    let Some(meta) = read_meta(storage, config)? else { return Ok(Cut::TooLate) };
    let segments = open_segments(storage, &meta.ids)?;
    let (roots, _) = checkpoint::read_all(storage, &meta.ids)?;
    if roots.iter().any(|root| root.counted.max(root.begin.lsn) > to.0) {
        return Ok(Cut::TooLate);
    }
    let Some((_, holder)) = segments.range(..=to.0).next_back() else { return Ok(Cut::TooLate) };
    let Some((offset, chain, epoch)) = find(holder, to.0)? else { return Ok(Cut::TooLate) };
    let kept_in = keep_aside(storage, &segments.range(holder.head.first_lsn..).map(|(_, s)| s.clone()).collect::<Vec<_>>(), to.0, offset)?;
    let cutting = || OpenError::io(format!("cutting the log at {to}"));
    // From the end, so that a log remains that only ends earlier, whenever this is interrupted.
    for first in segments.range(to.0 + 1..).map(|(first, _)| *first).rev() {
        storage.remove(&file_name(first)).map_err(cutting())?;
        mutants::sync_dir(storage, "j").map_err(cutting())?;
    }
    let head = SegmentHead {
        ids: meta.ids,
        first_lsn: to.0,
        epoch,
        salt: storage.random() as u32,
        chain,
        synced_lsn: to.0,
        file_bytes: config.segment_bytes.max(SEGMENT_HEADER + FRAME_HEADER as u64),
    };
    let file = storage.create(segment_files::FRESH).map_err(cutting())?;
    file.allocate(head.file_bytes).map_err(cutting())?;
    segment_files::complete(storage, file, segment_files::FRESH, head, |_| Ok(())).map_err(cutting())?;
    Ok(Cut::Done { kept_in })
}

/// Offset of the frame at `to`, and chain and epoch before it.
fn find(segment: &Segment, to: u64) -> Result<Option<(u64, u32, u64)>, OpenError> {
    let reading = || OpenError::io(format!("reading {}", file_name(segment.head.first_lsn)));
    let mut window = Window::new(segment.file.clone(), 1 << 20);
    let (mut lsn, mut offset) = (segment.head.first_lsn, SEGMENT_HEADER);
    let (mut chain, mut epoch) = (segment.head.chain, segment.head.epoch);
    while lsn < to {
        let Some(frame) = window.frame(segment.head.salt, offset).map_err(reading())?.filter(|frame| frame.lsn == lsn) else {
            return Ok(None);
        };
        if frame.batch_len > 0 {
            let head = window.bytes(offset + FRAME_HEADER as u64, BATCH_HEADER).map_err(reading())?;
            let Some(head) = BatchHead::decode(head) else { return Ok(None) };
            (lsn, chain, epoch) = (head.end(), head.chain, head.epoch);
        }
        offset += frame.frame_len();
    }
    Ok((lsn == to).then_some((offset, chain, epoch)))
}

/// The batches behind `to`, back to back, in a file of their own.
fn keep_aside(storage: &dyn Storage, segments: &[Arc<Segment>], to: u64, offset: u64) -> Result<Option<String>, OpenError> {
    let keeping = || OpenError::io("keeping aside what is cut off");
    let name = format!("aside/{to:020}.batches");
    let mut file = None;
    let (mut lsn, mut written) = (to, 0);
    for (at, segment) in segments.iter().enumerate() {
        let limit = segments.get(at + 1).map_or(u64::MAX, |next| next.head.first_lsn);
        let mut window = Window::new(segment.file.clone(), 1 << 20);
        let mut offset = if at == 0 { offset } else { SEGMENT_HEADER };
        while lsn < limit {
            let Some(frame) = window.frame(segment.head.salt, offset).map_err(keeping())?.filter(|frame| frame.lsn == lsn) else { break };
            if frame.batch_len > 0 {
                let Some((head, bytes)) = window.batch(&frame, offset).map_err(keeping())? else { break };
                if file.is_none() {
                    storage.make_dir("aside").map_err(keeping())?;
                    file = Some(storage.create(&name).map_err(keeping())?);
                }
                if let Some(file) = &file {
                    file.write_at(bytes, written).map_err(keeping())?;
                }
                written += bytes.len() as u64;
                lsn = head.end();
            }
            offset += frame.frame_len();
        }
    }
    let Some(file) = file else { return Ok(None) };
    mutants::sync_data(file.as_ref()).map_err(keeping())?;
    for dir in ["aside", ""] {
        mutants::sync_dir(storage, dir).map_err(keeping())?;
    }
    Ok(Some(name))
}
