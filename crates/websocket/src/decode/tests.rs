use super::*;
use proptest::prelude::*;

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let opcode = OpCode::from(first & 0x0f);
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let header = FrameHeader { is_final: first & 0x80 != 0, opcode, mask: Some(mask), ..FrameHeader::default() };
    let mut bytes = Vec::new();
    header.format(payload.len() as u64, &mut bytes).expect("a vector takes it");
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// All payload and the fault, if the input comes in pieces of this size.
fn decode(decoder: &mut Decoder, input: &[u8], size: usize, heard: &mut Heard) -> (Vec<u8>, Option<Fault>) {
    let mut all = Vec::new();
    for piece in input.chunks(size) {
        let mut piece = piece.to_vec();
        let (count, result) = decoder.decode(&mut piece, heard);
        all.extend_from_slice(&piece[..count]);
        if let Err(fault) = result {
            return (all, Some(fault));
        }
    }
    (all, None)
}

fn fault(takes_text: bool, input: &[u8]) -> Option<Fault> {
    let whole = decode(&mut Decoder::new(takes_text, 1 << 20), input, input.len(), &mut Heard::default()).1;
    let torn = decode(&mut Decoder::new(takes_text, 1 << 20), input, 1, &mut Heard::default()).1;
    assert_eq!(whole, torn);
    whole
}

#[test]
fn the_examples_of_the_specification() {
    // RFC 6455, 5.7: a masked text message "Hello"; a masked ping is the same with another opcode.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let mut heard = Heard::default();
    assert_eq!(decode(&mut Decoder::new(true, 100), &hello, 3, &mut heard), (b"Hello".to_vec(), None));
    let mut ping = hello;
    ping[0] = 0x89;
    assert_eq!(decode(&mut Decoder::new(false, 100), &ping, 4, &mut heard), (Vec::new(), None));
    assert_eq!(heard.ping.as_deref(), Some(&b"Hello"[..]));
    assert_eq!(frame(0x81, b"Hello"), hello);
}

proptest! {
    /// Torn, joined, in fragments, with pings between: the bytes are the same.
    #[test]
    fn payload_comes_out_as_it_went_in(
        messages in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..4), 0..6),
        big in prop_oneof![Just(0usize), 65_530..65_540usize],
        size in 1usize..5000,
    ) {
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for fragments in &messages {
            for (n, fragment) in fragments.iter().enumerate() {
                let last = if n + 1 == fragments.len() { 0x80 } else { 0 };
                wire.extend(frame(last | if n == 0 { 2 } else { 0 }, fragment));
                wire.extend(frame(0x89, &fragment[..fragment.len().min(125)]));
                expected.extend_from_slice(fragment);
            }
        }
        let large = vec![0xa5; big];
        wire.extend(frame(0x82, &large));
        expected.extend_from_slice(&large);
        wire.extend(frame(0x88, b"\x03\xe8bye"));
        wire.extend_from_slice(b"what stands behind a close is not looked at");
        let mut heard = Heard::default();
        prop_assert_eq!(decode(&mut Decoder::new(false, 1 << 20), &wire, size, &mut heard), (expected, None));
        prop_assert_eq!(heard.close.as_deref(), Some(&b"\x03\xe8bye"[..]));
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_code() {
    let masked = |head: &[u8]| [head, &[1, 2, 3, 4]].concat();
    let long = |len: u64, byte| [&[0x82, byte][..], &len.to_be_bytes()[if byte == 0xfe { 6 } else { 0 }..], &[0; 4]].concat();
    for (input, takes_text, expected, code) in [
        (vec![0x82, 0x01], false, Fault::Unmasked, 1002),
        (vec![0xc2], false, Fault::ReservedBit, 1002),
        (vec![0x83], false, Fault::Opcode, 1002),
        (vec![0x8b], false, Fault::Opcode, 1002),
        (long(125, 0xfe), false, Fault::Length, 1002),
        (long(65_535, 0xff), false, Fault::Length, 1002),
        (long(1 << 63, 0xff), false, Fault::Length, 1002),
        (long(126, 0xfe).into_iter().map(|byte| if byte == 0x82 { 0x89 } else { byte }).collect(), false, Fault::Control, 1002),
        (masked(&[0x09, 0x80]), false, Fault::Control, 1002),
        (masked(&[0x80, 0x80]), false, Fault::Fragment, 1002),
        ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), false, Fault::Fragment, 1002),
        (frame(0x88, b"\x03"), false, Fault::CloseCode, 1002),
        (frame(0x88, &1005u16.to_be_bytes()), false, Fault::CloseCode, 1002),
        (frame(0x88, &999u16.to_be_bytes()), false, Fault::CloseCode, 1002),
        (frame(0x88, b"\x03\xe8\xff"), false, Fault::NotUtf8, 1007),
        (frame(0x81, b"text"), false, Fault::TextFrame, 1003),
        (frame(0x81, b"\xff"), true, Fault::NotUtf8, 1007),
        // A character that its message does not end.
        ([frame(0x01, b"\xf0\x9f"), frame(0x80, b"\x98")].concat(), true, Fault::NotUtf8, 1007),
        (long((1 << 20) + 1, 0xff), false, Fault::TooLong, 1009),
    ] {
        assert_eq!(fault(takes_text, &input), Some(expected), "{input:02x?}");
        assert_eq!(expected.code(), code);
    }
}

#[test]
fn fragments_without_end_end_at_the_limit() {
    let mut decoder = Decoder::new(false, 10_000);
    let mut heard = Heard::default();
    let mut total = 0;
    let mut first = 0x02;
    let fault = loop {
        let mut bytes = frame(first, &[7; 100]);
        first = 0;
        let (count, result) = decoder.decode(&mut bytes, &mut heard);
        total += count;
        if let Err(fault) = result {
            break fault;
        }
        assert!(total <= 10_000);
    };
    assert_eq!((fault, total), (Fault::TooLong, 10_000));
}

#[test]
fn text_may_be_cut_inside_of_a_character() {
    let text = "grüße 😀".as_bytes();
    for cut in 0..=text.len() {
        let input = [frame(0x01, &text[..cut]), frame(0x80, &text[cut..])].concat();
        for size in [1, 2, 5, 100] {
            let mut decoder = Decoder::new(true, 100);
            assert_eq!(decode(&mut decoder, &input, size, &mut Heard::default()), (text.to_vec(), None));
            assert_eq!(decoder.latest, Some(Kind::Text));
        }
    }
}

#[test]
fn what_came_before_a_fault_is_not_lost() {
    let input = [frame(0x82, b"good"), frame(0x83, b"bad")].concat();
    let (payload, fault) = decode(&mut Decoder::new(false, 100), &input, 1000, &mut Heard::default());
    assert_eq!((payload, fault), (b"good".to_vec(), Some(Fault::Opcode)));
}
