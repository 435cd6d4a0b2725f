//! MQTT's words on one side, the core's on the other. No other file of this crate knows both, but for `foreign`, which has the properties.
//!
//! What outlives a connection stands in the session's state map, under these keys (the high half says what, the low half is the packet
//! identifier):
//!
//! ```text
//!   1 << 32 | id   a QoS 2 publish of the client has been taken, its PUBREL has not come      value: 1
//!   2 << 32 | id   a QoS 2 delivery is under way under this id                                 value: phase, queue, seq
//!   3 << 32 | id   a QoS 1 delivery was under way when the connection ended                    value: phase, queue, seq
//! ```

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use broker_api::spelling::topic_of_key;
use broker_api::{
    view_of, Attach, Batch, ConsumerIx, Expiry, Filter, GroupIx, Head, Login, LoginStep, OwnerIx, Parting, QueueId, RetainedOn, Seq,
    SessionName, Span, StateEdit, StateValue, VhostName, Views, HEAD_CONFIRM, HEAD_DURABLE, HEAD_MANDATORY, HEAD_RETAIN, HEAD_VERBATIM,
};

use crate::codec::{
    self, Connect, PacketId, PropertyId, PropertySet, PublishView, Qos, RetainHandling, StoredProperties, SubscribeFilter,
    SubscribeProperties, Version, Will,
};
use crate::foreign;

/// `Head::format` of publishes from 3.1 and 3.1.1: no properties.
pub const FORMAT_V3: u8 = broker_api::FORMAT_PLAIN;
/// `Head::format` of publishes from 5.0: `origin` is the property section without its length.
pub const FORMAT_V5: u8 = 2;

/// A connection has one session, one consumer of it and one window.
pub(crate) const OWNER: OwnerIx = OwnerIx(1);
pub(crate) const CONSUMER: ConsumerIx = ConsumerIx(1);
pub(crate) const WINDOW: GroupIx = GroupIx(1);

const SEPARATOR: u8 = b'/';

pub(crate) fn format_of(version: Version) -> u8 {
    if version.is_v5() {
        FORMAT_V5
    } else {
        FORMAT_V3
    }
}

pub(crate) fn qos_of_level(level: u8) -> Qos {
    match level {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    }
}

// --- Publishes in -----------------------------------------------------------------------------------------------------------------

/// A publish as the core wants it. `key` is the topic, in the block or, if an alias stood for it, in the arena.
#[inline]
pub(crate) fn head(view: &PublishView<'_>, version: Version, key: Span, now_ms: u64) -> Head {
    let mut flags = match view.qos {
        Qos::AtMostOnce => 0,
        // Only v5 can say "no matching subscribers" (MQTT 5.0, 3.4.2.1).
        _ if version.is_v5() => HEAD_DURABLE | HEAD_CONFIRM | HEAD_MANDATORY,
        _ => HEAD_DURABLE | HEAD_CONFIRM,
    };
    if view.retain {
        flags |= HEAD_RETAIN;
    }
    if view.qos == Qos::AtMostOnce && !view.retain && !view.dup && !view.properties.present.meets(NOT_VERBATIM) {
        flags |= HEAD_VERBATIM;
    }
    let properties = view.properties.raw.len();
    let origin = if properties == 0 { Span::EMPTY } else { Span::block(view.properties_at, properties) };
    let expires_ms = view.properties.expiry_secs.map_or(0, |secs| now_ms + u64::from(secs) * 1000);
    Head {
        key,
        origin,
        body: Span::block(view.payload_at, view.payload.len()),
        expires_ms,
        owner: OWNER.0,
        flags,
        level: view.qos as u8,
        format: format_of(version),
        separator: SEPARATOR,
        topic: true,
        ..Head::default()
    }
}

/// What belongs to one connection, or changes with time, cannot be passed on as it came.
const NOT_VERBATIM: PropertySet = PropertySet::of(&[PropertyId::TopicAlias, PropertyId::MessageExpiryInterval]);

