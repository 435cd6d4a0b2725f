//! The conversation with one client: told what happened, it says what to do. No I/O, no clock of its own.
//!
//! ```text
//!   Fresh --CONNECT--> Login --LoggedIn--> Attach --Attached, CONNACK--> Open --> Ended
//!                       | ^
//!             Challenge | | AUTH
//!                       v |
//!                    Challenged
//! ```
//!
//! What waits for the core is remembered twice: commands by their token ([`Requests`]), publishes and fences by
//! their serial ([`Incoming`]). Both are answered in the order in which they were given.

mod auth;
mod connect;
mod deliver;
mod inflight;
mod publish;
mod settle;
mod subscribe;
mod takeover;
mod will;

use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_api::{Close, Context, Control, DeliverTo, Delivery, Event, EventBatch, Expiry, Flow, Out, ProtocolSession, Split, Token, Turn};
use bytes::Bytes;
use tracing::debug;

use crate::codec::{
    frames, AckKind, ConnAck, DecodeError, Decoder, Disconnect, Frame, Limits, Packet, PacketKind, Peer, ReasonCode, ReasonPlace, Splitter,
    Version,
};
use crate::error::Fault;
use crate::protocol::Mqtt;

use connect::Handshake;
use deliver::Outgoing;
use publish::Incoming;
use subscribe::Requests;

enum Phase {
    /// Nothing has come yet.
    Fresh,
    /// The core is checking credentials.
    Login(Box<Handshake>),
    /// The client's next AUTH is awaited.
    Challenged(Box<Handshake>),
    /// The core is finding or making the session.
    Attach(Box<Handshake>),
    Open,
    Ended,
}

/// What the core knows of this connection's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    None,
    /// Attached, or about to be.
    Owner,
    /// Another connection has the session now, or the core ends it by itself.
    Given,
}

pub(crate) struct Session {
    mqtt: Arc<Mqtt>,
    phase: Phase,
    ownership: Ownership,
    splitter: Splitter,
    /// What is wrong with the bytes behind those that were handed over as whole frames.
    broken: Option<DecodeError>,
    decoder: Decoder,
    client_id: String,
    /// How long the session is to live after the connection.
    expiry: Expiry,
    /// A good-bye that does not want the will.
    discard_will: bool,
    /// A Mosquitto bridge.
    bridge: bool,
    /// The transport has proven who it is (a client's certificate).
    identified: bool,
    /// The client takes words with the reason codes of its acknowledgements (MQTT 5.0, 3.1.2.11.7).
    explains: bool,
    /// Method of an enhanced authentication, which the client may repeat.
    auth_method: Option<Box<str>>,
    keep_alive: Option<Duration>,
    heard_at: Instant,
    /// Pieces of an unfinished packet came since `heard_at` was last moved.
    hearing: bool,
    last_token: u32,
    requests: Requests,
    incoming: Incoming,
    outgoing: Outgoing,
}

/// What a call of the driver brings along.
struct Step<'a> {
    turn: &'a mut Turn,
    out: &'a mut Out,
    now: Instant,
    /// Broker time.
    now_ms: u64,
}

/// How to go on after a frame.
enum Next {
    Go,
    /// Not behind this frame before the core has answered.
    HoldBehind,
    Close(Close),
}

type Handled = Result<Next, Fault>;

impl Session {
    pub(crate) fn new(mqtt: Arc<Mqtt>, context: Context, now: Instant) -> Session {
        let config = mqtt.config();
        let limits = Limits { packet_max: config.max_packet_size, connect_max: config.max_connect_size };
        let mut decoder = Decoder::new(Version::V311, Peer::Client);
        decoder.levels_max = Some(config.max_topic_levels);
        Session {
            phase: Phase::Fresh,
            ownership: Ownership::None,
            splitter: Splitter::of_client(limits),
            broken: None,
            decoder,
            client_id: String::new(),
            expiry: Expiry::WithConnection,
            discard_will: false,
            bridge: false,
            identified: context.identity.is_some(),
            explains: false,
            auth_method: None,
            keep_alive: None,
            heard_at: now,
            hearing: false,
            last_token: 0,
            requests: Requests::default(),
            incoming: Incoming::new(config),
            outgoing: Outgoing::default(),
            mqtt,
        }
    }

