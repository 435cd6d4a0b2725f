//! The frames of the link, in the bodies of [`crate::net`]'s. Little-endian; texts have a `u16` length in front.

use journal::{Lsn, Position};

use crate::coordinator::{Member, NodeName};

pub const HELLO: u8 = 32;
pub const WELCOME: u8 = 33;
pub const CUT: u8 = 34;
pub const START_OVER: u8 = 35;
pub const COPY: u8 = 36;
pub const COPY_FILE: u8 = 37;
pub const COPY_BYTES: u8 = 38;
pub const COPY_END: u8 = 39;
/// Epoch and commit point, then whole batches; without any it is a sign of life.
pub const LOG: u8 = 40;
pub const ACK: u8 = 41;
/// A text: why the link ends.
pub const NO: u8 = 42;

/// Addresses that a node may give for its clients.
const CLIENTS_MAX: u16 = 32;

/// The standby's first frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    pub cluster: u128,
    /// The highest epoch that it has promised to follow.
    pub promised: u64,
    pub end: Position,
    pub member: Member,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    pub epoch: u64,
    pub synced: Lsn,
    pub redone: Lsn,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn u128(&mut self) -> Option<u128> {
        Some(u128::from_le_bytes(self.take(16)?.try_into().ok()?))
    }
    fn text(&mut self) -> Option<String> {
        let len = self.u16()?;
        String::from_utf8(self.take(usize::from(len))?.to_vec()).ok()
    }
    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = text.len().min(usize::from(u16::MAX));
    out.extend_from_slice(&(len as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..len]);
}

impl Hello {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.promised.to_le_bytes());
        out.extend_from_slice(&self.end.epoch.to_le_bytes());
        out.extend_from_slice(&self.end.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.end.chain.to_le_bytes());
        out.extend_from_slice(&self.member.boot.to_le_bytes());
        put_text(&mut out, &self.member.peer);
        out.extend_from_slice(&(self.member.clients.len() as u16).to_le_bytes());
        self.member.clients.iter().for_each(|client| put_text(&mut out, client));
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Hello> {
        let mut r = Reader(bytes);
        let (cluster, promised) = (r.u128()?, r.u64()?);
        let end = Position { epoch: r.u64()?, lsn: Lsn(r.u64()?), chain: r.u32()? };
        let (boot, peer) = (r.u128()?, r.text()?);
        let clients = (0..r.u16().filter(|n| *n <= CLIENTS_MAX)?).map(|_| r.text()).collect::<Option<_>>()?;
        r.end()?;
        Some(Hello { cluster, promised, end, member: Member { boot, peer, clients } })
    }
}

impl Ack {
    pub fn encode(&self) -> [u8; 24] {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.epoch.to_le_bytes());
        out[8..16].copy_from_slice(&self.synced.0.to_le_bytes());
        out[16..].copy_from_slice(&self.redone.0.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Ack> {
        let mut r = Reader(bytes);
        let ack = Ack { epoch: r.u64()?, synced: Lsn(r.u64()?), redone: Lsn(r.u64()?) };
        r.end().map(|()| ack)
    }
}

/// In front of the batches of a [`LOG`] frame.
pub const LOG_HEAD: usize = 16;

pub fn log_head(epoch: u64, commit: Lsn) -> [u8; LOG_HEAD] {
    let mut out = [0; LOG_HEAD];
    out[..8].copy_from_slice(&epoch.to_le_bytes());
    out[8..].copy_from_slice(&commit.0.to_le_bytes());
    out
}

pub fn read_log_head(bytes: &[u8]) -> Option<(u64, Lsn)> {
    let mut r = Reader(bytes);
    Some((r.u64()?, Lsn(r.u64()?)))
}

pub fn number(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

pub fn read_number(bytes: &[u8]) -> Option<u64> {
    let mut r = Reader(bytes);
    let value = r.u64()?;
    r.end().map(|()| value)
}

pub fn read_cluster(bytes: &[u8]) -> Option<u128> {
    let mut r = Reader(bytes);
    let value = r.u128()?;
    r.end().map(|()| value)
}

/// A file of a copy: as long as it is to be, and its name.
pub fn copy_file(name: &str, len: u64) -> Vec<u8> {
    let mut out = len.to_le_bytes().to_vec();
    put_text(&mut out, name);
    out
}

pub fn read_copy_file(bytes: &[u8]) -> Option<(u64, String)> {
    let mut r = Reader(bytes);
    let found = (r.u64()?, r.text()?);
    r.end().map(|()| found)
}

/// Whatever comes over the wire: nothing panics, and what is read is written the same again.
pub fn fuzz(data: &[u8]) {
    if let Some(hello) = Hello::decode(data) {
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
    }
    if let Some(ack) = Ack::decode(data) {
        assert_eq!(ack.encode(), data);
    }
    let _ = (read_log_head(data), read_number(data), read_cluster(data), read_copy_file(data));
    let _ = "a".parse::<NodeName>();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_part_of_it() {
        let member = Member { boot: 7, peer: "b:1".into(), clients: vec!["mqtt://b".into(), "amqp://b".into()] };
        let hello = Hello { cluster: 1 << 90, promised: 4, end: Position { epoch: 3, lsn: Lsn(99), chain: 5 }, member };
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes), Some(hello));
        assert!((0..bytes.len()).all(|end| Hello::decode(&bytes[..end]).is_none()));
        let ack = Ack { epoch: 1, synced: Lsn(2), redone: Lsn(3) };
        assert_eq!(Ack::decode(&ack.encode()), Some(ack));
        assert_eq!(read_copy_file(&copy_file("j/1.log", 9)), Some((9, "j/1.log".into())));
        bytes.iter().enumerate().for_each(|(at, _)| fuzz(&bytes[at..]));
    }
}
