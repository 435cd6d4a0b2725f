//! `carrick journal inspect DIR`: what is in a data directory, for people.

use std::io::{self, Write};
use std::path::Path;

use crate::checkpoint;
use crate::cold::{self, ColdFile};
use crate::meta::Meta;
use crate::pages;
use crate::recover::open_segments;
use crate::segment::{file_name, Segment, Window, SEGMENT_HEADER};
use crate::storage::Storage;
use crate::verify::open_store;
use crate::OpenError;

/// Prints the store in `dir`. Reads only, and may run beside a broker (the picture is then of different moments).
pub fn run(dir: &Path, out: &mut impl Write) -> Result<(), OpenError> {
    let storage = open_store(dir)?;
    let meta = Meta::read(&storage)?.ok_or(OpenError::NoStore)?;
    print(&storage, &meta, out)
}

fn print(storage: &dyn Storage, meta: &Meta, out: &mut impl Write) -> Result<(), OpenError> {
    let writing = || OpenError::io("writing");
    let stop = if meta.clean { "clean stop" } else { "running, or stopped hard" };
    writeln!(
        out,
        "store    cluster {:032x} node {:016x} shard {}, epoch {}, {stop}",
        meta.ids.cluster, meta.ids.node, meta.ids.shard, meta.epoch
    )
    .map_err(writing())?;
    for root in checkpoint::read_all(storage, &meta.ids)?.0 {
        let line = format!(
            "{}  redo from {}, counted to {}, level {}, {} ranges, {} objects",
            checkpoint::file_name(root.number),
            root.begin.lsn,
            root.counted,
            root.level,
            root.ranges.len(),
            root.objects.len()
        );
        writeln!(out, "{line}").map_err(writing())?;
    }
    for segment in open_segments(storage, &meta.ids)?.values() {
        let name = file_name(segment.head.first_lsn);
        let line = describe(segment).map_err(OpenError::io(format!("reading {name}")))?;
        writeln!(out, "{name}  {line}").map_err(writing())?;
    }
    for name in storage.list("c").map_err(OpenError::io("listing c"))? {
        let Some(number) = cold::parse_name(&name) else { continue };
        let file = storage.open(&cold::file_name(number)).map_err(OpenError::io(format!("opening c/{name}")))?;
        match ColdFile::open(number, file, &meta.ids) {
            Ok(file) => writeln!(out, "c/{name}  {} bytes, {} records of {} ranges", file.bytes, file.entries, file.ranges.len()),
            Err(error) => writeln!(out, "c/{name}  {error}"),
        }
        .map_err(writing())?;
    }
    for name in storage.list("p").map_err(OpenError::io("listing p"))? {
        let Some(number) = pages::parse_name(&name) else { continue };
        let path = pages::file_name(number);
        let bytes = storage.open(&path).and_then(|file| file.len()).map_err(OpenError::io(format!("measuring {path}")))?;
        writeln!(out, "{path}  {bytes} bytes").map_err(writing())?;
    }
    Ok(())
}

/// Walks the frame headers.
fn describe(segment: &Segment) -> io::Result<String> {
    let mut window = Window::new(segment.file.clone(), 64 << 10);
    let (mut offset, mut batches, mut end, mut marker) = (SEGMENT_HEADER, 0, segment.head.first_lsn, segment.head.synced_lsn);
    while let Some(frame) = window.frame(segment.head.salt, offset)?.filter(|frame| frame.lsn == end) {
        batches += u64::from(frame.batch_len > 0);
        end += u64::from(frame.batch_len);
        marker = marker.max(frame.synced_lsn);
        offset += frame.frame_len();
    }
    Ok(format!(
        "LSN {}..{end}, {batches} batches in {offset} of {} bytes, marker {marker}",
        segment.head.first_lsn, segment.head.file_bytes
    ))
}
