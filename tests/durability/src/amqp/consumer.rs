//! A client that empties one queue or two. It writes down each message that its application would see. That what it acknowledged is settled
//! durably it knows by a fence, a publish behind the acknowledgements that is confirmed, or because the acknowledgements were a transaction.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp091::codec::{Method, Table};

use super::link::{stray, Heard, Link};
use super::topology::{self, FENCE, LIGHT_PRODUCER, REJECT_EVERY, REJECT_REST};
use crate::checker::{self, Event, Order};
use crate::consumer::Presence;
use crate::ledger::Pen;
use crate::message;
use crate::world::World;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settling {
    Fences,
    Transactions,
    /// Nothing is known to be settled.
    Unknown,
}

#[derive(Clone, Copy)]
pub struct Plan {
    pub id: u16,
    pub queues: &'static [&'static str],
    /// 2: what was published once comes once.
    pub qos: u8,
    /// Which messages come here.
    pub every: u64,
    pub rest: u64,
    pub order: Order,
    pub settling: Settling,
    /// Rejects what [`REJECT_EVERY`] says, and acknowledges the others one by one.
    pub rejects: bool,
    pub presence: Presence,
    pub prefetch: u16,
    /// Of the light producer's messages, and of no others.
    pub light: bool,
}

impl Plan {
    pub fn new(id: u16, queues: &'static [&'static str]) -> Plan {
        Plan {
            id,
            queues,
            qos: 1,
            every: 1,
            rest: 0,
            order: Order::Sent,
            settling: Settling::Fences,
            rejects: false,
            presence: Presence::Always,
            prefetch: 200,
            light: false,
        }
    }

    pub fn for_checker(&self) -> checker::Consumer {
        let (only, except) = if self.light { (Some(LIGHT_PRODUCER), None) } else { (None, Some(LIGHT_PRODUCER)) };
        let Plan { every, rest, order, .. } = *self;
        checker::Consumer { every, rest, only, except, order, ..checker::Consumer::new(self.id, self.qos) }
    }
}

/// Messages between two fences.
const FENCE_EVERY: u64 = 500;
/// A fence is also sent when nothing came for this long and something is unsettled.
const FENCE_IDLE: Duration = Duration::from_millis(100);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

pub struct Consumer {
    plan: Plan,
    with_mover: bool,
    world: Arc<World>,
    pen: Pen,
    declared: bool,
    connection: u32,
    received: u64,
    settled: u64,
    /// The last delivery that is to be acknowledged with all before it.
    unacked: Option<u64>,
    /// What a fence or a commit under way covers.
    asked: Option<u64>,
    last_arrival: Instant,
}

impl Consumer {
    pub fn new(plan: Plan, with_mover: bool, world: Arc<World>, pen: Pen) -> Consumer {
        Consumer {
            plan,
            with_mover,
            world,
            pen,
            declared: false,
            connection: 0,
            received: 0,
            settled: 0,
            unacked: None,
            asked: None,
            last_arrival: Instant::now(),
        }
    }

