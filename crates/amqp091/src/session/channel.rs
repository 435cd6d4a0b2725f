//! Channels: opened, closed by the client, closed by us; and the way of a method to what handles it.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use broker_api::{Control, EndOwner, OwnerIx, PartingFate, TxIx};

use super::publish::Content;
use super::requests::{Asked, Request};
use super::settle::{Unacked, Unsettled};
use super::{codec_failed, failed, next, unexpected, Handled, Session, Step};
use crate::codec::{Frame, Method, PublishView, FRAME_BODY, FRAME_HEADER, FRAME_METHOD};
use crate::error::{Code, Fault, MethodId};

/// A limit over all consumers of a channel that acknowledge (basic.qos with global).
pub(super) struct Window {
    pub(super) group: u32,
    pub(super) limit: u32,
    /// Consumers that are still leaving an earlier window: the credit comes when all have, and what is out is known.
    pub(super) moving: u32,
    /// Deliveries that are out beyond the limit: their acknowledgements give no credit.
    pub(super) debt: u32,
    /// Credit to be given at the end of the call.
    pub(super) owed: u32,
}

/// A transaction that is open on a channel.
pub(super) struct Tx {
    pub(super) ix: TxIx,
    /// What was acknowledged in it; unsettled again after a rollback.
    pub(super) settled: Vec<Unsettled>,
}

pub(super) struct Channel {
    pub(super) number: u16,
    pub(super) owner: u32,
    /// We have said channel.close and wait for the answer.
    pub(super) closing: bool,
    /// Something that the session found is wrong, and is said once the core has done what was asked before it.
    doomed: bool,
    /// The client has said it and waits for ours: what it said before may still fail.
    leaving: bool,
    /// Publishes so far in confirm mode.
    pub(super) confirms: Option<u64>,
    /// Tags that are done and not yet confirmed to the client: from, through. 0 = none.
    pub(super) confirmed: (u64, u64),
    pub(super) tx: Option<Tx>,
    /// A publish whose content has not come whole.
    pub(super) content: Option<Box<Content>>,
    pub(super) unacked: Unacked,
    pub(super) last_tag: u64,
    /// When tags from which on were handed out, where a consumer has a timeout.
    pub(super) handed: VecDeque<(u64, Instant)>,
    /// For consumers to come.
    pub(super) prefetch: u16,
    pub(super) window: Option<Window>,
    pub(super) consumers: HashMap<Box<[u8]>, u32>,
    /// Those that the client has cancelled or that have a successor in `consumers`, while the core may still have deliveries under way to
    /// them.
    pub(super) departing: Vec<u32>,
    /// What an empty queue name stands for.
    pub(super) last_queue: Box<str>,
    /// The queue behind `amq.rabbitmq.reply-to`, and its consumer's tag.
    pub(super) reply_to: Option<(Box<str>, Box<[u8]>)>,
}

impl Channel {
    fn new(number: u16, owner: u32) -> Channel {
        Channel {
            number,
            owner,
            closing: false,
            doomed: false,
            leaving: false,
            confirms: None,
            confirmed: (0, 0),
            tx: None,
            content: None,
            unacked: Unacked::default(),
            last_tag: 0,
            handed: VecDeque::new(),
            prefetch: 0,
            window: None,
            consumers: HashMap::new(),
            departing: Vec::new(),
            last_queue: Box::default(),
            reply_to: None,
        }
    }

    /// The client's tag is free from here on, as it is in RabbitMQ, which looks at one command after the other.
    pub(super) fn part_from(&mut self, tag: &[u8]) -> Option<u32> {
        let consumer = self.consumers.remove(tag)?;
        self.departing.push(consumer);
        if self.reply_to.as_ref().is_some_and(|(_, reply_tag)| **reply_tag == *tag) {
            self.reply_to = None;
        }
        Some(consumer)
    }

    /// The transaction that publishes and acknowledgements belong to now.
    #[inline]
    pub(super) fn scope(&self) -> Option<TxIx> {
        self.tx.as_ref().map(|tx| tx.ix)
    }
}

/// The channel that a method came on, and which method it is.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) channel: u16,
    pub(super) owner: u32,
    pub(super) method: MethodId,
}

impl At {
    pub(super) fn owner_ix(&self) -> OwnerIx {
        OwnerIx(self.owner)
    }
    pub(super) fn failed(&self, code: Code, text: impl Into<String>) -> super::Failed {
        failed(self.channel, code, text, self.method)
    }
}

/// What RabbitMQ says to a content that belongs to nothing.
pub(super) const NO_METHOD: &str = "expected method frame, got non method frame instead";

