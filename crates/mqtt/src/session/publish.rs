//! PUBLISH from the client, and the acknowledgements that answer it.
//!
//! Each publish and each fence has a serial. What must be said when a serial is done stands in one queue, in the order of serials, so
//! that acknowledgements leave in the order in which the publishes came (MQTT 5.0, 4.6). QoS 0 leaves no trace there.

use std::collections::VecDeque;

use broker_api::{Entry, Refusal, Serial, Span, Turn};
use tracing::debug;

use super::inflight::IdSet;
use super::{Phase, Session, Step};
use crate::codec::{encode_ack, AckKind, AckProperties, AckView, Frame, PacketId, PublishView, Qos, ReasonCode};
use crate::config::{Config, Overrun};
use crate::error::{answer, Fault, PublishV3};
use crate::mapping;
use crate::protocol::Counters;

/// What to do when a serial is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    PubAck,
    PubRec,
    /// A QoS 2 publish whose identifier is known came again: only the answer is repeated.
    PubRecAgain,
    PubComp,
    /// An identifier that was never in use is released: said in the order of the others.
    PubCompUnknown,
    /// The identifier of the oldest held delivery is recorded: it may leave.
    SendHeld,
    /// The client's PUBREC is recorded.
    PubRel,
    /// A withheld acknowledgement.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    serial: u64,
    pub(super) id: PacketId,
    pub(super) act: Act,
    pub(super) reason: ReasonCode,
}

/// Everything about publishes on their way in.
#[derive(Debug)]
pub(super) struct Incoming {
    next_serial: u64,
    waits: VecDeque<Wait>,
    /// Waits for the fence that this call will end with.
    fenced: Vec<Wait>,
    /// QoS 2 publishes taken and not yet released.
    ids: IdSet,
    /// Publishes of this connection whose last acknowledgement is not out (MQTT 5.0, 4.9).
    unacknowledged: u32,
    receive_maximum: u32,
    max_pending: usize,
    /// Topics by alias, from 1. Empty: not set.
    aliases: Vec<Box<[u8]>>,
    /// Why publishes whose acknowledgement is not out were refused: first serial, last, and the words.
    #[allow(clippy::box_collection, reason = "almost always none, and each idle connection has one: a pointer is smaller")]
    words: Option<Box<Vec<Words>>>,
}

type Words = (u64, u64, Box<str>);

/// Refusals whose words are kept until their acknowledgements leave; more than these go without.
const WORDS_MAX: usize = 64;

impl Incoming {
    pub(super) fn new(config: &Config) -> Incoming {
        Incoming {
            next_serial: 1,
            waits: VecDeque::new(),
            fenced: Vec::new(),
            ids: IdSet::default(),
            unacknowledged: 0,
            receive_maximum: u32::from(config.receive_maximum.get()),
            max_pending: config.max_pending as usize,
            aliases: Vec::new(),
            words: None,
        }
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.waits.len() + self.fenced.len() >= self.max_pending
    }

