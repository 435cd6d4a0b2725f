//! What the broker says of itself under `$SYS/broker`, in Mosquitto's names and units. Retained, never logged; a value that has not changed is
//! not said again.
//!
//! One difference: `messages/received` and `messages/sent` count publishes, as `publish/messages/...` do. Mosquitto counts packets of
//! every kind there, and packets are not known in here.

mod load;

use crate::core::{Core, Counters, Shared};
use broker_api::{Batch, Head, Span, HEAD_RETAIN};
use load::Load;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// What happened at the sockets since the start. The core does not see them: whoever owns them tells.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Traffic {
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub sockets_opened: u64,
    /// Taken from the core and not sent: larger than the client accepts, expired on the way, or without words in its protocol.
    pub deliveries_dropped: u64,
    pub publishes_refused: u64,
}

type ReadTraffic = Box<dyn Fn() -> Traffic + Send + Sync>;

#[derive(Default)]
pub(crate) struct Sys {
    traffic: OnceLock<ReadTraffic>,
    /// Taken by the timer thread alone.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    load: Option<Load>,
    said: HashMap<Cow<'static, str>, String>,
}

type Values = Vec<(Cow<'static, str>, String)>;

impl Core {
    /// Where `$SYS/broker/bytes` and its averages come from. The first call counts.
    pub fn watch_traffic(&self, read: impl Fn() -> Traffic + Send + Sync + 'static) {
        let _ = self.0.sys.traffic.set(Box::new(read));
    }
}

impl Shared {
    pub fn publish_sys(self: &Arc<Shared>) {
        let mut state = self.sys.state.lock();
        let mut values = self.sys_values();
        values.extend(self.loads(&mut state));
        for (topic, value) in values {
            if state.said.get(&topic) != Some(&value) {
                self.say(&topic, &value);
                state.said.insert(topic, value);
            }
        }
    }

    fn say(self: &Arc<Shared>, topic: &str, value: &str) {
        let mut arena = topic.as_bytes().to_vec();
        arena.extend_from_slice(value.as_bytes());
        let head = Head {
            key: Span::arena(0, topic.len()),
            body: Span::arena(topic.len(), value.len()),
            flags: HEAD_RETAIN,
            format: broker_api::FORMAT_PLAIN,
            separator: b'/',
            topic: true,
            ..Head::default()
        };
        self.publish_own(0, &Batch { arena, heads: vec![head], ..Batch::default() });
    }

    fn traffic(&self) -> Traffic {
        self.sys.traffic.get().map_or_else(Traffic::default, |read| read())
    }

    fn loads(&self, state: &mut State) -> Values {
        let (c, traffic) = (&self.counters, self.traffic());
        let (received, sent) = (Counters::get(&c.messages_received), Counters::get(&c.messages_sent));
        let load = state.load.get_or_insert_with(|| Load::starting(self.started_ms));
        // In the order of `load::NAMES`.
        let counts = [
            traffic.bytes_received,
            traffic.bytes_sent,
            Counters::get(&c.connections_total),
            received,
            sent,
            Counters::get(&c.messages_dropped) + traffic.deliveries_dropped,
            received,
            sent,
            traffic.sockets_opened,
        ];
        load.update(self.now_ms(), counts);
        load.values().map(|(topic, value)| (Cow::Owned(topic), value)).collect()
    }

    fn sys_values(&self) -> Values {
        let uptime = (self.now_ms() - self.started_ms) / 1000;
        let mut values: Values = vec![
            ("$SYS/broker/version".into(), format!("carrick version {}", env!("CARGO_PKG_VERSION"))),
            ("$SYS/broker/uptime".into(), format!("{uptime} seconds")),
        ];
        let mut number = |topic: &'static str, n: u64| values.push((topic.into(), n.to_string()));
        self.client_values(&mut number);
        self.message_values(&mut number);
        let traffic = self.traffic();
        number("$SYS/broker/bytes/received", traffic.bytes_received);
        number("$SYS/broker/bytes/sent", traffic.bytes_sent);
        if let Some((current, maximum)) = std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident) {
            number("$SYS/broker/heap/current", current);
            number("$SYS/broker/heap/maximum", maximum);
        }
        values
    }

    fn client_values(&self, number: &mut impl FnMut(&'static str, u64)) {
        let (mut connected, mut disconnected) = (0, 0);
        for session in self.sessions.iter() {
            *if session.live.load().is_some() { &mut connected } else { &mut disconnected } += 1;
        }
        number("$SYS/broker/clients/total", connected + disconnected);
        number("$SYS/broker/clients/connected", connected);
        number("$SYS/broker/clients/active", connected);
        number("$SYS/broker/clients/disconnected", disconnected);
        number("$SYS/broker/clients/inactive", disconnected);
        number("$SYS/broker/clients/maximum", Counters::get(&self.counters.connections_max_seen));
        number("$SYS/broker/clients/expired", Counters::get(&self.counters.sessions_expired));
    }

    fn message_values(&self, number: &mut impl FnMut(&'static str, u64)) {
        let c = &self.counters;
        let (mut queued, mut queued_bytes, mut inflight) = (0, 0, 0);
        for queue in self.queues.iter() {
            queued += queue.depth.load(Ordering::Relaxed);
            let state = queue.lock();
            queued_bytes += state.bytes;
            inflight += state.leased;
        }
        let retained: u64 = self.vhosts.iter().map(|vhost| vhost.retained.len() as u64).sum();
        let shares: u64 = self.vhosts.iter().map(|vhost| vhost.shares.len() as u64).sum();
        let (received, sent) = (Counters::get(&c.messages_received), Counters::get(&c.messages_sent));
        number("$SYS/broker/messages/received", received);
        number("$SYS/broker/messages/sent", sent);
        number("$SYS/broker/messages/stored", queued + retained);
        number("$SYS/broker/messages/inflight", inflight);
        number("$SYS/broker/publish/messages/received", received);
        number("$SYS/broker/publish/messages/sent", sent);
        let traffic = self.traffic();
        number("$SYS/broker/publish/messages/dropped", Counters::get(&c.messages_dropped) + traffic.deliveries_dropped);
        number("$SYS/broker/publish/messages/refused", traffic.publishes_refused);
        number("$SYS/broker/store/messages/count", queued + retained);
        number("$SYS/broker/store/messages/bytes", queued_bytes);
        number("$SYS/broker/retained messages/count", retained);
        number("$SYS/broker/subscriptions/count", Counters::get(&c.subscriptions));
        number("$SYS/broker/shared_subscriptions/count", shares);
    }
}

/// Resident bytes now and at most, from Linux's `/proc/self/status`. Mosquitto's `heap` topics count its allocations; what the machine
/// misses is the resident memory.
fn resident(status: &str) -> Option<(u64, u64)> {
    let kib = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Some((kib("VmRSS:")? * 1024, kib("VmHWM:")? * 1024))
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_read_from_the_status_file() {
        let status = "Name:\tcarrick\nVmPeak:\t  9 kB\nVmHWM:\t   12 kB\nVmRSS:\t    7 kB\nThreads:\t4\n";
        assert_eq!(super::resident(status), Some((7 * 1024, 12 * 1024)));
        assert_eq!(super::resident("Name:\tx\n"), None);
    }
}
