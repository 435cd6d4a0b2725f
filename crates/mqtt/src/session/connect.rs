//! CONNECT and CONNACK (MQTT 5.0, 3.1, 3.2): login, attach, and what the two sides allow each other.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use broker_api::{stands_by, Attached, Control, Expiry, PrincipalInfo, Refusal, Reply};
use tracing::debug;

use super::subscribe::Request;
use super::takeover::SCHEMES;
use super::{Handled, Next, Ownership, Phase, Session, Step};
use crate::codec::connect::sniff_level;
use crate::codec::{ConnAck, ConnAckProperties, Connect, DecodeError, Frame, Packet, Qos, ReasonCode, Version};
use crate::config::Config;
use crate::error::{answer, Fault};
use crate::mapping;

/// What is kept between CONNECT and CONNACK.
pub(super) struct Handshake {
    pub(super) connect: Connect,
    /// We chose the client id.
    assigned: bool,
    /// In v5, ours instead of the client's.
    server_keep_alive: Option<u16>,
    /// The mechanism's final message.
    pub(super) last: Vec<u8>,
    /// The core is asked for the virtual host that the user name seems to name.
    elsewhere: bool,
}

impl Session {
    /// The first packet.
    pub(super) fn connect(&mut self, block: &[u8], frame: Frame, step: &mut Step<'_>) -> Handled {
        let connect = match self.decoder.packet(block, frame) {
            Ok(Packet::Connect(connect)) => connect,
            Ok(_) => return Err(DecodeError::FirstNotConnect.into()),
            Err(error) => {
                if error == DecodeError::ProtocolLevel {
                    put_unknown_version(frame.body_of(block), step);
                }
                return Err(error.into());
            }
        };
        self.decoder.version = connect.version;
        if connect.version.is_v5() {
            self.outgoing.packet_max = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
            self.explains = connect.properties.request_problem_information != Some(false);
        }
        let mut handshake = self.check_connect(*connect)?;
        self.auth_method = handshake.connect.properties.authentication_method.as_deref().map(Box::from);
        let elsewhere = mapping::login_elsewhere(&handshake.connect, self.identified);
        handshake.elsewhere = elsewhere.is_some();
        let login = elsewhere.unwrap_or_else(|| mapping::login(&handshake.connect, self.identified));
        let token = self.control(Control::Login(login), step);
        self.requests.push(token, Request::Login);
        self.phase = Phase::Login(Box::new(handshake));
        Ok(Next::HoldBehind)
    }

    /// What we refuse without asking the core.
    fn check_connect(&mut self, connect: Connect) -> Result<Handshake, Fault> {
        let config = self.mqtt.config();
        if !config.accept_versions.contains(&connect.version) {
            return Err(Fault::new(ReasonCode::UnsupportedVersion, format!("{} is switched off here", connect.version.name())));
        }
        let assigned = check_client_id(&connect, config)?;
        check_will(&connect, config)?;
        let (keep_alive_secs, server_keep_alive) = keep_alive(&connect, config)?;
        self.client_id = if assigned { made_up_id(&config.auto_id_prefix) } else { connect.client_id.clone() };
        self.expiry = mapping::expiry(&connect, config.max_session_expiry_secs);
        self.bridge = connect.bridge;
        // MQTT 5.0, 3.1.2.10: one and a half times the interval.
        self.keep_alive = (keep_alive_secs != 0).then(|| Duration::from_millis(u64::from(keep_alive_secs) * 1500));
        Ok(Handshake { connect, assigned, server_keep_alive, last: Vec::new(), elsewhere: false })
    }

