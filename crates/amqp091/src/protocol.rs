//! AMQP 0-9-1 as the gateway sees it.

use std::sync::Arc;
use std::time::Instant;

use broker_api::{Context, Protocol, ProtocolSession, Verdict, Views};

use crate::codec::PROTOCOL_HEADER;
use crate::config::Config;
use crate::session::Session;

/// The protocol object: what all sessions share.
pub struct Amqp {
    pub(crate) config: Config,
    pub(crate) views: Views,
}

impl Amqp {
    /// With a config that [`Config::check`] has passed, and the readers of other protocols' messages.
    pub fn new(config: Config, views: Views) -> Arc<Amqp> {
        Arc::new(Amqp { config, views })
    }
}

impl Protocol for Amqp {
    fn name(&self) -> &'static str {
        "amqp091"
    }

    /// The protocol header (4.2.2). Other versions of AMQP differ in its last four bytes.
    fn recognise(&self, first: &[u8]) -> Verdict {
        let len = first.len().min(PROTOCOL_HEADER.len());
        match first[..len] == PROTOCOL_HEADER[..len] {
            false => Verdict::NotMine,
            true if len == PROTOCOL_HEADER.len() => Verdict::Mine,
            true => Verdict::NeedMore,
        }
    }

    fn sub_protocols(&self) -> &'static [&'static str] {
        &["amqp"]
    }

    fn open(self: Arc<Self>, context: Context, now: Instant) -> Box<dyn ProtocolSession> {
        Box::new(Session::new(self, context, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_header_is_recognised_and_that_of_amqp_1_0_is_not() {
        let amqp = Amqp::new(Config::default(), Views::new());
        assert_eq!(amqp.recognise(b"AMQP\x00\x00\x09\x01"), Verdict::Mine);
        assert_eq!(amqp.recognise(b"AMQP\x00"), Verdict::NeedMore);
        for other in [&b"AMQP\x00\x01\x00\x00"[..], b"AMQP\x03", b"\x10\x0c\x00\x04MQTT", b"GET / "] {
            assert_eq!(amqp.recognise(other), Verdict::NotMine, "{other:?}");
        }
    }
}
