//! DISCONNECT (MQTT 5.0, 3.14). Before version 5 only a client sends it, and it is empty.

use super::error::{DecodeError, EncodeError};
use super::frame::PacketKind;
use super::props::{self, Place};
use super::reason::{ReasonCode, ReasonPlace};
use super::wire::{self, Reader};
use super::{Peer, Version};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    pub reason: ReasonCode,
    pub properties: DisconnectProperties,
}

props::properties! {
    DisconnectProperties {
        /// Only from a client (MQTT-3.14.2-2).
        session_expiry_secs: u32 = SessionExpiryInterval,
        reason_string: String = ReasonString,
        /// Only from a server.
        server_reference: String = ServerReference,
    }
}

impl Disconnect {
    pub fn new(reason: ReasonCode) -> Self {
        Disconnect { reason, properties: DisconnectProperties::default() }
    }

    pub(super) fn decode(body: &[u8], version: Version, from: Peer) -> Result<Disconnect, DecodeError> {
        let mut reader = Reader::new(body);
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        if !version.is_v5() {
            reader.finish()?;
            return Ok(disconnect);
        }
        // 3.14.2.1: the reason may be left out, and the properties too.
        if !reader.is_empty() {
            disconnect.reason = ReasonCode::read(reader.u8()?, ReasonPlace::Disconnect).ok_or(DecodeError::ReasonUnknown)?;
        }
        if !reader.is_empty() {
            let place = match from {
                Peer::Client => Place::DisconnectOfClient,
                Peer::Server => Place::DisconnectOfServer,
            };
            disconnect.properties = DisconnectProperties::decode(&mut reader, place)?;
        }
        reader.finish()?;
        Ok(disconnect)
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        wire::put_packet(out, PacketKind::Disconnect.first_byte(), |body| {
            if !version.is_v5() || self.properties.is_empty() && self.reason == ReasonCode::Success {
                return Ok(());
            }
            // The length of empty properties could be left out (3.14.2.2.1), but rumqttc 0.25 does not read that form.
            body.push(self.reason as u8);
            self.properties.encode(body)
        })
    }
}
