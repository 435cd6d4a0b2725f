//! A client of one node: it publishes and consumes there while that node serves, and remembers what it was told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use broker_api::{
    ConnectionInfo, Consume, ConsumerIx, Control, CoreSession, CreditTo, Declare, DeliverTo, Event, EventBatch, Head, Login, LoginStep,
    Mode, Outcome, OwnerIx, Peer, QueueId, QueueName, QueueSpec, Seq, Settle, Token, Turn, VhostName, HEAD_CONFIRM, HEAD_DURABLE,
};

use crate::history::{Broken, History, Id, Order};
use crate::node::{Serving, SimNode};
use crate::world::World;

const OWNER: OwnerIx = OwnerIx(1);
const CONSUMER: ConsumerIx = ConsumerIx(1);
const QUEUE: &str = "drill";
/// Messages that are not confirmed yet, at most.
const WINDOW: usize = 12;
const CREDIT: u32 = 40;
/// After a node has slept, its own threads come first.
const AFTER_SLEEP: Duration = Duration::from_millis(20);

pub struct Client {
    world: World,
    node: Arc<SimNode>,
    producer: u32,
    next: u32,
    history: Arc<Mutex<History>>,
    connection: Option<Connection>,
    slept: Duration,
}

struct Connection {
    session: Box<dyn CoreSession>,
    serving: Serving,
    serial: u64,
    waiting: VecDeque<(u64, Id)>,
    held: Vec<(QueueId, Seq, Id)>,
    settling: VecDeque<(u64, Vec<Id>)>,
    order: Order,
}

/// Somebody who does something again and again.
pub trait Actor: Send {
    fn round(&mut self, work: Work) -> Result<(), Broken>;
}

/// What a client is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Both,
    /// Publishes nothing more.
    Drain,
}

impl Client {
    pub fn new(world: &World, node: Arc<SimNode>, producer: u32, history: Arc<Mutex<History>>) -> Client {
        Client { world: world.clone(), node, producer, next: 0, history, connection: None, slept: Duration::ZERO }
    }

