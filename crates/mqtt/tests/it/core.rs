//! A core that keeps nothing: it writes down what it is asked, and says yes, unless the script answers in its place.

use crate::printer;
use broker_api::{Attached, Batch, Control, Entry, Event, EventBatch, PrincipalInfo, QueueId, Refusal, Reply, Serial, Token, Turn};
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Default)]
pub struct FakeCore {
    /// The script answers commands.
    pub manual_replies: bool,
    /// The script says what is done.
    pub manual_done: bool,
    /// Commands without an answer.
    pub waiting: VecDeque<(Token, Asked)>,
    pub last_serial: u64,
    done: u64,
    /// Serials of publishes, and of those that want a confirm.
    pub publishes: Vec<u64>,
    wants_done: bool,
    pub batches: Vec<Arc<Batch>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    Login,
    Attach,
    Subscribe,
    Unsubscribe,
    EndOwner,
}

impl FakeCore {
    pub fn submit(&mut self, turn: &mut Turn, now_ms: u64, lines: &mut Vec<String>) {
        let entries = std::mem::take(&mut turn.entries);
        let states = std::mem::take(&mut turn.states);
        let batch = Arc::new(turn.freeze(now_ms));
        for entry in entries {
            lines.push(format!("! {}", printer::entry(&entry, &states, &batch)));
            match entry {
                Entry::Publish { first, count } => {
                    for head in &batch.heads[first as usize..(first + count) as usize] {
                        self.last_serial += 1;
                        self.publishes.push(self.last_serial);
                        self.wants_done |= head.has(broker_api::HEAD_CONFIRM);
                    }
                }
                Entry::Fence => {
                    self.last_serial += 1;
                    self.wants_done = true;
                }
                Entry::Control(token, control) => self.waiting.push_back((token, asked(&control))),
                _ => {}
            }
        }
        if !batch.heads.is_empty() {
            self.batches.push(batch);
        }
    }

    /// What a core that says yes to everything has to say now.
    pub fn answers(&mut self) -> EventBatch {
        let mut batch = EventBatch::default();
        if !self.manual_replies {
            while let Some((token, asked)) = self.waiting.pop_front() {
                batch.events.push(reply(token, yes(asked)));
            }
        }
        if !self.manual_done && self.wants_done {
            batch.events.push(self.done_through(self.last_serial));
        }
        batch
    }

    pub fn done_through(&mut self, serial: u64) -> Event {
        self.done = serial;
        self.wants_done = serial < self.last_serial;
        Event::Done { through: Serial(serial) }
    }

    /// Answers the oldest command.
    pub fn answer(&mut self, result: Option<Result<Reply, Refusal>>) -> Event {
        let (token, asked) = self.waiting.pop_front().expect("a command that waits");
        reply(token, result.unwrap_or_else(|| yes(asked)))
    }
}

fn reply(token: Token, result: Result<Reply, Refusal>) -> Event {
    Event::Reply(token, Box::new(result))
}

fn asked(control: &Control) -> Asked {
    match control {
        Control::Login(_) => Asked::Login,
        Control::Attach(_) => Asked::Attach,
        Control::Subscribe(_) => Asked::Subscribe,
        Control::Unsubscribe { .. } => Asked::Unsubscribe,
        Control::EndOwner(_) => Asked::EndOwner,
        other => panic!("MQTT never asks for {other:?}"),
    }
}

fn yes(asked: Asked) -> Result<Reply, Refusal> {
    let principal = PrincipalInfo { user: "tester".into(), administrator: false, impersonator: false };
    Ok(match asked {
        Asked::Login => Reply::LoggedIn { principal, last: Vec::new() },
        Asked::Attach => Reply::Attached(Attached { present: false, queue: QueueId(7), state: Vec::new() }),
        Asked::Subscribe => Reply::Subscribed { existed: false },
        Asked::Unsubscribe => Reply::Unsubscribed { existed: true },
        Asked::EndOwner => Reply::Ok,
    })
}
