//! Against the codecs of rumqttc, which others wrote.
use super::*;
use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

fn theirs_v4(bytes: &[u8]) -> Result<v4::Packet, String> {
    v4::Packet::read(&mut BytesMut::from(bytes), usize::MAX).map_err(|error| format!("{error:?}"))
}

fn theirs_v5(bytes: &[u8]) -> Result<v5::Packet, String> {
    v5::Packet::read(&mut BytesMut::from(bytes), None).map_err(|error| format!("{error:?}"))
}

/// What rumqttc cannot read, found by this test: the mark of a bridge and a password that is not text, AUTH, and an empty DISCONNECT of version 5.
fn unknown_to_them(sample: &corpus::Sample) -> bool {
    let auth = PacketKind::of(sample.bytes[0]) == PacketKind::Auth;
    let empty_disconnect = sample.version.is_v5() && sample.bytes == [0xE0, 0];
    auth || empty_disconnect || sample.name.ends_with("connect-bridge")
}

/// Theirs leaves the properties' length out of the remaining length of a DISCONNECT without properties, and still writes it.
fn misframed_by_them(sample: &corpus::Sample) -> bool {
    sample.name.ends_with("disconnect-takeover")
}

/// 3.1.1: what we write they read, and write back as the same bytes.
#[test]
fn packets_of_3_1_1_are_the_same_bytes_there() {
    let mut seen = 0;
    for sample in corpus::all().into_iter().filter(|sample| sample.version == Version::V311 && !unknown_to_them(sample)) {
        let packet = theirs_v4(&sample.bytes).unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).expect("they write what they read");
        assert_eq!(bytes, sample.bytes[..], "{}", sample.name);
        seen += 1;
    }
    assert!(seen >= 28, "{seen}");
}

/// 5.0: they may put properties in another order, so what they write is read by us and compared as a packet.
#[test]
fn packets_of_5_0_are_the_same_packets_there() {
    let mut seen = 0;
    for sample in corpus::all().into_iter().filter(|sample| sample.version.is_v5() && !unknown_to_them(sample)) {
        let packet = theirs_v5(&sample.bytes).unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).expect("they write what they read");
        seen += 1;
        if misframed_by_them(&sample) {
            assert_ne!(bytes, sample.bytes[..], "{} is right now: take it off the list", sample.name);
            continue;
        }
        let again = decode(&bytes, sample.version, sample.from).unwrap_or_else(|error| panic!("{}: {error} {bytes:02x?}", sample.name));
        compare(&sample, &again);
    }
    assert!(seen >= 50, "{seen}");
}

fn compare(sample: &corpus::Sample, again: &Packet<'_>) {
    match (sample.decode(), again) {
        (Packet::Publish(one), Packet::Publish(two)) => {
            assert_eq!((one.topic, one.payload, one.packet_id), (two.topic, two.payload, two.packet_id), "{}", sample.name);
            let same = PublishProperties { raw: &[], ..one.properties } == PublishProperties { raw: &[], ..two.properties };
            assert!(same, "{}: {one:?} {two:?}", sample.name);
            assert!(props::user_properties(one.properties.raw).eq(props::user_properties(two.properties.raw)), "{}", sample.name);
            assert!(props::subscription_ids(one.properties.raw).eq(props::subscription_ids(two.properties.raw)), "{}", sample.name);
        }
        (Packet::Connect(mut one), Packet::Connect(two)) => {
            let mut two = two.clone();
            for will in [&mut one.will, &mut two.will].into_iter().flatten() {
                // The order inside is theirs to choose; the set is not.
                will.properties.sort_unstable();
            }
            assert_eq!(one, two, "{}", sample.name);
        }
        (one, two) => assert_eq!(&one, two, "{}", sample.name),
    }
}
