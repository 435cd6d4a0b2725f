//! MQTT as the gateway sees it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Instant;

use broker_api::{Context, Protocol, ProtocolSession, Verdict, Views};

use crate::config::Config;
use crate::session::Session;

/// What sessions had to drop or refuse, over all connections, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Deliveries over the client's Maximum Packet Size (MQTT 5.0, 3.1.2.11.4): dropped as if they had been accepted.
    pub too_large: AtomicU64,
    /// Deliveries whose time ran out between the queue and the socket.
    pub expired: AtomicU64,
    /// Deliveries that no MQTT packet can carry, such as a foreign topic name that is not text.
    pub unsayable: AtomicU64,
    /// Publishes that were not accepted.
    pub refused: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

/// The protocol object: settings and counters that all sessions share.
#[derive(Default)]
pub struct Mqtt {
    config: Config,
    counters: Counters,
    views: Views,
}

impl Mqtt {
    /// With a config that [`Config::check`] has passed.
    pub fn new(config: Config) -> Arc<Mqtt> {
        Mqtt::among(config, Views::new())
    }

    /// The same with the readers of other protocols' messages.
    pub fn among(config: Config, views: Views) -> Arc<Mqtt> {
        Arc::new(Mqtt { config, counters: Counters::default(), views })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn views(&self) -> &Views {
        &self.views
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Protocol for Mqtt {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    /// 0x10, a remaining length, and one of the two protocol names (MQTT 5.0, 3.1.2.1; 3.1, 3.1).
    fn recognise(&self, first: &[u8]) -> Verdict {
        match first {
            [] => Verdict::NeedMore,
            [0x10, rest @ ..] => {
                let length = rest.iter().take(4).take_while(|byte| *byte & 0x80 != 0).count();
                if length == 4 {
                    return Verdict::NotMine;
                }
                let name = rest.get(length + 1..).unwrap_or(&[]);
                ["\x00\x04MQTT", "\x00\x06MQIsdp"].iter().map(|known| matches_start(known.as_bytes(), name)).fold(Verdict::NotMine, better)
            }
            _ => Verdict::NotMine,
        }
    }

    /// MQTT 5.0, 6: `mqtt`, in binary frames only. 3.1 was carried before that was written down.
    fn sub_protocols(&self) -> &'static [&'static str] {
        &["mqtt", "mqttv3.1"]
    }

    fn open(self: Arc<Self>, context: Context, now: Instant) -> Box<dyn ProtocolSession> {
        Box::new(Session::new(self, context, now))
    }
}

fn matches_start(known: &[u8], seen: &[u8]) -> Verdict {
    let len = known.len().min(seen.len());
    match known[..len] == seen[..len] {
        false => Verdict::NotMine,
        true if len == known.len() => Verdict::Mine,
        true => Verdict::NeedMore,
    }
}

fn better(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Mine, _) | (_, Verdict::Mine) => Verdict::Mine,
        (Verdict::NeedMore, _) | (_, Verdict::NeedMore) => Verdict::NeedMore,
        _ => Verdict::NotMine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_is_recognised_as_early_as_it_can_be() {
        let mqtt = Mqtt::default();
        let v311 = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00";
        let v31 = b"\x10\x8e\x01\x00\x06MQIsdp\x03";
        for (connect, needs) in [(&v311[..], 8), (&v31[..], 11)] {
            for len in 0..needs {
                assert_eq!(mqtt.recognise(&connect[..len]), Verdict::NeedMore, "{len}");
            }
            assert_eq!(mqtt.recognise(&connect[..needs]), Verdict::Mine);
            assert_eq!(mqtt.recognise(connect), Verdict::Mine);
        }
        let others: [&[u8]; 7] = [
            b"AMQP\x00\x00\x09\x01",
            b"CONNECT\n",
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00",
            b"\x00\x00\x00\x01",
            b"\x10\xff\xff\xff\xff",
            b"\x10\x0c\x00\x05",
        ];
        for other in others {
            assert_eq!(mqtt.recognise(other), Verdict::NotMine, "{other:?}");
        }
    }
}
