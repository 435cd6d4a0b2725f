//! Each packet cut at each byte, and with each bit turned.

use super::*;
use crate::codec::fuzz;

fn opened(version: Version, from: Peer) -> Splitter {
    let mut splitter = match from {
        Peer::Client => Splitter::of_client(Limits::default()),
        Peer::Server => Splitter::of_server(version, u32::MAX),
    };
    let first = match from {
        Peer::Client => encode(&Packet::Connect(Box::new(Connect::new(version, "x"))), version),
        Peer::Server => encode(&Packet::ConnAck(Box::new(ConnAck::refuse(ReasonCode::Success))), version),
    };
    let split = splitter.split(&first);
    assert_eq!((split.whole, split.frames, split.lacks, split.error), (first.len(), 1, 2, None));
    assert_eq!(splitter.version(), Some(version));
    splitter
}

/// For a CONNECT or CONNACK the splitter must be at its start, for all others behind it.
fn splitter_for(sample: &corpus::Sample) -> Splitter {
    match PacketKind::of(sample.bytes[0]) {
        PacketKind::Connect => Splitter::of_client(Limits::default()),
        PacketKind::ConnAck => Splitter::of_server(sample.version, u32::MAX),
        _ => opened(sample.version, sample.from),
    }
}

#[test]
fn a_cut_packet_lacks_bytes_and_is_no_error() {
    for sample in corpus::all() {
        for cut in 0..sample.bytes.len() {
            let mut splitter = splitter_for(&sample);
            let split = splitter.split(&sample.bytes[..cut]);
            assert_eq!((split.whole, split.error), (0, None), "{} cut at {cut}", sample.name);
            assert!(split.lacks > 0 && cut + split.lacks <= sample.bytes.len(), "{} cut at {cut}: {split:?}", sample.name);
            // Once the header is there, the answer is exact, and the rest makes it whole.
            let head = frames(&sample.bytes).next().expect("whole").body;
            if cut >= head {
                assert_eq!(cut + split.lacks, sample.bytes.len());
            }
            let split = splitter.split(&sample.bytes);
            assert_eq!((split.whole, split.frames, split.error), (sample.bytes.len(), 1, None), "{}", sample.name);
        }
    }
}

/// The bytes of a torn body are not looked at again: garbage there changes nothing until the frame is whole.
#[test]
fn a_torn_tail_is_not_rescanned() {
    let mut splitter = opened(Version::V5, Peer::Client);
    let mut bytes = vec![0x30, 0x90, 0x4E];
    bytes.resize(3 + 10_000, 0xFF);
    assert_eq!(splitter.split(&bytes[..3]).lacks, 10_000);
    bytes[0] = 0x0F;
    for cut in [4, 5000, 10_002] {
        assert_eq!(splitter.split(&bytes[..cut]), Split { lacks: 10_003 - cut, ..Split::default() });
    }
}

/// One stream of all packets of a side, in one piece and in pieces of each size from 1 to 40: the same frames.
#[test]
fn a_stream_in_pieces_gives_the_same_frames() {
    for version in Version::ALL {
        for from in [Peer::Client, Peer::Server] {
            let mut stream = Vec::new();
            let mut count = 0;
            for sample in corpus::all() {
                let first = matches!(PacketKind::of(sample.bytes[0]), PacketKind::Connect | PacketKind::ConnAck);
                if sample.version == version && sample.from == from && !first {
                    stream.extend_from_slice(&sample.bytes);
                    count += 1;
                }
            }
            let split = opened(version, from).split(&stream);
            assert_eq!((split.whole, split.frames, split.error), (stream.len(), count, None));
            assert_eq!(frames(&stream).count(), count);
            for size in 1..=40 {
                let mut splitter = opened(version, from);
                let (mut start, mut seen) = (0, 0);
                for end in (size..stream.len()).step_by(size).chain([stream.len()]) {
                    let split = splitter.split(&stream[start..end]);
                    assert_eq!(split.error, None);
                    start += split.whole;
                    seen += split.frames;
                }
                assert_eq!((start, seen), (stream.len(), count));
            }
        }
    }
}

/// A body that ends too early is an error of the packet, at each byte, and never a panic.
#[test]
fn a_shortened_body_never_panics() {
    for sample in corpus::all() {
        let frame = frames(&sample.bytes).next().expect("whole");
        for end in frame.body..frame.end {
            let short = Frame { end, ..frame };
            let result = Decoder::new(sample.version, sample.from).packet(&sample.bytes, short);
            // What carries a payload or a list up to its end may be right when cut.
            let open_ended = matches!(
                frame.kind(),
                PacketKind::Publish | PacketKind::SubAck | PacketKind::UnsubAck | PacketKind::Subscribe | PacketKind::Unsubscribe
            );
            let optional = matches!(frame.kind(), PacketKind::Disconnect | PacketKind::Auth) || AckKind::of(frame.kind()).is_some();
            let forgiven = frame.kind() == PacketKind::Connect && sample.version == Version::V31;
            if !open_ended && !optional && !forgiven {
                assert!(result.is_err(), "{} shortened to {end}", sample.name);
            }
        }
    }
}

/// Each bit of each packet turned: no panic, and what is still accepted survives being written and read again.
#[test]
fn a_turned_bit_never_panics() {
    for sample in corpus::all() {
        let mut bytes = sample.bytes.clone();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                fuzz::check_packets(&bytes, sample.version);
                splitter_for(&sample).split(&bytes);
                bytes[at] ^= 1 << bit;
            }
        }
    }
}
