//! All clients of a rig, from the first subscription to the verdict.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::amqp;
use crate::checker::{self, Verdict};
use crate::ledger::Ledger;
use crate::wire::Version;
use crate::world::{wait_for, World};
use crate::{consumer, producer};

pub struct Mix {
    pub producers: Vec<producer::Plan>,
    pub consumers: Vec<consumer::Plan>,
    pub amqp: amqp::Cast,
    pub payload: usize,
    /// The partial consumers take every so manieth message.
    pub keep_every: u64,
}

impl Mix {
    /// Four producers (one of them forgetful), a QoS 1 and a QoS 2 consumer of everything, and an offline session that takes one message
    /// in twenty: its backlog pins survivors in segments that are dead otherwise, so the log has something to evacuate.
    pub fn usual() -> Mix {
        let mut producers: Vec<producer::Plan> =
            [(1, 1), (2, 1), (3, 2), (4, 2)].into_iter().map(|(id, qos)| producer::Plan::new(id, qos)).collect();
        producers[1].forgetful = true;
        let mut keeper = consumer::Plan::new(23, 2);
        (keeper.partial, keeper.presence) = (true, consumer::Presence::AtTheEnd);
        let consumers = vec![consumer::Plan::new(21, 1), consumer::Plan::new(22, 2), keeper];
        Mix { producers, consumers, amqp: amqp::Cast::default(), payload: 1024, keep_every: 20 }
    }

    /// AMQP 0-9-1 alone.
    pub fn amqp(cast: amqp::Cast, keep_every: u64) -> Mix {
        Mix { producers: Vec::new(), consumers: Vec::new(), amqp: cast, payload: 1024, keep_every }
    }

    /// QoS 2 only, one consumer per producer, two packets in flight each way (Receive Maximum 2): every exchange is often at each boundary.
    pub fn exactly_once(pairs: u16) -> Mix {
        let producer = |at| producer::Plan { window: 2, rate: 0, first_packet_id: 65_500, ..producer::Plan::new(1 + at, 2) };
        let consumer =
            |at| consumer::Plan { version: Version::V5, receive_maximum: 2, only: Some(1 + at), ..consumer::Plan::new(21 + at, 2) };
        let (producers, consumers) = ((0..pairs).map(producer).collect(), (0..pairs).map(consumer).collect());
        Mix { producers, consumers, amqp: amqp::Cast::default(), payload: 64, keep_every: 20 }
    }

    fn consumers_for_checker(&self) -> Vec<checker::Consumer> {
        let mqtt = self.consumers.iter().map(|plan| plan.for_checker(self.keep_every));
        mqtt.chain(self.amqp.consumers_for_checker()).collect()
    }

    fn producers_for_checker(&self) -> Vec<checker::Producer> {
        self.producers.iter().map(producer::Plan::for_checker).chain(self.amqp.producers_for_checker()).collect()
    }

    /// Those of whom it is known what they have settled.
    fn settling(&self) -> impl Iterator<Item = u16> + '_ {
        self.consumers.iter().filter(|plan| plan.fences).map(|plan| plan.id).chain(self.amqp.settling())
    }
}

pub struct Load {
    pub world: Arc<World>,
    ledger: Ledger,
    mix: Mix,
    /// For the checker.
    audience: Vec<checker::Consumer>,
    consumers: Vec<JoinHandle<()>>,
    producers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Consumers first; they subscribe as soon as the world has an address.
    pub fn new(mix: Mix, run: u32, ledger: &Path) -> Result<Load> {
        let audience = mix.consumers_for_checker();
        let world = World::new(run, mix.payload, mix.keep_every, &audience);
        let ledger = Ledger::create(ledger)?;
        let mut consumers = mix.amqp.start_consumers(&world, &ledger);
        for plan in &mix.consumers {
            let consumer = consumer::Consumer::new(*plan, world.clone(), ledger.pen());
            consumers.push(std::thread::spawn(move || consumer.run()));
        }
        Ok(Load { world, ledger, mix, audience, consumers, producers: Vec::new() })
    }

    /// Waits for the subscriptions, then lets the producers go.
    pub fn begin(&mut self, within: Duration) -> Result<()> {
        let ready = || self.audience.iter().all(|plan| self.world.progress_of(plan.id).ready);
        ensure!(wait_for(within, ready), "not every consumer could subscribe; last trouble: {}", self.world.trouble());
        for plan in &self.mix.producers {
            let producer = producer::Producer::new(*plan, self.world.clone(), self.ledger.pen());
            self.producers.push(std::thread::spawn(move || producer.run()));
        }
        self.producers.extend(self.mix.amqp.start_producers(&self.world, &self.ledger));
        Ok(())
    }

