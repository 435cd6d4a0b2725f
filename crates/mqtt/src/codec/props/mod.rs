//! Properties (MQTT 5.0, 2.2.2): their types, where each may stand, what it may say.
//!
//! [`check`] validates a raw property section by the table; [`iter`] walks one that has been checked. The owned property structs of the
//! packets off the message path are made by the macro in `owned`.

mod owned;
mod table;

pub(super) use owned::{properties, put_property, put_section, string_pair};
pub use owned::{put_user, SubscriptionId, Value};
pub use table::{Place, PropertyId, PropertySet};

use super::error::DecodeError;
use super::text;
use super::wire::Reader;
use table::Type;

/// The value of one property. Strings are checked UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    Byte(u8),
    Two(u16),
    Four(u32),
    Varint(u32),
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Pair(&'a [u8], &'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'a> {
    pub id: PropertyId,
    pub content: Content<'a>,
}

#[inline]
fn read<'a>(reader: &mut Reader<'a>) -> Result<Property<'a>, DecodeError> {
    let id = PropertyId::from_u32(reader.varint()?).ok_or(DecodeError::PropertyUnknown)?;
    let content = match id.row().kind {
        Type::Bool => Content::Byte(reader.u8()?),
        Type::Two => Content::Two(reader.u16()?),
        Type::Four => Content::Four(reader.u32()?),
        Type::Varint => Content::Varint(reader.varint()?),
        Type::Text => Content::Text(reader.field()?),
        Type::Binary => Content::Binary(reader.field()?),
        Type::Pair => Content::Pair(reader.field()?, reader.field()?),
    };
    Ok(Property { id, content })
}

/// Checks a property section (without its length) for the packet it stands in, and says which properties are there.
pub fn check(raw: &[u8], place: Place) -> Result<PropertySet, DecodeError> {
    let mut reader = Reader::new(raw);
    let mut seen = PropertySet::EMPTY;
    while !reader.is_empty() {
        let property = read(&mut reader)?;
        check_one(property, place)?;
        let may_repeat = property.id == PropertyId::UserProperty
            || (property.id == PropertyId::SubscriptionIdentifier && place == Place::PublishOfServer);
        if seen.has(property.id) && !may_repeat {
            return Err(DecodeError::PropertyRepeated);
        }
        seen.insert(property.id);
    }
    if seen.has(PropertyId::AuthenticationData) && !seen.has(PropertyId::AuthenticationMethod) {
        return Err(DecodeError::AuthDataAlone);
    }
    Ok(seen)
}

fn check_one(property: Property<'_>, place: Place) -> Result<(), DecodeError> {
    let row = property.id.row();
    if !row.places.has(place) {
        return Err(match (property.id, place) {
            // Named in 3.3.4, so it has an answer of its own.
            (PropertyId::SubscriptionIdentifier, Place::PublishOfClient) => DecodeError::SubscriptionIdFromClient,
            _ => DecodeError::PropertyMisplaced,
        });
    }
    match property.content {
        Content::Byte(value) if row.kind == Type::Bool && value > 1 => Err(DecodeError::PropertyNotBool),
        Content::Two(0) if property.id == PropertyId::TopicAlias => Err(DecodeError::TopicAliasZero),
        Content::Two(0) | Content::Four(0) | Content::Varint(0) if row.not_zero => Err(DecodeError::PropertyZero),
        Content::Text(text) if property.id == PropertyId::ResponseTopic => check_response_topic(text),
        Content::Text(text) => text::check(text),
        Content::Pair(name, value) => text::check(name).and_then(|()| text::check(value)),
        _ => Ok(()),
    }
}

#[inline]
pub(super) fn check_response_topic(topic: &[u8]) -> Result<(), DecodeError> {
    if topic.is_empty() {
        return Err(DecodeError::ResponseTopicEmpty);
    }
    match text::check_without_wildcards(topic)? {
        true => Err(DecodeError::ResponseTopicWildcard),
        false => Ok(()),
    }
}

/// Walks a property section that has been checked. Ends early if it has not and is broken.
#[inline]
pub fn iter(raw: &[u8]) -> Iter<'_> {
    Iter { reader: Reader::new(raw) }
}

#[derive(Clone)]
pub struct Iter<'a> {
    reader: Reader<'a>,
}

impl Iter<'_> {
    /// Offset of the next property in the section.
    #[inline]
    pub fn position(&self) -> usize {
        self.reader.position()
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = Property<'a>;

    #[inline]
    fn next(&mut self) -> Option<Property<'a>> {
        if self.reader.is_empty() {
            return None;
        }
        read(&mut self.reader).ok()
    }
}

/// The section's length and bytes at the reader, unchecked.
#[inline]
pub(super) fn section<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = reader.varint()?;
    reader.take(len as usize)
}

/// The user properties of a checked section, in order.
pub fn user_properties(raw: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    iter(raw).filter_map(|property| match property {
        Property { id: PropertyId::UserProperty, content: Content::Pair(name, value) } => Some((name, value)),
        _ => None,
    })
}

/// The subscription identifiers of a checked section, in order.
pub fn subscription_ids(raw: &[u8]) -> impl Iterator<Item = u32> + '_ {
    iter(raw).filter_map(|property| match property {
        Property { id: PropertyId::SubscriptionIdentifier, content: Content::Varint(value) } => Some(value),
        _ => None,
    })
}
