//! What a client sends, from a line of text: `publish q1 id=5 topic=a/b payload=x`, or `hex 30 05 ...`.

use mqtt::codec::props::put_user;
use mqtt::codec::{
    encode_ack, AckKind, AckProperties, Auth, Connect, Disconnect, Packet, PacketId, PropertyEdits, PublishOut, Qos, ReasonCode,
    StoredProperties, Subscribe, SubscribeFilter, SubscribeOptions, Unsubscribe, Version, Will,
};
use std::num::NonZeroU16;

/// The words of a line: bare ones and `name=value`.
pub struct Words<'a> {
    words: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub fn new(line: &'a str) -> Words<'a> {
        Words { words: line.split_whitespace().collect() }
    }
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
    pub fn number(&self, name: &str) -> Option<u32> {
        self.get(name).map(number)
    }
    pub fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }
    pub fn rest(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.words.iter().skip(1).copied()
    }
}

pub fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .unwrap_or_else(|_| panic!("not a number: {text}"))
}

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// `x*300` is three hundred of them.
pub fn payload(text: &str) -> Vec<u8> {
    match text.split_once('*') {
        Some((what, count)) => what.repeat(count.parse().unwrap()).into_bytes(),
        None => text.as_bytes().to_vec(),
    }
}

pub fn qos(words: &Words<'_>) -> Qos {
    match (words.has("q1"), words.has("q2")) {
        (true, _) => Qos::AtLeastOnce,
        (_, true) => Qos::ExactlyOnce,
        _ => Qos::AtMostOnce,
    }
}

fn reason(words: &Words<'_>) -> ReasonCode {
    words.number("reason").map_or(ReasonCode::Success, |code| ReasonCode::from_u8(code as u8).expect("a reason code"))
}

fn packet_id(words: &Words<'_>) -> Option<PacketId> {
    words.number("id").and_then(|id| PacketId::new(id as u16))
}

/// The bytes of one line. A CONNECT sets the version for the lines after it.
pub fn encode(line: &str, version: &mut Version) -> Vec<u8> {
    let words = Words::new(line);
    let mut out = Vec::new();
    let kind = line.split_whitespace().next().unwrap_or("");
    let ack = match kind {
        "hex" => {
            let bytes = hex(&line[3..]);
            if let (Some(0x10), Some(5)) = (bytes.first(), bytes.get(8)) {
                *version = Version::V5;
            }
            return bytes;
        }
        "connect" => {
            let connect = connect(&words);
            *version = connect.version;
            Packet::Connect(Box::new(connect)).encode(*version, &mut out).unwrap();
            return out;
        }
        "publish" => {
            publish(&words, *version, &mut out);
            return out;
        }
        "puback" => AckKind::PubAck,
        "pubrec" => AckKind::PubRec,
        "pubrel" => AckKind::PubRel,
        "pubcomp" => AckKind::PubComp,
        _ => {
            other(kind, &words).encode(*version, &mut out).unwrap();
            return out;
        }
    };
    encode_ack(ack, packet_id(&words).expect("id="), reason(&words), None::<&AckProperties>, *version, &mut out).unwrap();
    out
}