    /// Waits until `count` more messages are confirmed.
    pub fn confirm_more(&self, count: u64, within: Duration) -> Result<()> {
        let from = self.world.confirmed.load(Ordering::Relaxed);
        let done = || self.world.confirmed.load(Ordering::Relaxed) >= from + count;
        let enough = wait_for(within, done);
        let got = self.world.confirmed.load(Ordering::Relaxed) - from;
        ensure!(enough, "only {got} of {count} messages were confirmed within {within:?}; last trouble: {}", self.world.trouble());
        Ok(())
    }

    fn all_received(&self) -> bool {
        self.audience.iter().all(|plan| self.world.has_all(plan.id))
    }

    /// No more new messages; waits until every producer is done, every consumer has everything, and nothing more comes. Does not judge:
    /// what is missing after the wait is the checker's to find.
    pub fn drain(&self, patience: Duration) -> Drained {
        let world = &self.world;
        world.sending.store(false, Ordering::Relaxed);
        world.all_online.store(true, Ordering::Relaxed);
        let confirmed_all = self.while_moving(patience, || world.producers_busy.load(Ordering::Relaxed) <= 0);
        let received_all = self.while_moving(patience, || self.all_received());
        // Whatever comes now is one too many, or an unconfirmed one that made it.
        self.quiet(Duration::from_millis(400), patience);
        let settled = || {
            self.mix.settling().all(|id| {
                let progress = world.progress_of(id);
                progress.settled >= progress.received
            })
        };
        let settled_all = self.while_moving(patience, settled);
        Drained { confirmed_all, received_all, settled_all }
    }

    /// Waits until every consumer has what was confirmed so far.
    pub fn keep_up(&self, patience: Duration) -> bool {
        let marks = self.world.mark();
        self.while_moving(patience, || self.world.is_past(&marks))
    }

    /// Waits for a moment at which something is in flight, and answers how much.
    pub fn catch_in_flight(&self, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        while self.in_flight() == 0 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        self.in_flight()
    }

    /// Waits for `condition` as long as messages are still confirmed or received.
    fn while_moving(&self, patience: Duration, condition: impl Fn() -> bool) -> bool {
        let tally = || self.world.confirmed.load(Ordering::Relaxed) + self.world.received.load(Ordering::Relaxed);
        let (mut last, mut since) = (tally(), Instant::now());
        while !condition() {
            if tally() != last {
                (last, since) = (tally(), Instant::now());
            } else if since.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Waits until nothing was received for `pause`.
    pub fn quiet(&self, pause: Duration, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        loop {
            let before = self.world.received.load(Ordering::Relaxed);
            std::thread::sleep(pause);
            if self.world.received.load(Ordering::Relaxed) == before || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// After a restart on a drained store: everybody connects again, and nothing may come.
    pub fn expect_silence(&self, within: Duration) -> Result<()> {
        let before: Vec<u32> = self.audience.iter().map(|plan| self.world.progress_of(plan.id).connection).collect();
        let back = || (self.audience.iter().zip(&before)).all(|(plan, before)| self.world.progress_of(plan.id).connection > *before);
        ensure!(wait_for(within, back), "not every consumer came back; last trouble: {}", self.world.trouble());
        self.quiet(Duration::from_millis(400), within);
        Ok(())
    }

    pub fn in_flight(&self) -> u64 {
        self.world.in_flight.load(Ordering::Relaxed).max(0) as u64
    }

    pub fn confirmed(&self) -> u64 {
        self.world.confirmed.load(Ordering::Relaxed)
    }

    /// Ends every client and judges what they wrote down.
    pub fn finish(self) -> Result<Verdict> {
        self.world.sending.store(false, Ordering::Relaxed);
        self.world.ending.store(true, Ordering::Relaxed);
        for thread in self.producers.into_iter().chain(self.consumers) {
            thread.join().map_err(|_| anyhow::anyhow!("a client thread panicked"))?;
        }
        let events = self.ledger.close()?;
        Ok(checker::check(&events, &self.mix.producers_for_checker(), &self.audience))
    }
}

/// Which waits of a drain came to their end.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    pub confirmed_all: bool,
    pub received_all: bool,
    pub settled_all: bool,
}

impl Drained {
    pub fn judge(&self, load: &Load) -> Result<()> {
        ensure!(
            self.confirmed_all && self.received_all && self.settled_all,
            "the drain stood still ({self:?}); last trouble: {}",
            load.world.trouble()
        );
        Ok(())
    }
}
