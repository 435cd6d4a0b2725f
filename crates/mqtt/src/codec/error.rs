//! What can be wrong with bytes from a peer, and the reason code that answers each.
//!
//! MQTT 5.0, 1.2 and 4.13: what cannot be parsed is a Malformed Packet (0x81); what parses and says something that is not
//! allowed is a Protocol Error (0x82), unless a code of its own exists. Before 5.0 all of them close the connection in silence.

use super::reason::ReasonCode;

macro_rules! faults {
    ($($variant:ident, $code:ident, $text:literal;)*) => {
        /// The peer broke the protocol. Fatal for the connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum DecodeError { $(#[error($text)] $variant,)* }

        impl DecodeError {
            pub const ALL: &'static [DecodeError] = &[$(DecodeError::$variant,)*];

            /// The code for the v5 DISCONNECT, or for the CONNACK if the packet at fault is the CONNECT.
            pub const fn reason(self) -> ReasonCode {
                match self { $(DecodeError::$variant => ReasonCode::$code,)* }
            }
        }
    };
}

faults! {
    // Frames.
    LengthTooLong, MalformedPacket, "the remaining length takes more than four bytes (MQTT 5.0, 1.5.5)";
    LengthOverlong, MalformedPacket, "a variable byte integer is not in its shortest form (MQTT-1.5.5-1)";
    FixedHeaderFlags, MalformedPacket, "reserved flag bits of the fixed header are set wrong (MQTT-2.1.3-1)";
    ReservedType, MalformedPacket, "packet type is reserved or does not exist in this version (2.1.2)";
    TooLarge, PacketTooLarge, "the packet is larger than this broker's Maximum Packet Size (MQTT-3.1.2-24)";
    FirstNotConnect, ProtocolError, "the first packet on a connection must be a CONNECT (MQTT-3.1.0-1)";
    SecondConnect, ProtocolError, "a second CONNECT on the same connection (MQTT-3.1.0-2)";
    FirstNotConnAck, ProtocolError, "the first packet from a server must be a CONNACK or AUTH (MQTT-3.2.0-1)";
    WrongDirection, ProtocolError, "this packet type is never sent by this side (2.1.2)";
    // Fields.
    Truncated, MalformedPacket, "a field reaches over the end of the packet";
    TrailingBytes, MalformedPacket, "bytes are left over after the last field of the packet";
    NotUtf8, MalformedPacket, "a string is not well-formed UTF-8 (MQTT-1.5.4-1)";
    NulCharacter, MalformedPacket, "a string contains U+0000 (MQTT-1.5.4-2)";
    PacketIdZero, ProtocolError, "the packet identifier is zero (MQTT-2.2.1-3)";
    ReasonUnknown, ProtocolError, "the reason code does not exist or is not allowed in this packet (2.4)";
    // CONNECT and CONNACK.
    ProtocolName, UnsupportedVersion, "the protocol name is neither 'MQTT' nor 'MQIsdp' (MQTT-3.1.2-1)";
    ProtocolLevel, UnsupportedVersion, "the protocol version is not 3.1, 3.1.1 or 5.0 (MQTT-3.1.2-2)";
    ConnectReserved, MalformedPacket, "the reserved bit of the connect flags is set (MQTT-3.1.2-3)";
    WillFlags, MalformedPacket, "Will QoS or Will Retain is set without the Will Flag (MQTT-3.1.2-11, 3.1.2-13)";
    WillQos, MalformedPacket, "Will QoS is 3 (MQTT-3.1.2-12)";
    PasswordAlone, MalformedPacket, "a password without a user name (MQTT 3.1.1, MQTT-3.1.2-22)";
    ConnAckFlags, MalformedPacket, "reserved bits of the CONNACK flags are set (MQTT-3.2.2-1)";
    SessionPresentOnError, ProtocolError, "Session Present is set in a CONNACK that refuses (MQTT-3.2.2-6)";
    // PUBLISH and topics.
    PublishQos, MalformedPacket, "both QoS bits of a PUBLISH are set (MQTT-3.3.1-4)";
    DupAtQos0, MalformedPacket, "DUP is set on a QoS 0 PUBLISH (MQTT-3.3.1-2)";
    TopicEmpty, ProtocolError, "the topic name is empty and no Topic Alias stands in for it (3.3.2.1)";
    TopicWildcard, TopicNameInvalid, "the topic name contains a wildcard (MQTT-3.3.2-2)";
    TopicLevels, TopicNameInvalid, "the topic name has more levels than this broker accepts";
    ResponseTopicWildcard, ProtocolError, "the Response Topic contains a wildcard (MQTT-3.3.2-14)";
    ResponseTopicEmpty, ProtocolError, "the Response Topic is empty (MQTT-4.7.3-1)";
    TopicAliasZero, TopicAliasInvalid, "Topic Alias is 0 (MQTT-3.3.2-8)";
    SubscriptionIdFromClient, ProtocolError, "a PUBLISH from a client carries a Subscription Identifier (MQTT-3.3.4-6)";
    // SUBSCRIBE and UNSUBSCRIBE.
    FilterEmpty, TopicFilterInvalid, "a topic filter is empty (MQTT-4.7.3-1)";
    FilterHash, TopicFilterInvalid, "'#' is not the last level of a topic filter, alone in it (MQTT-4.7.1-1)";
    FilterPlus, TopicFilterInvalid, "'+' does not fill a whole level of a topic filter (MQTT-4.7.1-2)";
    ShareName, TopicFilterInvalid, "a share name is empty or holds a wildcard (MQTT-4.8.2-1)";
    ShareFilter, TopicFilterInvalid, "'$share/<name>' is not followed by '/' and a filter (MQTT-4.8.2-2)";
    SharedNoLocal, ProtocolError, "No Local is set on a shared subscription (MQTT-3.8.3-4)";
    NoFilters, ProtocolError, "a SUBSCRIBE or UNSUBSCRIBE without a topic filter (MQTT-3.8.3-2, 3.10.3-2)";
    SubscribeQos, ProtocolError, "a subscription asks for QoS 3 (3.8.3.1)";
    RetainHandling, ProtocolError, "Retain Handling is 3 (3.8.3.1)";
    SubscribeReserved, MalformedPacket, "reserved bits of the subscription options are set (MQTT-3.8.3-5)";
    // Properties.
    PropertyUnknown, MalformedPacket, "a property identifier does not exist (2.2.2.2)";
    PropertyMisplaced, MalformedPacket, "a property is not allowed in this packet (2.2.2.2)";
    PropertyRepeated, ProtocolError, "a property that may stand once is repeated (2.2.2)";
    PropertyZero, ProtocolError, "a property has the value 0, which is not allowed (3.1.2.11, 3.8.2.1)";
    PropertyNotBool, ProtocolError, "a property that is 0 or 1 has another value (3.1.2.11, 3.2.2.3, 3.3.2.3)";
    AuthDataAlone, ProtocolError, "Authentication Data without an Authentication Method (3.1.2.11.10)";
    AuthMethodMissing, ProtocolError, "an AUTH packet without an Authentication Method (3.15.2.2.2)";
}

/// Why a packet of ours could not be written. Nothing was appended then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Over the peer's Maximum Packet Size, or over what a remaining length can say; the length it would have had.
    #[error("the packet would take {0} bytes, more than the receiver accepts")]
    TooLarge(usize),
    #[error("a string or binary field is longer than 65535 bytes")]
    FieldTooLong,
    #[error("this packet does not exist in this version of MQTT")]
    NotInVersion,
    #[error("the stored properties do not match their summary")]
    Properties,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each fault must be sayable to the peer: its code is allowed in DISCONNECT, or in CONNACK for faults of the CONNECT.
    #[test]
    fn every_fault_has_a_code_that_can_be_sent_and_a_text() {
        use crate::codec::ReasonPlace::{ConnAck, Disconnect};
        for fault in DecodeError::ALL {
            assert!(fault.reason().is_error());
            assert!(fault.reason().allowed_in(Disconnect) || fault.reason().allowed_in(ConnAck), "{fault:?}");
            assert!(fault.to_string().len() > 20);
        }
    }
}
