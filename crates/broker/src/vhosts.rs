//! Virtual hosts come and go. Each has its own names, topics, sessions and retained messages; what is in one never reaches another.

use crate::core::{Core, Shared};
use crate::exchange::Exchange;
use crate::queue::Queue;
use crate::session::Session;
use crate::store::exchanges::exchange_gone_record;
use crate::store::{vhost_gone_record, vhost_record};
use crate::vhost::Vhost;
use broker_api::{Limit, Refusal, Signal, VhostName};
use journal::{Committed, Filled, Records, Slot};
use parking_lot::Mutex;
use std::sync::atomic::Ordering;
use std::sync::Arc;

const NAME_MAX: usize = 255;
/// The one that is always there.
pub(crate) const DEFAULT: &str = "/";

/// Called once, when the change has passed the commit point, by the log's own thread: it must not block.
pub type WhenCommitted = Box<dyn FnOnce() + Send>;

struct Call(Mutex<Option<WhenCommitted>>);

impl Committed for Call {
    fn committed(&self, _: u64) {
        if let Some(call) = self.0.lock().take() {
            call();
        }
    }
}

pub(crate) fn fill(slot: Slot, records: Records, committed: WhenCommitted) {
    let ticket = slot.ticket();
    slot.fill(Filled { records, done: Some((Arc::new(Call(Mutex::new(Some(committed)))), ticket.0)), ..Filled::default() });
}

impl Core {
    /// Makes a virtual host. `false`: it is there; then `committed` is called at once.
    pub fn create_vhost(&self, name: &str, committed: WhenCommitted) -> Result<bool, Refusal> {
        let invalid = |why: &str| Err(Refusal::Invalid { what: "virtual host", why: why.to_owned() });
        if name.is_empty() || name.len() > NAME_MAX {
            return invalid("its name has 1 to 255 bytes");
        }
        if name.chars().any(char::is_control) {
            return invalid("its name contains control characters");
        }
        let mut next = self.0.next_vhost.lock();
        let name = VhostName::new(name);
        if self.0.vhosts.contains_key(&name) {
            drop(next);
            committed();
            return Ok(false);
        }
        let max = self.0.config.vhosts_max;
        if self.0.vhosts.len() as u64 >= max {
            let why = format!("cannot create vhost '{name}': vhost limit of {max} is reached");
            return Err(Refusal::OverLimit { limit: Limit::Vhosts, why });
        }
        let slot = self.0.log.reserve();
        let vhost = Vhost::new(*next, name.clone());
        *next += 1;
        self.0.vhosts_by_id.insert(vhost.id, vhost.clone());
        self.0.vhosts.insert(name, vhost.clone());
        fill(slot, vhost_record(vhost.id, vhost.name.as_str()), committed);
        Ok(true)
    }

    /// Ends a virtual host with everything in it; its connections are told to go. `false`: there is none. A crash meanwhile may leave it
    /// there with a part of what it held.
    pub fn delete_vhost(&self, name: &str, committed: WhenCommitted) -> Result<bool, Refusal> {
        if name == DEFAULT {
            return Err(Refusal::PreconditionFailed("the default virtual host stays".into()));
        }
        let _one_at_a_time = self.0.next_vhost.lock();
        let Some(vhost) = self.0.vhost(&VhostName::new(name)) else {
            committed();
            return Ok(false);
        };
        vhost.end();
        self.0.empty(&vhost);
        let slot = self.0.log.reserve();
        self.0.vhosts.remove(&vhost.name);
        self.0.vhosts_by_id.remove(&vhost.id);
        self.0.checkpoint.vhost_gone(vhost.id);
        fill(slot, vhost_gone_record(vhost.id), committed);
        Ok(true)
    }

    /// Switches the tracing of a virtual host on or off, until the next start. `false`: there is no such host.
    pub fn set_traced(&self, name: &str, on: bool) -> bool {
        let found = self.0.vhost(&VhostName::new(name));
        if let Some(vhost) = &found {
            vhost.traced.store(on && self.0.config.tracer.is_some(), Ordering::Relaxed);
        }
        found.is_some()
    }

    /// `None`: there is no such virtual host.
    pub fn is_traced(&self, name: &str) -> Option<bool> {
        self.0.vhost(&VhostName::new(name)).map(|vhost| vhost.traced.load(Ordering::Relaxed))
    }

    /// The names of all virtual hosts, in their order.
    pub fn vhosts(&self) -> Vec<VhostName> {
        let mut names: Vec<VhostName> = self.0.vhosts.iter().map(|v| v.name.clone()).collect();
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names
    }
}

impl Shared {
    fn empty(self: &Arc<Shared>, vhost: &Arc<Vhost>) {
        for link in vhost.links.iter() {
            link.signal(Signal::Kicked);
        }
        let sessions: Vec<Arc<Session>> = vhost.sessions.iter().map(|s| s.clone()).collect();
        sessions.iter().for_each(|session| self.drop_session(session));
        let queues: Vec<Arc<Queue>> = vhost.queues.iter().map(|q| q.clone()).collect();
        queues.iter().for_each(|queue| self.end_and_log(vhost, queue));
        let exchanges: Vec<Arc<Exchange>> = vhost.exchanges.iter().filter(|x| !x.is_fixed()).map(|x| x.clone()).collect();
        let slot = self.log.reserve();
        let mut gone = Vec::new();
        self.remove_exchanges(vhost, &mut vhost.bindings.lock(), exchanges, &mut gone);
        let mut records = Records::new();
        exchange_gone_record(&mut records, &gone);
        slot.fill(Filled { records, ..Filled::default() });
    }

    pub fn make_configured_vhosts(self: &Arc<Shared>) {
        for name in &self.config.vhosts {
            if let Err(error) = Core(self.clone()).create_vhost(name, Box::new(|| {})) {
                tracing::error!(vhost = name, %error, "a virtual host of the configuration cannot be made");
            }
        }
        for (name, kind) in &self.config.default_queue_types {
            if let Some(vhost) = self.vhost(&VhostName::new(name)) {
                *vhost.default_queue_type.write() = Some(kind.as_str().into());
            }
        }
        for name in &self.config.traced_vhosts {
            Core(self.clone()).set_traced(name, true);
        }
        for (name, limits) in &self.config.vhost_limits {
            if let Some(vhost) = self.vhost(&VhostName::new(name)) {
                vhost.connections_max.store(limits.connections_max.unwrap_or(u64::MAX), Ordering::Relaxed);
                vhost.queues_max.store(limits.queues_max.unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        }
    }
}
