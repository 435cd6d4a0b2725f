//! Commands that the core has yet to answer, in their order. What we answer ourselves waits here too, so that no answer overtakes another.

use std::sync::Arc;

use broker_api::{Batch, Delivery, QueueId, QueueName, Refusal, Reply, Token};
use tracing::debug;

use super::{on, Handled, Session, Step};
use crate::codec::Method;
use crate::error::{of_refusal, Fault, MethodId};

use super::queues::Declared;

/// What to do with the core's answer.
pub(super) enum Asked {
    Login,
    /// Of a virtual host.
    Enter,
    UpdateSecret,
    /// Nothing, unless it is a refusal.
    Silent,
    /// To say so.
    Say(Method<'static>),
    Declare(Box<Declared>),
    /// A channel, by the client.
    Closed,
    /// A channel, because of an error that the session found.
    Doom(Box<Fault>),
    Purged,
    Deleted,
    Consume {
        consumer: u32,
        nowait: bool,
    },
    /// An argument of a basic.consume that quorum queues do not take, and what classic ones say to it, if anything.
    Suits {
        queue: QueueName,
        argument: &'static str,
        classic: Option<String>,
    },
    Cancel {
        tag: Box<[u8]>,
        consumer: u32,
        nowait: bool,
    },
    /// The end of a consumer that has a successor, in a window's group.
    Moved {
        old: u32,
        group: u32,
    },
    Get {
        no_ack: bool,
        taken: Option<Box<Taken>>,
    },
}

/// The message of a basic.get, until the count that goes with it is known.
pub(super) struct Taken {
    pub(super) queue: QueueId,
    pub(super) batch: Arc<Batch>,
    pub(super) delivery: Delivery,
}

pub(super) struct Request {
    /// `None`: nobody was asked.
    token: Option<Token>,
    pub(super) channel: u16,
    pub(super) owner: u32,
    pub(super) method: MethodId,
    pub(super) asked: Asked,
}

impl Request {
    pub(super) fn of_connection(token: Token, asked: Asked) -> Request {
        Request { token: Some(token), channel: 0, owner: 0, method: (0, 0), asked }
    }
    /// An answer of our own that stands here for its order.
    pub(super) fn of_nobody(channel: u16, asked: Asked) -> Request {
        Request { token: None, channel, owner: 0, method: (0, 0), asked }
    }
    pub(super) fn of_channel(token: Token, channel: u16, owner: u32, method: MethodId, asked: Asked) -> Request {
        Request { token: Some(token), channel, owner, method, asked }
    }
}

impl Session {
    /// An answer of our own, behind those that are still to come.
    pub(super) fn answer(&mut self, channel: u16, method: Method<'static>, step: &mut Step<'_>) {
        if self.requests.iter().all(|request| matches!(request.asked, Asked::Silent | Asked::Moved { .. })) {
            return step.say(channel, &method);
        }
        let owner = self.channel(channel).map_or(0, |channel| channel.owner);
        self.requests.push_back(Request { token: None, channel, owner, method: (0, 0), asked: Asked::Say(method) });
    }

    /// The message that a basic.get is to be answered with.
    pub(super) fn hold_taken(&mut self, token: Token, queue: QueueId, batch: Arc<Batch>, delivery: Delivery) {
        let found = self.requests.iter_mut().find(|request| request.token == Some(token));
        match found.map(|request| &mut request.asked) {
            Some(Asked::Get { taken, .. }) => *taken = Some(Box::new(Taken { queue, batch, delivery })),
            _ => debug!("a message for a basic.get that nobody waits for goes back with its channel"),
        }
    }

    pub(super) fn reply(&mut self, token: Token, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Handled {
        let Some(request) = self.requests.pop_front() else { return Ok(()) };
        debug_assert_eq!(request.token, Some(token), "replies come in the order of the commands");
        let handled = self.replied(request, result, step);
        while let Some(Request { token: None, .. }) = self.requests.front() {
            let Some(Request { channel, asked, .. }) = self.requests.pop_front() else { break };
            if let Asked::Say(method) = asked {
                step.say(channel, &method);
            }
        }
        handled
    }

    fn replied(&mut self, request: Request, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Handled {
        let Request { channel, owner, method, asked, .. } = request;
        match asked {
            Asked::Login => return self.login_answered(result, step),
            Asked::Enter => return self.entered(result, step),
            Asked::UpdateSecret => return self.secret_answered(result, step),
            Asked::Declare(declared) => return self.declared(*declared, channel, owner, result, step),
            Asked::Doom(fault) => return self.doom(channel, owner, *fault, step),
            Asked::Moved { old, group } => {
                self.moved(channel, owner, old, group, step);
                return Ok(());
            }
            Asked::Consume { consumer, .. } if result.is_err() => {
                self.drop_consumer(channel, consumer);
            }
            _ => {}
        }
        let reply = match result {
            Ok(reply) => reply,
            // What was asked for on a channel that has failed meanwhile.
            Err(_) if matches!(asked, Asked::Silent) && self.live(channel, owner).is_none() => return Ok(()),
            Err(refusal) => return Err(on(channel)(of_refusal(&refusal, &self.peer.vhost, method))),
        };
        match (asked, reply) {
            (Asked::Say(method), _) => step.say(channel, &method),
            (Asked::Closed, _) => self.closed_by_client(channel, owner, step),
            (Asked::Purged, Reply::Messages(count)) => step.say(channel, &Method::QueuePurgeOk { message_count: narrow(count) }),
            (Asked::Deleted, Reply::Messages(count)) => step.say(channel, &Method::QueueDeleteOk { message_count: narrow(count) }),
            (Asked::Consume { consumer, nowait: false }, _) => self.say_consume_ok(channel, consumer, step),
            (Asked::Cancel { tag, consumer, nowait }, _) => {
                self.drop_consumer(channel, consumer);
                if !nowait {
                    step.say(channel, &Method::BasicCancelOk { consumer_tag: &tag });
                }
            }
            (Asked::Suits { queue, argument, classic }, Reply::Queue { counts_attempts, .. }) => {
                let quorum = || " of queue type rabbit_quorum_queue".to_owned();
                if let Some(why) = if counts_attempts { Some(quorum()) } else { classic } {
                    let text = format!("invalid arg '{argument}' for queue '{queue}' in vhost '{}'{why}", self.peer.vhost);
                    return Err(on(channel)(Fault::precondition(text, method)));
                }
            }
            (Asked::Get { no_ack, taken }, Reply::Taken { left, .. }) => match taken {
                Some(taken) => self.say_taken(channel, owner, no_ack, *taken, narrow(left), step),
                None => step.say(channel, &Method::BasicGetEmpty {}),
            },
            _ => {}
        }
        Ok(())
    }
}

/// Counts have four bytes on the wire.
pub(super) fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
