//! PUBLISH as it comes in (MQTT 5.0, 3.3): a borrowed view, nothing allocated.

use std::num::NonZeroU16;

use super::error::DecodeError;
use super::frame::{check_flags, Frame};
use super::props::{self, PropertyId, PropertySet};
use super::wire::{PacketId, Reader};
use super::{text, topic, Peer, Qos, Version};

pub(super) const DUP: u8 = 0b1000;
pub(super) const RETAIN: u8 = 0b0001;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishView<'a> {
    /// Where the packet lies in the block.
    pub frame: Frame,
    pub qos: Qos,
    pub dup: bool,
    pub retain: bool,
    /// `Some` exactly if the QoS is above 0 (MQTT-2.2.1-2).
    pub packet_id: Option<PacketId>,
    /// Checked UTF-8 without wildcards. Empty only where a topic alias stands in for it.
    pub topic: &'a [u8],
    /// Offset of the topic in the block.
    pub topic_at: usize,
    pub properties: PublishProperties<'a>,
    /// Offset of the raw property section in the block; without meaning if it is empty.
    pub properties_at: usize,
    pub payload: &'a [u8],
    /// Offset of the payload in the block.
    pub payload_at: usize,
}

/// The property section of a PUBLISH or will, checked in full, and the values a broker acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// The section without its length; empty before version 5.
    pub raw: &'a [u8],
    pub present: PropertySet,
    /// The payload is said to be UTF-8 (Payload Format Indicator 1).
    pub payload_is_text: bool,
    /// Message Expiry Interval in seconds.
    pub expiry_secs: Option<u32>,
    pub topic_alias: Option<NonZeroU16>,
    pub content_type: Option<&'a [u8]>,
    /// Not empty and without wildcards.
    pub response_topic: Option<&'a [u8]>,
    pub correlation_data: Option<&'a [u8]>,
}

impl<'a> PublishView<'a> {
    /// Reads the PUBLISH `frame` of `block`.
    #[inline]
    pub fn decode(
        block: &'a [u8],
        frame: Frame,
        version: Version,
        from: Peer,
        levels_max: Option<NonZeroU16>,
    ) -> Result<PublishView<'a>, DecodeError> {
        check_flags(frame.first, version)?;
        let qos = Qos::from_bits(frame.first >> 1 & 0b11).ok_or(DecodeError::PublishQos)?;
        let mut reader = Reader::new(frame.body_of(block));
        let topic = reader.field()?;
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            _ => Some(reader.packet_id()?),
        };
        let mut properties_at = frame.body;
        let properties = if version.is_v5() {
            let raw = props::section(&mut reader)?;
            properties_at = frame.body + reader.position() - raw.len();
            PublishProperties::parse(raw, from)?
        } else {
            PublishProperties::default()
        };
        // 3.3.2.1: the topic may be empty if an alias stands in for it.
        if !(topic.is_empty() && properties.topic_alias.is_some()) {
            topic::check_name(topic, levels_max)?;
        }
        let payload_at = frame.body + reader.position();
        let payload = reader.rest();
        Ok(PublishView {
            frame,
            qos,
            // 3.1 allows DUP at QoS 0, where it says nothing.
            dup: frame.first & DUP != 0 && qos != Qos::AtMostOnce,
            retain: frame.first & RETAIN != 0,
            packet_id,
            topic,
            topic_at: frame.body + 2,
            properties,
            properties_at,
            payload,
            payload_at,
        })
    }
}

impl<'a> PublishProperties<'a> {
    /// Checks and reads a section. The same rules as [`props::check`], written out because every publish goes through here.
    #[inline]
    pub fn parse(raw: &'a [u8], from: Peer) -> Result<PublishProperties<'a>, DecodeError> {
        let mut all = PublishProperties { raw, ..PublishProperties::default() };
        let mut reader = Reader::new(raw);
        while !reader.is_empty() {
            let id = match reader.u8()? {
                38 => {
                    all.present.insert(PropertyId::UserProperty);
                    reader.text()?;
                    reader.text()?;
                    continue;
                }
                1 => PropertyId::PayloadFormatIndicator,
                2 => PropertyId::MessageExpiryInterval,
                3 => PropertyId::ContentType,
                8 => PropertyId::ResponseTopic,
                9 => PropertyId::CorrelationData,
                35 => PropertyId::TopicAlias,
                11 if from == Peer::Server => {
                    all.present.insert(PropertyId::SubscriptionIdentifier);
                    if reader.varint()? == 0 {
                        return Err(DecodeError::PropertyZero);
                    }
                    continue;
                }
                other => return Err(misplaced(other)),
            };
            all.read_one(id, &mut reader)?;
            if all.present.has(id) {
                return Err(DecodeError::PropertyRepeated);
            }
            all.present.insert(id);
        }
        Ok(all)
    }

    #[inline]
    fn read_one(&mut self, id: PropertyId, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        match id {
            PropertyId::PayloadFormatIndicator => match reader.u8()? {
                0 => {}
                1 => self.payload_is_text = true,
                _ => return Err(DecodeError::PropertyNotBool),
            },
            PropertyId::MessageExpiryInterval => self.expiry_secs = Some(reader.u32()?),
            PropertyId::ContentType => self.content_type = Some(reader.text()?),
            PropertyId::ResponseTopic => {
                let topic = reader.field()?;
                props::check_response_topic(topic)?;
                self.response_topic = Some(topic);
            }
            PropertyId::CorrelationData => self.correlation_data = Some(reader.field()?),
            _ => self.topic_alias = Some(NonZeroU16::new(reader.u16()?).ok_or(DecodeError::TopicAliasZero)?),
        }
        Ok(())
    }

    /// Whether the payload keeps what a Payload Format Indicator of 1 promises (3.3.2.3.2). A broker may check this, and then answers 0x99.
    pub fn payload_fits(&self, payload: &[u8]) -> bool {
        !self.payload_is_text || text::check(payload) != Err(DecodeError::NotUtf8)
    }
}

#[cold]
fn misplaced(id: u8) -> DecodeError {
    match PropertyId::from_u32(u32::from(id)) {
        Some(PropertyId::SubscriptionIdentifier) => DecodeError::SubscriptionIdFromClient,
        Some(_) => DecodeError::PropertyMisplaced,
        // An identifier is a variable byte integer, and all that exist fit in one byte (2.2.2.2).
        None => DecodeError::PropertyUnknown,
    }
}
