//! A client that takes messages from one queue and publishes them to two others, and acknowledges in the same transaction: wherever it is
//! cut off, each message is in the one or in both of the others. Now and then it rolls back and does it again.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use amqp091::codec::{Method, Table};

use super::link::{stray, Heard, Link};
use super::topology::{self, MOVED};
use crate::world::World;

/// Messages of one transaction, at most.
const MOVES: usize = 10;
const ROLLBACK_EVERY: u64 = 9;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

pub struct Mover {
    world: Arc<World>,
    transactions: u64,
}

impl Mover {
    pub fn new(world: Arc<World>) -> Mover {
        Mover { world, transactions: 0 }
    }

    pub fn run(mut self) {
        while !self.world.ending.load(Ordering::Relaxed) {
            let Some(addr) = self.world.addr() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            if let Err(error) = self.converse(addr) {
                self.world.note_trouble(format!("the mover: {error}"));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn converse(&mut self, addr: SocketAddr) -> io::Result<()> {
        let mut link = Link::open(addr)?;
        topology::declare(&mut link, true)?;
        link.call(Method::TxSelect {}, "tx.select_ok")?;
        link.call(Method::BasicQos { prefetch_size: 0, prefetch_count: 2 * MOVES as u16, global: false }, "basic.qos_ok")?;
        link.put(Method::BasicConsume {
            queue: b"moves",
            consumer_tag: b"moves",
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: true,
            arguments: Table::default(),
        });
        link.flush()?;
        // Deliveries that are not moved yet.
        let mut taken: Vec<(u64, Vec<u8>)> = Vec::new();
        loop {
            if self.world.ending.load(Ordering::Relaxed) {
                return link.close();
            }
            let mut heard = link.next(Duration::from_millis(10))?;
            while let Some(what) = heard {
                match what {
                    Heard::Delivery { tag, body, .. } => taken.push((tag, body)),
                    other => return Err(stray(&other)),
                }
                heard = if taken.len() < MOVES { link.at_hand()? } else { None };
            }
            self.world.still_at(addr)?;
            if taken.is_empty() {
                continue;
            }
            let moving = std::mem::take(&mut taken);
            self.transactions += 1;
            if self.transactions % ROLLBACK_EVERY == 0 {
                transact(&mut link, &moving, Method::TxRollback {}, "tx.rollback_ok", &mut taken)?;
            }
            transact(&mut link, &moving, Method::TxCommit {}, "tx.commit_ok", &mut taken)?;
        }
    }
}

/// What is delivered meanwhile is taken for the next transaction.
fn transact(link: &mut Link, moving: &[(u64, Vec<u8>)], end: Method<'_>, answer: &str, taken: &mut Vec<(u64, Vec<u8>)>) -> io::Result<()> {
    for (_, body) in moving {
        link.publish(MOVED, "", Some(2), 0, body);
    }
    if let Some((delivery_tag, _)) = moving.last() {
        link.put(Method::BasicAck { delivery_tag: *delivery_tag, multiple: true });
    }
    link.put(end);
    link.flush()?;
    loop {
        match link.next(ANSWER_WITHIN)? {
            Some(Heard::Delivery { tag, body, .. }) => taken.push((tag, body)),
            Some(Heard::Answer(name)) if name == answer => return Ok(()),
            Some(other) => return Err(stray(&other)),
            None => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no {answer}"))),
        }
    }
}