    fn version(&self) -> Version {
        self.decoder.version
    }

    fn is_v5(&self) -> bool {
        self.decoder.version.is_v5()
    }

    /// Whether the session has a state map that outlives the connection.
    fn is_durable(&self) -> bool {
        self.expiry != Expiry::WithConnection
    }

    fn control(&mut self, control: Control, step: &mut Step<'_>) -> Token {
        self.last_token += 1;
        let token = Token(self.last_token);
        step.turn.control(token, control);
        token
    }

    /// Handles the frames of a block from `offset` on.
    fn frames(&mut self, block: &[u8], offset: usize, step: &mut Step<'_>) -> Result<Flow, Fault> {
        for frame in frames(block.get(offset..).unwrap_or(&[])) {
            let frame = Frame { first: frame.first, start: frame.start + offset, body: frame.body + offset, end: frame.end + offset };
            let next = match self.phase {
                Phase::Open if self.is_full() => return Ok(Flow::Hold(frame.start)),
                Phase::Open if frame.kind() == PacketKind::Publish => {
                    self.publish(block, frame, step)?;
                    continue;
                }
                Phase::Open => match AckKind::of(frame.kind()) {
                    Some(kind) => {
                        let ack = self.decoder.ack(block, frame, kind)?;
                        self.ack(ack, step)?;
                        continue;
                    }
                    None => self.packet(block, frame, step)?,
                },
                Phase::Fresh => self.connect(block, frame, step)?,
                Phase::Challenged(_) => self.challenged(block, frame, step)?,
                Phase::Login(_) | Phase::Attach(_) => return Ok(Flow::Hold(frame.start)),
                Phase::Ended => return Ok(Flow::Go),
            };
            match next {
                Next::Go => {}
                Next::HoldBehind => return Ok(Flow::Hold(frame.end)),
                Next::Close(close) => return Ok(Flow::Close(close)),
            }
        }
        match self.broken.take() {
            Some(error) => Err(error.into()),
            None => Ok(Flow::Go),
        }
    }

    /// As much waits for the core as may: nothing more is taken until it has answered some of it.
    #[inline]
    fn is_full(&self) -> bool {
        self.incoming.is_full() || self.requests.is_full()
    }

