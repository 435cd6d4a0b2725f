//! A session in front of a core that agrees to everything, for fuzzing and for replaying its corpus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_api::{
    Batch, Consume, ConsumerIx, Context, Control, DeliverTo, Delivery, Entry, Event, EventBatch, Flow, Out, Peer, PrincipalInfo, Protocol,
    QueueId, Refusal, Reply, Seq, Serial, Signal, Token, Turn, DELIVERY_REDELIVERED,
};
use bytes::Bytes;

use crate::codec::fuzz as codec;
use crate::{Config, Stomp};

/// The core's side: what it has been asked, and what it answers.
#[derive(Default)]
struct Yes {
    serial: u64,
    events: EventBatch,
    consumers: Vec<ConsumerIx>,
    last: Option<Arc<Batch>>,
    /// Every so many commands are refused.
    contrary: u32,
}

impl Yes {
    fn take(&mut self, turn: &mut Turn) {
        let entries = std::mem::take(&mut turn.entries);
        turn.states.clear();
        let batch = Arc::new(turn.freeze(1));
        for entry in entries {
            match entry {
                Entry::Publish { first, count } => {
                    for head in &batch.heads[first as usize..(first + count) as usize] {
                        let spans = [head.exchange, head.key, head.origin, head.body];
                        assert!(spans.iter().all(|span| batch.bytes(*span).len() == span.len as usize));
                    }
                    self.serial += u64::from(count);
                    self.deliver(&batch, first, count);
                    self.last = Some(batch.clone());
                }
                Entry::Fence => self.serial += 1,
                Entry::Control(token, control) => self.answer(token, *control),
                Entry::Settle(_) | Entry::Credit(_) | Entry::Scope(_) | Entry::State(_) => {}
            }
        }
        self.events.events.push(Event::Done { through: Serial(self.serial) });
    }

    fn answer(&mut self, token: Token, control: Control) {
        self.contrary = self.contrary.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let reply = match control {
            Control::Login(_) => Ok(Reply::LoggedIn {
                principal: PrincipalInfo { user: "guest".into(), administrator: false, impersonator: false },
                last: Vec::new(),
            }),
            Control::Owner { .. } => Ok(Reply::Ok),
            _ if self.contrary >> 16 & 15 == 0 => Err(Refusal::NotFound { what: "queue", name: "q".into() }),
            Control::Consume(Consume { consumer, .. }) => {
                self.consumers.push(consumer);
                Ok(Reply::Ok)
            }
            Control::Cancel { consumer } => {
                self.consumers.retain(|found| *found != consumer);
                Ok(Reply::Ok)
            }
            _ => Ok(Reply::Ok),
        };
        self.events.events.push(Event::Reply(token, Box::new(reply)));
    }

    /// To all who listen, whatever they asked for.
    fn deliver(&mut self, batch: &Arc<Batch>, first: u32, count: u32) {
        for (n, consumer) in self.consumers.iter().enumerate() {
            let start = self.events.deliveries.len() as u32;
            for index in first..first + count {
                let (seq, flags) = (Seq(self.serial + u64::from(index)), if n % 2 == 0 { 0 } else { DELIVERY_REDELIVERED });
                self.events.deliveries.push(Delivery { seq, index, side: None, attempts: 0, level: 0, flags });
            }
            let (to, batch) = (DeliverTo::Consumer(*consumer), batch.clone());
            self.events.events.push(Event::Run { to, queue: QueueId(1), batch, start, count });
        }
    }
}

/// The first byte says where the rest is cut in two, and how contrary the core is. Each dialect hears it.
pub fn session_fuzz(data: &[u8]) {
    codec::split(data);
    let Some((first, data)) = data.split_first() else { return };
    let config = || Config { max_subscriptions: 8, max_transactions: 4, ..Config::default() };
    converse(config(), *first, data);
    converse(config().speaking(crate::Dialect::ActiveMq), *first, data);
}

fn converse(config: Config, first: u8, data: &[u8]) {
    let (cut, now) = (usize::from(first) % (data.len() + 1), Instant::now());
    let context = Context { peer: Peer::Unix, identity: None, anonymous: false, opened_ms: 0 };
    let mut session = Stomp::new(config, Vec::new()).open(context, now);
    let mut core = Yes { contrary: u32::from(first), ..Yes::default() };
    let (mut turn, mut out) = (Turn::default(), Out::default());
    let mut tail = Vec::new();
    for piece in [&data[..cut], &data[cut..]] {
        tail.extend_from_slice(piece);
        let split = session.split(&tail).expect("what is no STOMP is answered in its turn");
        assert!(split.whole <= tail.len());
        let block: Bytes = tail.drain(..split.whole).collect::<Vec<u8>>().into();
        turn.block = block.clone();
        let mut flow = session.receive(&block, 0, now, 1, &mut turn, &mut out);
        core.take(&mut turn);
        // Each round of events lets a held block go on by a frame at least.
        for _ in 0..block.len() + 8 {
            let held = match flow {
                Flow::Close(_) => return session.closed(false, &mut turn),
                Flow::Hold(at) => Some(at),
                Flow::Go if core.events.is_empty() => break,
                Flow::Go => None,
            };
            let mut events = std::mem::take(&mut core.events);
            flow = session.events(&mut events, now, 1, &mut turn, &mut out);
            core.take(&mut turn);
            if let (Some(at), Flow::Go) = (held, &flow) {
                turn.block = block.clone();
                flow = session.receive(&block, at, now, 1, &mut turn, &mut out);
                core.take(&mut turn);
            } else if let (Some(at), Flow::Hold(_)) = (held, &flow) {
                flow = Flow::Hold(at);
            }
            core.events.events.retain(|event| !matches!(event, Event::Done { .. }) || core.serial > 0);
            if matches!(&core.events.events[..], [Event::Done { .. }]) && !matches!(flow, Flow::Hold(_)) {
                core.events.clear();
            }
        }
    }
    let mut events = std::mem::take(&mut core.events);
    events.events.extend(
        core.consumers
            .first()
            .map(|consumer| Event::Signal(Signal::Ended { consumer: *consumer, why: broker_api::EndReason::QueueDeleted })),
    );
    session.events(&mut events, now, 1, &mut turn, &mut out);
    session.on_deadline(now + Duration::from_secs(100), 1, &mut turn, &mut out);
    session.closed(false, &mut turn);
}
