//! From the protocol header to connection.open-ok (AMQP 0-9-1, 2.2.4), and the methods of an open connection.

use std::sync::Arc;
use std::time::Duration;

use broker_api::{Close, Context, Control, Identity, Login, LoginStep, Refusal, Reply, Then, VhostName};
use tracing::debug;

use super::requests::{Asked, Request};
use super::{failed, on, Failed, Handled, Phase, Session, Step};
use crate::codec::{Field, Method, Table, TableWriter, FRAME_MIN_SIZE};
use crate::error::{of_refusal, Code, MethodId};

const START_OK: MethodId = (10, 11);
const TUNE: MethodId = (10, 30);
const OPEN: MethodId = (10, 40);

/// What a client says it can take.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Capabilities {
    pub(super) blocked: bool,
    pub(super) cancel_notify: bool,
    auth_failure_close: bool,
}

/// Who is at the other end.
pub(super) struct Peer {
    loopback: bool,
    /// By a client's certificate. Only who has one is offered EXTERNAL.
    identity: Option<Arc<Identity>>,
    /// It needs no credentials. Only who needs none is offered ANONYMOUS.
    anonymous: bool,
    pub(super) capabilities: Capabilities,
    /// Its `connection_name`.
    pub(super) name: Option<Box<str>>,
    pub(super) user: Box<str>,
    /// May set `user-id` to somebody else's name.
    pub(super) impersonator: bool,
    pub(super) vhost: Box<str>,
    /// What a queue is there that is declared without a type.
    pub(super) default_queue_type: Option<Arc<str>>,
    mechanism: Box<str>,
}

impl Peer {
    pub(super) fn new(context: &Context) -> Peer {
        Peer {
            loopback: context.peer.is_loopback(),
            identity: context.identity.clone(),
            anonymous: context.anonymous,
            capabilities: Capabilities::default(),
            name: None,
            user: Box::default(),
            impersonator: false,
            vhost: "/".into(),
            default_queue_type: None,
            mechanism: Box::default(),
        }
    }

    fn mechanisms(&self) -> &'static [u8] {
        match (self.identity.is_some(), self.anonymous) {
            (false, false) => b"AMQPLAIN PLAIN",
            (false, true) => b"AMQPLAIN PLAIN ANONYMOUS",
            (true, false) => b"AMQPLAIN PLAIN EXTERNAL",
            (true, true) => b"AMQPLAIN PLAIN EXTERNAL ANONYMOUS",
        }
    }

    fn learn(&mut self, properties: Table<'_>) {
        if let Some(Field::Table(capabilities)) = properties.get("capabilities") {
            let has = |name: &str| capabilities.get(name) == Some(Field::Bool(true));
            self.capabilities = Capabilities {
                blocked: has("connection.blocked"),
                cancel_notify: has("consumer_cancel_notify"),
                auth_failure_close: has("authentication_failure_close"),
            };
        }
        let name = properties.get("connection_name").and_then(|name| name.text());
        self.name = name.map(|name| String::from_utf8_lossy(name).chars().take(200).collect::<String>().into());
    }
}

