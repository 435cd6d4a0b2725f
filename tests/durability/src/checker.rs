//! Decides from a `History` alone whether messages were lost, invented, reordered, repeated or brought back from the dead. It asks the
//! broker nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// What happened, in the order in which each client saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A PUBLISH of message `n` left; again when it is sent again.
    Sent { producer: u16, n: u64 },
    /// PUBACK, or at QoS 2 PUBREC (from there on the broker owns the message) came for it; in AMQP its confirm, or tx.commit-ok.
    Confirmed { producer: u16, n: u64 },
    /// A message was handed to the consumer's application.
    Received { consumer: u16, producer: u16, n: u64, dup: bool, connection: u32 },
    /// What the consumer received on this connection, up to its `count`-th message over all, is settled durably: the acknowledgements were
    /// sent before a publish on the same connection that has been confirmed, or in a transaction that is committed. What it received on earlier ones may have died with them.
    Settled { consumer: u16, connection: u32, count: u64 },
    /// Something arrived that nobody sent: wrong bytes, wrong run.
    Garbage { consumer: u16 },
    /// The broker forgot a session that it had confirmed.
    SessionLost { client: u16 },
}

#[derive(Clone, Copy, Debug)]
pub struct Producer {
    pub id: u16,
    /// 2: each of its messages is published once.
    pub qos: u8,
    /// So many of its messages at a time, from the first on, are one transaction: all of them are everywhere, or none is anywhere.
    pub group: u64,
}

impl Producer {
    pub const fn new(id: u16, qos: u8) -> Producer {
        Producer { id, qos, group: 1 }
    }
}

/// In which order the messages of one producer come.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Sent,
    /// By what this says of their number; those of which it says the same, as they were sent.
    Lanes(fn(u64) -> u8),
    /// The same, and all there is of a higher lane comes before a lower one.
    Ranked(fn(u64) -> u8),
    /// None: they came another way.
    Any,
}

#[derive(Clone, Copy, Debug)]
pub struct Consumer {
    pub id: u16,
    /// 2: what is published once comes once.
    pub qos: u8,
    /// Which of a producer's messages come to it: every so manieth, with this rest.
    pub every: u64,
    pub rest: u64,
    /// Takes the messages of this producer only.
    pub only: Option<u16>,
    /// Or those of all but this one.
    pub except: Option<u16>,
    pub order: Order,
}

impl Consumer {
    pub const fn new(id: u16, qos: u8) -> Consumer {
        Consumer { id, qos, every: 1, rest: 0, only: None, except: None, order: Order::Sent }
    }

    pub fn wants(&self, producer: u16, n: u64) -> bool {
        n % self.every == self.rest && self.only.is_none_or(|only| only == producer) && self.except != Some(producer)
    }
}

const EXAMPLES: usize = 5;

/// How often a rule was broken, and the first cases.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Breaches {
    pub count: u64,
    pub examples: Vec<String>,
}

