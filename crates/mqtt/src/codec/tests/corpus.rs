//! A packet of every kind, version and direction, small and with everything it may carry.

use super::*;
use crate::codec::auth::AuthProperties;
use crate::codec::props::SubscriptionId;
use crate::codec::unsubscribe::UnsubscribeProperties;

pub struct Sample {
    pub name: String,
    pub version: Version,
    pub from: Peer,
    pub bytes: Vec<u8>,
}

impl Sample {
    pub fn decode(&self) -> Packet<'_> {
        decode(&self.bytes, self.version, self.from).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Every sample; about 200.
pub fn all() -> Vec<Sample> {
    let mut samples = Vec::new();
    for version in Version::ALL {
        for from in [Peer::Client, Peer::Server] {
            let mut add = |name: &str, packet: Packet<'_>| {
                let name = format!("{}-{}-{name}", version.name().replace(' ', ""), if from == Peer::Client { "c" } else { "s" });
                samples.push(Sample { name, version, from, bytes: encode(&packet, version) });
            };
            match from {
                Peer::Client => of_client(version, &mut add),
                Peer::Server => of_server(version, &mut add),
            }
            of_both(version, from, &mut add);
            publishes(version, from, &mut |name, out| {
                let name = format!("{}-{}-{name}", version.name().replace(' ', ""), if from == Peer::Client { "c" } else { "s" });
                let mut bytes = Vec::new();
                out.encode(version, u32::MAX, &mut bytes).expect("encodes");
                samples.push(Sample { name, version, from, bytes });
            });
        }
    }
    samples
}

type Add<'a> = &'a mut dyn FnMut(&str, Packet<'_>);

fn user() -> Vec<(String, String)> {
    vec![("b".into(), "1".into()), ("a".into(), "größe".into()), ("b".into(), String::new())]
}

pub fn message_properties() -> Vec<u8> {
    let mut raw = vec![1, 1, 2, 0, 0, 1, 44];
    raw.extend_from_slice(b"\x03\0\x0Atext/plain\x08\0\x07reply/1\x09\0\x04\x00\xFF\x01\x02");
    for (name, value) in user() {
        props::put_user(&mut raw, name.as_bytes(), value.as_bytes()).expect("short");
    }
    raw
}

fn of_client(version: Version, add: Add<'_>) {
    let plain = Connect::new(version, "client-1");
    add("connect-minimal", Packet::Connect(Box::new(plain.clone())));
    let mut rich = plain.clone();
    rich.clean_start = false;
    rich.keep_alive_secs = 60;
    rich.user_name = Some("user".into());
    rich.password = Some(b"secret".to_vec());
    rich.will = Some(Will { topic: "w/1".into(), payload: b"gone".to_vec(), qos: Qos::ExactlyOnce, retain: true, ..Will::default() });
    if version.is_v5() {
        let will = rich.will.as_mut().expect("just set");
        will.delay_secs = 30;
        will.properties = message_properties();
        rich.properties = ConnectProperties {
            session_expiry_secs: Some(u32::MAX),
            receive_maximum: Some(20),
            maximum_packet_size: Some(1 << 20),
            topic_alias_maximum: Some(0),
            request_response_information: Some(true),
            request_problem_information: Some(false),
            authentication_method: Some("SCRAM-SHA-256".into()),
            authentication_data: Some(b"n,,n=user".to_vec()),
            user: user(),
        };
    }
    add("connect-rich", Packet::Connect(Box::new(rich.clone())));
    rich.bridge = true;
    rich.will = None;
    rich.password = Some(vec![0, 1, 0xFF]);
    add("connect-bridge", Packet::Connect(Box::new(rich)));
    if version.is_v5() {
        let token = Connect { password: Some(b"token".to_vec()), client_id: String::new(), ..plain };
        add("connect-password-alone", Packet::Connect(Box::new(token)));
    }
    subscribes(version, add);
    add("pingreq", Packet::PingReq);
}

fn subscribes(version: Version, add: Add<'_>) {
    let filter = |text: &str, options| SubscribeFilter { filter: text.into(), options };
    let plain = SubscribeOptions { qos: Qos::AtLeastOnce, ..SubscribeOptions::default() };
    let one = Subscribe { packet_id: id(10), filters: vec![filter("a/b", plain)], properties: SubscribeProperties::default() };
    add("subscribe-one", Packet::Subscribe(one));
    let fancy = SubscribeOptions { no_local: true, retain_as_published: true, retain_handling: RetainHandling::Never, ..plain };
    let filters = vec![
        filter("#", SubscribeOptions::default()),
        filter("+/größe/#", if version.is_v5() { fancy } else { plain }),
        filter("$share/g/a//+", SubscribeOptions { qos: Qos::ExactlyOnce, ..SubscribeOptions::default() }),
    ];
    let properties = match version {
        Version::V5 => SubscribeProperties { subscription_id: Some(SubscriptionId(VARINT_MAX)), user: user() },
        _ => SubscribeProperties::default(),
    };
    add("subscribe-rich", Packet::Subscribe(Subscribe { packet_id: id(0xFFFF), filters, properties }));
    let properties = match version {
        Version::V5 => UnsubscribeProperties { user: user() },
        _ => UnsubscribeProperties::default(),
    };
    let filters = vec!["a/b".into(), "$share/g/#".into()];
    add("unsubscribe", Packet::Unsubscribe(Unsubscribe { packet_id: id(11), filters, properties }));
}

fn of_server(version: Version, add: Add<'_>) {
    let accepted = ConnAck { session_present: false, reason: ReasonCode::Success, properties: ConnAckProperties::default() };
    add("connack", Packet::ConnAck(Box::new(accepted.clone())));
    if version != Version::V31 {
        add("connack-session", Packet::ConnAck(Box::new(ConnAck { session_present: true, ..accepted })));
    }
    add("connack-refused", Packet::ConnAck(Box::new(ConnAck::refuse(ReasonCode::BadUserNameOrPassword))));
    if version.is_v5() {
        add("connack-rich", Packet::ConnAck(Box::new(rich_connack())));
        let properties = DisconnectProperties {
            reason_string: Some("the other one is the primary now".into()),
            server_reference: Some("b.example:1883".into()),
            user: user(),
            ..DisconnectProperties::default()
        };
        add("disconnect-rich", Packet::Disconnect(Disconnect { reason: ReasonCode::UseAnotherServer, properties }));
        add("disconnect-takeover", Packet::Disconnect(Disconnect::new(ReasonCode::SessionTakenOver)));
    }
    let ack = |reasons: &[ReasonCode]| SubAck { packet_id: id(10), reasons: reasons.to_vec(), properties: AckProperties::default() };
    add("suback", Packet::SubAck(ack(&[ReasonCode::GrantedQos1])));
    if version != Version::V31 {
        add("suback-mixed", Packet::SubAck(ack(&[ReasonCode::Success, ReasonCode::GrantedQos2, ReasonCode::Unspecified])));
    }
    let v5 = version.is_v5();
    let properties = if v5 { AckProperties { reason_string: Some("why".into()), user: user() } } else { AckProperties::default() };
    let reasons = if v5 { vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted] } else { vec![] };
    add("unsuback", Packet::UnsubAck(UnsubAck { packet_id: id(11), reasons, properties }));
    add("pingresp", Packet::PingResp);
}