    #[inline]
    fn take_serial(&mut self) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        serial
    }

    /// Remembers what to do once everything of this call has passed the commit point.
    pub(super) fn after_fence(&mut self, act: Act, id: PacketId, reason: ReasonCode) {
        self.fenced.push(Wait { serial: 0, id, act, reason });
    }

    /// The same with a fence of its own right here: what it says keeps its place among the other acknowledgements (MQTT 5.0, 4.6).
    /// Neighbours share one.
    fn after_fence_here(&mut self, act: Act, id: PacketId, reason: ReasonCode, turn: &mut Turn) {
        if !matches!(turn.entries.last(), Some(Entry::Fence)) {
            turn.fence();
            self.take_serial();
        }
        self.waits.push_back(Wait { serial: self.next_serial - 1, id, act, reason });
    }

    pub(super) fn flush_fence(&mut self, turn: &mut Turn) {
        if self.fenced.is_empty() {
            return;
        }
        turn.fence();
        let serial = self.take_serial();
        self.waits.extend(self.fenced.drain(..).map(|wait| Wait { serial, ..wait }));
    }

    pub(super) fn remember(&mut self, id: PacketId) {
        self.ids.insert(id);
    }

    /// The waits of these serials.
    fn covered(&mut self, first: u64, last: u64) -> impl Iterator<Item = &mut Wait> {
        let start = self.waits.partition_point(|wait| wait.serial < first);
        self.waits.iter_mut().skip(start).take_while(move |wait| wait.serial <= last)
    }

    /// Keeps the words for these serials, if there is somebody who wants them.
    fn keep_words(&mut self, first: u64, last: u64, why: &Refusal) {
        if self.covered(first, last).any(|wait| wait.reason.is_error()) {
            let words = self.words.get_or_insert_default();
            if words.len() < WORDS_MAX {
                words.push((first, last, why.to_string().into()));
            }
        }
    }

    /// The words for this refusal. Those for earlier ones are no longer needed.
    fn words_of(&mut self, serial: u64) -> Option<Box<str>> {
        let words = self.words.as_mut()?;
        let found = words.iter().find(|(first, last, _)| (*first..=*last).contains(&serial)).map(|(_, _, words)| words.clone());
        words.retain(|(_, last, _)| *last > serial);
        if words.is_empty() {
            self.words = None;
        }
        found
    }

    fn settle_one(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
    }

    /// The topic that an alias stands for, kept or newly set (MQTT 5.0, 3.3.2.3.4).
    fn alias(&mut self, view: &PublishView<'_>, alias: u16, most: u16, turn: &mut Turn) -> Result<Span, Fault> {
        if alias > most {
            return Err(Fault::new(ReasonCode::TopicAliasInvalid, format!("Topic Alias {alias} is above our maximum of {most}")));
        }
        let place = usize::from(alias) - 1;
        if view.topic.is_empty() {
            return match self.aliases.get(place) {
                Some(topic) if !topic.is_empty() => Ok(turn.intern(topic)),
                _ => Err(Fault::protocol(format!("Topic Alias {alias} was never set on this connection (3.3.2.3.4)"))),
            };
        }
        if self.aliases.len() <= place {
            self.aliases.resize(place + 1, Box::default());
        }
        if *self.aliases[place] != *view.topic {
            self.aliases[place] = Box::from(view.topic);
        }
        Ok(Span::block(view.topic_at, view.topic.len()))
    }
}

/// Room for the publishes to come, if the rest of the block is like this one: the heads of a turn leave with it, so that each turn
/// starts without any.
#[inline]
fn reserve_heads(turn: &mut Turn, left: usize, each: usize) {
    if turn.heads.len() == turn.heads.capacity() {
        turn.heads.reserve_exact((left / each.max(2)).clamp(1, 1024));
    }
}

const UNFIT: &str = "the payload is not the UTF-8 it is said to be";

impl Session {
    #[inline]
    pub(super) fn publish(&mut self, block: &[u8], frame: Frame, step: &mut Step<'_>) -> Result<(), Fault> {
        let view = self.decoder.publish(block, frame)?;
        let key = match view.properties.topic_alias {
            None => Span::block(view.topic_at, view.topic.len()),
            Some(alias) => self.incoming.alias(&view, alias.get(), self.mqtt.config().topic_alias_maximum, step.turn)?,
        };
        reserve_heads(step.turn, block.len() - frame.start, frame.size());
        // QoS 0 without RETAIN and without a promise about its payload: nothing to check, nothing to remember.
        if frame.first & 0b0111 == 0 && !view.properties.payload_is_text {
            step.turn.publish(mapping::head(&view, self.decoder.version, key, step.now_ms));
            self.incoming.next_serial += 1;
            return Ok(());
        }
        self.publish_checked(&view, key, step)
    }

    fn publish_checked(&mut self, view: &PublishView<'_>, key: Span, step: &mut Step<'_>) -> Result<(), Fault> {
        let config = self.mqtt.config();
        if view.retain && !config.retain_available {
            return Err(Fault::new(ReasonCode::RetainNotSupported, "RETAIN, and retained messages are switched off here"));
        }
        if view.qos > config.max_qos {
            return Err(Fault::new(ReasonCode::QosNotSupported, "the QoS is above the highest allowed here"));
        }
        let unfit = config.check_payload_format && !view.properties.payload_fits(view.payload);
        match (view.qos, view.packet_id) {
            (Qos::AtMostOnce, _) | (_, None) if unfit => Counters::count(&self.mqtt.counters().refused),
            (Qos::AtMostOnce, _) | (_, None) => {
                step.turn.publish(mapping::head(view, self.version(), key, step.now_ms));
                self.incoming.take_serial();
            }
            (Qos::ExactlyOnce, Some(id)) if self.incoming.ids.contains(id) => {
                // MQTT-4.3.3-10: not to be published again before PUBREL. The answer waits for whatever the first one waits for.
                self.incoming.after_fence_here(Act::PubRecAgain, id, ReasonCode::Success, step.turn);
            }
            (qos, Some(id)) => {
                self.admit()?;
                match unfit {
                    true => self.refuse_payload(qos, id, step)?,
                    false => self.accept(view, qos, id, key, step),
                }
            }
        }
        Ok(())
    }

