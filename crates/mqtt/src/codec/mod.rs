//! Bytes to packets and back, for MQTT 3.1, 3.1.1 and 5.0, from the side of the server and of the client. Pure: no clock, no
//! socket, no state beyond the length of a torn frame.
//!
//! ```text
//!   bytes --Splitter--> run of whole frames --frames()--> Frame --Decoder--> PublishView, AckView   borrowed, nothing allocated
//!                                                               `--------> Packet                  the rest, owned
//!   PublishOut, acks, Packet --encode--> appended to a Vec<u8>
//! ```
//!
//! A PUBLISH of version 5 keeps its properties as the one slice they arrived in, fully checked: a broker forwards nearly all of
//! them untouched, and `PublishOut` applies the few edits while it copies.

mod error;
mod frame;
mod reason;
mod wire;

pub mod ack;
pub mod auth;
pub mod connack;
pub mod connect;
pub mod disconnect;
pub mod fuzz;
pub mod packet;
pub mod props;
pub mod publish;
pub mod publish_out;
pub mod subscribe;
pub mod text;
pub mod topic;
pub mod unsubscribe;

#[cfg(test)]
mod tests;

pub use ack::{encode_ack, encode_ack_run, AckKind, AckProperties, AckView};
pub use auth::{Auth, AuthProperties};
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties, Will};
pub use disconnect::{Disconnect, DisconnectProperties};
pub use error::{DecodeError, EncodeError};
pub use frame::{frames, Frame, Frames, Limits, PacketKind, Split, Splitter};
pub use packet::{Decoder, Packet};
pub use props::{Place, Property, PropertyId, PropertySet};
pub use publish::{PublishProperties, PublishView};
pub use publish_out::{ExpiryEdit, PropertyEdits, PublishOut, StoredProperties};
pub use reason::{ReasonCode, ReasonPlace};
pub use subscribe::{RetainHandling, SubAck, Subscribe, SubscribeFilter, SubscribeOptions, SubscribeProperties};
pub use topic::Filter;
pub use unsubscribe::{UnsubAck, Unsubscribe};
pub use wire::{PacketId, VARINT_MAX};

/// A version of the protocol, with the level that stands for it in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Version {
    V31 = 3,
    V311 = 4,
    V5 = 5,
}

impl Version {
    pub const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];

    /// Properties, reason codes, AUTH and DISCONNECT from the server exist.
    #[inline]
    pub const fn is_v5(self) -> bool {
        matches!(self, Version::V5)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Version::V31 => "MQTT 3.1",
            Version::V311 => "MQTT 3.1.1",
            Version::V5 => "MQTT 5.0",
        }
    }
}

/// Who sent the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    Client,
    Server,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Qos {
    #[default]
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl Qos {
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Qos> {
        match bits {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }

    /// The SUBACK code that grants this QoS.
    pub const fn granted(self) -> ReasonCode {
        match self {
            Qos::AtMostOnce => ReasonCode::Success,
            Qos::AtLeastOnce => ReasonCode::GrantedQos1,
            Qos::ExactlyOnce => ReasonCode::GrantedQos2,
        }
    }
}