    /// A packet of an open connection off the path of messages.
    fn packet(&mut self, block: &[u8], frame: Frame, step: &mut Step<'_>) -> Handled {
        if let PacketKind::Subscribe | PacketKind::Unsubscribe = frame.kind() {
            subscribe::check_size(frame, self.mqtt.config().max_subscribe_size)?;
        }
        match self.decoder.packet(block, frame)? {
            Packet::Subscribe(subscribe) => self.subscribe(subscribe, step),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe, step),
            Packet::PingReq => self.put(&Packet::PingResp, step),
            Packet::Disconnect(disconnect) => return self.disconnect(disconnect),
            Packet::Auth(auth) => self.reauthenticate(auth, step)?,
            _ => return Err(DecodeError::WrongDirection.into()),
        }
        Ok(Next::Go)
    }

    fn event(&mut self, event: Event, deliveries: &[Delivery], step: &mut Step<'_>) -> Result<Option<Close>, Fault> {
        match event {
            Event::Direct { batch, first, count, side, flags, .. } => {
                self.deliver_direct(&batch, first as usize, count as usize, side.as_deref(), flags, step);
            }
            Event::Run { to: DeliverTo::Consumer(_), queue, batch, start, count } => {
                let run = deliveries.get(start as usize..(start + count) as usize).unwrap_or(&[]);
                self.deliver_run(queue, &batch, run, step);
            }
            Event::Run { .. } => debug!("a run for a take that was never asked for"),
            Event::Done { through } => self.done(through, step),
            Event::Refused { first, last, why } => self.refused(first, last, &why)?,
            Event::Returned { first, count, .. } => self.returned(first, count),
            Event::Reply(token, result) => self.reply(token, *result, step)?,
            Event::Signal(signal) => return self.signal(signal, step),
        }
        Ok(None)
    }

    /// What gathers over a call and goes into the turn once: the fence and the credit.
    fn flush(&mut self, step: &mut Step<'_>) {
        self.incoming.flush_fence(step.turn);
        self.outgoing.flush_credit(step.turn);
    }

    /// Appends a packet, unless it is larger than the client accepts: then it counts as sent (MQTT-3.1.2-25).
    fn put(&self, packet: &Packet<'_>, step: &mut Step<'_>) {
        if !self.try_put(packet, step) {
            debug!(client = %self.client_id, "a packet was too large for the client's Maximum Packet Size");
        }
    }

    fn try_put(&self, packet: &Packet<'_>, step: &mut Step<'_>) -> bool {
        let buffer = step.out.buffer();
        let start = buffer.len();
        if packet.encode(self.version(), buffer).is_err() {
            return false;
        }
        let fits = buffer.len() - start <= self.outgoing.packet_max as usize;
        if !fits {
            buffer.truncate(start);
        }
        fits
    }

    /// A broken rule, or another reason to end it ourselves: says so to the client, if its version has words for it.
    fn fail(&mut self, fault: Fault, step: &mut Step<'_>) -> Close {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Open => self.put_disconnect(fault.reason, Some(&fault.why), None, step),
            Phase::Ended => {}
            Phase::Fresh | Phase::Login(_) | Phase::Challenged(_) | Phase::Attach(_) => {
                self.put_refusal(&fault, step);
                // Nothing is wrong with a client that comes to a standby, again and again.
                if let ReasonCode::UseAnotherServer | ReasonCode::ServerUnavailable = fault.reason {
                    return Close::clean(fault.why);
                }
            }
        }
        Close::dirty(fault.why)
    }

    /// DISCONNECT with a reason exists from version 5 on.
    fn put_disconnect(&self, reason: ReasonCode, why: Option<&str>, server: Option<&str>, step: &mut Step<'_>) {
        if !self.is_v5() {
            return;
        }
        let reason = if reason.allowed_in(ReasonPlace::Disconnect) { reason } else { ReasonCode::Unspecified };
        let mut disconnect = Disconnect::new(reason);
        disconnect.properties.server_reference = server.map(str::to_owned);
        disconnect.properties.reason_string = why.map(str::to_owned);
        if !self.try_put(&Packet::Disconnect(disconnect.clone()), step) {
            // MQTT-3.14.2-3: without the words rather than not at all.
            disconnect.properties.reason_string = None;
            self.put(&Packet::Disconnect(disconnect), step);
        }
    }

    /// A CONNACK that says no. To a client whose version is not known, and for what 3.1.1 has no code for, silence (3.1.1, 3.2.2.3).
    fn put_refusal(&self, fault: &Fault, step: &mut Step<'_>) {
        let Some(version) = self.splitter.version() else { return };
        let reason = if fault.reason.allowed_in(ReasonPlace::ConnAck) { fault.reason } else { ReasonCode::Unspecified };
        let mut connack = ConnAck::refuse(reason);
        connack.properties.reason_string = Some(fault.why.clone());
        connack.properties.server_reference = fault.servers.clone();
        let buffer = step.out.buffer();
        let start = buffer.len();
        let mut said = Packet::ConnAck(Box::new(connack.clone())).encode(version, buffer).is_ok();
        if said && buffer.len() - start > self.outgoing.packet_max as usize {
            // MQTT-3.2.2-19: without the words rather than not at all.
            buffer.truncate(start);
            (connack.properties.reason_string, connack.properties.server_reference) = (None, None);
            said = Packet::ConnAck(Box::new(connack)).encode(version, buffer).is_ok();
        }
        if !said {
            debug!(why = %fault.why, "refused without a word");
        }
    }

    fn ended(&self) -> Close {
        Close::dirty("the session has ended")
    }
}

