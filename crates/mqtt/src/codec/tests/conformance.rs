//! The examples of the specifications, byte for byte, and what real clients send.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Decodes to `packet`, and `packet` encodes to the same bytes.
fn both_ways(bytes: &[u8], version: Version, from: Peer, packet: Packet<'_>) {
    assert_eq!(decode(bytes, version, from), Ok(packet.clone()), "{bytes:02x?}");
    assert_eq!(encode(&packet, version), bytes);
}

/// MQTT 5.0, figure 3-6: the variable header of a CONNECT with Session Expiry Interval 10; the identifier is empty.
#[test]
fn connect_of_figure_3_6() {
    let bytes = hex("10 12 00 04 4D515454 05 CE 00 0A 05 11 0000000A 00 00");
    // The figure's flags announce a user name, a password and a will, so without them it is cut short.
    assert_eq!(decode(&bytes, Version::V5, Peer::Client), Err(DecodeError::Truncated));
    let bytes = hex("10 12 00 04 4D515454 05 02 00 0A 05 11 0000000A 00 00");
    let mut connect = Connect::new(Version::V5, "");
    connect.keep_alive_secs = 10;
    connect.properties.session_expiry_secs = Some(10);
    both_ways(&bytes, Version::V5, Peer::Client, Packet::Connect(Box::new(connect)));
}

/// MQTT 3.1.1, figure 3.6 with its flags 0xCE and the fields that belong to them.
#[test]
fn connect_of_3_1_1_with_all_fields() {
    let bytes = hex("10 1E 0004 4D515454 04 CE 000A 0001 63 0001 77 0002 6869 0001 75 0005 73 65 63 72 65");
    let mut connect = Connect::new(Version::V311, "c");
    connect.keep_alive_secs = 10;
    connect.will = Some(Will { topic: "w".into(), payload: b"hi".to_vec(), qos: Qos::AtLeastOnce, ..Will::default() });
    connect.user_name = Some("u".into());
    connect.password = Some(b"secre".to_vec());
    both_ways(&bytes, Version::V311, Peer::Client, Packet::Connect(Box::new(connect)));
}

#[test]
fn connect_of_3_1() {
    let bytes = hex("10 0F 0006 4D5149736470 03 02 003C 0001 63");
    let mut connect = Connect::new(Version::V31, "c");
    connect.keep_alive_secs = 60;
    both_ways(&bytes, Version::V31, Peer::Client, Packet::Connect(Box::new(connect.clone())));
    // 3.1: flags that promise a user name and password which are not there are forgiven; half of them is not.
    let mut promised = bytes.clone();
    promised[11] = 0xC2;
    assert_eq!(decode(&promised, Version::V31, Peer::Client), Ok(Packet::Connect(Box::new(connect))));
    promised.push(0);
    promised[1] += 1;
    assert_eq!(decode(&promised, Version::V31, Peer::Client), Err(DecodeError::Truncated));
    // A bridge of Mosquitto marks the level.
    let mut bridge = bytes;
    bridge[10] = 0x83;
    let Ok(Packet::Connect(connect)) = decode(&bridge, Version::V31, Peer::Client) else { panic!("a bridge may connect") };
    assert!(connect.bridge && connect.version == Version::V31);
}

/// MQTT 3.1.1, figures 3.11 (PUBLISH "a/b", id 10) and 3.13 onwards (id of the acknowledgements).
#[test]
fn publish_and_acks_of_the_figures() {
    let bytes = hex("32 09 0003 612F62 000A 6869");
    let Ok(Packet::Publish(view)) = decode(&bytes, Version::V311, Peer::Client) else { panic!("a PUBLISH") };
    assert_eq!((view.topic, view.packet_id, view.payload), (&b"a/b"[..], Some(id(10)), &b"hi"[..]));
    assert_eq!((view.qos, view.dup, view.retain), (Qos::AtLeastOnce, false, false));
    assert_eq!((view.topic_at, view.payload_at), (4, 9));
    assert_eq!(encode(&Packet::Publish(view), Version::V311), bytes);
    // MQTT 5.0, figure 3-9: the same with an empty property section.
    let bytes = hex("32 08 0003 612F62 000A 00");
    let Ok(Packet::Publish(view)) = decode(&bytes, Version::V5, Peer::Client) else { panic!("a PUBLISH") };
    assert_eq!((view.topic, view.packet_id, view.payload), (&b"a/b"[..], Some(id(10)), &b""[..]));
    assert_eq!(encode(&Packet::Publish(view), Version::V5), bytes);

    for (first, kind) in [(0x40, AckKind::PubAck), (0x50, AckKind::PubRec), (0x62, AckKind::PubRel), (0x70, AckKind::PubComp)] {
        for version in Version::ALL {
            let ack = AckView { kind, packet_id: id(10), reason: ReasonCode::Success, properties: &[] };
            both_ways(&[first, 2, 0, 10], version, Peer::Server, Packet::Ack(ack));
        }
    }
}