impl Session {
    /// connection.start.
    pub(super) fn start(&mut self, step: &mut Step<'_>) {
        let config = &self.amqp.config;
        let mut capabilities = TableWriter::default();
        for name in [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ] {
            capabilities.bool(name, true);
        }
        let mut properties = TableWriter::default();
        properties
            .table("capabilities", &capabilities)
            .text("cluster_name", &config.cluster_name)
            .text("copyright", "The authors of Carrick")
            .text("information", "Carrick, a message broker; licensed under MIT or Apache-2.0")
            .text("platform", concat!("Carrick ", env!("CARGO_PKG_VERSION")))
            .text("product", &config.product)
            .text("version", &config.version);
        let server_properties = properties.as_table();
        let start = Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties,
            mechanisms: self.peer.mechanisms(),
            locales: b"en_US",
        };
        step.say(0, &start);
        self.phase = Phase::Start;
    }

    /// A method on channel 0. An answer ends the connection.
    pub(super) fn connection_method(&mut self, method: Method<'_>, step: &mut Step<'_>) -> Handled<Option<Close>> {
        match (self.phase, method) {
            (_, Method::ConnectionClose { reply_code, reply_text, .. }) => {
                step.say(0, &Method::ConnectionCloseOk {});
                self.phase = Phase::Ended;
                let text = String::from_utf8_lossy(reply_text);
                // As RabbitMQ: a client may take the end of the stream behind close-ok for an error.
                return Ok(Some(Close::clean(format!("closed by the client: {reply_code} {text}")).then(Then::PeerEnded)));
            }
            (_, Method::ConnectionCloseOk {}) => return Ok(Some(Close::clean("closed"))),
            (Phase::Start, Method::ConnectionStartOk { client_properties, mechanism, response, .. }) => {
                self.peer.learn(client_properties);
                self.login(mechanism, response, step)?;
            }
            (Phase::Tune, Method::ConnectionTuneOk { channel_max, frame_max, heartbeat }) => {
                self.tuned(channel_max, frame_max, heartbeat, step)?;
            }
            (Phase::Open, Method::ConnectionOpen { virtual_host, .. }) => self.open_vhost(virtual_host, step)?,
            (Phase::Running, Method::ConnectionUpdateSecret { new_secret, .. }) => self.update_secret(new_secret, step),
            (phase, method) => {
                let state = format!("{phase:?}").to_lowercase();
                return Err(failed(0, Code::ChannelError, format!("unexpected method in connection state {state}"), method.id()));
            }
        }
        Ok(None)
    }

    fn login(&mut self, mechanism: &[u8], response: &[u8], step: &mut Step<'_>) -> Handled {
        let name = String::from_utf8_lossy(mechanism).into_owned();
        let credentials = match mechanism {
            b"PLAIN" => plain(response),
            b"AMQPLAIN" => amqplain(response),
            // What the client says here is whom it wants to be, and that is not asked (as with RabbitMQ).
            b"EXTERNAL" if self.peer.identity.is_some() => {
                self.peer.user = self.peer.identity.as_ref().map(|identity| identity.user.as_str().into()).unwrap_or_default();
                return self.ask_login(&name, LoginStep::Sasl { mechanism: name.clone(), initial: Vec::new() }, step);
            }
            b"ANONYMOUS" => return self.ask_login(&name, LoginStep::Anonymous, step),
            _ => {
                let text = format!("unknown authentication mechanism '{name}'");
                return Err(failed(0, Code::CommandInvalid, text, START_OK));
            }
        };
        let Some((user, password)) = credentials else {
            return Err(failed(0, Code::SyntaxError, format!("invalid response of mechanism {name}"), START_OK));
        };
        self.peer.user = user.as_str().into();
        if user == "guest" && !self.peer.loopback {
            // RabbitMQ's loopback_users: everybody knows this password.
            return Err(self.refuse_login(&name));
        }
        self.ask_login(&name, LoginStep::Password { user, password }, step)
    }

    fn ask_login(&mut self, mechanism: &str, login: LoginStep, step: &mut Step<'_>) -> Handled {
        self.peer.mechanism = mechanism.into();
        let token = self.command(Control::Login(Login { vhost: None, step: login }), step);
        self.requests.push_back(Request::of_connection(token, Asked::Login));
        self.phase = Phase::Login;
        Ok(())
    }

    pub(super) fn login_answered(&mut self, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Handled {
        match result {
            Ok(Reply::LoggedIn { principal, .. }) => {
                if self.peer.user.is_empty() {
                    self.peer.user = principal.user.as_str().into();
                }
                self.peer.impersonator = principal.impersonator;
                self.tune(step);
                Ok(())
            }
            // Libraries take a close at this point for a wrong password. What is asked next, connection.open, is refused likewise.
            Err(Refusal::StandsBy(_) | Refusal::OverLimit { .. }) => {
                self.tune(step);
                Ok(())
            }
            Err(Refusal::LimitReached(limit)) => Err(on(0)(of_refusal(&Refusal::LimitReached(limit), "", START_OK))),
            _ => {
                let mechanism = self.peer.mechanism.clone();
                Err(self.refuse_login(&mechanism))
            }
        }
    }

    fn tune(&mut self, step: &mut Step<'_>) {
        let config = &self.amqp.config;
        let (channel_max, frame_max, heartbeat) = (config.channel_max, config.frame_max, config.heartbeat_secs);
        step.say(0, &Method::ConnectionTune { channel_max, frame_max, heartbeat });
        self.phase = Phase::Tune;
    }

    /// Who cannot be told (`authentication_failure_close`) sees the connection end, as with RabbitMQ.
    fn refuse_login(&mut self, mechanism: &str) -> Failed {
        if !self.peer.capabilities.auth_failure_close {
            self.phase = Phase::Ended;
        }
        let text = format!("Login was refused using authentication mechanism {mechanism}. For details see the broker logfile.");
        debug!(user = %self.peer.user, mechanism, "login refused");
        failed(0, Code::AccessRefused, text, (0, 0))
    }

    fn tuned(&mut self, channel_max: u16, frame_max: u32, heartbeat: u16, step: &mut Step<'_>) -> Handled {
        let config = &self.amqp.config;
        negotiated("channel_max", channel_max.into(), 1, config.channel_max.into())?;
        negotiated("frame_max", frame_max.into(), FRAME_MIN_SIZE.into(), config.frame_max.into())?;
        self.channel_max = channel_max;
        self.frame_max = frame_max as usize;
        self.splitter.frame_max = frame_max;
        self.heartbeat = (heartbeat != 0).then(|| Duration::from_secs(heartbeat.into()));
        self.heard_at = step.now;
        self.phase = Phase::Open;
        Ok(())
    }

    fn open_vhost(&mut self, name: &[u8], step: &mut Step<'_>) -> Handled {
        let name = String::from_utf8_lossy(name);
        self.peer.vhost = name.as_ref().into();
        let login = Login { vhost: Some(VhostName::new(&name)), step: LoginStep::Enter };
        let token = self.command(Control::Login(login), step);
        self.requests.push_back(Request::of_connection(token, Asked::Enter));
        self.phase = Phase::Enter;
        Ok(())
    }

    pub(super) fn entered(&mut self, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Handled {
        match result {
            Ok(reply) => {
                if let Reply::Entered { default_queue_type } = reply {
                    self.peer.default_queue_type = default_queue_type;
                }
                step.say(0, &Method::ConnectionOpenOk {});
                self.heard_at = step.now;
                self.sent_at = step.now;
                self.phase = Phase::Running;
                Ok(())
            }
            // Of this one command RabbitMQ says it in the words of a connection, not of a channel.
            Err(Refusal::AccessRefused(text)) => Err(failed(0, Code::NotAllowed, text, OPEN)),
            Err(refusal) => Err(on(0)(of_refusal(&refusal, &self.peer.vhost, OPEN))),
        }
    }

    /// A new password for a connection that stays; tokens are renewed so.
    fn update_secret(&mut self, secret: &[u8], step: &mut Step<'_>) {
        let login = LoginStep::Password { user: self.peer.user.to_string(), password: secret.to_vec() };
        let token = self.command(Control::Login(Login { vhost: None, step: login }), step);
        self.requests.push_back(Request::of_connection(token, Asked::UpdateSecret));
    }

    pub(super) fn secret_answered(&mut self, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Handled {
        match result {
            Ok(Reply::LoggedIn { .. }) => {
                step.say(0, &Method::ConnectionUpdateSecretOk {});
                Ok(())
            }
            _ => Err(failed(0, Code::NotAllowed, "New secret was refused by one of the backends", (10, 70))),
        }
    }
}

fn negotiated(field: &str, value: u64, min: u64, max: u64) -> Handled {
    // 0 asks for no limit, which is more than we allow.
    let (how, which, bound) = match value {
        value if value != 0 && value < min => ("lower", "minimum", min),
        value if value == 0 || value > max => ("higher", "maximum", max),
        _ => return Ok(()),
    };
    let detail = if field == "channel_max" && value == 0 { " (no limit)" } else { "" };
    let text = format!("negotiated {field} = {value}{detail} is {how} than the {which} allowed value ({bound})");
    Err(failed(0, Code::NotAllowed, text, TUNE))
}

/// RFC 4616: authorization identity, user and password, with zero bytes between.
fn plain(response: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut parts = response.splitn(3, |byte| *byte == 0);
    let (_identity, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    Some((String::from_utf8(user.to_vec()).ok()?, password.to_vec()))
}

/// A table without its length.
fn amqplain(response: &[u8]) -> Option<(String, Vec<u8>)> {
    let table = Table::parse(response).ok()?;
    let (user, password) = (table.get("LOGIN")?.text()?, table.get("PASSWORD")?.text()?);
    Some((String::from_utf8(user.to_vec()).ok()?, password.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_from_both_mechanisms() {
        assert_eq!(plain(b"\0guest\0pass\0word"), Some(("guest".into(), b"pass\0word".to_vec())));
        assert_eq!(plain(b"guest"), None);
        let mut table = TableWriter::default();
        table.text("LOGIN", "guest").text("PASSWORD", "secret");
        assert_eq!(amqplain(table.as_table().as_bytes()), Some(("guest".into(), b"secret".to_vec())));
        assert_eq!(amqplain(b"\x05LOGIN"), None);
    }

    #[test]
    fn what_a_client_may_negotiate() {
        let text = |result: Handled| result.unwrap_err().fault.reply_text();
        assert!(negotiated("frame_max", 4096, 4096, 131_072).is_ok());
        assert_eq!(
            text(negotiated("frame_max", 0, 4096, 131_072)),
            "NOT_ALLOWED - negotiated frame_max = 0 is higher than the maximum allowed value (131072)"
        );
        assert_eq!(
            text(negotiated("frame_max", 4095, 4096, 131_072)),
            "NOT_ALLOWED - negotiated frame_max = 4095 is lower than the minimum allowed value (4096)"
        );
        assert_eq!(
            text(negotiated("channel_max", 0, 1, 2047)),
            "NOT_ALLOWED - negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)"
        );
    }
}
