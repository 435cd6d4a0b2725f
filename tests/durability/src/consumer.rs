//! A client with a session that outlives its connections. It writes down each message that its application would see, and now and then
//! publishes a fence: once that is confirmed, everything it acknowledged before is settled durably (LSN order = order on the connection).

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::checker::{self, Event};
use crate::ledger::Pen;
use crate::link::Link;
use crate::message;
use crate::producer::stray;
use crate::wire::{self, Ack, Connect, Packet, Version};
use crate::world::{Point, World};

#[derive(Clone, Copy)]
pub struct Plan {
    pub id: u16,
    pub qos: u8,
    pub version: Version,
    /// MQTT 5 only; 0 leaves it to the default.
    pub receive_maximum: u16,
    /// Takes only every `keep_every`-th message.
    pub partial: bool,
    pub only: Option<u16>,
    pub presence: Presence,
    /// Publishes fences; without them nothing is known to be settled.
    pub fences: bool,
}

/// When it is connected; everybody connects once to subscribe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    Always,
    /// Stays away until the world calls everybody in.
    AtTheEnd,
    /// Comes and goes as the rig asks.
    WhenAsked,
}

impl Plan {
    pub fn new(id: u16, qos: u8) -> Plan {
        let version = if id % 2 == 0 { Version::V4 } else { Version::V5 };
        Plan { id, qos, version, receive_maximum: 0, partial: false, only: None, presence: Presence::Always, fences: true }
    }

    pub fn for_checker(&self, keep_every: u64) -> checker::Consumer {
        let every = if self.partial { keep_every } else { 1 };
        checker::Consumer { every, only: self.only, ..checker::Consumer::new(self.id, self.qos) }
    }
}

/// Messages between two fences.
const FENCE_EVERY: u64 = 500;
/// A fence is also sent when nothing came for this long and something is unsettled.
const FENCE_IDLE: Duration = Duration::from_millis(100);
const FENCE_ID: u16 = 7;
const SUBACK_WITHIN: Duration = Duration::from_secs(20);

pub struct Consumer {
    plan: Plan,
    world: Arc<World>,
    pen: Pen,
    subscribed: bool,
    connection: u32,
    /// QoS 2 ids whose PUBREL has not come: the client's own part of exactly once (MQTT 5.0, 4.3.3 method B).
    half_way: HashSet<u16>,
    received: u64,
    settled: u64,
    /// What a fence in flight covers.
    fence: Option<u64>,
    last_arrival: Instant,
}

impl Consumer {
    pub fn new(plan: Plan, world: Arc<World>, pen: Pen) -> Consumer {
        Consumer {
            plan,
            world,
            pen,
            subscribed: false,
            connection: 0,
            half_way: HashSet::new(),
            received: 0,
            settled: 0,
            fence: None,
            last_arrival: Instant::now(),
        }
    }