    /// The core has answered a login or one of its steps.
    pub(super) fn login_answered(&mut self, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Result<(), Fault> {
        let Phase::Login(mut handshake) = std::mem::replace(&mut self.phase, Phase::Fresh) else {
            return Err(Fault::new(ReasonCode::Unspecified, "a login was answered that nobody had asked for"));
        };
        match result {
            Ok(Reply::LoggedIn { principal, last }) => {
                handshake.last = last;
                self.attach(handshake, &principal, step);
                Ok(())
            }
            Ok(Reply::Challenge(data)) => {
                self.put_challenge(data, step);
                self.phase = Phase::Challenged(handshake);
                Ok(())
            }
            Ok(_) => Err(Fault::new(ReasonCode::Unspecified, "a login was answered with something else")),
            // Then the colon is one in the user's name, as Mosquitto has it.
            Err(Refusal::NotFound { what: "vhost", .. }) if handshake.elsewhere => {
                let token = self.control(Control::Login(mapping::login(&handshake.connect, self.identified)), step);
                self.requests.push(token, Request::Login);
                handshake.elsewhere = false;
                self.phase = Phase::Login(handshake);
                Ok(())
            }
            Err(refusal) => Err(self.turned_away(&refusal)),
        }
    }

    /// The core lets nobody in, or not this one.
    fn turned_away(&self, refusal: &Refusal) -> Fault {
        // What the login was about does not matter any more; the answer is CONNACK.
        let Refusal::StandsBy(elsewhere) = refusal else { return Fault::new(answer(refusal).connack, refusal.to_string()) };
        let told = elsewhere.as_ref().map(|elsewhere| self.references(elsewhere)).filter(|hosts| !hosts.is_empty());
        let reason = if told.is_some() { ReasonCode::UseAnotherServer } else { ReasonCode::ServerUnavailable };
        Fault { servers: told, ..Fault::new(reason, stands_by(elsewhere.as_deref(), SCHEMES)) }
    }

    fn attach(&mut self, handshake: Box<Handshake>, principal: &PrincipalInfo, step: &mut Step<'_>) {
        debug!(client = %self.client_id, user = %principal.user, version = self.version().name(), "logged in");
        let attach = mapping::attach(&handshake.connect, &self.client_id, self.expiry, self.mqtt.config().max_inflight_bytes);
        let token = self.control(Control::Attach(attach), step);
        self.requests.push(token, Request::Attach);
        self.ownership = Ownership::Owner;
        self.phase = Phase::Attach(handshake);
    }

    /// The session is ours: CONNACK, then what an earlier connection left, then the window.
    pub(super) fn attach_answered(&mut self, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Result<(), Fault> {
        let attached = match result {
            Ok(Reply::Attached(attached)) => attached,
            Ok(_) => return Err(Fault::new(ReasonCode::Unspecified, "an attach was answered with something else")),
            Err(refusal) => {
                self.ownership = Ownership::None;
                return Err(Fault::new(answer(&refusal).connack, refusal.to_string()));
            }
        };
        let Phase::Attach(handshake) = std::mem::replace(&mut self.phase, Phase::Open) else {
            return Err(Fault::new(ReasonCode::Unspecified, "an attach was answered that nobody had asked for"));
        };
        self.open(*handshake, attached, step)
    }

    fn open(&mut self, handshake: Handshake, attached: Attached, step: &mut Step<'_>) -> Result<(), Fault> {
        let connect = &handshake.connect;
        let connack = ConnAck {
            session_present: attached.present,
            reason: ReasonCode::Success,
            properties: if self.is_v5() { self.connack_properties(&handshake) } else { ConnAckProperties::default() },
        };
        if !self.try_put(&Packet::ConnAck(Box::new(connack)), step) {
            // MQTT-3.1.2-24: what it has to be told does not fit into what it takes.
            self.phase = Phase::Fresh;
            self.discard_will = true;
            return Err(Fault::new(ReasonCode::PacketTooLarge, "the client's Maximum Packet Size has no room for our CONNACK"));
        }
        self.heard_at = step.now;
        self.outgoing.open(connect, self.mqtt.config());
        self.outgoing.own_queue = attached.queue;
        self.resume(&attached.state, step);
        debug!(client = %self.client_id, present = attached.present, "session attached");
        Ok(())
    }

    fn connack_properties(&self, handshake: &Handshake) -> ConnAckProperties {
        let config = self.mqtt.config();
        let asked = &handshake.connect.properties;
        let expiry_secs = mapping::secs_of_expiry(self.expiry);
        let wants_response = asked.request_response_information == Some(true);
        ConnAckProperties {
            // MQTT 5.0, 3.2.2.3.2: said if it is not what was asked for.
            session_expiry_secs: (expiry_secs != asked.session_expiry_secs.unwrap_or(0)).then_some(expiry_secs),
            receive_maximum: (config.receive_maximum.get() != u16::MAX).then_some(config.receive_maximum.get()),
            maximum_qos_is_1: match config.max_qos {
                Qos::AtMostOnce => Some(false),
                Qos::AtLeastOnce => Some(true),
                Qos::ExactlyOnce => None,
            },
            retain_available: (!config.retain_available).then_some(false),
            maximum_packet_size: Some(config.max_packet_size),
            assigned_client_id: handshake.assigned.then(|| self.client_id.clone()),
            topic_alias_maximum: (config.topic_alias_maximum != 0).then_some(config.topic_alias_maximum),
            server_keep_alive_secs: handshake.server_keep_alive,
            response_information: config
                .response_prefix
                .as_ref()
                .filter(|_| wants_response)
                .map(|prefix| format!("{prefix}{}/", self.client_id)),
            authentication_method: asked.authentication_method.clone(),
            authentication_data: asked
                .authentication_method
                .as_ref()
                .filter(|_| !handshake.last.is_empty())
                .map(|_| handshake.last.clone()),
            ..ConnAckProperties::default()
        }
    }
}

/// True: the client leaves the choice to us.
fn check_client_id(connect: &Connect, config: &Config) -> Result<bool, Fault> {
    let invalid = |why: &str| Err(Fault::new(ReasonCode::ClientIdNotValid, why));
    let empty = connect.client_id.is_empty();
    match connect.version {
        Version::V31 if empty => invalid("3.1 does not know empty client ids"),
        Version::V31 if config.strict_client_id && connect.client_id.chars().count() > 23 => {
            invalid("the client id is longer than the 23 characters of 3.1")
        }
        _ if empty && !config.allow_empty_client_id => invalid("empty client ids are switched off here"),
        // MQTT-3.1.3-8 of 3.1.1: nobody could ever come back to such a session.
        Version::V311 if empty && !connect.clean_start => invalid("an empty client id without Clean Session"),
        _ => Ok(empty),
    }
}

fn check_will(connect: &Connect, config: &Config) -> Result<(), Fault> {
    let Some(will) = &connect.will else { return Ok(()) };
    if will.retain && !config.retain_available {
        return Err(Fault::new(ReasonCode::RetainNotSupported, "a retained will, and retained messages are switched off here"));
    }
    if will.qos > config.max_qos {
        return Err(Fault::new(ReasonCode::QosNotSupported, "the will's QoS is above the highest allowed here"));
    }
    if config.check_payload_format && !will.publish_properties().payload_fits(&will.payload) {
        return Err(Fault::new(ReasonCode::PayloadFormatInvalid, "the will's payload is not the UTF-8 it is said to be"));
    }
    Ok(())
}

/// The keep alive that counts, and, in v5, the one to tell the client (3.2.2.3.14).
fn keep_alive(connect: &Connect, config: &Config) -> Result<(u16, Option<u16>), Fault> {
    let (asked, most) = (connect.keep_alive_secs, config.max_keepalive_secs);
    let too_long = most != 0 && (asked == 0 || asked > most);
    match (too_long, connect.version) {
        (false, _) => Ok((asked, None)),
        (true, Version::V5) => Ok((most, Some(most))),
        // The code that Mosquitto gives; there is none for this.
        (true, _) => Err(Fault::new(ReasonCode::ClientIdNotValid, format!("the keep alive must be between 1 and {most} s here"))),
    }
}

/// 128 bits that nobody else has: the standard library's hash keys are random and differ with each call.
fn made_up_id(prefix: &str) -> String {
    let part = || RandomState::new().build_hasher().finish();
    format!("{prefix}{:016x}{:016x}", part(), part())
}

/// A level that does not exist is answered in the words of the nearest version that does (3.1.1, 3.1.2.2; 5.0, 3.1.2.2).
fn put_unknown_version(body: &[u8], step: &mut Step<'_>) {
    let version = match sniff_level(body) {
        Some(level) if level & 0x7F > 5 => Version::V5,
        Some(_) => Version::V311,
        None => return,
    };
    let connack = Packet::ConnAck(Box::new(ConnAck::refuse(ReasonCode::UnsupportedVersion)));
    if connack.encode(version, step.out.buffer()).is_err() {
        debug!("a refusal that could not be said");
    }
}

impl Session {
    /// Takes a new expiry from DISCONNECT (MQTT 5.0, 3.14.2.2.2).
    pub(super) fn change_expiry(&mut self, secs: u32) -> Result<(), Fault> {
        let new = mapping::expiry_of_secs(secs, self.mqtt.config().max_session_expiry_secs);
        if self.expiry == Expiry::WithConnection && new != Expiry::WithConnection {
            return Err(Fault::protocol("DISCONNECT gives a Session Expiry Interval where CONNECT had 0 (3.14.2.2.2)"));
        }
        self.expiry = new;
        Ok(())
    }
}