/// Where the whole frame of a `HEAD_VERBATIM` publish lies in its block: QoS 0, so that what stands before the topic is its length, the
/// remaining length in its shortest form (MQTT-1.5.5-1) and the first byte.
#[inline]
pub(crate) fn verbatim_frame(head: &Head) -> Range<usize> {
    let end = head.body.end();
    let body = head.key.offset() - 2;
    let length = match end - body {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    };
    body - 1 - length..end
}

// --- Deliveries out ---------------------------------------------------------------------------------------------------------------

/// The topic name of a message, from whichever protocol. `None` if MQTT cannot say it.
pub(crate) fn topic<'a>(batch: &'a Batch, head: &Head) -> Option<Cow<'a, [u8]>> {
    let key = batch.key(head);
    if head.separator == SEPARATOR {
        return Some(Cow::Borrowed(key));
    }
    foreign_topic(key).map(Cow::Owned)
}

fn foreign_topic(key: &[u8]) -> Option<Vec<u8>> {
    let topic = topic_of_key(key);
    codec::topic::check_name(&topic, None).ok()?;
    (topic.len() <= usize::from(u16::MAX)).then_some(topic)
}

/// The properties to pass on: ours as they came, others' converted into `converted`.
#[inline]
pub(crate) fn properties<'a>(batch: &'a Batch, head: &Head, views: &Views, converted: &'a mut Vec<u8>) -> StoredProperties<'a> {
    match head.format {
        _ if head.origin.is_empty() => StoredProperties::default(),
        FORMAT_V5 => StoredProperties::scan(batch.bytes(head.origin)),
        FORMAT_V3 => StoredProperties::default(),
        format => {
            if let Some(view) = view_of(views, format) {
                *converted = foreign::properties(&view.neutral(batch.bytes(head.origin)));
            }
            StoredProperties::scan(converted)
        }
    }
}

// --- Sessions ---------------------------------------------------------------------------------------------------------------------

/// `VHOST:USER` names both, as in RabbitMQ's plug-in; the last colon counts.
fn vhost_and_user(name: &str) -> Option<(VhostName, &str)> {
    name.rsplit_once(':').map(|(vhost, user)| (VhostName::new(vhost), user))
}

/// The user name may name a virtual host, too. `None`: this one does not.
pub(crate) fn login_elsewhere(connect: &Connect, identified: bool) -> Option<Login> {
    let properties = &connect.properties;
    let name = connect.user_name.as_deref().filter(|_| properties.authentication_method.is_none())?;
    if identified && connect.password.is_none() {
        return None;
    }
    let (vhost, user) = vhost_and_user(name)?;
    let step = LoginStep::Password { user: user.to_owned(), password: connect.password.clone().unwrap_or_default() };
    Some(Login { vhost: Some(vhost), step })
}

/// Where the listener leads. `identified`: the transport has proven who it is. A name without a password is then only what the client calls itself.
pub(crate) fn login(connect: &Connect, identified: bool) -> Login {
    let properties = &connect.properties;
    let step = match (&properties.authentication_method, &connect.user_name, &connect.password) {
        (Some(mechanism), _, _) => {
            LoginStep::Sasl { mechanism: mechanism.clone(), initial: properties.authentication_data.clone().unwrap_or_default() }
        }
        (None, _, None) if identified => LoginStep::Sasl { mechanism: "EXTERNAL".to_owned(), initial: Vec::new() },
        (None, None, None) => LoginStep::Anonymous,
        (None, user, password) => {
            LoginStep::Password { user: user.clone().unwrap_or_default(), password: password.clone().unwrap_or_default() }
        }
    };
    Login { vhost: None, step }
}

/// A step of a SASL exchange in AUTH packets.
pub(crate) fn sasl(step: LoginStep) -> Login {
    Login { vhost: None, step }
}

/// MQTT 5.0, 3.1.2.11.2, and what Clean Session meant before (features of 3.1.1, 3.1.2.4).
pub(crate) fn expiry(connect: &Connect, longest_secs: Option<u32>) -> Expiry {
    let asked = match connect.version {
        Version::V5 => connect.properties.session_expiry_secs.unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => u32::MAX,
    };
    expiry_of_secs(asked, longest_secs)
}