fn rich_connack() -> ConnAck {
    let properties = ConnAckProperties {
        session_expiry_secs: Some(86400),
        receive_maximum: Some(65535),
        maximum_qos_is_1: Some(true),
        retain_available: Some(false),
        maximum_packet_size: Some(2_000_000),
        assigned_client_id: Some("auto-7F".into()),
        topic_alias_maximum: Some(10),
        reason_string: Some("welcome".into()),
        wildcard_subscription_available: Some(true),
        subscription_ids_available: Some(true),
        shared_subscription_available: Some(true),
        server_keep_alive_secs: Some(300),
        response_information: Some("reply/".into()),
        server_reference: Some("a.example".into()),
        authentication_method: Some("SCRAM-SHA-256".into()),
        authentication_data: Some(b"v=x".to_vec()),
        user: user(),
    };
    ConnAck { session_present: true, reason: ReasonCode::Success, properties }
}

fn of_both(version: Version, from: Peer, add: Add<'_>) {
    if version.is_v5() || from == Peer::Client {
        add("disconnect", Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
    }
    for kind in AckKind::ALL {
        let name = format!("{kind:?}").to_lowercase();
        let ack = AckView { kind, packet_id: id(0x1234), reason: ReasonCode::Success, properties: &[] };
        add(&name, Packet::Ack(ack));
        if !version.is_v5() {
            continue;
        }
        let reason = match kind {
            AckKind::PubAck | AckKind::PubRec => ReasonCode::QuotaExceeded,
            AckKind::PubRel | AckKind::PubComp => ReasonCode::PacketIdNotFound,
        };
        add(&format!("{name}-reason"), Packet::Ack(AckView { reason, ..ack }));
        let raw = AckProperties { reason_string: Some("größe".into()), user: user() }.raw().expect("short");
        add(&format!("{name}-rich"), Packet::Ack(AckView { properties: &raw, ..ack }));
    }
    if version.is_v5() {
        add("auth-success", Packet::Auth(Auth { reason: ReasonCode::Success, properties: AuthProperties::default() }));
        let properties = AuthProperties {
            authentication_method: Some("SCRAM-SHA-256".into()),
            authentication_data: Some(vec![0, 1, 2]),
            reason_string: Some("next".into()),
            user: user(),
        };
        add("auth-rich", Packet::Auth(Auth { reason: ReasonCode::ContinueAuthentication, properties }));
        let properties = DisconnectProperties { reason_string: Some("bye".into()), user: user(), ..Default::default() };
        add("disconnect-reason", Packet::Disconnect(Disconnect { reason: ReasonCode::DisconnectWithWill, properties }));
    }
}

fn publishes(version: Version, from: Peer, add: &mut dyn FnMut(&str, PublishOut<'_>)) {
    let plain = PublishOut { topic: b"a/b", payload: b"hello", ..PublishOut::default() };
    add("publish-0", plain);
    add("publish-empty", PublishOut { payload: b"", retain: true, ..plain });
    let qos1 = PublishOut { qos: Qos::AtLeastOnce, packet_id: Some(id(1)), ..plain };
    add("publish-1", qos1);
    add("publish-1-dup", PublishOut { dup: true, ..qos1 });
    let large = vec![b'x'; 300];
    let qos2 = PublishOut { qos: Qos::ExactlyOnce, retain: true, packet_id: Some(id(65535)), topic: "größe/日本".as_bytes(), ..qos1 };
    add("publish-2-300", PublishOut { payload: &large, ..qos2 });
    if !version.is_v5() {
        return;
    }
    let raw = message_properties();
    let rich = PublishOut { properties: StoredProperties::scan(&raw), ..qos2 };
    add("publish-rich", rich);
    let edits = PropertyEdits { topic_alias: std::num::NonZeroU16::new(7), ..PropertyEdits::default() };
    add("publish-alias", PublishOut { edits, ..rich });
    add("publish-alias-alone", PublishOut { edits, topic: b"", ..qos1 });
    if from == Peer::Server {
        let edits = PropertyEdits { subscription_ids: &[1, 300, VARINT_MAX], ..PropertyEdits::default() };
        add("publish-ids", PublishOut { edits, ..rich });
    }
}
