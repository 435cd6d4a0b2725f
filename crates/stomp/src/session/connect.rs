//! CONNECT: which version, who, where, and how often each side gives a sign of life.

use std::sync::Arc;
use std::time::Duration;

use broker_api::{Close, Context, Control, Login, LoginStep, Refusal, Reply, VhostName};
use tracing::debug;

use super::{made_up_name, malformed, Asked, Handled, Phase, Session, Step, MAKER, OWNER};
use crate::arguments::Place;
use crate::codec::{Command, Frame, FrameWriter, Version};
use crate::dialect::Dialect;
use crate::error::{of_refusal, Fault};

/// Who is at the other end.
pub(super) struct Peer {
    loopback: bool,
    /// The transport has proven who it is (a client's certificate).
    identified: bool,
    pub(super) user: Box<str>,
    pub(super) vhost: Box<str>,
    /// ActiveMQ's: whose durable subscriptions these are.
    pub(super) client_id: Option<Box<str>>,
    /// ActiveMQ's: CONNECTED says it again.
    request_id: Option<Box<str>>,
    /// What a queue is in the virtual host that is declared without a type.
    pub(super) default_queue_type: Option<Arc<str>>,
}

impl Peer {
    pub(super) fn new(context: &Context) -> Peer {
        Peer {
            loopback: context.peer.is_loopback(),
            identified: context.identity.is_some(),
            user: Box::default(),
            vhost: "/".into(),
            client_id: None,
            request_id: None,
            default_queue_type: None,
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { vhost: &self.vhost, default_type: self.default_queue_type.as_deref() }
    }
}

/// Signs of life: how often we send one at least, and how often one is expected. `None`: not at all.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Beats {
    pub(super) sent: Option<Duration>,
    pub(super) expected: Option<Duration>,
}

impl Beats {
    /// From `cx,cy`: what the client can send, and what it would like to get. We take both as they are, down to a
    /// bound.
    fn of(header: &str, min: Duration) -> Option<Beats> {
        let (sends, wants) = header.split_once(',')?;
        let interval = |text: &str| match text.trim().parse::<u32>().ok()? {
            0 => Some(None),
            ms => Some(Some(Duration::from_millis(ms.into()).max(min))),
        };
        Some(Beats { sent: interval(wants)?, expected: interval(sends)? })
    }

    fn header(&self) -> String {
        let ms = |interval: Option<Duration>| interval.map_or(0, |interval| interval.as_millis());
        format!("{},{}", ms(self.sent), ms(self.expected))
    }
}

impl Session {
    pub(super) fn connect(&mut self, frame: &Frame<'_>, step: &mut Step<'_>) -> Handled {
        let text = |name: &str| -> Handled<Option<String>> {
            let value = frame.headers.get(name).map_err(malformed)?;
            Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
        };
        let accepted = text("accept-version")?;
        let Some(version) = Version::negotiate(accepted.as_deref()) else {
            return Err(match self.dialect() {
                Dialect::RabbitMq => Fault::new("Version mismatch", "Supported versions are 1.0,1.1,1.2\n"),
                Dialect::ActiveMq => Fault::plain(format!(
                    "Invalid Protocol version[{}], supported versions are: [1.2, 1.1, 1.0]",
                    accepted.as_deref().unwrap_or_default()
                )),
            });
        };
        if let Some(header) = text("heart-beat")? {
            self.beats = Beats::of(&header, self.stomp.config.min_heart_beat)
                .ok_or_else(|| Fault::processing(format!("heart-beat is not two numbers: '{header}'")))?;
        }
        self.version = version;
        let activemq = self.dialect() == Dialect::ActiveMq;
        // An ActiveMQ has one virtual host and does not look at this.
        let host = text("host")?.filter(|_| !activemq);
        if activemq {
            self.peer.client_id = text("client-id")?.map(Into::into);
            self.peer.request_id = text("request-id")?.map(Into::into);
        }
        if let Some(host) = &host {
            self.peer.vhost = host.as_str().into();
        }
        let login = match text("login")? {
            // Who has shown a certificate and says no more is whom it stands for.
            None if self.peer.identified => LoginStep::Sasl { mechanism: "EXTERNAL".to_owned(), initial: Vec::new() },
            None => LoginStep::Anonymous,
            // RabbitMQ's loopback_users: everybody knows this password.
            Some(user) if user == "guest" && !self.peer.loopback => return Err(Fault::new("Bad CONNECT", "non-loopback access denied")),
            Some(user) => {
                self.peer.user = user.as_str().into();
                let password = frame.headers.get("passcode").map_err(malformed)?.unwrap_or_default().into_owned();
                LoginStep::Password { user, password }
            }
        };
        let vhost = host.as_deref().map(VhostName::new);
        self.command(Control::Login(Login { vhost, step: login }), Asked::Login, step);
        self.phase = Phase::Login;
        Ok(())
    }

