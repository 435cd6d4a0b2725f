//! Where one packet ends and the next begins (MQTT 5.0, 2.1).
//!
//! The splitter looks at fixed headers only. What it can tell from one it tells at once, before the body has arrived: a bad length,
//! bad flags, a packet that is too large, a type that this peer never sends.

use std::ops::Range;

use super::error::DecodeError;
use super::wire::{self, Varint};
use super::{connect, Peer, Version};

/// The packet types of 2.1.2, with the value that stands in the high half of the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketKind {
    Reserved = 0,
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketKind {
    const ALL: [PacketKind; 16] = {
        use PacketKind::*;
        [
            Reserved,
            Connect,
            ConnAck,
            Publish,
            PubAck,
            PubRec,
            PubRel,
            PubComp,
            Subscribe,
            SubAck,
            Unsubscribe,
            UnsubAck,
            PingReq,
            PingResp,
            Disconnect,
            Auth,
        ]
    };

    #[inline]
    pub const fn of(first: u8) -> PacketKind {
        PacketKind::ALL[(first >> 4) as usize]
    }

    /// The first byte of a packet of this kind, with the flags that 2.1.3 reserves. For PUBLISH, with no flag set.
    #[inline]
    pub const fn first_byte(self) -> u8 {
        let flags = match self {
            PacketKind::PubRel | PacketKind::Subscribe | PacketKind::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }
}

/// One whole packet in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type and flags.
    pub first: u8,
    /// Offset of the fixed header in the block.
    pub start: usize,
    /// Offset of what follows the fixed header.
    pub body: usize,
    /// Offset after the last byte.
    pub end: usize,
}

impl Frame {
    #[inline]
    pub const fn kind(&self) -> PacketKind {
        PacketKind::of(self.first)
    }

    /// The size that Maximum Packet Size speaks of: fixed header included (3.1.2.11.4).
    #[inline]
    pub const fn size(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub const fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    #[inline]
    pub fn body_of<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        block.get(self.body..self.end).unwrap_or(&[])
    }
}

/// The frames of a block that a [`Splitter`] called whole. Ends at the first frame that is not.
#[inline]
pub fn frames(block: &[u8]) -> Frames<'_> {
    Frames { block, at: 0 }
}

#[derive(Clone, Debug)]
pub struct Frames<'a> {
    block: &'a [u8],
    at: usize,
}

impl Frames<'_> {
    /// Offset of the next frame; for a session that must stop in the middle of a block.
    pub fn position(&self) -> usize {
        self.at
    }
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    #[inline]
    fn next(&mut self) -> Option<Frame> {
        let rest = self.block.get(self.at..)?;
        let first = *rest.first()?;
        let Ok(Varint::Value { value, size }) = wire::read_varint(&rest[1..]) else { return None };
        let start = self.at;
        let body = start + 1 + size;
        let end = body + value as usize;
        if end > self.block.len() {
            return None;
        }
        self.at = end;
        Some(Frame { first, start, body, end })
    }
}

/// Sizes the splitter enforces, fixed header included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub packet_max: u32,
    /// For the CONNECT alone, which comes from somebody we do not know yet.
    pub connect_max: u32,
}

impl Default for Limits {
    /// The packet size of Mosquitto 2.1; for CONNECT, room for a will of some size.
    fn default() -> Self {
        Limits { packet_max: 2_000_000, connect_max: 262_144 }
    }
}

/// The answer of [`Splitter::split`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// So many bytes are whole frames.
    pub whole: usize,
    /// Number of these frames.
    pub frames: usize,
    /// The next frame needs at least so many bytes more than are here. 0 only with an error.
    pub lacks: usize,
    /// What is wrong with the frame after `whole`. The good ones before it still count: they may hold acknowledged work.
    pub error: Option<DecodeError>,
}

#[derive(Clone, Debug)]
pub struct Splitter {
    from: Peer,
    /// Known from the first CONNECT on, or, if the peer is a server, from the start.
    version: Option<Version>,
    opened: bool,
    limits: Limits,
    /// Length of the frame the next input starts with, or 0 if its header has not been whole yet.
    torn: usize,
}

impl Splitter {
    /// For bytes from a client. The version is read from its CONNECT.
    pub fn of_client(limits: Limits) -> Self {
        Splitter { from: Peer::Client, version: None, opened: false, limits, torn: 0 }
    }

    /// For bytes from a server.
    pub fn of_server(version: Version, packet_max: u32) -> Self {
        let limits = Limits { packet_max, connect_max: packet_max };
        Splitter { from: Peer::Server, version: Some(version), opened: false, limits, torn: 0 }
    }

    /// What the CONNECT said, once it has been seen whole and names a version that exists.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// A new bound for the frames whose header has not been seen yet.
    pub fn set_packet_max(&mut self, packet_max: u32) {
        self.limits.packet_max = packet_max;
    }

