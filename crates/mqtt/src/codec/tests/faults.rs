//! What must be refused, with the code that says why.

use super::*;
use DecodeError::*;

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    wire::put_varint(&mut bytes, body.len() as u32);
    bytes.extend_from_slice(body);
    bytes
}

fn publish_with(section: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 1, b'a', section.len() as u8];
    body.extend_from_slice(section);
    packet(0x30, &body)
}

fn refused(bytes: &[u8], version: Version, from: Peer, error: DecodeError, code: u8) {
    assert_eq!(decode(bytes, version, from), Err(error), "{bytes:02x?}");
    assert_eq!(error.reason() as u8, code, "{error:?}");
}

#[test]
fn fixed_headers() {
    let first = |bytes: &[u8], opened: Option<Version>| {
        let mut splitter = Splitter::of_client(Limits { packet_max: 1000, connect_max: 100 });
        if let Some(version) = opened {
            splitter.split(&encode(&Packet::Connect(Box::new(Connect::new(version, "c"))), version));
        }
        let split = splitter.split(bytes);
        assert_eq!((split.whole, split.lacks), (0, 0), "{bytes:02x?} {split:?}");
        split.error.expect("an error")
    };
    let v5 = Some(Version::V5);
    let v4 = Some(Version::V311);
    // Known from the first byte, before there is a length.
    assert_eq!(first(&[0x30], None), FirstNotConnect);
    assert_eq!(first(b"GET / HTTP/1.1\r\n", None), FirstNotConnect);
    assert_eq!(first(&[0x11], None), FixedHeaderFlags);
    assert_eq!(first(&[0x10], v5), SecondConnect);
    assert_eq!(first(&[0x36], v5), PublishQos);
    assert_eq!(first(&[0x38], v5), DupAtQos0);
    assert_eq!(first(&[0x00], v5), ReservedType);
    assert_eq!(first(&[0xF0], v4), ReservedType);
    for (flags, kind) in
        [(0x41, "PUBACK"), (0x60, "PUBREL"), (0x80, "SUBSCRIBE"), (0xA3, "UNSUBSCRIBE"), (0xC1, "PINGREQ"), (0xE2, "DISCONNECT")]
    {
        assert_eq!(first(&[flags], v5), FixedHeaderFlags, "{kind}");
        assert_eq!(FixedHeaderFlags.reason() as u8, 0x81);
    }
    for kind in [0x20, 0x90, 0xB0, 0xD0] {
        assert_eq!(first(&[kind], v4), WrongDirection);
    }
    assert_eq!(first(&[0x30, 0x80, 0x80, 0x80, 0x80], v5), LengthTooLong);
    assert_eq!(first(&[0x30, 0x80, 0x00], v5), LengthOverlong);
    // Too large is known from the header: 3 + 998 bytes.
    assert_eq!(first(&[0x30, 0xE6, 0x07], v5), TooLarge);
    assert_eq!(TooLarge.reason() as u8, 0x95);
    assert_eq!(first(&[0x10, 99], None), TooLarge);
    let mut splitter = Splitter::of_client(Limits { packet_max: 1000, connect_max: 100 });
    assert_eq!(splitter.split(&[0x10, 98]).lacks, 98);
}

#[test]
fn good_frames_before_a_bad_one_count() {
    let mut bytes = encode(&Packet::Connect(Box::new(Connect::new(Version::V5, "c"))), Version::V5);
    bytes.extend_from_slice(&[0x32, 6, 0, 1, b'a', 0, 1, 0]);
    let good = bytes.len();
    bytes.extend_from_slice(&[0x36, 0xFF]);
    let mut splitter = Splitter::of_client(Limits::default());
    assert_eq!(splitter.split(&bytes), Split { whole: good, frames: 2, lacks: 0, error: Some(PublishQos) });
    assert_eq!(splitter.split(&bytes[good..]).error, Some(PublishQos));
}

