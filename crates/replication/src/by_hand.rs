//! A node whose coordinator is a person: nobody else says who is primary, so it looks for the other node itself, and does not take over unless told.
//!
//! Each node has a register of its own. The primary tells its standby what it has written (REGISTER on the link), so that the standby knows whether
//! it is in sync: only then can it be promoted. What the primary writes when the link is broken, the standby cannot know; the operator who promotes
//! it has made sure that the primary is off, and decides whether it may have confirmed messages alone.

use std::collections::{BTreeMap, BTreeSet};

use journal::Lsn;

use crate::coordinator::{Manual, NodeName, Register, Version};
use crate::house::House;
use crate::node::{Me, Next, Node, OTHER_CLUSTER, RETRY};
use crate::status::Role;

impl<H: House> Node<H> {
    /// `offered`: the primary has given its place to this node, which is an operator's word as well.
    pub(crate) async fn decide_by_hand(
        &self,
        manual: &Manual,
        known: Option<(Version, Register)>,
        me: &Me,
        offered: bool,
    ) -> Result<Next, String> {
        if known.as_ref().is_some_and(|(_, register)| register.cluster != me.cluster) && me.hello.end.lsn != Lsn(0) {
            return Err(OTHER_CLUSTER.into());
        }
        let next = known.as_ref().map_or(me.hello.promised + 1, |(_, register)| register.epoch + 1);
        if offered {
            if let Err(why) = manual.promote(next).await {
                self.status.say(&format!("the primary's place was offered, but {why}"));
            }
        }
        if let Some(epoch) = manual.promoted() {
            if epoch == next && known.as_ref().is_none_or(|(_, register)| self.eligible(register, me)) {
                let members = known.as_ref().map(|(_, register)| register.members.clone()).unwrap_or_default();
                return Ok(Next::Propose { expect: known.map(|(version, _)| version), epoch, members });
            }
            manual.revoke();
            self.status
                .say(&format!("not promoted in epoch {epoch}: this node was not in sync with this store, or the next epoch is {next}"));
            return Ok(Next::Wait(RETRY));
        }
        for name in self.settings.peers.keys() {
            let register = register_of(name, known.as_ref().map(|(_, register)| register), me);
            if self.reachable(&register).await {
                return Ok(Next::Follow(register));
            }
        }
        // Whoever it followed is gone from sight.
        self.status.set_role(Role::Joining);
        self.status.say(&format!("waiting for the other node as primary, or for an operator: carrick ha promote --epoch {next}"));
        Ok(Next::Wait(RETRY * 4))
    }
}

/// What is known, with this node as the primary: it says itself whether it is.
fn register_of(primary: &NodeName, known: Option<&Register>, me: &Me) -> Register {
    let nothing = || Register {
        epoch: me.hello.promised,
        primary: primary.clone(),
        in_sync: BTreeSet::new(),
        by_memory: BTreeSet::new(),
        cluster: me.cluster,
        members: BTreeMap::new(),
    };
    Register { primary: primary.clone(), ..known.cloned().unwrap_or_else(nothing) }
}
