//! The two layers of the log: batches, which a peer gets too, in frames, which are this file's own (docs/format.md).
//!
//! *Replicated batch*: one group commit, one replication frame, the atomic unit; its bytes are LSN space and the same on both nodes.
//! ```text
//! magic u32 | version u8 | level u8 | flags u16 | len u32 | count u32 | lsn u64 | epoch u64 | commit_lsn u64 | wall_ms u64 | key id u32 | chain u32
//! ```
//! `len` counts the header; `chain` = crc32c over the previous chain, then the header without this field, then the records. So two logs with
//! equal (epoch, LSN, chain) are byte-identical up to there.
//!
//! *Local frame* around it, per node, outside LSN space:
//! ```text
//! magic u32 | crc u32 | batch_len u32 | pad u32 | synced_lsn u64 | lsn u64
//! ```
//! `crc` is seeded with the segment's salt and covers the frame header and the batch header (hence the chain, hence everything), so a frame
//! of an earlier life of the file is never taken for one of this. `synced_lsn` is the sync marker: everything below it was synced before
//! this frame was written. A frame with `batch_len` 0 carries only the marker.

use crate::wire::{crc_of, Reader};

pub const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"CkB1");
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"CkF1");
pub const BATCH_HEADER: usize = 56;
pub const FRAME_HEADER: usize = 32;
pub const BATCH_VERSION: u8 = 1;
/// A batch is closed when it has this many bytes; only a single slot may make it larger.
pub const BATCH_BYTES: usize = 4 << 20;
/// The largest slot and a header.
pub const BATCH_BYTES_MAX: usize = (64 << 20) + BATCH_HEADER;

const CHAIN_AT: usize = BATCH_HEADER - 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHead {
    pub level: u8,
    /// Reserved for compression and encryption of the whole batch: 0.
    pub flags: u16,
    pub len: u32,
    pub count: u32,
    pub lsn: u64,
    pub epoch: u64,
    pub commit_lsn: u64,
    pub wall_ms: u64,
    pub key_id: u32,
    pub chain: u32,
}

impl BatchHead {
    fn encode(&self) -> [u8; BATCH_HEADER] {
        let mut out = [0; BATCH_HEADER];
        out[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        out[4] = BATCH_VERSION;
        out[5] = self.level;
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..12].copy_from_slice(&self.len.to_le_bytes());
        out[12..16].copy_from_slice(&self.count.to_le_bytes());
        out[16..24].copy_from_slice(&self.lsn.to_le_bytes());
        out[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        out[32..40].copy_from_slice(&self.commit_lsn.to_le_bytes());
        out[40..48].copy_from_slice(&self.wall_ms.to_le_bytes());
        out[48..52].copy_from_slice(&self.key_id.to_le_bytes());
        out[52..56].copy_from_slice(&self.chain.to_le_bytes());
        out
    }

    /// `None`: no batch header of this version. The chain is not checked here.
    pub fn decode(bytes: &[u8]) -> Option<BatchHead> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != BATCH_MAGIC || reader.u8()? != BATCH_VERSION {
            return None;
        }
        let head = BatchHead {
            level: reader.u8()?,
            flags: reader.u16()?,
            len: reader.u32()?,
            count: reader.u32()?,
            lsn: reader.u64()?,
            epoch: reader.u64()?,
            commit_lsn: reader.u64()?,
            wall_ms: reader.u64()?,
            key_id: reader.u32()?,
            chain: reader.u32()?,
        };
        (BATCH_HEADER..=BATCH_BYTES_MAX).contains(&(head.len as usize)).then_some(head)
    }

    pub fn end(&self) -> u64 {
        self.lsn + u64::from(self.len)
    }
}

/// The first batch of bytes that are batches back to back, and the rest. `None`: none stands there whole.
pub fn next_batch(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = BatchHead::decode(bytes)?;
    bytes.split_at_checked(head.len as usize)
}