    fn with_history<T>(&self, of: impl FnOnce(&mut History) -> T) -> T {
        of(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn talk(&mut self, connection: &mut Connection, work: Work) -> Result<(), Broken> {
        self.hear(connection)?;
        // It settles less than it sends, so that a backlog is there when something goes wrong.
        let (sends, settles, bytes) = self.world.draw(|rng| (rng.below(4), rng.below(3), rng.below(700)));
        let mut turn = Turn::default();
        if work == Work::Both && !connection.session.saturated() {
            for _ in 0..sends {
                if connection.waiting.len() < WINDOW {
                    self.publish(connection, &mut turn, bytes as usize);
                }
            }
        }
        let settles = if work == Work::Drain { connection.held.len() } else { (settles as usize).min(connection.held.len()) };
        let mut settled = Vec::new();
        for (queue, seq, id) in connection.held.drain(..settles) {
            turn.settle(Settle { queue, first: seq, count: 1, owner: OWNER, state: 0, outcome: Outcome::Accepted });
            turn.credit(CreditTo::Consumer(CONSUMER), 1);
            settled.push(id);
        }
        self.with_history(|history| settled.iter().for_each(|id| history.settling(*id)));
        if !settled.is_empty() {
            turn.fence();
            connection.serial += 1;
            connection.settling.push_back((connection.serial, settled));
        }
        if !turn.is_empty() {
            connection.session.submit(&mut turn);
        }
        self.hear(connection)
    }

    fn publish(&mut self, connection: &mut Connection, turn: &mut Turn, more: usize) {
        self.next += 1;
        let id = (self.producer, self.next);
        self.with_history(|history| history.sent(id));
        let mut body = [id.0.to_le_bytes(), id.1.to_le_bytes()].concat();
        body.resize(8 + more, id.1 as u8);
        let (key, body) = (turn.intern(QUEUE.as_bytes()), turn.intern(&body));
        turn.publish(Head { key, body, flags: HEAD_DURABLE | HEAD_CONFIRM, level: 1, separator: b'.', ..Head::default() });
        connection.serial += 1;
        connection.waiting.push_back((connection.serial, id));
    }

    fn hear(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        let mut context = Context::from_waker(Waker::noop());
        while connection.session.poll_events(&mut context).is_ready() {
            let mut batch = EventBatch::default();
            connection.session.swap(&mut batch);
            for event in std::mem::take(&mut batch.events) {
                self.heard(connection, event, &batch)?;
            }
            connection.session.written(usize::MAX);
        }
        Ok(())
    }

    fn heard(&mut self, connection: &mut Connection, event: Event, batch: &EventBatch) -> Result<(), Broken> {
        let (epoch, now) = (connection.serving.epoch, self.world.elapsed());
        match event {
            Event::Run { to: DeliverTo::Consumer(_), queue, batch: messages, start, count } => {
                for delivery in batch.run(start, count) {
                    let head = &messages.heads[delivery.index as usize];
                    let Some(id) = id_of(messages.body(head)) else {
                        return Err(Broken { invariant: "nothing_unexpected", seen: "a body that nobody sent".into() });
                    };
                    let order = &mut connection.order;
                    self.with_history(|history| history.delivered(id, epoch, order))?;
                    connection.held.push((queue, delivery.seq, id));
                }
            }
            Event::Done { through } => {
                while let Some((_, id)) = connection.waiting.front().copied().filter(|(serial, _)| *serial <= through.0) {
                    connection.waiting.pop_front();
                    self.with_history(|history| history.confirmed(id, epoch, now))?;
                }
                while connection.settling.front().is_some_and(|(serial, _)| *serial <= through.0) {
                    let (_, ids) = connection.settling.pop_front().unwrap_or_default();
                    self.with_history(|history| ids.into_iter().for_each(|id| history.settled(id)));
                }
            }
            // Not taken, so nothing was promised.
            Event::Refused { first, last, .. } => connection.waiting.retain(|(serial, _)| !(first.0..=last.0).contains(serial)),
            _ => {}
        }
        Ok(())
    }
}

impl Actor for Client {
    /// One round: connects if there is somebody, sends a little, takes what came.
    fn round(&mut self, work: Work) -> Result<(), Broken> {
        let Some(serving) = self.node.serving() else {
            self.connection = None;
            return Ok(());
        };
        let now = self.world.elapsed();
        if self.world.is_paused(serving.group) {
            self.slept = now;
            return Ok(());
        }
        if now < self.slept + AFTER_SLEEP && self.slept > Duration::ZERO {
            return Ok(());
        }
        if self.connection.as_ref().is_none_or(|connection| connection.serving.number != serving.number) {
            self.connection = Connection::open(serving);
        }
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        let over = self.talk(&mut connection, work);
        self.connection = Some(connection);
        over
    }
}

fn id_of(body: &[u8]) -> Option<Id> {
    let word = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let id = (word(0)?, word(4)?);
    body[8..].iter().all(|byte| *byte == id.1 as u8).then_some(id)
}

impl Connection {
    /// `None`: it is not taken now.
    fn open(serving: Serving) -> Option<Connection> {
        use broker_api::Broker as _;
        let vhost = VhostName::new("/");
        let info = ConnectionInfo { peer: Peer::Unix, identity: None, protocol: "drill", vhost, allow_anonymous: true };
        let mut session = serving.core.connect(info).ok()?;
        let spec = QueueSpec { durable: true, ..QueueSpec::default() };
        let consume = Consume {
            consumer: CONSUMER,
            owner: OWNER,
            group: None,
            queue: QueueName::new(QUEUE),
            credit: CREDIT,
            mode: Mode::Lease,
            exclusive: false,
            alone: false,
            priority: 0,
            selector: None,
        };
        let controls = [
            Control::Login(Login { vhost: None, step: LoginStep::Anonymous }),
            Control::Owner { owner: OWNER, fail_stop: false, channel: 0 },
            Control::Declare(Declare::Queue { owner: OWNER, name: QueueName::new(QUEUE), spec, passive: false }),
            Control::Consume(consume),
        ];
        for (token, control) in controls.into_iter().enumerate() {
            let mut turn = Turn::default();
            turn.control(Token(token as u32 + 1), control);
            session.submit(&mut turn);
        }
        let (waiting, held, settling) = Default::default();
        Some(Connection { session, serving, serial: 0, waiting, held, settling, order: Order::default() })
    }
}
