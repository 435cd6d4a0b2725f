//! The bodies of the fuzz targets in `fuzz/`, as plain functions, so that an ordinary test replays the corpus. Each states what must hold
//! for any bytes, besides not panicking.

use super::props::{self, Content, Property, PropertyId};
use super::{
    frames, topic, DecodeError, Decoder, Filter, Limits, Packet, Peer, PropertyEdits, PublishOut, PublishView, Split, Splitter, Version,
};

/// A stream of bytes split in one go and in pieces gives the same frames and the same error. The first byte chooses the piece size and the
/// side, the second the packet size.
pub fn fuzz_split(data: &[u8]) {
    let [choice, max, stream @ ..] = data else { return };
    let limits = Limits { packet_max: 2 + u32::from(*max) * 8, connect_max: 2 + u32::from(*max) * 4 };
    let fresh = || match choice & 0b11 {
        0 | 1 => Splitter::of_client(limits),
        2 => Splitter::of_server(Version::V311, limits.packet_max),
        _ => Splitter::of_server(Version::V5, limits.packet_max),
    };
    let whole = fresh().split(stream);
    assert!(whole.whole <= stream.len());
    assert_eq!(whole.lacks == 0, whole.error.is_some());
    assert_eq!(frames(&stream[..whole.whole]).count(), whole.frames);

    let size = 1 + usize::from(choice >> 2);
    let mut splitter = fresh();
    let mut total = Split::default();
    let mut end = 0;
    while end < stream.len() && total.error.is_none() {
        end = (end + size).min(stream.len());
        let split = splitter.split(&stream[total.whole..end]);
        total = Split { whole: total.whole + split.whole, frames: total.frames + split.frames, ..split };
    }
    if !stream.is_empty() {
        assert_eq!(total, whole);
    }
}

/// Packets of 3.1 and 3.1.1.
pub fn fuzz_packet_v3(data: &[u8]) {
    check_packets(data, Version::V31);
    check_packets(data, Version::V311);
}

/// Packets of 5.0.
pub fn fuzz_packet_v5(data: &[u8]) {
    check_packets(data, Version::V5);
}

/// What decodes can be written, reads back as the same packet, and a second writing gives the same bytes.
pub(super) fn check_packets(data: &[u8], version: Version) {
    for from in [Peer::Client, Peer::Server] {
        let decoder = Decoder::new(version, from);
        for frame in frames(data) {
            if version.is_v5() {
                check_property_readers(frame.body_of(data), from);
            }
            let Ok(packet) = decoder.packet(data, frame) else { continue };
            // A CONNECT says its own version.
            let (decoder, version) = match &packet {
                Packet::Connect(connect) => (Decoder { version: connect.version, ..decoder }, connect.version),
                _ => (decoder, version),
            };
            let once = write(&packet, version);
            let frame = frames(&once).next().expect("a whole frame");
            assert_eq!(frame.size(), once.len());
            let again = decoder.packet(&once, frame).expect("reads what was written");
            assert_same(&packet, &again);
            assert_eq!(write(&again, version), once);
        }
    }
}

fn write(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    match packet {
        Packet::Publish(view) => {
            let subscription_ids: Vec<u32> = props::subscription_ids(view.properties.raw).collect();
            let edits =
                PropertyEdits { topic_alias: view.properties.topic_alias, subscription_ids: &subscription_ids, ..Default::default() };
            let publish = PublishOut { edits, ..PublishOut::from(*view) };
            let total = publish.encode(version, u32::MAX, &mut out).expect("a packet that came in can go out");
            assert_eq!(total, out.len());
            assert_eq!(publish.encoded_len(version), Ok(total));
            assert!(publish.encode(version, total as u32 - 1, &mut Vec::new()).is_err());
        }
        packet => packet.encode(version, &mut out).expect("a packet that came in can go out"),
    }
    out
}

fn assert_same(one: &Packet<'_>, two: &Packet<'_>) {
    match (one, two) {
        (Packet::Publish(one), Packet::Publish(two)) => assert_same_publish(one, two),
        (Packet::Ack(one), Packet::Ack(two)) => {
            assert_eq!((one.kind, one.packet_id, one.reason), (two.kind, two.packet_id, two.reason));
            assert_eq!(one.properties(), two.properties());
        }
        (one, two) => assert_eq!(one, two),
    }
}