/// The chain CRC of `batch` (whole: header and records) after `previous`.
pub fn chain_of(previous: u32, batch: &[u8]) -> u32 {
    crc_of(previous, &[&batch[..CHAIN_AT], &batch[BATCH_HEADER..]])
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHead {
    pub batch_len: u32,
    pub pad: u32,
    pub synced_lsn: u64,
    /// The LSN at which the frame stands: that of its batch, or of the next one when it has none.
    pub lsn: u64,
    crc: u32,
}

impl FrameHead {
    fn encode(&self, salt: u32, batch_head: &[u8]) -> [u8; FRAME_HEADER] {
        let mut out = [0; FRAME_HEADER];
        out[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        out[8..12].copy_from_slice(&self.batch_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.pad.to_le_bytes());
        out[16..24].copy_from_slice(&self.synced_lsn.to_le_bytes());
        out[24..32].copy_from_slice(&self.lsn.to_le_bytes());
        let crc = crc_of(salt, &[&out[8..], batch_head]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None`: no frame of this salt stands at the start of `bytes`. `bytes` must reach over the batch header for a frame with a batch.
    pub fn decode(salt: u32, bytes: &[u8]) -> Option<FrameHead> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != FRAME_MAGIC {
            return None;
        }
        let crc = reader.u32()?;
        let head = FrameHead { batch_len: reader.u32()?, pad: reader.u32()?, synced_lsn: reader.u64()?, lsn: reader.u64()?, crc };
        let covered = if head.batch_len == 0 { 0 } else { BATCH_HEADER };
        let batch_head = bytes.get(FRAME_HEADER..FRAME_HEADER + covered)?;
        let sized = head.batch_len as usize <= BATCH_BYTES_MAX && head.pad <= 1 << 20;
        (sized && crc_of(salt, &[&bytes[8..FRAME_HEADER], batch_head]) == crc).then_some(head)
    }

    /// Bytes of the whole frame on disk.
    pub fn frame_len(&self) -> u64 {
        (FRAME_HEADER + self.batch_len as usize) as u64 + u64::from(self.pad)
    }
}

/// Completes `frame`, which is room for both headers followed by the records, in place. Answers the new chain.
pub fn seal(frame: &mut [u8], salt: u32, synced_lsn: u64, previous_chain: u32, mut head: BatchHead) -> u32 {
    let batch = &mut frame[FRAME_HEADER..];
    head.len = batch.len() as u32;
    batch[..BATCH_HEADER].copy_from_slice(&head.encode());
    head.chain = chain_of(previous_chain, batch);
    batch[CHAIN_AT..BATCH_HEADER].copy_from_slice(&head.chain.to_le_bytes());
    let outer = FrameHead { batch_len: head.len, pad: 0, synced_lsn, lsn: head.lsn, crc: 0 };
    let encoded = outer.encode(salt, &frame[FRAME_HEADER..FRAME_HEADER + BATCH_HEADER]);
    frame[..FRAME_HEADER].copy_from_slice(&encoded);
    head.chain
}

/// Puts a new local frame header before a batch that is copied as it is (the recovered tail; later a frame from the peer).
pub fn reframe(batch: &[u8], salt: u32, synced_lsn: u64, lsn: u64) -> [u8; FRAME_HEADER] {
    let head = FrameHead { batch_len: batch.len() as u32, pad: 0, synced_lsn, lsn, crc: 0 };
    head.encode(salt, &batch[..BATCH_HEADER])
}

/// An empty frame: the marker alone.
pub fn marker(salt: u32, synced_lsn: u64) -> [u8; FRAME_HEADER] {
    FrameHead { batch_len: 0, pad: 0, synced_lsn, lsn: synced_lsn, crc: 0 }.encode(salt, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_frame_reads_back_and_any_flipped_bit_shows() {
        let mut frame = vec![0; FRAME_HEADER + BATCH_HEADER];
        frame.extend_from_slice(b"records");
        let head = BatchHead { level: 1, flags: 0, len: 0, count: 1, lsn: 77, epoch: 3, commit_lsn: 70, wall_ms: 9, key_id: 0, chain: 0 };
        let chain = seal(&mut frame, 0xabcd, 60, 5, head);
        let outer = FrameHead::decode(0xabcd, &frame).unwrap();
        assert_eq!((outer.synced_lsn, outer.lsn, outer.frame_len()), (60, 77, frame.len() as u64));
        let inner = BatchHead::decode(&frame[FRAME_HEADER..]).unwrap();
        assert_eq!((inner.chain, inner.end()), (chain, 77 + (BATCH_HEADER + 7) as u64));
        assert_eq!(FrameHead::decode(0xabce, &frame), None, "another salt");
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let fine = FrameHead::decode(0xabcd, &bad).is_some() && chain_of(5, &bad[FRAME_HEADER..]) == chain;
            assert!(!fine, "bit {bit} went unnoticed");
        }
    }
}
