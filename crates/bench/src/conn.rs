//! One connection as a state machine over bytes: it is handed what arrived and appends what to say. This is MQTT's conversation; the others
//! are in [`crate::conn_amqp`] and [`crate::conn_stomp`].

use crate::amqp;
use crate::args::Proto;
use crate::carrier::Carrier;
use crate::checker::{Inbox, Stamp, SEQ_LIMIT};
use crate::conn_amqp;
use crate::conn_stomp;
use crate::lane::Lane;
use crate::stomp;
use crate::window::Window;
use crate::wire::{self, Frame, Version};

/// What to open, and what it is for.
pub(crate) struct Plan {
    pub lane: usize,
    pub connect: wire::Connect,
    pub proto: Proto,
    /// What a connection of another protocol than MQTT is for.
    pub purpose: Purpose,
    pub subscribe: Option<Subscribe>,
    pub role: RolePlan,
    pub leave: Leave,
}

/// What a connection does of another protocol than MQTT does before it is ready.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    Idle,
    /// Publishes with this delivery mode, with confirms or without.
    Publish {
        delivery_mode: u8,
        confirms: bool,
    },
    /// Takes from a queue; `declare` says with what durability it is made first.
    Take {
        queue: String,
        declare: Option<bool>,
        prefetch: u16,
        auto_ack: bool,
    },
    Delete {
        queue: String,
    },
}

#[derive(Clone)]
pub(crate) struct Subscribe {
    pub filters: Vec<String>,
    pub qos: u8,
    /// Filters per SUBSCRIBE packet.
    pub per_packet: usize,
}

pub(crate) enum RolePlan {
    Idle,
    Consumer(Inbox),
    Producer(ProducerPlan),
}

pub(crate) struct ProducerPlan {
    pub id: u16,
    pub topics: Topics,
    pub qos: u8,
    pub size: usize,
    pub window: u16,
    /// Keep which numbers were confirmed, for a later check.
    pub remember: bool,
    /// How many to publish.
    pub limit: u64,
}

