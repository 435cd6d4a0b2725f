//! A connection of a client that speaks a protocol: what the gateway does for it, without a socket. What is sent is there at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use broker_api::{Broker as _, ConnectionInfo, CoreSession, EventBatch, Flow, Out, Peer, Protocol, ProtocolSession, Turn, VhostName};
use bytes::Bytes;

use crate::node::Serving;

pub struct Line {
    core: Box<dyn CoreSession>,
    session: Box<dyn ProtocolSession>,
    /// What the client has sent and the session has not taken.
    inbox: VecDeque<Bytes>,
    /// A block that the session wants to see again after the next events, and from where.
    held: Option<(Bytes, usize)>,
    turn: Turn,
    out: Out,
    over: bool,
}

impl Line {
    /// `None`: it is not taken now.
    pub fn open(serving: &Serving, protocol: Arc<dyn Protocol>, now: Instant) -> Option<Line> {
        let vhost = VhostName::new("/");
        let info = ConnectionInfo { peer: Peer::Unix, identity: None, protocol: protocol.name(), vhost, allow_anonymous: true };
        let core = serving.core.connect(info).ok()?;
        let context = broker_api::Context { peer: Peer::Unix, identity: None, anonymous: false, opened_ms: core.now_ms() };
        let session = protocol.open(context, now);
        let (inbox, held, turn, out) = Default::default();
        Some(Line { core, session, inbox, held, turn, out, over: false })
    }

    /// Whole frames.
    pub fn send(&mut self, bytes: Vec<u8>) {
        self.inbox.push_back(bytes.into());
    }

    /// The session has ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Everything that can happen now; answers with what came back.
    pub fn exchange(&mut self, now: Instant) -> Vec<u8> {
        let mut context = Context::from_waker(Waker::noop());
        while !self.over {
            let shown = self.show_next(now);
            let told = self.core.poll_events(&mut context).is_ready();
            if told {
                self.hear(now);
            }
            if !shown && !told {
                break;
            }
        }
        let bytes = self.out.concat();
        self.out.clear();
        bytes
    }

    fn show_next(&mut self, now: Instant) -> bool {
        if self.held.is_some() || self.core.saturated() {
            return false;
        }
        let Some(block) = self.inbox.pop_front() else { return false };
        match self.session.split(&block) {
            Ok(split) if split.whole == block.len() => self.show(block, 0, now),
            // It is this crate's own client that errs.
            _ => self.over = true,
        }
        true
    }

    fn show(&mut self, block: Bytes, offset: usize, now: Instant) {
        self.turn.block = block.clone();
        let flow = self.session.receive(&block, offset, now, self.core.now_ms(), &mut self.turn, &mut self.out);
        self.submit();
        match flow {
            Flow::Go => {}
            Flow::Hold(offset) => self.held = Some((block, offset)),
            Flow::Close(_) => self.end(),
        }
    }

    fn hear(&mut self, now: Instant) {
        let mut batch = EventBatch::default();
        self.core.swap(&mut batch);
        if batch.is_empty() {
            return;
        }
        let flow = self.session.events(&mut batch, now, self.core.now_ms(), &mut self.turn, &mut self.out);
        self.submit();
        self.core.written(usize::MAX);
        if let Flow::Close(_) = flow {
            return self.end();
        }
        if let Some((block, offset)) = self.held.take() {
            self.show(block, offset, now);
        }
    }

    fn submit(&mut self) {
        if !self.turn.is_empty() {
            self.core.submit(&mut self.turn);
        }
        self.turn.clear();
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.session.closed(false, &mut self.turn);
        self.submit();
        self.core.disconnect();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end();
    }
}
