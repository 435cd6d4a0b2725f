//! From the core's refusals to MQTT's words: the whole table, and how a connection ends because of its peer.

use broker_api::{Limit, Refusal};

use crate::codec::{DecodeError, ReasonCode};
use crate::config::Unauthorized;

/// What a client of 3.1 or 3.1.1 notices of a refused QoS 1 or 2 publish: its acknowledgements carry no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishV3 {
    /// Acknowledged all the same: 3.1.1, 3.3.5 leaves this or closing for a publish that is not authorised.
    Acknowledge,
    /// Never acknowledged: the client still holds the message, and its window closes while we are short of something.
    Withhold,
    /// The connection ends; the client publishes again when it is back.
    Close,
}

/// One row: what a refusal is called in each place where it can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub connack: ReasonCode,
    pub publish: ReasonCode,
    pub subscribe: ReasonCode,
    pub publish_v3: PublishV3,
    /// Whether the knob for what is not authorised decides over the connection.
    pub unauthorized: bool,
}

impl Answer {
    const fn new(connack: ReasonCode, publish: ReasonCode, subscribe: ReasonCode, publish_v3: PublishV3) -> Answer {
        Answer { connack, publish, subscribe, publish_v3, unauthorized: false }
    }

    /// Does this refusal end the connection, by the operator's choice?
    pub fn disconnects(&self, knob: Unauthorized) -> bool {
        self.unauthorized && knob == Unauthorized::Disconnect
    }
}

/// The table.
pub fn answer(refusal: &Refusal) -> Answer {
    use PublishV3::{Acknowledge, Close, Withhold};
    use ReasonCode::*;
    match refusal {
        Refusal::NotFound { .. } => Answer::new(ServerUnavailable, ImplementationSpecific, ImplementationSpecific, Close),
        Refusal::AccessRefused(_) => Answer { unauthorized: true, ..Answer::new(NotAuthorized, NotAuthorized, NotAuthorized, Acknowledge) },
        Refusal::LoginRefused => Answer::new(BadUserNameOrPassword, NotAuthorized, NotAuthorized, Close),
        Refusal::BadMechanism => Answer::new(BadAuthenticationMethod, ImplementationSpecific, ImplementationSpecific, Close),
        Refusal::PreconditionFailed(_) | Refusal::Unfit(_) => {
            Answer::new(ImplementationSpecific, ImplementationSpecific, ImplementationSpecific, Close)
        }
        Refusal::Inequivalent(_) => Answer::new(ImplementationSpecific, ImplementationSpecific, ImplementationSpecific, Close),
        Refusal::Locked(_) => Answer::new(ServerBusy, ImplementationSpecific, ImplementationSpecific, Close),
        Refusal::LimitReached(limit) | Refusal::OverLimit { limit, .. } => limit_reached(*limit),
        Refusal::Uncounted { .. } | Refusal::NotImplemented(_) => {
            Answer::new(ImplementationSpecific, ImplementationSpecific, ImplementationSpecific, Close)
        }
        // It came as a user property.
        Refusal::Invalid { what: "selector", .. } => {
            Answer::new(ImplementationSpecific, ImplementationSpecific, ImplementationSpecific, Close)
        }
        // The only names an MQTT client gives are its client id, topic names and topic filters.
        Refusal::Invalid { .. } => Answer::new(ClientIdNotValid, TopicNameInvalid, TopicFilterInvalid, Close),
        Refusal::QueueFull => Answer::new(QuotaExceeded, QuotaExceeded, QuotaExceeded, Withhold),
        Refusal::OwnerEnded => Answer::new(ServerUnavailable, Unspecified, Unspecified, Close),
        Refusal::StoreFailed => Answer::new(ServerUnavailable, Unspecified, Unspecified, Close),
        // A login is told where to go as well (`Session::turned_away`).
        Refusal::StandsBy(_) => Answer::new(ServerUnavailable, Unspecified, Unspecified, Close),
    }
}