fn assert_same_publish(one: &PublishView<'_>, two: &PublishView<'_>) {
    let head = |view: &PublishView<'_>| (view.qos, view.dup, view.retain, view.packet_id);
    assert_eq!(head(one), head(two));
    assert_eq!((one.topic, one.payload, one.properties.present), (two.topic, two.payload, two.properties.present));
    assert_eq!(one.properties.topic_alias, two.properties.topic_alias);
    let forwarded = |raw| {
        let own = [PropertyId::TopicAlias, PropertyId::SubscriptionIdentifier];
        props::iter(raw).filter(move |property: &Property<'_>| !own.contains(&property.id))
    };
    assert!(forwarded(one.properties.raw).eq(forwarded(two.properties.raw)));
    assert!(props::subscription_ids(one.properties.raw).eq(props::subscription_ids(two.properties.raw)));
}

/// The table-driven reader of properties and the one written out for PUBLISH agree on any bytes.
fn check_property_readers(raw: &[u8], from: Peer) {
    use super::{Place, PublishProperties};
    let place = if from == Peer::Client { Place::PublishOfClient } else { Place::PublishOfServer };
    let (table, hot) = (props::check(raw, place), PublishProperties::parse(raw, from));
    match (table, hot) {
        (Ok(present), Ok(hot)) => {
            assert_eq!(present, hot.present);
            for Property { id, content } in props::iter(raw) {
                match (id, content) {
                    (PropertyId::MessageExpiryInterval, Content::Four(secs)) => assert_eq!(hot.expiry_secs, Some(secs)),
                    (PropertyId::TopicAlias, Content::Two(alias)) => assert_eq!(hot.topic_alias.map(u16::from), Some(alias)),
                    (PropertyId::ContentType, Content::Text(text)) => assert_eq!(hot.content_type, Some(text)),
                    (PropertyId::ResponseTopic, Content::Text(text)) => assert_eq!(hot.response_topic, Some(text)),
                    (PropertyId::CorrelationData, Content::Binary(data)) => assert_eq!(hot.correlation_data, Some(data)),
                    (PropertyId::PayloadFormatIndicator, Content::Byte(byte)) => assert_eq!(hot.payload_is_text, byte == 1),
                    _ => {}
                }
            }
        }
        (Err(_), Err(_)) => {}
        (table, hot) => panic!("the readers disagree on {raw:02x?}: {table:?}, {hot:?}"),
    }
}

/// Topic names, filters and matching against plainer readings of the rules. A line feed parts a filter from a name.
pub fn fuzz_topic(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (left, right) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    for name in [left, right] {
        check_topic_name(name);
    }
    let Ok(text) = std::str::from_utf8(left) else { return };
    let Ok(filter) = Filter::parse(text) else { return };
    assert_eq!(filter.segments().count(), filter.levels());
    match filter.share {
        Some(share) => assert_eq!(text, format!("$share/{share}/{}", filter.filter)),
        None => assert_eq!(text, filter.filter),
    }
    let levels: Vec<&str> = filter.filter.split('/').collect();
    for (at, level) in levels.iter().enumerate() {
        assert!(!level.contains('+') || *level == "+");
        assert!(!level.contains('#') || (*level == "#" && at + 1 == levels.len()));
    }
    if let (Ok(name), Ok(())) = (std::str::from_utf8(right), topic::check_name(right, None)) {
        assert_eq!(filter.matches(name), matches_plainly(&levels, &name.split('/').collect::<Vec<_>>()));
    }
}

fn check_topic_name(name: &[u8]) {
    let expected = match std::str::from_utf8(name) {
        _ if name.is_empty() => Err(DecodeError::TopicEmpty),
        Err(_) => Err(DecodeError::NotUtf8),
        Ok(text) if text.contains('\0') => Err(DecodeError::NulCharacter),
        Ok(text) if text.contains(['+', '#']) => Err(DecodeError::TopicWildcard),
        Ok(text) if text.split('/').count() > 200 => Err(DecodeError::TopicLevels),
        Ok(_) => Ok(()),
    };
    assert_eq!(topic::check_name(name, Some(topic::LEVELS_MAX)), expected);
}

fn matches_plainly(filter: &[&str], name: &[&str]) -> bool {
    let hidden = name.first().is_some_and(|level| level.starts_with('$')) && matches!(filter.first(), Some(&"+") | Some(&"#"));
    !hidden && rest_matches(filter, name)
}

fn rest_matches(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) => true,
        (["+", filter @ ..], [_, name @ ..]) => rest_matches(filter, name),
        ([level, filter @ ..], [same, name @ ..]) if level == same => rest_matches(filter, name),
        ([], []) => true,
        _ => false,
    }
}