impl ProtocolSession for Session {
    fn split(&mut self, input: &[u8]) -> Result<Split, Close> {
        let split = self.splitter.split(input);
        self.hearing = split.whole < input.len();
        if let Some(error) = split.error {
            self.broken = Some(error);
            if split.whole == 0 {
                return Err(Close::dirty(error.to_string()));
            }
        }
        Ok(Split { whole: split.whole, lacks: split.lacks })
    }

    fn receive(&mut self, block: &Bytes, offset: usize, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow {
        if offset == 0 && !matches!(self.phase, Phase::Fresh) {
            self.heard_at = now;
        }
        let mut step = Step { turn, out, now, now_ms };
        let handled = self.frames(block, offset, &mut step);
        self.flush(&mut step);
        match handled {
            Ok(Flow::Close(close)) => {
                self.phase = Phase::Ended;
                Flow::Close(close)
            }
            Ok(flow) => flow,
            Err(fault) => Flow::Close(self.fail(fault, &mut step)),
        }
    }

    fn events(&mut self, batch: &mut EventBatch, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow {
        let mut step = Step { turn, out, now, now_ms };
        let EventBatch { events, deliveries } = batch;
        for event in events.drain(..) {
            if matches!(self.phase, Phase::Ended) {
                return Flow::Close(self.ended());
            }
            match self.event(event, deliveries, &mut step) {
                Ok(None) => {}
                Ok(Some(close)) => {
                    self.phase = Phase::Ended;
                    return Flow::Close(close);
                }
                Err(fault) => return Flow::Close(self.fail(fault, &mut step)),
            }
        }
        self.flush(&mut step);
        match self.phase {
            Phase::Login(_) | Phase::Attach(_) => Flow::Hold(0),
            _ => Flow::Go,
        }
    }

    fn malformed(&mut self, close: &Close, turn: &mut Turn, out: &mut Out) {
        let fault = match self.broken.take() {
            Some(error) => Fault::from(error),
            None => Fault::new(ReasonCode::MalformedPacket, close.why.clone()),
        };
        let now = self.heard_at;
        self.fail(fault, &mut Step { turn, out, now, now_ms: 0 });
    }

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open => self.keep_alive.map(|keep_alive| self.heard_at + keep_alive),
            Phase::Ended => None,
            _ => Some(self.heard_at + self.mqtt.config().connect_timeout),
        }
    }

    fn on_deadline(&mut self, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow {
        let mut step = Step { turn, out, now, now_ms };
        match self.phase {
            Phase::Ended => Flow::Go,
            // A large packet on a slow line is a sign of life.
            Phase::Open if std::mem::take(&mut self.hearing) => {
                self.heard_at = now;
                Flow::Go
            }
            Phase::Open => {
                let fault = Fault::new(ReasonCode::KeepAliveTimeout, "nothing came within one and a half times the keep alive");
                Flow::Close(self.fail(fault, &mut step))
            }
            _ => {
                self.phase = Phase::Ended;
                Flow::Close(Close::dirty("no login within the time allowed for it"))
            }
        }
    }

    fn closed(&mut self, _clean: bool, turn: &mut Turn) {
        self.end(turn);
    }

    fn client_id(&self) -> Option<&str> {
        (!self.client_id.is_empty()).then_some(self.client_id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand idle connections are a figure that users look at.
    #[test]
    fn an_idle_session_stays_small() {
        assert!(std::mem::size_of::<Session>() <= 432, "{}", std::mem::size_of::<Session>());
    }
}
