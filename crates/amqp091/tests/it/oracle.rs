//! `amq-protocol` as a second opinion: every frame of ours is the same value to it, and what it writes of that value is what we wrote.

use amq_protocol::frame::{gen_frame, parse_frame, AMQPFrame};
use amqp091::codec::fuzz::Sampler;
use amqp091::codec::{put_body_frames, put_content_head, put_heartbeat, ArrayWriter, Field, Method, Properties, Table, TableWriter};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Cursor;

/// What it reads of these bytes, written by it again.
fn through(bytes: &[u8]) -> (AMQPFrame, Vec<u8>) {
    let (rest, frame) = parse_frame(bytes).expect("it reads our frame");
    assert!(rest.is_empty());
    let mut room = vec![0; bytes.len() + 64];
    let written = gen_frame(&frame)(Cursor::new(&mut room[..]).into()).expect("it writes its frame");
    let len = written.into_inner().0.position() as usize;
    room.truncate(len);
    (frame, room)
}

fn check(bytes: &[u8]) {
    let (frame, again) = through(bytes);
    assert_eq!(again, bytes, "{frame:?}");
}

/// It takes the fields that the specification calls deprecated for reserved and writes nothing there.
fn without_deprecated(method: Method<'_>) -> Method<'_> {
    match method {
        Method::ConnectionOpen { virtual_host, .. } => Method::ConnectionOpen { virtual_host, capabilities: b"", insist: false },
        Method::ChannelOpen { .. } => Method::ChannelOpen { out_of_band: b"" },
        Method::ChannelOpenOk { .. } => Method::ChannelOpenOk { channel_id: b"" },
        // A ticket is always 1 to it.
        Method::AccessRequestOk { .. } => Method::AccessRequestOk { ticket: 1 },
        Method::AccessRequest { exclusive, passive, active, write, read, .. } => {
            Method::AccessRequest { realm: b"/data", exclusive, passive, active, write, read }
        }
        Method::BasicQos { prefetch_count, global, .. } => Method::BasicQos { prefetch_size: 0, prefetch_count, global },
        other => other,
    }
}

fn simple_field() -> impl Strategy<Value = OwnedField> {
    prop_oneof![
        any::<bool>().prop_map(OwnedField::Bool),
        any::<i8>().prop_map(OwnedField::I8),
        any::<u8>().prop_map(OwnedField::U8),
        any::<i16>().prop_map(OwnedField::I16),
        any::<u16>().prop_map(OwnedField::U16),
        any::<i32>().prop_map(OwnedField::I32),
        any::<u32>().prop_map(OwnedField::U32),
        any::<i64>().prop_map(OwnedField::I64),
        any::<u32>().prop_map(|bits| OwnedField::F32(bits as f32)),
        any::<i64>().prop_map(|bits| OwnedField::F64(bits as f64)),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| OwnedField::Decimal(scale, value)),
        "[ -~]{0,20}".prop_map(OwnedField::Text),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(OwnedField::Bytes),
        any::<u64>().prop_map(OwnedField::Time),
        Just(OwnedField::Void),
    ]
}

#[derive(Clone, Debug)]
enum OwnedField {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal(u8, u32),
    Text(String),
    Bytes(Vec<u8>),
    Time(u64),
    Void,
    Array(Vec<OwnedField>),
    Table(BTreeMap<String, OwnedField>),
}

fn field() -> impl Strategy<Value = OwnedField> {
    simple_field().prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(OwnedField::Array),
            prop::collection::btree_map("[a-z]{1,8}", inner, 0..5).prop_map(OwnedField::Table),
        ]
    })
}

fn table() -> impl Strategy<Value = TableWriter> {
    prop::collection::btree_map("[a-z-]{1,12}", field(), 0..6).prop_map(|pairs| write_table(&pairs))
}

fn write_table(pairs: &BTreeMap<String, OwnedField>) -> TableWriter {
    let mut table = TableWriter::default();
    for (name, field) in pairs {
        with_field(field, &mut |field| {
            table.put(name.as_bytes(), &field);
        });
    }
    table
}

