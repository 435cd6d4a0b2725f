//! What the core tells a connection.

use crate::{Batch, ConsumerIx, OwnerIx, QueueId, QueueName, Refusal, Reply, Seq, Serial, Token};
use std::sync::Arc;

/// Delivered before, as far as the core knows (MQTT DUP does not follow from it, AMQP `redelivered` does).
pub const DELIVERY_REDELIVERED: u8 = 1;
/// Comes from the retained store because of a new subscription.
pub const DELIVERY_RETAINED: u8 = 2;
/// The subscription wants the publisher's retain flag kept.
pub const DELIVERY_AS_PUBLISHED: u8 = 4;
/// Was in flight when the session was last attached, and is handed to it again.
pub const DELIVERY_RESUMED: u8 = 8;
/// Its queue counts all attempts (`QueueSpec::counts_attempts`): `attempts` is worth telling, 0 too.
pub const DELIVERY_COUNTED: u8 = 16;
/// An exchange held it back for its [`crate::Head::delay_ms`] before it came here.
pub const DELIVERY_DELAYED: u8 = 32;

/// What a reference carries beside its message, shared by all deliveries of one route.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Side {
    /// Identifiers of the subscriptions that matched, in the order of subscribing.
    pub subscriptions: Vec<u32>,
    /// Set once the message was dead-lettered.
    pub moved: Option<Box<Moved>>,
}