impl Session {
    /// A frame on another channel than 0. Answers where the next one begins.
    #[inline]
    pub(super) fn channel_frame(&mut self, block: &[u8], frame: Frame, step: &mut Step<'_>) -> Handled<usize> {
        let payload = frame.payload(block);
        let Some(channel) = self.channel(frame.channel) else { return self.unopened(block, frame, step) };
        if channel.closing {
            return self.still_closing(payload, frame, step);
        }
        if channel.leaving {
            // Whoever opens it again without waiting for the answer gets a new one, anything else finds none.
            self.forget_channel(frame.channel);
            return self.unopened(block, frame, step);
        }
        if channel.doomed {
            self.still_doomed(payload, frame);
            return Ok(frame.end());
        }
        match frame.kind {
            FRAME_METHOD if channel.content.is_some() => {
                let expected = channel.content.as_ref().map_or("", |content| content.expected());
                Err(failed(frame.channel, Code::UnexpectedFrame, expected, (60, 40)))
            }
            FRAME_METHOD if PublishView::is(payload) => self.publish(block, frame, step),
            FRAME_METHOD => {
                let owner = channel.owner;
                let method = Method::parse(payload).map_err(|error| codec_failed(frame.channel, error, payload))?;
                self.method(At { channel: frame.channel, owner, method: method.id() }, method, step)?;
                Ok(frame.end())
            }
            FRAME_HEADER | FRAME_BODY => self.content_frame(block, frame, step),
            _ => Err(unexpected(frame, block)),
        }
    }

    fn unopened(&mut self, block: &[u8], frame: Frame, step: &mut Step<'_>) -> Handled<usize> {
        let payload = frame.payload(block);
        if matches!(frame.kind, FRAME_HEADER | FRAME_BODY) {
            return Err(failed(frame.channel, Code::UnexpectedFrame, NO_METHOD, (0, 0)));
        }
        let method = if frame.kind == FRAME_METHOD { Method::parse(payload).ok() } else { None };
        match method {
            Some(Method::ChannelOpen { .. }) => self.open_channel(frame.channel, step)?,
            // Both sides may close at once.
            Some(Method::ChannelCloseOk {}) => {}
            Some(Method::ChannelClose { .. }) => self.answer(frame.channel, Method::ChannelCloseOk {}, step),
            other => {
                let id = other.map_or((0, 0), |method| method.id());
                return Err(failed(frame.channel, Code::ChannelError, "expected 'channel.open'", id));
            }
        }
        Ok(frame.end())
    }

    fn open_channel(&mut self, number: u16, step: &mut Step<'_>) -> Handled {
        if self.open_channels >= self.channel_max {
            let (open, most) = (self.open_channels, self.channel_max);
            let text = format!("number of channels opened ({open}) has reached the negotiated channel_max ({most})");
            return Err(failed(0, Code::NotAllowed, text, (0, 0)));
        }
        let owner = next(&mut self.numbers.owner);
        let place = usize::from(number);
        if self.channels.len() <= place {
            self.channels.resize_with(place + 1, || None);
        }
        self.channels[place] = Some(Box::new(Channel::new(number, owner)));
        self.open_channels += 1;
        let token = self.command(Control::Owner { owner: OwnerIx(owner), fail_stop: true, channel: number }, step);
        self.requests.push_back(Request::of_channel(token, number, owner, (20, 10), Asked::Silent));
        self.answer(number, Method::ChannelOpenOk { channel_id: b"" }, step);
        Ok(())
    }