pub(crate) fn expiry_of_secs(secs: u32, longest_secs: Option<u32>) -> Expiry {
    match secs.min(longest_secs.unwrap_or(u32::MAX)) {
        0 => Expiry::WithConnection,
        u32::MAX => Expiry::Never,
        secs => Expiry::Seconds(secs),
    }
}

pub(crate) fn secs_of_expiry(expiry: Expiry) -> u32 {
    match expiry {
        Expiry::WithConnection => 0,
        Expiry::Seconds(secs) => secs,
        Expiry::Never => u32::MAX,
    }
}

pub(crate) fn attach(connect: &Connect, client_id: &str, expiry: Expiry, window_bytes: Option<NonZeroU64>) -> Attach {
    Attach {
        owner: OWNER,
        session: SessionName::new(client_id),
        consumer: CONSUMER,
        group: WINDOW,
        window_bytes,
        clean: connect.clean_start,
        expiry,
        parting: connect.will.as_ref().map(|will| parting(will, connect.version)),
    }
}

fn parting(will: &Will, version: Version) -> Parting {
    let mut block = Vec::with_capacity(will.topic.len() + will.properties.len() + will.payload.len());
    let mut put = |bytes: &[u8]| {
        let at = block.len();
        block.extend_from_slice(bytes);
        Span::block(at, bytes.len())
    };
    let key = put(will.topic.as_bytes());
    let origin = if will.properties.is_empty() { Span::EMPTY } else { put(&will.properties) };
    let body = put(&will.payload);
    let flags = if will.qos == Qos::AtMostOnce { 0 } else { HEAD_DURABLE } | if will.retain { HEAD_RETAIN } else { 0 };
    let head = Head {
        key,
        origin,
        body,
        // Relative until it fires: the interval counts from the publication (MQTT 5.0, 3.1.3.2.4).
        expires_ms: will.publish_properties().expiry_secs.map_or(0, |secs| u64::from(secs) * 1000),
        owner: OWNER.0,
        flags,
        level: will.qos as u8,
        format: format_of(version),
        separator: SEPARATOR,
        topic: true,
        ..Head::default()
    };
    let message = Batch { block: block.into(), heads: vec![head], ..Batch::default() };
    Parting { message: Arc::new(message), delay_secs: will.delay_secs }
}

/// The user property of a SUBSCRIBE that names a selector for all of its filters.
const SELECTOR: &str = "x-selector";

/// The first one counts.
pub(crate) fn selector(properties: &SubscribeProperties) -> Option<&str> {
    properties.user.iter().find(|(name, _)| name == SELECTOR).map(|(_, value)| value.as_str())
}

pub(crate) fn subscribe(
    asked: &SubscribeFilter,
    identifier: u32,
    selector: Option<&str>,
    most: Qos,
    bridge: bool,
) -> Option<broker_api::Subscribe> {
    let filter = codec::Filter::parse(&asked.filter).ok()?;
    let options = asked.options;
    let retained = match options.retain_handling {
        // MQTT 5.0, 4.8.2: a shared subscription is sent no retained messages.
        _ if filter.is_shared() => RetainedOn::Never,
        RetainHandling::Send => RetainedOn::Always,
        RetainHandling::SendIfNew => RetainedOn::IfNew,
        RetainHandling::Never => RetainedOn::Never,
    };
    Some(broker_api::Subscribe {
        owner: OWNER,
        filter: plain_filter(filter),
        share: filter.share.map(Box::from),
        level: options.qos.min(most) as u8,
        identifier,
        // Mosquitto's mark for a bridge stands for what v5 says with these two options.
        no_local: options.no_local || bridge && !filter.is_shared(),
        as_published: options.retain_as_published || bridge,
        retained,
        selector: selector.map(Box::from),
    })
}

pub(crate) fn plain_filter(filter: codec::Filter<'_>) -> Filter {
    Filter { pattern: Box::from(filter.filter), separator: SEPARATOR }
}

// --- The state map ----------------------------------------------------------------------------------------------------------------

const INCOMING: u64 = 1 << 32;
const OUTGOING_QOS2: u64 = 2 << 32;
const OUTGOING_QOS1: u64 = 3 << 32;

/// How far an outgoing delivery had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Qos1Sent,
    Qos2Sent,
    /// PUBREC has come: only PUBREL may be sent from here on.
    Qos2Released,
}

