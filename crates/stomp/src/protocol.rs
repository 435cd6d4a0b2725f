//! STOMP as the gateway sees it.

use std::sync::Arc;
use std::time::Instant;

use broker_api::{Context, Protocol, ProtocolSession, Verdict, Views};

use crate::config::Config;
use crate::session::Session;

/// The protocol object: what all sessions share.
pub struct Stomp {
    pub(crate) config: Config,
    pub(crate) views: Views,
}

impl Stomp {
    /// With a config that [`Config::check`] has passed, and the readers of other protocols' headers.
    pub fn new(config: Config, views: Views) -> Arc<Stomp> {
        Arc::new(Stomp { config, views })
    }
}

impl Protocol for Stomp {
    fn name(&self) -> &'static str {
        "stomp"
    }

    /// The command line that opens a connection, behind line ends of an earlier one (a client that reconnects may send one).
    fn recognise(&self, first: &[u8]) -> Verdict {
        let first = first.trim_ascii_start();
        let verdicts = [&b"CONNECT"[..], b"STOMP"].map(|command| {
            let len = first.len().min(command.len());
            match (first[..len] == command[..len], first.get(command.len())) {
                (false, _) => Verdict::NotMine,
                (true, Some(b'\n' | b'\r')) => Verdict::Mine,
                (true, Some(_)) => Verdict::NotMine,
                (true, None) => Verdict::NeedMore,
            }
        });
        [Verdict::Mine, Verdict::NeedMore].into_iter().find(|verdict| verdicts.contains(verdict)).unwrap_or(Verdict::NotMine)
    }

    fn sub_protocols(&self) -> &'static [&'static str] {
        &["v12.stomp", "v11.stomp", "v10.stomp", "stomp"]
    }

    fn speaks_text(&self) -> bool {
        true
    }

    fn open(self: Arc<Self>, context: Context, now: Instant) -> Box<dyn ProtocolSession> {
        Box::new(Session::new(self, &context, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opening_is_recognised_and_that_of_others_is_not() {
        let stomp = Stomp::new(Config::default(), Views::new());
        for opening in [&b"CONNECT\n"[..], b"STOMP\r\n", b"\nSTOMP\nhost:x"] {
            assert_eq!(stomp.recognise(opening), Verdict::Mine, "{opening:?}");
        }
        for torn in [&b""[..], b"\n", b"CONN", b"CONNECT", b"STOMP"] {
            assert_eq!(stomp.recognise(torn), Verdict::NeedMore, "{torn:?}");
        }
        for other in [&b"CONNECT example.org:443"[..], b"AMQP\0\0\x09\x01", b"\x10\x0c\x00\x04MQTT", b"GET / ", b"SEND\n", b"STOMPER"] {
            assert_eq!(stomp.recognise(other), Verdict::NotMine, "{other:?}");
        }
    }
}
