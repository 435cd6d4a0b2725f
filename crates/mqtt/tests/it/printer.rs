//! Turns and packets as lines of text.

use broker_api::{
    Attach, Batch, Control, Credit, CreditTo, Entry, Head, LoginStep, StateEdit, Subscribe, HEAD_CONFIRM, HEAD_DURABLE, HEAD_MANDATORY,
    HEAD_RETAIN, HEAD_VERBATIM,
};
use mqtt::codec::props::{self, Content, PropertyId};
use mqtt::codec::{frames, ConnAckProperties, Decoder, Packet, Peer, PublishView, Version};

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() > 40 => format!("{}..({} bytes)", &text[..8], text.len()),
        Ok(text) => text.to_owned(),
        Err(_) => format!("{bytes:02x?}"),
    }
}

fn flags(head: &Head) -> String {
    let names = [
        (HEAD_DURABLE, "durable"),
        (HEAD_CONFIRM, "confirm"),
        (HEAD_MANDATORY, "mandatory"),
        (HEAD_RETAIN, "retain"),
        (HEAD_VERBATIM, "verbatim"),
    ];
    names.iter().filter(|(flag, _)| head.has(*flag)).map(|(_, name)| format!(" {name}")).collect()
}

fn head(head: &Head, states: &[StateEdit], batch: &Batch) -> String {
    let mut line = format!("level={} {}={}{}", head.level, text(batch.key(head)), text(batch.body(head)), flags(head));
    if head.expires_ms != 0 {
        line += &format!(" expires={}", head.expires_ms);
    }
    if head.state != 0 {
        line += &format!(" with {}", state(&states[head.state as usize - 1]));
    }
    assert!(head.topic && head.separator == b'/' && head.exchange.is_empty() && matches!(head.format, 1 | 2));
    line
}

fn state(edit: &StateEdit) -> String {
    let key = format!("{}:{}", edit.key >> 32, edit.key & 0xFFFF_FFFF);
    let lease = edit.lease.map_or(String::new(), |(queue, seq)| format!(" lease {}/{}", queue.0, seq.0));
    match &edit.value {
        None => format!("drop {key}"),
        Some(value) => format!("put {key} phase {}{lease}", value.first().copied().unwrap_or(0)),
    }
}

pub fn entry(entry: &Entry, states: &[StateEdit], batch: &Batch) -> String {
    match entry {
        Entry::Publish { first, count } => {
            let heads = &batch.heads[*first as usize..(*first + *count) as usize];
            format!("publish {}", heads.iter().map(|one| head(one, states, batch)).collect::<Vec<_>>().join(", "))
        }
        Entry::Settle(settle) => {
            let with = if settle.state == 0 { String::new() } else { format!(" with {}", state(&states[settle.state as usize - 1])) };
            format!("settle {}/{} x{} {:?}{with}", settle.queue.0, settle.first.0, settle.count, settle.outcome)
        }
        Entry::Credit(Credit { to: CreditTo::Group(_), add, bytes: 0, drain: false }) => format!("credit +{add}"),
        Entry::Credit(Credit { to: CreditTo::Group(_), add, bytes, drain: false }) => format!("credit +{add} and {bytes} bytes"),
        Entry::State(index) => format!("state {}", state(&states[*index as usize])),
        Entry::Fence => "fence".to_owned(),
        Entry::Control(_, control) => self::control(control),
        other => panic!("MQTT never asks for {other:?}"),
    }
}

fn control(control: &Control) -> String {
    match control {
        Control::Login(login) => match &login.step {
            LoginStep::Anonymous => "login anonymous".to_owned(),
            LoginStep::Enter => "login enter".to_owned(),
            LoginStep::Password { user, password } => {
                let vhost = login.vhost.as_ref().map(|vhost| format!(" vhost={vhost}")).unwrap_or_default();
                format!("login user={user} password={}{vhost}", text(password))
            }
            LoginStep::Sasl { mechanism, initial } => format!("login sasl={mechanism} initial={}", text(initial)),
            LoginStep::Continue { response } => format!("login response={}", text(response)),
        },
        Control::Attach(attach) => self::attach(attach),
        Control::Subscribe(asked) => subscribe(asked),
        Control::Unsubscribe { filter, share, .. } => format!("unsubscribe {} share={share:?}", filter.pattern),
        Control::EndOwner(end) => format!("end expiry={:?} will={:?}", end.expiry.expect("always given"), end.parting),
        other => panic!("MQTT never asks for {other:?}"),
    }
}

fn attach(attach: &Attach) -> String {
    let will = attach.parting.as_ref().map_or(String::new(), |parting| {
        format!(" will=[{} delay={}]", head(&parting.message.heads[0], &[], &parting.message), parting.delay_secs)
    });
    // A made-up id differs each time.
    let session = if attach.session.as_str().starts_with("auto-") { "auto-*" } else { attach.session.as_str() };
    let window = attach.window_bytes.map(|bytes| format!(" window={bytes}")).unwrap_or_default();
    format!("attach {session} clean={} expiry={:?}{window}{will}", attach.clean, attach.expiry)
}