    pub fn run(mut self) {
        while !self.world.ending.load(Ordering::Relaxed) {
            let away = self.declared && self.away();
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

    fn away(&self) -> bool {
        match self.plan.presence {
            Presence::Always => false,
            // Ranks can only be told apart once all messages are there.
            Presence::AtTheEnd if matches!(self.plan.order, Order::Ranked(_)) && self.world.producers_busy.load(Ordering::Relaxed) > 0 => {
                true
            }
            Presence::AtTheEnd => !self.world.all_online.load(Ordering::Relaxed),
            Presence::WhenAsked => !self.world.asked.load(Ordering::Relaxed),
        }
    }

    fn converse(&mut self, addr: SocketAddr) -> io::Result<()> {
        let mut link = Link::open(addr)?;
        (self.unacked, self.asked) = (None, None);
        if !self.declared {
            topology::declare(&mut link, self.with_mover)?;
            self.declared = true;
        }
        if !self.away() {
            self.consume(&mut link)?;
        }
        self.connection += 1;
        self.world.progress(self.plan.id, |progress| {
            progress.ready = true;
            progress.connection = self.connection;
        });
        loop {
            if self.away() || self.world.ending.load(Ordering::Relaxed) {
                return self.leave(link);
            }
            let mut heard = link.next(Duration::from_millis(10))?;
            while let Some(what) = heard {
                self.world.still_at(addr)?;
                self.take(&mut link, what)?;
                heard = link.at_hand()?;
            }
            self.acknowledge(&mut link);
            self.settle(&mut link);
            link.flush()?;
        }
    }

    fn consume(&self, link: &mut Link) -> io::Result<()> {
        match self.plan.settling {
            Settling::Fences => link.put(Method::ConfirmSelect { nowait: true }),
            Settling::Transactions => link.put(Method::TxSelect {}),
            Settling::Unknown => {}
        }
        link.call(Method::BasicQos { prefetch_size: 0, prefetch_count: self.plan.prefetch, global: false }, "basic.qos_ok")?;
        for queue in self.plan.queues {
            link.put(Method::BasicConsume {
                queue: queue.as_bytes(),
                consumer_tag: queue.as_bytes(),
                no_local: false,
                no_ack: false,
                exclusive: false,
                nowait: true,
                arguments: Table::default(),
            });
        }
        link.flush()
    }

    /// Takes no more, and leaves nothing behind that it has seen and not acknowledged.
    fn leave(&mut self, mut link: Link) -> io::Result<()> {
        for queue in self.plan.queues {
            link.put(Method::BasicCancel { consumer_tag: queue.as_bytes(), nowait: false });
        }
        link.flush()?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut left = self.plan.queues.len();
        while left > 0 && Instant::now() < deadline {
            match link.next(Duration::from_millis(10))? {
                Some(Heard::Answer("basic.cancel_ok")) => left -= 1,
                Some(what) => self.take(&mut link, what)?,
                None => {}
            }
        }
        self.acknowledge(&mut link);
        if self.plan.settling == Settling::Transactions {
            link.put(Method::TxCommit {});
        }
        link.close()
    }

    fn take(&mut self, link: &mut Link, heard: Heard) -> io::Result<()> {
        match heard {
            Heard::Delivery { tag, redelivered, body } => {
                let n = self.deliver(&body, redelivered);
                if !self.plan.rejects {
                    self.unacked = Some(tag);
                } else if n.is_some_and(|n| n % REJECT_EVERY == REJECT_REST) {
                    link.put(Method::BasicReject { delivery_tag: tag, requeue: false });
                } else {
                    link.put(Method::BasicAck { delivery_tag: tag, multiple: false });
                }
                Ok(())
            }
            Heard::Ack { .. } | Heard::Answer("tx.commit_ok") => {
                if let Some(count) = self.asked.take() {
                    self.settled = count;
                    self.pen.note(Event::Settled { consumer: self.plan.id, connection: self.connection, count });
                    self.world.progress(self.plan.id, |progress| progress.settled = count);
                }
                Ok(())
            }
            Heard::Answer("tx.select_ok") => Ok(()),
            other => Err(stray(&other)),
        }
    }

    fn deliver(&mut self, body: &[u8], redelivered: bool) -> Option<u64> {
        self.last_arrival = Instant::now();
        let consumer = self.plan.id;
        let Some((producer, n)) = message::read(self.world.run, body) else {
            self.pen.note(Event::Garbage { consumer });
            return None;
        };
        self.received += 1;
        self.pen.note(Event::Received { consumer, producer, n, dup: redelivered, connection: self.connection });
        self.world.note_received(consumer, producer, n, self.received);
        Some(n)
    }

    fn acknowledge(&mut self, link: &mut Link) {
        if let Some(delivery_tag) = self.unacked.take() {
            link.put(Method::BasicAck { delivery_tag, multiple: true });
        }
    }

    fn settle(&mut self, link: &mut Link) {
        let unsettled = self.received - self.settled;
        if self.asked.is_some() || unsettled == 0 {
            return;
        }
        let due = unsettled >= FENCE_EVERY || self.last_arrival.elapsed() >= FENCE_IDLE;
        match self.plan.settling {
            Settling::Transactions => link.put(Method::TxCommit {}),
            Settling::Fences if due => link.publish("", FENCE, Some(2), 0, b""),
            Settling::Fences | Settling::Unknown => return,
        }
        self.asked = Some(self.received);
    }
}
