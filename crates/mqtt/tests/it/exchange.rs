//! Deliveries to a durable session, at every level, through lost connections and crashes at any moment, against a model of the core's log
//! and of a client that keeps the rules. QoS 2 arrives exactly once, QoS 1 at least once, first arrivals in order, windows are kept.

use broker_api::{
    Attached, Batch, Close, ConsumerIx, Context, Control, DeliverTo, Delivery, Entry, Event, EventBatch, Flow, Head, Out, Outcome, Peer,
    PrincipalInfo, Protocol, ProtocolSession, QueueId, Reply, Seq, Serial, Span, StateEdit, StateValue, Turn, DELIVERY_REDELIVERED,
    DELIVERY_RESUMED,
};
use bytes::Bytes;
use mqtt::codec::{encode_ack, frames, AckKind, Connect, Decoder, Packet, PacketId, Peer as Side, Qos, ReasonCode, Version};
use mqtt::{Config, Mqtt};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

const QUEUE: QueueId = QueueId(3);

/// What a crash brings back.
#[derive(Clone, Default)]
struct Stored {
    state: BTreeMap<u64, (StateValue, Option<Seq>)>,
    settled: BTreeSet<u64>,
}

/// One queue, one session, and a log whose commit point moves when the test says so.
#[derive(Default)]
struct Core {
    levels: Vec<u8>,
    now: Stored,
    committed: Stored,
    /// Effects of turns after the commit point, as the whole state after each.
    staged: VecDeque<(Stored, Vec<u64>)>,
    leased: BTreeSet<u64>,
    credit: u32,
    serial: u64,
    delivered_before: u64,
}

impl Core {
    fn edit(&mut self, edit: &StateEdit) {
        match &edit.value {
            Some(value) => self.now.state.insert(edit.key, (value.clone(), edit.lease.map(|(_, seq)| seq))),
            None => self.now.state.remove(&edit.key),
        };
    }

    fn submit(&mut self, turn: &mut Turn) -> Vec<Control> {
        let (entries, states) = (std::mem::take(&mut turn.entries), std::mem::take(&mut turn.states));
        let (mut controls, mut fences) = (Vec::new(), Vec::new());
        for entry in entries {
            match entry {
                Entry::State(index) => self.edit(&states[index as usize]),
                Entry::Settle(settle) => {
                    assert_eq!((settle.queue, settle.outcome), (QUEUE, Outcome::Accepted));
                    for seq in settle.first.0..settle.first.0 + u64::from(settle.count) {
                        assert!(self.leased.remove(&seq) && self.now.settled.insert(seq), "settled twice: {seq}");
                    }
                    if settle.state != 0 {
                        self.edit(&states[settle.state as usize - 1]);
                    }
                }
                Entry::Credit(credit) => self.credit += credit.add,
                Entry::Fence => {
                    self.serial += 1;
                    fences.push(self.serial);
                }
                Entry::Control(_, control) => controls.push(*control),
                other => panic!("{other:?}"),
            }
        }
        self.staged.push_back((self.now.clone(), fences));
        controls
    }

    /// The next turn passes the commit point.
    fn commit(&mut self) -> Option<Event> {
        let (stored, fences) = self.staged.pop_front()?;
        self.committed = stored;
        fences.last().map(|serial| Event::Done { through: Serial(*serial) })
    }

    fn lost(&mut self, crash: bool) {
        if crash {
            self.now = self.committed.clone();
        } else {
            self.committed = self.now.clone();
        }
        self.staged.clear();
        self.leased.clear();
        self.credit = 0;
        self.serial = 0;
    }

    fn pinned(&self) -> BTreeSet<u64> {
        self.now.state.values().filter_map(|(_, lease)| lease.map(|seq| seq.0)).collect()
    }

