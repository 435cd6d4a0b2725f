//! Packets made at random: written, read back, the same.

use super::*;
use crate::codec::auth::AuthProperties;
use crate::codec::props::SubscriptionId;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use std::num::NonZeroU16;

fn version() -> impl Strategy<Value = Version> {
    select(&Version::ALL[..])
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,20}", "[^\\x00]{0,12}"]
}

fn topic_name() -> impl Strategy<Value = String> {
    "[^\\x00+#]{1,20}"
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![Just("+".to_owned()), "[^\\x00+#/$]{0,5}"];
    (of("[a-z]{1,5}"), vec(level, 1..5), any::<bool>()).prop_map(|(share, levels, hash)| {
        let filter = format!("{}{}", levels.join("/"), if hash { "/#" } else { "" });
        match share {
            Some(share) if !filter.is_empty() => format!("$share/{share}/{filter}"),
            _ if filter.is_empty() => "a".to_owned(),
            _ => filter,
        }
    })
}

fn user() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((text(), text()), 0..4)
}

fn qos() -> impl Strategy<Value = Qos> {
    select(&[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][..])
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(id)
}

fn reason(place: ReasonPlace) -> impl Strategy<Value = ReasonCode> {
    let all: Vec<_> = ReasonCode::ALL.iter().copied().filter(|code| code.allowed_in(place)).collect();
    select(all)
}

fn binary() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

/// A checked section of a PUBLISH without what belongs to a connection.
fn message_section() -> impl Strategy<Value = Vec<u8>> {
    (of(0..2u8), of(any::<u32>()), of(text()), of(topic_name()), of(binary()), user()).prop_map(
        |(format, expiry, content_type, response, correlation, user)| {
            let mut raw = Vec::new();
            let field = |raw: &mut Vec<u8>, id: u8, bytes: &[u8]| {
                raw.push(id);
                wire::put_field(raw, bytes).unwrap();
            };
            if let Some(format) = format {
                raw.extend_from_slice(&[1, format]);
            }
            for (name, value) in &user {
                props::put_user(&mut raw, name.as_bytes(), value.as_bytes()).unwrap();
            }
            if let Some(expiry) = expiry {
                raw.push(2);
                wire::put_u32(&mut raw, expiry);
            }
            if let Some(text) = content_type {
                field(&mut raw, 3, text.as_bytes());
            }
            if let Some(topic) = response {
                field(&mut raw, 8, topic.as_bytes());
            }
            if let Some(data) = correlation {
                field(&mut raw, 9, &data);
            }
            raw
        },
    )
}

fn will() -> impl Strategy<Value = Will> {
    (topic_name(), binary(), qos(), any::<bool>(), any::<u32>(), message_section())
        .prop_map(|(topic, payload, qos, retain, delay_secs, properties)| Will { topic, payload, qos, retain, delay_secs, properties })
}

prop_compose! {
    fn connect_properties()(
        numbers in (of(any::<u32>()), of(1..=u16::MAX), of(1..=u32::MAX), of(any::<u16>())),
        flags in (of(any::<bool>()), of(any::<bool>())),
        auth in of((text(), of(binary()))),
        user in user(),
    ) -> ConnectProperties {
        ConnectProperties {
            session_expiry_secs: numbers.0,
            receive_maximum: numbers.1,
            maximum_packet_size: numbers.2,
            topic_alias_maximum: numbers.3,
            request_response_information: flags.0,
            request_problem_information: flags.1,
            authentication_data: auth.as_ref().and_then(|(_, data)| data.clone()),
            authentication_method: auth.map(|(method, _)| method),
            user,
        }
    }
}

prop_compose! {
    fn connect()(
        version in version(), bridge: bool, clean_start: bool, keep_alive_secs: u16, client_id in text(),
        user_name in of(text()), password in of(binary()), will in of(will()), properties in connect_properties(),
    ) -> Connect {
        let mut connect =
            Connect { version, bridge, clean_start, keep_alive_secs, client_id, user_name, password, will, properties };
        if !version.is_v5() {
            connect.properties = ConnectProperties::default();
            connect.password = connect.password.filter(|_| connect.user_name.is_some());
            if let Some(will) = &mut connect.will {
                will.delay_secs = 0;
                will.properties.clear();
            }
        }
        connect
    }
}

fn options() -> impl Strategy<Value = SubscribeOptions> {
    let handling = select(&[RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::Never][..]);
    (qos(), any::<bool>(), any::<bool>(), handling).prop_map(|(qos, no_local, retain_as_published, retain_handling)| SubscribeOptions {
        qos,
        no_local,
        retain_as_published,
        retain_handling,
    })
}

prop_compose! {
    fn subscribe()(
        packet_id in packet_id(), subscription_id in of(1..=VARINT_MAX), user in user(),
        filters in vec((filter(), options()), 1..5),
    ) -> Subscribe {
        let filters = filters.into_iter().map(|(filter, mut options)| {
            options.no_local &= !filter.starts_with("$share/");
            SubscribeFilter { filter, options }
        });
        let properties = SubscribeProperties { subscription_id: subscription_id.map(SubscriptionId), user };
        Subscribe { packet_id, filters: filters.collect(), properties }
    }
}

fn ack_properties() -> impl Strategy<Value = AckProperties> {
    (of(text()), user()).prop_map(|(reason_string, user)| AckProperties { reason_string, user })
}

