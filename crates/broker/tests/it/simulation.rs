//! The core on a simulated disk: random work, and crashes at random points, from a seed. The model stands beside it and is checked after every
//! crash: transactions happened whole or not at all, confirmed is never lost, settled and confirmed never comes again, FIFO per producer, counters equal a recount,
//! the state map and what it is in one record with agree, retained values never go back.

use crate::model::{Edit, Id, Line, Map, Retained, Settled, Transaction};
use crate::pair::{Pair, PairTally};
use crate::support::*;
use broker_api::*;
use journal::sim::{Crash, Injected, Rng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

const TOPICS: u64 = 3;
/// Lines 0..3 are the sessions', then the share, then two declared queues whose consumers settle as they take: what comes to the second was
/// held back by an exchange for `DELAY_MS`.
const SESSIONS: [&str; 3] = ["s0", "s1", "s2"];
const SHARE: usize = 3;
const AUTO: usize = 4;
const HELD: usize = 5;
const DELAY_MS: u32 = 150;
const OF_HELD: ConsumerIx = ConsumerIx(2);
const PRODUCERS: usize = 2;

fn wants(line: usize, topic: u64) -> bool {
    match line {
        0 | 2 => true,
        1 => topic < 2,
        SHARE => topic == 1,
        // `AUTO` and `HELD`.
        _ => topic == 2,
    }
}

fn body(rng: &mut Rng, (producer, n): Id) -> Vec<u8> {
    let mut body = [producer.to_le_bytes(), n.to_le_bytes()].concat();
    let extra = if rng.chance(5) { 4000 } else { rng.below(400) };
    body.resize(8 + extra as usize, n as u8);
    body
}

fn parse(got: &Got) -> Result<Id, String> {
    let word = |at: usize| u32::from_le_bytes(got.body[at..at + 4].try_into().unwrap());
    let id = (word(0), word(4));
    match got.body[8..].iter().all(|b| *b == id.1 as u8) {
        true => Ok(id),
        false => Err(format!("the body of {id:?} is damaged")),
    }
}

#[derive(Default, Debug, Clone, Copy)]
struct Tally {
    seeds: u64,
    operations: u64,
    crashes: u64,
    confirmed: u64,
    settled: u64,
    in_flight: u64,
    resumed: u64,
    held_back: u64,
    torn_tails: u64,
    commits: u64,
    /// Commits that a crash left undecided, and how it decided them.
    commits_kept: u64,
    commits_lost: u64,
    checkpoints: u64,
    evacuations: u64,
    rotations: u64,
    pages_merged: u64,
    injected: Injected,
    pair: PairTally,
}

/// A delivery found after a crash: line, message, delivery.
type Found = (usize, Id, Got);

struct Producer {
    client: Option<Client>,
    heard: usize,
    next: u32,
    /// (serial, message), in order.
    waiting: VecDeque<(u64, Id)>,
    /// (serial, topic, place in the topic's history)
    retained: VecDeque<(u64, usize, usize)>,
    map: Map,
}

struct Consumer {
    client: Option<Client>,
    /// What it holds: (line, message, delivery, key of its pin).
    out: Vec<(usize, Id, Got, Option<u64>)>,
    /// (serial that makes it sure, line, message)
    settling: Vec<(u64, usize, Id)>,
    map: Map,
    /// Of keys that stand in the map.
    pins: BTreeMap<u64, (usize, Id)>,
    /// As a producer, in transactions.
    next: u32,
    /// The last transaction of this connection, and what is in the one that is open now.
    tx: u32,
    open: Option<Open>,
    /// Asked for in this reign, with the token that the answer bears while it is awaited.
    commits: Vec<(Option<u32>, Transaction)>,
}

/// What an open transaction has collected.
struct Open {
    published: Vec<(Id, u64)>,
    settled: Vec<(usize, Id, Got, Option<u64>)>,
}

struct Sim {
    rng: Rng,
    setup: Setup,
    lines: Vec<Line>,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    auto: Option<Client>,
    retained: Vec<Retained>,
    next_value: u64,
    next_key: u64,
    tally: Tally,
    pair: Option<Pair>,
}

impl Sim {
    fn paired(seed: u64) -> Sim {
        let mut sim = Sim::new(seed);
        sim.pair = Some(Pair::new(seed, &sim.setup));
        sim
    }

    fn new(seed: u64) -> Sim {
        let names = ["s0", "s1", "s2", "share", "auto", "held"];
        let mut setup = Setup::seeded(seed).tiny();
        if seed % 2 == 1 {
            // Checkpoints follow each other so closely that the same pages are written again and again.
            setup.journal.checkpoint_interval = std::time::Duration::from_millis(100);
        }
        Sim {
            rng: Rng::new(seed ^ 0x5eed),
            setup,
            lines: names.map(|name| Line { name, ..Line::default() }).into(),
            producers: (0..PRODUCERS).map(|_| Producer::new()).collect(),
            consumers: SESSIONS.iter().map(|_| Consumer::new()).collect(),
            auto: None,
            retained: (0..2).map(|_| Retained::default()).collect(),
            next_value: 1,
            next_key: 1,
            tally: Tally { seeds: 1, ..Tally::default() },
            pair: None,
        }
    }

    fn run(mut self, reigns: u64, operations: u64) -> Result<Tally, String> {
        let mut node = self.setup.start();
        self.first_subscriptions(&node);
        for reign in 0..reigns {
            self.reign(&node, reign, operations)?;
            let stats = node.core.journal_stats();
            self.tally.checkpoints += stats.checkpoints;
            self.tally.evacuations += stats.evacuated_ranges;
            self.tally.rotations += stats.rotations;
            self.tally.pages_merged += node.core.pages_merged();
            node = self.crash(node)?;
            self.examine(&node).map_err(|e| format!("reign {reign}: {e}"))?;
        }
        self.tally.injected = self.setup.storage.injected();
        self.tally.pair = self.pair.map(|pair| pair.tally).unwrap_or_default();
        Ok(self.tally)
    }

    fn first_subscriptions(&mut self, node: &Node) {
        for (n, name) in SESSIONS.iter().enumerate() {
            let mut c = Client::attach(node, name);
            match n {
                0 => c.subscribe("t/#", 1).share("g", "t/1", 1),
                1 => c.subscribe("t/0", 2).subscribe("t/1", 1),
                _ => c.subscribe("t/+", 2).subscribe("t/2", 1).share("g", "t/1", 2),
            };
            c.cut();
        }
        let mut auto = self.declare(node);
        auto.poll();
        self.auto = Some(auto);
        (0..PRODUCERS).for_each(|n| self.producers[n].attach(node, n));
    }

    fn declare(&self, node: &Node) -> Client {
        let mut c = Client::connect(node);
        c.control(Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
        let (kind, arguments) = ("x-delayed-message".to_owned(), b"x-delayed-type=fanout".to_vec());
        let spec = ExchangeSpec { kind, durable: true, arguments, format: PAIR, ..ExchangeSpec::default() };
        c.control(Control::Declare(Declare::Exchange { owner: OWNER, name: "later".into(), spec, passive: false }));
        for name in ["auto", "held"] {
            let spec = QueueSpec { durable: true, ..QueueSpec::default() };
            c.control(Control::Declare(Declare::Queue { owner: OWNER, name: name.into(), spec, passive: false }));
        }
        let ends = [
            ("amq.topic", Destination::Queue("auto".into())),
            ("amq.topic", Destination::Exchange("later".into())),
            ("later", Destination::Queue("held".into())),
        ];
        for (source, destination) in ends {
            let bind = Bind { owner: OWNER, source: source.into(), destination, key: "t.2".into(), arguments: Vec::new(), format: 0 };
            c.control(Control::Bind(bind));
        }
        for (consumer, queue) in [(CONSUMER, "auto"), (OF_HELD, "held")] {
            c.control(Control::Consume(Consume {
                consumer,
                owner: OWNER,
                group: None,
                queue: queue.into(),
                credit: u32::MAX,
                mode: Mode::Settled,
                exclusive: false,
                alone: false,
                priority: 0,
                selector: None,
            }));
        }
        c
    }

    fn reign(&mut self, node: &Node, reign: u64, operations: u64) -> Result<(), String> {
        let cut_at = self.rng.below(operations);
        for n in 0..operations {
            if n == cut_at && self.rng.chance(70) {
                let after = self.rng.below(40);
                self.setup.storage.crash_after(after);
            }
            if node.failed.load(Ordering::Acquire) {
                break;
            }
            self.tally.operations += 1;
            if let Some(pair) = &mut self.pair {
                for _ in 0..self.rng.below(3) {
                    pair.step(node).map_err(|e| format!("reign {reign}, operation {n}: {e}"))?;
                }
            }
            self.operation(node).map_err(|e| format!("reign {reign}, operation {n}: {e}"))?;
        }
        Ok(())
    }

    fn operation(&mut self, node: &Node) -> Result<(), String> {
        let steps = node.steps.clone().expect("stepped");
        match self.rng.below(100) {
            0..24 => self.publish(),
            24..30 => self.transact(),
            30..34 => self.publish_retained(),
            34..37 => self.drop_key(),
            37..55 => self.settle(),
            55..59 => self.pin(),
            59..67 => self.come_or_go(node),
            67..72 => {
                let n = self.rng.below(3) as usize;
                let more = self.rng.below(20) as u32;
                if let Some(client) = &mut self.consumers[n].client {
                    client.turn(|turn, _| turn.credit(CreditTo::Group(GROUP), more));
                }
            }
            72..88 => {
                steps.commit();
            }
            88..94 => {
                steps.maintain();
            }
            94..97 => {
                steps.read();
            }
            _ => {
                node.clock().pass_ms(self.rng.below(400));
                let rests = match &mut self.pair {
                    Some(pair) => pair.settle(node)?,
                    None => {
                        node.settle();
                        !node.failed.load(Ordering::Acquire)
                    }
                };
                if rests {
                    self.hear()?;
                    [AUTO, HELD].into_iter().for_each(|line| self.lines[line].all_sure());
                    node.core.recount()?;
                    node.core.audit()?;
                }
            }
        }
        self.hear()
    }

    fn publish(&mut self) {
        let p = self.rng.below(PRODUCERS as u64) as usize;
        let mut turn = Vec::new();
        for _ in 0..1 + self.rng.below(4) {
            let topic = self.rng.below(TOPICS);
            let producer = &mut self.producers[p];
            let id = (p as u32, producer.next);
            producer.next += 1;
            let body = body(&mut self.rng, id);
            turn.push((id, msg(&format!("t/{topic}"), body, 1 + (id.1 % 2) as u8).delay(DELAY_MS)));
            (0..self.lines.len()).filter(|l| wants(*l, topic)).for_each(|l| self.lines[l].publish(id));
        }
        let Some(client) = &self.producers[p].client else { return };
        let first = client.serial + 1;
        if self.rng.chance(40) {
            // The first of the turn carries its identifier, as an exactly-once publish does.
            let key = self.next_key;
            self.next_key += 1;
            turn[0].1 = turn[0].1.clone().with(edit(key, Some("id"), None));
            self.producers[p].map.edits.push(Edit { key, put: true, with: Some(turn[0].0), serial: first });
        }
        let producer = &mut self.producers[p];
        for (n, (id, _)) in turn.iter().enumerate() {
            producer.waiting.push_back((first + n as u64, *id));
        }
        let messages: Vec<Msg> = turn.into_iter().map(|(_, m)| m).collect();
        producer.client.as_mut().expect("connected").send(&messages);
    }

    /// A session takes part as consumer and producer in one: it settles and publishes in a scope, and commits, rolls back, or leaves it open.
    fn transact(&mut self) {
        let n = self.rng.below(3) as usize;
        let consumer = &mut self.consumers[n];
        let Some(client) = &mut consumer.client else { return };
        let begins = consumer.open.is_none();
        let ends = !begins || self.rng.chance(60);
        let commits = self.rng.chance(75);
        let now = client.session.now_ms();
        if begins {
            consumer.tx += 1;
        }
        let open = consumer.open.get_or_insert_with(|| Open { published: Vec::new(), settled: Vec::new() });
        let (mut publishes, mut settles) = (Vec::new(), Vec::new());
        if begins {
            for _ in 0..self.rng.below(4) {
                let (topic, id) = (self.rng.below(TOPICS), ((PRODUCERS + n) as u32, consumer.next));
                consumer.next += 1;
                publishes.push(msg(&format!("t/{topic}"), body(&mut self.rng, id), 1 + (id.1 % 2) as u8).delay(DELAY_MS));
                open.published.push((id, topic));
            }
            let count = self.rng.below(4) as usize;
            while let Some(at) = consumer.out.iter().position(|o| o.3.is_none()).filter(|_| settles.len() < count) {
                let taken = consumer.out.remove(at);
                settles.push((taken.2.queue, taken.2.seq.unwrap()));
                open.settled.push(taken);
            }
        }
        let tx = TxIx(consumer.tx);
        let token = client.turn(|turn, token| {
            turn.entries.push(Entry::Scope(Some(tx)));
            publishes.iter().for_each(|m| m.put(turn, now));
            for (queue, seq) in settles {
                turn.settle(Settle { queue, first: seq, count: 1, owner: OWNER, state: 0, outcome: Outcome::Accepted });
            }
            turn.entries.push(Entry::Scope(None));
            if ends {
                let control = if commits { Control::Commit { owner: OWNER, tx } } else { Control::Rollback { owner: OWNER, tx } };
                turn.control(Token(token), control);
            }
        });
        if !ends {
            return;
        }
        let Some(Open { published, settled }) = consumer.open.take() else { return };
        if !commits {
            // The leases are where they were.
            consumer.out.extend(settled);
            return;
        }
        let mut asked = Transaction::default();
        for (id, topic) in published {
            asked.published.push(id);
            (0..self.lines.len()).filter(|l| wants(*l, topic)).for_each(|l| self.lines[l].publish(id));
        }
        for (line, id, _, _) in settled {
            asked.settled.push((line, id));
            self.lines[line].ask_settle(id);
        }
        consumer.commits.push((Some(token), asked));
    }

    fn publish_retained(&mut self) {
        let p = self.rng.below(PRODUCERS as u64) as usize;
        // While a standby is behind, publishes are held, and which of two producers comes first is not known.
        let topic = if self.pair.is_some() { p } else { self.rng.below(2) as usize };
        let value = if self.rng.chance(20) { 0 } else { self.next_value };
        self.next_value += 1;
        let text = if value == 0 { String::new() } else { value.to_string() };
        let producer = &mut self.producers[p];
        let Some(client) = &mut producer.client else { return };
        let level = self.rng.below(2) as u8;
        let serial = client.send(&[msg(&format!("r/{topic}"), text, level).retained().confirm()]);
        producer.retained.push_back((serial, topic, self.retained[topic].set.len()));
        self.retained[topic].set.push((value, false));
    }

    /// A producer forgets an identifier: a record of its own, and a fence.
    fn drop_key(&mut self) {
        let p = self.rng.below(PRODUCERS as u64) as usize;
        let producer = &mut self.producers[p];
        let keys: Vec<u64> = producer.map.keys().into_iter().collect();
        let (Some(client), false) = (&mut producer.client, keys.is_empty()) else { return };
        let key = keys[self.rng.below(keys.len() as u64) as usize];
        client.turn(|turn, _| {
            turn.state(edit(key, None, None));
            turn.fence();
        });
        producer.map.edits.push(Edit { key, put: false, with: None, serial: client.serial });
    }

    fn settle(&mut self) {
        let n = self.rng.below(3) as usize;
        let consumer = &mut self.consumers[n];
        let Some(client) = &mut consumer.client else { return };
        let count = (1 + self.rng.below(6) as usize).min(consumer.out.len());
        let from = if self.rng.chance(70) { 0 } else { self.rng.below((consumer.out.len() - count + 1) as u64) as usize };
        let taken: Vec<_> = consumer.out.drain(from..from + count).collect();
        let give_back = self.rng.chance(15);
        let fenced = self.rng.chance(50);
        let sure = client.serial + 1;
        let mut edits = Vec::new();
        client.turn(|turn, _| {
            for (line, id, got, pin) in &taken {
                let outcome = if give_back && pin.is_none() { Outcome::Released } else { Outcome::Accepted };
                let state = pin.map_or(0, |key| turn.keep_state(edit(key, None, None)));
                turn.settle(Settle { queue: got.queue, first: got.seq.unwrap(), count: 1, owner: OWNER, state, outcome });
                edits.extend(pin.map(|key| Edit { key, put: false, with: None, serial: sure }));
                if outcome == Outcome::Released {
                    self.lines[*line].give_back(*id);
                } else {
                    self.lines[*line].ask_settle(*id);
                    consumer.settling.push((sure, *line, *id));
                }
            }
            if fenced {
                turn.fence();
            }
        });
        // The pins stay known: a crash may bring them back.
        consumer.map.edits.extend(edits);
    }

    /// Writes down which delivery is in flight, as an exactly-once sender does before it sends.
    fn pin(&mut self) {
        let n = self.rng.below(3) as usize;
        let key = self.next_key;
        let consumer = &mut self.consumers[n];
        let (Some(client), Some((line, id, got, pin))) = (&mut consumer.client, consumer.out.iter_mut().find(|o| o.3.is_none())) else {
            return;
        };
        self.next_key += 1;
        *pin = Some(key);
        client.turn(|turn, _| {
            turn.state(edit(key, Some("sent"), Some((got.queue, got.seq.unwrap()))));
            turn.fence();
        });
        consumer.map.edits.push(Edit { key, put: true, with: None, serial: client.serial });
        consumer.pins.insert(key, (*line, *id));
    }

    fn come_or_go(&mut self, node: &Node) {
        let n = self.rng.below(3) as usize;
        match self.consumers[n].client.take() {
            Some(client) => self.leave(n, client),
            None => {
                let credit = self.rng.below(40) as u32;
                self.consumers[n].attach(node, SESSIONS[n], credit);
            }
        }
    }

    fn leave(&mut self, n: usize, mut client: Client) {
        client.session.disconnect();
        let consumer = &mut self.consumers[n];
        // Serials start again with the next connection: what this one asked for may still become durable, but nobody is told.
        consumer.settling.clear();
        consumer.map.edits.iter_mut().for_each(|e| e.serial = u64::MAX);
        consumer.forget_tokens();
        for (line, id, _, _) in consumer.out.drain(..).chain(consumer.open.take().map(|open| open.settled).unwrap_or_default()) {
            self.lines[line].give_back(id);
        }
    }

    /// Everybody hears what there is, and the model with them.
    fn hear(&mut self) -> Result<(), String> {
        for p in 0..PRODUCERS {
            self.hear_producer(p)?;
        }
        for n in 0..SESSIONS.len() {
            self.hear_consumer(n)?;
        }
        let Some(auto) = &mut self.auto else { return Ok(()) };
        auto.hear_one();
        for seen in auto.log.drain(..) {
            if let Seen::Got(got) = seen {
                let id = parse(&got)?;
                let line = if got.to == OF_HELD { HELD } else { AUTO };
                self.lines[line].deliver(id)?;
                self.lines[line].ask_settle(id);
                seen_of(&mut self.consumers, id);
                self.tally.settled += 1;
                self.tally.held_back += u64::from(line == HELD);
            }
        }
        Ok(())
    }

    fn hear_producer(&mut self, p: usize) -> Result<(), String> {
        let producer = &mut self.producers[p];
        let Some(client) = &mut producer.client else { return Ok(()) };
        client.hear_one();
        for seen in &client.log[producer.heard..] {
            match seen {
                Seen::Done(through) => {
                    while producer.waiting.front().is_some_and(|(serial, _)| serial <= through) {
                        let (_, id) = producer.waiting.pop_front().expect("just seen");
                        self.lines.iter_mut().for_each(|line| line.confirm(id));
                        self.tally.confirmed += 1;
                    }
                    while producer.retained.front().is_some_and(|(serial, _, _)| serial <= through) {
                        let (_, topic, at) = producer.retained.pop_front().expect("just seen");
                        self.retained[topic].set[at].1 = true;
                    }
                    producer.map.done(*through);
                }
                // They never were; what is done behind them says nothing of them.
                Seen::Refused(first, last, Refusal::StoreFailed) => {
                    let refused = |serial: u64| (*first..=*last).contains(&serial);
                    producer.waiting.retain(|(serial, _)| !refused(*serial));
                    producer.retained.retain(|(serial, _, _)| !refused(*serial));
                    producer.map.edits.retain(|edit| !refused(edit.serial));
                }
                Seen::Reply(..) | Seen::Signal(_) => {}
                other => return Err(format!("a producer heard {other:?}")),
            }
        }
        producer.heard = client.log.len();
        Ok(())
    }

    fn hear_consumer(&mut self, n: usize) -> Result<(), String> {
        let mut heard = Vec::new();
        if let Some(client) = &mut self.consumers[n].client {
            client.hear_one();
            heard = std::mem::take(&mut client.log);
        }
        for seen in heard {
            if let Seen::Got(got) = &seen {
                seen_of(&mut self.consumers, parse(got)?);
            }
            let consumer = &mut self.consumers[n];
            let Some(client) = &mut consumer.client else { return Ok(()) };
            match seen {
                Seen::Got(got) => {
                    let id = parse(&got)?;
                    let line = if got.queue == client.queue { n } else { SHARE };
                    self.lines[line].deliver(id)?;
                    let pin = consumer.pins.iter().find(|(_, at)| **at == (line, id)).map(|(key, _)| *key);
                    if pin.is_some() != got.has(DELIVERY_RESUMED) {
                        return Err(format!("{}: {id:?} resumed: {}, pinned by {pin:?}", self.lines[line].name, got.has(DELIVERY_RESUMED)));
                    }
                    self.tally.resumed += u64::from(pin.is_some());
                    consumer.out.push((line, id, got, pin));
                }
                Seen::Done(through) => {
                    let (sure, rest) = consumer.settling.iter().partition(|(serial, _, _)| *serial <= through);
                    let sure: Vec<(u64, usize, Id)> = sure;
                    consumer.settling = rest;
                    self.tally.settled += sure.len() as u64;
                    sure.into_iter().for_each(|(_, line, id)| self.lines[line].sure_settled(id));
                    consumer.map.done(through);
                }
                Seen::Reply(_, Ok(Reply::Attached(attached))) => client.queue = attached.queue,
                Seen::Reply(token, Ok(Reply::Ok)) => {
                    let Some((awaited, tx)) = consumer.commits.iter_mut().find(|(t, _)| *t == Some(token)) else { continue };
                    (*awaited, tx.sure) = (None, true);
                    self.tally.commits += 1;
                    for id in &tx.published {
                        self.lines.iter_mut().for_each(|line| line.confirm(*id));
                    }
                    tx.settled.iter().for_each(|(line, id)| self.lines[*line].sure_settled(*id));
                }
                Seen::Refused(_, _, Refusal::StoreFailed) | Seen::Reply(..) | Seen::Signal(_) => {}
                other => return Err(format!("a consumer heard {other:?}")),
            }
        }
        Ok(())
    }

    /// Ends this life of the node, and starts the next one.
    fn crash(&mut self, node: Node) -> Result<Node, String> {
        self.tally.crashes += 1;
        self.tally.in_flight += self.lines.iter().map(Line::unconfirmed).sum::<u64>();
        let kind = if self.rng.chance(70) { Crash::PowerCut } else { Crash::Kill };
        self.setup.storage.crash(kind);
        self.auto = None;
        for p in &mut self.producers {
            (p.client, p.heard) = (None, 0);
            p.waiting.clear();
            p.retained.clear();
        }
        for c in &mut self.consumers {
            c.client = None;
            c.settling.clear();
            c.forget_tokens();
            for (line, id, _, _) in c.out.drain(..).chain(c.open.take().map(|open| open.settled).unwrap_or_default()) {
                self.lines[line].give_back(id);
            }
        }
        drop(node);
        if let Some(pair) = &mut self.pair {
            if let Some(node) = pair.take_over(&mut self.setup)? {
                return Ok(node);
            }
        }
        let node = self.setup.try_start().map_err(|e| format!("it does not start again: {e}"))?;
        self.tally.torn_tails += u64::from(node.core.journal_stats().recovered_tail_bytes > 0);
        Ok(node)
    }

    /// Looks at everything that is there after a crash, as clients can see it, and lets the model judge.
    fn examine(&mut self, node: &Node) -> Result<(), String> {
        node.core.recount()?;
        node.core.audit()?;
        let mut there: Vec<BTreeSet<Id>> = vec![BTreeSet::new(); self.lines.len()];
        let mut states: Vec<BTreeSet<u64>> = Vec::new();
        let mut first: Vec<(usize, Vec<Found>)> = Vec::new();
        for (n, name) in SESSIONS.iter().enumerate() {
            let mut c = Client::attach(node, name);
            states.push(keys(&c.state).into_iter().collect());
            let mut got = Vec::new();
            for g in c.take() {
                let id = parse(&g)?;
                let line = if g.queue == c.queue { n } else { SHARE };
                if !there[line].insert(id) {
                    return Err(format!("{}: {id:?} came twice after the crash", self.lines[line].name));
                }
                got.push((line, id, g));
            }
            let own = got.iter().filter(|(line, _, _)| *line == n).count() as u64;
            if node.depth(name) != own {
                return Err(format!("{name}: depth {} but {own} are there", node.depth(name)));
            }
            first.push((n, got));
            c.log.clear();
            self.consumers[n].client = Some(c);
        }
        let mut auto = self.declare(node);
        // Whatever is held back is due by then.
        node.clock().pass_ms(u64::from(DELAY_MS) + 10);
        node.settle();
        let mut held = Vec::new();
        for g in auto.take() {
            let (id, line) = (parse(&g)?, if g.to == OF_HELD { HELD } else { AUTO });
            if !there[line].insert(id) {
                return Err(format!("{}: {id:?} came twice after the crash", self.lines[line].name));
            }
            if line == HELD {
                held.push((line, id, g));
            }
        }
        fifo(&held)?;
        node.core.recount()?;
        node.core.audit()?;
        for (n, got) in &first {
            fifo(got)?;
            self.resumed(*n, got, &states[*n])?;
        }
        for (p, producer) in self.producers.iter_mut().enumerate() {
            producer.attach(node, p);
            let found: BTreeSet<u64> = producer.client.as_ref().map(|c| keys(&c.state).into_iter().collect()).unwrap_or_default();
            let lines = &self.lines;
            producer.map.after_crash(&found, |id| known(lines, &there, id)).map_err(|e| format!("producer {p}: {e}"))?;
        }
        for (_, tx) in self.consumers.iter_mut().flat_map(|c| c.commits.drain(..)) {
            let happened = tx.after_crash(&self.lines, &there)?;
            self.tally.commits_kept += u64::from(happened && !tx.sure);
            let empty = tx.published.is_empty() && tx.settled.is_empty();
            self.tally.commits_lost += u64::from(!happened && !empty);
        }
        for (line, there) in self.lines.iter_mut().zip(&there) {
            line.after_crash(there)?;
        }
        for (n, got) in first {
            for (line, id, g) in got {
                self.lines[line].deliver(id)?;
                let pin = self.consumers[n].pins.iter().find(|(_, at)| **at == (line, id)).map(|(key, _)| *key);
                self.consumers[n].out.push((line, id, g, pin));
            }
        }
        for line in [AUTO, HELD] {
            for id in &there[line] {
                self.lines[line].deliver(*id)?;
                self.lines[line].ask_settle(*id);
            }
        }
        auto.log.clear();
        self.auto = Some(auto);
        self.examine_retained(node)
    }

    /// What the state map names was delivered first and flagged, and nothing else was.
    fn resumed(&mut self, n: usize, got: &[Found], state: &BTreeSet<u64>) -> Result<(), String> {
        let consumer = &mut self.consumers[n];
        consumer.map.after_crash(state, |_| None).map_err(|e| format!("{}: {e}", SESSIONS[n]))?;
        let pinned: BTreeMap<(usize, Id), u64> =
            consumer.pins.iter().filter(|(key, _)| state.contains(key)).map(|(k, at)| (*at, *k)).collect();
        let asked: Vec<(u64, (usize, Id))> = state.iter().filter_map(|k| consumer.pins.get(k).map(|at| (*k, *at))).collect();
        for (key, (line, id)) in asked {
            if !got.iter().any(|(l, i, g)| (*l, *i) == (line, id) && g.has(DELIVERY_RESUMED)) {
                return Err(format!("{}: {id:?}, pinned by {key}, is not resumed", self.lines[line].name));
            }
        }
        for (line, id, g) in got {
            if g.has(DELIVERY_RESUMED) != pinned.contains_key(&(*line, *id)) {
                return Err(format!("{}: {id:?} is resumed, or is not, against the state {state:?}", self.lines[*line].name));
            }
        }
        consumer.pins = pinned.into_iter().map(|(at, key)| (key, at)).collect();
        Ok(())
    }

    fn examine_retained(&mut self, node: &Node) -> Result<(), String> {
        let mut look = Client::transient(node, "look");
        look.subscribe("r/+", 1);
        let got = look.take();
        for (topic, model) in self.retained.iter_mut().enumerate() {
            let name = format!("r/{topic}");
            let found: Vec<u64> = got.iter().filter(|g| g.topic == name).map(|g| g.text().parse().unwrap_or(0)).collect();
            if found.len() > 1 {
                return Err(format!("{name} has {} retained messages", found.len()));
            }
            model.after_crash(found.first().copied().unwrap_or(0)).map_err(|e| format!("{name}: {e}"))?;
        }
        look.cut();
        Ok(())
    }
}

/// Was the publish recovered? `None`: it cannot be told, because all its copies may have been settled.
fn known(lines: &[Line], there: &[BTreeSet<Id>], id: Id) -> Option<bool> {
    let mut tells = None;
    for (line, there) in lines.iter().zip(there) {
        if let Some(sent) = line.sent.get(&id) {
            if there.contains(&id) {
                return Some(true);
            }
            if sent.settled == Settled::No {
                tells = Some(false);
            }
        }
    }
    tells
}

/// Within a queue, what is resumed comes first; both parts are in the order of their producers.
fn fifo(got: &[Found]) -> Result<(), String> {
    let mut last: BTreeMap<(usize, u32, bool), u32> = BTreeMap::new();
    let mut fresh = BTreeSet::new();
    for (line, (producer, n), g) in got {
        let resumed = g.has(DELIVERY_RESUMED);
        if !resumed {
            fresh.insert(*line);
        } else if fresh.contains(line) {
            return Err(format!("line {line}: a resumed delivery came late"));
        }
        let before = last.insert((*line, *producer, resumed), *n);
        if before.is_some_and(|before| before >= *n) {
            return Err(format!("line {line}: {n} of producer {producer} came after {before:?}"));
        }
    }
    Ok(())
}

impl Producer {
    fn new() -> Producer {
        Producer { client: None, heard: 0, next: 0, waiting: VecDeque::new(), retained: VecDeque::new(), map: Map::default() }
    }
    fn attach(&mut self, node: &Node, n: usize) {
        let client = Client::attach(node, &format!("p{n}"));
        self.heard = client.log.len();
        self.client = Some(client);
    }
}

impl Consumer {
    fn new() -> Consumer {
        let (map, pins) = (Map::default(), BTreeMap::new());
        Consumer { client: None, out: Vec::new(), settling: Vec::new(), map, pins, next: 0, tx: 0, open: None, commits: Vec::new() }
    }
    /// Tokens start again with the next connection; what was asked for may still happen.
    fn forget_tokens(&mut self) {
        self.commits.iter_mut().for_each(|(token, _)| *token = None);
    }
    fn attach(&mut self, node: &Node, name: &str, credit: u32) {
        let mut client = Client::named(node, name).send();
        client.turn(|turn, _| turn.credit(CreditTo::Group(GROUP), credit));
        self.client = Some(client);
    }
}

/// Somebody was handed this: the transaction that published it has passed the commit point, or a crash must not undo it.
fn seen_of(consumers: &mut [Consumer], id: Id) {
    let all = consumers.iter_mut().flat_map(|c| &mut c.commits);
    all.filter(|(_, tx)| tx.published.contains(&id)).for_each(|(_, tx)| tx.sure = true);
}

fn add(into: &mut Tally, t: &Tally) {
    macro_rules! sum { ($($field:ident),*) => { $(into.$field += t.$field;)* } }
    sum!(
        seeds,
        operations,
        crashes,
        confirmed,
        settled,
        in_flight,
        resumed,
        held_back,
        torn_tails,
        commits,
        commits_kept,
        commits_lost,
        checkpoints,
        evacuations,
        rotations,
        pages_merged
    );
    macro_rules! injected { ($($field:ident),*) => { $(into.injected.$field += t.injected.$field;)* } }
    injected!(kills, power_cuts, sectors_lost, sectors_kept, names_lost, cut_short);
    macro_rules! pair { ($($field:ident),*) => { $(into.pair.$field += t.pair.$field;)* } }
    pair!(takeovers, shipped, cuts, copies, starts_over, crashes, joins, checkpoints);
}

fn seeds() -> u64 {
    std::env::var("CARRICK_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000)
}

/// All seeds on two threads; the first that fails, with why.
fn run(seeds: u64, paired: bool) -> Result<Tally, String> {
    let next = AtomicU64::new(std::env::var("CARRICK_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0));
    let end = next.load(Ordering::Relaxed) + seeds;
    let work = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return Ok(tally);
            }
            let sim = if paired { Sim::paired(seed) } else { Sim::new(seed) };
            match sim.run(4, 90) {
                Ok(t) => add(&mut tally, &t),
                Err(error) => {
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                    return Err(format!("broken: seed {seed}: {error}"));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mine: Result<Tally, String> = work();
        let theirs = other.join().map_err(|_| "the other thread panicked".to_string())?;
        let mut tally = mine?;
        add(&mut tally, &theirs?);
        Ok(tally)
    })
}

/// Broker time does not follow a step of the wall clock: a day's step expires nothing.
fn a_day_s_step_expires_nothing() -> Result<(), String> {
    let node = Node::new();
    let mut c = Client::named(&node, "c").credit(0).go();
    c.subscribe("a", 1);
    Client::transient(&node, "p").publish_msg(msg("a", "x", 1).expires(3600));
    node.clock().wall_ms.fetch_add(86_400_000, Ordering::Relaxed);
    node.settle();
    c.credit(10);
    match c.take().len() {
        1 => Ok(()),
        n => Err(format!("broken: {n} of 1 came after the clock was set")),
    }
}

#[test]
fn crashes_at_random_points() {
    let started = std::time::Instant::now();
    let tally = run(seeds(), false).unwrap_or_else(|error| panic!("{error}"));
    println!("{:.1} s: {tally:?}", started.elapsed().as_secs_f64());
    let Tally { crashes, confirmed, settled, in_flight, resumed, torn_tails, checkpoints, evacuations, rotations, injected, .. } = tally;
    let counts = [crashes, confirmed, settled, in_flight, resumed, torn_tails, checkpoints, evacuations, rotations];
    let counts = counts.into_iter().chain([tally.commits, tally.commits_kept, tally.commits_lost, tally.pages_merged, tally.held_back]);
    let faults = [injected.kills, injected.power_cuts, injected.sectors_lost, injected.sectors_kept, injected.cut_short];
    assert!(counts.chain(faults).all(|n| n > 0), "something never happened: {tally:?}");
    assert!(confirmed > 1000 && settled > 1000);
}

/// The same work and the same model, while a second node follows and takes over.
#[test]
fn a_standby_takes_over_at_random_points() {
    let started = std::time::Instant::now();
    let tally = run(seeds(), true).unwrap_or_else(|error| panic!("{error}"));
    println!("{:.1} s: {tally:?}", started.elapsed().as_secs_f64());
    let PairTally { takeovers, shipped, cuts, copies, starts_over, crashes, joins, checkpoints } = tally.pair;
    let happened =
        [takeovers, shipped, cuts, copies, starts_over, crashes, joins, checkpoints, tally.confirmed, tally.settled, tally.in_flight];
    assert!(happened.into_iter().all(|n| n > 0), "something never happened: {tally:?}");
    assert!(tally.confirmed > 1000 && tally.settled > 1000);
}

#[test]
fn a_step_of_the_wall_clock_expires_nothing() {
    a_day_s_step_expires_nothing().unwrap_or_else(|error| panic!("{error}"));
}

/// Each deliberate fault of the core has to be noticed by the test named for it. The choice is global to a process, so each is tried in one
/// of its own.
#[cfg(debug_assertions)]
#[test]
fn mutants_are_caught() {
    use broker::mutants::{Mutant, ALL};
    for (name, mutant) in ALL {
        let test = match mutant {
            Mutant::SettleBeforePublish | Mutant::ForgetFront => "simulation::crashes_at_random_points",
            Mutant::ExpireOnStep => "simulation::a_step_of_the_wall_clock_expires_nothing",
            // They act by the real clock, so it is the fault rig with its kills that has to notice.
            Mutant::TornCommit | Mutant::CopyDeadLetter | Mutant::SkipSettlement => continue,
        };
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let done = again.args(["--exact", test]).env("CARRICK_MUTANT", name).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        // A broken promise says so; anything else that goes wrong is no catch.
        let caught = said.lines().find(|line| line.starts_with("broken: ")).filter(|_| !done.status.success());
        println!("{name}: {caught:?}");
        assert!(caught.is_some(), "{name} survived: {said}");
    }
}
