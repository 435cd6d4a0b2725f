//! AUTH (MQTT 5.0, 3.15): one step of an enhanced authentication.

use super::error::{DecodeError, EncodeError};
use super::frame::PacketKind;
use super::props::{self, Place};
use super::reason::{ReasonCode, ReasonPlace};
use super::wire::{self, Reader};
use super::Version;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Success, continue authentication or re-authenticate.
    pub reason: ReasonCode,
    pub properties: AuthProperties,
}

props::properties! {
    AuthProperties {
        authentication_method: String = AuthenticationMethod,
        authentication_data: Vec<u8> = AuthenticationData,
        reason_string: String = ReasonString,
    }
}

impl Auth {
    pub(super) fn decode(body: &[u8], version: Version) -> Result<Auth, DecodeError> {
        if !version.is_v5() {
            return Err(DecodeError::ReservedType);
        }
        let mut reader = Reader::new(body);
        // 3.15.2.1: an empty packet is a success without properties.
        if reader.is_empty() {
            return Ok(Auth { reason: ReasonCode::Success, properties: AuthProperties::default() });
        }
        let reason = ReasonCode::read(reader.u8()?, ReasonPlace::Auth).ok_or(DecodeError::ReasonUnknown)?;
        let properties = AuthProperties::decode(&mut reader, Place::Auth)?;
        reader.finish()?;
        if properties.authentication_method.is_none() {
            return Err(DecodeError::AuthMethodMissing);
        }
        Ok(Auth { reason, properties })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !version.is_v5() {
            return Err(EncodeError::NotInVersion);
        }
        wire::put_packet(out, PacketKind::Auth.first_byte(), |body| {
            if self.reason == ReasonCode::Success && self.properties.is_empty() {
                return Ok(());
            }
            body.push(self.reason as u8);
            self.properties.encode(body)
        })
    }
}
