//! Nanoseconds per packet of the codec's hot paths: `cargo run --release -p mqtt --example codec`. Decoding includes splitting the block, walking
//! its frames and copying it once, as a read turn does.

use mqtt::codec::{
    encode_ack_run, frames, AckKind, Connect, Decoder, ExpiryEdit, Limits, Packet, PacketId, Peer, PropertyEdits, PropertyId, PublishOut,
    Qos, Splitter, StoredProperties, Version,
};
use std::hint::black_box;
use std::time::Instant;

const COUNT: usize = 256;
const ROUNDS: usize = 2_000;

/// The median of seven measurements, per packet.
fn measure(name: &str, mut run: impl FnMut()) {
    let mut times = [0.0; 7];
    for time in &mut times {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            run();
        }
        *time = start.elapsed().as_nanos() as f64 / (ROUNDS * COUNT) as f64;
    }
    times.sort_by(f64::total_cmp);
    println!("{name:<58} {:>7.1} ns", times[3]);
}

fn section() -> Vec<u8> {
    let mut raw = vec![2, 0, 0, 0, 60];
    raw.extend_from_slice(b"\x03\0\x10application/json");
    raw.extend_from_slice(b"\x26\0\x05trace\0\x084bf92f35\x26\0\x06tenant\0\x04acme");
    raw
}

fn main() {
    let raw = section();
    let rich = StoredProperties::scan(&raw);
    let none = StoredProperties::default();
    for (version, properties, what) in
        [(Version::V311, none, "3.1.1"), (Version::V5, none, "5.0"), (Version::V5, rich, "5.0, 4 properties")]
    {
        for size in [16, 1024] {
            publish(version, properties, what, size);
        }
    }
    acks();
}

fn publish(version: Version, properties: StoredProperties<'_>, what: &str, size: usize) {
    let payload = vec![b'x'; size];
    let topic = b"plant/line-4/press/temperature";
    let out =
        PublishOut { qos: Qos::AtLeastOnce, packet_id: PacketId::new(7), topic, properties, payload: &payload, ..PublishOut::default() };
    let mut block = Vec::new();
    for _ in 0..COUNT {
        out.encode(version, u32::MAX, &mut block).expect("encodes");
    }
    let mut splitter = Splitter::of_client(Limits::default());
    let mut connect = Vec::new();
    Packet::Connect(Box::new(Connect::new(version, "bench"))).encode(version, &mut connect).expect("encodes");
    splitter.split(&connect);
    let decoder = Decoder::new(version, Peer::Client);
    let mut copy = Vec::with_capacity(block.len());
    measure(&format!("{what}, QoS 1, {size} B: split, copy, decode"), || {
        let split = splitter.split(black_box(&block));
        copy.clear();
        copy.extend_from_slice(&block[..split.whole]);
        for frame in frames(&copy) {
            black_box(decoder.publish(&copy, frame).expect("decodes"));
        }
    });
    let mut bytes = Vec::with_capacity(block.len() + 4096);
    measure(&format!("{what}, QoS 1, {size} B: encode"), || {
        bytes.clear();
        for _ in 0..COUNT {
            black_box(&out).encode(version, u32::MAX, &mut bytes).expect("encodes");
        }
    });
    if properties.present.has(PropertyId::MessageExpiryInterval) {
        let edits = PropertyEdits { expiry: ExpiryEdit::Set(30), subscription_ids: &[5], ..PropertyEdits::default() };
        let edited = PublishOut { edits, ..out };
        measure(&format!("{what}, QoS 1, {size} B: encode with new expiry and an id"), || {
            bytes.clear();
            for _ in 0..COUNT {
                black_box(&edited).encode(version, u32::MAX, &mut bytes).expect("encodes");
            }
        });
    }
}

fn acks() {
    let ids = || (1..=COUNT as u16).filter_map(PacketId::new);
    let mut block = Vec::new();
    encode_ack_run(AckKind::PubAck, ids(), &mut block);
    let decoder = Decoder::new(Version::V5, Peer::Client);
    measure("PUBACK: decode", || {
        for frame in frames(black_box(&block)) {
            black_box(decoder.ack(&block, frame, AckKind::PubAck).expect("decodes"));
        }
    });
    let mut bytes = Vec::with_capacity(block.len());
    measure("PUBACK: encode a run", || {
        bytes.clear();
        encode_ack_run(AckKind::PubAck, black_box(ids()), &mut bytes);
    });
}
