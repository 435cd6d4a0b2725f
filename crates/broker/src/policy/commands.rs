//! Making and clearing policies.

use super::{Known, Policies, Policy, PolicyKind, POLICIES_MAX};
use crate::core::Core;
use crate::store::policies::{policy_gone_record, policy_record};
use crate::timers::Timer;
use crate::vhost::Vhost;
use crate::vhosts::{fill, WhenCommitted};
use broker_api::{Refusal, VhostName};
use std::sync::Arc;

impl Core {
    /// Makes a policy, or another of the same name instead. It holds for what is there within a second. `false`: it was there like this;
    /// then `committed` is called at once.
    pub fn set_policy(&self, vhost: &str, kind: PolicyKind, policy: Policy, committed: WhenCommitted) -> Result<bool, Refusal> {
        let vhost = self.living(vhost)?;
        let known = Known::check(kind, policy).map_err(|why| Refusal::Invalid { what: "policy", why })?;
        let mut policies = vhost.policies.write();
        let all = policies.of(kind);
        match all.iter().find(|other| other.policy.name == known.policy.name) {
            Some(same) if same.policy == known.policy => {
                committed();
                return Ok(false);
            }
            None if all.len() >= POLICIES_MAX => {
                return Err(Refusal::PreconditionFailed(format!("there are {POLICIES_MAX} policies already")))
            }
            _ => {}
        }
        let record = policy_record(vhost.id, kind, &known.policy);
        let mut changed = Policies::clone(&policies);
        changed.set(kind, known);
        self.changed(&vhost, &mut policies, changed, record, committed);
        Ok(true)
    }

    /// `false`: there is none of this name; then `committed` is called at once.
    pub fn clear_policy(&self, vhost: &str, kind: PolicyKind, name: &str, committed: WhenCommitted) -> Result<bool, Refusal> {
        let vhost = self.living(vhost)?;
        let mut policies = vhost.policies.write();
        let mut changed = Policies::clone(&policies);
        if !changed.clear(kind, name) {
            committed();
            return Ok(false);
        }
        let record = policy_gone_record(vhost.id, kind, name);
        self.changed(&vhost, &mut policies, changed, record, committed);
        Ok(true)
    }

    /// In the order in which they are asked.
    pub fn policies(&self, vhost: &str, kind: PolicyKind) -> Result<Vec<Policy>, Refusal> {
        let vhost = self.living(vhost)?;
        let policies = vhost.policies.read();
        Ok(policies.of(kind).iter().map(|known| known.policy.clone()).collect())
    }

    fn living(&self, name: &str) -> Result<Arc<Vhost>, Refusal> {
        let found = self.0.vhost(&VhostName::new(name)).filter(|vhost| !vhost.is_deleted());
        found.ok_or_else(|| Refusal::NotFound { what: "vhost", name: name.to_owned() })
    }

    /// Under the list's lock, which orders the records.
    fn changed(&self, vhost: &Vhost, policies: &mut Arc<Policies>, changed: Policies, record: journal::Records, committed: WhenCommitted) {
        let slot = self.0.log.reserve();
        *policies = Arc::new(changed);
        self.0.checkpoint.policies(vhost.id);
        fill(slot, record, committed);
        self.0.timers.add(self.0.now_ms(), Timer::Policies { vhost: vhost.id });
    }
}
