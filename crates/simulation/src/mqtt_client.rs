//! Two clients of MQTT 5 with sessions that outlive their connections, over the broker's own MQTT: one publishes at QoS 2 and sets a retained message,
//! the other one is subscribed to both. Exactly once holds across every loss of a connection and of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mqtt::codec::{
    encode_ack, frames, AckKind, AckView, Connect, Decoder, Packet, PacketId, Peer, PublishOut, PublishView, Qos, ReasonCode,
    RetainHandling, Subscribe, SubscribeFilter, SubscribeOptions, SubscribeProperties, Version,
};
use mqtt::Mqtt;

use crate::client::{Actor, Work};
use crate::door::{Answer, Door};
use crate::history::{Broken, History, Id};
use crate::line::Line;
use crate::world::World;

const VERSION: Version = Version::V5;
const EXACTLY_ONCE: &str = "once/t";
const RETAINED: &str = "kept/t";
/// Publishes that are not done yet, at most.
const WINDOW: usize = 6;
/// A connection on which nothing moves for so long, while something should, is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// What both have in common: where they are connected, and what they ask for.
struct Wire {
    world: World,
    door: Door,
    client_id: &'static str,
    line: Option<Line>,
    /// Of the reign that it is connected to.
    epoch: u64,
    number: u64,
    accepted: bool,
    had_session: bool,
    heard: Duration,
}

/// What a packet is to a client, borrowed from the wire.
enum Heard {
    /// Its session is there, or was made.
    Accepted,
    /// A subscription.
    Granted,
    Publish {
        qos: Qos,
        packet_id: Option<PacketId>,
        topic: Vec<u8>,
        payload: Vec<u8>,
        retain: bool,
    },
    Ack(AckKind, PacketId, ReasonCode),
}

impl Wire {
    fn new(world: &World, door: Door, client_id: &'static str) -> Wire {
        Wire {
            world: world.clone(),
            door,
            client_id,
            line: None,
            epoch: 0,
            number: 0,
            accepted: false,
            had_session: false,
            heard: Duration::ZERO,
        }
    }

    fn close(&mut self) {
        (self.line, self.accepted) = (None, false);
    }

    /// What has come in, on a connection that is there; begins one where there is none.
    fn exchange(&mut self) -> Result<Vec<Heard>, Broken> {
        let now = self.world.elapsed();
        let serving = match self.door.knock() {
            Answer::Closed => {
                self.close();
                return Ok(Vec::new());
            }
            Answer::Silent => return Ok(Vec::new()),
            Answer::Open(serving) => serving,
        };
        if self.line.is_none() || self.number != serving.number {
            self.close();
            let Some(mut line) = Line::open(&serving, Mqtt::new(mqtt::Config::default()), self.world.base() + now) else {
                return Ok(Vec::new());
            };
            let mut connect = Connect::new(VERSION, self.client_id);
            connect.clean_start = false;
            connect.properties.session_expiry_secs = Some(u32::MAX);
            line.send(encoded(&Packet::Connect(Box::new(connect))));
            (self.line, self.epoch, self.number, self.heard) = (Some(line), serving.epoch, serving.number, now);
        }
        let Some(line) = &mut self.line else { return Ok(Vec::new()) };
        let bytes = line.exchange(self.world.base() + now);
        let over = line.is_over();
        let heard = self.decode(&bytes)?;
        if !heard.is_empty() {
            self.heard = now;
        }
        if over || now > self.heard + PATIENCE {
            self.close();
        }
        Ok(heard)
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<Vec<Heard>, Broken> {
        let decoder = Decoder::new(VERSION, Peer::Server);
        let mut heard = Vec::new();
        for frame in frames(bytes) {
            let packet = decoder.packet(bytes, frame);
            let packet = packet.map_err(|error| Broken::new("nothing_unexpected", format!("a packet that cannot be read: {error}")))?;
            match packet {
                Packet::ConnAck(connack) if connack.reason.is_error() => self.close(),
                Packet::ConnAck(connack) => {
                    if self.had_session && !connack.session_present {
                        let seen = format!("the session of {} was confirmed, and is not there in epoch {}", self.client_id, self.epoch);
                        return Err(Broken::new("session_is_kept", seen));
                    }
                    (self.accepted, self.had_session) = (true, true);
                    heard.push(Heard::Accepted);
                }
                Packet::Publish(PublishView { qos, packet_id, topic, payload, retain, .. }) => {
                    heard.push(Heard::Publish { qos, packet_id, topic: topic.to_vec(), payload: payload.to_vec(), retain });
                }
                Packet::Ack(AckView { kind, packet_id, reason, .. }) => heard.push(Heard::Ack(kind, packet_id, reason)),
                Packet::SubAck(_) => heard.push(Heard::Granted),
                _ => {}
            }
        }
        Ok(heard)
    }

    fn send(&mut self, bytes: Vec<u8>) {
        if let Some(line) = &mut self.line {
            line.send(bytes);
        }
    }

    fn ack(&mut self, kind: AckKind, id: PacketId) {
        let mut bytes = Vec::new();
        // A success without properties always fits.
        if encode_ack(kind, id, ReasonCode::Success, None, VERSION, &mut bytes).is_ok() {
            self.send(bytes);
        }
    }
}

fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoded = packet.encode(VERSION, &mut bytes);
    debug_assert!(encoded.is_ok(), "{encoded:?}");
    bytes
}

