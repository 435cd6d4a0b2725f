//! Publishes and deliveries of a traced virtual host, told to its trace exchange (RabbitMQ's firehose).
//!
//! A publish is told when it is routed, a delivery when the connection takes it out of its outbox. Told are messages of their own: not
//! logged, routed like others, never told of themselves. What the core publishes about itself (`$SYS`) is not told either.

use super::publish::RouteRun;
use super::stage::targets_of;
use super::{Link, Owner, INTERNAL};
use crate::queue::Queue;
use broker_api::{
    Batch, ConnectionInfo, ConsumerIx, DeliverTo, Delivery, Entry, Event, EventBatch, Head, OwnerIx, Peer, QueueName, Spelled, Token,
    Traced, TracedAs, Tracer, Turn,
};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Takes that are remembered for their answers; one more forgets the oldest.
const TAKES_MAX: usize = 4096;

/// Takes that are not answered, and who asked.
pub(super) type Takes = Vec<(Token, OwnerIx)>;

/// Who publishes or is handed something.
struct Teller {
    tracer: Arc<dyn Tracer>,
    connection: String,
    user: String,
    turn: Turn,
}

impl Teller {
    fn tell(&mut self, link: &Link, channel: u16, batch: &Batch, head: &Head, what: TracedAs<'_>) {
        let exchange = self.tracer.exchange();
        if is_about_us(batch, head, exchange) {
            return;
        }
        let vhost = link.vhost.name.as_str();
        let traced = Traced { what, vhost, connection: &self.connection, channel, user: &self.user, batch, head };
        let Spelled { key, origin, format, separator } = self.tracer.spell(&traced);
        let turn = &mut self.turn;
        let (exchange, key, origin) = (turn.intern(exchange.as_bytes()), turn.intern(&key), turn.intern(&origin));
        let body = turn.own(batch.shared(head.body));
        turn.publish(Head { exchange, key, origin, body, format, separator, ..Head::default() });
    }

    fn publish(mut self, link: &Link) {
        if self.turn.heads.is_empty() {
            return;
        }
        let batch = Arc::new(self.turn.freeze(link.core.now_ms()));
        let vhost = link.vhost.clone();
        let info =
            ConnectionInfo { peer: Peer::Unix, identity: None, protocol: INTERNAL, vhost: vhost.name.clone(), allow_anonymous: false };
        let count = batch.heads.len() as u32;
        Link::internal(&link.core, info, vhost).process(Some(batch), vec![Entry::Publish { first: 0, count }], Vec::new());
    }
}

/// Messages that tell of others, and what the broker says of itself.
fn is_about_us(batch: &Batch, head: &Head, exchange: &str) -> bool {
    match head.topic {
        true => batch.key(head).starts_with(b"$SYS/"),
        false => batch.bytes(head.exchange) == exchange.as_bytes(),
    }
}

impl Link {
    fn teller(&self) -> Option<Teller> {
        let tracer = self.core.config.tracer.clone()?;
        let (connection, user) = match self.is_internal() {
            true => (String::new(), String::new()),
            false => (self.info.name(), self.outbox.principal.load().as_ref().map_or_else(String::new, |p| p.name().to_owned())),
        };
        Some(Teller { tracer, connection, user, turn: Turn::default() })
    }

    /// Costs one look at a flag where nobody looks on.
    pub(super) fn trace_publishes(&self, batch: &Batch, runs: &[RouteRun]) {
        if !self.vhost.traced.load(Ordering::Relaxed) {
            return;
        }
        let Some(mut teller) = self.teller() else { return };
        for run in runs {
            // Those of nobody's queue too: RabbitMQ has one for each subscriber.
            let direct = run.route.sessions.iter().filter(|t| t.level.min(run.level) == 0).map(|t| t.session.queue.name.clone());
            let shares = run.route.shares.iter().filter(|s| s.level().min(run.level) == 0).map(|s| s.queue.name.clone());
            let kept = targets_of(run).into_iter().map(|target| target.queue.name.clone());
            let queues: Vec<QueueName> = kept.chain(direct).chain(shares).collect();
            for head in &batch.heads[run.first as usize..(run.first + run.count) as usize] {
                teller.tell(self, self.channel_of(OwnerIx(head.owner)), batch, head, TracedAs::Published { queues: &queues });
            }
        }
        teller.publish(self);
    }

    pub(super) fn trace_take(&mut self, token: Token, owner: OwnerIx) {
        if !self.vhost.traced.load(Ordering::Relaxed) {
            return;
        }
        if let Some((_, _, takes)) = self.entered.as_deref_mut() {
            if takes.len() == TAKES_MAX {
                takes.remove(0);
            }
            takes.push((token, owner));
        }
    }

    pub(super) fn trace_deliveries(&mut self, events: &EventBatch) {
        let Some(mut teller) = self.teller() else { return };
        for event in &events.events {
            match event {
                Event::Run { to, queue, batch, start, count } => {
                    let Some(queue) = self.queue(*queue) else { continue };
                    let channel = self.channel_to(*to);
                    for delivery in events.run(*start, *count) {
                        let Some(head) = batch.heads.get(delivery.index as usize) else { continue };
                        teller.tell(self, channel, batch, head, TracedAs::Delivered { queue: &queue.name, delivery });
                    }
                }
                Event::Direct { batch, first, count, flags, .. } => {
                    let Some(queue) = self.session_queue() else { continue };
                    for index in *first..*first + *count {
                        let head = &batch.heads[index as usize];
                        let seq = broker_api::Seq::default();
                        let delivery = Delivery { seq, index, side: None, attempts: 0, level: 0, flags: *flags };
                        teller.tell(self, 0, batch, head, TracedAs::Delivered { queue: &queue.name, delivery: &delivery });
                    }
                }
                Event::Reply(token, _) => {
                    if let Some((_, _, takes)) = self.entered.as_deref_mut() {
                        takes.retain(|(asked, _)| asked != token);
                    }
                }
                _ => {}
            }
        }
        teller.publish(self);
    }

    fn channel_of(&self, owner: OwnerIx) -> u16 {
        match self.owner(owner) {
            Some(Owner::Local { channel, .. }) => *channel,
            _ => 0,
        }
    }

    fn channel_to(&self, to: DeliverTo) -> u16 {
        match to {
            DeliverTo::Reply(token) => {
                let asked = self.entered.iter().flat_map(|entered| entered.2.iter()).find(|(asked, _)| *asked == token);
                asked.map_or(0, |(_, owner)| self.channel_of(*owner))
            }
            DeliverTo::Consumer(consumer) => self.channel_of_consumer(consumer),
        }
    }

    fn channel_of_consumer(&self, consumer: ConsumerIx) -> u16 {
        let of = |owner: &Owner| match owner {
            Owner::Local { consumers, channel, .. } if consumers.iter().any(|(ix, _)| *ix == consumer) => Some(*channel),
            _ => None,
        };
        self.owners.iter().find_map(|(_, owner)| of(owner)).unwrap_or(0)
    }

    fn session_queue(&self) -> Option<Arc<Queue>> {
        self.owners.iter().find_map(|(_, owner)| match owner {
            Owner::Session { session, .. } => Some(session.queue.clone()),
            Owner::Local { .. } => None,
        })
    }
}
