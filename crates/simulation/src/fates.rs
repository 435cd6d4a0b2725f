//! A client whose queues have a time to live with dead letters, a bound, and priorities.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use broker_api::{ConsumerIx, Control, CreditTo, Declare, Head, Outcome, QueueName, QueueSpec, Settle, Turn, HEAD_CONFIRM, HEAD_DURABLE};

use crate::client::{Actor, Work};
use crate::door::{Answer, Door};
use crate::history::{Broken, History};
use crate::promises::{Fate, Ranks, BOUND, TTL};
use crate::session::{Connection, Delivered, Heard, OWNER};
use crate::transactions::consume;
use crate::world::World;

const SHORT: &str = "fate-short";
const DEAD: &str = "fate-dead";
const LAST: &str = "fate-last";
const RANKED: &str = "fate-ranked";
const PRIORITIES: u64 = 4;
const CREDIT: u32 = 20;
/// Messages that are not confirmed yet, at most.
const WINDOW: usize = 10;

pub struct Fates {
    world: World,
    door: Door,
    history: Arc<Mutex<History>>,
    /// No wall clock is moved while something restarts.
    exact: bool,
    next: u32,
    connection: Option<Connection>,
    known: Known,
}

/// Of one connection.
#[derive(Default)]
struct Known {
    serial: u64,
    waiting: VecDeque<(u64, u32)>,
    held: VecDeque<(Delivered, u32)>,
    settling: VecDeque<(u64, Vec<u32>)>,
    ranks: Ranks,
    drains: bool,
}

impl Fates {
    pub fn new(world: &World, door: Door, history: Arc<Mutex<History>>, exact: bool) -> Fates {
        Fates { world: world.clone(), door, history, exact, next: 0, connection: None, known: Known::default() }
    }

