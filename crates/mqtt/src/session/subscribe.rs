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
    /// Why the first filter that was refused was.
    words: Option<Box<str>>,
}

/// Commands come at the start of a connection; a quiet one keeps no room for them.
#[derive(Debug, Default)]
pub(super) struct Requests(Option<Box<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    given: VecDeque<(Token, Request)>,
    unfinished: VecDeque<Unfinished>,
    /// An AUTH exchange is under way on the open connection.
    reauthenticating: bool,
}

/// SUBSCRIBEs, and filters in them, under way before nothing more is taken.
const UNFINISHED_MAX: usize = 64;
const GIVEN_MAX: usize = 1024;

impl Requests {
    fn waiting(&mut self) -> &mut Waiting {
        self.0.get_or_insert_default()
    }

    pub(super) fn is_reauthenticating(&self) -> bool {
        self.0.as_ref().is_some_and(|waiting| waiting.reauthenticating)
    }

    pub(super) fn set_reauthenticating(&mut self, on: bool) {
        self.waiting().reauthenticating = on;
    }

    /// What this answers, if it is what comes next.
    fn answered(&mut self, token: Token) -> Option<Request> {
        let waiting = self.0.as_mut()?;
        // Others are not ours to wait for, like the answer to an ended owner.
        waiting.given.front().filter(|(expected, _)| *expected == token)?;
        waiting.given.pop_front().map(|(_, request)| request)
    }

    fn next_finished(&mut self) -> Option<Unfinished> {
        let unfinished = &mut self.0.as_mut()?.unfinished;
        unfinished.front().filter(|first| first.missing == 0)?;
        unfinished.pop_front()
    }

    fn tidy(&mut self) {
        if self.0.as_ref().is_some_and(|waiting| waiting.given.is_empty() && waiting.unfinished.is_empty() && !waiting.reauthenticating) {
            self.0 = None;
        }
    }

    pub(super) fn push(&mut self, token: Token, request: Request) {
        self.waiting().given.push_back((token, request));
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|waiting| waiting.unfinished.len() >= UNFINISHED_MAX || waiting.given.len() >= GIVEN_MAX)
    }

    /// Fills in the oldest gap; `words` say why it is a refusal.
    fn fill(&mut self, reason: ReasonCode, words: Option<Box<str>>) {
        let Some(unfinished) = self.waiting().unfinished.iter_mut().find(|unfinished| unfinished.missing > 0) else { return };
        if let Some(gap) = unfinished.reasons.iter_mut().find(|reason| reason.is_none()) {
            *gap = Some(reason);
            unfinished.missing -= 1;
            if unfinished.words.is_none() {
                unfinished.words = words;
            }
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
        let selector = mapping::selector(&packet.properties);
        let mut reasons = Vec::with_capacity(packet.filters.len());
        for asked in &packet.filters {
            let wanted = mapping::subscribe(asked, identifier, selector, max_qos, self.bridge);
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
        // All that is refused here has too many levels.
        let refused = self.explains && missing < reasons.len();
        let words = refused.then(|| format!("a topic filter of more than {} levels", self.mqtt.config().max_topic_levels).into());
        self.requests.waiting().unfinished.push_back(Unfinished { packet_id, subscribe, reasons, missing, words });
        self.put_finished(step);
    }

    /// Writes the acknowledgements that are complete, in the order of their requests.
    fn put_finished(&mut self, step: &mut Step<'_>) {
        while let Some(finished) = self.requests.next_finished() {
            let Unfinished { packet_id, subscribe, reasons, words, .. } = finished;
            let reasons: Vec<ReasonCode> = reasons.into_iter().flatten().collect();
            let properties = AckProperties { reason_string: words.map(String::from), ..AckProperties::default() };
            let packet = |reasons, properties| match subscribe {
                true => Packet::SubAck(SubAck { packet_id, reasons, properties }),
                false => Packet::UnsubAck(UnsubAck { packet_id, reasons, properties }),
            };
            // MQTT-3.9.2-1, 3.11.2-1: without the words if they are too much for the client.
            if properties.reason_string.is_none() || !self.try_put(&packet(reasons.clone(), properties), step) {
                self.put(&packet(reasons, AckProperties::default()), step);
            }
        }
        self.requests.tidy();
    }

    /// A command has been answered, after its effect has passed the commit point.
    pub(super) fn reply(&mut self, token: Token, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Result<(), Fault> {
        let Some(request) = self.requests.answered(token) else { return Ok(()) };
        let answered = match request {
            Request::Login => self.login_answered(result, step),
            Request::Attach => self.attach_answered(result, step),
            Request::Reauthenticate => self.reauthentication_answered(result, step),
            Request::Filter(granted) => {
                let (reason, words) = self.filter_answered(granted, result)?;
                self.requests.fill(reason, words);
                self.put_finished(step);
                Ok(())
            }
        };
        self.requests.tidy();
        answered
    }

    fn filter_answered(&self, granted: ReasonCode, result: Result<Reply, Refusal>) -> Result<(ReasonCode, Option<Box<str>>), Fault> {
        match result {
            Ok(Reply::Unsubscribed { existed: false }) => Ok((ReasonCode::NoSubscriptionExisted, None)),
            Ok(_) => Ok((granted, None)),
            Err(refusal) => {
                let row = answer(&refusal);
                if row.disconnects(self.mqtt.config().unauthorized) {
                    return Err(Fault::new(row.subscribe, refusal.to_string()));
                }
                Ok((row.subscribe, self.explains.then(|| refusal.to_string().into())))
            }
        }
    }
}
