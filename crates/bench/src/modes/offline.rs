//! Offline sessions: make them, fill them, drain them. Backlog, recover, sessions and durable fan-out are made of this.

use anyhow::{ensure, Result};

use super::{Broker, Mark, CONNECT_WITHIN};
use crate::args::{Drain, Proto};
use crate::checker::{Inbox, Verdict};
use crate::clock::{self, SECOND};
use crate::conn::{Leave, ProducerPlan, Topics};
use crate::engine::Engine;
use crate::lane::LaneConfig;

/// With this many sessions or fewer all stay connected while draining, so that late repeats are seen too.
const STAY_MAX: u32 = 1_000;

/// A set of persistent sessions, numbered from 0.
#[derive(Clone, Copy)]
pub(super) struct Sessions {
    pub count: u32,
    pub qos: u8,
    /// Each has its own topic, to which messages are dealt in turn; otherwise all share one.
    pub dealt: bool,
}

impl Sessions {
    fn id(nth: u32) -> String {
        format!("s{nth}")
    }

    pub fn ids(&self) -> impl Iterator<Item = String> {
        (0..self.count).map(Sessions::id)
    }

    /// Ends the sessions, or deletes the queues.
    pub fn forget(&self, broker: &Broker<'_>) -> Result<()> {
        match broker.target.proto {
            Proto::Mqtt => broker.forget(self.ids()),
            Proto::Amqp | Proto::Stomp => broker.delete((0..self.count).map(|nth| self.topic(broker, nth))),
        }
    }

    pub fn topic(&self, broker: &Broker<'_>, nth: u32) -> String {
        match self.dealt {
            true => format!("{}/s/{nth}", broker.prefix),
            false => format!("{}/s", broker.prefix),
        }
    }

    pub fn topics(&self, broker: &Broker<'_>) -> Topics {
        match self.dealt {
            true => Topics::Dealt { prefix: format!("{}/s", broker.prefix), count: self.count },
            false => Topics::One(self.topic(broker, 0)),
        }
    }

    fn inbox(&self, nth: u32) -> Inbox {
        if self.dealt {
            Inbox::dealt(self.count, nth)
        } else {
            Inbox::default()
        }
    }

    /// How many of `sent` messages of one producer session `nth` should hold.
    fn share(&self, nth: u32, sent: u64) -> u64 {
        if self.dealt {
            sent / u64::from(self.count) + u64::from(u64::from(nth) < sent % u64::from(self.count))
        } else {
            sent
        }
    }

    /// Connects, subscribes and leaves, once per session. Returns the seconds it took.
    pub fn create(&self, broker: &Broker<'_>, within: u64) -> Result<f64> {
        let from = clock::now();
        let mut engine = broker.engine()?;
        let lane = engine.add_lane(LaneConfig::default());
        for nth in 0..self.count {
            let filter = (self.topic(broker, nth), self.qos);
            let mut plan = broker.consumer(lane, &Sessions::id(nth), false, filter, Inbox::default());
            plan.leave = Leave::WhenReady;
            engine.add(plan);
        }
        let all = engine.wait_gone(within);
        let left = engine.left as u32;
        ensure!(all && left == self.count, "{left} of {} sessions were made; {}", self.count, engine.why());
        Ok(clock::to_secs(clock::now() - from))
    }

    /// Brings every session back and takes what it holds. `sent` is what should come, by producer.
    pub fn drain(&self, broker: &Broker<'_>, sent: &[(u16, u64)], limits: Drain) -> Result<Drained> {
        let mut engine = broker.engine()?;
        let lane = engine.add_lane(LaneConfig::default());
        for nth in 0..self.count {
            // No SUBSCRIBE: a session that forgot its subscription shall not be helped.
            let filter = (self.topic(broker, nth), self.qos);
            let mut plan = broker.returning(lane, &Sessions::id(nth), false, filter, self.inbox(nth));
            if self.count > STAY_MAX {
                let expected = sent.iter().map(|(_, sent)| self.share(nth, *sent)).sum();
                plan.leave = Leave::AfterMessages(expected);
            }
            engine.add(plan);
        }
        let expected = sent.iter().map(|(_, sent)| *sent).sum::<u64>() * if self.dealt { 1 } else { self.count.into() };
        let from = Mark::take(broker, &engine, lane);
        let idle = clock::from_secs(limits.drain_idle);
        let mut last = (0, 0, from.at);
        engine.run_until(from.at + clock::from_secs(limits.drain_max), |e| {
            let (now, delivered) = (clock::now(), e.lanes[lane].delivered);
            if (delivered, e.ready) != (last.0, last.1) {
                last = (delivered, e.ready, now);
            }
            delivered >= expected && e.ready as u32 >= self.count || e.failed > 0 || now - last.2 > idle
        });
        if self.count <= STAY_MAX {
            // Repeats would come now.
            engine.run_for(SECOND / 5);
        }
        let to = Mark::take(broker, &engine, lane);
        engine.close();
        Ok(Drained { engine, lane, from, to, count: self.count })
    }

    /// Judges by what each session should hold.
    pub fn judge(&self, drained: &Drained, sent: &[(u16, u64)]) -> Verdict {
        let mut verdict = Verdict::default();
        for (nth, inbox) in drained.engine.inboxes(drained.lane).enumerate() {
            let expected = sent.iter().map(|(producer, sent)| (*producer, self.share(nth as u32, *sent)));
            verdict.add_expecting(inbox, expected);
        }
        // Sessions that never connected have no inbox; theirs is lost as well.
        for nth in drained.engine.inboxes(drained.lane).count() as u32..self.count {
            verdict.lost += sent.iter().map(|(_, sent)| self.share(nth, *sent)).sum::<u64>();
        }
        verdict
    }
}

pub(super) struct Drained {
    pub engine: Engine,
    pub lane: usize,
    pub from: Mark,
    pub to: Mark,
    count: u32,
}

impl Drained {
    pub fn delivered(&self) -> u64 {
        self.to.delivered
    }

    /// Until the last message came.
    pub fn secs(&self) -> f64 {
        let last = self.engine.lanes[self.lane].last_delivery.max(self.from.at);
        clock::to_secs(last - self.from.at).max(1e-9)
    }

    /// Sessions that the broker did not know any more.
    pub fn sessions_missing(&self) -> u64 {
        let present = self.engine.conns.iter().filter(|c| c.session_present).count();
        u64::from(self.count).saturating_sub(present as u64)
    }
}

/// What a producer of a fill publishes.
pub(super) struct Load {
    pub producers: u16,
    pub topics: Topics,
    pub qos: u8,
    pub size: usize,
    pub window: u16,
    pub remember: bool,
    /// `None`: until told to stop.
    pub count: Option<u64>,
}

/// Connects the producers and starts them.
pub(super) fn start_load(broker: &Broker<'_>, engine: &mut Engine, lane: usize, load: Load) -> Result<()> {
    let all = u64::from(load.producers);
    for id in 0..load.producers {
        let count = load.count.unwrap_or(u64::MAX);
        engine.add(broker.producer(
            lane,
            ProducerPlan {
                id,
                topics: load.topics.clone(),
                qos: load.qos,
                size: load.size,
                window: load.window,
                remember: load.remember,
                limit: count / all + u64::from(u64::from(id) < count % all),
            },
        ));
    }
    engine.connect(CONNECT_WITHIN)?;
    engine.start(lane);
    Ok(())
}

/// What the producers of a lane handed over, by producer.
pub(super) fn sent(engine: &Engine) -> Vec<(u16, u64)> {
    engine.producers().map(|p| (p.id, p.seq)).collect()
}
