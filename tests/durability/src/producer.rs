//! A client that publishes numbered messages and survives its broker: what is not confirmed when a connection ends is sent again on the
//! next one, in order, as MQTT 3.1.1 4.4 and MQTT 5.0 4.4 ask.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::checker::{self, Event};
use crate::ledger::Pen;
use crate::link::Link;
use crate::message;
use crate::wire::{self, Ack, Connect, Packet, Version};
use crate::world::{Point, World};

#[derive(Clone, Copy)]
pub struct Plan {
    pub id: u16,
    pub qos: u8,
    pub version: Version,
    pub window: usize,
    /// Messages a second; 0 is as fast as it goes.
    pub rate: u64,
    /// Drops what is unconfirmed when a connection ends, instead of sending it again (QoS 1 only).
    pub forgetful: bool,
    pub first_packet_id: u16,
}

impl Plan {
    pub fn new(id: u16, qos: u8) -> Plan {
        let version = if id % 2 == 0 { Version::V4 } else { Version::V5 };
        // Near the end of the range, so that ids wrap within the first seconds.
        Plan { id, qos, version, window: 50, rate: 1500, forgetful: false, first_packet_id: 65_400 }
    }

    pub fn for_checker(&self) -> checker::Producer {
        checker::Producer::new(self.id, self.qos)
    }
}

/// A message that the broker has not finished with.
struct Pending {
    packet_id: u16,
    n: u64,
    released: bool,
}

pub struct Producer {
    plan: Plan,
    world: Arc<World>,
    pen: Pen,
    pending: VecDeque<Pending>,
    next_id: u16,
    next_n: u64,
    connections: u32,
    pace_from: Instant,
    paced: u64,
}

impl Producer {
    pub fn new(plan: Plan, world: Arc<World>, pen: Pen) -> Producer {
        world.producers_busy.fetch_add(1, Ordering::Relaxed);
        Producer {
            plan,
            world,
            pen,
            pending: VecDeque::new(),
            next_id: plan.first_packet_id,
            next_n: 1,
            connections: 0,
            pace_from: Instant::now(),
            paced: 0,
        }
    }

