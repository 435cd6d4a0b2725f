//! Queues with names, for tests: declared, published to, consumed from.

use super::support::*;
use broker_api::*;

/// What is published to a queue by its name.
#[derive(Clone, Default)]
pub struct Put {
    pub body: String,
    pub priority: u8,
    /// From now, 0 = at once; `None` = never.
    pub ttl_ms: Option<u64>,
    pub transient: bool,
}

pub fn put(body: impl Into<String>) -> Put {
    Put { body: body.into(), ..Put::default() }
}

pub fn durable() -> QueueSpec {
    QueueSpec { durable: true, ..QueueSpec::default() }
}

pub fn consume(queue: &str, ix: u32, credit: u32) -> Consume {
    Consume {
        consumer: ConsumerIx(ix),
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

/// A connection with a local owner and no session.
pub fn local(node: &Node) -> Client {
    let mut client = Client::connect(node);
    let token = client.control(Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    client.reply(token).expect("an owner");
    client
}

impl Client {
    pub fn declare(&mut self, name: &str, spec: QueueSpec) -> &mut Self {
        let token = self.control(Control::Declare(Declare::Queue { owner: OWNER, name: QueueName::new(name), spec, passive: false }));
        self.reply(token).expect("declared");
        self
    }

    pub fn try_consume(&mut self, consume: Consume) -> Result<Reply, Refusal> {
        let token = self.control(Control::Consume(consume));
        let reply = self.reply(token);
        self.poll();
        reply
    }

    pub fn consume(&mut self, consume: Consume) -> &mut Self {
        self.try_consume(consume).expect("consumes");
        self
    }

    pub fn cancel(&mut self, ix: u32) -> &mut Self {
        let token = self.control(Control::Cancel { consumer: ConsumerIx(ix) });
        self.reply(token).expect("cancelled");
        self.poll()
    }

    pub fn add_credit(&mut self, ix: u32, n: u32) -> &mut Self {
        self.turn(|turn, _| turn.credit(CreditTo::Consumer(ConsumerIx(ix)), n));
        self.poll()
    }

    /// Publishes by a queue's name and waits for the confirm.
    pub fn publish_to(&mut self, queue: &str, what: &[Put]) -> &mut Self {
        self.send_to(queue, what);
        let serial = self.serial;
        self.confirmed(serial);
        self.poll()
    }

    /// The same without waiting.
    pub fn send_to(&mut self, queue: &str, what: &[Put]) {
        let now = self.session.now_ms();
        self.turn(|turn, _| {
            for p in what {
                let key = turn.intern(queue.as_bytes());
                let body = turn.intern(p.body.as_bytes());
                let durable = if p.transient { 0 } else { HEAD_DURABLE };
                let expires_ms = p.ttl_ms.map_or(0, |ttl| now + ttl);
                let (priority, flags) = (p.priority, durable | HEAD_CONFIRM);
                turn.publish(Head { key, body, flags, level: 1, priority, expires_ms, separator: b'.', ..Head::default() });
            }
        });
    }

    pub fn put_all(&mut self, queue: &str, bodies: impl IntoIterator<Item = impl ToString>) -> &mut Self {
        let what: Vec<Put> = bodies.into_iter().map(|b| put(b.to_string())).collect();
        self.publish_to(queue, &what)
    }

    /// Ready messages, by a passive declaration.
    pub fn ready(&mut self, name: &str) -> Option<u64> {
        let spec = QueueSpec::default();
        let token = self.control(Control::Declare(Declare::Queue { owner: OWNER, name: QueueName::new(name), spec, passive: true }));
        match self.reply(token) {
            Ok(Reply::Queue { ready, .. }) => Some(ready),
            _ => None,
        }
    }
}

/// Which consumer got what, in order.
pub fn by_consumer(got: &[Got]) -> Vec<(u32, String)> {
    got.iter().map(|g| (g.to.0, g.text())).collect()
}
