//! A page of references as an object of the page files, written by checkpoints, and read for deliveries, for what changes in it, and to be
//! written again with what came behind it.

use super::records::{read_side, write_side};
use super::snapshot::class;
use super::wire::{Reader, Writer};
use crate::queue::{Entry, Page, Status, PAGE};
use broker_api::{QueueId, Seq};
use journal::ObjectKey;

pub(super) fn page_key(queue: QueueId, level: u8, number: u64) -> ObjectKey {
    ObjectKey::new(class::PAGE, queue.0, Seq::new(level, number * PAGE).0)
}

/// The part of a page that is away, as it was written.
#[derive(Default)]
pub(super) struct Front {
    pub entries: u16,
    pub bytes: Vec<u8>,
}

/// A page, behind what of it is away. Answers whether every durable entry had its place (one without is left out: its record is redone),
/// and what was written: entries and the bytes of their messages.
pub(super) fn write_page(w: &mut Writer<'_>, page: &Page, front: &Front) -> (bool, u16, u64) {
    let mut complete = true;
    let at = w.0.len();
    let (mut n, mut bytes) = (front.entries, page.away_bytes);
    w.u32(0);
    w.0.extend_from_slice(&front.bytes);
    for (position, entry) in page.live_entries().filter(|(_, e)| e.durable) {
        let lsn = entry.known_lsn();
        if lsn == 0 {
            complete = false;
            continue;
        }
        n += 1;
        bytes += u64::from(entry.bytes);
        w.u64(position);
        w.u64(lsn);
        w.u32(entry.bytes);
        w.u32(entry.expires);
        w.u16(entry.attempts);
        w.u16(entry.ordinal);
        w.u8(entry.level);
        w.u8(entry.flags);
        w.u8(u8::from(entry.side.is_some()));
        if let Some(side) = &entry.side {
            write_side(w, side);
        }
    }
    w.0[at..at + 4].copy_from_slice(&u32::from(n).to_le_bytes());
    (complete, n, bytes)
}

/// Bytes of an entry of a page without its side: position, place, bytes, expiry, attempts, ordinal, level, flags, and whether there is one.
const PAGE_ENTRY: usize = 8 + 8 + 4 + 4 + 2 + 2 + 1 + 1 + 1;

/// The references of a page, by position.
pub(super) fn read_page(r: &mut Reader<'_>) -> Option<Vec<(u64, Entry)>> {
    let n = r.u32()?;
    let mut entries = Vec::with_capacity(n.min(256) as usize);
    for _ in 0..n {
        let position = r.u64()?;
        let entry = Entry {
            held: None,
            lsn: r.u64()?,
            bytes: r.u32()?,
            expires: r.u32()?,
            attempts: r.u16()?,
            ordinal: r.u16()?,
            level: r.u8()?,
            flags: r.u8()?,
            side: if r.u8()? != 0 { Some(read_side(r)?) } else { None },
            owner: 0,
            head: 0,
            offset: 0,
            durable: true,
            status: Status::Ready,
        };
        entries.push((position, entry));
    }
    Some(entries)
}

/// How many entries of a page stand before a position, and their bytes as they are.
pub(super) fn page_before(bytes: &[u8], position: u64) -> Option<(u16, &[u8])> {
    let mut r = Reader::new(bytes);
    let all = r.u32()?;
    let (start, mut end, mut n) = (r.position(), r.position(), 0u16);
    for _ in 0..all {
        if r.u64()? >= position {
            break;
        }
        r.take(PAGE_ENTRY - 9)?;
        if r.u8()? != 0 {
            read_side(&mut r)?;
        }
        (n, end) = (n.checked_add(1)?, r.position());
    }
    Some((n, &bytes[start..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_of_a_page_is_found_and_no_cut_page_is_taken_for_one() {
        let mut bytes = Vec::new();
        let mut w = Writer(&mut bytes);
        w.u32(3);
        for position in [256u64, 258, 300] {
            w.u64(position);
            w.0.extend_from_slice(&[7; PAGE_ENTRY - 9]);
            w.u8(u8::from(position == 258));
            if position == 258 {
                write_side(&mut w, &broker_api::Side::default());
            }
        }
        assert_eq!(read_page(&mut Reader::new(&bytes)).unwrap().len(), 3);
        assert_eq!(page_before(&bytes, 256), Some((0, &[][..])));
        assert_eq!(page_before(&bytes, 257), Some((1, &bytes[4..4 + PAGE_ENTRY])));
        let (n, front) = page_before(&bytes, 300).unwrap();
        assert_eq!((n, front), (2, &bytes[4..bytes.len() - PAGE_ENTRY]));
        assert_eq!(page_before(&bytes, 301), Some((3, &bytes[4..])));
        for end in 0..bytes.len() {
            assert_eq!(page_before(&bytes[..end], 301), None, "{end}");
        }
    }
}