    /// Until the world stops sending and all is confirmed, or the world ends.
    pub fn run(mut self) {
        while !self.world.ending.load(Ordering::Relaxed) {
            let Some(addr) = self.world.addr() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            match self.converse(addr) {
                Ok(()) => break,
                Err(error) => {
                    self.world.note_trouble(format!("producer {}: {error}", self.plan.id));
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
        self.world.in_flight.fetch_sub(self.pending.len() as i64, Ordering::Relaxed);
        self.world.producers_busy.fetch_sub(1, Ordering::Relaxed);
    }

    fn converse(&mut self, addr: SocketAddr) -> io::Result<()> {
        let client_id = format!("producer-{}", self.plan.id);
        let connect = Connect {
            version: self.plan.version,
            client_id: &client_id,
            clean: self.plan.forgetful,
            keep_alive_secs: 60,
            receive_maximum: 0,
        };
        let (mut link, present) = Link::open(addr, &connect)?;
        if self.connections > 0 && !present && !self.plan.forgetful {
            self.pen.note(Event::SessionLost { client: self.plan.id });
        }
        self.connections += 1;
        self.resume(&mut link)?;
        (self.pace_from, self.paced) = (Instant::now(), 0);
        loop {
            self.send_new(&mut link)?;
            link.flush()?;
            let over = !self.world.sending.load(Ordering::Relaxed) && self.pending.is_empty();
            if over || self.world.ending.load(Ordering::Relaxed) {
                wire::disconnect(&mut link.out);
                return link.flush();
            }
            let wait = if self.may_send() { Duration::ZERO } else { Duration::from_millis(5) };
            let mut packet = link.next(wait)?;
            while let Some(taken) = packet {
                self.world.still_at(addr)?;
                self.answer(&mut link, taken)?;
                packet = if link.has_packet()? { link.next(Duration::ZERO)? } else { None };
            }
        }
    }

    fn resume(&mut self, link: &mut Link) -> io::Result<()> {
        if self.plan.forgetful {
            self.world.in_flight.fetch_sub(self.pending.len() as i64, Ordering::Relaxed);
            self.pending.clear();
        }
        let again: Vec<(u16, u64, bool)> = self.pending.iter().map(|pending| (pending.packet_id, pending.n, pending.released)).collect();
        for (packet_id, n, released) in again {
            if released {
                wire::ack(&mut link.out, Ack::Pubrel, packet_id);
            } else {
                self.put(link, packet_id, n, true);
            }
        }
        link.flush()
    }

    fn may_send(&self) -> bool {
        let world = &self.world;
        if !world.sending.load(Ordering::Relaxed) || self.pending.len() >= self.plan.window {
            return false;
        }
        self.plan.rate == 0 || self.paced < 1 + self.pace_from.elapsed().as_micros() as u64 * self.plan.rate / 1_000_000
    }

    fn send_new(&mut self, link: &mut Link) -> io::Result<()> {
        while self.may_send() {
            let (packet_id, n) = (self.free_id(), self.next_n);
            self.next_n += 1;
            self.paced += 1;
            self.pending.push_back(Pending { packet_id, n, released: false });
            self.world.in_flight.fetch_add(1, Ordering::Relaxed);
            self.put(link, packet_id, n, false);
            self.pass(link, Point::SentPublish)?;
        }
        Ok(())
    }

    fn put(&self, link: &mut Link, packet_id: u16, n: u64, dup: bool) {
        let kind = if n % self.world.keep_every == 0 { "keep" } else { "flow" };
        let topic = format!("load/{}/{kind}", self.plan.id);
        let body = message::make(self.world.run, self.plan.id, n, self.world.payload);
        self.pen.note(Event::Sent { producer: self.plan.id, n });
        wire::publish(&mut link.out, self.plan.version, dup, self.plan.qos, packet_id, &topic, &body);
    }

    fn free_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or_else(|| {
                self.world.wraps.fetch_add(1, Ordering::Relaxed);
                1
            });
            if !self.pending.iter().any(|pending| pending.packet_id == id) {
                return id;
            }
        }
    }

    fn answer(&mut self, link: &mut Link, packet: Packet) -> io::Result<()> {
        match packet {
            // MQTT 5.0, 3.7.2.1: an unknown id at a PUBREL is no error after a reconnect: the broker had finished, the PUBCOMP was lost.
            Packet::Ack { ack, reason, .. } if reason >= 0x80 && !(ack == Ack::Pubcomp && reason == 0x92 && self.connections > 1) => {
                self.world.refused.fetch_add(1, Ordering::Relaxed);
                Err(io::Error::other(format!("the broker refused a publish: {reason:#x}")))
            }
            Packet::Ack { ack: Ack::Puback, id, .. } if self.plan.qos == 1 => {
                let Some(at) = self.find(id) else { return Err(stray(&packet)) };
                self.confirm(at);
                self.done(at);
                Ok(())
            }
            Packet::Ack { ack: Ack::Pubrec, id, .. } if self.plan.qos == 2 => {
                let Some(at) = self.find(id) else { return Err(stray(&packet)) };
                if !self.pending[at].released {
                    self.confirm(at);
                }
                self.pass(link, Point::GotPubrec)?;
                self.pending[at].released = true;
                wire::ack(&mut link.out, Ack::Pubrel, id);
                self.pass(link, Point::SentPubrel)
            }
            Packet::Ack { ack: Ack::Pubcomp, id, .. } if self.plan.qos == 2 => {
                let Some(at) = self.find(id).filter(|at| self.pending[*at].released) else { return Err(stray(&packet)) };
                self.done(at);
                self.pass(link, Point::GotPubcomp)
            }
            Packet::Pingresp => Ok(()),
            other => Err(stray(&other)),
        }
    }

    fn find(&self, id: u16) -> Option<usize> {
        self.pending.iter().position(|pending| pending.packet_id == id)
    }

    fn confirm(&self, at: usize) {
        let n = self.pending[at].n;
        self.pen.note(Event::Confirmed { producer: self.plan.id, n });
        self.world.note_confirmed(self.plan.id, n);
    }

    fn done(&mut self, at: usize) {
        self.pending.remove(at);
        self.world.in_flight.fetch_sub(1, Ordering::Relaxed);
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

pub fn stray(packet: &Packet) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected: {packet:?}"))
}
