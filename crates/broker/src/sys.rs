//! What the broker says of itself under `$SYS/broker`, in Mosquitto's names and units. Retained, never logged.

use crate::core::{Counters, Shared};
use broker_api::{Batch, Head, Span, HEAD_RETAIN};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// The format number of a payload without properties, as MQTT 3 has it.
const PLAIN: u8 = 1;

impl Shared {
    pub fn publish_sys(self: &Arc<Shared>) {
        for (topic, value) in self.sys_values() {
            self.say(topic, &value);
        }
    }

    fn say(self: &Arc<Shared>, topic: &str, value: &str) {
        let mut arena = topic.as_bytes().to_vec();
        arena.extend_from_slice(value.as_bytes());
        let head = Head {
            key: Span::arena(0, topic.len()),
            body: Span::arena(topic.len(), value.len()),
            flags: HEAD_RETAIN,
            format: PLAIN,
            separator: b'/',
            topic: true,
            ..Head::default()
        };
        self.publish_own(0, &Batch { arena, heads: vec![head], ..Batch::default() });
    }

    fn sys_values(&self) -> Vec<(&'static str, String)> {
        let c = &self.counters;
        let connected = self.links.len() as u64;
        let total = self.sessions.len() as u64;
        let offline = self.sessions.iter().filter(|s| s.live.load().is_none()).count() as u64;
        let stored: u64 = self.queues.iter().map(|q| q.depth.load(Ordering::Relaxed)).sum();
        let inflight: u64 = self.queues.iter().map(|q| q.lock().leased).sum();
        let retained: u64 = self.vhosts.iter().map(|v| v.retained.len() as u64).sum();
        let uptime = (self.now_ms() - self.started_ms) / 1000;
        let number = |n: u64| n.to_string();
        vec![
            ("$SYS/broker/version", format!("carrick version {}", env!("CARGO_PKG_VERSION"))),
            ("$SYS/broker/uptime", format!("{uptime} seconds")),
            ("$SYS/broker/clients/total", number(total)),
            ("$SYS/broker/clients/connected", number(connected)),
            ("$SYS/broker/clients/active", number(connected)),
            ("$SYS/broker/clients/disconnected", number(offline)),
            ("$SYS/broker/clients/inactive", number(offline)),
            ("$SYS/broker/clients/maximum", number(Counters::get(&c.connections_max_seen))),
            ("$SYS/broker/clients/expired", number(Counters::get(&c.sessions_expired))),
            ("$SYS/broker/messages/received", number(Counters::get(&c.messages_received))),
            ("$SYS/broker/messages/sent", number(Counters::get(&c.messages_sent))),
            ("$SYS/broker/messages/stored", number(stored + retained)),
            ("$SYS/broker/messages/inflight", number(inflight)),
            ("$SYS/broker/publish/messages/received", number(Counters::get(&c.messages_received))),
            ("$SYS/broker/publish/messages/sent", number(Counters::get(&c.messages_sent))),
            ("$SYS/broker/publish/messages/dropped", number(Counters::get(&c.messages_dropped))),
            ("$SYS/broker/store/messages/count", number(stored + retained)),
            ("$SYS/broker/retained messages/count", number(retained)),
            ("$SYS/broker/subscriptions/count", number(Counters::get(&c.subscriptions))),
            ("$SYS/broker/bytes/received", number(Counters::get(&c.bytes_received))),
            ("$SYS/broker/bytes/sent", number(Counters::get(&c.bytes_sent))),
        ]
    }
}