    /// MQTT 5.0, 3.3.4: more than Receive Maximum under way is 147. Who does not promise to count is held back instead.
    fn admit(&mut self) -> Result<(), Fault> {
        let strict = self.is_v5() && self.mqtt.config().receive_maximum_overrun == Overrun::Strict;
        if strict && self.incoming.unacknowledged >= self.incoming.receive_maximum {
            return Err(Fault::new(
                ReasonCode::ReceiveMaximumExceeded,
                format!("more than {} publishes without their acknowledgement", self.incoming.receive_maximum),
            ));
        }
        self.incoming.unacknowledged += 1;
        Ok(())
    }

    #[inline]
    fn accept(&mut self, view: &PublishView<'_>, qos: Qos, id: PacketId, key: Span, step: &mut Step<'_>) {
        let mut head = mapping::head(view, self.version(), key, step.now_ms);
        let act = match qos {
            Qos::ExactlyOnce => {
                self.incoming.ids.insert(id);
                if self.is_durable() {
                    // In the publish's own record: a crash keeps both or neither.
                    head.state = step.turn.keep_state(mapping::put_incoming(id));
                }
                Act::PubRec
            }
            _ => Act::PubAck,
        };
        step.turn.publish(head);
        let serial = self.incoming.take_serial();
        self.incoming.waits.push_back(Wait { serial, id, act, reason: ReasonCode::Success });
    }

    /// 153 on the acknowledgement; older versions have no word for it.
    fn refuse_payload(&mut self, qos: Qos, id: PacketId, step: &mut Step<'_>) -> Result<(), Fault> {
        Counters::count(&self.mqtt.counters().refused);
        if !self.is_v5() {
            return Err(Fault::new(ReasonCode::PayloadFormatInvalid, UNFIT));
        }
        let act = if qos == Qos::ExactlyOnce { Act::PubRec } else { Act::PubAck };
        self.incoming.after_fence_here(act, id, ReasonCode::PayloadFormatInvalid, step.turn);
        Ok(())
    }

    /// PUBREL: the client will not send this publish again.
    pub(super) fn release(&mut self, ack: AckView<'_>, step: &mut Step<'_>) {
        let id = ack.packet_id;
        if !self.incoming.ids.remove(id) {
            self.incoming.after_fence(Act::PubCompUnknown, id, ReasonCode::PacketIdNotFound);
            return;
        }
        if self.is_durable() {
            step.turn.state(mapping::drop_incoming(id));
        }
        self.incoming.after_fence(Act::PubComp, id, ReasonCode::Success);
    }

    /// Everything up to this serial has taken effect and is as safe as it was promised to be.
    pub(super) fn done(&mut self, through: Serial, step: &mut Step<'_>) {
        while let Some(&wait) = self.incoming.waits.front() {
            if wait.serial > through.0 {
                break;
            }
            self.incoming.waits.pop_front();
            match wait.act {
                Act::PubAck => {
                    self.incoming.settle_one();
                    self.put_answer(AckKind::PubAck, wait, step);
                }
                Act::PubRec => {
                    // MQTT 5.0, 4.3.3: a PUBREC with an error ends the exchange.
                    if wait.reason.is_error() && self.is_v5() {
                        self.incoming.settle_one();
                    }
                    self.put_answer(AckKind::PubRec, wait, step);
                }
                Act::PubRecAgain => self.put_ack(AckKind::PubRec, wait, step),
                Act::PubComp => {
                    self.incoming.settle_one();
                    self.put_ack(AckKind::PubComp, wait, step);
                }
                Act::PubCompUnknown => self.put_ack(AckKind::PubComp, wait, step),
                Act::SendHeld => self.send_held(wait, step),
                Act::PubRel => self.send_release(wait, step),
                Act::Nothing => {}
            }
        }
    }