    pub fn run(mut self) {
        while !self.world.ending.load(Ordering::Relaxed) {
            let away = self.subscribed && self.away();
            let Some(addr) = self.world.addr().filter(|_| !away) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            if let Err(error) = self.converse(addr) {
                self.world.note_trouble(format!("consumer {}: {error}", self.plan.id));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn converse(&mut self, addr: SocketAddr) -> io::Result<()> {
        let client_id = format!("consumer-{}", self.plan.id);
        let connect = Connect {
            version: self.plan.version,
            client_id: &client_id,
            clean: false,
            keep_alive_secs: 60,
            receive_maximum: self.plan.receive_maximum,
        };
        let (mut link, present) = Link::open(addr, &connect)?;
        self.connection += 1;
        self.fence = None;
        if !present {
            if self.subscribed {
                self.pen.note(Event::SessionLost { client: self.plan.id });
            }
            self.half_way.clear();
            self.subscribe(&mut link)?;
        } else if !self.subscribed {
            // The SUBSCRIBE of a connection that died may or may not have been taken.
            self.subscribe(&mut link)?;
        }
        self.world.progress(self.plan.id, |progress| {
            progress.ready = true;
            progress.connection = self.connection;
        });
        loop {
            if self.away() || self.world.ending.load(Ordering::Relaxed) {
                wire::disconnect(&mut link.out);
                return link.flush();
            }
            let mut packet = link.next(Duration::from_millis(10))?;
            while let Some(taken) = packet {
                self.world.still_at(addr)?;
                self.take(&mut link, taken)?;
                packet = if link.has_packet()? { link.next(Duration::ZERO)? } else { None };
            }
            self.settle(&mut link);
            link.flush()?;
        }
    }

    fn away(&self) -> bool {
        match self.plan.presence {
            Presence::Always => false,
            Presence::AtTheEnd => !self.world.all_online.load(Ordering::Relaxed),
            Presence::WhenAsked => !self.world.asked.load(Ordering::Relaxed),
        }
    }

    fn subscribe(&mut self, link: &mut Link) -> io::Result<()> {
        let who = self.plan.only.map_or("+".into(), |only| only.to_string());
        let what = if self.plan.partial { "keep" } else { "+" };
        // It takes its own fences too, so that each is a real publish with a place in the log.
        let filters = [(format!("load/{who}/{what}"), self.plan.qos), (format!("fence/{}", self.plan.id), 1)];
        wire::subscribe(&mut link.out, self.plan.version, 1, &filters);
        link.flush()?;
        let deadline = Instant::now() + SUBACK_WITHIN;
        loop {
            match link.expect(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))? {
                Packet::Suback { codes } if codes == [self.plan.qos, 1] => break,
                Packet::Suback { codes } => return Err(io::Error::other(format!("SUBACK {codes:?}"))),
                // MQTT 3.1.1, 3.8.4: messages may come before the SUBACK.
                other => self.take(link, other)?,
            }
        }
        self.subscribed = true;
        Ok(())
    }

    fn take(&mut self, link: &mut Link, packet: Packet) -> io::Result<()> {
        match packet {
            Packet::Publish { dup, qos, id, topic, payload } => {
                let known = qos == 2 && !self.half_way.insert(id);
                if qos == 2 {
                    if !known {
                        self.deliver(&topic, &payload, dup);
                    }
                    self.pass(link, Point::GotPublish)?;
                    wire::ack(&mut link.out, Ack::Pubrec, id);
                    return self.pass(link, Point::SentPubrec);
                }
                self.deliver(&topic, &payload, dup);
                if qos == 1 {
                    wire::ack(&mut link.out, Ack::Puback, id);
                }
                Ok(())
            }
            Packet::Ack { ack: Ack::Pubrel, id, .. } => {
                self.pass(link, Point::GotPubrel)?;
                self.half_way.remove(&id);
                wire::ack(&mut link.out, Ack::Pubcomp, id);
                self.pass(link, Point::SentPubcomp)
            }
            Packet::Ack { ack: Ack::Puback, id: FENCE_ID, reason } if reason < 0x80 => {
                if let Some(count) = self.fence.take() {
                    self.settled = count;
                    self.pen.note(Event::Settled { consumer: self.plan.id, connection: self.connection, count });
                    self.world.progress(self.plan.id, |progress| progress.settled = count);
                }
                Ok(())
            }
            other => Err(stray(&other)),
        }
    }

    fn deliver(&mut self, topic: &str, payload: &[u8], dup: bool) {
        if topic.starts_with("fence/") {
            return;
        }
        self.last_arrival = Instant::now();
        let consumer = self.plan.id;
        let Some((producer, n)) = message::read(self.world.run, payload) else {
            self.pen.note(Event::Garbage { consumer });
            return;
        };
        self.received += 1;
        self.pen.note(Event::Received { consumer, producer, n, dup, connection: self.connection });
        self.world.note_received(consumer, producer, n, self.received);
    }

    /// A fence covers what was acknowledged finally: at QoS 2 only once no exchange is half way.
    fn settle(&mut self, link: &mut Link) {
        let unsettled = self.received - self.settled;
        let due = unsettled >= FENCE_EVERY || (unsettled > 0 && self.last_arrival.elapsed() >= FENCE_IDLE);
        if !self.plan.fences || self.fence.is_some() || !due || !self.half_way.is_empty() {
            return;
        }
        self.fence = Some(self.received);
        let topic = format!("fence/{}", self.plan.id);
        wire::publish(&mut link.out, self.plan.version, false, 1, FENCE_ID, &topic, b"");
    }

    fn pass(&self, link: &mut Link, point: Point) -> io::Result<()> {
        if self.world.springs(point) {
            let flushed = link.flush();
            self.world.fire();
            flushed?;
        }
        Ok(())
    }
}
