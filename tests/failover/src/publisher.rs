//! The rig's own clients: publishers that stay with one node or go to whoever takes them, and the one consumer that reads it all at the end.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};

use crate::ledger::Ledger;
use crate::mqtt::{Connect, Link, Packet, PUBACK};
use crate::net::{A, B};
use crate::pair::{Pair, LONG};

/// Messages that a publisher has under way.
const WINDOW: usize = 20;
/// A second, of one publisher.
const RATE: u64 = 300;
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// So long without any answer, and a publisher that has two addresses tries the other one. Less than it takes to miss a silent primary.
const GIVES_UP_AFTER: Duration = Duration::from_millis(1500);

/// What it publishes to lands in the session of [`Drain`].
pub const TOPIC: &str = "t/x";

pub struct Publisher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    /// `nodes`: the one that it stays with, or both in the order in which it tries them.
    pub fn start(pair: &Pair, ledger: &Arc<Ledger>, nodes: &[usize]) -> Publisher {
        let id = ledger.producer(false, true);
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            id,
            nodes: nodes.iter().map(|node| (*node, pair.mqtt(*node))).collect(),
            ledger: ledger.clone(),
            stop: stop.clone(),
            next: 0,
        };
        Publisher { stop, thread: Some(std::thread::spawn(move || work.run())) }
    }

    /// One that stays with a, one that stays with b, one that goes to whoever serves.
    pub fn three(pair: &Pair, ledger: &Arc<Ledger>) -> Vec<Publisher> {
        [&[A][..], &[B], &[A, B]].iter().map(|nodes| Publisher::start(pair, ledger, nodes)).collect()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    id: u16,
    nodes: Vec<(usize, SocketAddr)>,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    next: u64,
}

impl Work {
    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(mut self) {
        let mut at = 0;
        while !self.over() {
            let (node, addr) = self.nodes[at % self.nodes.len()];
            if let Err(error) = self.converse(node, addr) {
                self.ledger.complain(format!("publisher {} at node {node}: {error}", self.id));
                std::thread::sleep(Duration::from_millis(10));
            }
            at += 1;
        }
    }

    /// What is unconfirmed when the connection ends is never sent again.
    fn converse(&mut self, node: usize, addr: SocketAddr) -> io::Result<()> {
        let client = format!("publisher-{}", self.id);
        let mut link = Link::open(addr, &Connect { client: &client, clean: true, will: None }, CONNECT_WITHIN)?;
        let mut open: BTreeMap<u16, u64> = BTreeMap::new();
        let (mut paced, mut answered) = (Instant::now(), Instant::now());
        while !self.over() {
            while open.len() < WINDOW && Instant::now() >= paced && !self.ledger.closing.load(Ordering::Relaxed) {
                self.next += 1;
                paced += Duration::from_micros(1_000_000 / RATE);
                let id = (self.next % 60_000) as u16 + 1;
                self.ledger.sent(self.id, self.next);
                link.publish(TOPIC, 1, id, false, false, format!("{} {} {:0100}", self.id, self.next, 0).as_bytes());
                open.insert(id, self.next);
            }
            link.flush()?;
            while let Some(packet) = link.next(Duration::from_millis(2))? {
                let now = Instant::now();
                let Packet::Ack(PUBACK, id) = packet else { return Err(io::Error::other(format!("{packet:?}"))) };
                let n = open.remove(&id).ok_or_else(|| io::Error::other("a PUBACK for nothing"))?;
                self.ledger.confirmed(self.id, n, now, Some(node));
                answered = now;
            }
            if open.is_empty() {
                answered = Instant::now();
            }
            let patient = self.nodes.len() == 1 && !self.ledger.impatient.load(Ordering::Relaxed);
            if !patient && answered.elapsed() > GIVES_UP_AFTER {
                return Err(io::Error::other("no answer"));
            }
        }
        Ok(())
    }
}

/// A session that everything is kept for, read once at the end.
pub struct Drain {
    client: String,
}

const QUIET: Duration = Duration::from_millis(600);

impl Drain {
    pub fn subscribe(pair: &Pair, node: usize) -> Result<Drain> {
        let client = "drain".to_owned();
        let mut link = Link::open(pair.mqtt(node), &Connect { client: &client, clean: false, will: None }, LONG)?;
        link.subscribe("t/#", 1, LONG)?;
        link.disconnect();
        Ok(Drain { client })
    }

    /// Into the ledger, until nothing more comes.
    pub fn read(&self, pair: &Pair, node: usize, ledger: &Ledger) -> Result<()> {
        let mut link = Link::open(pair.mqtt(node), &Connect { client: &self.client, clean: false, will: None }, LONG)?;
        ensure!(link.session_present, "the session of the consumer is gone");
        let (begun, mut last) = (Instant::now(), Instant::now());
        while last.elapsed() < QUIET {
            while let Some(packet) = link.next(Duration::from_millis(20))? {
                let Packet::Publish { dup, id, payload, .. } = packet else { bail!("unexpected: {packet:?}") };
                ledger.drained(&String::from_utf8_lossy(&payload), dup);
                link.ack(PUBACK, id);
                last = Instant::now();
                if link.out.len() > 400 {
                    link.flush()?;
                }
            }
            link.flush()?;
            ensure!(begun.elapsed() < LONG * 2, "the drain does not end");
        }
        link.disconnect();
        Ok(())
    }
}
