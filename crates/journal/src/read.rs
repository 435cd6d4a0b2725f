//! Reading records by LSN, wherever they lie.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::batch::{BATCH_HEADER, FRAME_HEADER};
use crate::catalog::Home;
use crate::cold::ColdFile;
use crate::record::ENVELOPE_BYTES_MAX;
use crate::segment::{Segment, Window};
use crate::{Journal, Lsn, ReadError, RecordHead};

/// Read at once: a frame header walk and most records fit.
const READ_AHEAD: usize = 20 << 10;
/// Neighbours further apart than this are not fetched by one read.
const RUN_GAP: u64 = 64 << 10;
const RUN_BYTES: u64 = 1 << 20;

impl Journal {
    /// The fields of the record at `lsn` replace `into`.
    pub fn read(&self, lsn: Lsn, into: &mut Vec<u8>) -> Result<RecordHead, ReadError> {
        let mut head = None;
        self.read_run(&[lsn], &mut |_, found, fields| {
            into.clear();
            into.extend_from_slice(fields);
            head = Some(found);
        })?;
        head.ok_or(ReadError::Gone(lsn))
    }

    /// Reads several records, ascending LSNs; neighbours are fetched together. `each` gets the index in `lsns`, the envelope and the fields.
    pub fn read_run(&self, lsns: &[Lsn], each: &mut dyn FnMut(usize, RecordHead, &[u8])) -> Result<(), ReadError> {
        let mut at = 0;
        while at < lsns.len() {
            let first = lsns[at];
            self.wait_written(first)?;
            let (home, end) = {
                let catalog = self.core.catalog.read();
                let entry = catalog.find(first.0).ok_or(ReadError::Gone(first))?;
                (entry.home.clone(), entry.end)
            };
            let written = self.core.written.load(Ordering::Acquire);
            let near = |pair: &[Lsn]| pair[1] >= pair[0] && pair[1].0 - pair[0].0 < RUN_GAP && pair[1].0 - first.0 < RUN_BYTES;
            let more = lsns[at..].windows(2).take_while(|pair| near(pair) && pair[1].0 < end.min(written)).count();
            let run = &lsns[at..at + 1 + more];
            match home {
                Home::Hot(segment) => hot_run(&segment, run, at, each)?,
                Home::Cold(file) => cold_run(&file, run, at, each)?,
            }
            at += run.len();
        }
        Ok(())
    }

    /// A place is given out when its batch is built, a moment before it is in the file.
    fn wait_written(&self, lsn: Lsn) -> Result<(), ReadError> {
        for _ in 0..500 {
            if lsn.0 < self.core.written.load(Ordering::Acquire) {
                return Ok(());
            }
            if self.core.failure.get().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Err(ReadError::Pending(lsn))
    }
}

fn cold_run(file: &ColdFile, run: &[Lsn], base: usize, each: &mut dyn FnMut(usize, RecordHead, &[u8])) -> Result<(), ReadError> {
    let mut bytes = Vec::new();
    for (index, lsn) in run.iter().enumerate() {
        let head = file.read(*lsn, &mut bytes)?;
        each(base + index, head, &bytes[head.head_len as usize..]);
    }
    Ok(())
}

fn hot_run(segment: &Segment, run: &[Lsn], base: usize, each: &mut dyn FnMut(usize, RecordHead, &[u8])) -> Result<(), ReadError> {
    let (first, last) = (run[0], run[run.len() - 1]);
    let io_error = |lsn: Lsn| move |source: io::Error| ReadError::Io { lsn, source };
    let damaged = |lsn: Lsn, what: &str| ReadError::Damaged { lsn, what: what.to_string() };
    let mut offset = segment.walk_from(first.0).map_err(io_error(first))?;
    let mut window = Window::new(segment.file.clone(), READ_AHEAD + (last.0 - first.0) as usize);
    let mut frame = window.frame(segment.head.salt, offset).map_err(io_error(first))?;
    for (index, lsn) in run.iter().enumerate() {
        let inside = loop {
            let Some(head) = &frame else { return Err(damaged(*lsn, "no frame leads to it")) };
            if head.batch_len > 0 && lsn.0 < head.lsn + u64::from(head.batch_len) {
                break lsn.0.checked_sub(head.lsn + BATCH_HEADER as u64).ok_or_else(|| damaged(*lsn, "it is no record's position"))?;
            }
            offset += head.frame_len();
            frame = window.frame(segment.head.salt, offset).map_err(io_error(*lsn))?;
        };
        let at = offset + (FRAME_HEADER + BATCH_HEADER) as u64 + inside;
        let head = RecordHead::parse(window.bytes(at, ENVELOPE_BYTES_MAX).map_err(io_error(*lsn))?)
            .ok_or_else(|| damaged(*lsn, "no record envelope stands there"))?;
        let bytes = window.bytes(at, head.encoded_len()).map_err(io_error(*lsn))?;
        let fields = bytes.get(head.head_len as usize..head.encoded_len()).ok_or_else(|| damaged(*lsn, "the file ends within it"))?;
        each(base + index, head, fields);
    }
    Ok(())
}