    /// What there is credit for, at most three; what a key names goes first.
    fn deliver(&mut self, batch: &Arc<Batch>, resumed: &mut BTreeSet<u64>) -> EventBatch {
        let mut out = EventBatch::default();
        while self.credit > 0 && out.deliveries.len() < 3 {
            let free = |seq: &u64| !self.now.settled.contains(seq) && !self.leased.contains(seq);
            let again = resumed.pop_first().filter(|seq| !self.leased.contains(seq));
            let Some(seq) = again.or_else(|| (0..self.levels.len() as u64).find(free)) else { break };
            self.credit -= 1;
            self.leased.insert(seq);
            let mut flags = if again.is_some() { DELIVERY_RESUMED } else { 0 };
            if seq < self.delivered_before {
                flags |= DELIVERY_REDELIVERED;
            }
            self.delivered_before = self.delivered_before.max(seq + 1);
            let level = self.levels[seq as usize];
            out.deliveries.push(Delivery { seq: Seq(seq), index: seq as u32, side: None, attempts: 0, level, flags });
        }
        let count = out.deliveries.len() as u32;
        if count > 0 {
            out.events.push(Event::Run { to: DeliverTo::Consumer(ConsumerIx(1)), queue: QUEUE, batch: batch.clone(), start: 0, count });
        }
        out
    }
}

/// A client with a store of its own. What it owes is answered later, in order.
#[derive(Default)]
struct Client {
    /// QoS 2 identifiers between PUBLISH and PUBREL: kept over connections.
    taken: HashSet<PacketId>,
    seen: Vec<u64>,
    owes: VecDeque<(AckKind, PacketId)>,
    unacknowledged: HashSet<PacketId>,
}

