//! The edits a broker makes while it passes a PUBLISH on.

use super::corpus::message_properties;
use super::*;
use std::num::NonZeroU16;

const USER: &[u8] = b"\x26\0\x01b\0\x011";

fn out(raw: &[u8], edits: PropertyEdits<'_>) -> Vec<u8> {
    let publish = PublishOut { topic: b"t", properties: StoredProperties::scan(raw), edits, payload: b"body", ..PublishOut::default() };
    let mut bytes = b"before".to_vec();
    let total = publish.encode(Version::V5, u32::MAX, &mut bytes).unwrap();
    assert_eq!(publish.encoded_len(Version::V5), Ok(total));
    let packet = bytes.split_off(6);
    assert_eq!((bytes.as_slice(), packet.len()), (&b"before"[..], total));
    packet
}

/// The property section that comes out.
fn section(raw: &[u8], edits: PropertyEdits<'_>) -> Vec<u8> {
    let bytes = out(raw, edits);
    match decode(&bytes, Version::V5, Peer::Server) {
        Ok(Packet::Publish(view)) => {
            assert_eq!((view.topic, view.payload), (&b"t"[..], &b"body"[..]));
            view.properties.raw.to_vec()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_edits_the_section_is_copied() {
    let raw = message_properties();
    assert_eq!(section(&raw, PropertyEdits::default()), raw);
    assert_eq!(section(&[], PropertyEdits::default()), []);
}

#[test]
fn expiry_is_replaced_where_it_stood_added_or_dropped() {
    let raw = [USER, &[2, 0, 0, 0, 60], USER].concat();
    let edit = |expiry| PropertyEdits { expiry, ..PropertyEdits::default() };
    assert_eq!(section(&raw, edit(ExpiryEdit::Keep)), raw);
    assert_eq!(section(&raw, edit(ExpiryEdit::Set(7))), [USER, &[2, 0, 0, 0, 7], USER].concat());
    assert_eq!(section(&raw, edit(ExpiryEdit::Drop)), [USER, USER].concat());
    assert_eq!(section(USER, edit(ExpiryEdit::Set(7))), [USER, &[2, 0, 0, 0, 7]].concat());
    assert_eq!(section(USER, edit(ExpiryEdit::Drop)), USER);
}

#[test]
fn alias_and_subscription_ids_of_the_incoming_connection_never_leave() {
    let raw = [&[35, 0, 3], USER, &[11, 5, 11, 0x80, 1], &[2, 0, 0, 0, 60], USER, &[11, 9]].concat();
    assert_eq!(section(&raw, PropertyEdits::default()), [USER, &[2, 0, 0, 0, 60], USER].concat());
    let all = PropertyEdits { expiry: ExpiryEdit::Set(9), topic_alias: NonZeroU16::new(0x102), subscription_ids: &[1, 200] };
    let expected = [USER, &[2, 0, 0, 0, 9], USER, &[35, 1, 2, 11, 1, 11, 0xC8, 1]].concat();
    assert_eq!(section(&raw, all), expected);
    let drop = PropertyEdits { expiry: ExpiryEdit::Drop, ..PropertyEdits::default() };
    assert_eq!(section(&raw, drop), [USER, USER].concat());
}

#[test]
fn a_packet_over_the_receivers_maximum_is_not_written() {
    let publish = PublishOut { topic: b"topic", payload: b"0123456789", ..PublishOut::default() };
    for version in Version::ALL {
        let len = publish.encoded_len(version).unwrap();
        assert_eq!(len, if version.is_v5() { 20 } else { 19 });
        let mut bytes = Vec::new();
        assert_eq!(publish.encode(version, len as u32 - 1, &mut bytes), Err(EncodeError::TooLarge(len)));
        assert!(bytes.is_empty());
        assert_eq!(publish.encode(version, len as u32, &mut bytes), Ok(len));
        let mut head = Vec::new();
        assert_eq!(publish.encode_without_payload(version, u32::MAX, &mut head), Ok(len));
        head.extend_from_slice(publish.payload);
        assert_eq!(head, bytes);
    }
}

/// Before version 5 neither properties nor edits leave a trace.
#[test]
fn a_version_5_message_for_an_older_client() {
    let raw = message_properties();
    let edits = PropertyEdits { expiry: ExpiryEdit::Set(1), topic_alias: NonZeroU16::new(1), subscription_ids: &[1] };
    let publish = PublishOut {
        qos: Qos::AtLeastOnce,
        dup: true,
        packet_id: Some(id(9)),
        topic: b"a/b",
        properties: StoredProperties::scan(&raw),
        edits,
        payload: b"x",
        retain: true,
    };
    let mut bytes = Vec::new();
    publish.encode(Version::V311, u32::MAX, &mut bytes).unwrap();
    assert_eq!(bytes, [0x3B, 8, 0, 3, b'a', b'/', b'b', 0, 9, b'x']);
}

/// A summary that does not belong to its section is noticed, and nothing reaches the stream.
#[test]
fn a_wrong_summary_of_the_properties_is_an_error() {
    let wrong = StoredProperties { raw: USER, present: PropertySet::of(&[PropertyId::MessageExpiryInterval]) };
    let edits = PropertyEdits { expiry: ExpiryEdit::Drop, ..PropertyEdits::default() };
    let publish = PublishOut { topic: b"t", properties: wrong, edits, ..PublishOut::default() };
    let mut bytes = vec![1, 2, 3];
    assert_eq!(publish.encode(Version::V5, u32::MAX, &mut bytes), Err(EncodeError::Properties));
    assert_eq!(bytes, [1, 2, 3]);
}

#[test]
fn a_topic_or_packet_that_cannot_be_said_is_refused() {
    let topic = vec![b'a'; 65_536];
    let mut bytes = Vec::new();
    let publish = PublishOut { topic: &topic, ..PublishOut::default() };
    assert_eq!(publish.encode(Version::V311, u32::MAX, &mut bytes), Err(EncodeError::FieldTooLong));
    let long = Connect::new(Version::V311, "x".repeat(65_536));
    assert_eq!(Packet::Connect(Box::new(long)).encode(Version::V311, &mut bytes), Err(EncodeError::FieldTooLong));
    assert!(bytes.is_empty());
}

#[test]
fn payload_format() {
    let raw = [1, 1];
    let text = PublishProperties::parse(&raw, Peer::Client).unwrap();
    assert!(text.payload_fits("größe\0".as_bytes()) && !text.payload_fits(&[0xFF]));
    assert!(PublishProperties::default().payload_fits(&[0xFF]));
}
