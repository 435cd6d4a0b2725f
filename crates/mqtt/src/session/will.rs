//! How a connection ends, and what becomes of its will (MQTT 5.0, 3.1.2.5, 3.14).

use broker_api::{Close, Control, EndOwner, PartingFate, Token, Turn};

use super::{Handled, Next, Ownership, Session};
use crate::codec::{Disconnect, ReasonCode};
use crate::mapping::OWNER;

impl Session {
    /// The client says good-bye. Only a plain one discards the will (MQTT-3.14.4-3).
    pub(super) fn disconnect(&mut self, disconnect: Disconnect) -> Handled {
        if let Some(secs) = disconnect.properties.session_expiry_secs {
            self.change_expiry(secs)?;
        }
        self.discard_will = disconnect.reason == ReasonCode::Success;
        Ok(Next::Close(match self.discard_will {
            true => Close::clean("the client disconnected"),
            false => Close::clean(format!("the client disconnected: {}", disconnect.reason)),
        }))
    }

    /// Last words to the core, once the connection is gone.
    pub(super) fn end(&mut self, turn: &mut Turn) {
        self.hand_over(turn);
        if self.ownership != Ownership::Owner {
            return;
        }
        self.ownership = Ownership::Given;
        self.last_token += 1;
        let parting = if self.discard_will { PartingFate::Discard } else { PartingFate::Fire };
        let end = EndOwner { owner: OWNER, expiry: Some(self.expiry), parting };
        turn.control(Token(self.last_token), Control::EndOwner(end));
    }
}
