//! A client that publishes numbered messages, with confirms or in transactions, and survives its broker.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp091::codec::Method;

use super::link::{stray, Heard, Link};
use super::topology::{priority, LIGHT, LIGHT_PRODUCER, LOAD};
use crate::checker::{self, Event};
use crate::ledger::Pen;
use crate::message;
use crate::world::World;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// With confirms; what is not confirmed when a connection ends is given up.
    Once,
    /// With confirms; what is not confirmed when a connection ends is sent again, in order.
    AtLeastOnce,
    /// So many in each transaction, now and then rolled back.
    Transactions(u64),
}

#[derive(Clone, Copy)]
pub struct Plan {
    pub id: u16,
    pub how: How,
    pub window: usize,
    /// Messages a second.
    pub rate: u64,
}

impl Plan {
    pub fn new(id: u16, how: How) -> Plan {
        Plan { id, how, window: 50, rate: 450 }
    }

    pub fn for_checker(&self) -> checker::Producer {
        let group = if let How::Transactions(size) = self.how { size } else { 1 };
        checker::Producer { group, ..checker::Producer::new(self.id, if self.how == How::AtLeastOnce { 1 } else { 2 }) }
    }
}

/// One transaction in so many is rolled back.
const ROLLBACK_EVERY: u64 = 7;
const COMMIT_WITHIN: Duration = Duration::from_secs(20);

pub struct Producer {
    plan: Plan,
    world: Arc<World>,
    pen: Pen,
    /// Published and not confirmed: delivery tags on this connection, and messages.
    pending: VecDeque<(u64, u64)>,
    last_tag: u64,
    next_n: u64,
    pace_from: Instant,
    paced: u64,
}

impl Producer {
    pub fn new(plan: Plan, world: Arc<World>, pen: Pen) -> Producer {
        world.producers_busy.fetch_add(1, Ordering::Relaxed);
        Producer { plan, world, pen, pending: VecDeque::new(), last_tag: 0, next_n: 1, pace_from: Instant::now(), paced: 0 }
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
        self.forget_pending();
        self.world.producers_busy.fetch_sub(1, Ordering::Relaxed);
    }

    fn converse(&mut self, addr: SocketAddr) -> io::Result<()> {
        let mut link = Link::open(addr)?;
        self.last_tag = 0;
        match self.plan.how {
            How::Transactions(size) => {
                self.forget_pending();
                // The last transaction may have got to any point: what was begun is never touched again.
                self.next_n = (self.next_n - 1).next_multiple_of(size) + 1;
                link.call(Method::TxSelect {}, "tx.select_ok")?;
            }
            How::Once => {
                self.forget_pending();
                link.call(Method::ConfirmSelect { nowait: false }, "confirm.select_ok")?;
            }
            How::AtLeastOnce => {
                link.call(Method::ConfirmSelect { nowait: false }, "confirm.select_ok")?;
                for again in std::mem::take(&mut self.pending) {
                    self.last_tag += 1;
                    self.pending.push_back((self.last_tag, again.1));
                    self.put(&mut link, again.1);
                }
            }
        }
        (self.pace_from, self.paced) = (Instant::now(), 0);
        loop {
            if let How::Transactions(size) = self.plan.how {
                self.transact(&mut link, addr, size)?;
            } else {
                self.publish(&mut link, addr)?;
            }
            let over = !self.world.sending.load(Ordering::Relaxed) && self.pending.is_empty();
            if over || self.world.ending.load(Ordering::Relaxed) {
                return link.close();
            }
        }
    }

    fn forget_pending(&mut self) {
        self.world.in_flight.fetch_sub(self.pending.len() as i64, Ordering::Relaxed);
        self.pending.clear();
    }

    fn may_send(&self) -> bool {
        self.world.sending.load(Ordering::Relaxed)
            && self.pending.len() < self.plan.window
            && self.paced < 1 + self.pace_from.elapsed().as_micros() as u64 * self.plan.rate / 1_000_000
    }

    fn begin(&mut self) -> u64 {
        let n = self.next_n;
        self.next_n += 1;
        self.paced += 1;
        self.last_tag += 1;
        self.pending.push_back((self.last_tag, n));
        self.world.in_flight.fetch_add(1, Ordering::Relaxed);
        n
    }

    fn put(&self, link: &mut Link, n: u64) {
        self.pen.note(Event::Sent { producer: self.plan.id, n });
        self.put_silently(link, n);
    }

    fn put_silently(&self, link: &mut Link, n: u64) {
        let kind = if n % self.world.keep_every == 0 { "keep" } else { "flow" };
        let body = message::make(self.world.run, self.plan.id, n, self.world.payload);
        let (exchange, mode) = if self.plan.id == LIGHT_PRODUCER { (LIGHT, None) } else { (LOAD, Some(2)) };
        link.publish(exchange, &format!("{}.{kind}", self.plan.id), mode, priority(n), &body);
    }

    /// What may be sent now, and what has been confirmed meanwhile.
    fn publish(&mut self, link: &mut Link, addr: SocketAddr) -> io::Result<()> {
        while self.may_send() {
            let n = self.begin();
            self.put(link, n);
        }
        link.flush()?;
        let mut heard = link.next(Duration::from_millis(5))?;
        while let Some(what) = heard {
            self.world.still_at(addr)?;
            match what {
                Heard::Ack { tag, multiple } => self.confirm(tag, multiple)?,
                other => return Err(self.refused(&other)),
            }
            heard = link.at_hand()?;
        }
        Ok(())
    }

    fn refused(&self, heard: &Heard) -> io::Error {
        self.world.refused.fetch_add(1, Ordering::Relaxed);
        stray(heard)
    }

    fn confirm(&mut self, tag: u64, multiple: bool) -> io::Result<()> {
        let Some(at) = self.pending.iter().position(|(pending, _)| *pending == tag) else {
            return Err(stray(&Heard::Ack { tag, multiple }));
        };
        let from = if multiple { 0 } else { at };
        for (_, n) in self.pending.drain(from..=at) {
            self.world.in_flight.fetch_sub(1, Ordering::Relaxed);
            self.pen.note(Event::Confirmed { producer: self.plan.id, n });
            self.world.note_confirmed(self.plan.id, n);
        }
        Ok(())
    }

    /// One whole transaction, to its end.
    fn transact(&mut self, link: &mut Link, addr: SocketAddr, size: u64) -> io::Result<()> {
        if !self.may_send() {
            std::thread::sleep(Duration::from_millis(2));
            return Ok(());
        }
        let back = (self.next_n - 1) / size % ROLLBACK_EVERY == ROLLBACK_EVERY - 1;
        for _ in 0..size {
            let n = self.begin();
            // What is rolled back was never sent: were it to arrive, nobody would expect it.
            match back {
                true => self.put_silently(link, n),
                false => self.put(link, n),
            }
        }
        let (method, answer) = if back { (Method::TxRollback {}, "tx.rollback_ok") } else { (Method::TxCommit {}, "tx.commit_ok") };
        link.put(method);
        link.flush()?;
        match link.next(COMMIT_WITHIN)? {
            Some(Heard::Answer(name)) if name == answer => {}
            Some(other) => return Err(self.refused(&other)),
            None => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no {answer}"))),
        }
        self.world.still_at(addr)?;
        if back {
            self.forget_pending();
            return Ok(());
        }
        self.confirm(self.last_tag, true)
    }
}
