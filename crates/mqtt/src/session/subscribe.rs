//! SUBSCRIBE and UNSUBSCRIBE, and the commands that wait for their reply.
//!
//! Each filter is a command of its own. Commands are answered in order, so that one queue of them and one of unfinished
//! acknowledgements suffice.

use std::collections::VecDeque;

use broker_api::{Control, Refusal, Reply, Token};

use super::{Session, Step};
use crate::codec::{self, AckProperties, Frame, Packet, PacketId, ReasonCode, SubAck, Subscribe, UnsubAck, Unsubscribe};
use crate::error::{answer, Fault};
use crate::mapping;

/// A command that has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Login,
    Attach,
    Reauthenticate,
    /// One filter of the oldest unfinished acknowledgement; what to say if it is granted.
    Filter(ReasonCode),
}

/// A SUBACK or UNSUBACK that is not complete.
#[derive(Debug)]
struct Unfinished {
    packet_id: PacketId,
    subscribe: bool,
    /// One for each filter, known or not.
    reasons: Vec<Option<ReasonCode>>,
    missing: usize,
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    given: VecDeque<(Token, Request)>,
    unfinished: VecDeque<Unfinished>,
    /// An AUTH exchange is under way on the open connection.
    pub(super) reauthenticating: bool,
}

/// SUBSCRIBEs, and filters in them, under way before nothing more is taken.
const UNFINISHED_MAX: usize = 64;
const GIVEN_MAX: usize = 1024;

impl Requests {
    pub(super) fn push(&mut self, token: Token, request: Request) {
        self.given.push_back((token, request));
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.unfinished.len() >= UNFINISHED_MAX || self.given.len() >= GIVEN_MAX
    }

    /// Fills in the oldest gap.
    fn fill(&mut self, reason: ReasonCode) {
        let Some(unfinished) = self.unfinished.iter_mut().find(|unfinished| unfinished.missing > 0) else { return };
        if let Some(gap) = unfinished.reasons.iter_mut().find(|reason| reason.is_none()) {
            *gap = Some(reason);
            unfinished.missing -= 1;
        }
    }
}

/// A small packet can hold many filters, and each costs us far more than its bytes.
pub(super) fn check_size(frame: Frame, max: u32) -> Result<(), Fault> {
    match frame.size() {
        size if size > max as usize => {
            Err(Fault::new(ReasonCode::QuotaExceeded, format!("a SUBSCRIBE or UNSUBSCRIBE of {size} bytes; at most {max} are taken")))
        }
        _ => Ok(()),
    }
}

impl Session {
    pub(super) fn subscribe(&mut self, packet: Subscribe, step: &mut Step<'_>) {
        let (max_qos, levels_max) = (self.mqtt.config().max_qos, usize::from(self.mqtt.config().max_topic_levels.get()));
        let identifier = packet.properties.subscription_id.map_or(0, |id| id.0);
        let mut reasons = Vec::with_capacity(packet.filters.len());
        for asked in &packet.filters {
            let wanted = mapping::subscribe(asked, identifier, max_qos, self.bridge);
            let wanted = wanted.filter(|wanted| codec::topic::levels(wanted.filter.pattern.as_bytes()) <= levels_max);
            reasons.push(match wanted {
                None => Some(ReasonCode::TopicFilterInvalid),
                Some(wanted) => {
                    let granted = mapping::qos_of_level(wanted.level).granted();
                    let token = self.control(Control::Subscribe(wanted), step);
                    self.requests.push(token, Request::Filter(granted));
                    None
                }
            });
        }
        self.await_all(packet.packet_id, true, reasons, step);
    }

    pub(super) fn unsubscribe(&mut self, packet: Unsubscribe, step: &mut Step<'_>) {
        let mut reasons = Vec::with_capacity(packet.filters.len());
        for text in &packet.filters {
            reasons.push(match codec::Filter::parse(text) {
                Err(_) => Some(ReasonCode::TopicFilterInvalid),
                Ok(filter) => {
                    let share = filter.share.map(Box::from);
                    let command = Control::Unsubscribe { owner: mapping::OWNER, filter: mapping::plain_filter(filter), share };
                    let token = self.control(command, step);
                    self.requests.push(token, Request::Filter(ReasonCode::Success));
                    None
                }
            });
        }
        self.await_all(packet.packet_id, false, reasons, step);
    }

    fn await_all(&mut self, packet_id: PacketId, subscribe: bool, reasons: Vec<Option<ReasonCode>>, step: &mut Step<'_>) {
        let missing = reasons.iter().filter(|reason| reason.is_none()).count();
        self.requests.unfinished.push_back(Unfinished { packet_id, subscribe, reasons, missing });
        self.put_finished(step);
    }

    /// Writes the acknowledgements that are complete, in the order of their requests.
    fn put_finished(&mut self, step: &mut Step<'_>) {
        while self.requests.unfinished.front().is_some_and(|unfinished| unfinished.missing == 0) {
            let Some(finished) = self.requests.unfinished.pop_front() else { return };
            let (packet_id, properties) = (finished.packet_id, AckProperties::default());
            let reasons = finished.reasons.into_iter().flatten().collect();
            let packet = match finished.subscribe {
                true => Packet::SubAck(SubAck { packet_id, reasons, properties }),
                false => Packet::UnsubAck(UnsubAck { packet_id, reasons, properties }),
            };
            self.put(&packet, step);
        }
    }

    /// A command has been answered, after its effect has passed the commit point.
    pub(super) fn reply(&mut self, token: Token, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Result<(), Fault> {
        match self.requests.given.front() {
            Some((expected, _)) if *expected == token => {}
            // Not ours to wait for, like the answer to an ended owner.
            _ => return Ok(()),
        }
        let Some((_, request)) = self.requests.given.pop_front() else { return Ok(()) };
        if self.requests.given.is_empty() {
            // Commands come at the start of a connection; a quiet one should not keep room for them.
            self.requests.given = VecDeque::new();
        }
        match request {
            Request::Login => self.login_answered(result, step),
            Request::Attach => self.attach_answered(result, step),
            Request::Reauthenticate => self.reauthentication_answered(result, step),
            Request::Filter(granted) => {
                let reason = self.filter_answered(granted, result)?;
                self.requests.fill(reason);
                self.put_finished(step);
                Ok(())
            }
        }
    }

    fn filter_answered(&mut self, granted: ReasonCode, result: Result<Reply, Refusal>) -> Result<ReasonCode, Fault> {
        match result {
            Ok(Reply::Unsubscribed { existed: false }) => Ok(ReasonCode::NoSubscriptionExisted),
            Ok(_) => Ok(granted),
            Err(refusal) => {
                let row = answer(&refusal);
                if row.disconnects(self.mqtt.config().unauthorized) {
                    return Err(Fault::new(row.subscribe, refusal.to_string()));
                }
                Ok(row.subscribe)
            }
        }
    }
}