impl Client {
    fn hear(&mut self, bytes: &[u8], window: usize) {
        let decoder = Decoder::new(Version::V311, Side::Server);
        for frame in frames(bytes) {
            match decoder.packet(bytes, frame).expect("well-formed") {
                Packet::Publish(view) => {
                    let number = std::str::from_utf8(view.payload).unwrap().parse().unwrap();
                    let Some(id) = view.packet_id else {
                        self.seen.push(number);
                        continue;
                    };
                    assert!(self.unacknowledged.insert(id), "{id} is sent twice in one connection");
                    assert!(self.unacknowledged.len() <= window, "more than the window");
                    let known = self.seen.contains(&number);
                    if view.qos == Qos::AtLeastOnce {
                        assert!(!known || view.dup, "a repeat without DUP: {number}");
                        self.seen.push(number);
                        self.owes.push_back((AckKind::PubAck, id));
                    } else {
                        if self.taken.insert(id) {
                            self.seen.push(number);
                        }
                        self.owes.push_back((AckKind::PubRec, id));
                    }
                }
                Packet::Ack(ack) if ack.kind == AckKind::PubRel => {
                    self.taken.remove(&ack.packet_id);
                    self.unacknowledged.insert(ack.packet_id);
                    self.owes.push_back((AckKind::PubComp, ack.packet_id));
                }
                Packet::ConnAck(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

struct World {
    mqtt: Arc<Mqtt>,
    session: Option<Box<dyn ProtocolSession>>,
    core: Core,
    client: Client,
    batch: Arc<Batch>,
    resumed: BTreeSet<u64>,
    window: usize,
}

impl World {
    fn new(levels: Vec<u8>, window: u16) -> World {
        let mut block = b"t".to_vec();
        let mut heads = Vec::new();
        for (number, level) in levels.iter().enumerate() {
            let text = number.to_string();
            let body = Span::block(block.len(), text.len());
            block.extend_from_slice(text.as_bytes());
            heads.push(Head { key: Span::block(0, 1), body, level: *level, format: 1, separator: b'/', topic: true, ..Head::default() });
        }
        let config = Config { max_inflight: window.try_into().unwrap(), ..Config::default() };
        World {
            mqtt: Mqtt::new(config),
            session: None,
            core: Core { levels, ..Core::default() },
            client: Client::default(),
            batch: Arc::new(Batch { block: block.into(), heads, ..Batch::default() }),
            resumed: BTreeSet::new(),
            window: usize::from(window),
        }
    }

    fn call(&mut self, call: impl FnOnce(&mut dyn ProtocolSession, &mut Turn, &mut Out) -> Flow) -> Vec<Control> {
        let Some(session) = &mut self.session else { return Vec::new() };
        let (mut turn, mut out) = (Turn::default(), Out::default());
        let flow = call(&mut **session, &mut turn, &mut out);
        assert!(!matches!(flow, Flow::Close(Close { .. })), "{flow:?}");
        let controls = self.core.submit(&mut turn);
        self.client.hear(&out.concat(), self.window);
        controls
    }

    fn events(&mut self, mut batch: EventBatch) -> Vec<Control> {
        let now = Instant::now();
        self.call(|session, turn, out| session.events(&mut batch, now, 0, turn, out))
    }

    fn receive(&mut self, bytes: Vec<u8>) -> Vec<Control> {
        let now = Instant::now();
        let block = Bytes::from(bytes);
        self.call(|session, turn, out| {
            assert_eq!(session.split(&block).expect("good").whole, block.len());
            session.receive(&block, 0, now, 0, turn, out)
        })
    }

    fn connect(&mut self) {
        let now = Instant::now();
        self.session = Some(self.mqtt.clone().open(Context { peer: Peer::Unix, identity: None, anonymous: false, opened_ms: 0 }, now));
        self.client.owes.clear();
        self.client.unacknowledged.clear();
        let mut connect = Connect::new(Version::V311, "c");
        connect.clean_start = false;
        let mut bytes = Vec::new();
        Packet::Connect(Box::new(connect)).encode(Version::V311, &mut bytes).unwrap();
        self.receive(bytes);
        let principal = PrincipalInfo { user: "u".into(), administrator: false, impersonator: false };
        self.reply(1, Reply::LoggedIn { principal, last: Vec::new() });
        self.resumed = self.core.pinned();
        let state = self.core.now.state.iter().map(|(key, (value, _))| (*key, value.clone())).collect();
        self.reply(2, Reply::Attached(Attached { present: true, queue: QUEUE, state }));
    }

    fn reply(&mut self, token: u32, reply: Reply) {
        let events = vec![Event::Reply(broker_api::Token(token), Box::new(Ok(reply)))];
        self.events(EventBatch { events, deliveries: Vec::new() });
    }

    fn step(&mut self, choice: u8) {
        match choice {
            0..=3 => {
                let batch = self.batch.clone();
                let run = self.core.deliver(&batch, &mut self.resumed);
                if !run.is_empty() {
                    self.events(run);
                }
            }
            4..=6 => {
                if let Some(done) = self.core.commit() {
                    self.events(EventBatch { events: vec![done], deliveries: Vec::new() });
                }
            }
            7..=10 => self.acknowledge(1 + usize::from(choice - 7)),
            11 => self.lose(false),
            _ => self.lose(true),
        }
    }

    fn acknowledge(&mut self, count: usize) {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let Some((kind, id)) = self.client.owes.pop_front() else { break };
            if kind != AckKind::PubRec {
                self.client.unacknowledged.remove(&id);
            }
            encode_ack(kind, id, ReasonCode::Success, None, Version::V311, &mut bytes).unwrap();
        }
        if !bytes.is_empty() {
            self.receive(bytes);
        }
    }

    fn lose(&mut self, crash: bool) {
        if let (Some(mut session), false) = (self.session.take(), crash) {
            let mut turn = Turn::default();
            session.closed(false, &mut turn);
            let controls = self.core.submit(&mut turn);
            assert!(matches!(controls[..], [Control::EndOwner(_)]));
        }
        self.core.lost(crash);
        self.connect();
    }

    fn finish(&mut self) {
        for _ in 0..10_000 {
            for choice in [0, 4, 10] {
                self.step(choice);
            }
            if self.core.now.settled.len() == self.core.levels.len() && self.client.owes.is_empty() && self.core.staged.is_empty() {
                return;
            }
        }
        panic!("stuck: {} of {} settled, credit {}", self.core.now.settled.len(), self.core.levels.len(), self.core.credit);
    }

    fn check(&self) {
        assert!(self.core.now.state.is_empty(), "left behind: {:?}", self.core.now.state);
        for level in [1u8, 2] {
            let of_level = |number: &&u64| self.core.levels[**number as usize] == level;
            let mut first = Vec::new();
            for number in self.client.seen.iter().filter(of_level) {
                if !first.contains(number) {
                    first.push(*number);
                } else {
                    assert!(level == 1, "QoS 2 message {number} came twice");
                }
            }
            let all: Vec<u64> = (0..self.core.levels.len() as u64).filter(|number| of_level(&number)).collect();
            assert_eq!(first, all, "QoS {level}: lost, or out of order");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn each_level_keeps_its_promise(
        levels in prop::collection::vec(0u8..3, 1..60),
        window in 1u16..6,
        steps in prop::collection::vec(0u8..13, 0..200),
    ) {
        let mut world = World::new(levels, window);
        world.connect();
        for choice in steps {
            world.step(choice);
        }
        world.finish();
        world.check();
    }
}