    /// How much of `input` is whole frames. The caller drops `whole` bytes, and its next input starts with what is left. A torn frame's
    /// body is never looked at.
    pub fn split(&mut self, input: &[u8]) -> Split {
        if input.len() < self.torn {
            return Split { lacks: self.torn - input.len(), ..Split::default() };
        }
        self.torn = 0;
        let mut split = Split::default();
        loop {
            let rest = &input[split.whole..];
            match self.length(rest) {
                Ok(Length::Known(len)) if len <= rest.len() => {
                    if !self.opened {
                        self.open(&rest[..len]);
                    }
                    split.whole += len;
                    split.frames += 1;
                }
                Ok(Length::Known(len)) => {
                    self.torn = len;
                    split.lacks = len - rest.len();
                    return split;
                }
                Ok(Length::Lacks(lacks)) => {
                    split.lacks = lacks;
                    return split;
                }
                Err(error) => {
                    split.error = Some(error);
                    return split;
                }
            }
        }
    }

    #[inline]
    fn length(&self, rest: &[u8]) -> Result<Length, DecodeError> {
        let Some(&first) = rest.first() else { return Ok(Length::Lacks(2)) };
        self.check_first(first)?;
        let Varint::Value { value, size } = wire::read_varint(&rest[1..])? else { return Ok(Length::Lacks(1)) };
        let len = 1 + size + value as usize;
        let max = if self.opened { self.limits.packet_max } else { self.limits.connect_max.min(self.limits.packet_max) };
        if len > max as usize {
            return Err(DecodeError::TooLarge);
        }
        Ok(Length::Known(len))
    }

    #[inline]
    fn check_first(&self, first: u8) -> Result<(), DecodeError> {
        // Nearly every frame is one of these, and right in every version once the connection is open.
        if self.opened && matches!(first, 0x30..=0x35 | 0x3A..=0x3D | 0x40 | 0x50 | 0x62 | 0x70) {
            return Ok(());
        }
        self.check_rare(first)
    }

    fn check_rare(&self, first: u8) -> Result<(), DecodeError> {
        use PacketKind::*;
        let kind = PacketKind::of(first);
        if !self.opened {
            match (self.from, kind) {
                (Peer::Client, Connect) | (Peer::Server, ConnAck) => {}
                (Peer::Server, Auth) if self.version == Some(Version::V5) => {}
                (Peer::Client, _) => return Err(DecodeError::FirstNotConnect),
                (Peer::Server, _) => return Err(DecodeError::FirstNotConnAck),
            }
        }
        check_flags(first, self.version.unwrap_or(Version::V311))?;
        match kind {
            Reserved => return Err(DecodeError::ReservedType),
            Auth if !self.version.is_some_and(Version::is_v5) => return Err(DecodeError::ReservedType),
            Connect if self.opened && self.from == Peer::Client => return Err(DecodeError::SecondConnect),
            _ => {}
        }
        let wrong = match self.from {
            Peer::Client => matches!(kind, ConnAck | SubAck | UnsubAck | PingResp),
            Peer::Server if kind == Disconnect => !self.version.is_some_and(Version::is_v5),
            Peer::Server => matches!(kind, Connect | Subscribe | Unsubscribe | PingReq),
        };
        if wrong {
            return Err(DecodeError::WrongDirection);
        }
        Ok(())
    }

    fn open(&mut self, frame: &[u8]) {
        match self.from {
            Peer::Server => self.opened = PacketKind::of(frame[0]) == PacketKind::ConnAck,
            Peer::Client => {
                self.opened = true;
                let body = frames(frame).next().map(|first| first.body_of(frame));
                self.version = body.and_then(connect::sniff_version);
            }
        }
    }
}

enum Length {
    Known(usize),
    Lacks(usize),
}

/// The flag bits of the first byte (2.1.3). 3.1 let DUP be set on a repeated PUBREL, SUBSCRIBE or UNSUBSCRIBE (3.1, 2.1), and did not
/// tie DUP to the QoS.
pub(super) fn check_flags(first: u8, version: Version) -> Result<(), DecodeError> {
    const DUP: u8 = 0b1000;
    let kind = PacketKind::of(first);
    match kind {
        PacketKind::Publish if first & 0b0110 == 0b0110 => Err(DecodeError::PublishQos),
        PacketKind::Publish if first & 0b1110 == DUP && version != Version::V31 => Err(DecodeError::DupAtQos0),
        PacketKind::Publish => Ok(()),
        PacketKind::PubRel | PacketKind::Subscribe | PacketKind::Unsubscribe
            if version == Version::V31 && first & !DUP == kind.first_byte() =>
        {
            Ok(())
        }
        PacketKind::Reserved => Err(DecodeError::ReservedType),
        _ if first == kind.first_byte() => Ok(()),
        _ => Err(DecodeError::FixedHeaderFlags),
    }
}