#[test]
fn what_a_server_sends_first_and_never() {
    let error = |bytes: &[u8], version| Splitter::of_server(version, 1000).split(bytes).error;
    assert_eq!(error(&[0x30], Version::V5), Some(FirstNotConnAck));
    assert_eq!(error(&[0xF0], Version::V311), Some(FirstNotConnAck));
    assert_eq!(error(&[0xF0, 0], Version::V5), None);
    assert_eq!(error(&[0x20, 2, 0, 0, 0xE0], Version::V311), Some(WrongDirection));
    assert_eq!(error(&[0x20, 3, 0, 0, 0, 0xE0], Version::V5), None);
    assert_eq!(error(&[0x20, 3, 0, 0, 0, 0x82], Version::V5), Some(WrongDirection));
}

#[test]
fn connect() {
    let head = |level: u8, flags: u8| [&[0, 4][..], b"MQTT", &[level, flags, 0, 0]].concat();
    let with = |level, flags, rest: &[u8]| packet(0x10, &[&head(level, flags)[..], rest].concat());
    let (v4, v5, client) = (Version::V311, Version::V5, Peer::Client);
    refused(&packet(0x10, b"\0\x04MQTX\x04\x02\0\0\0\0"), v4, client, ProtocolName, 0x84);
    refused(&with(6, 2, &[0, 0]), v4, client, ProtocolLevel, 0x84);
    refused(&with(3, 2, &[0, 0]), v4, client, ProtocolLevel, 0x84);
    refused(&packet(0x10, b"\0\x06MQIsdp\x04\x02\0\0\0\0"), v4, client, ProtocolLevel, 0x84);
    assert_eq!(connect::sniff_level(&head(6, 2)), Some(6));
    refused(&with(4, 0x03, &[0, 0]), v4, client, ConnectReserved, 0x81);
    refused(&with(5, 0x0A, &[0, 0, 0]), v5, client, WillFlags, 0x81);
    refused(&with(5, 0x22, &[0, 0, 0]), v5, client, WillFlags, 0x81);
    refused(&with(5, 0x1E, &[0, 0, 0]), v5, client, WillQos, 0x81);
    refused(&with(4, 0x42, &[0, 0, 0, 0]), v4, client, PasswordAlone, 0x81);
    refused(&with(4, 0x02, &[0, 0, 9]), v4, client, TrailingBytes, 0x81);
    refused(&with(4, 0x02, &[0, 2, b'a', 0]), v4, client, NulCharacter, 0x81);
    refused(&with(4, 0x02, &[0, 1, 0xFF]), v4, client, NotUtf8, 0x81);
    refused(&with(4, 0x06, b"\0\0\0\x03a/#\0\0"), v4, client, TopicWildcard, 0x90);
    refused(&with(4, 0x06, b"\0\0\0\0\0\0"), v4, client, TopicEmpty, 0x82);
    // Properties: Receive Maximum 0; Maximum Packet Size 0; a byte that must be 0 or 1; one that is only the will's; one that is only
    // CONNACK's; twice; data without a method.
    refused(&with(5, 2, &[3, 33, 0, 0, 0, 0]), v5, client, PropertyZero, 0x82);
    refused(&with(5, 2, &[5, 39, 0, 0, 0, 0, 0, 0]), v5, client, PropertyZero, 0x82);
    refused(&with(5, 2, &[2, 23, 2, 0, 0]), v5, client, PropertyNotBool, 0x82);
    refused(&with(5, 2, &[5, 24, 0, 0, 0, 1, 0, 0]), v5, client, PropertyMisplaced, 0x81);
    refused(&with(5, 2, &[2, 36, 1, 0, 0]), v5, client, PropertyMisplaced, 0x81);
    refused(&with(5, 2, &[4, 23, 1, 23, 1, 0, 0]), v5, client, PropertyRepeated, 0x82);
    refused(&with(5, 2, &[4, 22, 0, 1, 7, 0, 0]), v5, client, AuthDataAlone, 0x82);
    refused(&with(5, 2, &[1, 127, 0, 0]), v5, client, PropertyUnknown, 0x81);
    refused(&with(5, 2, &[9, 23, 1, 0, 0]), v5, client, Truncated, 0x81);
}

