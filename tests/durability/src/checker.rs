//! Decides from a `History` alone whether messages were lost, invented, reordered, repeated or brought back from the dead. It asks the
//! broker nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// What happened, in the order in which each client saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A PUBLISH of message `n` left; again when it is sent again.
    Sent { producer: u16, n: u64 },
    /// PUBACK, or at QoS 2 PUBREC (from there on the broker owns the message) came for it.
    Confirmed { producer: u16, n: u64 },
    /// A message was handed to the consumer's application.
    Received { consumer: u16, producer: u16, n: u64, dup: bool, connection: u32 },
    /// What the consumer received on this connection, up to its `count`-th message over all, is settled durably: the acknowledgements were
    /// sent before a publish on the same connection that has been confirmed. What it received on earlier ones may have died with them.
    Settled { consumer: u16, connection: u32, count: u64 },
    /// Something arrived that nobody sent: wrong bytes, wrong run.
    Garbage { consumer: u16 },
    /// The broker forgot a session that it had confirmed.
    SessionLost { client: u16 },
}

#[derive(Clone, Copy, Debug)]
pub struct Producer {
    pub id: u16,
    pub qos: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Consumer {
    pub id: u16,
    pub qos: u8,
    /// Which of a producer's messages its subscription takes.
    pub every: u64,
    /// Takes the messages of this producer only.
    pub only: Option<u16>,
}

impl Consumer {
    fn wants(&self, producer: u16, n: u64) -> bool {
        n % self.every == 0 && self.only.is_none_or(|only| only == producer)
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
    /// Repeats that at-least-once allows: flagged DUP, published again by the producer, or on a new connection after a crash.
    pub repeats: u64,
    /// Of these, the ones on a new connection that neither the DUP flag nor the producer explains: the mark of what had been delivered
    /// was not yet on the disk when the broker died.
    pub unflagged: u64,
    /// Sent, never confirmed, never arrived: what a fault may take.
    pub vanished: u64,
}

impl Verdict {
    fn rules(&self) -> [(&'static str, &Breaches); 6] {
        [
            ("lost", &self.lost),
            ("unexpected", &self.unexpected),
            ("reordered", &self.reordered),
            ("duplicates", &self.duplicates),
            ("resurrected", &self.resurrected),
            ("sessions lost", &self.sessions_lost),
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
    newest: HashMap<u16, u64>,
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
                // MQTT 5.0, 3.8.4: a delivery has the lower of the two levels.
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
    verdict
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
        let newest = seen.newest.entry(producer).or_insert(0);
        if n < *newest {
            let newest = *newest;
            verdict.reordered.add(|| format!("message {n} of producer {producer} after {newest} at consumer {}", plan.id));
        }
        *newest = n.max(*newest);
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

#[cfg(test)]
mod tests;
