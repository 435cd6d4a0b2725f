//! A client of MQTT: publishes acknowledged at QoS 1, deliveries acknowledged as they are read.

use super::super::{Carrick, LIMIT};
use mqtt::codec::props::{self, Content};
use mqtt::codec::{
    encode_ack, frames, AckKind, Connect, Decoder, Packet, PacketId, Peer, PropertyId, PublishOut, Qos, ReasonCode, StoredProperties,
    Subscribe, SubscribeFilter, SubscribeOptions, SubscribeProperties, Version, Will,
};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub struct Mqtt {
    stream: TcpStream,
    version: Version,
    input: Vec<u8>,
    next_id: u16,
}

#[derive(Debug)]
pub struct Message {
    pub topic: String,
    pub qos: Qos,
    pub retain: bool,
    /// Without what belongs to the subscription.
    pub properties: Vec<u8>,
    pub body: Vec<u8>,
}

/// A property of a PUBLISH.
#[derive(Clone, Copy)]
pub enum P<'a> {
    IsText,
    Expiry(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    Correlation(&'a [u8]),
    User(&'a str, &'a str),
}

pub fn section(properties: &[P<'_>]) -> Vec<u8> {
    let mut raw = Vec::new();
    let field = |raw: &mut Vec<u8>, id: PropertyId, bytes: &[u8]| {
        raw.push(id as u8);
        raw.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        raw.extend_from_slice(bytes);
    };
    for property in properties {
        match property {
            P::IsText => raw.extend_from_slice(&[PropertyId::PayloadFormatIndicator as u8, 1]),
            P::Expiry(secs) => {
                raw.push(PropertyId::MessageExpiryInterval as u8);
                raw.extend_from_slice(&secs.to_be_bytes());
            }
            P::ContentType(text) => field(&mut raw, PropertyId::ContentType, text.as_bytes()),
            P::ResponseTopic(text) => field(&mut raw, PropertyId::ResponseTopic, text.as_bytes()),
            P::Correlation(bytes) => field(&mut raw, PropertyId::CorrelationData, bytes),
            P::User(name, value) => props::put_user(&mut raw, name.as_bytes(), value.as_bytes()).expect("short"),
        }
    }
    raw
}

impl Message {
    /// What it says of itself, in words: each property with its name in the specification.
    pub fn shown(&self) -> String {
        let mut out = String::new();
        for property in props::iter(&self.properties) {
            let _ = match property.content {
                Content::Byte(value) => write!(out, " {:?}={value}", property.id),
                Content::Two(value) => write!(out, " {:?}={value}", property.id),
                Content::Four(value) | Content::Varint(value) => write!(out, " {:?}={value}", property.id),
                Content::Text(text) => write!(out, " {:?}={}", property.id, String::from_utf8_lossy(text)),
                Content::Binary(bytes) => write!(out, " {:?}={}", property.id, bytes.escape_ascii()),
                Content::Pair(name, value) => write!(out, " {}:{}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)),
            };
        }
        out.trim_start().to_owned()
    }

    pub fn expiry_secs(&self) -> Option<u32> {
        props::iter(&self.properties).find_map(|property| match (property.id, property.content) {
            (PropertyId::MessageExpiryInterval, Content::Four(secs)) => Some(secs),
            _ => None,
        })
    }
}

impl Mqtt {
    /// A session of this name; `keep` outlives the connection.
    pub fn connect(carrick: &Carrick, version: Version, id: &str, keep: bool) -> Mqtt {
        Mqtt::with_will(carrick, version, id, keep, None)
    }

    pub fn with_will(carrick: &Carrick, version: Version, id: &str, keep: bool, will: Option<Will>) -> Mqtt {
        let stream = carrick.connect();
        let mut mqtt = Mqtt { stream, version, input: Vec::new(), next_id: 1 };
        let mut connect = Connect::new(version, id);
        connect.clean_start = !keep;
        connect.properties.session_expiry_secs = (keep && version.is_v5()).then_some(3600);
        connect.will = will;
        mqtt.send(&Packet::Connect(Box::new(connect)));
        mqtt.read(LIMIT, |packet| match packet {
            Packet::ConnAck(connack) => assert_eq!(connack.reason, ReasonCode::Success),
            other => panic!("{other:?}"),
        });
        mqtt
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).expect("encoded");
        self.stream.write_all(&bytes).expect("sent");
    }

    /// The next packet, unless none comes in this time.
    fn try_read<T>(&mut self, patience: Duration, read: impl FnOnce(Packet<'_>) -> T) -> Option<T> {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout");
        loop {
            let frame = frames(&self.input).next();
            if let Some(frame) = frame {
                let value = read(Decoder::new(self.version, Peer::Server).packet(&self.input, frame).expect("a packet"));
                self.input.drain(..frame.end);
                return Some(value);
            }
            let mut piece = [0; 65_536];
            match self.stream.read(&mut piece) {
                Ok(0) => panic!("the connection was closed"),
                Ok(len) => self.input.extend_from_slice(&piece[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn read<T>(&mut self, patience: Duration, read: impl FnOnce(Packet<'_>) -> T) -> T {
        self.try_read(patience, read).expect("a packet in time")
    }

    fn id(&mut self) -> PacketId {
        self.next_id += 1;
        PacketId::new(self.next_id).expect("not zero")
    }

    /// At QoS 1.
    pub fn subscribe(&mut self, filter: &str) {
        let options = SubscribeOptions { qos: Qos::AtLeastOnce, ..SubscribeOptions::default() };
        let filters = vec![SubscribeFilter { filter: filter.to_owned(), options }];
        let packet_id = self.id();
        self.send(&Packet::Subscribe(Subscribe { packet_id, filters, properties: SubscribeProperties::default() }));
        self.read(LIMIT, |packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}"));
    }

    /// Until it is acknowledged, at QoS 1.
    pub fn publish(&mut self, topic: &str, qos: Qos, properties: &[P<'_>], body: &[u8]) {
        self.publish_retained(topic, qos, false, properties, body);
    }

    pub fn publish_retained(&mut self, topic: &str, qos: Qos, retain: bool, properties: &[P<'_>], body: &[u8]) {
        let packet_id = (qos != Qos::AtMostOnce).then(|| self.id());
        let raw = section(properties);
        let properties = StoredProperties::scan(&raw);
        let out = PublishOut { qos, retain, packet_id, topic: topic.as_bytes(), properties, payload: body, ..PublishOut::default() };
        let mut bytes = Vec::new();
        out.encode(self.version, u32::MAX, &mut bytes).expect("encoded");
        self.stream.write_all(&bytes).expect("sent");
        if qos != Qos::AtMostOnce {
            self.read(LIMIT, |packet| match packet {
                Packet::Ack(ack) => assert!(!ack.reason.is_error(), "{ack:?}"),
                other => panic!("{other:?}"),
            });
        }
    }

    pub fn try_take(&mut self, patience: Duration) -> Option<Message> {
        let (message, id) = self.try_read(patience, |packet| match packet {
            Packet::Publish(view) => {
                let topic = String::from_utf8(view.topic.to_vec()).expect("text");
                let properties = view.properties.raw.to_vec();
                let message = Message { topic, qos: view.qos, retain: view.retain, properties, body: view.payload.to_vec() };
                (message, view.packet_id)
            }
            other => panic!("{other:?}"),
        })?;
        if let Some(id) = id {
            let mut bytes = Vec::new();
            encode_ack(AckKind::PubAck, id, ReasonCode::Success, None, self.version, &mut bytes).expect("encoded");
            self.stream.write_all(&bytes).expect("sent");
        }
        Some(message)
    }

    pub fn take(&mut self) -> Message {
        self.try_take(LIMIT).expect("a message in time")
    }

    /// A round trip: what the broker had for us before is here now.
    pub fn assert_nothing(&mut self) {
        self.send(&Packet::PingReq);
        self.read(LIMIT, |packet| assert!(matches!(packet, Packet::PingResp), "{packet:?}"));
    }
}