/// What dead-lettering changed and remembers; decided once, when the message moved.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Moved {
    /// Takes the place of the message's own exchange and key.
    pub exchange: Box<str>,
    pub key: Box<[u8]>,
    /// The key was replaced by the queue's dead-letter key: further keys of the origin no longer hold.
    pub key_replaced: bool,
    /// Most recent first, one for each queue and reason.
    pub deaths: Vec<Death>,
    /// The first death of all, which later ones never change: queue, reason, exchange.
    pub first: (Box<str>, DeathReason, Box<str>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Death {
    pub queue: Box<str>,
    pub reason: DeathReason,
    pub count: u64,
    /// Broker time of the first death of this kind.
    pub time_ms: u64,
    /// Where the message had been published to when it first died here.
    pub exchange: Box<str>,
    pub key: Box<[u8]>,
    /// The message's own time to live, where it had one.
    pub expiration_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum DeathReason {
    #[default]
    Rejected = 1,
    Expired = 2,
    MaxLength = 3,
    DeliveryLimit = 4,
}

impl DeathReason {
    pub fn as_str(self) -> &'static str {
        match self {
            DeathReason::Rejected => "rejected",
            DeathReason::Expired => "expired",
            DeathReason::MaxLength => "maxlen",
            DeathReason::DeliveryLimit => "delivery_limit",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Delivery {
    pub seq: Seq,
    /// Which head of the run's batch.
    pub index: u32,
    pub side: Option<Arc<Side>>,
    /// Counted attempts before this one.
    pub attempts: u16,
    /// Granted level: the smaller of the publisher's and the subscription's.
    pub level: u8,
    pub flags: u8,
}

impl Delivery {
    pub fn moved(&self) -> Option<&Moved> {
        self.side.as_ref().and_then(|side| side.moved.as_deref())
    }

    /// The key the message was routed by last.
    pub fn key<'a>(&'a self, batch: &'a Batch) -> &'a [u8] {
        self.moved().map_or_else(|| batch.key(&batch.heads[self.index as usize]), |moved| &moved.key)
    }

    /// The exchange the message came through last.
    pub fn exchange<'a>(&'a self, batch: &'a Batch) -> &'a [u8] {
        self.moved().map_or_else(|| batch.bytes(batch.heads[self.index as usize].exchange), |moved| moved.exchange.as_bytes())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliverTo {
    Consumer(ConsumerIx),
    /// The answer to a `Take`.
    Reply(Token),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// Its queue was deleted, by anyone.
    QueueDeleted,
    Cancelled,
}

/// Where clients are served instead.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Elsewhere {
    /// The node's name.
    pub node: String,
    /// `scheme://host:port` or `host:port`, as its operator wrote them.
    pub addresses: Vec<String>,
}

impl Elsewhere {
    /// Its addresses for one protocol, as `host:port`: those with one of these schemes, and those without any.
    pub fn hosts<'a>(&'a self, schemes: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.addresses.iter().filter_map(move |address| match address.split_once("://") {
            Some((scheme, host)) => schemes.contains(&scheme).then_some(host),
            None => Some(address.as_str()),
        })
    }

    /// For a text that a person reads: the node, and the first of these addresses.
    pub fn name(&self, schemes: &[&str]) -> String {
        match self.hosts(schemes).next() {
            Some(host) => format!("{} at {host}", self.node),
            None => self.node.clone(),
        }
    }
}

/// What a node says that stands by, to a client that knows these schemes.
pub fn stands_by(elsewhere: Option<&Elsewhere>, schemes: &[&str]) -> String {
    match elsewhere {
        Some(elsewhere) => format!("this node stands by for {}", elsewhere.name(schemes)),
        None => "this node stands by, and who is primary is not known here".into(),
    }
}

#[derive(Debug)]
pub enum Signal {
    /// Publishes of this connection are held until `Unblocked`; why, in words.
    Blocked(&'static str),
    Unblocked,
    Ended {
        consumer: ConsumerIx,
        why: EndReason,
    },
    /// Of the consumers of a queue that serves only one at a time, it is this one now.
    Active {
        consumer: ConsumerIx,
    },
    /// Its queue wants what this consumer is handed settled within so long; before its first delivery, and when it changes. Who does not
    /// is the protocol's to deal with.
    SettleWithin {
        consumer: ConsumerIx,
        ms: Option<u64>,
    },
    Drained {
        consumer: ConsumerIx,
        unused: u32,
    },
    /// A consumer that only looks ([`crate::Mode::Browse`]) has been handed everything that was there.
    Browsed {
        consumer: ConsumerIx,
    },
    /// There is a queue of a name that is watched for ([`crate::Watch`]).
    Found {
        watch: ConsumerIx,
        queue: QueueName,
    },
    /// Another connection has taken this owner's session.
    Superseded {
        owner: OwnerIx,
    },
    /// An operator wants this connection gone.
    Kicked,
    /// The broker is going down.
    Shutdown,
    /// The same, and another node serves clients from now on.
    Moved(Arc<Elsewhere>),
    /// The store failed: nothing that was not confirmed will be.
    Lost,
}

#[derive(Debug)]
pub enum Event {
    /// `deliveries[start..start + count]` of this batch of events, all in one batch of messages; one reference count for the run.
    Run {
        to: DeliverTo,
        queue: QueueId,
        batch: Arc<Batch>,
        start: u32,
        count: u32,
    },
    /// Neighbouring heads that no queue keeps (at most once): nothing to settle, no credit spent.
    Direct {
        to: ConsumerIx,
        batch: Arc<Batch>,
        first: u32,
        count: u32,
        side: Option<Arc<Side>>,
        flags: u8,
    },
    Refused {
        first: Serial,
        last: Serial,
        why: Refusal,
    },
    /// `count` mandatory publishes from this serial and head on reached nobody.
    Returned {
        first: Serial,
        count: u32,
        batch: Arc<Batch>,
        index: u32,
    },
    Done {
        through: Serial,
    },
    Reply(Token, Box<Result<Reply, Refusal>>),
    Signal(Signal),
}

/// Events in one order, and the deliveries that their runs name.
#[derive(Default, Debug)]
pub struct EventBatch {
    pub events: Vec<Event>,
    pub deliveries: Vec<Delivery>,
}

impl EventBatch {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
    pub fn clear(&mut self) {
        self.events.clear();
        self.deliveries.clear();
    }
    pub fn run(&self, start: u32, count: u32) -> &[Delivery] {
        &self.deliveries[start as usize..(start + count) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_finds_its_addresses() {
        let addresses = ["mqtt://b:1883", "amqp://b:5672", "mqtts://b:8883", "b.example"].map(String::from).into();
        let elsewhere = Elsewhere { node: "b".into(), addresses };
        assert_eq!(elsewhere.hosts(&["mqtt", "mqtts"]).collect::<Vec<_>>(), ["b:1883", "b:8883", "b.example"]);
        assert_eq!(elsewhere.name(&["amqp"]), "b at b:5672");
        assert_eq!(Elsewhere { node: "b".into(), ..Elsewhere::default() }.name(&["amqp"]), "b");
    }
}
