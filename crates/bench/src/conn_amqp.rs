//! A connection's conversation in AMQP 0-9-1. All that prepares it is sent at once; the last answer says that it is ready.

use crate::amqp::{self, Frame, MethodId};
use crate::checker::Stamp;
use crate::conn::{Conn, Purpose, Role, State};
use crate::lane::Lane;

impl Purpose {
    fn ask(&self, out: &mut Vec<u8>) -> MethodId {
        match self {
            Purpose::Idle | Purpose::Publish { confirms: false, .. } => amqp::CHANNEL_OPEN_OK,
            Purpose::Publish { .. } => {
                amqp::confirm_select(out);
                amqp::CONFIRM_SELECT_OK
            }
            Purpose::Take { queue, declare, prefetch, auto_ack } => {
                match declare {
                    Some(durable) => amqp::queue_declare(out, 1, queue, *durable),
                    None => amqp::queue_look(out, 1, queue),
                }
                amqp::consume(out, queue, *prefetch, *auto_ack);
                amqp::CONSUME_OK
            }
            Purpose::Delete { queue } => {
                amqp::queue_delete(out, 1, queue);
                amqp::QUEUE_DELETE_OK
            }
        }
    }
}

/// What a connection remembers.
pub(crate) struct Session {
    purpose: Purpose,
    user: String,
    password: String,
    ready_at: MethodId,
    /// A delivery whose body has not come whole: tag, whether it came before, what is missing.
    delivery: Option<(u64, bool, u64)>,
    body: Vec<u8>,
    /// The last delivery that is to be acknowledged with all before it.
    unacked: u64,
    /// Everything up to this publish is confirmed.
    confirmed: u64,
}

impl Session {
    pub fn new(purpose: Purpose, user: String, password: String) -> Session {
        Session { purpose, user, password, ready_at: amqp::OPEN_OK, delivery: None, body: Vec::new(), unacked: 0, confirmed: 0 }
    }

    fn auto_ack(&self) -> bool {
        matches!(self.purpose, Purpose::Take { auto_ack: true, .. })
    }
}

impl Conn {
    /// Takes whole frames off `input` and returns how many bytes they were.
    pub(crate) fn digest_amqp(&mut self, session: &mut Session, input: &[u8], lane: &mut Lane, now: u64) -> Result<usize, String> {
        let mut used = 0;
        while let Some((frame, len)) = amqp::split(&input[used..])? {
            match frame.kind {
                amqp::METHOD => self.on_method(session, frame, lane, now)?,
                amqp::CONTENT => {
                    let missing = frame.body_size().ok_or("malformed content header")?;
                    session.delivery.as_mut().ok_or("a content of nothing")?.2 = missing;
                    session.body.clear();
                }
                amqp::BODY => self.on_body(session, frame.payload, lane, now)?,
                amqp::HEARTBEAT => {}
                kind => return Err(format!("a frame of type {kind}")),
            }
            used += len;
        }
        // One acknowledgement for all that came together.
        if session.unacked > 0 && !session.auto_ack() {
            amqp::ack(&mut self.out, session.unacked);
            session.unacked = 0;
        }
        Ok(used)
    }

    fn on_method(&mut self, session: &mut Session, frame: Frame<'_>, lane: &mut Lane, now: u64) -> Result<(), String> {
        match frame.method().ok_or("a method without a name")? {
            amqp::DELIVER => {
                let (tag, redelivered) = frame.deliver().ok_or("malformed basic.deliver")?;
                session.delivery = Some((tag, redelivered, u64::MAX));
            }
            id @ (amqp::ACK | amqp::NACK) => {
                let (tag, multiple) = frame.ack().ok_or("malformed confirm")?;
                self.confirmed(session, tag, multiple, id == amqp::ACK, lane, now)?;
            }
            amqp::START => amqp::start_ok(&mut self.out, &session.user, &session.password),
            amqp::TUNE => {
                amqp::open(&mut self.out);
                amqp::channel_open(&mut self.out, 1);
                session.ready_at = session.purpose.ask(&mut self.out);
            }
            amqp::CLOSE | amqp::CHANNEL_CLOSE => return Err(frame.why()),
            // Ends the connection, as whoever reads it expects of one that is leaving.
            amqp::CLOSE_OK => return Err("closed".into()),
            id if id == session.ready_at && self.state == State::Greeting => {
                self.state = State::Ready;
                self.session_present = matches!(session.purpose, Purpose::Take { declare: None, .. });
            }
            amqp::QUEUE_DECLARE_OK => self.depth = frame.depth(),
            amqp::OPEN_OK | amqp::CHANNEL_OPEN_OK | amqp::QOS_OK | amqp::BLOCKED | amqp::UNBLOCKED => {}
            (class, method) => return Err(format!("unexpected method {class}.{method}")),
        }
        Ok(())
    }

    #[inline]
    fn on_body(&mut self, session: &mut Session, piece: &[u8], lane: &mut Lane, now: u64) -> Result<(), String> {
        let Some((tag, redelivered, missing)) = session.delivery else { return Err("a body of nothing".into()) };
        let left = missing.checked_sub(piece.len() as u64).ok_or("a body that is longer than its header says")?;
        if left > 0 || !session.body.is_empty() {
            session.body.extend_from_slice(piece);
        }
        session.delivery = (left > 0).then_some((tag, redelivered, left));
        if left > 0 {
            return Ok(());
        }
        let payload = if session.body.is_empty() { piece } else { &session.body };
        let Role::Consumer(consumer) = &mut self.role else { return Err("a delivery for nobody".into()) };
        session.unacked = tag;
        lane.delivered += 1;
        if lane.first_delivery.is_none() {
            lane.first_delivery = Some(now);
        }
        lane.last_delivery = now;
        match Stamp::read(payload) {
            Some(stamp) => {
                lane.record_delivery(stamp.sent_at, now);
                consumer.inbox.take(stamp, redelivered);
            }
            None => consumer.inbox.foreign += 1,
        }
        Ok(())
    }

    fn confirmed(&mut self, session: &mut Session, tag: u64, multiple: bool, taken: bool, lane: &mut Lane, now: u64) -> Result<(), String> {
        let Role::Producer(producer) = &mut self.role else { return Err("a confirm for nobody".into()) };
        let Some(window) = &mut producer.window else { return Err("a confirm without confirm.select".into()) };
        let from = if multiple { session.confirmed + 1 } else { tag };
        if multiple || tag == session.confirmed + 1 {
            session.confirmed = session.confirmed.max(tag);
        }
        for tag in from..=tag {
            let id = window.id_of(tag);
            if !taken {
                window.refuse(id);
            } else if let Some(sent_at) = window.close(id) {
                lane.record_confirm(sent_at, now);
            } else if !multiple {
                return Err(format!("a confirm for publish {tag}, which is not open"));
            }
        }
        Ok(())
    }
}