/// The forms of 3.4.2.1: no reason; a reason alone; a reason and empty properties.
#[test]
fn acks_of_version_5_may_leave_things_out() {
    for bytes in [&[0x40, 2, 0, 10][..], &[0x40, 3, 0, 10, 0], &[0x40, 4, 0, 10, 0, 0]] {
        let ack = AckView { kind: AckKind::PubAck, packet_id: id(10), reason: ReasonCode::Success, properties: &[] };
        assert_eq!(decode(bytes, Version::V5, Peer::Client), Ok(Packet::Ack(ack)));
    }
    let mut out = Vec::new();
    encode_ack(AckKind::PubRec, id(10), ReasonCode::NotAuthorized, None, Version::V5, &mut out).unwrap();
    assert_eq!(out, [0x50, 3, 0, 10, 0x87]);
    out.clear();
    encode_ack(AckKind::PubRec, id(10), ReasonCode::NotAuthorized, None, Version::V311, &mut out).unwrap();
    assert_eq!(out, [0x50, 2, 0, 10]);
    out.clear();
    encode_ack_run(AckKind::PubAck, [id(1), id(2), id(0x1234)], &mut out);
    assert_eq!(out, [0x40, 2, 0, 1, 0x40, 2, 0, 2, 0x40, 2, 0x12, 0x34]);
}

/// MQTT 3.1.1, figures 3.22, 3.26, 3.29; MQTT 5.0, figures 3-21 and 3-30.
#[test]
fn subscribe_and_its_answers() {
    let options = |qos| SubscribeOptions { qos, ..SubscribeOptions::default() };
    let filters = vec![
        SubscribeFilter { filter: "a/b".into(), options: options(Qos::AtLeastOnce) },
        SubscribeFilter { filter: "c/d".into(), options: options(Qos::ExactlyOnce) },
    ];
    let subscribe = Subscribe { packet_id: id(10), filters, properties: SubscribeProperties::default() };
    let v3 = hex("82 0E 000A 0003 612F62 01 0003 632F64 02");
    both_ways(&v3, Version::V311, Peer::Client, Packet::Subscribe(subscribe.clone()));
    let v5 = hex("82 0F 000A 00 0003 612F62 01 0003 632F64 02");
    both_ways(&v5, Version::V5, Peer::Client, Packet::Subscribe(subscribe));
    let reasons = vec![ReasonCode::Success, ReasonCode::GrantedQos2, ReasonCode::Unspecified];
    let suback = SubAck { packet_id: id(10), reasons, properties: AckProperties::default() };
    both_ways(&hex("90 05 000A 00 02 80"), Version::V311, Peer::Server, Packet::SubAck(suback.clone()));
    both_ways(&hex("90 06 000A 00 00 02 80"), Version::V5, Peer::Server, Packet::SubAck(suback));
    let unsubscribe = Unsubscribe { packet_id: id(10), filters: vec!["a/b".into(), "c/d".into()], properties: Default::default() };
    both_ways(&hex("A2 0C 000A 0003 612F62 0003 632F64"), Version::V311, Peer::Client, Packet::Unsubscribe(unsubscribe));
    let unsuback = UnsubAck { packet_id: id(10), reasons: vec![], properties: Default::default() };
    both_ways(&hex("B0 02 000A"), Version::V311, Peer::Server, Packet::UnsubAck(unsuback.clone()));
    let reasons = vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    both_ways(&hex("B0 05 000A 00 00 11"), Version::V5, Peer::Server, Packet::UnsubAck(UnsubAck { reasons, ..unsuback }));
}

