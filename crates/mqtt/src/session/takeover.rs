//! What a session hands on to the next connection, takes up from an earlier one, and how the core ends a connection.

use broker_api::{Close, Elsewhere, QueueId, Seq, Signal, StateValue, Turn};
use tracing::{debug, warn};

use super::deliver::Resumed;
use super::inflight::{Slot, Stage};
use super::publish::Wait;
use super::{Ownership, Session, Step};
use crate::codec::{AckKind, PacketId, ReasonCode};
use crate::error::Fault;
use crate::mapping::{self, Kept, Remembered};

/// Of addresses that MQTT's clients can use.
pub(super) const SCHEMES: &[&str] = &["mqtt", "mqtts"];

impl Session {
    /// Takes up what an earlier connection left, sends the PUBRELs that are due again, and opens the window.
    pub(super) fn resume(&mut self, state: &[(u64, StateValue)], step: &mut Step<'_>) {
        let mut released = Vec::new();
        for (key, value) in state {
            match mapping::read_state(*key, value) {
                Some(Remembered::Incoming(id)) => self.incoming.remember(id),
                Some(Remembered::Outgoing { id, kept, queue, seq }) => self.take_up(id, kept, queue, seq, &mut released),
                None => warn!(client = %self.client_id, key, "an entry of the session's state that is not understood"),
            }
        }
        self.outgoing.resumed.sort_unstable_by_key(|resumed| (resumed.queue, resumed.seq));
        // In the order of the messages, as far as it is known (MQTT 5.0, 4.6).
        released.sort_unstable();
        for (_, _, id) in &released {
            self.put_ack(AckKind::PubRel, Wait::told(*id, ReasonCode::Success), step);
        }
        self.outgoing.first_credit(released.len() as u32, step.turn);
    }

    fn take_up(&mut self, id: PacketId, kept: Kept, queue: QueueId, seq: Seq, released: &mut Vec<(QueueId, Seq, PacketId)>) {
        let stage = match kept {
            Kept::Qos1Sent => Stage::Resuming { qos2: false },
            Kept::Qos2Sent => Stage::Resuming { qos2: true },
            Kept::Qos2Released => Stage::Released,
        };
        if !self.outgoing.inflight.reserve(id, Slot { queue, seq, stage, kept: true, bytes: 0 }) {
            warn!(client = %self.client_id, id = id.get(), "two deliveries under one packet identifier; the second will get a new one");
            return;
        }
        self.outgoing.resumed.push(Resumed { queue, seq, id });
        if stage == Stage::Released {
            released.push((queue, seq, id));
        }
    }

    /// The core has something to say about the connection as a whole.
    pub(super) fn signal(&mut self, signal: Signal, step: &mut Step<'_>) -> Result<Option<Close>, Fault> {
        let (reason, why) = match signal {
            // MQTT has no word for these: acknowledgements simply do not come.
            Signal::Blocked(why) => {
                debug!(client = %self.client_id, why, "publishes are held");
                return Ok(None);
            }
            Signal::Unblocked
            | Signal::Drained { .. }
            | Signal::Browsed { .. }
            | Signal::Found { .. }
            | Signal::Active { .. }
            | Signal::SettleWithin { .. } => return Ok(None),
            Signal::Superseded { .. } => {
                self.hand_over(step.turn);
                self.ownership = Ownership::Given;
                (ReasonCode::SessionTakenOver, "another connection has taken the session")
            }
            Signal::Shutdown => return Ok(Some(self.shut_down(None, step))),
            Signal::Moved(elsewhere) => return Ok(Some(self.shut_down(Some(&elsewhere), step))),
            Signal::Kicked => (ReasonCode::AdministrativeAction, "closed by an operator"),
            Signal::Ended { .. } => (ReasonCode::AdministrativeAction, "the session was removed"),
            Signal::Lost => {
                self.ownership = Ownership::Given;
                (ReasonCode::Unspecified, "the store has failed")
            }
        };
        Err(Fault::new(reason, why))
    }

    /// MQTT 5, 4.13.1: server references stand in one string, with spaces between.
    pub(super) fn references(&self, elsewhere: &Elsewhere) -> String {
        elsewhere.hosts(SCHEMES).collect::<Vec<_>>().join(" ")
    }

    /// The broker goes down. The session goes on where it is started again, and its will is decided there.
    fn shut_down(&mut self, elsewhere: Option<&Elsewhere>, step: &mut Step<'_>) -> Close {
        self.hand_over(step.turn);
        self.ownership = Ownership::Given;
        let configured = self.mqtt.config().server_reference.clone();
        let told = elsewhere.map(|elsewhere| self.references(elsewhere));
        let told = told.filter(|hosts| !hosts.is_empty());
        let reason = match (&configured, elsewhere) {
            (Some(server), _) if server.moved && told.is_none() => ReasonCode::ServerMoved,
            (None, None) => ReasonCode::ServerShuttingDown,
            _ => ReasonCode::UseAnotherServer,
        };
        if matches!(self.phase, super::Phase::Open) {
            let servers = told.or(configured.map(|server| server.servers));
            self.put_disconnect(reason, None, servers.as_deref(), step);
        }
        Close::clean("the broker is going down")
    }

    /// Records the identifiers of QoS 1 deliveries under way, so that they come again under the same ones (MQTT-4.4.0-1). Those of a
    /// shared subscription are not ours to keep: they go to another member.
    pub(super) fn hand_over(&mut self, turn: &mut Turn) {
        if self.ownership != Ownership::Owner || !self.is_durable() {
            return;
        }
        for (id, slot) in self.outgoing.inflight.iter() {
            match slot.stage {
                Stage::Sent1 if !slot.kept && slot.queue == self.outgoing.own_queue => {
                    turn.state(mapping::put_outgoing(id, Kept::Qos1Sent, slot.queue, slot.seq))
                }
                // Its message is gone: expired, or removed with its queue.
                Stage::Resuming { qos2 } if self.outgoing.resumed_all => {
                    let kept = if qos2 { Kept::Qos2Sent } else { Kept::Qos1Sent };
                    turn.state(mapping::drop_outgoing(id, kept));
                }
                _ => {}
            }
        }
    }
}
