//! The root of a checkpoint: where redo begins, which ranges are alive, and where each object lies. The objects themselves are in the page
//! files, written only when they changed, so a checkpoint costs what changed plus about a dozen bytes per object.
//! ```text
//! magic u64 | version u32 | ids | number u64
//! begin: lsn u64 | chain u32 | salt u32 | segment u64 | offset u64 | wall_ms u64
//! counted u64 (LSN up to which references are counted; all below is committed) | epoch u64 | level u8
//! ranges: count varint, then first LSNs as varint differences (their state is an object of class 0xf0)
//! objects: count varint, then class u8 | a varint | b varint | file varint | offset varint | len varint, in key order
//! crc u32 over everything before
//! ```

use std::collections::BTreeSet;
use std::io;

use crate::journal::{Core, Tip};
use crate::pages::Table;
use crate::segment::Ids;
use crate::storage::{self, Storage};
use crate::wire::{crc_of, put_varint, Reader};
use crate::{mutants, record, ObjectError, ObjectKey, ObjectPlace, OpenError};

const MAGIC: u64 = u64::from_le_bytes(*b"CkRoot01");
pub(crate) const ROOT_VERSION: u32 = 1;
const TEMPORARY: &str = "x/fresh.tmp";

/// The state of a range's references.
pub(crate) const fn range_key(first: u64) -> ObjectKey {
    ObjectKey::new(ObjectKey::OWN_CLASS, first, 0)
}

pub(crate) fn file_name(number: u64) -> String {
    format!("x/{number:016}.root")
}

pub(crate) fn parse_name(name: &str) -> Option<u64> {
    name.strip_suffix(".root").filter(|digits| digits.len() == 16)?.parse().ok()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub number: u64,
    pub begin: Tip,
    pub counted: u64,
    pub epoch: u64,
    pub level: u8,
    pub ranges: Vec<u64>,
    pub objects: Table,
}

/// What maintenance remembers of a root that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub number: u64,
    pub begin: u64,
    pub page_files: BTreeSet<u64>,
}

impl Root {
    pub fn kept(&self) -> Kept {
        Kept { number: self.number, begin: self.begin.lsn, page_files: self.objects.values().map(|place| place.file).collect() }
    }

