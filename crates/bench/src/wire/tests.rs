use super::*;

fn whole(bytes: &[u8]) -> Frame<'_> {
    let (frame, used) = split(bytes).unwrap().unwrap();
    assert_eq!(used, bytes.len());
    frame
}

#[test]
fn a_publish_reads_back_in_both_versions_and_at_each_qos() {
    for version in [Version::V311, Version::V5] {
        for qos in 0..=2 {
            let payload = vec![7u8; 300];
            let mut out = Vec::new();
            let (id_at, payload_at) = publish(&mut out, version, "a/b", qos, &payload);
            if qos > 0 {
                out[id_at..id_at + 2].copy_from_slice(&513u16.to_be_bytes());
            }
            assert_eq!(&out[payload_at..], &payload[..]);
            let got = read_publish(whole(&out), version).unwrap();
            let packet_id = if qos > 0 { 513 } else { 0 };
            assert_eq!(got, Publish { qos, dup: false, packet_id, payload: &payload });
        }
    }
}

#[test]
fn a_torn_packet_asks_for_more_at_every_cut() {
    let mut out = Vec::new();
    publish(&mut out, Version::V5, "a/b", 1, &[1; 200]);
    for cut in 0..out.len() {
        assert!(split(&out[..cut]).unwrap().is_none(), "cut at {cut}");
    }
}

#[test]
fn odd_input_is_refused_without_a_panic() {
    assert!(split(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err());
    assert!(split(&[0x30, 0xff, 0xff, 0xff, 0x7f]).is_err());
    // Quality of service 3, a topic longer than the packet, identifier 0, properties past the end.
    for bytes in [&[0x36u8, 2, 0, 0][..], &[0x30, 2, 0, 9], &[0x32, 4, 0, 0, 0, 0], &[0x30, 3, 0, 0, 9]] {
        assert!(read_publish(whole(bytes), Version::V5).is_none(), "{bytes:?}");
    }
}

#[test]
fn connack_properties_yield_the_receive_maximum() {
    // Maximum packet size, then receive maximum 20, then a user property.
    let body = [0, 0, 15, 0x27, 0, 1, 0, 0, 0x21, 0, 20, 0x26, 0, 1, b'k', 0, 1, b'v', 0];
    let frame = Frame { head: 0x20, body: &body[..18] };
    assert_eq!(read_connack(frame, Version::V5).unwrap().receive_max, 20);
    let old = Frame { head: 0x20, body: &[1, 0] };
    assert_eq!(read_connack(old, Version::V311), Some(Connack { session_present: true, code: 0, receive_max: u16::MAX }));
}

#[test]
fn a_connect_carries_its_session_choice() {
    let mut c = Connect {
        version: Version::V5,
        client_id: "me".into(),
        clean: false,
        keep_alive_secs: 0,
        user: Some("u".into()),
        password: Some("p".into()),
        receive_max: 0,
    };
    let mut out = Vec::new();
    connect(&mut out, &c);
    let expected = b"\x10\x1a\0\x04MQTT\x05\xc0\0\0\x05\x11\xff\xff\xff\xff\0\x02me\0\x01u\0\x01p";
    assert_eq!(out.len(), expected.len());
    assert_eq!(out, expected);
    (c.version, c.clean, c.user, c.password) = (Version::V311, true, None, None);
    out.clear();
    connect(&mut out, &c);
    assert_eq!(out, b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02me");
}
