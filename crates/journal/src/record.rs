//! Records: the envelope, the only thing of a record that the journal parses.
//!
//! `kind u8 | level u8 | flags u8 | pins varint | len varint | fields`. `pins` counts the references to this record's body that
//! queues hold; the journal keeps the record readable until that many have been released. Kinds below [`FIRST_APPLICATION_KIND`]
//! are the journal's own.

use crate::wire::{put_varint, Reader};
use crate::{next, Lsn, OpenError};

/// What a new store begins with: whoever is to follow it understands this.
pub const FIRST_LEVEL: u8 = 1;
/// The highest level of records that this version has.
const KNOWN_LEVEL: u8 = 1;

/// The highest level of records that this program understands.
pub fn known_level() -> u8 {
    if next::is_on() {
        next::LEVEL
    } else {
        KNOWN_LEVEL
    }
}

pub const FIRST_APPLICATION_KIND: u8 = 16;

/// First record of every reign: epoch u64, boot id u64. The application skips 2^20 sequence numbers when it sees one.
pub const KIND_EPOCH_START: u8 = 1;
/// level u8: from here on records up to this level may follow.
pub const KIND_SET_LEVEL: u8 = 2;
/// The application's digest at this position; reserved for the pair.
pub const KIND_DIGEST: u8 = 3;

/// Kinds that are reserved for later; nothing writes them yet and a reader stops at them.
pub const RESERVED_KINDS: [(u8, &str); 3] = [(4, "BodyChunk"), (5, "Offset"), (6, "Prepared")];

/// A record of the largest slot is still shorter than this.
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// kind, level, flags and two varints of up to five bytes.
pub const ENVELOPE_BYTES_MAX: usize = 3 + 5 + 5;
/// Up to here the length is moved into its shortest form; above, four bytes cost less than the move.
const COMPACT_BELOW: usize = 512;

/// The records of one slot, encoded once and copied once into the batch.
#[derive(Default)]
pub struct Records {
    bytes: Vec<u8>,
    count: u32,
    pins: u64,
    level: u8,
}

impl Records {
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for the encoded bytes, so that filling allocates once.
    pub fn with_capacity(bytes: usize) -> Self {
        Records { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Appends a record whose fields `write` appends. Answers its offset in the slot: its LSN is the slot's [`crate::Place`] plus this.
    pub fn push(&mut self, kind: u8, level: u8, flags: u8, pins: u32, write: impl FnOnce(&mut Vec<u8>)) -> u32 {
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(&[kind, level, flags]);
        put_varint(&mut self.bytes, u64::from(pins));
        let length_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut self.bytes);
        let len = self.bytes.len() - length_at - 4;
        assert!(len < RECORD_BYTES_MAX, "a record of {len} bytes is over the bound; the core must refuse it earlier");
        self.set_length(length_at, len);
        self.count += 1;
        self.pins += u64::from(pins);
        self.level = self.level.max(level);
        offset as u32
    }

    fn set_length(&mut self, at: usize, len: usize) {
        if len < 0x80 {
            self.bytes[at] = len as u8;
            self.bytes.drain(at + 1..at + 4);
        } else if len < COMPACT_BELOW {
            self.bytes[at..at + 2].copy_from_slice(&[len as u8 | 0x80, (len >> 7) as u8]);
            self.bytes.drain(at + 2..at + 4);
        } else {
            let padded = [len as u8 | 0x80, (len >> 7) as u8 | 0x80, (len >> 14) as u8 | 0x80, (len >> 21) as u8];
            self.bytes[at..at + 4].copy_from_slice(&padded);
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// For fields that are known only after the record's length is: they may be overwritten, never resized.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn pins(&self) -> u64 {
        self.pins
    }

    /// The highest level of a record in here.
    pub fn level(&self) -> u8 {
        self.level
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// What the envelope of a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHead {
    pub kind: u8,
    pub level: u8,
    pub flags: u8,
    pub pins: u32,
    /// Bytes of the envelope.
    pub head_len: u32,
    /// Bytes of the fields.
    pub len: u32,
}

impl RecordHead {
    /// `None`: not even an envelope is here, or one that is out of bounds.
    pub fn parse(bytes: &[u8]) -> Option<RecordHead> {
        let mut reader = Reader::new(bytes);
        let (kind, level, flags) = (reader.u8()?, reader.u8()?, reader.u8()?);
        let pins = u32::try_from(reader.varint()?).ok()?;
        let len = u32::try_from(reader.varint()?).ok().filter(|len| (*len as usize) < RECORD_BYTES_MAX)?;
        Some(RecordHead { kind, level, flags, pins, head_len: (bytes.len() - reader.left()) as u32, len })
    }

    pub fn encoded_len(&self) -> usize {
        self.head_len as usize + self.len as usize
    }
}

/// A record as the state machine gets it.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    pub kind: u8,
    pub level: u8,
    pub flags: u8,
    pub pins: u32,
    pub fields: &'a [u8],
}

/// Walks the records of a batch body: LSN, envelope and the encoded bytes. Ends with an error when the bytes are no records.
pub(crate) fn walk<'a>(mut bytes: &'a [u8], mut lsn: u64, mut each: impl FnMut(Lsn, RecordHead, &'a [u8])) -> Result<u32, String> {
    let mut count = 0;
    while !bytes.is_empty() {
        let head = RecordHead::parse(bytes).ok_or_else(|| format!("no record envelope at {lsn}"))?;
        let Some((record, rest)) = bytes.split_at_checked(head.encoded_len()) else {
            return Err(format!("record at {lsn} runs over the end of its batch"));
        };
        each(Lsn(lsn), head, record);
        lsn += record.len() as u64;
        bytes = rest;
        count += 1;
    }
    Ok(count)
}

/// Refuses what a later program wrote (unknown kinds stop the reader, they are never skipped).
pub(crate) fn check_known(lsn: Lsn, head: &RecordHead) -> Result<(), OpenError> {
    if head.level > known_level() {
        return Err(OpenError::Level { at: format!("the record at {lsn}"), level: head.level, known: known_level() });
    }
    let own = head.kind < FIRST_APPLICATION_KIND;
    if own && !matches!(head.kind, KIND_EPOCH_START | KIND_SET_LEVEL | KIND_DIGEST) && !next::knows(head) {
        return Err(OpenError::Kind { lsn, kind: head.kind });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_form_round_trips_and_every_cut_is_refused() {
        for len in [0usize, 1, 127, 128, 511, 512, 5_000, 70_000] {
            let mut records = Records::new();
            assert_eq!(records.push(20, 1, 3, 300, |out| out.resize(out.len() + len, 7)), 0);
            let second = records.push(21, 1, 0, 0, |out| out.extend_from_slice(b"xy"));
            let head = RecordHead::parse(records.bytes()).unwrap();
            assert_eq!((head.kind, head.level, head.flags, head.pins, head.len as usize), (20, 1, 3, 300, len));
            assert_eq!(head.encoded_len(), second as usize);
            let mut seen = Vec::new();
            assert_eq!(walk(records.bytes(), 1000, |lsn, head, _| seen.push((lsn.0, head.kind))), Ok(2));
            assert_eq!(seen, [(1000, 20), (1000 + u64::from(second), 21)]);
            if len < 600 {
                for cut in 1..records.bytes().len() {
                    let whole = cut == second as usize;
                    assert_eq!(walk(&records.bytes()[..cut], 0, |_, _, _| ()).is_ok(), whole, "cut at {cut}");
                }
            }
        }
    }
}