#[test]
fn connack_disconnect_ping_and_auth() {
    let connack = ConnAck { session_present: true, reason: ReasonCode::Success, properties: Default::default() };
    both_ways(&[0x20, 2, 1, 0], Version::V311, Peer::Server, Packet::ConnAck(Box::new(connack.clone())));
    both_ways(&[0x20, 3, 1, 0, 0], Version::V5, Peer::Server, Packet::ConnAck(Box::new(connack.clone())));
    // 3.1 has no Session Present.
    assert_eq!(encode(&Packet::ConnAck(Box::new(connack)), Version::V31), [0x20, 2, 0, 0]);
    let refused = ConnAck::refuse(ReasonCode::NotAuthorized);
    both_ways(&[0x20, 2, 0, 5], Version::V31, Peer::Server, Packet::ConnAck(Box::new(refused.clone())));
    both_ways(&[0x20, 3, 0, 0x87, 0], Version::V5, Peer::Server, Packet::ConnAck(Box::new(refused)));
    let malformed = Packet::ConnAck(Box::new(ConnAck::refuse(ReasonCode::MalformedPacket)));
    let mut out = Vec::new();
    assert_eq!(malformed.encode(Version::V311, &mut out), Err(EncodeError::NotInVersion));
    assert!(out.is_empty());

    let bye = Disconnect::new(ReasonCode::Success);
    for version in Version::ALL {
        both_ways(&[0xE0, 0], version, Peer::Client, Packet::Disconnect(bye.clone()));
        both_ways(&[0xC0, 0], version, Peer::Client, Packet::PingReq);
        both_ways(&[0xD0, 0], version, Peer::Server, Packet::PingResp);
    }
    let taken = Disconnect::new(ReasonCode::SessionTakenOver);
    both_ways(&[0xE0, 2, 0x8E, 0], Version::V5, Peer::Server, Packet::Disconnect(taken.clone()));
    assert_eq!(decode(&[0xE0, 1, 0x8E], Version::V5, Peer::Server), Ok(Packet::Disconnect(taken)));
    let auth = Auth { reason: ReasonCode::Success, properties: AuthProperties::default() };
    both_ways(&[0xF0, 0], Version::V5, Peer::Server, Packet::Auth(auth.clone()));
    assert_eq!(Packet::Auth(auth).encode(Version::V311, &mut out), Err(EncodeError::NotInVersion));
}

/// 3.1 lets a repeated PUBREL, SUBSCRIBE or UNSUBSCRIBE carry DUP (features 1.2); later versions do not.
#[test]
fn dup_on_a_repeated_request_in_3_1() {
    let cases: [&[u8]; 3] = [&[0x6A, 2, 0, 1], &[0x8A, 6, 0, 1, 0, 1, b'a', 0], &[0xAA, 5, 0, 1, 0, 1, b'a']];
    for bytes in cases {
        assert!(decode(bytes, Version::V31, Peer::Client).is_ok(), "{bytes:02x?}");
        assert_eq!(decode(bytes, Version::V311, Peer::Client), Err(DecodeError::FixedHeaderFlags));
    }
    assert!(decode(&[0x38, 3, 0, 1, b'a'], Version::V31, Peer::Client).is_ok());
    assert_eq!(decode(&[0x38, 3, 0, 1, b'a'], Version::V311, Peer::Client), Err(DecodeError::DupAtQos0));
}

/// The will's properties are a PUBLISH's, wherever the delay stood among them.
#[test]
fn the_will_delay_is_taken_out_of_the_wills_properties() {
    let bytes = hex("10 25 0004 4D515454 05 06 0000 00 0001 63  11 02 00000009 18 00000005 26 0001 61 0001 62 0001 77 0000");
    let Ok(Packet::Connect(connect)) = decode(&bytes, Version::V5, Peer::Client) else {
        panic!("{:?}", decode(&bytes, Version::V5, Peer::Client))
    };
    let will = connect.will.expect("a will");
    assert_eq!(will.delay_secs, 5);
    assert_eq!(will.properties, hex("02 00000009 26 0001 61 0001 62"));
    assert_eq!(will.publish_properties().expiry_secs, Some(9));
}
