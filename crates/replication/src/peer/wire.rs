//! The frames of the link, in the bodies of [`crate::net`]'s. Little-endian; texts have a `u16` length in front.

use bytes::Buf;
use journal::{Lsn, Position};

use crate::coordinator::{Member, NodeName, Register, Version};

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
/// The answer to a HELLO takes its time.
pub const WAIT: u8 = 43;
/// The primary has given up its place: the standby has all of the log, up to this position, and may stand for it at once.
pub const HANDOVER: u8 = 44;
/// The standby's operator wants it to be primary.
pub const PLEASE: u8 = 45;
/// The register as the primary has written it, where each node keeps one of its own.
pub const REGISTER: u8 = 46;

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
    /// The highest level of the log that it understands. On a link of a version below 3 nobody says so, and it is 1.
    pub level: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    pub epoch: u64,
    pub synced: Lsn,
    pub redone: Lsn,
    /// In memory at least. On a link of version 1 nobody says so, and it is what is synced.
    pub received: Lsn,
}

fn text(from: &mut &[u8]) -> Option<String> {
    let len = from.try_get_u16_le().ok()?;
    let (text, rest) = from.split_at_checked(usize::from(len))?;
    *from = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// What was read, if nothing is left behind it.
fn whole<T>(rest: &[u8], read: T) -> Option<T> {
    rest.is_empty().then_some(read)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = text.len().min(usize::from(u16::MAX));
    out.extend_from_slice(&(len as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..len]);
}

impl Hello {
    /// `version`: the link's.
    pub fn encode(&self, version: u16) -> Vec<u8> {
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
        if version >= 3 {
            out.push(self.level);
        }
        out
    }

    pub fn decode(mut from: &[u8]) -> Option<Hello> {
        let (cluster, promised) = (from.try_get_u128_le().ok()?, from.try_get_u64_le().ok()?);
        let (epoch, lsn, chain) = (from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?, from.try_get_u32_le().ok()?);
        let (boot, peer) = (from.try_get_u128_le().ok()?, text(&mut from)?);
        let clients = from.try_get_u16_le().ok().filter(|n| *n <= CLIENTS_MAX)?;
        let clients = (0..clients).map(|_| text(&mut from)).collect::<Option<_>>()?;
        let end = Position { epoch, lsn: Lsn(lsn), chain };
        let level = if from.is_empty() { 1 } else { from.try_get_u8().ok()? };
        whole(from, Hello { cluster, promised, end, member: Member { boot, peer, clients }, level })
    }
}

impl Ack {
    /// `version`: the link's.
    pub fn encode(&self, version: u16) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        for field in [self.epoch, self.synced.0, self.redone.0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        if version >= 2 {
            out.extend_from_slice(&self.received.0.to_le_bytes());
        }
        out
    }

    pub fn decode(mut from: &[u8]) -> Option<Ack> {
        let (epoch, synced, redone) = (from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?);
        let received = if from.is_empty() { synced } else { from.try_get_u64_le().ok()? };
        whole(from, Ack { epoch, synced: Lsn(synced), redone: Lsn(redone), received: Lsn(received) })
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

pub fn read_log_head(mut from: &[u8]) -> Option<(u64, Lsn)> {
    Some((from.try_get_u64_le().ok()?, Lsn(from.try_get_u64_le().ok()?)))
}

pub fn number(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

pub fn read_number(mut from: &[u8]) -> Option<u64> {
    let value = from.try_get_u64_le().ok()?;
    whole(from, value)
}

/// The primary's epoch, and from version 2 of the link on whether it is to be acked what has been received.
pub fn welcome(epoch: u64, on_receipt: bool, version: u16) -> Vec<u8> {
    let mut out = number(epoch).to_vec();
    if version >= 2 {
        out.push(u8::from(on_receipt));
    }
    out
}

pub fn read_welcome(mut from: &[u8]) -> Option<(u64, bool)> {
    let epoch = from.try_get_u64_le().ok()?;
    let on_receipt = !from.is_empty() && from.try_get_u8().ok()? != 0;
    whole(from, (epoch, on_receipt))
}

pub fn read_cluster(mut from: &[u8]) -> Option<u128> {
    let value = from.try_get_u128_le().ok()?;
    whole(from, value)
}

pub fn register(version: Version, register: &Register) -> Vec<u8> {
    let mut out = number(version.0).to_vec();
    out.extend(serde_json::to_vec(register).unwrap_or_default());
    out
}

pub fn read_register(mut from: &[u8]) -> Option<(Version, Register)> {
    let version = Version(from.try_get_u64_le().ok()?);
    Some((version, serde_json::from_slice(from).ok()?))
}

/// A file of a copy: as long as it is to be, and its name.
pub fn copy_file(name: &str, len: u64) -> Vec<u8> {
    let mut out = len.to_le_bytes().to_vec();
    put_text(&mut out, name);
    out
}

pub fn read_copy_file(mut from: &[u8]) -> Option<(u64, String)> {
    let (len, name) = (from.try_get_u64_le().ok()?, text(&mut from)?);
    whole(from, (len, name))
}

/// Whatever comes over the wire: nothing panics, and what is read is written the same again.
pub fn fuzz(data: &[u8]) {
    if let Some(hello) = Hello::decode(data) {
        assert_eq!(Hello::decode(&hello.encode(3)), Some(hello));
    }
    if let Some(ack) = Ack::decode(data) {
        assert!([1, 2].iter().any(|version| ack.encode(*version) == data));
    }
    let _ = (read_welcome(data), read_register(data), read_log_head(data), read_number(data), read_cluster(data), read_copy_file(data));
    let _ = "a".parse::<NodeName>();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_part_of_it() {
        let member = Member { boot: 7, peer: "b:1".into(), clients: vec!["mqtt://b".into(), "amqp://b".into()] };
        let hello = Hello { cluster: 1 << 90, promised: 4, end: Position { epoch: 3, lsn: Lsn(99), chain: 5 }, member, level: 2 };
        let bytes = hello.encode(2);
        assert!((0..bytes.len()).all(|end| Hello::decode(&bytes[..end]).is_none()));
        // A peer of version 2 neither says nor reads which level it understands.
        assert_eq!(Hello::decode(&bytes), Some(Hello { level: 1, ..hello.clone() }));
        assert_eq!(Hello::decode(&hello.encode(3)), Some(hello));
        let ack = Ack { epoch: 1, synced: Lsn(2), redone: Lsn(3), received: Lsn(4) };
        assert_eq!(Ack::decode(&ack.encode(2)), Some(ack));
        // A peer of version 1 neither says nor reads what is new.
        assert_eq!(Ack::decode(&ack.encode(1)), Some(Ack { received: Lsn(2), ..ack }));
        assert_eq!((read_welcome(&welcome(7, true, 2)), read_welcome(&welcome(7, true, 1))), (Some((7, true)), Some((7, false))));
        assert_eq!(read_number(&welcome(7, true, 1)), Some(7));
        assert_eq!(read_copy_file(&copy_file("j/1.log", 9)), Some((9, "j/1.log".into())));
        bytes.iter().enumerate().for_each(|(at, _)| fuzz(&bytes[at..]));
    }
}
