//! Any bytes from a client: no panic, no memory without end.

use mqtt::session_fuzz;
use proptest::prelude::*;

/// Packets that are nearly right go deeper than noise.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let frame = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..24)).prop_map(|(first, body)| {
        let mut frame = vec![first, body.len() as u8];
        frame.extend(body);
        frame
    });
    let known = prop::sample::select(vec![
        &b"\x30\x04\x00\x01ax"[..],
        b"\x32\x06\x00\x01a\x00\x01x",
        b"\x34\x06\x00\x01a\x00\x02x",
        b"\x34\x07\x00\x01a\x00\x02\x00x",
        b"\x62\x02\x00\x02",
        b"\x40\x02\x00\x01",
        b"\x50\x02\x00\x01",
        b"\x70\x02\x00\x01",
        b"\x82\x06\x00\x01\x00\x01#\x01",
        b"\x82\x07\x00\x01\x00\x00\x01#\x01",
        b"\xa2\x05\x00\x01\x00\x01#",
        b"\xc0\x00",
        b"\x30\x08\x00\x01a\x03\x23\x00\x01x",
        b"\x30\x07\x00\x00\x03\x23\x00\x01x",
        b"\xf0\x00",
        b"\xe0\x00",
    ])
    .prop_map(<[u8]>::to_vec);
    let part = prop_oneof![4 => known, 1 => frame];
    (any::<u8>(), prop::collection::vec(part, 0..40)).prop_map(|(first, parts)| {
        let mut data = vec![first];
        data.extend(parts.concat());
        data
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn noise_does_no_harm(data in prop::collection::vec(any::<u8>(), 0..300)) {
        session_fuzz(&data);
    }

    #[test]
    fn nearly_right_packets_do_no_harm(data in nearly()) {
        session_fuzz(&data);
    }
}
