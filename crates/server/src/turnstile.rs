//! What the gateway has for a core, where a node is one of a pair: while it stands by nobody gets past, and every command of a client is refused
//! with where to go instead, which each protocol says in its own words. No password is looked at for that. From when the node serves, the core is
//! behind it. A client that connected before and has said nothing yet is let in then.

use broker_api::{Broker, ConnectionInfo, CoreSession, Elsewhere, EventBatch, Peer, Refusal, Turn};
use gateway::TurnedAway;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Turnstile(Arc<Shared>);

struct Shared {
    core: OnceLock<Arc<dyn Broker>>,
    /// Who serves, if that is known.
    elsewhere: Box<dyn Fn() -> Option<Elsewhere> + Send + Sync>,
}

impl Turnstile {
    pub fn new(elsewhere: impl Fn() -> Option<Elsewhere> + Send + Sync + 'static) -> Turnstile {
        Turnstile(Arc::new(Shared { core: OnceLock::new(), elsewhere: Box::new(elsewhere) }))
    }

    /// This node serves from now on.
    pub fn open(&self, core: Arc<dyn Broker>) {
        let _ = self.0.core.set(core);
    }
}

impl Shared {
    fn refusal(&self) -> Refusal {
        Refusal::StandsBy((self.elsewhere)().map(Arc::new))
    }

    fn now_ms(&self) -> u64 {
        match self.core.get() {
            Some(core) => core.now_ms(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64),
        }
    }
}

impl Broker for Turnstile {
    fn connect(&self, info: ConnectionInfo) -> Result<Box<dyn CoreSession>, Refusal> {
        match self.0.core.get() {
            Some(core) => core.connect(info),
            None => Ok(Box::new(Visitor { turnstile: self.0.clone(), state: State::Silent(Box::new(info)) })),
        }
    }

    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn trusts_anonymous(&self, peer: &Peer) -> bool {
        self.0.core.get().is_some_and(|core| core.trusts_anonymous(peer))
    }

    fn serves(&self) -> Result<(), Refusal> {
        match self.0.core.get() {
            Some(core) => core.serves(),
            None => Err(self.0.refusal()),
        }
    }
}

/// A connection that came while this node stood by.
struct Visitor {
    turnstile: Arc<Shared>,
    state: State,
}

enum State {
    /// It has asked for nothing yet.
    Silent(Box<ConnectionInfo>),
    /// In the core, or told to go, and why.
    Decided(Box<dyn CoreSession>),
}

impl Visitor {
    /// What becomes of it is decided by its first words.
    fn decide(&mut self) {
        let State::Silent(info) = &self.state else { return };
        let session = match self.turnstile.core.get().map(|core| core.connect((**info).clone())) {
            Some(Ok(session)) => session,
            Some(Err(refusal)) => Box::new(TurnedAway::new(refusal, self.turnstile.now_ms())),
            None => Box::new(TurnedAway::new(self.turnstile.refusal(), self.turnstile.now_ms())),
        };
        self.state = State::Decided(session);
    }
}

impl CoreSession for Visitor {
    fn submit(&mut self, turn: &mut Turn) {
        self.decide();
        if let State::Decided(session) = &mut self.state {
            session.submit(turn);
        }
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Decided(session) => session.poll_events(cx),
            State::Silent(_) => Poll::Pending,
        }
    }

    fn swap(&mut self, into: &mut EventBatch) {
        if let State::Decided(session) = &mut self.state {
            session.swap(into);
        }
    }

    fn written(&mut self, bytes: usize) {
        if let State::Decided(session) = &mut self.state {
            session.written(bytes);
        }
    }

    fn saturated(&self) -> bool {
        matches!(&self.state, State::Decided(session) if session.saturated())
    }

    fn now_ms(&self) -> u64 {
        self.turnstile.now_ms()
    }

    fn disconnect(&mut self) {
        if let State::Decided(session) = &mut self.state {
            session.disconnect();
        }
    }
}