#[test]
fn publish() {
    let (v4, v5, client, server) = (Version::V311, Version::V5, Peer::Client, Peer::Server);
    refused(&packet(0x30, &[0, 0]), v4, client, TopicEmpty, 0x82);
    refused(&packet(0x30, &[0, 0, 0]), v5, client, TopicEmpty, 0x82);
    refused(&packet(0x30, b"\0\x03a/#"), v4, client, TopicWildcard, 0x90);
    refused(&packet(0x30, b"\0\x03a/+\0"), v5, client, TopicWildcard, 0x90);
    refused(&packet(0x30, &[0, 1, 0, 0]), v5, client, NulCharacter, 0x81);
    refused(&packet(0x30, &[0, 3, 0xED, 0xA0, 0x80, 0]), v5, client, NotUtf8, 0x81);
    refused(&packet(0x32, &[0, 1, b'a', 0, 0, 0]), v5, client, PacketIdZero, 0x82);
    refused(&packet(0x32, &[0, 1, b'a', 0]), v5, client, Truncated, 0x81);
    refused(&packet(0x36, &[0, 1, b'a', 0, 1, 0]), v5, client, PublishQos, 0x81);
    let deep = "/".repeat(200);
    refused(&packet(0x30, &[&[0, 200], deep.as_bytes()].concat()), v4, client, TopicLevels, 0x90);
    let bytes = packet(0x30, &[&[0, 200], deep.as_bytes()].concat());
    let frame = frames(&bytes).next().unwrap();
    let unbounded = Decoder { levels_max: None, ..Decoder::new(v4, client) };
    assert!(unbounded.publish(&bytes, frame).is_ok());

    let cases: [(&[u8], DecodeError, u8); 15] = [
        (&[11, 1], SubscriptionIdFromClient, 0x82),
        (&[35, 0, 0], TopicAliasZero, 0x94),
        (b"\x08\0\x03a/+", ResponseTopicWildcard, 0x82),
        (b"\x08\0\0", ResponseTopicEmpty, 0x82),
        (&[1, 2], PropertyNotBool, 0x82),
        (&[1, 0, 1, 0], PropertyRepeated, 0x82),
        (&[35, 0, 1, 35, 0, 1], PropertyRepeated, 0x82),
        (&[2, 0, 0, 0], Truncated, 0x81),
        (&[9, 0, 5, 1], Truncated, 0x81),
        (&[3, 0, 1, 0], NulCharacter, 0x81),
        (&[38, 0, 1, b'a', 0, 1, 0xC0], NotUtf8, 0x81),
        (&[38, 0, 1, b'a'], Truncated, 0x81),
        (&[31, 0, 0], PropertyMisplaced, 0x81),
        (&[24, 0, 0, 0, 1], PropertyMisplaced, 0x81),
        (&[200, 1], PropertyUnknown, 0x81),
    ];
    for (section, error, code) in cases {
        refused(&publish_with(section), v5, client, error, code);
    }
    refused(&publish_with(&[11, 0]), v5, server, PropertyZero, 0x82);
    assert!(decode(&publish_with(&[11, 1, 11, 1]), v5, server).is_ok());
}

#[test]
fn acks() {
    let (v4, v5, client) = (Version::V311, Version::V5, Peer::Client);
    refused(&[0x40, 2, 0, 0], v4, client, PacketIdZero, 0x82);
    refused(&[0x40, 1, 0], v4, client, Truncated, 0x81);
    refused(&[0x40, 3, 0, 1, 0], v4, client, TrailingBytes, 0x81);
    refused(&[0x40, 3, 0, 1, 0x92], v5, client, ReasonUnknown, 0x82);
    refused(&[0x62, 3, 0, 1, 0x10], v5, client, ReasonUnknown, 0x82);
    refused(&[0x40, 5, 0, 1, 0, 0, 0], v5, client, TrailingBytes, 0x81);
    refused(&[0x40, 6, 0, 1, 0, 2, 1, 0], v5, client, PropertyMisplaced, 0x81);
}