    fn history<T>(&self, of: impl FnOnce(&mut History) -> T) -> T {
        of(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn talk(&mut self, connection: &mut Connection, work: Work) -> Result<(), Broken> {
        let epoch = connection.serving.epoch;
        for heard in connection.hear() {
            match heard {
                Heard::Delivered(delivered) => self.delivered(delivered, epoch)?,
                Heard::Done(through) => self.done(through, epoch)?,
                // Not taken, so nothing was promised.
                Heard::Refused(first, last) => self.known.waiting.retain(|(serial, _)| !(first..=last).contains(serial)),
                Heard::Replied(token, false) => return Err(Broken::new("it_runs", format!("command {} was refused", token.0))),
                Heard::Replied(..) => {}
            }
        }
        let mut turn = Turn::default();
        self.settle(&mut turn, work);
        if work == Work::Both && !connection.saturated() {
            self.publish(&mut turn);
        }
        if work == Work::Drain && !std::mem::replace(&mut self.known.drains, true) {
            turn.control(connection.token(), Control::Consume(consume(ConsumerIx(3), LAST, CREDIT)));
        }
        connection.submit(&mut turn);
        Ok(())
    }

    fn delivered(&mut self, delivered: Delivered, epoch: u64) -> Result<(), Broken> {
        let Some(n) = delivered.body.get(..4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes) else {
            return Err(Broken::new("nothing_unexpected", "a body that nobody sent".into()));
        };
        let from = match delivered.to.0 {
            1 => Fate::Expires,
            2 => Fate::Ranked(0),
            _ => Fate::Bounded,
        };
        let (now, exact, mut ranks) = (self.world.elapsed(), self.exact, std::mem::take(&mut self.known.ranks));
        self.history(|history| {
            history.told(epoch, "a delivery")?;
            history.fates.delivered(n, from, now, exact, &mut ranks)
        })?;
        self.known.ranks = ranks;
        self.known.held.push_back((delivered, n));
        Ok(())
    }

    fn done(&mut self, through: u64, epoch: u64) -> Result<(), Broken> {
        while let Some((_, n)) = self.known.waiting.front().copied().filter(|(serial, _)| *serial <= through) {
            self.known.waiting.pop_front();
            self.history(|history| {
                history.told(epoch, "a confirm")?;
                history.fates.confirmed(n);
                Ok(())
            })?;
        }
        while self.known.settling.front().is_some_and(|(serial, _)| *serial <= through) {
            let (_, settled) = self.known.settling.pop_front().unwrap_or_default();
            self.history(|history| settled.into_iter().for_each(|n| history.fates.settled(n)));
        }
        Ok(())
    }

    fn settle(&mut self, turn: &mut Turn, work: Work) {
        let settles = if work == Work::Drain { usize::MAX } else { self.world.draw(|rng| rng.below(4)) as usize };
        let mut settled = Vec::new();
        while settled.len() < settles {
            let Some((Delivered { to, queue, seq, .. }, n)) = self.known.held.pop_front() else { break };
            turn.settle(Settle { queue, first: seq, count: 1, owner: OWNER, state: 0, outcome: Outcome::Accepted });
            turn.credit(CreditTo::Consumer(to), 1);
            settled.push(n);
        }
        if !settled.is_empty() {
            self.history(|history| settled.iter().for_each(|n| history.fates.settling(*n)));
            turn.fence();
            self.known.serial += 1;
            self.known.settling.push_back((self.known.serial, settled));
        }
    }

    /// Now and then something: one that will expire, a few at once where a bound is, or a few with priorities.
    fn publish(&mut self, turn: &mut Turn) {
        let (kind, count) = self.world.draw(|rng| (rng.below(8), 1 + rng.below(5)));
        let (queue, count) = match kind {
            0 => (SHORT, 1),
            1 => (LAST, count),
            2 => (RANKED, count),
            _ => return,
        };
        for _ in 0..count {
            if self.known.waiting.len() >= WINDOW {
                return;
            }
            self.next += 1;
            let (n, now) = (self.next, self.world.elapsed());
            let priority = if queue == RANKED { self.world.draw(|rng| rng.below(PRIORITIES)) as u8 } else { 0 };
            let fate = match queue {
                SHORT => Fate::Expires,
                LAST => Fate::Bounded,
                _ => Fate::Ranked(priority),
            };
            self.history(|history| history.fates.sent(n, fate, now));
            let (key, body) = (turn.intern(queue.as_bytes()), turn.intern(&n.to_le_bytes()));
            let flags = HEAD_DURABLE | HEAD_CONFIRM;
            turn.publish(Head { key, body, flags, priority, level: 1, separator: b'.', owner: OWNER.0, ..Head::default() });
            self.known.serial += 1;
            self.known.waiting.push_back((self.known.serial, n));
        }
    }
}

impl Actor for Fates {
    fn round(&mut self, work: Work) -> Result<(), Broken> {
        let serving = match self.door.knock() {
            Answer::Closed => {
                (self.connection, self.known) = (None, Known::default());
                return Ok(());
            }
            Answer::Silent => return Ok(()),
            Answer::Open(serving) => serving,
        };
        if self.connection.as_ref().is_none_or(|connection| connection.serving.number != serving.number) {
            self.known = Known::default();
            self.connection = Connection::open(serving, controls());
        }
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        let over = self.talk(&mut connection, work);
        self.connection = Some(connection);
        over
    }
}

fn controls() -> Vec<Control> {
    let durable = || QueueSpec { durable: true, ..QueueSpec::default() };
    let dead_letter = (Some(String::new()), Some(DEAD.to_owned()));
    let short = QueueSpec {
        message_ttl_ms: Some(TTL.as_millis() as u64),
        dead_letter_exchange: dead_letter.0,
        dead_letter_key: dead_letter.1,
        ..durable()
    };
    let last = QueueSpec { max_length: Some(BOUND as u64), ..durable() };
    let ranked = QueueSpec { max_priority: PRIORITIES as u8, ..durable() };
    let queues = [(DEAD, durable()), (SHORT, short), (LAST, last), (RANKED, ranked)];
    let declared =
        queues.map(|(name, spec)| Control::Declare(Declare::Queue { owner: OWNER, name: QueueName::new(name), spec, passive: false }));
    let consumed = [(1, DEAD), (2, RANKED)].map(|(consumer, queue)| Control::Consume(consume(ConsumerIx(consumer), queue, CREDIT)));
    declared.into_iter().chain(consumed).collect()
}