    /// What became of a publish, with the words for a refusal if the client wants them (MQTT 5.0, 3.1.2.11.7) and has room for them (3.4.2.2.2).
    #[inline]
    fn put_answer(&mut self, kind: AckKind, wait: Wait, step: &mut Step<'_>) {
        if !wait.reason.is_error() || !self.explains || !self.put_words(kind, wait, step) {
            self.put_ack(kind, wait, step);
        }
    }

    #[cold]
    fn put_words(&mut self, kind: AckKind, wait: Wait, step: &mut Step<'_>) -> bool {
        let words = match wait.reason {
            ReasonCode::PayloadFormatInvalid => Some(UNFIT.into()),
            _ => self.incoming.words_of(wait.serial),
        };
        let Some(words) = words else { return false };
        let properties = AckProperties { reason_string: Some(words.into()), ..AckProperties::default() };
        let buffer = step.out.buffer();
        let start = buffer.len();
        let written = encode_ack(kind, wait.id, wait.reason, Some(&properties), self.decoder.version, buffer).is_ok();
        let fits = written && buffer.len() - start <= self.outgoing.packet_max as usize;
        if !fits {
            buffer.truncate(start);
        }
        fits
    }

    /// Four or five bytes: every client's Maximum Packet Size leaves room for them.
    #[inline]
    pub(super) fn put_ack(&self, kind: AckKind, wait: Wait, step: &mut Step<'_>) {
        if encode_ack(kind, wait.id, wait.reason, None, self.version(), step.out.buffer()).is_err() {
            debug!("an acknowledgement that could not be written");
        }
    }

    /// The core did not take these publishes. Comes before their `Done`.
    pub(super) fn refused(&mut self, first: Serial, last: Serial, why: &Refusal) -> Result<(), Fault> {
        let row = answer(why);
        let count = last.0.saturating_sub(first.0) + 1;
        debug!(client = %self.client_id, count, %why, "publishes refused");
        self.mqtt.counters().refused.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        if row.disconnects(self.mqtt.config().unauthorized) {
            return Err(Fault::new(row.publish, why.to_string()));
        }
        let v5 = self.is_v5();
        let mut over = Vec::new();
        let mut close = false;
        for wait in self.incoming.covered(first.0, last.0) {
            match wait.act {
                Act::PubAck | Act::PubRec if v5 => wait.reason = row.publish,
                Act::PubAck | Act::PubRec => match row.publish_v3 {
                    PublishV3::Acknowledge => continue,
                    PublishV3::Withhold => wait.act = Act::Nothing,
                    PublishV3::Close => close = true,
                },
                // A held delivery stays held; what had to be recorded first was not.
                Act::SendHeld => wait.reason = ReasonCode::Unspecified,
                _ => wait.act = Act::Nothing,
            }
            over.push(wait.id);
        }
        if close {
            return Err(Fault::new(row.publish, why.to_string()));
        }
        if self.explains {
            self.incoming.keep_words(first.0, last.0, why);
        }
        self.forget_refused(&over, last.0, row.publish);
        Ok(())
    }

    /// The identifiers of refused QoS 2 publishes are free again, and whoever repeated one meanwhile is told the same.
    fn forget_refused(&mut self, ids: &[PacketId], after: u64, reason: ReasonCode) {
        let v5 = self.is_v5();
        for &id in ids {
            if !self.incoming.ids.remove(id) {
                continue;
            }
            for wait in self.incoming.covered(after + 1, u64::MAX).filter(|wait| wait.id == id && wait.act == Act::PubRecAgain) {
                match v5 {
                    true => wait.reason = reason,
                    false => wait.act = Act::Nothing,
                }
            }
        }
    }

    /// These publishes matched no subscription.
    pub(super) fn returned(&mut self, first: Serial, count: u32) {
        if matches!(self.phase, Phase::Open) && count > 0 {
            for wait in self.incoming.covered(first.0, first.0 + u64::from(count) - 1) {
                if matches!(wait.act, Act::PubAck | Act::PubRec) && wait.reason == ReasonCode::Success {
                    wait.reason = ReasonCode::NoMatchingSubscribers;
                }
            }
        }
    }
}

impl Wait {
    /// Something to be said at once.
    pub(super) fn told(id: PacketId, reason: ReasonCode) -> Wait {
        Wait { serial: 0, id, act: Act::Nothing, reason }
    }

    /// Something to be done at once.
    pub(super) fn now(id: PacketId, act: Act) -> Wait {
        Wait { serial: 0, id, act, reason: ReasonCode::Success }
    }
}