    fn encode(&self, ids: &Ids) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.objects.len() * 14 + self.ranges.len() * 4);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&ROOT_VERSION.to_le_bytes());
        ids.encode(&mut out);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.begin.lsn.to_le_bytes());
        out.extend_from_slice(&self.begin.chain.to_le_bytes());
        out.extend_from_slice(&self.begin.salt.to_le_bytes());
        for field in [self.begin.segment, self.begin.offset, self.begin.wall_ms, self.counted, self.epoch] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.push(self.level);
        put_varint(&mut out, self.ranges.len() as u64);
        let mut last = 0;
        for first in &self.ranges {
            put_varint(&mut out, first - last);
            last = *first;
        }
        put_varint(&mut out, self.objects.len() as u64);
        for (key, place) in &self.objects {
            out.push(key.class);
            for field in [key.a, key.b, place.file, place.offset, u64::from(place.len)] {
                put_varint(&mut out, field);
            }
        }
        let crc = crc_of(0, &[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(name: &str, bytes: &[u8], ids: &Ids) -> Result<Root, OpenError> {
        let damaged = || OpenError::corrupt(name, "the checkpoint root is damaged");
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        let mut reader = Reader::new(body);
        if reader.u64() != Some(MAGIC) || crc_of(0, &[body]).to_le_bytes() != *crc {
            return Err(damaged());
        }
        let version = reader.u32().ok_or_else(damaged)?;
        if version != ROOT_VERSION {
            return Err(OpenError::Version { file: name.into(), found: version, known: ROOT_VERSION });
        }
        if !Ids::decode(&mut reader).ok_or_else(damaged)?.same_store(ids) {
            return Err(OpenError::Foreign { file: name.into() });
        }
        let root = Root::decode_body(&mut reader).filter(|_| reader.left() == 0).ok_or_else(damaged)?;
        if root.level > record::known_level() {
            return Err(OpenError::Level { at: name.into(), level: root.level, known: record::known_level() });
        }
        if root.counted < root.begin.lsn {
            // References between the two would be counted by nobody, and their records taken for dead.
            let what = format!("it counts references up to {}, but redo begins at {}", root.counted, root.begin.lsn);
            return Err(OpenError::corrupt(name, what));
        }
        Ok(root)
    }

    fn decode_body(reader: &mut Reader<'_>) -> Option<Root> {
        let number = reader.u64()?;
        let (lsn, chain, salt) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let begin = Tip { lsn, chain, salt, segment: reader.u64()?, offset: reader.u64()?, wall_ms: reader.u64()? };
        let (counted, epoch, level) = (reader.u64()?, reader.u64()?, reader.u8()?);
        let mut ranges = Vec::new();
        let mut last = 0u64;
        for _ in 0..reader.varint()? {
            last = last.checked_add(reader.varint()?)?;
            ranges.push(last);
        }
        let mut objects = Table::new();
        for _ in 0..reader.varint()? {
            let key = ObjectKey { class: reader.u8()?, a: reader.varint()?, b: reader.varint()? };
            let place = ObjectPlace { file: reader.varint()?, offset: reader.varint()?, len: u32::try_from(reader.varint()?).ok()? };
            objects.insert(key, place);
        }
        Some(Root { number, begin, counted, epoch, level, ranges, objects })
    }

    /// Durable under its name, or not there. [`ObjectError::Full`]: tried again later.
    pub fn write(&self, core: &Core) -> Result<u64, ObjectError> {
        let bytes = self.encode(&core.ids);
        let storage = core.storage.as_ref();
        let failed = |error: io::Error| ObjectError::Failed(core.fail("writing a checkpoint", &error));
        let mut made = storage.create(TEMPORARY).and_then(|file| file.allocate(bytes.len() as u64).map(|()| file));
        if made.as_ref().is_err_and(storage::is_full) && core.spares.open_checkpoint_reserve(core).map_err(failed)? {
            made = storage.create(TEMPORARY).and_then(|file| file.allocate(bytes.len() as u64).map(|()| file));
        }
        let file = match made {
            Err(error) if storage::is_full(&error) => {
                core.set_disk_full(true);
                return Err(ObjectError::Full);
            }
            other => other.map_err(failed)?,
        };
        file.write_at(&bytes, 0)
            .and_then(|()| mutants::sync_data(file.as_ref()))
            .and_then(|()| storage.rename(TEMPORARY, &file_name(self.number)))
            .and_then(|()| mutants::sync_dir(storage, "x"))
            .map_err(failed)?;
        Ok(bytes.len() as u64)
    }
}

/// The valid roots, oldest first, and the highest number in use. A damaged one is reported and passed over: the one before it is kept for
/// that, with the log back to its begin.
pub(crate) fn read_all(storage: &dyn Storage, ids: &Ids) -> Result<(Vec<Root>, u64), OpenError> {
    let mut roots = Vec::new();
    let mut highest = 0;
    let mut damaged = None;
    for name in storage.list("x").map_err(OpenError::io("listing x"))? {
        let Some(number) = parse_name(&name) else { continue };
        highest = highest.max(number);
        let path = file_name(number);
        let reading = || OpenError::io(format!("reading {path}"));
        let file = storage.open(&path).map_err(reading())?;
        let mut bytes = vec![0; file.len().map_err(reading())? as usize];
        storage::read_exact(file.as_ref(), &mut bytes, 0).map_err(reading())?;
        match Root::decode(&path, &bytes, ids) {
            Ok(root) => roots.push(root),
            Err(error @ OpenError::Corrupt { .. }) => {
                tracing::warn!(file = path, "the checkpoint is damaged; going back to the one before it");
                damaged = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match damaged {
        // With no other one left the log alone cannot tell what the checkpoint held, unless it still begins at 0.
        Some(error) if roots.is_empty() && highest > 1 => Err(error),
        _ => Ok((roots, highest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_round_trips_and_no_flipped_byte_goes_unnoticed() {
        let ids = Ids { cluster: 7, node: 1, shard: 0 };
        let begin = Tip { lsn: 1000, chain: 5, salt: 6, segment: 900, offset: 4500, wall_ms: 77 };
        let objects =
            (0..40u64).map(|at| (ObjectKey::new(at as u8 / 9, at * 300, at), ObjectPlace { file: at % 3, offset: at << 20, len: 99 }));
        let root = Root { number: 3, begin, counted: 1200, epoch: 4, level: 1, ranges: vec![0, 900], objects: objects.collect() };
        let bytes = root.encode(&ids);
        assert_eq!(Root::decode("x", &bytes, &ids).unwrap(), root);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Root::decode("x", &bad, &ids).is_err(), "byte {at}");
            assert!(Root::decode("x", &bytes[..at], &ids).is_err(), "cut at {at}");
        }
    }
}
