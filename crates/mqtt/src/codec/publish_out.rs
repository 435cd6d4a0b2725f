//! PUBLISH as it goes out: from a borrowed topic, the properties as they came and the payload, with the few edits a broker makes.

use std::num::NonZeroU16;

use super::error::EncodeError;
use super::frame::PacketKind;
use super::props::{self, Content, PropertyId, PropertySet};
use super::publish::{PublishProperties, DUP, RETAIN};
use super::wire::{self, PacketId, VARINT_MAX};
use super::{Qos, Version};

/// A property section that was checked when it came in, and what is in it. The set can be kept with the message or found again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredProperties<'a> {
    pub raw: &'a [u8],
    pub present: PropertySet,
}

impl<'a> StoredProperties<'a> {
    /// Of a section whose set was not kept: walks over it.
    pub fn scan(raw: &'a [u8]) -> Self {
        let mut present = PropertySet::EMPTY;
        for property in props::iter(raw) {
            present.insert(property.id);
        }
        StoredProperties { raw, present }
    }
}

impl<'a> From<PublishProperties<'a>> for StoredProperties<'a> {
    fn from(properties: PublishProperties<'a>) -> Self {
        StoredProperties { raw: properties.raw, present: properties.present }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpiryEdit {
    /// As it came.
    #[default]
    Keep,
    /// Seconds that are left (MQTT-3.3.2-6), whether or not the message came with an expiry.
    Set(u32),
    Drop,
}

/// What changes on the way through. A Topic Alias and Subscription Identifiers of the incoming packet never leave: they belong to the
/// connection they came on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PropertyEdits<'a> {
    pub expiry: ExpiryEdit,
    pub topic_alias: Option<NonZeroU16>,
    /// Each 1 to 268435455; all subscriptions that this one copy answers (3.3.4).
    pub subscription_ids: &'a [u32],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishOut<'a> {
    pub qos: Qos,
    pub dup: bool,
    pub retain: bool,
    /// Written, and needed, if the QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// Empty where a topic alias known to the receiver stands in for it.
    pub topic: &'a [u8],
    /// Left out before version 5.
    pub properties: StoredProperties<'a>,
    /// Left out before version 5.
    pub edits: PropertyEdits<'a>,
    pub payload: &'a [u8],
}

const CONNECTION_BOUND: PropertySet = PropertySet::of(&[PropertyId::TopicAlias, PropertyId::SubscriptionIdentifier]);
const EXPIRY: PropertySet = PropertySet::of(&[PropertyId::MessageExpiryInterval]);
const EXPIRY_SIZE: usize = 5;
const ALIAS_SIZE: usize = 3;

/// The lengths of a packet, computed once.
#[derive(Clone, Copy)]
struct Measure {
    properties: u32,
    remaining: u32,
    total: usize,
}

impl PublishOut<'_> {
    /// The length of the whole packet, for Maximum Packet Size (MQTT-3.1.2-24).
    pub fn encoded_len(&self, version: Version) -> Result<usize, EncodeError> {
        Ok(self.measure(version)?.total)
    }

    /// Appends the packet and says its length. Appends nothing if that is over `packet_max`.
    #[inline]
    pub fn encode(&self, version: Version, packet_max: u32, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
        let total = self.encode_head(version, packet_max, self.payload.len(), out)?;
        out.extend_from_slice(self.payload);
        Ok(total)
    }

    /// Appends all but the payload, for a payload that is written from where it lies. The length returned counts it.
    #[inline]
    pub fn encode_without_payload(&self, version: Version, packet_max: u32, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
        self.encode_head(version, packet_max, 0, out)
    }

    #[inline]
    fn encode_head(&self, version: Version, packet_max: u32, spare: usize, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
        debug_assert_eq!(self.packet_id.is_some(), self.qos != Qos::AtMostOnce);
        let measure = self.measure(version)?;
        if measure.total > packet_max as usize {
            return Err(EncodeError::TooLarge(measure.total));
        }
        let start = out.len();
        out.reserve(measure.total - self.payload.len() + spare);

        // The fixed header and the topic's length in one piece: 1 + 4 + 2 bytes at most.
        let mut head = [0u8; 8];
        head[0] = self.first_byte();
        let mut size = 1 + wire::varint_bytes(measure.remaining, &mut head[1..]);
        head[size..size + 2].copy_from_slice(&(self.topic.len() as u16).to_be_bytes());
        size += 2;
        out.extend_from_slice(&head[..size]);
        out.extend_from_slice(self.topic);
        if self.qos != Qos::AtMostOnce {
            wire::put_u16(out, self.packet_id.map_or(0, PacketId::get));
        }
        if version.is_v5() {
            self.put_properties(measure.properties, out);
        }
        if out.len() - start + self.payload.len() != measure.total {
            // The set did not belong to the section. A wrong length must not reach the stream.
            out.truncate(start);
            return Err(EncodeError::Properties);
        }
        Ok(measure.total)
    }

    fn first_byte(&self) -> u8 {
        let dup = if self.dup && self.qos != Qos::AtMostOnce { DUP } else { 0 };
        let retain = if self.retain { RETAIN } else { 0 };
        PacketKind::Publish.first_byte() | dup | (self.qos as u8) << 1 | retain
    }

    #[inline]
    fn measure(&self, version: Version) -> Result<Measure, EncodeError> {
        if self.topic.len() > usize::from(u16::MAX) {
            return Err(EncodeError::FieldTooLong);
        }
        let mut remaining = 2 + self.topic.len() + self.payload.len();
        if self.qos != Qos::AtMostOnce {
            remaining += 2;
        }
        let mut properties = 0;
        if version.is_v5() {
            let len = self.properties_len();
            properties = u32::try_from(len).ok().filter(|len| *len <= VARINT_MAX).ok_or(EncodeError::TooLarge(remaining + len))?;
            remaining += wire::varint_size(properties) + len;
        }
        match u32::try_from(remaining) {
            Ok(value) if value <= VARINT_MAX => {
                Ok(Measure { properties, remaining: value, total: 1 + wire::varint_size(value) + remaining })
            }
            _ => Err(EncodeError::TooLarge(remaining)),
        }
    }

    #[inline]
    fn properties_len(&self) -> usize {
        let StoredProperties { raw, present } = self.properties;
        let mut len = raw.len();
        if present.meets(CONNECTION_BOUND) {
            len = props::iter(raw).map(kept_size).sum();
        }
        match (self.edits.expiry, present.meets(EXPIRY)) {
            (ExpiryEdit::Set(_), false) => len += EXPIRY_SIZE,
            (ExpiryEdit::Drop, true) => len = len.saturating_sub(EXPIRY_SIZE),
            _ => {}
        }
        if self.edits.topic_alias.is_some() {
            len += ALIAS_SIZE;
        }
        for id in self.edits.subscription_ids {
            len += 1 + wire::varint_size(*id);
        }
        len
    }

    #[inline]
    fn put_properties(&self, len: u32, out: &mut Vec<u8>) {
        wire::put_varint(out, len);
        let StoredProperties { raw, present } = self.properties;
        let edits = self.edits;
        let touched = present.meets(CONNECTION_BOUND) || present.meets(EXPIRY) && edits.expiry != ExpiryEdit::Keep;
        if touched {
            put_edited(raw, edits.expiry, out);
        } else {
            out.extend_from_slice(raw);
        }
        if let (ExpiryEdit::Set(secs), false) = (edits.expiry, present.meets(EXPIRY)) {
            put_expiry(secs, out);
        }
        if let Some(alias) = edits.topic_alias {
            out.push(PropertyId::TopicAlias as u8);
            wire::put_u16(out, alias.get());
        }
        for id in edits.subscription_ids {
            out.push(PropertyId::SubscriptionIdentifier as u8);
            wire::put_varint(out, (*id).min(VARINT_MAX));
        }
    }
}