fn with_field(field: &OwnedField, each: &mut dyn FnMut(Field<'_>)) {
    match field {
        OwnedField::Bool(value) => each(Field::Bool(*value)),
        OwnedField::I8(value) => each(Field::I8(*value)),
        OwnedField::U8(value) => each(Field::U8(*value)),
        OwnedField::I16(value) => each(Field::I16(*value)),
        OwnedField::U16(value) => each(Field::U16(*value)),
        OwnedField::I32(value) => each(Field::I32(*value)),
        OwnedField::U32(value) => each(Field::U32(*value)),
        OwnedField::I64(value) => each(Field::I64(*value)),
        OwnedField::F32(value) => each(Field::F32(*value)),
        OwnedField::F64(value) => each(Field::F64(*value)),
        OwnedField::Decimal(scale, value) => each(Field::Decimal { scale: *scale, value: *value }),
        OwnedField::Text(text) => each(Field::LongStr(text.as_bytes())),
        OwnedField::Bytes(bytes) => each(Field::Bytes(bytes)),
        OwnedField::Time(secs) => each(Field::Timestamp(*secs)),
        OwnedField::Void => each(Field::Void),
        OwnedField::Array(values) => {
            let mut array = ArrayWriter::default();
            for value in values {
                with_field(value, &mut |field| {
                    array.put(&field);
                });
            }
            each(Field::Array(array.as_array()));
        }
        OwnedField::Table(pairs) => each(Field::Table(write_table(pairs).as_table())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_method_is_the_same_to_both(
        seed in any::<u64>(),
        channel in any::<u16>(),
        texts in prop::collection::vec("[ -~]{0,40}".prop_map(String::into_bytes), 1..5),
        tables in prop::collection::vec(table(), 1..3),
    ) {
        let tables: Vec<Table<'_>> = tables.iter().map(TableWriter::as_table).collect();
        let mut sampler = Sampler { texts: &texts, tables: &tables, seed };
        for method in Method::samples(&mut sampler) {
            let mut ours = Vec::new();
            method.put(channel, &mut ours);
            prop_assert_eq!(Method::parse(&ours[7..ours.len() - 1]), Ok(method));
            ours.clear();
            without_deprecated(method).put(channel, &mut ours);
            check(&ours);
        }
    }

    #[test]
    fn every_content_header_is_the_same_to_both(
        which in any::<u16>(),
        headers in table(),
        text in "[ -~]{0,60}",
        number in any::<u64>(),
        body_size in any::<u64>(),
    ) {
        let has = |bit: u16| which & 1 << bit != 0;
        let text = |bit| has(bit).then_some(text.as_bytes());
        let properties = Properties {
            content_type: text(15),
            content_encoding: text(14),
            headers: has(13).then_some(headers.as_table()),
            delivery_mode: has(12).then_some(number as u8),
            priority: has(11).then_some((number >> 8) as u8),
            correlation_id: text(10),
            reply_to: text(9),
            expiration: text(8),
            message_id: text(7),
            timestamp: has(6).then_some(number),
            kind: text(5),
            user_id: text(4),
            app_id: text(3),
            cluster_id: text(2),
        };
        let (mut raw, mut frame) = (Vec::new(), Vec::new());
        properties.put(&mut raw);
        put_content_head(&mut frame, 5, body_size, &raw);
        check(&frame);
        prop_assert_eq!(Properties::parse(&raw), Ok(properties));
    }
}

#[test]
fn bodies_and_heartbeats_are_the_same_to_both() {
    let mut bytes = Vec::new();
    put_heartbeat(&mut bytes);
    check(&bytes);
    bytes.clear();
    put_body_frames(&mut bytes, 1, &[1, 2, 3], 4096);
    check(&bytes);
    let (frame, _) = through(&bytes);
    assert_eq!(frame, AMQPFrame::Body(1, vec![1, 2, 3]));
}