/// How far a publish has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sent(Id),
    /// PUBREC has come: the message is the broker's, and is not sent again.
    Released,
    Retained(u32),
}

pub struct Publisher {
    wire: Wire,
    history: Arc<Mutex<History>>,
    producer: u32,
    next: u32,
    retained: u32,
    /// By packet id; `order` is that in which they were sent first.
    out: BTreeMap<u16, Stage>,
    order: Vec<u16>,
    last_packet: u16,
}

impl Publisher {
    pub fn new(world: &World, door: Door, producer: u32, history: Arc<Mutex<History>>) -> Publisher {
        let (out, order) = Default::default();
        Publisher { wire: Wire::new(world, door, "pub"), history, producer, next: 0, retained: 0, out, order, last_packet: 0 }
    }

    fn history<T>(&self, of: impl FnOnce(&mut History) -> T) -> T {
        of(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn round(&mut self, work: Work) -> Result<(), Broken> {
        for heard in self.wire.exchange()? {
            match heard {
                Heard::Accepted => self.resume(),
                Heard::Ack(kind, id, reason) => self.acked(kind, id, reason)?,
                Heard::Publish { .. } | Heard::Granted => {
                    return Err(Broken::new("nothing_unexpected", "a message for who subscribed to nothing".into()))
                }
            }
        }
        if work == Work::Both && self.wire.accepted {
            let (once, retained) = self.wire.world.draw(|rng| (rng.below(3), rng.chance(5)));
            for _ in 0..once {
                self.publish_once();
            }
            if retained && !self.out.values().any(|stage| matches!(stage, Stage::Retained(_))) {
                self.retained += 1;
                let value = self.retained;
                self.history(|history| history.retained.set(value));
                self.begin(Stage::Retained(value));
            }
        }
        Ok(())
    }

    fn publish_once(&mut self) {
        if self.out.len() >= WINDOW {
            return;
        }
        self.next += 1;
        let id = (self.producer, self.next);
        self.history(|history| history.once.sent(id));
        self.begin(Stage::Sent(id));
    }

    fn begin(&mut self, stage: Stage) {
        let free = (1..=u16::MAX).map(|step| self.last_packet.wrapping_add(step)).find(|id| *id != 0 && !self.out.contains_key(id));
        let Some(id) = free else { return };
        self.last_packet = id;
        self.out.insert(id, stage);
        self.order.push(id);
        self.send(id, stage, false);
    }

    /// What is under way goes again, in the order of before (MQTT 5.0, 4.4 and 4.6).
    fn resume(&mut self) {
        for id in self.order.clone() {
            if let Some(stage) = self.out.get(&id).copied() {
                self.send(id, stage, true);
            }
        }
    }

    fn send(&mut self, id: u16, stage: Stage, dup: bool) {
        let Some(packet_id) = PacketId::new(id) else { return };
        let (topic, qos, payload) = match stage {
            Stage::Released => return self.wire.ack(AckKind::PubRel, packet_id),
            Stage::Sent((producer, n)) => (EXACTLY_ONCE, Qos::ExactlyOnce, [producer.to_le_bytes(), n.to_le_bytes()].concat()),
            Stage::Retained(value) => (RETAINED, Qos::AtLeastOnce, value.to_le_bytes().to_vec()),
        };
        let publish = PublishOut {
            qos,
            dup,
            retain: topic == RETAINED,
            packet_id: Some(packet_id),
            topic: topic.as_bytes(),
            payload: &payload,
            ..PublishOut::default()
        };
        let mut bytes = Vec::new();
        if publish.encode(VERSION, u32::MAX, &mut bytes).is_ok() {
            self.wire.send(bytes);
        }
    }

    fn acked(&mut self, kind: AckKind, id: PacketId, reason: ReasonCode) -> Result<(), Broken> {
        let epoch = self.wire.epoch;
        let Some(stage) = self.out.get(&id.get()).copied() else {
            // It has been said before, on the connection that was lost.
            return Ok(());
        };
        match (kind, stage) {
            (AckKind::PubRec, Stage::Sent(message)) if !reason.is_error() => {
                self.history(|history| history.told(epoch, "a PUBREC").map(|()| history.once.confirmed(message)))?;
                self.out.insert(id.get(), Stage::Released);
                self.wire.ack(AckKind::PubRel, id);
            }
            (AckKind::PubRec, Stage::Released) => self.wire.ack(AckKind::PubRel, id),
            (AckKind::PubComp, Stage::Released) | (AckKind::PubRec, Stage::Sent(_)) => self.done(id.get()),
            (AckKind::PubAck, Stage::Retained(value)) => {
                if !reason.is_error() {
                    self.history(|history| history.retained.confirmed(value));
                }
                self.done(id.get());
            }
            _ => return Err(Broken::new("nothing_unexpected", format!("{kind:?} for packet {id}, which does not wait for it"))),
        }
        Ok(())
    }

    fn done(&mut self, id: u16) {
        self.out.remove(&id);
        self.order.retain(|other| *other != id);
    }
}

pub struct Subscriber {
    wire: Wire,
    history: Arc<Mutex<History>>,
    /// Its subscriptions were confirmed: they are part of the session from then on.
    subscribed: bool,
    asked: bool,
    /// Of messages that have come and are not released.
    got: BTreeSet<PacketId>,
    /// What was confirmed when it asked for the retained message again.
    looks: Option<u32>,
}

impl Subscriber {
    pub fn new(world: &World, door: Door, history: Arc<Mutex<History>>) -> Subscriber {
        let wire = Wire::new(world, door, "sub");
        Subscriber { wire, history, subscribed: false, asked: false, got: BTreeSet::new(), looks: None }
    }

    fn history<T>(&self, of: impl FnOnce(&mut History) -> T) -> T {
        of(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether its session has its subscription, so that nothing that is published from then on passes it by.
    pub fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    pub fn round(&mut self) -> Result<(), Broken> {
        for heard in self.wire.exchange()? {
            match heard {
                Heard::Accepted => (self.asked, self.looks) = (false, None),
                Heard::Granted => self.subscribed = true,
                Heard::Ack(AckKind::PubRel, id, _) => {
                    self.got.remove(&id);
                    self.wire.ack(AckKind::PubComp, id);
                }
                Heard::Ack(kind, id, _) => {
                    return Err(Broken::new("nothing_unexpected", format!("{kind:?} for packet {id} of who publishes nothing")));
                }
                Heard::Publish { qos, packet_id, topic, payload, retain } => self.take(qos, packet_id, &topic, &payload, retain)?,
            }
        }
        if self.wire.accepted && !self.subscribed && !self.asked {
            self.asked = true;
            self.subscribe(EXACTLY_ONCE, Qos::ExactlyOnce);
        }
        if self.wire.accepted && self.subscribed && self.wire.world.draw(|rng| rng.chance(1)) {
            // Each time it subscribes it is sent what is retained (MQTT 5.0, 3.3.1.3).
            self.looks = Some(self.history(|history| history.retained.confirmed_so_far()));
            self.subscribe(RETAINED, Qos::AtLeastOnce);
        }
        Ok(())
    }

    fn subscribe(&mut self, filter: &str, qos: Qos) {
        let options = SubscribeOptions { qos, retain_as_published: false, no_local: false, retain_handling: RetainHandling::Send };
        let filters = vec![SubscribeFilter { filter: filter.into(), options }];
        let subscribe = Subscribe { packet_id: PacketId::MAX, filters, properties: SubscribeProperties::default() };
        self.wire.send(encoded(&Packet::Subscribe(subscribe)));
    }

    fn take(&mut self, qos: Qos, packet_id: Option<PacketId>, topic: &[u8], payload: &[u8], retain: bool) -> Result<(), Broken> {
        let epoch = self.wire.epoch;
        let word = |at: usize| payload.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
        match (topic == EXACTLY_ONCE.as_bytes(), qos, packet_id) {
            (true, Qos::ExactlyOnce, Some(packet)) => {
                if self.got.insert(packet) {
                    let (Some(producer), Some(n)) = (word(0), word(4)) else {
                        return Err(Broken::new("nothing_unexpected", "a message that nobody sent".into()));
                    };
                    self.history(|history| {
                        history.told(epoch, "a delivery at QoS 2").and_then(|()| history.once.delivered((producer, n)))
                    })?;
                }
                self.wire.ack(AckKind::PubRec, packet);
            }
            (false, Qos::AtLeastOnce, Some(packet)) => {
                self.wire.ack(AckKind::PubAck, packet);
                if let (true, Some(since), Some(value)) = (retain, self.looks.take(), word(0)) {
                    self.history(|history| history.retained.seen(value, since))?;
                }
            }
            _ => return Err(Broken::new("nothing_unexpected", format!("{:?} at {qos:?}", String::from_utf8_lossy(topic)))),
        }
        Ok(())
    }
}

/// Both: nothing is published before the subscription is part of its session.
pub struct MqttClients {
    pub subscriber: Subscriber,
    pub publisher: Publisher,
}

impl Actor for MqttClients {
    fn round(&mut self, work: Work) -> Result<(), Broken> {
        self.subscriber.round()?;
        let work = if self.subscriber.is_subscribed() { work } else { Work::Drain };
        self.publisher.round(work)
    }
}
