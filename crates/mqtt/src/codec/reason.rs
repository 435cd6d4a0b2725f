//! Reason codes (MQTT 5.0, 2.4) and what is left of them in 3.1 and 3.1.1.

use super::Version;

const CONNACK: u16 = 1;
const PUBACK: u16 = 1 << 1;
const PUBREC: u16 = 1 << 2;
const PUBREL: u16 = 1 << 3;
const PUBCOMP: u16 = 1 << 4;
const SUBACK: u16 = 1 << 5;
const UNSUBACK: u16 = 1 << 6;
const DISCONNECT: u16 = 1 << 7;
const AUTH: u16 = 1 << 8;
const PUBLISHED: u16 = PUBACK | PUBREC;
const REL: u16 = PUBREL | PUBCOMP;
const SUBS: u16 = SUBACK | UNSUBACK;
const LINK: u16 = CONNACK | DISCONNECT;

/// The packet that carries a reason code: not every code may stand in every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonPlace {
    ConnAck,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    SubAck,
    UnsubAck,
    Disconnect,
    Auth,
}

impl ReasonPlace {
    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

macro_rules! reasons {
    ($($variant:ident = $value:literal, $name:literal, $places:expr;)*) => {
        /// One reason code; `Success` is also spelt "normal disconnection" and "granted QoS 0".
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ReasonCode { $($variant = $value,)* }

        impl ReasonCode {
            /// Every code of MQTT 5.0, in the order of its value.
            pub const ALL: &'static [ReasonCode] = &[$(ReasonCode::$variant,)*];

            pub const fn from_u8(value: u8) -> Option<ReasonCode> {
                match value { $($value => Some(ReasonCode::$variant),)* _ => None }
            }

            /// The name of MQTT 5.0, table 2-6.
            pub const fn name(self) -> &'static str {
                match self { $(ReasonCode::$variant => $name,)* }
            }

            const fn places(self) -> u16 {
                match self { $(ReasonCode::$variant => $places,)* }
            }
        }
    };
}

// MQTT 5.0, table 2-6: value, name, the packets it may stand in.
reasons! {
    Success = 0x00, "Success", LINK | PUBLISHED | REL | SUBS | AUTH;
    GrantedQos1 = 0x01, "Granted QoS 1", SUBACK;
    GrantedQos2 = 0x02, "Granted QoS 2", SUBACK;
    DisconnectWithWill = 0x04, "Disconnect with Will Message", DISCONNECT;
    NoMatchingSubscribers = 0x10, "No matching subscribers", PUBLISHED;
    NoSubscriptionExisted = 0x11, "No subscription existed", UNSUBACK;
    ContinueAuthentication = 0x18, "Continue authentication", AUTH;
    ReAuthenticate = 0x19, "Re-authenticate", AUTH;
    Unspecified = 0x80, "Unspecified error", LINK | PUBLISHED | SUBS;
    MalformedPacket = 0x81, "Malformed Packet", LINK;
    ProtocolError = 0x82, "Protocol Error", LINK;
    ImplementationSpecific = 0x83, "Implementation specific error", LINK | PUBLISHED | SUBS;
    UnsupportedVersion = 0x84, "Unsupported Protocol Version", CONNACK;
    ClientIdNotValid = 0x85, "Client Identifier not valid", CONNACK;
    BadUserNameOrPassword = 0x86, "Bad User Name or Password", CONNACK;
    NotAuthorized = 0x87, "Not authorized", LINK | PUBLISHED | SUBS;
    ServerUnavailable = 0x88, "Server unavailable", CONNACK;
    ServerBusy = 0x89, "Server busy", LINK;
    Banned = 0x8A, "Banned", CONNACK;
    ServerShuttingDown = 0x8B, "Server shutting down", DISCONNECT;
    BadAuthenticationMethod = 0x8C, "Bad authentication method", LINK;
    KeepAliveTimeout = 0x8D, "Keep Alive timeout", DISCONNECT;
    SessionTakenOver = 0x8E, "Session taken over", DISCONNECT;
    TopicFilterInvalid = 0x8F, "Topic Filter invalid", SUBS | DISCONNECT;
    TopicNameInvalid = 0x90, "Topic Name invalid", LINK | PUBLISHED;
    PacketIdInUse = 0x91, "Packet Identifier in use", PUBLISHED | SUBS;
    PacketIdNotFound = 0x92, "Packet Identifier not found", REL;
    ReceiveMaximumExceeded = 0x93, "Receive Maximum exceeded", DISCONNECT;
    TopicAliasInvalid = 0x94, "Topic Alias invalid", DISCONNECT;
    PacketTooLarge = 0x95, "Packet too large", LINK;
    MessageRateTooHigh = 0x96, "Message rate too high", DISCONNECT;
    QuotaExceeded = 0x97, "Quota exceeded", LINK | PUBLISHED | SUBACK;
    AdministrativeAction = 0x98, "Administrative action", DISCONNECT;
    PayloadFormatInvalid = 0x99, "Payload format invalid", LINK | PUBLISHED;
    RetainNotSupported = 0x9A, "Retain not supported", LINK;
    QosNotSupported = 0x9B, "QoS not supported", LINK;
    UseAnotherServer = 0x9C, "Use another server", LINK;
    ServerMoved = 0x9D, "Server moved", LINK;
    SharedSubscriptionsNotSupported = 0x9E, "Shared Subscriptions not supported", SUBACK | DISCONNECT;
    ConnectionRateExceeded = 0x9F, "Connection rate exceeded", LINK;
    MaximumConnectTime = 0xA0, "Maximum connect time", DISCONNECT;
    SubscriptionIdsNotSupported = 0xA1, "Subscription Identifiers not supported", SUBACK | DISCONNECT;
    WildcardSubscriptionsNotSupported = 0xA2, "Wildcard Subscriptions not supported", SUBACK | DISCONNECT;
}

