//! A client that publishes to two queues in transactions, commits most, takes some back, leaves some open, and consumes from both.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use broker_api::{
    Consume, ConsumerIx, Control, CreditTo, Declare, Entry, Head, Mode, Outcome, QueueName, QueueSpec, Settle, Token, Turn, TxIx,
    HEAD_DURABLE,
};

use crate::client::{Actor, Work};
use crate::door::{Answer, Door};
use crate::history::{Broken, History};
use crate::promises::PARTS;
use crate::session::{Connection, Delivered, Heard, OWNER};
use crate::world::World;

const QUEUES: [&str; 2] = ["tx-a", "tx-b"];
const CREDIT: u32 = 30;
/// Commits that were not answered, at most.
const WINDOW: usize = 4;

pub struct Transactions {
    world: World,
    door: Door,
    history: Arc<Mutex<History>>,
    next: u32,
    connection: Option<Connection>,
    /// Begun and neither committed nor taken back.
    open: Option<u32>,
    asked: BTreeMap<u32, u32>,
    held: VecDeque<Delivered>,
}

impl Transactions {
    pub fn new(world: &World, door: Door, history: Arc<Mutex<History>>) -> Transactions {
        let (asked, held) = Default::default();
        Transactions { world: world.clone(), door, history, next: 0, connection: None, open: None, asked, held }
    }

    fn history<T>(&self, of: impl FnOnce(&mut History) -> T) -> T {
        of(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn close(&mut self) {
        // What was open is never committed.
        (self.connection, self.open) = (None, None);
        self.asked.clear();
        self.held.clear();
    }

    fn talk(&mut self, connection: &mut Connection, work: Work) -> Result<(), Broken> {
        let epoch = connection.serving.epoch;
        for heard in connection.hear() {
            match heard {
                Heard::Delivered(delivered) => {
                    let word = |at: usize| delivered.body.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
                    let (Some(tx), Some(part)) = (word(0), word(4)) else {
                        return Err(Broken::new("nothing_unexpected", "a body that nobody sent".into()));
                    };
                    self.history(|history| history.told(epoch, "a delivery").and_then(|()| history.transactions.delivered(tx, part)))?;
                    self.held.push_back(delivered);
                }
                Heard::Replied(Token(token), done) => {
                    if let Some(tx) = self.asked.remove(&token).filter(|_| done) {
                        self.history(|history| {
                            history.told(epoch, "a commit")?;
                            history.transactions.committed(tx);
                            Ok(())
                        })?;
                    }
                }
                Heard::Done(_) | Heard::Refused(..) => {}
            }
        }
        let mut turn = Turn::default();
        self.settle(&mut turn, work);
        if work == Work::Both && !connection.saturated() && self.asked.len() < WINDOW {
            self.step(connection, &mut turn);
        }
        connection.submit(&mut turn);
        Ok(())
    }

    fn settle(&mut self, turn: &mut Turn, work: Work) {
        let settles = if work == Work::Drain { self.held.len() } else { self.world.draw(|rng| rng.below(5)) as usize };
        for _ in 0..settles.min(self.held.len()) {
            let Some(Delivered { to, queue, seq, .. }) = self.held.pop_front() else { return };
            turn.settle(Settle { queue, first: seq, count: 1, owner: OWNER, state: 0, outcome: Outcome::Accepted });
            turn.credit(CreditTo::Consumer(to), 1);
        }
    }

    /// Begins one, or ends the one that is open.
    fn step(&mut self, connection: &mut Connection, turn: &mut Turn) {
        let (chance, ends) = self.world.draw(|rng| (rng.below(100), rng.chance(60)));
        let tx = match self.open {
            Some(tx) => tx,
            None if chance < 50 => {
                self.next += 1;
                self.begin(self.next, turn);
                self.next
            }
            None => return,
        };
        if !ends {
            self.open = Some(tx);
            return;
        }
        self.open = None;
        let token = connection.token();
        if chance < 40 {
            self.history(|history| history.transactions.asked(tx));
            self.asked.insert(token.0, tx);
            turn.control(token, Control::Commit { owner: OWNER, tx: TxIx(tx) });
        } else {
            turn.control(token, Control::Rollback { owner: OWNER, tx: TxIx(tx) });
        }
    }

    fn begin(&mut self, tx: u32, turn: &mut Turn) {
        self.history(|history| history.transactions.begun(tx));
        turn.entries.push(Entry::Scope(Some(TxIx(tx))));
        for part in 0..PARTS {
            let queue = QUEUES[part as usize % QUEUES.len()];
            let (key, body) = (turn.intern(queue.as_bytes()), turn.intern(&[tx.to_le_bytes(), part.to_le_bytes()].concat()));
            turn.publish(Head { key, body, flags: HEAD_DURABLE, level: 1, separator: b'.', owner: OWNER.0, ..Head::default() });
        }
        turn.entries.push(Entry::Scope(None));
    }
}

impl Actor for Transactions {
    fn round(&mut self, work: Work) -> Result<(), Broken> {
        let serving = match self.door.knock() {
            Answer::Closed => {
                self.close();
                return Ok(());
            }
            Answer::Silent => return Ok(()),
            Answer::Open(serving) => serving,
        };
        if self.connection.as_ref().is_none_or(|connection| connection.serving.number != serving.number) {
            self.close();
            self.connection = Connection::open(serving, controls());
        }
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        let over = self.talk(&mut connection, work);
        self.connection = Some(connection);
        over
    }
}

fn controls() -> Vec<Control> {
    let mut controls = Vec::new();
    for (queue, consumer) in QUEUES.into_iter().zip(1..) {
        let spec = QueueSpec { durable: true, ..QueueSpec::default() };
        controls.push(Control::Declare(Declare::Queue { owner: OWNER, name: QueueName::new(queue), spec, passive: false }));
        controls.push(Control::Consume(consume(ConsumerIx(consumer), queue, CREDIT)));
    }
    controls
}

/// Leases from this queue.
pub fn consume(consumer: ConsumerIx, queue: &str, credit: u32) -> Consume {
    Consume {
        consumer,
        owner: OWNER,
        group: None,
        queue: QueueName::new(queue),
        credit,
        mode: Mode::Lease,
        exclusive: false,
        alone: false,
        priority: 0,
        selector: None,
    }
}
