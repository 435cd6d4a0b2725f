//! SUBSCRIBE and SUBACK (MQTT 5.0, 3.8 and 3.9).

use super::ack::AckProperties;
use super::error::{DecodeError, EncodeError};
use super::frame::PacketKind;
use super::props::{self, Place, SubscriptionId};
use super::reason::{ReasonCode, ReasonPlace};
use super::topic::Filter;
use super::wire::{self, PacketId, Reader};
use super::{Qos, Version};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    pub packet_id: PacketId,
    /// Never empty.
    pub filters: Vec<SubscribeFilter>,
    pub properties: SubscribeProperties,
}

props::properties! {
    SubscribeProperties {
        subscription_id: SubscriptionId = SubscriptionIdentifier,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// As it came, well-formed; [`Filter::parse`] takes a share name off. The number of levels has not been looked at.
    pub filter: String,
    pub options: SubscribeOptions,
}

/// 3.8.3.1; before version 5 only the QoS exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send retained messages at each subscribe.
    #[default]
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    Never = 2,
}

impl SubscribeOptions {
    pub fn from_byte(byte: u8, version: Version) -> Result<Self, DecodeError> {
        let reserved = if version.is_v5() { 0b1100_0000 } else { 0b1111_1100 };
        if byte & reserved != 0 {
            return Err(DecodeError::SubscribeReserved);
        }
        let retain_handling = match byte >> 4 & 0b11 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::Never,
            _ => return Err(DecodeError::RetainHandling),
        };
        Ok(SubscribeOptions {
            qos: Qos::from_bits(byte & 0b11).ok_or(DecodeError::SubscribeQos)?,
            no_local: byte & 0b0100 != 0,
            retain_as_published: byte & 0b1000 != 0,
            retain_handling,
        })
    }

    pub const fn to_byte(self, version: Version) -> u8 {
        if !version.is_v5() {
            return self.qos as u8;
        }
        self.qos as u8 | (self.no_local as u8) << 2 | (self.retain_as_published as u8) << 3 | (self.retain_handling as u8) << 4
    }
}

/// A filter's string at the reader, well-formed.
pub(super) fn read_filter<'a>(reader: &mut Reader<'a>) -> Result<Filter<'a>, DecodeError> {
    let bytes = reader.text()?;
    Filter::parse(std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)?)
}

/// The text a filter was parsed from.
pub(super) fn filter_text(filter: Filter<'_>) -> String {
    match filter.share {
        Some(share) => format!("$share/{share}/{}", filter.filter),
        None => filter.filter.to_owned(),
    }
}

impl Subscribe {
    pub(super) fn decode(body: &[u8], version: Version) -> Result<Subscribe, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = match version {
            Version::V5 => SubscribeProperties::decode(&mut reader, Place::Subscribe)?,
            _ => SubscribeProperties::default(),
        };
        let mut filters = Vec::new();
        while !reader.is_empty() {
            let filter = read_filter(&mut reader)?;
            let options = SubscribeOptions::from_byte(reader.u8()?, version)?;
            if options.no_local && filter.is_shared() {
                return Err(DecodeError::SharedNoLocal);
            }
            filters.push(SubscribeFilter { filter: filter_text(filter), options });
        }
        if filters.is_empty() {
            return Err(DecodeError::NoFilters);
        }
        Ok(Subscribe { packet_id, filters, properties })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        wire::put_packet(out, PacketKind::Subscribe.first_byte(), |body| {
            wire::put_u16(body, self.packet_id.get());
            if version.is_v5() {
                self.properties.encode(body)?;
            }
            for SubscribeFilter { filter, options } in &self.filters {
                wire::put_field(body, filter.as_bytes())?;
                body.push(options.to_byte(version));
            }
            Ok(())
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    pub packet_id: PacketId,
    /// One for each filter, in order.
    pub reasons: Vec<ReasonCode>,
    pub properties: AckProperties,
}

impl SubAck {
    pub(super) fn decode(body: &[u8], version: Version) -> Result<SubAck, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = match version {
            Version::V5 => AckProperties::decode(&mut reader, Place::SubAck)?,
            _ => AckProperties::default(),
        };
        let mut reasons = Vec::with_capacity(reader.left());
        while !reader.is_empty() {
            let reason = ReasonCode::read(reader.u8()?, ReasonPlace::SubAck).ok_or(DecodeError::ReasonUnknown)?;
            // 3.1.1, 3.9.3: 0, 1, 2 and 0x80, nothing else; 3.1 has no 0x80 either.
            let known = match version {
                Version::V5 => true,
                Version::V311 => reason <= ReasonCode::GrantedQos2 || reason == ReasonCode::Unspecified,
                Version::V31 => reason <= ReasonCode::GrantedQos2,
            };
            if !known {
                return Err(DecodeError::ReasonUnknown);
            }
            reasons.push(reason);
        }
        Ok(SubAck { packet_id, reasons, properties })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        wire::put_packet(out, PacketKind::SubAck.first_byte(), |body| {
            wire::put_u16(body, self.packet_id.get());
            if version.is_v5() {
                self.properties.encode(body)?;
            }
            body.extend(self.reasons.iter().map(|reason| reason.suback(version)));
            Ok(())
        })
    }
}
