//! What a session costs per message, on one core, without sockets and without a broker:
//! `cargo run --release -p mqtt --example session_speed`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use broker_api::{
    Attached, Batch, ConsumerIx, Context, DeliverTo, Delivery, Entry, Event, EventBatch, Out, Peer, PrincipalInfo, Protocol,
    ProtocolSession, QueueId, Reply, Seq, Serial, Token, Turn,
};
use bytes::Bytes;
use mqtt::codec::{encode_ack_run, AckKind, Connect, Packet, PacketId, PublishOut, Qos, Version};
use mqtt::{Config, Mqtt};

const FRAMES: usize = 900;
const ROUNDS: usize = 3000;

struct Bench {
    session: Box<dyn ProtocolSession>,
    now: Instant,
    turn: Turn,
    out: Out,
}

impl Bench {
    fn open(version: Version) -> Bench {
        let now = Instant::now();
        let context = Context { peer: Peer::Unix, identity: None, anonymous: false, opened_ms: 0 };
        let mut bench = Bench { session: Mqtt::new(Config::default()).open(context, now), now, turn: Turn::default(), out: Out::default() };
        let mut connect = Vec::new();
        Packet::Connect(Box::new(Connect::new(version, "bench"))).encode(version, &mut connect).expect("encodes");
        bench.receive(&connect.into());
        let principal = PrincipalInfo { user: "bench".into(), administrator: false, impersonator: false };
        bench.reply(1, Reply::LoggedIn { principal, last: Vec::new() });
        bench.reply(2, Reply::Attached(Attached { present: false, queue: QueueId(1), state: Vec::new() }));
        assert!(!bench.out.is_empty(), "no CONNACK");
        bench.clear();
        bench
    }

    fn clear(&mut self) {
        self.turn.clear();
        self.out.clear();
    }

    fn receive(&mut self, block: &Bytes) {
        let split = self.session.split(block).expect("whole");
        assert_eq!(split.whole, block.len());
        self.turn.block = block.clone();
        self.session.receive(block, 0, self.now, 0, &mut self.turn, &mut self.out);
    }

    fn events(&mut self, batch: &mut EventBatch) {
        self.session.events(batch, self.now, 0, &mut self.turn, &mut self.out);
    }

    fn reply(&mut self, token: u32, reply: Reply) {
        let events = vec![Event::Reply(Token(token), Box::new(Ok(reply)))];
        self.events(&mut EventBatch { events, deliveries: Vec::new() });
    }
}

fn block(version: Version, qos: Qos) -> Bytes {
    let mut bytes = Vec::new();
    for n in 0..FRAMES {
        let packet_id = (qos != Qos::AtMostOnce).then(|| PacketId::new(n as u16 + 1).expect("not zero"));
        PublishOut { qos, packet_id, topic: b"bench/topic", payload: b"0123456789abcdef", ..PublishOut::default() }
            .encode(version, u32::MAX, &mut bytes)
            .expect("encodes");
    }
    bytes.into()
}

/// CPU time of this process in ns: a busy machine does not disturb it. Linux only; elsewhere the clock on the wall.
fn cpu_ns() -> u128 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let wall = START.get_or_init(Instant::now).elapsed().as_nanos();
    let schedule = std::fs::read_to_string("/proc/self/schedstat").ok();
    schedule.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(wall)
}

fn report(what: &str, started: u128) {
    let each = (cpu_ns() - started) as f64 / (FRAMES * ROUNDS) as f64;
    println!("{what:<44} {each:>7.1} ns per message");
}

fn main() {
    for version in [Version::V311, Version::V5] {
        publish(version, Qos::AtMostOnce);
        publish(version, Qos::AtLeastOnce);
        direct(version, version);
        direct(Version::V5, version);
        deliver_qos1(version);
    }
}

/// PUBLISH in; at QoS 1 with its PUBACK.
fn publish(version: Version, qos: Qos) {
    let mut bench = Bench::open(version);
    let block = block(version, qos);
    let mut serial = 0;
    let started = cpu_ns();
    for _ in 0..ROUNDS {
        bench.receive(&block);
        serial += FRAMES as u64;
        assert_eq!(bench.turn.heads.len(), FRAMES);
        if qos == Qos::AtLeastOnce {
            let events = vec![Event::Done { through: Serial(serial) }];
            bench.events(&mut EventBatch { events, deliveries: Vec::new() });
            assert_eq!(bench.out.len(), 4 * FRAMES);
        }
        bench.clear();
    }
    report(&format!("{} publish QoS {} in", version.name(), qos as u8), started);
}

fn batch(version: Version, qos: Qos) -> Arc<Batch> {
    let mut bench = Bench::open(version);
    bench.receive(&block(version, qos));
    Arc::new(bench.turn.freeze(0))
}

/// A run of QoS 0 messages out.
fn direct(from: Version, to: Version) {
    let messages = batch(from, Qos::AtMostOnce);
    let mut bench = Bench::open(to);
    let started = cpu_ns();
    for _ in 0..ROUNDS {
        let run = Event::Direct { to: ConsumerIx(1), batch: messages.clone(), first: 0, count: FRAMES as u32, side: None, flags: 0 };
        bench.events(&mut EventBatch { events: vec![run], deliveries: Vec::new() });
        assert!(bench.out.len() > 16 * FRAMES);
        black_box(bench.out.pieces());
        bench.clear();
    }
    report(&format!("{} to {} deliver QoS 0", from.name(), to.name()), started);
}

/// QoS 1 out, and its PUBACK in.
fn deliver_qos1(version: Version) {
    let messages = batch(version, Qos::AtLeastOnce);
    let mut bench = Bench::open(version);
    let mut seq = 0u64;
    let mut id = 0u16;
    let started = cpu_ns();
    for _ in 0..ROUNDS {
        let deliveries = (0..FRAMES as u32)
            .map(|index| Delivery { seq: Seq(seq + u64::from(index)), index, side: None, attempts: 0, level: 1, flags: 0 })
            .collect();
        let run = Event::Run {
            to: DeliverTo::Consumer(ConsumerIx(1)),
            queue: QueueId(1),
            batch: messages.clone(),
            start: 0,
            count: FRAMES as u32,
        };
        bench.events(&mut EventBatch { events: vec![run], deliveries });
        bench.clear();
        let ids = (0..FRAMES).map(|_| {
            id = if id == u16::MAX { 1 } else { id + 1 };
            PacketId::new(id).expect("not zero")
        });
        let mut acks = Vec::new();
        encode_ack_run(AckKind::PubAck, ids, &mut acks);
        bench.receive(&acks.into());
        assert!(matches!(bench.turn.entries[..], [Entry::Settle(_), Entry::Credit(_)]), "{:?}", bench.turn.entries.len());
        bench.clear();
        seq += FRAMES as u64;
    }
    report(&format!("{} deliver QoS 1, PUBACK back", version.name()), started);
}