fn limit_reached(limit: Limit) -> Answer {
    use PublishV3::{Close, Withhold};
    use ReasonCode::*;
    match limit {
        // Too many logins at a time as well: come back later.
        Limit::Connections => Answer::new(ServerBusy, QuotaExceeded, QuotaExceeded, Withhold),
        Limit::Memory | Limit::Disk => Answer::new(ServerBusy, QuotaExceeded, QuotaExceeded, Withhold),
        Limit::TopicLevels => Answer::new(QuotaExceeded, TopicNameInvalid, TopicFilterInvalid, Close),
        // 0x95 cannot stand in an acknowledgement (MQTT 5.0, table 2-6).
        Limit::MessageSize => Answer::new(PacketTooLarge, QuotaExceeded, QuotaExceeded, Close),
        Limit::QueueLength
        | Limit::Channels
        | Limit::Sessions
        | Limit::Subscriptions
        | Limit::Queues
        | Limit::Exchanges
        | Limit::Retained
        | Limit::SessionState
        | Limit::Vhosts
        | Limit::Transaction => Answer::new(QuotaExceeded, QuotaExceeded, QuotaExceeded, Withhold),
    }
}

/// The connection must end: the reason for a v5 DISCONNECT (or CONNACK), and words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub reason: ReasonCode,
    pub why: String,
    /// For CONNACK: where else to go (MQTT 5.0, 3.2.2.3.16).
    pub servers: Option<String>,
}

impl Fault {
    pub fn new(reason: ReasonCode, why: impl Into<String>) -> Fault {
        Fault { reason, why: why.into(), servers: None }
    }

    pub fn protocol(why: impl Into<String>) -> Fault {
        Fault::new(ReasonCode::ProtocolError, why)
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Fault {
        Fault::new(error.reason(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ReasonPlace;

    fn all() -> Vec<Refusal> {
        let mut all = vec![
            Refusal::NotFound { what: "queue", name: "q".into() },
            Refusal::AccessRefused("no".into()),
            Refusal::LoginRefused,
            Refusal::BadMechanism,
            Refusal::PreconditionFailed("x".into()),
            Refusal::Locked("q".into()),
            Refusal::NotImplemented("x"),
            Refusal::Invalid { what: "topic", why: "x".into() },
            Refusal::QueueFull,
            Refusal::OwnerEnded,
            Refusal::StoreFailed,
            Refusal::StandsBy(None),
        ];
        use Limit::*;
        let limits = [
            QueueLength,
            Connections,
            Sessions,
            Subscriptions,
            Queues,
            MessageSize,
            TopicLevels,
            Memory,
            Disk,
            Retained,
            SessionState,
            Vhosts,
            Transaction,
        ];
        all.extend(limits.map(Refusal::LimitReached));
        all
    }

    /// Every code may stand in the packet it is meant for, is an error, and a v3 CONNACK exists for what a v3 client can run into.
    #[test]
    fn every_row_can_be_said() {
        for refusal in all() {
            let row = answer(&refusal);
            assert!(row.connack.is_error() && row.connack.allowed_in(ReasonPlace::ConnAck), "{refusal:?}");
            assert!(row.publish.is_error() && row.publish.allowed_in(ReasonPlace::PubAck), "{refusal:?}");
            assert!(row.publish.allowed_in(ReasonPlace::PubRec), "{refusal:?}");
            assert!(row.subscribe.is_error() && row.subscribe.allowed_in(ReasonPlace::SubAck), "{refusal:?}");
        }
    }

    #[test]
    fn the_rows_that_clients_act_on() {
        let row = |refusal| answer(&refusal);
        let login = row(Refusal::LoginRefused);
        assert_eq!((login.connack as u8, login.connack.connack_v3()), (134, Some(4)));
        let access = row(Refusal::AccessRefused("x".into()));
        assert_eq!((access.connack as u8, access.publish as u8, access.subscribe as u8), (135, 135, 135));
        assert_eq!(access.publish_v3, PublishV3::Acknowledge);
        assert!(access.disconnects(Unauthorized::Disconnect) && !access.disconnects(Unauthorized::Acknowledge));
        let full = row(Refusal::QueueFull);
        assert_eq!((full.publish as u8, full.publish_v3), (151, PublishV3::Withhold));
        assert!(!full.disconnects(Unauthorized::Disconnect));
        let levels = row(Refusal::LimitReached(Limit::TopicLevels));
        assert_eq!((levels.publish as u8, levels.subscribe as u8), (144, 143));
        // Nothing that the store did not take is ever acknowledged.
        assert_eq!(row(Refusal::StoreFailed).publish_v3, PublishV3::Close);
        assert_eq!(row(Refusal::LimitReached(Limit::Connections)).connack.connack_v3(), Some(3));
    }
}
