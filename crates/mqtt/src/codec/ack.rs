//! PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5.0, 3.4 to 3.7): one shape.

use super::error::{DecodeError, EncodeError};
use super::frame::{check_flags, Frame, PacketKind};
use super::props::{self, Place};
use super::reason::{ReasonCode, ReasonPlace};
use super::wire::{self, PacketId, Reader};
use super::Version;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

impl AckKind {
    pub const ALL: [AckKind; 4] = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp];

    #[inline]
    pub const fn of(kind: PacketKind) -> Option<AckKind> {
        match kind {
            PacketKind::PubAck => Some(AckKind::PubAck),
            PacketKind::PubRec => Some(AckKind::PubRec),
            PacketKind::PubRel => Some(AckKind::PubRel),
            PacketKind::PubComp => Some(AckKind::PubComp),
            _ => None,
        }
    }

    #[inline]
    pub const fn first_byte(self) -> u8 {
        match self {
            AckKind::PubAck => PacketKind::PubAck.first_byte(),
            AckKind::PubRec => PacketKind::PubRec.first_byte(),
            AckKind::PubRel => PacketKind::PubRel.first_byte(),
            AckKind::PubComp => PacketKind::PubComp.first_byte(),
        }
    }

    const fn places(self) -> (ReasonPlace, Place) {
        match self {
            AckKind::PubAck => (ReasonPlace::PubAck, Place::PubAck),
            AckKind::PubRec => (ReasonPlace::PubRec, Place::PubRec),
            AckKind::PubRel => (ReasonPlace::PubRel, Place::PubRel),
            AckKind::PubComp => (ReasonPlace::PubComp, Place::PubComp),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckView<'a> {
    pub kind: AckKind,
    pub packet_id: PacketId,
    /// Success before version 5.
    pub reason: ReasonCode,
    /// The checked property section: a reason string and user properties.
    pub properties: &'a [u8],
}

impl<'a> AckView<'a> {
    /// Reads the acknowledgement `frame` of `block`.
    #[inline]
    pub fn decode(block: &'a [u8], frame: Frame, kind: AckKind, version: Version) -> Result<AckView<'a>, DecodeError> {
        if frame.first != kind.first_byte() {
            check_flags(frame.first, version)?;
        }
        let mut reader = Reader::new(frame.body_of(block));
        let packet_id = reader.packet_id()?;
        let mut view = AckView { kind, packet_id, reason: ReasonCode::Success, properties: &[] };
        if reader.is_empty() {
            return Ok(view);
        }
        if !version.is_v5() {
            return Err(DecodeError::TrailingBytes);
        }
        view.read_v5(&mut reader)?;
        Ok(view)
    }

    /// 3.4.2.1: the reason and the properties may be left out, the properties alone too.
    fn read_v5(&mut self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let (reason_place, place) = self.kind.places();
        self.reason = ReasonCode::read(reader.u8()?, reason_place).ok_or(DecodeError::ReasonUnknown)?;
        if !reader.is_empty() {
            self.properties = props::section(reader)?;
            props::check(self.properties, place)?;
        }
        reader.finish()
    }

    pub fn properties(&self) -> AckProperties {
        AckProperties::from_checked(self.properties).unwrap_or_default()
    }
}

props::properties! {
    /// The properties of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    AckProperties {
        reason_string: String = ReasonString,
    }
}

/// Appends one acknowledgement. Before version 5 it carries neither reason nor properties.
#[inline]
pub fn encode_ack(
    kind: AckKind,
    packet_id: PacketId,
    reason: ReasonCode,
    properties: Option<&AckProperties>,
    version: Version,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let [high, low] = packet_id.get().to_be_bytes();
    let properties = properties.filter(|properties| !properties.is_empty());
    match (version.is_v5(), reason, properties) {
        (false, ..) | (true, ReasonCode::Success, None) => out.extend_from_slice(&[kind.first_byte(), 2, high, low]),
        (true, reason, None) => out.extend_from_slice(&[kind.first_byte(), 3, high, low, reason as u8]),
        (true, reason, Some(properties)) => {
            let raw = properties.raw()?;
            wire::put_packet(out, kind.first_byte(), |body| {
                body.extend_from_slice(&[high, low, reason as u8]);
                props::put_section(body, &raw)
            })?;
        }
    }
    Ok(())
}

/// Appends a run of successful acknowledgements: what a range of completions becomes.
#[inline]
pub fn encode_ack_run(kind: AckKind, packet_ids: impl IntoIterator<Item = PacketId>, out: &mut Vec<u8>) {
    let packet_ids = packet_ids.into_iter();
    out.reserve(4 * packet_ids.size_hint().0);
    for packet_id in packet_ids {
        let [high, low] = packet_id.get().to_be_bytes();
        out.extend_from_slice(&[kind.first_byte(), 2, high, low]);
    }
}
