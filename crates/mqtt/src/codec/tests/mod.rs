//! Tests over all packets. `corpus` makes a broad set of them; the others each ask one question of it.

mod conformance;
mod corpus;
mod cuts;
mod faults;
mod oracle;
mod publish;
mod replay;
mod roundtrip;

use super::*;

/// The one packet in `bytes`, through the same door as the session's.
fn decode(bytes: &[u8], version: Version, from: Peer) -> Result<Packet<'_>, DecodeError> {
    let mut all = frames(bytes);
    let frame = all.next().expect("a whole frame");
    assert_eq!(frame.range(), 0..bytes.len(), "exactly one frame");
    Decoder::new(version, from).packet(bytes, frame)
}

fn encode(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = vec![0xEE];
    packet.encode(version, &mut out).expect("the packet can be written");
    assert_eq!(out.remove(0), 0xEE, "only appends");
    out
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not zero")
}