fn put_expiry(secs: u32, out: &mut Vec<u8>) {
    out.push(PropertyId::MessageExpiryInterval as u8);
    wire::put_u32(out, secs);
}

/// Copies a section in as few pieces as there are edits.
fn put_edited(raw: &[u8], expiry: ExpiryEdit, out: &mut Vec<u8>) {
    let mut walk = props::iter(raw);
    let mut copied = 0;
    let mut start = 0;
    while let Some(property) = walk.next() {
        let end = walk.position();
        let edited = match property.id {
            PropertyId::TopicAlias | PropertyId::SubscriptionIdentifier => true,
            PropertyId::MessageExpiryInterval => expiry != ExpiryEdit::Keep,
            _ => false,
        };
        if edited {
            out.extend_from_slice(&raw[copied..start]);
            copied = end;
            if let (PropertyId::MessageExpiryInterval, ExpiryEdit::Set(secs)) = (property.id, expiry) {
                put_expiry(secs, out);
            }
        }
        start = end;
    }
    out.extend_from_slice(&raw[copied..]);
}

/// Bytes of a property that is copied on, 0 for one that stays with its connection.
fn kept_size(property: props::Property<'_>) -> usize {
    match (property.id, property.content) {
        (PropertyId::TopicAlias | PropertyId::SubscriptionIdentifier, _) => 0,
        (_, Content::Byte(_)) => 2,
        (_, Content::Two(_)) => 3,
        (_, Content::Four(_)) => 5,
        (_, Content::Varint(value)) => 1 + wire::varint_size(value),
        (_, Content::Text(bytes) | Content::Binary(bytes)) => 3 + bytes.len(),
        (_, Content::Pair(name, value)) => 5 + name.len() + value.len(),
    }
}