impl ReasonCode {
    /// MQTT 5.0, 2.4: below 0x80 the operation succeeded.
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    pub const fn allowed_in(self, place: ReasonPlace) -> bool {
        self.places() & place.bit() != 0
    }

    pub(super) const fn read(value: u8, place: ReasonPlace) -> Option<ReasonCode> {
        match ReasonCode::from_u8(value) {
            Some(code) if code.allowed_in(place) => Some(code),
            _ => None,
        }
    }

    /// The CONNACK return code of 3.1.1 (3.2.2.3), or `None` where that version wants the connection closed without a CONNACK.
    pub const fn connack_v3(self) -> Option<u8> {
        use ReasonCode::*;
        match self {
            Success => Some(0),
            UnsupportedVersion => Some(1),
            ClientIdNotValid => Some(2),
            ServerUnavailable
            | ServerBusy
            | ServerShuttingDown
            | QuotaExceeded
            | UseAnotherServer
            | ServerMoved
            | ConnectionRateExceeded => Some(3),
            BadUserNameOrPassword | BadAuthenticationMethod => Some(4),
            NotAuthorized | Banned => Some(5),
            _ => None,
        }
    }

    /// The v5 reading of a 3.1.1 CONNACK return code.
    pub const fn from_connack_v3(code: u8) -> Option<ReasonCode> {
        match code {
            0 => Some(ReasonCode::Success),
            1 => Some(ReasonCode::UnsupportedVersion),
            2 => Some(ReasonCode::ClientIdNotValid),
            3 => Some(ReasonCode::ServerUnavailable),
            4 => Some(ReasonCode::BadUserNameOrPassword),
            5 => Some(ReasonCode::NotAuthorized),
            _ => None,
        }
    }

    /// The SUBACK byte in `version`. 3.1.1 has one failure code, 0x80 (3.9.3); 3.1 has none, so a refusal there reads as
    /// "granted QoS 0": the session that wants to echo the requested QoS instead says so by passing that as the code.
    pub const fn suback(self, version: Version) -> u8 {
        match version {
            Version::V5 => self as u8,
            Version::V311 if self.is_error() => 0x80,
            Version::V31 if self.is_error() => 0x00,
            _ => self as u8,
        }
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), *self as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_maps_to_itself_and_nothing_else_does() {
        let mut known = 0;
        for value in 0..=255u8 {
            if let Some(code) = ReasonCode::from_u8(value) {
                assert_eq!(code as u8, value);
                assert!(!code.name().is_empty());
                known += 1;
            }
        }
        assert_eq!(known, ReasonCode::ALL.len());
        assert_eq!(known, 43);
        assert!(ReasonCode::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn places_follow_the_table() {
        use ReasonPlace::*;
        assert!(ReasonCode::PacketIdNotFound.allowed_in(PubRel));
        assert!(!ReasonCode::PacketIdNotFound.allowed_in(PubAck));
        assert!(!ReasonCode::SessionTakenOver.allowed_in(ConnAck));
        assert!(ReasonCode::NoMatchingSubscribers.allowed_in(PubRec));
        assert_eq!(ReasonCode::read(0x8E, ConnAck), None);
        let count = |place| ReasonCode::ALL.iter().filter(|code| code.allowed_in(place)).count();
        let counts = [ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, Disconnect, Auth].map(count);
        // The lengths of the tables in 3.2.2.2, 3.4.2.1 and so on. DISCONNECT has one more than 3.14.2.1: table 2-6 names it for 0x8C.
        assert_eq!(counts, [22, 9, 9, 2, 2, 12, 7, 30, 3]);
    }

    #[test]
    fn connack_codes_survive_the_way_to_v3_and_back() {
        for code in 0..=5 {
            assert_eq!(ReasonCode::from_connack_v3(code).unwrap().connack_v3(), Some(code));
        }
        assert_eq!(ReasonCode::from_connack_v3(6), None);
        assert_eq!(ReasonCode::MalformedPacket.connack_v3(), None);
        assert_eq!(ReasonCode::Banned.connack_v3(), Some(5));
    }

    #[test]
    fn suback_codes_per_version() {
        assert_eq!(ReasonCode::NotAuthorized.suback(Version::V5), 0x87);
        assert_eq!(ReasonCode::NotAuthorized.suback(Version::V311), 0x80);
        assert_eq!(ReasonCode::NotAuthorized.suback(Version::V31), 0);
        assert_eq!(ReasonCode::GrantedQos2.suback(Version::V31), 2);
    }
}
