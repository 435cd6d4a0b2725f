//! CONNACK (MQTT 5.0, 3.2).

use super::error::{DecodeError, EncodeError};
use super::frame::PacketKind;
use super::props::{self, Place};
use super::reason::{ReasonCode, ReasonPlace};
use super::wire::{self, Reader};
use super::Version;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Not in 3.1, where the byte is unused.
    pub session_present: bool,
    /// Before version 5 one of six return codes: [`ReasonCode::connack_v3`].
    pub reason: ReasonCode,
    pub properties: ConnAckProperties,
}

props::properties! {
    ConnAckProperties {
        session_expiry_secs: u32 = SessionExpiryInterval,
        receive_maximum: u16 = ReceiveMaximum,
        /// `false` for 0, `true` for 1; absent for 2 (3.2.2.3.4).
        maximum_qos_is_1: bool = MaximumQos,
        retain_available: bool = RetainAvailable,
        maximum_packet_size: u32 = MaximumPacketSize,
        assigned_client_id: String = AssignedClientIdentifier,
        topic_alias_maximum: u16 = TopicAliasMaximum,
        reason_string: String = ReasonString,
        wildcard_subscription_available: bool = WildcardSubscriptionAvailable,
        subscription_ids_available: bool = SubscriptionIdentifierAvailable,
        shared_subscription_available: bool = SharedSubscriptionAvailable,
        server_keep_alive_secs: u16 = ServerKeepAlive,
        response_information: String = ResponseInformation,
        server_reference: String = ServerReference,
        authentication_method: String = AuthenticationMethod,
        authentication_data: Vec<u8> = AuthenticationData,
    }
}

impl ConnAck {
    /// A refusal: never with a session (MQTT-3.2.2-6).
    pub fn refuse(reason: ReasonCode) -> Self {
        ConnAck { session_present: false, reason, properties: ConnAckProperties::default() }
    }

    pub(super) fn decode(body: &[u8], version: Version) -> Result<ConnAck, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        if flags > 1 && version != Version::V31 {
            return Err(DecodeError::ConnAckFlags);
        }
        let session_present = flags & 1 != 0 && version != Version::V31;
        let code = reader.u8()?;
        let (reason, properties) = if version.is_v5() {
            let reason = ReasonCode::read(code, ReasonPlace::ConnAck).ok_or(DecodeError::ReasonUnknown)?;
            (reason, ConnAckProperties::decode(&mut reader, Place::ConnAck)?)
        } else {
            let reason = ReasonCode::from_connack_v3(code).ok_or(DecodeError::ReasonUnknown)?;
            (reason, ConnAckProperties::default())
        };
        reader.finish()?;
        if session_present && reason.is_error() {
            return Err(DecodeError::SessionPresentOnError);
        }
        Ok(ConnAck { session_present, reason, properties })
    }

    /// `NotInVersion` if a version before 5 has no code for the reason: close without a CONNACK then (3.1.1, 3.2.2.3).
    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let code = match version {
            Version::V5 => self.reason as u8,
            _ => self.reason.connack_v3().ok_or(EncodeError::NotInVersion)?,
        };
        wire::put_packet(out, PacketKind::ConnAck.first_byte(), |body| {
            body.push(u8::from(self.session_present && version != Version::V31));
            body.push(code);
            if version.is_v5() {
                self.properties.encode(body)?;
            }
            Ok(())
        })
    }
}
