//! PUBACK, PUBREC and PUBCOMP from the client: what becomes of deliveries. (PUBREL belongs to its publishes, see `publish`.)

use tracing::debug;

use super::deliver::accept;
use super::inflight::{Slot, Stage};
use super::publish::{Act, Wait};
use super::{Session, Step};
use crate::codec::{AckKind, AckView, PacketId, ReasonCode};
use crate::error::Fault;
use crate::mapping::{self, Kept};

impl Session {
    #[inline]
    pub(super) fn ack(&mut self, ack: AckView<'_>, step: &mut Step<'_>) -> Result<(), Fault> {
        match ack.kind {
            AckKind::PubAck => self.acknowledged(ack.packet_id, step),
            AckKind::PubRec => self.received(ack, step),
            AckKind::PubRel => {
                self.release(ack, step);
                Ok(())
            }
            AckKind::PubComp => self.completed(ack.packet_id, step),
        }
    }

    /// PUBACK, whatever its reason: MQTT has no word for "again, please" (5.0, 4.4).
    fn acknowledged(&mut self, id: PacketId, step: &mut Step<'_>) -> Result<(), Fault> {
        let Some(slot) = self.outgoing.inflight.get(id).map(|slot| *slot) else {
            return self.stray("PUBACK", id);
        };
        if !matches!(slot.stage, Stage::Sent1 | Stage::Resuming { qos2: false }) {
            return Err(Fault::protocol("PUBACK for a QoS 2 delivery (MQTT 5.0, 4.3.3)"));
        }
        self.outgoing.inflight.free(id);
        let mut settle = accept(slot.queue, slot.seq);
        if slot.kept {
            settle.state = step.turn.keep_state(mapping::drop_outgoing(id, Kept::Qos1Sent));
        }
        step.turn.settle(settle);
        self.outgoing.give_place(&slot);
        Ok(())
    }

    /// PUBREC: the client has the message. It must never be sent again, which is recorded before PUBREL says so.
    fn received(&mut self, ack: AckView<'_>, step: &mut Step<'_>) -> Result<(), Fault> {
        let id = ack.packet_id;
        let durable = self.is_durable();
        let Some(slot) = self.outgoing.inflight.get(id) else {
            // MQTT 5.0, 4.3.3: the exchange may be over for us and not for the client.
            if !ack.reason.is_error() {
                self.put_ack(AckKind::PubRel, Wait::told(id, ReasonCode::PacketIdNotFound), step);
            }
            return Ok(());
        };
        match slot.stage {
            Stage::Sent2 | Stage::Resuming { qos2: true } => {}
            // Said before; the answer is repeated, or is on its way.
            Stage::Released => {
                self.put_ack(AckKind::PubRel, Wait::told(id, ReasonCode::Success), step);
                return Ok(());
            }
            Stage::Releasing => return Ok(()),
            Stage::Recording => return Err(Fault::protocol("PUBREC for a packet identifier that was not sent")),
            Stage::Sent1 | Stage::Resuming { qos2: false } => {
                return Err(Fault::protocol("PUBREC for a QoS 1 delivery (MQTT 5.0, 4.3.2)"));
            }
        }
        if ack.reason.is_error() {
            let slot = *slot;
            return self.declined(id, slot, step);
        }
        let (queue, seq) = (slot.queue, slot.seq);
        if !slot.has_come() {
            // It takes a place until PUBCOMP, which it has not been given credit for.
            self.outgoing.debt += 1;
        }
        let mut settle = accept(queue, seq);
        if durable {
            slot.stage = Stage::Releasing;
            settle.state = step.turn.keep_state(mapping::put_outgoing(id, Kept::Qos2Released, queue, seq));
            step.turn.settle(settle);
            self.incoming.after_fence(Act::PubRel, id, ReasonCode::Success);
        } else {
            slot.stage = Stage::Released;
            step.turn.settle(settle);
            self.put_ack(AckKind::PubRel, Wait::told(id, ReasonCode::Success), step);
        }
        Ok(())
    }

    /// MQTT 5.0, 4.3.3: a PUBREC with an error ends the exchange; the message counts as acknowledged.
    fn declined(&mut self, id: PacketId, slot: Slot, step: &mut Step<'_>) -> Result<(), Fault> {
        self.outgoing.inflight.free(id);
        let mut settle = accept(slot.queue, slot.seq);
        if self.is_durable() {
            settle.state = step.turn.keep_state(mapping::drop_outgoing(id, Kept::Qos2Sent));
        }
        step.turn.settle(settle);
        self.outgoing.give_place(&slot);
        Ok(())
    }

    /// The client's PUBREC is recorded.
    pub(super) fn send_release(&mut self, wait: Wait, step: &mut Step<'_>) {
        if let Some(slot) = self.outgoing.inflight.get(wait.id) {
            slot.stage = Stage::Released;
            self.put_ack(AckKind::PubRel, wait, step);
        }
    }

    /// PUBCOMP: the identifier is free.
    fn completed(&mut self, id: PacketId, step: &mut Step<'_>) -> Result<(), Fault> {
        let Some(slot) = self.outgoing.inflight.get(id).map(|slot| *slot) else {
            return self.stray("PUBCOMP", id);
        };
        if slot.stage != Stage::Released {
            return Err(Fault::protocol("PUBCOMP before PUBREL (MQTT 5.0, 4.3.3)"));
        }
        self.outgoing.inflight.free(id);
        if self.is_durable() {
            step.turn.state(mapping::drop_outgoing(id, Kept::Qos2Released));
        }
        self.outgoing.give_credit(slot.bytes);
        Ok(())
    }

    /// For an identifier that is not in use: a late word about something that is over.
    fn stray(&self, what: &str, id: PacketId) -> Result<(), Fault> {
        debug!(client = %self.client_id, id = id.get(), "{what} for a packet identifier that is not in use");
        Ok(())
    }
}
