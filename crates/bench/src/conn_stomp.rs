//! A connection's conversation in STOMP 1.2. A subscription is ready when its receipt has come; publishes are confirmed by receipts.

use crate::checker::Stamp;
use crate::conn::{Conn, Purpose, Role, State};
use crate::lane::Lane;
use crate::stomp::{self, Frame};

const READY: &str = "ready";
const BYE: &str = "bye";

/// What a connection remembers.
pub(crate) struct Session {
    purpose: Purpose,
    /// The `ack` of the last delivery; an ACK of it is for all before it.
    unacked: Vec<u8>,
}

impl Session {
    pub fn new(purpose: Purpose) -> Session {
        Session { purpose, unacked: Vec::new() }
    }
}

pub(crate) fn say_goodbye(out: &mut Vec<u8>) {
    stomp::disconnect(out, BYE);
}

impl Conn {
    /// Takes whole frames off `input` and returns how many bytes they were.
    pub(crate) fn digest_stomp(&mut self, session: &mut Session, input: &[u8], lane: &mut Lane, now: u64) -> Result<usize, String> {
        let mut used = 0;
        while used < input.len() {
            let Some((frame, len)) = stomp::split(&input[used..])? else { break };
            match frame {
                Some(frame) if frame.command == b"MESSAGE" => self.on_message(session, frame, lane, now)?,
                Some(frame) => self.on_frame(session, frame, lane, now)?,
                None => {}
            }
            used += len;
        }
        if !session.unacked.is_empty() && self.state != State::Leaving {
            stomp::ack(&mut self.out, &session.unacked);
        }
        session.unacked.clear();
        Ok(used)
    }

    fn on_frame(&mut self, session: &Session, frame: Frame<'_>, lane: &mut Lane, now: u64) -> Result<(), String> {
        match frame.command {
            b"CONNECTED" => match &session.purpose {
                Purpose::Take { queue, prefetch, auto_ack, .. } => {
                    stomp::subscribe(&mut self.out, queue, *prefetch, *auto_ack, READY);
                    self.state = State::Subscribing;
                }
                _ => self.state = State::Ready,
            },
            b"RECEIPT" => match frame.get(b"receipt-id") {
                Some(id) if id == READY.as_bytes() && self.state == State::Subscribing => self.state = State::Ready,
                // Ends the connection, as whoever reads it expects of one that is leaving.
                Some(id) if id == BYE.as_bytes() => return Err("closed".into()),
                Some(id) => {
                    let id = stomp::read_receipt(id).ok_or("a receipt that nobody asked for")?;
                    self.confirmed_by_receipt(id, lane, now)?;
                }
                None => return Err("a RECEIPT of nothing".into()),
            },
            b"ERROR" => return Err(frame.why()),
            other => return Err(format!("unexpected frame {}", String::from_utf8_lossy(other))),
        }
        Ok(())
    }

    fn confirmed_by_receipt(&mut self, id: u16, lane: &mut Lane, now: u64) -> Result<(), String> {
        let Role::Producer(producer) = &mut self.role else { return Err("a receipt for nobody".into()) };
        let Some(window) = &mut producer.window else { return Err("a receipt that nobody asked for".into()) };
        match window.close(id) {
            Some(sent_at) => {
                lane.record_confirm(sent_at, now);
                Ok(())
            }
            None => Err(format!("a receipt for publish {id}, which is not open")),
        }
    }

    #[inline]
    fn on_message(&mut self, session: &mut Session, frame: Frame<'_>, lane: &mut Lane, now: u64) -> Result<(), String> {
        let Role::Consumer(consumer) = &mut self.role else { return Err("a MESSAGE for nobody".into()) };
        if let Some(ack) = frame.get(b"ack") {
            session.unacked.clear();
            session.unacked.extend_from_slice(ack);
        }
        lane.delivered += 1;
        if lane.first_delivery.is_none() {
            lane.first_delivery = Some(now);
        }
        lane.last_delivery = now;
        match Stamp::read(frame.body) {
            Some(stamp) => {
                lane.record_delivery(stamp.sent_at, now);
                consumer.inbox.take(stamp, frame.get(b"redelivered") == Some(b"true"));
            }
            None => consumer.inbox.foreign += 1,
        }
        Ok(())
    }
}