    pub(super) fn login_answered(&mut self, result: Result<Reply, Refusal>, step: &mut Step<'_>) -> Result<(), Close> {
        let fault = match result {
            Ok(Reply::LoggedIn { principal, .. }) => {
                self.peer.user = principal.user.as_str().into();
                // What queues are there; who may not enter is told so.
                self.command(Control::Login(Login { vhost: None, step: LoginStep::Enter }), Asked::Enter, step);
                if self.dialect() == Dialect::ActiveMq {
                    self.command(Control::Owner { owner: MAKER, fail_stop: false, channel: 0 }, Asked::Silent, step);
                }
                self.command(Control::Owner { owner: OWNER, fail_stop: true, channel: 1 }, Asked::Owner, step);
                return Ok(());
            }
            Ok(_) | Err(Refusal::LoginRefused | Refusal::BadMechanism) if self.dialect() == Dialect::ActiveMq => {
                Fault::plain(format!("User name [{}] or password is invalid.", self.peer.user))
            }
            Ok(_) | Err(Refusal::LoginRefused | Refusal::BadMechanism) => {
                Fault::new("Bad CONNECT", format!("Access refused for user '{}'\n", self.peer.user))
            }
            Err(Refusal::AccessRefused(_)) => Fault::new("Bad CONNECT", format!("Virtual host '{}' access denied", self.peer.vhost)),
            // Nothing is wrong with a client that comes to a standby, again and again.
            Err(refusal @ Refusal::StandsBy(_)) => {
                let close = self.say_error(&of_refusal(&refusal, &self.peer.vhost), None, step);
                return Err(Close::clean(close.why));
            }
            Err(refusal) => of_refusal(&refusal, &self.peer.vhost),
        };
        debug!(user = ?self.peer.user, fault = %fault.for_log(), "login refused");
        Err(self.say_error(&fault, None, step))
    }

    pub(super) fn connected(&mut self, step: &mut Step<'_>) {
        self.session_id = made_up_name("session").into();
        let config = &self.stomp.config;
        let out = step.out.buffer();
        let connected = FrameWriter::new(Command::Connected, self.version, out)
            .header("server", format!("{}/{}", config.product, config.version))
            .header("session", self.session_id.as_bytes())
            .header("heart-beat", self.beats.header())
            .header("version", self.version.text());
        match &self.peer.request_id {
            Some(id) => connected.header("response-id", id.as_bytes()).header("receipt-id", id.as_bytes()).end(),
            None => connected.end(),
        }
        step.out.buffer().push(b'\n');
        self.heard_at = step.now;
        self.sent_at = step.now;
        self.phase = Phase::Running;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heart_beats_are_two_numbers() {
        let header = |text: &str| Beats::of(text, Duration::from_secs(1)).map(|beats| beats.header());
        assert_eq!(header("0,0").as_deref(), Some("0,0"));
        // Ours first.
        assert_eq!(header("1500,500").as_deref(), Some("1000,1500"));
        assert_eq!(header("0, 2000").as_deref(), Some("2000,0"));
        for wrong in ["", "1", "a,b", "1,2,3", "-1,5"] {
            assert_eq!(header(wrong), None, "{wrong}");
        }
    }
}