/// One entry of the state map, read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    Incoming(PacketId),
    Outgoing { id: PacketId, kept: Kept, queue: QueueId, seq: Seq },
}

pub(crate) fn put_incoming(id: PacketId) -> StateEdit {
    edit(INCOMING | u64::from(id.get()), Some(StateValue::from_slice(&[1])), None)
}

pub(crate) fn drop_incoming(id: PacketId) -> StateEdit {
    edit(INCOMING | u64::from(id.get()), None, None)
}

pub(crate) fn put_outgoing(id: PacketId, kept: Kept, queue: QueueId, seq: Seq) -> StateEdit {
    let mut value = [0u8; 17];
    value[0] = kept as u8;
    value[1..9].copy_from_slice(&queue.0.to_be_bytes());
    value[9..].copy_from_slice(&seq.0.to_be_bytes());
    // A released delivery is settled; its key holds no lease.
    let lease = (kept != Kept::Qos2Released).then_some((queue, seq));
    edit(outgoing_key(id, kept), Some(StateValue::from_slice(&value)), lease)
}

pub(crate) fn drop_outgoing(id: PacketId, kept: Kept) -> StateEdit {
    edit(outgoing_key(id, kept), None, None)
}

fn outgoing_key(id: PacketId, kept: Kept) -> u64 {
    let kind = if kept == Kept::Qos1Sent { OUTGOING_QOS1 } else { OUTGOING_QOS2 };
    kind | u64::from(id.get())
}

fn edit(key: u64, value: Option<StateValue>, lease: Option<(QueueId, Seq)>) -> StateEdit {
    StateEdit { owner: OWNER, key, value, lease }
}

