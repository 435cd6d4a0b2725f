//! Owned property structs for the packets off the message path: one `Option` for each property, and the user properties in order.

use super::table::PropertyId;
use super::Content;
use crate::codec::error::{DecodeError, EncodeError};
use crate::codec::{text, wire};

/// A Rust type that one property type maps to.
pub trait Value: Sized {
    fn from_content(content: Content<'_>) -> Result<Self, DecodeError>;
    fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError>;
}

// The table fixes the type of each identifier, so the other shapes cannot occur after `check`.
macro_rules! value {
    ($type:ty, $content:pat => $from:expr, |$self:ident, $out:ident| $put:expr) => {
        impl Value for $type {
            fn from_content(content: Content<'_>) -> Result<Self, DecodeError> {
                match content {
                    $content => $from,
                    _ => Err(DecodeError::PropertyUnknown),
                }
            }
            fn put(&$self, $out: &mut Vec<u8>) -> Result<(), EncodeError> {
                $put
            }
        }
    };
}

value!(bool, Content::Byte(value) => Ok(value != 0), |self, out| {
    out.push(u8::from(*self));
    Ok(())
});
value!(u16, Content::Two(value) => Ok(value), |self, out| {
    wire::put_u16(out, *self);
    Ok(())
});
value!(u32, Content::Four(value) => Ok(value), |self, out| {
    wire::put_u32(out, *self);
    Ok(())
});
value!(SubscriptionId, Content::Varint(value) => Ok(SubscriptionId(value)), |self, out| {
    wire::put_varint(out, self.0.min(wire::VARINT_MAX));
    Ok(())
});
value!(String, Content::Text(value) => text::to_string(value), |self, out| wire::put_field(out, self.as_bytes()));
value!(Vec<u8>, Content::Binary(value) => Ok(value.to_vec()), |self, out| wire::put_field(out, self));

/// A Subscription Identifier, 1 to 268435455 (3.8.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId(pub u32);

pub(crate) fn put_property(out: &mut Vec<u8>, id: PropertyId, value: &impl Value) -> Result<(), EncodeError> {
    out.push(id as u8);
    value.put(out)
}

/// Appends one user property to a raw section.
pub fn put_user(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), EncodeError> {
    out.push(PropertyId::UserProperty as u8);
    wire::put_field(out, name)?;
    wire::put_field(out, value)
}

/// Appends a section with its length.
pub(crate) fn put_section(out: &mut Vec<u8>, raw: &[u8]) -> Result<(), EncodeError> {
    let len = u32::try_from(raw.len()).ok().filter(|len| *len <= wire::VARINT_MAX).ok_or(EncodeError::TooLarge(raw.len()))?;
    wire::put_varint(out, len);
    out.extend_from_slice(raw);
    Ok(())
}

pub(crate) fn string_pair(name: &[u8], value: &[u8]) -> Result<(String, String), DecodeError> {
    Ok((text::to_string(name)?, text::to_string(value)?))
}

/// `properties! { Name { field: Type = PropertyId, ... } }`: a struct with each field an `Option`, `user`, and both directions.
macro_rules! properties {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty = $id:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: Option<$type>,)*
            /// User properties, in order.
            pub user: Vec<(String, String)>,
        }

        impl $name {
            /// Takes a section that [`check`](crate::codec::props::check) has passed.
            #[allow(dead_code)]
            pub(in crate::codec) fn from_checked(raw: &[u8]) -> Result<Self, crate::codec::DecodeError> {
                use crate::codec::props::{iter, Content, PropertyId, Property};
                let mut all = Self::default();
                for Property { id, content } in iter(raw) {
                    match (id, content) {
                        $((PropertyId::$id, content) => {
                            all.$field = Some(<$type as crate::codec::props::Value>::from_content(content)?);
                        })*
                        (PropertyId::UserProperty, Content::Pair(name, value)) => {
                            all.user.push(crate::codec::props::string_pair(name, value)?);
                        }
                        _ => return Err(crate::codec::DecodeError::PropertyMisplaced),
                    }
                }
                Ok(all)
            }

            pub(in crate::codec) fn decode(
                reader: &mut crate::codec::wire::Reader<'_>,
                place: crate::codec::props::Place,
            ) -> Result<Self, crate::codec::DecodeError> {
                let raw = crate::codec::props::section(reader)?;
                crate::codec::props::check(raw, place)?;
                Self::from_checked(raw)
            }

            /// The section without its length.
            pub(in crate::codec) fn raw(&self) -> Result<Vec<u8>, crate::codec::EncodeError> {
                let mut raw = Vec::new();
                $(if let Some(value) = &self.$field {
                    crate::codec::props::put_property(&mut raw, crate::codec::props::PropertyId::$id, value)?;
                })*
                for (name, value) in &self.user {
                    crate::codec::props::put_user(&mut raw, name.as_bytes(), value.as_bytes())?;
                }
                Ok(raw)
            }

            pub(in crate::codec) fn encode(&self, out: &mut Vec<u8>) -> Result<(), crate::codec::EncodeError> {
                crate::codec::props::put_section(out, &self.raw()?)
            }

            pub fn is_empty(&self) -> bool {
                $(self.$field.is_none() &&)* self.user.is_empty()
            }
        }
    };
}
pub(crate) use properties;