fn same(packet: Packet<'_>, version: Version, from: Peer) -> Result<(), TestCaseError> {
    let bytes = encode(&packet, version);
    prop_assert_eq!(decode(&bytes, version, from), Ok(packet));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn connects(connect in connect()) {
        let version = connect.version;
        same(Packet::Connect(Box::new(connect)), version, Peer::Client)?;
    }

    #[test]
    fn subscribes(mut subscribe in subscribe(), version in version()) {
        if !version.is_v5() {
            subscribe.properties = SubscribeProperties::default();
            for filter in &mut subscribe.filters {
                filter.options = SubscribeOptions { qos: filter.options.qos, ..SubscribeOptions::default() };
            }
        }
        same(Packet::Subscribe(subscribe), version, Peer::Client)?;
    }

    #[test]
    fn answers(packet_id in packet_id(), subs in vec(reason(ReasonPlace::SubAck), 0..6), unsubs in vec(reason(ReasonPlace::UnsubAck), 0..6),
               properties in ack_properties(), filters in vec(filter(), 1..4)) {
        same(Packet::SubAck(SubAck { packet_id, reasons: subs, properties: properties.clone() }), Version::V5, Peer::Server)?;
        let user = properties.user.clone();
        same(Packet::UnsubAck(UnsubAck { packet_id, reasons: unsubs, properties }), Version::V5, Peer::Server)?;
        let properties = crate::codec::unsubscribe::UnsubscribeProperties { user };
        same(Packet::Unsubscribe(Unsubscribe { packet_id, filters, properties }), Version::V5, Peer::Client)?;
    }

    #[test]
    fn endings(reason in reason(ReasonPlace::Disconnect), expiry in of(any::<u32>()), reference in of(text()), text in of(text()), user in user()) {
        let properties = DisconnectProperties { session_expiry_secs: expiry, reason_string: text.clone(), server_reference: None, user: user.clone() };
        same(Packet::Disconnect(Disconnect { reason, properties }), Version::V5, Peer::Client)?;
        let properties = DisconnectProperties { session_expiry_secs: None, reason_string: text, server_reference: reference, user };
        same(Packet::Disconnect(Disconnect { reason, properties }), Version::V5, Peer::Server)?;
    }

    #[test]
    fn auths(reason in reason(ReasonPlace::Auth), method in text(), data in of(binary()), text in of(text()), user in user()) {
        let properties =
            AuthProperties { authentication_method: Some(method), authentication_data: data, reason_string: text, user };
        same(Packet::Auth(Auth { reason, properties }), Version::V5, Peer::Client)?;
    }

    #[test]
    fn acks(kind in select(&AckKind::ALL[..]), packet_id in packet_id(), error: bool, properties in ack_properties()) {
        let reason = match kind {
            _ if !error => ReasonCode::Success,
            AckKind::PubAck | AckKind::PubRec => ReasonCode::NotAuthorized,
            AckKind::PubRel | AckKind::PubComp => ReasonCode::PacketIdNotFound,
        };
        let raw = properties.raw().unwrap();
        same(Packet::Ack(AckView { kind, packet_id, reason, properties: &raw }), Version::V5, Peer::Client)?;
    }

    /// What goes in by `PublishOut` comes out as the view of the same message, in each version.
    #[test]
    fn publishes(version in version(), topic in topic_name(), payload in vec(any::<u8>(), 0..400), raw in message_section(), qos in qos(),
                 (dup, retain) in any::<(bool, bool)>(), number in packet_id(), alias in of(1..=u16::MAX), ids in vec(1..=VARINT_MAX, 0..4),
                 expiry in prop_oneof![Just(ExpiryEdit::Keep), any::<u32>().prop_map(ExpiryEdit::Set), Just(ExpiryEdit::Drop)]) {
        let edits = PropertyEdits { expiry, topic_alias: alias.and_then(NonZeroU16::new), subscription_ids: &ids };
        let packet_id = (qos != Qos::AtMostOnce).then_some(number);
        let properties = StoredProperties::scan(&raw);
        let publish = PublishOut { qos, dup, retain, packet_id, topic: topic.as_bytes(), properties, edits, payload: &payload };
        let mut bytes = Vec::new();
        prop_assert_eq!(publish.encode(version, u32::MAX, &mut bytes), Ok(bytes.len()));
        let Ok(Packet::Publish(view)) = decode(&bytes, version, Peer::Server) else { panic!("{:?}", decode(&bytes, version, Peer::Server)) };
        prop_assert_eq!((view.qos, view.dup, view.retain, view.packet_id), (qos, dup && packet_id.is_some(), retain, packet_id));
        prop_assert_eq!((view.topic, view.payload), (topic.as_bytes(), payload.as_slice()));
        prop_assert_eq!(&bytes[view.payload_at..], payload.as_slice());
        prop_assert_eq!(&bytes[view.topic_at..][..topic.len()], topic.as_bytes());
        if !version.is_v5() {
            prop_assert!(view.properties.raw.is_empty());
            return Ok(());
        }
        prop_assert_eq!(&bytes[view.properties_at..][..view.properties.raw.len()], view.properties.raw);
        let before = PublishProperties::parse(&raw, Peer::Client).unwrap();
        let expected = match expiry {
            ExpiryEdit::Keep => before.expiry_secs,
            ExpiryEdit::Set(secs) => Some(secs),
            ExpiryEdit::Drop => None,
        };
        prop_assert_eq!(view.properties.expiry_secs, expected);
        prop_assert_eq!(view.properties.topic_alias.map(u16::from), alias);
        prop_assert!(props::subscription_ids(view.properties.raw).eq(ids.iter().copied()));
        prop_assert!(props::user_properties(view.properties.raw).eq(props::user_properties(&raw)));
        prop_assert_eq!(view.properties.content_type, before.content_type);
        prop_assert_eq!(view.properties.response_topic, before.response_topic);
        prop_assert_eq!(view.properties.correlation_data, before.correlation_data);
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..80)) {
        for (_, run) in super::replay::TARGETS {
            run(&bytes);
        }
    }
}