/// `None` for what this version did not write.
pub(crate) fn read_state(key: u64, value: &[u8]) -> Option<Remembered> {
    let id = PacketId::new(u16::try_from(key & 0xFFFF_FFFF).ok()?)?;
    let kind = key & !0xFFFF_FFFF;
    if kind == INCOMING {
        return Some(Remembered::Incoming(id));
    }
    let (phase, lease) = value.split_first()?;
    let queue = QueueId(u64::from_be_bytes(lease.get(..8)?.try_into().ok()?));
    let seq = Seq(u64::from_be_bytes(lease.get(8..16)?.try_into().ok()?));
    let kept = match (kind, *phase) {
        (OUTGOING_QOS1, 0) => Kept::Qos1Sent,
        (OUTGOING_QOS2, 1) => Kept::Qos2Sent,
        (OUTGOING_QOS2, 2) => Kept::Qos2Released,
        _ => return None,
    };
    Some(Remembered::Outgoing { id, kept, queue, seq })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{frames, Decoder, Peer};

    fn read(version: Version, bytes: &[u8]) -> (Head, Vec<u8>) {
        let frame = frames(bytes).next().expect("whole");
        let view = Decoder::new(version, Peer::Client).publish(bytes, frame).expect("valid");
        let key = Span::block(view.topic_at, view.topic.len());
        (head(&view, version, key, 1_000), bytes.to_vec())
    }

    #[test]
    fn a_verbatim_frame_is_found_again_at_every_length() {
        for payload in [0usize, 1, 124, 125, 126, 200, 16_379, 16_380, 16_381, 70_000, 2_097_147, 2_097_148] {
            for version in [Version::V311, Version::V5] {
                let mut bytes = vec![0xAA; 7];
                let body = vec![b'x'; payload];
                let out = codec::PublishOut { topic: b"a/b", payload: &body, ..Default::default() };
                out.encode(version, u32::MAX, &mut bytes).unwrap();
                let (mut head, frame) = read(version, &bytes[7..]);
                assert!(head.has(HEAD_VERBATIM));
                assert_eq!(verbatim_frame(&head), 0..frame.len(), "{payload} {version:?}");
                // The same inside a larger block.
                head.key = Span::block(head.key.offset() + 7, 3);
                head.body = Span::block(head.body.offset() + 7, payload);
                assert_eq!(verbatim_frame(&head), 7..bytes.len());
            }
        }
    }

    #[test]
    fn what_belongs_to_the_connection_or_the_clock_is_not_verbatim() {
        let v5: [&[u8]; 4] = [
            b"\x30\x08\x00\x01a\x03\x23\x00\x01x",         // topic alias
            b"\x30\x0a\x00\x01a\x05\x02\x00\x00\x00\x09x", // expiry
            b"\x31\x05\x00\x01a\x00x",                     // retain
            b"\x32\x07\x00\x01a\x00\x07\x00x",             // QoS 1
        ];
        for bytes in v5 {
            assert!(!read(Version::V5, bytes).0.has(HEAD_VERBATIM), "{bytes:?}");
        }
        assert!(read(Version::V5, b"\x30\x07\x00\x01a\x02\x01\x00x").0.has(HEAD_VERBATIM));
        let (expiring, _) = read(Version::V5, v5[1]);
        assert_eq!(expiring.expires_ms, 1_000 + 9_000);
        let (confirmed, _) = read(Version::V5, v5[3]);
        assert_eq!(confirmed.flags, HEAD_DURABLE | HEAD_CONFIRM | HEAD_MANDATORY);
        let (v3, _) = read(Version::V311, b"\x32\x06\x00\x01a\x00\x07x");
        assert_eq!((v3.flags, v3.level, v3.format, v3.topic), (HEAD_DURABLE | HEAD_CONFIRM, 1, FORMAT_V3, true));
    }

    #[test]
    fn the_state_map_reads_what_it_wrote() {
        let id = PacketId::new(0xABCD).unwrap();
        let (queue, seq) = (QueueId(7 << 40), Seq::new(3, 99));
        for kept in [Kept::Qos1Sent, Kept::Qos2Sent, Kept::Qos2Released] {
            let edit = put_outgoing(id, kept, queue, seq);
            assert_eq!(edit.lease.is_none(), kept == Kept::Qos2Released);
            assert_eq!(edit.key, drop_outgoing(id, kept).key);
            let value = edit.value.unwrap();
            assert!(!value.spilled(), "a value that allocates");
            assert_eq!(read_state(edit.key, &value), Some(Remembered::Outgoing { id, kept, queue, seq }));
            assert_eq!(read_state(edit.key, &value[..16]), None);
        }
        let edit = put_incoming(id);
        assert_eq!(read_state(edit.key, &edit.value.unwrap()), Some(Remembered::Incoming(id)));
        for (key, value) in
            [(1 << 32, &[1u8][..]), (9 << 32 | 5, &[0; 17]), (2 << 32 | 5, &[]), (2 << 32 | 5, &[7; 17]), (3 << 32 | 1 << 20, &[0; 17])]
        {
            assert_eq!(read_state(key, value), None, "{key:x}");
        }
    }

    #[test]
    fn foreign_keys_become_topics_or_nothing() {
        let topic = |key: &[u8]| foreign_topic(key).map(|topic| String::from_utf8(topic).unwrap());
        assert_eq!(topic(b"a.b").as_deref(), Some("a/b"));
        assert_eq!(topic(b"a/b.c").as_deref(), Some("a%2Fb/c"));
        assert_eq!(topic(b"a.#.+").as_deref(), Some("a/%23/%2B"));
        assert_eq!(topic(b"a.b%2Ec").as_deref(), Some("a/b.c"));
        assert_eq!(topic(b""), None);
        assert_eq!(topic(b"\xff"), None);
        assert_eq!(topic(b"a\0"), None);
    }

    #[test]
    fn expiry_by_version_and_cap() {
        let mut connect = Connect::new(Version::V311, "c");
        assert_eq!(expiry(&connect, None), Expiry::WithConnection);
        connect.clean_start = false;
        assert_eq!(expiry(&connect, None), Expiry::Never);
        assert_eq!(expiry(&connect, Some(60)), Expiry::Seconds(60));
        connect.version = Version::V5;
        assert_eq!(expiry(&connect, None), Expiry::WithConnection);
        connect.properties.session_expiry_secs = Some(30);
        assert_eq!(expiry(&connect, Some(60)), Expiry::Seconds(30));
        connect.properties.session_expiry_secs = Some(u32::MAX);
        assert_eq!(expiry(&connect, None), Expiry::Never);
    }
}
