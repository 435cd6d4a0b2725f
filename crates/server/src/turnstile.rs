//! What the gateway has for a core, where a node is one of a pair: while it stands by nobody gets past, and every command of a client is refused
//! with where to go instead, which each protocol says in its own words. No password is looked at for that. From when the node serves, the core is
//! behind it. A client that connected before and has said nothing yet is let in then.

use broker_api::{Broker, ConnectionInfo, CoreSession, Elsewhere, Entry, Event, EventBatch, Refusal, Turn};
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
    /// It was told to go, and why.
    Refused(Refusal, Vec<Event>),
    Inside(Box<dyn CoreSession>),
}

impl Visitor {
    /// What becomes of it is decided by its first words.
    fn decide(&mut self) {
        let State::Silent(info) = &self.state else { return };
        self.state = match self.turnstile.core.get().map(|core| core.connect((**info).clone())) {
            Some(Ok(session)) => State::Inside(session),
            Some(Err(refusal)) => State::Refused(refusal, Vec::new()),
            None => State::Refused(self.turnstile.refusal(), Vec::new()),
        };
    }
}

impl CoreSession for Visitor {
    fn submit(&mut self, turn: &mut Turn) {
        self.decide();
        match &mut self.state {
            State::Silent(_) => {}
            State::Inside(session) => session.submit(turn),
            // No session publishes or settles before a command of its own was granted.
            State::Refused(refusal, events) => events.extend(turn.entries.drain(..).filter_map(|entry| match entry {
                Entry::Control(token, _) => Some(Event::Reply(token, Box::new(Err(refusal.clone())))),
                _ => None,
            })),
        }
    }

    /// What there is to say is there when `submit` returns, and the driver looks behind each of these: nobody has to be woken.
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Inside(session) => session.poll_events(cx),
            State::Refused(_, events) if !events.is_empty() => Poll::Ready(()),
            State::Silent(_) | State::Refused(..) => Poll::Pending,
        }
    }

    fn swap(&mut self, into: &mut EventBatch) {
        match &mut self.state {
            State::Inside(session) => session.swap(into),
            State::Refused(_, events) => into.events.append(events),
            State::Silent(_) => {}
        }
    }

    fn written(&mut self, bytes: usize) {
        if let State::Inside(session) = &mut self.state {
            session.written(bytes);
        }
    }

    fn saturated(&self) -> bool {
        matches!(&self.state, State::Inside(session) if session.saturated())
    }

    fn now_ms(&self) -> u64 {
        self.turnstile.now_ms()
    }

    fn disconnect(&mut self) {
        if let State::Inside(session) = &mut self.state {
            session.disconnect();
        }
    }
}
