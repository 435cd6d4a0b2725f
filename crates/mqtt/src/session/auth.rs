//! AUTH (MQTT 5.0, 3.15, 4.12): the steps of an enhanced authentication, at the start and again on a live connection.

use broker_api::{Control, LoginStep, Refusal, Reply};

use super::subscribe::Request;
use super::{Handled, Next, Phase, Session, Step};
use crate::codec::{Auth, AuthProperties, Frame, Packet, ReasonCode};
use crate::error::{answer, Fault};
use crate::mapping;

impl Session {
    /// Between our challenge and the CONNACK the client may say AUTH and DISCONNECT, nothing else (MQTT-3.1.2-30).
    pub(super) fn challenged(&mut self, block: &[u8], frame: Frame, step: &mut Step<'_>) -> Handled {
        let response = match self.decoder.packet(block, frame)? {
            Packet::Auth(auth) if auth.reason == ReasonCode::ContinueAuthentication => self.response(auth)?,
            Packet::Auth(_) => return Err(Fault::protocol("AUTH with another reason than Continue authentication (4.12.0-3)")),
            Packet::Disconnect(disconnect) => return self.disconnect(disconnect),
            _ => return Err(Fault::protocol("neither AUTH nor DISCONNECT before the CONNACK (MQTT-3.1.2-30)")),
        };
        let Phase::Challenged(handshake) = std::mem::replace(&mut self.phase, Phase::Fresh) else { return Ok(Next::Go) };
        let token = self.control(Control::Login(mapping::sasl(LoginStep::Continue { response })), step);
        self.requests.push(token, Request::Login);
        self.phase = Phase::Login(handshake);
        Ok(Next::HoldBehind)
    }

    /// The method never changes within a connection (MQTT-4.12.0-5, 4.12.1-1).
    fn response(&self, auth: Auth) -> Result<Vec<u8>, Fault> {
        if auth.properties.authentication_method.as_deref() != self.auth_method.as_deref() {
            return Err(Fault::protocol("the Authentication Method is not the one of CONNECT (MQTT-4.12.0-5)"));
        }
        Ok(auth.properties.authentication_data.unwrap_or_default())
    }

    /// AUTH on a live connection: a new round, or the next step of one.
    pub(super) fn reauthenticate(&mut self, auth: Auth, step: &mut Step<'_>) -> Result<(), Fault> {
        let Some(method) = self.auth_method.clone() else {
            return Err(Fault::protocol("AUTH without an Authentication Method in CONNECT (MQTT-4.12.0-6)"));
        };
        let reason = auth.reason;
        let response = self.response(auth)?;
        let awaited = self.requests.is_reauthenticating();
        let next = match reason {
            ReasonCode::ReAuthenticate if !awaited => LoginStep::Sasl { mechanism: method.into(), initial: response },
            ReasonCode::ContinueAuthentication if awaited => LoginStep::Continue { response },
            _ => return Err(Fault::protocol("an AUTH that does not fit where the exchange stands (4.12.1)")),
        };
        self.requests.set_reauthenticating(true);
        let token = self.control(Control::Login(mapping::sasl(next)), step);
        self.requests.push(token, Request::Reauthenticate);
        Ok(())
    }

    pub(super) fn reauthentication_answered(&mut self, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Result<(), Fault> {
        match result {
            Ok(Reply::Challenge(data)) => self.put_challenge(data, step),
            Ok(Reply::LoggedIn { last, .. }) => {
                self.requests.set_reauthenticating(false);
                self.put_auth(ReasonCode::Success, last, step);
            }
            Ok(_) => return Err(Fault::new(ReasonCode::Unspecified, "a login was answered with something else")),
            // MQTT 5.0, 4.12.1: the connection ends. 134 and 140 cannot all stand in a DISCONNECT; 135 can.
            Err(refusal) => {
                let reason = match answer(&refusal).connack {
                    ReasonCode::BadAuthenticationMethod => ReasonCode::BadAuthenticationMethod,
                    _ => ReasonCode::NotAuthorized,
                };
                return Err(Fault::new(reason, format!("re-authentication: {refusal}")));
            }
        }
        Ok(())
    }

    pub(super) fn put_challenge(&self, data: Vec<u8>, step: &mut Step<'_>) {
        self.put_auth(ReasonCode::ContinueAuthentication, data, step);
    }

    fn put_auth(&self, reason: ReasonCode, data: Vec<u8>, step: &mut Step<'_>) {
        let properties = AuthProperties {
            authentication_method: self.auth_method.as_deref().map(str::to_owned),
            authentication_data: (!data.is_empty()).then_some(data),
            ..AuthProperties::default()
        };
        self.put(&Packet::Auth(Auth { reason, properties }), step);
    }
}