    /// The client is done with a channel: close-ok when the core has taken everything back.
    fn close_by_client(&mut self, at: At, step: &mut Step<'_>) {
        let Some(channel) = self.live(at.channel, at.owner) else { return };
        channel.leaving = true;
        let half = channel.content.take().map_or(0, |content| content.weight());
        let consumers = std::mem::take(&mut channel.consumers);
        self.parts_held -= half;
        for ix in consumers.values() {
            self.consumers.remove(ix);
        }
        let token = self.end_owner(at.owner, step);
        self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, Asked::Closed));
    }

    /// Nothing of the channel is on its way any more.
    pub(super) fn closed_by_client(&mut self, number: u16, owner: u32, step: &mut Step<'_>) {
        self.say_confirm(number, step);
        if self.live(number, owner).is_some_and(|channel| channel.leaving) {
            self.forget_channel(number);
        }
        step.say(number, &Method::ChannelCloseOk {});
    }

    fn end_owner(&mut self, owner: u32, step: &mut Step<'_>) -> broker_api::Token {
        self.set_scope(None, step.turn);
        self.command(Control::EndOwner(EndOwner { owner: OwnerIx(owner), expiry: None, parting: PartingFate::Discard }), step)
    }

    fn forget_channel(&mut self, number: u16) {
        let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(Option::take) else { return };
        self.open_channels = self.open_channels.saturating_sub(1);
        self.parts_held -= channel.content.map_or(0, |content| content.weight());
        for ix in channel.consumers.values().chain(&channel.departing) {
            self.consumers.remove(ix);
        }
    }

    /// What a client says on a channel is done in order, so of two errors it hears of the first, also where that one is the core's and
    /// comes later. Answers what is to be said at once: what is wrong with frames (RabbitMQ's reader says that, not its channel), and what
    /// nothing stands before.
    pub(super) fn put_off(&mut self, failed: super::Failed, step: &mut Step<'_>) -> Option<super::Failed> {
        let of_frames = matches!(
            failed.fault.code,
            Code::FrameError | Code::SyntaxError | Code::CommandInvalid | Code::ChannelError | Code::UnexpectedFrame | Code::ResourceError
        );
        if of_frames || (self.requests.is_empty() && self.publishes.is_empty()) {
            return Some(failed);
        }
        let Some(channel) = self.channel(failed.channel).filter(|channel| !channel.closing && !channel.leaving) else {
            return Some(failed);
        };
        channel.doomed = true;
        let owner = channel.owner;
        let half = channel.content.take().map_or(0, |content| content.weight());
        self.parts_held -= half;
        let token = self.end_owner(owner, step);
        let method = failed.fault.method;
        self.requests.push_back(Request::of_channel(token, failed.channel, owner, method, Asked::Doom(Box::new(failed.fault))));
        None
    }

    /// The core has done what stood before the error.
    pub(super) fn doom(&mut self, number: u16, owner: u32, fault: Fault, step: &mut Step<'_>) -> Handled {
        self.say_confirm(number, step);
        if self.live(number, owner).is_none() {
            return Ok(());
        }
        if fault.code.is_hard() {
            return Err(super::Failed { channel: number, fault });
        }
        // Here, so that it is said before answers of ours that stand behind it.
        self.close_channel(number, &fault, step);
        Ok(())
    }

    /// Nothing on such a channel is looked at, but whoever closes it meanwhile is answered behind the error.
    fn still_doomed(&mut self, payload: &[u8], frame: Frame) {
        if frame.kind != FRAME_METHOD || !matches!(Method::parse(payload), Ok(Method::ChannelClose { .. })) {
            return;
        }
        if let Some(channel) = self.channel(frame.channel) {
            channel.leaving = true;
            self.requests.push_back(Request::of_nobody(frame.channel, Asked::Say(Method::ChannelCloseOk {})));
        }
    }

    /// An error of this channel: it is over, and what the client still sends on it is not looked at until it has answered.
    pub(super) fn close_channel(&mut self, number: u16, fault: &Fault, step: &mut Step<'_>) {
        let Some(channel) = self.channel(number).filter(|channel| !channel.closing) else { return };
        let (owner, leaving, doomed) = (channel.owner, channel.leaving, channel.doomed);
        let ended = std::mem::replace(channel, Channel { closing: true, ..Channel::new(number, owner) });
        self.parts_held -= ended.content.map_or(0, |content| content.weight());
        for ix in ended.consumers.values().chain(&ended.departing) {
            self.consumers.remove(ix);
        }
        for request in self.requests.iter_mut().filter(|request| request.owner == owner && !matches!(request.asked, Asked::Closed)) {
            request.asked = Asked::Silent;
        }
        if leaving {
            // Its end is under way, and the client's own close is answered in its place.
            self.forget_channel(number);
        } else if !doomed {
            let token = self.end_owner(owner, step);
            self.requests.push_back(Request::of_channel(token, number, owner, (20, 40), Asked::Silent));
        }
        let text = fault.reply_text();
        let (class_id, method_id) = fault.method;
        let reply_code = fault.code.number();
        step.say(number, &Method::ChannelClose { reply_code, reply_text: text.as_bytes(), class_id, method_id });
    }

    fn still_closing(&mut self, payload: &[u8], frame: Frame, step: &mut Step<'_>) -> Handled<usize> {
        if frame.kind == FRAME_METHOD {
            match Method::parse(payload) {
                Ok(Method::ChannelCloseOk {}) => self.forget_channel(frame.channel),
                Ok(Method::ChannelClose { .. }) => {
                    self.forget_channel(frame.channel);
                    self.answer(frame.channel, Method::ChannelCloseOk {}, step);
                }
                _ => {}
            }
        }
        Ok(frame.end())
    }

    fn method(&mut self, at: At, method: Method<'_>, step: &mut Step<'_>) -> Handled {
        match method {
            Method::BasicAck { delivery_tag, multiple } => self.ack(at, delivery_tag, multiple, step),
            Method::BasicNack { delivery_tag, multiple, requeue } => self.nack(at, delivery_tag, multiple, requeue, step),
            Method::BasicReject { delivery_tag, requeue } => self.nack(at, delivery_tag, false, requeue, step),
            Method::BasicGet { queue, no_ack } => self.get(at, queue, no_ack, step),
            Method::BasicQos { prefetch_size, prefetch_count, global } => self.qos(at, prefetch_size, prefetch_count, global, step),
            Method::BasicConsume { .. } => self.consume(at, method, step),
            Method::BasicCancel { consumer_tag, nowait } => self.cancel(at, consumer_tag, nowait, step),
            // Of a cancel that we announced.
            Method::BasicCancelOk { .. } => Ok(()),
            Method::BasicRecover { requeue } => self.recover(at, requeue, true, step),
            Method::BasicRecoverAsync { requeue } => self.recover(at, requeue, false, step),
            Method::ExchangeDeclare { .. }
            | Method::ExchangeDelete { .. }
            | Method::ExchangeBind { .. }
            | Method::ExchangeUnbind { .. }
            | Method::QueueDeclare { .. }
            | Method::QueueBind { .. }
            | Method::QueueUnbind { .. }
            | Method::QueuePurge { .. }
            | Method::QueueDelete { .. } => self.topology(at, method, step),
            Method::ConfirmSelect { nowait } => self.confirm_select(at, nowait, step),
            Method::TxSelect {} => self.tx_select(at, step),
            Method::TxCommit {} => self.tx_end(at, true, step),
            Method::TxRollback {} => self.tx_end(at, false, step),
            Method::ChannelClose { .. } => {
                self.close_by_client(at, step);
                Ok(())
            }
            Method::ChannelOpen { .. } => Err(at.failed(Code::ChannelError, "second 'channel.open' seen")),
            Method::ChannelFlow { active: false } => Err(at.failed(Code::NotImplemented, "active=false")),
            Method::ChannelFlow { active } => {
                self.answer(at.channel, Method::ChannelFlowOk { active }, step);
                Ok(())
            }
            Method::AccessRequest { .. } => {
                self.answer(at.channel, Method::AccessRequestOk { ticket: 1 }, step);
                Ok(())
            }
            Method::ChannelCloseOk {} | Method::ChannelFlowOk { .. } => Ok(()),
            _ => Err(at.failed(Code::CommandInvalid, "unimplemented method")),
        }
    }

    fn tx_select(&mut self, at: At, step: &mut Step<'_>) -> Handled {
        let ix = TxIx(next(&mut self.numbers.tx));
        let Some(channel) = self.live(at.channel, at.owner) else { return Ok(()) };
        if channel.confirms.is_some() {
            return Err(at.failed(Code::PreconditionFailed, "cannot switch from confirm to tx mode"));
        }
        channel.tx.get_or_insert_with(|| Tx { ix, settled: Vec::new() });
        self.answer(at.channel, Method::TxSelectOk {}, step);
        Ok(())
    }

    /// Commit or rollback; the next transaction begins at once.
    fn tx_end(&mut self, at: At, commit: bool, step: &mut Step<'_>) -> Handled {
        let ix = TxIx(next(&mut self.numbers.tx));
        let Some(channel) = self.live(at.channel, at.owner) else { return Ok(()) };
        let Some(tx) = &mut channel.tx else {
            return Err(at.failed(Code::PreconditionFailed, "channel is not transactional"));
        };
        let ended = std::mem::replace(tx, Tx { ix, settled: Vec::new() });
        let (control, answer) = match commit {
            true => (Control::Commit { owner: at.owner_ix(), tx: ended.ix }, Method::TxCommitOk {}),
            false => (Control::Rollback { owner: at.owner_ix(), tx: ended.ix }, Method::TxRollbackOk {}),
        };
        if !commit {
            channel.unacked.restore(&ended.settled);
        }
        self.set_scope(None, step.turn);
        let token = self.command(control, step);
        self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, Asked::Say(answer)));
        if commit {
            self.owe(at.channel, &ended.settled);
        }
        Ok(())
    }
}