#[test]
fn subscribe_and_unsubscribe() {
    let (v4, v5, client) = (Version::V311, Version::V5, Peer::Client);
    let subscribe = |filter: &str, options: u8| packet(0x82, &[&[0, 1, 0, 0, filter.len() as u8], filter.as_bytes(), &[options]].concat());
    refused(&packet(0x82, &[0, 1]), v4, client, NoFilters, 0x82);
    refused(&packet(0x82, &[0, 1, 0]), v5, client, NoFilters, 0x82);
    refused(&packet(0xA2, &[0, 1, 0]), v5, client, NoFilters, 0x82);
    refused(&subscribe("a", 3), v5, client, SubscribeQos, 0x82);
    refused(&subscribe("a", 0x30), v5, client, RetainHandling, 0x82);
    refused(&subscribe("a", 0x40), v5, client, SubscribeReserved, 0x81);
    refused(&packet(0x82, &[0, 1, 0, 1, b'a', 3]), v4, client, SubscribeQos, 0x82);
    refused(&packet(0x82, &[0, 1, 0, 1, b'a', 4]), v4, client, SubscribeReserved, 0x81);
    refused(&packet(0x82, &[0, 1, 0, 1, b'a']), v4, client, Truncated, 0x81);
    refused(&packet(0x82, &[0, 0, 0, 1, b'a', 0]), v4, client, PacketIdZero, 0x82);
    refused(&subscribe("a/#/b", 0), v5, client, FilterHash, 0x8F);
    refused(&subscribe("a+", 0), v5, client, FilterPlus, 0x8F);
    refused(&subscribe("", 0), v5, client, FilterEmpty, 0x8F);
    refused(&subscribe("$share//a", 0), v5, client, ShareName, 0x8F);
    refused(&subscribe("$share/g", 0), v5, client, ShareFilter, 0x8F);
    refused(&subscribe("$share/g/a", 4), v5, client, SharedNoLocal, 0x82);
    refused(&packet(0x82, &[0, 1, 2, 11, 0, 0, 1, b'a', 0]), v5, client, PropertyZero, 0x82);
    refused(&packet(0x82, &[0, 1, 4, 11, 1, 11, 1, 0, 1, b'a', 0]), v5, client, PropertyRepeated, 0x82);
    refused(&packet(0xA2, &[0, 1, 2, 11, 1, 0, 1, b'a']), v5, client, PropertyMisplaced, 0x81);
}

#[test]
fn the_rest() {
    let (v4, v5, client, server) = (Version::V311, Version::V5, Peer::Client, Peer::Server);
    refused(&[0xC0, 1, 0], v4, client, TrailingBytes, 0x81);
    refused(&[0xE0, 1, 0], v4, client, TrailingBytes, 0x81);
    refused(&[0xE0, 1, 0x01], v5, client, ReasonUnknown, 0x82);
    // Session Expiry Interval is the client's to say, Server Reference the server's (3.14.2.2).
    refused(&packet(0xE0, &[0, 5, 17, 0, 0, 0, 1]), v5, server, PropertyMisplaced, 0x81);
    refused(&packet(0xE0, &[0, 4, 28, 0, 1, b'a']), v5, client, PropertyMisplaced, 0x81);
    assert!(decode(&packet(0xE0, &[0, 5, 17, 0, 0, 0, 1]), v5, client).is_ok());
    refused(&packet(0xF0, &[0x18, 0]), v5, client, AuthMethodMissing, 0x82);
    refused(&packet(0xF0, &[0x80, 0]), v5, client, ReasonUnknown, 0x82);
    refused(&[0x20, 2, 2, 0], v4, server, ConnAckFlags, 0x81);
    refused(&[0x20, 3, 1, 0x87, 0], v5, server, SessionPresentOnError, 0x82);
    refused(&[0x20, 2, 0, 6], v4, server, ReasonUnknown, 0x82);
    refused(&packet(0x90, &[0, 1, 3]), v4, server, ReasonUnknown, 0x82);
    refused(&packet(0x90, &[0, 1, 0x87]), v4, server, ReasonUnknown, 0x82);
    refused(&packet(0xB0, &[0, 1, 0]), v4, server, TrailingBytes, 0x81);
}
