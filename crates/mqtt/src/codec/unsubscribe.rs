//! UNSUBSCRIBE and UNSUBACK (MQTT 5.0, 3.10 and 3.11).

use super::ack::AckProperties;
use super::error::{DecodeError, EncodeError};
use super::frame::PacketKind;
use super::props::{self, Place};
use super::reason::{ReasonCode, ReasonPlace};
use super::subscribe::{filter_text, read_filter};
use super::wire::{self, PacketId, Reader};
use super::Version;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    pub packet_id: PacketId,
    /// Never empty; each as it came, well-formed.
    pub filters: Vec<String>,
    pub properties: UnsubscribeProperties,
}

props::properties! {
    /// User properties only.
    UnsubscribeProperties {}
}

impl Unsubscribe {
    pub(super) fn decode(body: &[u8], version: Version) -> Result<Unsubscribe, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = match version {
            Version::V5 => UnsubscribeProperties::decode(&mut reader, Place::Unsubscribe)?,
            _ => UnsubscribeProperties::default(),
        };
        let mut filters = Vec::new();
        while !reader.is_empty() {
            filters.push(filter_text(read_filter(&mut reader)?));
        }
        if filters.is_empty() {
            return Err(DecodeError::NoFilters);
        }
        Ok(Unsubscribe { packet_id, filters, properties })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        wire::put_packet(out, PacketKind::Unsubscribe.first_byte(), |body| {
            wire::put_u16(body, self.packet_id.get());
            if version.is_v5() {
                self.properties.encode(body)?;
            }
            self.filters.iter().try_for_each(|filter| wire::put_field(body, filter.as_bytes()))
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    pub packet_id: PacketId,
    /// One for each filter, in order; left out before version 5.
    pub reasons: Vec<ReasonCode>,
    pub properties: AckProperties,
}

impl UnsubAck {
    pub(super) fn decode(body: &[u8], version: Version) -> Result<UnsubAck, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        if !version.is_v5() {
            reader.finish()?;
            return Ok(UnsubAck { packet_id, reasons: Vec::new(), properties: AckProperties::default() });
        }
        let properties = AckProperties::decode(&mut reader, Place::UnsubAck)?;
        let mut reasons = Vec::with_capacity(reader.left());
        while !reader.is_empty() {
            reasons.push(ReasonCode::read(reader.u8()?, ReasonPlace::UnsubAck).ok_or(DecodeError::ReasonUnknown)?);
        }
        Ok(UnsubAck { packet_id, reasons, properties })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        wire::put_packet(out, PacketKind::UnsubAck.first_byte(), |body| {
            wire::put_u16(body, self.packet_id.get());
            if version.is_v5() {
                self.properties.encode(body)?;
                body.extend(self.reasons.iter().map(|reason| *reason as u8));
            }
            Ok(())
        })
    }
}
