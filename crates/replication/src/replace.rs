//! A store that is not to be used any more: it is set aside, and this node begins with an empty one, to which the primary sends its log or a copy of
//! its store. The empty one is of no node that the register knows, so it counts for nothing until it has been put in.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use journal::{set_aside, SetAside};
use tracing::{error, info, warn};

use crate::coordinator::{NodeName, Read, Register};
use crate::house::House;
use crate::node::{Node, StoodBy, RETRY};

/// A store that differs from the primary's is not replaced more often: what makes it differ again and again has to be looked into.
const AGAIN: Duration = Duration::from_secs(3600);

/// What came of replacing the store, in the life of this process.
#[derive(Default)]
pub(crate) struct Replaced {
    /// When one that differed from the primary's last was, or did not fit.
    differing: Option<Instant>,
    /// Why it was not, when it last should have been: said as long as this store is the one that follows.
    complaint: String,
}

impl<H: House> Node<H> {
    /// Whether a store that differs would be replaced now.
    pub(crate) fn may_be_replaced(&self) -> bool {
        self.replaced().differing.is_none_or(|last| self.machine.now().duration_since(last) >= AGAIN)
    }

    /// Why the store is not another one by now; empty if it need not be.
    pub(crate) fn complaint(&self) -> String {
        self.replaced().complaint.clone()
    }

    fn replaced(&self) -> MutexGuard<'_, Replaced> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its own disk has lost what it had synced. An error: nobody else has it, so an operator decides.
    pub(crate) async fn replace_damaged(&self, why: &str) -> Result<StoodBy<H::Follows>, String> {
        error!(why, "the store is damaged");
        let register = self.served_elsewhere(why).await?;
        match self.set_aside(&register).await? {
            SetAside::Done { bytes } => warn!(bytes, "the damaged store is kept in `replaced`; the primary sends another one"),
            SetAside::NoRoom { needed, free } => return Err(format!("{why}. {}", no_room(needed, free))),
        }
        Ok(StoodBy::Again)
    }

    pub(crate) async fn replace_differing(&self, what: &str) -> Result<StoodBy<H::Follows>, String> {
        error!(what, "what stands here differs from the primary's: this node leaves the set, and takes a copy");
        if self.replace_if_it_fits().await? {
            self.replaced().differing = Some(self.machine.now());
        }
        Ok(StoodBy::Again)
    }

    pub(crate) async fn replace_as_asked(&self) -> Result<StoodBy<H::Follows>, String> {
        info!("this node was asked to take a copy of the primary's store");
        self.replace_if_it_fits().await?;
        Ok(StoodBy::Again)
    }

    /// The store here can be used as well. `false`: nobody was there to copy from.
    async fn replace_if_it_fits(&self) -> Result<bool, String> {
        if let Read::Known(Some((_, register))) = self.coordinator.read().await {
            if self.is_served_by_another(&register).await {
                match self.set_aside(&register).await? {
                    SetAside::Done { bytes } => {
                        info!(bytes, "the store is kept in `replaced`; the primary sends another one");
                        self.replaced().complaint.clear();
                    }
                    SetAside::NoRoom { needed, free } => self.complain(no_room(needed, free)),
                }
                return Ok(true);
            }
        }
        self.complain("no primary was reached to take a copy from: the store stays as it is".to_owned());
        Ok(false)
    }

    fn complain(&self, what: String) {
        warn!(what, "the store was not replaced");
        self.status.say(&what);
        self.replaced().complaint = what;
    }

    /// Waits until another node serves which the register says has everything.
    async fn served_elsewhere(&self, why: &str) -> Result<Register, String> {
        let me = &self.settings.name;
        loop {
            match self.coordinator.read().await {
                Read::Known(Some((version, register))) => {
                    self.status.set_register(Some(&(version, register.clone())));
                    if !register.in_sync.iter().any(|name| name != me) {
                        return Err(format!("{why}. {me} is alone in sync, so no other node has everything that was confirmed: {ALONE}"));
                    }
                    if self.is_served_by_another(&register).await {
                        return Ok(register);
                    }
                    self.status.say(&format!("the store is damaged ({why}): waiting for another node to serve, which has all of it"));
                }
                Read::Known(None) => return Err(format!("{why}. Nobody knows of another node that has what was here: {ALONE}")),
                Read::Unknown => self.status.say(&format!("the store is damaged ({why}), and nobody answers for the register")),
            }
            self.machine.sleep(RETRY * 10).await;
        }
    }

    /// Where a person decides the register is this node's own, and nobody told it who was promoted since: any member in sync may have been.
    async fn is_served_by_another(&self, register: &Register) -> bool {
        let named = |name: &NodeName| *name == register.primary || self.coordinator.by_hand().is_some();
        for name in register.in_sync.iter().filter(|name| **name != self.settings.name && named(name)) {
            if self.reachable(&Register { primary: name.clone(), ..register.clone() }).await {
                return true;
            }
        }
        false
    }

    async fn set_aside(&self, register: &Register) -> Result<SetAside, String> {
        let (storage, config) = (self.house.storage(), self.house.journal_config());
        let (cluster, epoch) = (register.cluster, register.epoch);
        let done = self.machine.blocking(move || set_aside(storage.as_ref(), &config, cluster, epoch)).await?;
        done.map_err(|error| error.to_string())
    }
}

const ALONE: &str = "restore its data directory from a backup, or let the other node serve without `[ha]`, knowing what that one lacks";

fn no_room(needed: u64, free: u64) -> String {
    format!("there is no room for a copy beside the store that is here: {needed} bytes are needed, {free} are free; make room, or empty `replaced`")
}
