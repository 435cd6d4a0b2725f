//! A core for those who are turned away: every command is refused, with the reason, which each protocol says in its own words.

use broker_api::{CoreSession, Entry, Event, EventBatch, Refusal, Turn};
use std::task::{Context, Poll};

pub struct TurnedAway {
    why: Refusal,
    opened_ms: u64,
    events: Vec<Event>,
}

impl TurnedAway {
    pub fn new(why: Refusal, now_ms: u64) -> TurnedAway {
        TurnedAway { why, opened_ms: now_ms, events: Vec::new() }
    }
}

impl CoreSession for TurnedAway {
    /// No session publishes or settles before a command of its own was granted.
    fn submit(&mut self, turn: &mut Turn) {
        self.events.extend(turn.entries.drain(..).filter_map(|entry| match entry {
            Entry::Control(token, _) => Some(Event::Reply(token, Box::new(Err(self.why.clone())))),
            _ => None,
        }));
    }

    /// What there is to say is there when `submit` returns, and the driver looks behind each of these: nobody has to be woken.
    fn poll_events(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        match self.events.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    fn swap(&mut self, into: &mut EventBatch) {
        into.events.append(&mut self.events);
    }

    fn written(&mut self, _bytes: usize) {}

    fn saturated(&self) -> bool {
        false
    }

    /// It is gone before that matters.
    fn now_ms(&self) -> u64 {
        self.opened_ms
    }

    fn disconnect(&mut self) {}
}
