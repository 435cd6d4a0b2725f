//! All packets under one roof.

use std::num::NonZeroU16;

use super::ack::{encode_ack, AckKind, AckView};
use super::error::{DecodeError, EncodeError};
use super::frame::{check_flags, Frame, PacketKind};
use super::publish::PublishView;
use super::publish_out::{PropertyEdits, PublishOut, StoredProperties};
use super::{topic, wire, Auth, ConnAck, Connect, Disconnect, Peer, SubAck, Subscribe, UnsubAck, Unsubscribe, Version};

/// What decoding depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    /// Does not matter for CONNECT, which says its own.
    pub version: Version,
    pub from: Peer,
    /// Bound on the levels of a topic name; `None` for any number.
    pub levels_max: Option<NonZeroU16>,
}

/// A packet. The two on the message path are views, the others own what they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Publish(PublishView<'a>),
    Ack(AckView<'a>),
    Subscribe(Subscribe),
    SubAck(SubAck),
    Unsubscribe(Unsubscribe),
    UnsubAck(UnsubAck),
    PingReq,
    PingResp,
    Disconnect(Disconnect),
    Auth(Auth),
}

impl Decoder {
    pub const fn new(version: Version, from: Peer) -> Self {
        Decoder { version, from, levels_max: Some(topic::LEVELS_MAX) }
    }

    /// A PUBLISH, for a session that has looked at the frame's kind.
    #[inline]
    pub fn publish<'a>(&self, block: &'a [u8], frame: Frame) -> Result<PublishView<'a>, DecodeError> {
        PublishView::decode(block, frame, self.version, self.from, self.levels_max)
    }

    /// A PUBACK, PUBREC, PUBREL or PUBCOMP.
    #[inline]
    pub fn ack<'a>(&self, block: &'a [u8], frame: Frame, kind: AckKind) -> Result<AckView<'a>, DecodeError> {
        AckView::decode(block, frame, kind, self.version)
    }

    /// Any packet. Whether it may come at this moment, and from this side, is the splitter's and the session's to say.
    pub fn packet<'a>(&self, block: &'a [u8], frame: Frame) -> Result<Packet<'a>, DecodeError> {
        let kind = frame.kind();
        if kind == PacketKind::Publish {
            return Ok(Packet::Publish(self.publish(block, frame)?));
        }
        if let Some(ack) = AckKind::of(kind) {
            return Ok(Packet::Ack(self.ack(block, frame, ack)?));
        }
        check_flags(frame.first, self.version)?;
        let (body, version) = (frame.body_of(block), self.version);
        Ok(match kind {
            PacketKind::Connect => Packet::Connect(Box::new(Connect::decode(body, self)?)),
            PacketKind::ConnAck => Packet::ConnAck(Box::new(ConnAck::decode(body, version)?)),
            PacketKind::Subscribe => Packet::Subscribe(Subscribe::decode(body, version)?),
            PacketKind::SubAck => Packet::SubAck(SubAck::decode(body, version)?),
            PacketKind::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(body, version)?),
            PacketKind::UnsubAck => Packet::UnsubAck(UnsubAck::decode(body, version)?),
            PacketKind::PingReq | PacketKind::PingResp if !body.is_empty() => return Err(DecodeError::TrailingBytes),
            PacketKind::PingReq => Packet::PingReq,
            PacketKind::PingResp => Packet::PingResp,
            PacketKind::Disconnect => Packet::Disconnect(Disconnect::decode(body, version, self.from)?),
            PacketKind::Auth => Packet::Auth(Auth::decode(body, version)?),
            _ => return Err(DecodeError::ReservedType),
        })
    }
}

impl Packet<'_> {
    /// Appends the packet. On an error nothing has been appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            // A CONNECT carries its version.
            Packet::Connect(connect) => connect.encode(out),
            Packet::ConnAck(connack) => connack.encode(version, out),
            Packet::Publish(view) => PublishOut::from(*view).encode(version, u32::MAX, out).map(|_| ()),
            Packet::Ack(ack) => encode_ack(ack.kind, ack.packet_id, ack.reason, Some(&ack.properties()), version, out),
            Packet::Subscribe(subscribe) => subscribe.encode(version, out),
            Packet::SubAck(suback) => suback.encode(version, out),
            Packet::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
            Packet::UnsubAck(unsuback) => unsuback.encode(version, out),
            Packet::PingReq => wire::put_packet(out, PacketKind::PingReq.first_byte(), |_| Ok(())),
            Packet::PingResp => wire::put_packet(out, PacketKind::PingResp.first_byte(), |_| Ok(())),
            Packet::Disconnect(disconnect) => disconnect.encode(version, out),
            Packet::Auth(auth) => auth.encode(version, out),
        }
    }
}

/// The message passed on, without what belongs to the connection it came on, but for the topic alias, which stands in for the topic.
impl<'a> From<PublishView<'a>> for PublishOut<'a> {
    fn from(view: PublishView<'a>) -> Self {
        let topic_alias = view.properties.topic_alias;
        PublishOut {
            qos: view.qos,
            dup: view.dup,
            retain: view.retain,
            packet_id: view.packet_id,
            topic: view.topic,
            properties: StoredProperties::from(view.properties),
            edits: PropertyEdits { topic_alias, ..PropertyEdits::default() },
            payload: view.payload,
        }
    }
}