#[derive(Clone)]
pub(crate) enum Topics {
    One(String),
    /// `prefix/0` to `prefix/(count - 1)`, in turn.
    Dealt {
        prefix: String,
        count: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leave {
    Never,
    WhenReady,
    /// After this many different messages, or at once when it is 0.
    AfterMessages(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Dialling,
    Greeting,
    Subscribing,
    Ready,
    /// DISCONNECT is sent; the broker closes the socket.
    Leaving,
    Gone,
}

pub(crate) enum Role {
    Idle,
    Consumer(Box<Consumer>),
    Producer(Box<Producer>),
}

#[derive(Default)]
pub(crate) struct Consumer {
    pub inbox: Inbox,
    /// QoS 2 identifiers between PUBLISH and PUBREL, one bit each.
    held: Vec<u64>,
}

impl Consumer {
    /// False when the identifier was already held: the same message again (MQTT 5.0, 4.3.3).
    fn hold(&mut self, packet_id: u16) -> bool {
        if self.held.is_empty() {
            self.held = vec![0; 1024];
        }
        let (word, bit) = (usize::from(packet_id / 64), 1u64 << (packet_id % 64));
        let fresh = self.held[word] & bit == 0;
        self.held[word] |= bit;
        fresh
    }

    fn release(&mut self, packet_id: u16) {
        if let Some(word) = self.held.get_mut(usize::from(packet_id / 64)) {
            *word &= !(1 << (packet_id % 64));
        }
    }
}

pub(crate) struct Producer {
    pub id: u16,
    pub seq: u64,
    pub limit: u64,
    /// `None` at QoS 0.
    pub window: Option<Window>,
    /// When the next message is due, at a fixed rate.
    pub due: u64,
    spelling: Spelling,
    qos: u8,
    topics: Topics,
    payload: Vec<u8>,
    /// The ready PUBLISH of a producer with one topic, and where its identifier and payload start.
    packet: Vec<u8>,
    id_at: usize,
    payload_at: usize,
}

/// How a publish is written.
#[derive(Clone, Copy)]
enum Spelling {
    Mqtt(Version),
    Amqp { delivery_mode: u8 },
    Stomp { persistent: bool },
}

impl Spelling {
    fn new(plan: &Plan) -> Spelling {
        let delivery_mode = if let Purpose::Publish { delivery_mode, .. } = plan.purpose { delivery_mode } else { 1 };
        match plan.proto {
            Proto::Mqtt => Spelling::Mqtt(plan.connect.version),
            Proto::Amqp => Spelling::Amqp { delivery_mode },
            Proto::Stomp => Spelling::Stomp { persistent: delivery_mode == 2 },
        }
    }

    /// Appends a publish; where what names it and its payload start.
    fn spell(self, out: &mut Vec<u8>, topic: &str, qos: u8, payload: &[u8]) -> (usize, usize) {
        match self {
            Spelling::Mqtt(version) => wire::publish(out, version, topic, qos, payload),
            Spelling::Amqp { delivery_mode } => (0, amqp::publish(out, topic, delivery_mode, payload)),
            Spelling::Stomp { persistent } => stomp::send(out, topic, persistent, qos > 0, payload),
        }
    }

    #[inline]
    fn put_id(self, id: u16, out: &mut [u8]) {
        match self {
            Spelling::Mqtt(_) => out[..2].copy_from_slice(&id.to_be_bytes()),
            // AMQP counts publishes and writes no number.
            Spelling::Amqp { .. } => {}
            Spelling::Stomp { .. } => stomp::put_receipt(id, &mut out[..5]),
        }
    }
}

impl Producer {
    fn new(plan: ProducerPlan, spelling: Spelling) -> Producer {
        let payload = vec![b'.'; plan.size];
        let mut packet = Vec::new();
        let (mut id_at, mut payload_at) = (0, 0);
        if let Topics::One(topic) = &plan.topics {
            (id_at, payload_at) = spelling.spell(&mut packet, topic, plan.qos, &payload);
        }
        Producer {
            id: plan.id,
            seq: 0,
            limit: plan.limit.min(u64::from(SEQ_LIMIT)),
            window: (plan.qos > 0).then(|| Window::new(plan.window, plan.remember)),
            due: 0,
            spelling,
            qos: plan.qos,
            topics: plan.topics,
            payload,
            packet,
            id_at,
            payload_at,
        }
    }

    #[inline]
    fn write(&mut self, out: &mut Vec<u8>, sent_at: u64) {
        let start = out.len();
        let (id_at, payload_at) = match &self.topics {
            Topics::One(_) => {
                out.extend_from_slice(&self.packet);
                (self.id_at, self.payload_at)
            }
            Topics::Dealt { prefix, count } => {
                let topic = format!("{prefix}/{}", self.seq % u64::from(*count));
                self.spelling.spell(out, &topic, self.qos, &self.payload)
            }
        };
        if let Some(window) = &mut self.window {
            let id = window.open(self.seq as u32, sent_at);
            self.spelling.put_id(id, &mut out[start + id_at..]);
        }
        let stamp = Stamp { sent_at, seq: self.seq as u32, producer: self.id };
        stamp.write(&mut out[start + payload_at..]);
        self.seq += 1;
    }
}

/// Why a producer stopped.
pub(crate) enum Pause {
    /// The outgoing buffer is full enough to be written.
    Buffer,
    /// An answer, a writable socket or the others' turn.
    Waiting,
    Due(u64),
    Finished,
}

pub(crate) struct Conn {
    /// `None` once gone.
    pub stream: Option<Carrier>,
    pub lane: usize,
    pub state: State,
    pub role: Role,
    pub leave: Leave,
    pub session_present: bool,
    /// AMQP: what the consumer's queue held before it consumed.
    pub depth: Option<u32>,
    /// Bytes of a packet that has not come whole.
    pub leftover: Vec<u8>,
    pub out: Vec<u8>,
    pub out_at: usize,
    pub watches_write: bool,
    version: Version,
    /// Taken out while it is at work.
    other: Option<Other>,
    subscribe: Option<Subscribe>,
    subacks_due: usize,
}

/// The state of a conversation that is not MQTT's.
enum Other {
    Amqp(Box<conn_amqp::Session>),
    Stomp(Box<conn_stomp::Session>),
}

/// Written in one go at most; more would only grow the buffer.
const CHUNK: usize = 64 * 1024;

impl Conn {
    pub fn new(plan: Plan, stream: Carrier) -> Conn {
        let mut out = Vec::new();
        let spelling = Spelling::new(&plan);
        let guest = |name: &Option<String>| name.clone().unwrap_or_else(|| "guest".to_owned());
        let (user, password) = (guest(&plan.connect.user), guest(&plan.connect.password));
        let other = match plan.proto {
            Proto::Mqtt => {
                wire::connect(&mut out, &plan.connect);
                None
            }
            Proto::Amqp => {
                out.extend_from_slice(&amqp::HEADER);
                Some(Other::Amqp(Box::new(conn_amqp::Session::new(plan.purpose, user, password))))
            }
            Proto::Stomp => {
                stomp::connect(&mut out, &user, &password);
                Some(Other::Stomp(Box::new(conn_stomp::Session::new(plan.purpose))))
            }
        };
        let version = plan.connect.version;
        Conn {
            stream: Some(stream),
            lane: plan.lane,
            state: State::Dialling,
            role: match plan.role {
                RolePlan::Idle => Role::Idle,
                RolePlan::Consumer(inbox) => Role::Consumer(Box::new(Consumer { inbox, ..Consumer::default() })),
                RolePlan::Producer(producer) => Role::Producer(Box::new(Producer::new(producer, spelling))),
            },
            leave: plan.leave,
            session_present: false,
            depth: None,
            leftover: Vec::new(),
            out,
            out_at: 0,
            watches_write: true,
            version,
            other,
            subscribe: plan.subscribe,
            subacks_due: 0,
        }
    }

    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Appends publishes until something is in the way, at most `share` of them.
    pub fn publish(&mut self, lane: &mut Lane, now: u64, share: u64) -> Pause {
        let Role::Producer(producer) = &mut self.role else { return Pause::Finished };
        match self.state {
            State::Ready if !self.watches_write => {}
            State::Gone | State::Leaving => return Pause::Finished,
            _ => return Pause::Waiting,
        }
        let step = lane.config.interval * lane.producers.len() as u64;
        let mut done = 0;
        let pause = loop {
            if producer.seq >= producer.limit {
                break Pause::Finished;
            }
            if done >= share || producer.window.as_ref().is_some_and(Window::is_full) {
                break Pause::Waiting;
            }
            if self.out.len() >= CHUNK {
                break Pause::Buffer;
            }
            let mut sent_at = now;
            if step > 0 {
                if producer.due > now {
                    break Pause::Due(producer.due);
                }
                // The intended time, so that a broker that stalls the producer cannot hide the wait.
                sent_at = producer.due;
                producer.due += step;
            }
            producer.write(&mut self.out, sent_at);
            done += 1;
        };
        lane.published += done;
        pause
    }

    /// Takes whole packets off `input` and returns how many bytes they were.
    pub fn digest(&mut self, input: &[u8], lane: &mut Lane, now: u64) -> Result<usize, String> {
        if let Some(mut other) = self.other.take() {
            let used = match &mut other {
                Other::Amqp(session) => self.digest_amqp(session, input, lane, now),
                Other::Stomp(session) => self.digest_stomp(session, input, lane, now),
            };
            self.other = Some(other);
            return used;
        }
        let mut used = 0;
        while let Some((frame, len)) = wire::split(&input[used..])? {
            if frame.head >> 4 == wire::PUBLISH {
                self.on_publish(frame, lane, now)?;
            } else {
                self.on_control(frame, lane, now)?;
            }
            used += len;
        }
        Ok(used)
    }

    #[inline]
    fn on_publish(&mut self, frame: Frame<'_>, lane: &mut Lane, now: u64) -> Result<(), String> {
        let publish = wire::read_publish(frame, self.version).ok_or("malformed PUBLISH")?;
        let Role::Consumer(consumer) = &mut self.role else { return Err("a PUBLISH for nobody".into()) };
        match publish.qos {
            0 => {}
            1 => wire::ack(&mut self.out, wire::PUBACK, publish.packet_id),
            _ => {
                wire::ack(&mut self.out, wire::PUBREC, publish.packet_id);
                if !consumer.hold(publish.packet_id) {
                    return Ok(());
                }
            }
        }
        lane.delivered += 1;
        if lane.first_delivery.is_none() {
            lane.first_delivery = Some(now);
        }
        lane.last_delivery = now;
        match Stamp::read(publish.payload) {
            Some(stamp) => {
                lane.record_delivery(stamp.sent_at, now);
                consumer.inbox.take(stamp, publish.dup);
            }
            None => consumer.inbox.foreign += 1,
        }
        Ok(())
    }

    fn on_control(&mut self, frame: Frame<'_>, lane: &mut Lane, now: u64) -> Result<(), String> {
        match frame.head >> 4 {
            2 => self.on_connack(frame),
            wire::PUBREL => {
                let (id, _) = wire::read_ack(frame, self.version).ok_or("malformed PUBREL")?;
                if let Role::Consumer(consumer) = &mut self.role {
                    consumer.release(id);
                }
                wire::ack(&mut self.out, wire::PUBCOMP, id);
                Ok(())
            }
            kind @ (wire::PUBACK | wire::PUBREC | wire::PUBCOMP) => self.on_ack(kind, frame, lane, now),
            9 => self.on_suback(frame, lane),
            13 => Ok(()),
            14 => Err(format!("DISCONNECT with reason {:#04x}", frame.body.first().copied().unwrap_or(0))),
            kind => Err(format!("unexpected packet type {kind}")),
        }
    }

    fn on_ack(&mut self, kind: u8, frame: Frame<'_>, lane: &mut Lane, now: u64) -> Result<(), String> {
        let (id, reason) = wire::read_ack(frame, self.version).ok_or("malformed acknowledgement")?;
        let Role::Producer(producer) = &mut self.role else { return Err("an acknowledgement for nobody".into()) };
        let Some(window) = &mut producer.window else { return Err("an acknowledgement at QoS 0".into()) };
        // MQTT 5.0, 4.3: each QoS has its own handshake.
        if (kind == wire::PUBACK) != (producer.qos == 1) {
            return Err("the acknowledgement of another QoS".into());
        }
        let known = if reason >= 0x80 {
            window.refuse(id)
        } else if kind == wire::PUBREC {
            let known = window.received(id);
            wire::ack(&mut self.out, wire::PUBREL, id);
            known
        } else {
            let sent_at = window.close(id);
            if let Some(sent_at) = sent_at {
                lane.record_confirm(sent_at, now);
            }
            sent_at.is_some()
        };
        if known {
            Ok(())
        } else {
            Err(format!("an acknowledgement for packet {id}, which is not open"))
        }
    }

    fn on_connack(&mut self, frame: Frame<'_>) -> Result<(), String> {
        if self.state != State::Greeting {
            return Err("an unexpected CONNACK".into());
        }
        let connack = wire::read_connack(frame, self.version).ok_or("malformed CONNACK")?;
        if connack.code != 0 {
            return Err(format!("the broker refused the connection with code {:#04x}", connack.code));
        }
        self.session_present = connack.session_present;
        if let Role::Producer(producer) = &mut self.role {
            if let Some(window) = &mut producer.window {
                window.narrow(connack.receive_max);
            }
        }
        self.state = State::Ready;
        if let Some(subscribe) = self.subscribe.take() {
            self.subscribe(&subscribe);
            self.state = State::Subscribing;
        }
        Ok(())
    }

    /// Appends the SUBSCRIBE packets, all of them at once.
    pub fn subscribe(&mut self, subscribe: &Subscribe) {
        for (at, filters) in subscribe.filters.chunks(subscribe.per_packet.max(1)).enumerate() {
            wire::subscribe(&mut self.out, self.version, at as u16 + 1, filters, subscribe.qos);
            self.subacks_due += 1;
        }
    }

    fn on_suback(&mut self, frame: Frame<'_>, lane: &mut Lane) -> Result<(), String> {
        let codes = wire::read_suback(frame, self.version).ok_or("malformed SUBACK")?;
        if let Some(code) = codes.iter().find(|code| **code > 2) {
            return Err(format!("a subscription was refused with code {code:#04x}"));
        }
        lane.subscribed += codes.len() as u64;
        self.subacks_due = self.subacks_due.checked_sub(1).ok_or("a SUBACK too many")?;
        if self.subacks_due == 0 && self.state == State::Subscribing {
            self.state = State::Ready;
        }
        Ok(())
    }

    pub fn ping(&mut self) {
        if self.state == State::Ready && self.out.is_empty() && self.other.is_none() {
            wire::ping(&mut self.out);
        }
    }

    /// Whether its work is done and it should say goodbye.
    pub fn wants_to_leave(&self) -> bool {
        self.state == State::Ready
            && match (self.leave, &self.role) {
                (Leave::Never, _) => false,
                (Leave::AfterMessages(count), Role::Consumer(consumer)) => consumer.inbox.unique() >= count,
                (Leave::WhenReady | Leave::AfterMessages(_), _) => true,
            }
    }

    pub fn say_goodbye(&mut self) {
        match self.other {
            Some(Other::Amqp(_)) => amqp::close(&mut self.out),
            Some(Other::Stomp(_)) => conn_stomp::say_goodbye(&mut self.out),
            None => wire::disconnect(&mut self.out),
        }
        self.state = State::Leaving;
    }
}