impl Breaches {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

#[derive(Clone, Default)]
pub struct Verdict {
    pub sent: u64,
    pub confirmed: u64,
    pub received: u64,
    pub lost: Breaches,
    pub unexpected: Breaches,
    pub reordered: Breaches,
    pub duplicates: Breaches,
    pub resurrected: Breaches,
    pub sessions_lost: Breaches,
    /// Transactions of which a part happened.
    pub torn: Breaches,
    /// Repeats that at-least-once allows: flagged DUP, published again by the producer, or on a new connection after a crash.
    pub repeats: u64,
    /// Of these, the ones on a new connection that neither the DUP flag nor the producer explains: the mark of what had been delivered
    /// was not yet on the disk when the broker died.
    pub unflagged: u64,
    /// Sent, never confirmed, never arrived: what a fault may take.
    pub vanished: u64,
}

impl Verdict {
    fn rules(&self) -> [(&'static str, &Breaches); 7] {
        [
            ("lost", &self.lost),
            ("unexpected", &self.unexpected),
            ("reordered", &self.reordered),
            ("duplicates", &self.duplicates),
            ("resurrected", &self.resurrected),
            ("sessions lost", &self.sessions_lost),
            ("torn", &self.torn),
        ]
    }

    /// The rules that were broken only, with examples.
    pub fn broken(&self) -> String {
        let broken = self.rules().into_iter().filter(|(_, breaches)| breaches.count > 0);
        broken
            .map(|(name, breaches)| format!("{name} {} ({})", breaches.count, breaches.examples.join("; ")))
            .collect::<Vec<_>>()
            .join(", ")
    }

    pub fn is_clean(&self) -> bool {
        self.rules().iter().all(|(_, breaches)| breaches.count == 0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sent {} confirmed {} received {}", self.sent, self.confirmed, self.received)?;
        for (name, breaches) in self.rules() {
            write!(f, " {name} {}", breaches.count)?;
            if breaches.count > 0 {
                write!(f, " ({})", breaches.examples.join("; "))?;
            }
        }
        write!(f, " repeats {} (unflagged after a crash {}) vanished {}", self.repeats, self.unflagged, self.vanished)
    }
}

#[derive(Default)]
struct Message {
    sent: u32,
    confirmed: bool,
    arrived: bool,
}

/// The arrivals of one message at one consumer.
struct Arrivals {
    position: u64,
    connection: u32,
    /// On this connection.
    times: u32,
    /// The most on any connection whose last arrival is settled: so many of its copies are done with.
    done: u32,
}

#[derive(Default)]
struct Seen {
    arrivals: HashMap<(u16, u64), Arrivals>,
    received: u64,
    /// By connection: up to which position.
    settled: HashMap<u32, u64>,
    /// By producer and lane.
    newest: HashMap<(u16, u8), u64>,
    /// By connection: the lane of the last arrival.
    lane: HashMap<u32, u8>,
}

pub fn check(events: &[Event], producers: &[Producer], consumers: &[Consumer]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut messages: BTreeMap<(u16, u64), Message> = BTreeMap::new();
    // First everything that was sent: a receipt may stand in the history before the line of its sending.
    for event in events {
        match event {
            Event::Sent { producer, n } => messages.entry((*producer, *n)).or_default().sent += 1,
            Event::Confirmed { producer, n } => messages.entry((*producer, *n)).or_default().confirmed = true,
            _ => {}
        }
    }
    let mut seen: HashMap<u16, Seen> = consumers.iter().map(|consumer| (consumer.id, Seen::default())).collect();
    for event in events {
        match *event {
            Event::Received { consumer, producer, n, dup, connection } => {
                let plan = consumers.iter().find(|plan| plan.id == consumer);
                let Some((plan, seen)) = plan.zip(seen.get_mut(&consumer)) else {
                    verdict.unexpected.add(|| format!("an unknown consumer {consumer}"));
                    continue;
                };
                // MQTT 5.0, 3.8.4: a delivery has the lower of the two levels. In AMQP a queue that one client empties has the higher.
                let once = plan.qos == 2 && producers.iter().any(|plan| plan.id == producer && plan.qos == 2);
                let resends = producers.iter().any(|plan| plan.id == producer && plan.qos < 2);
                match messages.get_mut(&(producer, n)).filter(|message| message.sent > 0 && plan.wants(producer, n)) {
                    Some(message) => {
                        message.arrived = true;
                        let copies = if resends { message.sent } else { 1 };
                        let delivery = Delivery { producer, n, dup, connection, copies, once };
                        arrival(&mut verdict, seen, plan, &delivery);
                    }
                    None => verdict.unexpected.add(|| format!("message {n} of producer {producer} at consumer {consumer}")),
                }
            }
            Event::Settled { consumer, connection, count } => {
                if let Some(seen) = seen.get_mut(&consumer) {
                    let settled = seen.settled.entry(connection).or_insert(0);
                    *settled = count.max(*settled);
                }
            }
            Event::Garbage { consumer } => verdict.unexpected.add(|| format!("foreign bytes at consumer {consumer}")),
            Event::SessionLost { client } => verdict.sessions_lost.add(|| format!("client {client}")),
            Event::Sent { .. } | Event::Confirmed { .. } => {}
        }
    }
    for ((producer, n), message) in &messages {
        verdict.sent += 1;
        verdict.confirmed += u64::from(message.confirmed);
        verdict.vanished += u64::from(!message.confirmed && !message.arrived);
        if !message.confirmed {
            continue;
        }
        for plan in consumers.iter().filter(|plan| plan.wants(*producer, *n)) {
            if !seen[&plan.id].arrivals.contains_key(&(*producer, *n)) {
                verdict.lost.add(|| format!("message {n} of producer {producer} at consumer {}", plan.id));
            }
        }
    }
    for producer in producers.iter().filter(|producer| producer.group > 1) {
        torn(&mut verdict, producer, consumers, &messages, &seen);
    }
    verdict
}

/// Each transaction of this producer is everywhere or nowhere.
fn torn(
    verdict: &mut Verdict,
    producer: &Producer,
    consumers: &[Consumer],
    messages: &BTreeMap<(u16, u64), Message>,
    seen: &HashMap<u16, Seen>,
) {
    let mut groups: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (_, n) in messages.range((producer.id, 0)..=(producer.id, u64::MAX)).map(|(key, _)| key) {
        let (wanted, arrived) = groups.entry((n - 1) / producer.group).or_default();
        for plan in consumers.iter().filter(|plan| plan.wants(producer.id, *n)) {
            *wanted += 1;
            *arrived += u64::from(seen[&plan.id].arrivals.contains_key(&(producer.id, *n)));
        }
    }
    for (group, (wanted, arrived)) in groups {
        if arrived != 0 && arrived != wanted {
            let first = group * producer.group + 1;
            verdict
                .torn
                .add(|| format!("{arrived} of {wanted} copies of the transaction from message {first} of producer {} on", producer.id));
        }
    }
}

struct Delivery {
    producer: u16,
    n: u64,
    dup: bool,
    connection: u32,
    /// How many may come because the producer sent so many.
    copies: u32,
    /// QoS 2 on both ways.
    once: bool,
}

fn arrival(verdict: &mut Verdict, seen: &mut Seen, plan: &Consumer, delivery: &Delivery) {
    let Delivery { producer, n, dup, connection, copies, once } = *delivery;
    seen.received += 1;
    verdict.received += 1;
    let position = seen.received;
    let Some(known) = seen.arrivals.get_mut(&(producer, n)) else {
        seen.arrivals.insert((producer, n), Arrivals { position, connection, times: 1, done: 0 });
        in_order(verdict, seen, plan, delivery);
        return;
    };
    if seen.settled.get(&known.connection).is_some_and(|settled| known.position <= *settled) {
        known.done = known.done.max(known.times);
    }
    let same_connection = known.connection == connection;
    // A producer that sent a message again made a copy; each copy may come once per connection until it is settled.
    known.times = if same_connection { known.times + 1 } else { 1 };
    (known.position, known.connection) = (position, connection);
    let what = || format!("message {n} of producer {producer} at consumer {}, connection {connection}", plan.id);
    if known.done + if same_connection { 1 } else { known.times } > copies {
        verdict.resurrected.add(what);
    } else if known.times > copies || (once && !same_connection) {
        verdict.duplicates.add(what);
    } else {
        verdict.repeats += 1;
        verdict.unflagged += u64::from(!dup && copies == 1);
    }
}

fn in_order(verdict: &mut Verdict, seen: &mut Seen, plan: &Consumer, delivery: &Delivery) {
    let Delivery { producer, n, connection, .. } = *delivery;
    let lane = match plan.order {
        Order::Any => return,
        Order::Sent => 0,
        Order::Lanes(of) => of(n),
        Order::Ranked(of) => {
            let last = seen.lane.insert(connection, of(n));
            if last.is_some_and(|last| of(n) > last) {
                verdict.reordered.add(|| format!("message {n} of producer {producer} after lower ones at consumer {}", plan.id));
            }
            of(n)
        }
    };
    let newest = seen.newest.entry((producer, lane)).or_insert(0);
    if n < *newest {
        let newest = *newest;
        verdict.reordered.add(|| format!("message {n} of producer {producer} after {newest} at consumer {}", plan.id));
    }
    *newest = n.max(*newest);
}

#[cfg(test)]
mod tests;
