//! Who takes part.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::consumer::{Consumer, Plan as Taker, Settling};
use super::mover::Mover;
use super::producer::{How, Plan as Sender, Producer};
use super::topology::{priority, LIGHT_PRODUCER, REJECT_EVERY, REJECT_REST};
use crate::checker::{self, Order};
use crate::consumer::Presence;
use crate::ledger::Ledger;
use crate::world::World;

#[derive(Default)]
pub struct Cast {
    producers: Vec<Sender>,
    consumers: Vec<Taker>,
    mover: bool,
}

impl Cast {
    /// Those of the drawing in [`super`].
    pub fn usual(keep_every: u64) -> Cast {
        let mut cast = Cast::without_mover(keep_every);
        cast.producers.push(Sender::new(3, How::Transactions(5)));
        cast.producers.push(Sender::new(LIGHT_PRODUCER, How::Once));
        cast.consumers.push(Taker { light: true, ..Taker::new(42, &["light"]) });
        cast.consumers.push(Taker {
            light: true,
            every: keep_every,
            qos: 2,
            presence: Presence::AtTheEnd,
            ..Taker::new(43, &["light.kept"])
        });
        cast.consumers[1].settling = Settling::Transactions;
        cast.consumers.push(Taker { settling: Settling::Transactions, ..Taker::new(40, &["moved.live"]) });
        cast.consumers.push(Taker { qos: 2, presence: Presence::AtTheEnd, ..Taker::new(41, &["moved.kept"]) });
        cast.mover = true;
        cast
    }

    /// For a disk that runs full: on it a client that publishes is held, its acknowledgements included. So nobody who consumes publishes,
    /// not even fences.
    pub fn for_a_full_disk(keep_every: u64) -> Cast {
        let mut cast = Cast::without_mover(keep_every);
        for plan in &mut cast.consumers {
            plan.settling = Settling::Unknown;
            if let Order::Ranked(of) = plan.order {
                plan.order = Order::Lanes(of);
            }
        }
        cast.consumers[1].presence = Presence::WhenAsked;
        cast.producers.iter_mut().for_each(|plan| plan.rate = 1500);
        cast
    }

    fn without_mover(keep_every: u64) -> Cast {
        let producers = [(1, How::Once), (2, How::AtLeastOnce), (4, How::Once)].map(|(id, how)| Sender::new(id, how)).to_vec();
        let at_the_end = |plan: Taker| Taker { qos: 2, presence: Presence::AtTheEnd, ..plan };
        let kept = |plan: Taker| Taker { every: keep_every, ..at_the_end(plan) };
        let rejected = |plan: Taker| Taker { every: REJECT_EVERY, rest: REJECT_REST, order: Order::Any, ..plan };
        let consumers = vec![
            Taker::new(31, &["all"]),
            Taker::new(32, &["replicated"]),
            Taker { order: Order::Lanes(priority), ..Taker::new(33, &["ranked"]) },
            kept(Taker { order: Order::Ranked(priority), ..Taker::new(34, &["ranked.kept"]) }),
            Taker { rejects: true, ..Taker::new(35, &["rejects"]) },
            rejected(Taker::new(36, &["rejected.live"])),
            at_the_end(rejected(Taker::new(37, &["rejected.kept"]))),
            kept(Taker::new(38, &["expired"])),
            // Together: what was not evicted is still there.
            kept(Taker { order: Order::Any, ..Taker::new(39, &["short", "evicted"]) }),
        ];
        Cast { producers, consumers, mover: false }
    }

    pub fn consumers_for_checker(&self) -> impl Iterator<Item = checker::Consumer> + '_ {
        self.consumers.iter().map(Taker::for_checker)
    }

    pub fn producers_for_checker(&self) -> impl Iterator<Item = checker::Producer> + '_ {
        self.producers.iter().map(Sender::for_checker)
    }

    /// Those of whom it is known what they have settled.
    pub fn settling(&self) -> impl Iterator<Item = u16> + '_ {
        self.consumers.iter().filter(|plan| plan.settling != Settling::Unknown).map(|plan| plan.id)
    }

    pub fn start_consumers(&self, world: &Arc<World>, ledger: &Ledger) -> Vec<JoinHandle<()>> {
        let mut threads = Vec::new();
        for plan in &self.consumers {
            let consumer = Consumer::new(*plan, self.mover, world.clone(), ledger.pen());
            threads.push(std::thread::spawn(move || consumer.run()));
        }
        if self.mover {
            let mover = Mover::new(world.clone());
            threads.push(std::thread::spawn(move || mover.run()));
        }
        threads
    }

    pub fn start_producers(&self, world: &Arc<World>, ledger: &Ledger) -> Vec<JoinHandle<()>> {
        let start = |plan: &Sender| {
            let producer = Producer::new(*plan, world.clone(), ledger.pen());
            std::thread::spawn(move || producer.run())
        };
        self.producers.iter().map(start).collect()
    }
}