fn subscribe(asked: &Subscribe) -> String {
    let selector = asked.selector.as_ref().map(|selector| format!(" selector={selector}")).unwrap_or_default();
    format!(
        "subscribe {} share={:?} level={} id={} no_local={} as_published={} retained={:?}{selector}",
        text(asked.filter.pattern.as_bytes()),
        asked.share,
        asked.level,
        asked.identifier,
        asked.no_local,
        asked.as_published,
        asked.retained
    )
}

/// What the client gets, a line for each packet.
pub fn packets(bytes: &[u8], version: Version) -> Vec<String> {
    let decoder = Decoder::new(version, Peer::Server);
    let mut at = 0;
    let mut lines = Vec::new();
    for frame in frames(bytes) {
        at = frame.end;
        lines.push(match decoder.packet(bytes, frame) {
            Ok(packet) => format!("< {}", self::packet(&packet)),
            Err(_) => format!("< hex {:02x?}", &bytes[frame.range()]),
        });
    }
    assert_eq!(at, bytes.len(), "a torn packet was sent: {bytes:02x?}");
    lines
}

fn packet(packet: &Packet<'_>) -> String {
    match packet {
        Packet::ConnAck(ack) => {
            format!("connack {} present={}{}", ack.reason as u8, ack.session_present, connack_properties(&ack.properties))
        }
        Packet::Publish(view) => publish(view),
        Packet::Ack(ack) => {
            format!("{:?} id={} {}", ack.kind, ack.packet_id, ack.reason as u8).to_lowercase() + &words(&ack.properties().reason_string)
        }
        Packet::SubAck(ack) => {
            let reasons: Vec<u8> = ack.reasons.iter().map(|r| *r as u8).collect();
            format!("suback id={} {reasons:?}{}", ack.packet_id, words(&ack.properties.reason_string))
        }
        Packet::UnsubAck(ack) => {
            let reasons: Vec<u8> = ack.reasons.iter().map(|r| *r as u8).collect();
            format!("unsuback id={} {reasons:?}{}", ack.packet_id, words(&ack.properties.reason_string))
        }
        Packet::PingResp => "pingresp".to_owned(),
        Packet::Disconnect(bye) => {
            let server = bye.properties.server_reference.as_ref().map_or(String::new(), |server| format!(" server={server}"));
            let why = bye.properties.reason_string.as_ref().map_or(String::new(), |why| format!(" '{why}'"));
            format!("disconnect {}{server}{why}", bye.reason as u8)
        }
        Packet::Auth(auth) => format!(
            "auth {} method={} data={}",
            auth.reason as u8,
            auth.properties.authentication_method.as_deref().unwrap_or("-"),
            text(auth.properties.authentication_data.as_deref().unwrap_or(b"-"))
        ),
        other => panic!("never sent: {other:?}"),
    }
}

fn words(reason: &Option<String>) -> String {
    reason.as_ref().map_or(String::new(), |why| format!(" '{why}'"))
}

fn connack_properties(properties: &ConnAckProperties) -> String {
    let ConnAckProperties {
        session_expiry_secs,
        receive_maximum,
        maximum_qos_is_1,
        retain_available,
        maximum_packet_size,
        assigned_client_id,
        topic_alias_maximum,
        reason_string,
        server_keep_alive_secs,
        response_information,
        authentication_method,
        authentication_data,
        ..
    } = properties;
    let mut line = String::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            line += &format!(" {name}={value}");
        }
    };
    put("expiry", session_expiry_secs.map(|n| n.to_string()));
    put("rm", receive_maximum.map(|n| n.to_string()));
    put("qos1", maximum_qos_is_1.map(|n| n.to_string()));
    put("retain", retain_available.map(|n| n.to_string()));
    put("maxpacket", maximum_packet_size.map(|n| n.to_string()));
    put("assigned", assigned_client_id.as_ref().map(|id| format!("{}*({})", &id[..5], id.len())));
    put("aliases", topic_alias_maximum.map(|n| n.to_string()));
    put("keepalive", server_keep_alive_secs.map(|n| n.to_string()));
    put("response", response_information.clone());
    put("method", authentication_method.clone());
    put("data", authentication_data.as_ref().map(|data| text(data)));
    put("reason", reason_string.as_ref().map(|why| format!("'{why}'")));
    line
}

fn publish(view: &PublishView<'_>) -> String {
    let mut line = format!("publish q{}", view.qos as u8);
    if let Some(id) = view.packet_id {
        line += &format!(" id={id}");
    }
    for (set, name) in [(view.dup, " dup"), (view.retain, " retain")] {
        if set {
            line += name;
        }
    }
    line += &format!(" {}={}", text(view.topic), text(view.payload));
    for property in props::iter(view.properties.raw) {
        line += &match (property.id, property.content) {
            (PropertyId::UserProperty, Content::Pair(name, value)) => format!(" user={}:{}", text(name), text(value)),
            (id, Content::Byte(n)) => format!(" {id:?}={n}"),
            (id, Content::Two(n)) => format!(" {id:?}={n}"),
            (id, Content::Four(n) | Content::Varint(n)) => format!(" {id:?}={n}"),
            (id, Content::Text(bytes) | Content::Binary(bytes)) => format!(" {id:?}={}", text(bytes)),
            (id, _) => format!(" {id:?}"),
        };
    }
    line
}
