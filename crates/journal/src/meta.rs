//! `meta`: who this store is, the highest epoch seen, the boot id, and whether the last stop was clean. Two slots of 512 bytes, written in
//! turn, so that a torn write leaves the other; the valid one with the higher number counts.

use crate::segment::Ids;
use crate::storage::Storage;
use crate::wire::{crc_of, Reader};
use crate::{mutants, OpenError};

const MAGIC: u64 = u64::from_le_bytes(*b"CkMeta01");
pub const META_VERSION: u32 = 1;
const SLOT: u64 = 512;
const USED: usize = 8 + 4 + 8 + Ids::BYTES + 8 + 8 + 1 + 4;
const NAME: &str = "meta";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    pub number: u64,
    pub ids: Ids,
    /// The highest epoch this node has taken part in.
    pub epoch: u64,
    pub boot_id: u64,
    pub clean: bool,
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLOT as usize);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&META_VERSION.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        self.ids.encode(&mut out);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.boot_id.to_le_bytes());
        out.push(u8::from(self.clean));
        let crc = crc_of(0, &[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(out.len(), USED);
        out.resize(SLOT as usize, 0);
        out
    }

    /// `Ok(None)`: no valid slot.
    fn decode(bytes: &[u8]) -> Result<Option<Meta>, OpenError> {
        let Some(used) = bytes.get(..USED) else { return Ok(None) };
        let (body, crc) = used.split_at(USED - 4);
        if crc_of(0, &[body]).to_le_bytes() != *crc || !body.starts_with(&MAGIC.to_le_bytes()) {
            return Ok(None);
        }
        let mut reader = Reader::new(&body[8..]);
        let version = reader.u32().unwrap_or(0);
        if version != META_VERSION {
            return Err(OpenError::Version { file: NAME.into(), found: version, known: META_VERSION });
        }
        let mut fields = || {
            Some(Meta {
                number: reader.u64()?,
                ids: Ids::decode(&mut reader)?,
                epoch: reader.u64()?,
                boot_id: reader.u64()?,
                clean: reader.u8()? != 0,
            })
        };
        Ok(fields())
    }

    pub fn read(storage: &dyn Storage) -> Result<Option<Meta>, OpenError> {
        if !storage.list("").map_err(OpenError::io("listing the data directory"))?.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        let reading = || OpenError::io("reading meta");
        let file = storage.open(NAME).map_err(reading())?;
        let mut best = None;
        for slot in 0..2 {
            let mut bytes = vec![0; SLOT as usize];
            let read = file.read_at(&mut bytes, slot * SLOT).map_err(reading())?;
            if let Some(found) = Meta::decode(&bytes[..read])? {
                if best.is_none_or(|best: Meta| best.number < found.number) {
                    best = Some(found);
                }
            }
        }
        best.map(Some).ok_or_else(|| OpenError::corrupt(NAME, "both slots are damaged"))
    }

    /// The first one of a store, complete under its name or not there at all.
    pub fn create(&self, storage: &dyn Storage) -> std::io::Result<()> {
        let file = storage.create("meta.tmp")?;
        file.write_at(&self.encode(), (self.number % 2) * SLOT)?;
        file.sync_data()?;
        storage.rename("meta.tmp", NAME)?;
        mutants::sync_dir(storage, "")
    }

    /// Writes the next one into the other slot, synced.
    pub fn update(&mut self, storage: &dyn Storage) -> std::io::Result<()> {
        self.number += 1;
        let file = storage.open(NAME)?;
        file.write_at(&self.encode(), (self.number % 2) * SLOT)?;
        mutants::sync_data(file.as_ref())
    }
}