fn other(kind: &str, words: &Words<'_>) -> Packet<'static> {
    match kind {
        "subscribe" => Packet::Subscribe(subscribe(words)),
        "unsubscribe" => {
            let filters = words.rest().filter(|word| !word.contains('=')).map(str::to_owned).collect();
            Packet::Unsubscribe(Unsubscribe { packet_id: packet_id(words).expect("id="), filters, properties: Default::default() })
        }
        "pingreq" => Packet::PingReq,
        "disconnect" => {
            let mut disconnect = Disconnect::new(reason(words));
            disconnect.properties.session_expiry_secs = words.number("expiry");
            Packet::Disconnect(disconnect)
        }
        "auth" => {
            let mut auth = Auth { reason: reason(words), properties: Default::default() };
            auth.properties.authentication_method = words.get("method").map(str::to_owned);
            auth.properties.authentication_data = words.get("data").map(payload);
            Packet::Auth(auth)
        }
        kind => panic!("no such packet: {kind}"),
    }
}

fn connect(words: &Words<'_>) -> Connect {
    let version = match (words.has("v31"), words.has("v5")) {
        (true, _) => Version::V31,
        (_, true) => Version::V5,
        _ => Version::V311,
    };
    let mut connect = Connect::new(version, words.get("id").unwrap_or(""));
    connect.clean_start = words.number("clean") != Some(0);
    connect.bridge = words.has("bridge");
    connect.keep_alive_secs = words.number("keepalive").unwrap_or(0) as u16;
    connect.user_name = words.get("user").map(str::to_owned);
    connect.password = words.get("pass").map(|pass| pass.as_bytes().to_vec());
    connect.properties.session_expiry_secs = words.number("expiry");
    connect.properties.receive_maximum = words.number("rm").map(|n| n as u16);
    connect.properties.maximum_packet_size = words.number("maxpacket");
    connect.properties.request_problem_information = words.number("problem").map(|n| n != 0);
    connect.properties.topic_alias_maximum = words.number("aliases").map(|n| n as u16);
    connect.properties.request_response_information = words.has("response").then_some(true);
    connect.properties.authentication_method = words.get("method").map(str::to_owned);
    connect.properties.authentication_data = words.get("data").map(payload);
    connect.will = words.get("will").map(|topic| will(topic, words));
    connect
}

fn will(topic: &str, words: &Words<'_>) -> Will {
    let mut properties = Vec::new();
    if let Some(secs) = words.number("willexpiry") {
        properties.push(2);
        properties.extend_from_slice(&secs.to_be_bytes());
    }
    Will {
        topic: topic.to_owned(),
        payload: payload(words.get("willpayload").unwrap_or("bye")),
        qos: Qos::from_bits(words.number("willqos").unwrap_or(0) as u8).unwrap(),
        retain: words.has("willretain"),
        delay_secs: words.number("willdelay").unwrap_or(0),
        properties,
    }
}

pub fn properties(words: &Words<'_>) -> Vec<u8> {
    let mut raw = Vec::new();
    if words.has("text") {
        raw.extend_from_slice(&[1, 1]);
    }
    if let Some(secs) = words.number("expiry") {
        raw.push(2);
        raw.extend_from_slice(&secs.to_be_bytes());
    }
    for (name, id) in [("content", 3u8), ("response", 8), ("correlation", 9)] {
        if let Some(value) = words.get(name) {
            raw.push(id);
            raw.extend_from_slice(&(value.len() as u16).to_be_bytes());
            raw.extend_from_slice(value.as_bytes());
        }
    }
    if let Some((name, value)) = words.get("user").and_then(|pair| pair.split_once(':')) {
        put_user(&mut raw, name.as_bytes(), value.as_bytes()).unwrap();
    }
    raw
}

fn publish(words: &Words<'_>, version: Version, out: &mut Vec<u8>) {
    let raw = properties(words);
    let body = payload(words.get("payload").unwrap_or(""));
    let edits =
        PropertyEdits { topic_alias: words.number("alias").and_then(|alias| NonZeroU16::new(alias as u16)), ..PropertyEdits::default() };
    let publish = PublishOut {
        qos: qos(words),
        dup: words.has("dup"),
        retain: words.has("retain"),
        packet_id: packet_id(words),
        topic: words.get("topic").unwrap_or("").as_bytes(),
        properties: StoredProperties::scan(&raw),
        edits,
        payload: &body,
    };
    publish.encode(version, u32::MAX, out).unwrap();
}

/// `subscribe id=1 subid=7 selector=color='red' a/b:q1 c/#:q2:nl:rap:rh2`
fn subscribe(words: &Words<'_>) -> Subscribe {
    let filters = words
        .rest()
        .filter(|word| !word.starts_with("id=") && !word.starts_with("subid=") && !word.starts_with("selector="))
        .map(filter)
        .collect();
    let subscription_id = words.number("subid").map(mqtt::codec::props::SubscriptionId);
    // The first property of the name counts.
    let user = ["other", "x-selector", "x-selector"].iter().zip(["", words.get("selector").unwrap_or(""), "late"]);
    let user = user.map(|(name, value)| ((*name).to_owned(), value.to_owned())).filter(|_| words.get("selector").is_some()).collect();
    let properties = mqtt::codec::SubscribeProperties { subscription_id, user };
    Subscribe { packet_id: packet_id(words).expect("id="), filters, properties }
}

fn filter(word: &str) -> SubscribeFilter {
    let mut parts = word.split(':');
    let filter = payload(parts.next().unwrap());
    let mut options = SubscribeOptions::default();
    for option in parts {
        match option {
            "q0" => options.qos = Qos::AtMostOnce,
            "q1" => options.qos = Qos::AtLeastOnce,
            "q2" => options.qos = Qos::ExactlyOnce,
            "nl" => options.no_local = true,
            "rap" => options.retain_as_published = true,
            "rh1" => options.retain_handling = mqtt::codec::RetainHandling::SendIfNew,
            "rh2" => options.retain_handling = mqtt::codec::RetainHandling::Never,
            other => panic!("no such option: {other}"),
        }
    }
    SubscribeFilter { filter: String::from_utf8(filter).unwrap(), options }
}
