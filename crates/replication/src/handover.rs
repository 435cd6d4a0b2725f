//! A primary gives its place to its standby, on purpose: no lease runs out, and nobody is missed.
//!
//! ```text
//! the process: clients are told where to go, their sessions part, the core closes      nothing is confirmed or delivered here from now on
//! the old one: waits until the standby has synced and redone all of the log            else it stays what it was, and says so
//!              renews the lease no more, releases it
//!              HANDOVER{end} on the link ──────────────► stands for primary: `vacant`, then the register, as after a loss
//!              reads the register until it names the other (epoch + 1), ends          serves
//! ```
//!
//! Why there are never two primaries. A node acts as primary only while its core is open; the old one's is closed before anything here begins, and is
//! never opened again in this process. The new one writes the register by the same rules as after a loss: it is in the in-sync set of the version that it
//! replaces, the lease is free (the old one's renewals have ended and it was released, or it has run out), and the write is conditional. So a HANDOVER that is
//! lost, late or a lie changes how long it takes, never who may be primary. That it is the standby that writes, and not the old primary for it, is
//! for the same reason: who begins a reign is who knows that the register names it, and with which store.
//!
//! Why nothing confirmed is missing. All that was confirmed is at or below `end`, and the standby has synced that; it compares its position with `end` before it takes the
//! short way. If it differs, the standby goes the way of a loss.
//!
//! When answers do not come. The old one does not know whether the standby wrote (`Unknown`, or the link broke): it is no primary any more in either case, and the process ends. If the standby was lost in
//! between, the old one still is in the in-sync set, and takes its place again when it is started.

use std::time::Duration;

use journal::Lsn;
use tracing::info;

use crate::coordinator::{NodeName, Read};
use crate::reign::Reign;

/// How long the standby may take for what it lacks; and then for the register.
const LIMIT: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(3);

impl Reign {
    /// An error: nothing was given up.
    pub(crate) async fn hand_over(&mut self) -> Result<NodeName, String> {
        let (standby, end) = self.whole_standby().await?;
        info!(%standby, %end, "handing over");
        self.status.say(&format!("handing over to {standby}"));
        self.lease.give_up().await;
        let _ = self.machine.within(LIMIT, self.coordinator.release()).await;
        self.peers.give_up(end);
        if self.coordinator.by_hand().is_some() {
            // It writes into a register of its own.
            return Ok(standby);
        }
        let begun = self.machine.now();
        while self.machine.now().duration_since(begun) < LIMIT {
            match self.coordinator.read().await {
                Read::Known(Some((_, found))) if found.epoch > self.register.epoch => return Ok(found.primary),
                _ => self.machine.sleep(LOOK).await,
            }
        }
        // It may still come about, and this node does not act any more: the stricter of both.
        Ok(standby)
    }

    /// The member of the in-sync set that has synced and redone everything, and where that ends.
    async fn whole_standby(&self) -> Result<(NodeName, Lsn), String> {
        let begun = self.machine.now();
        loop {
            let (committed, end) = self.positions();
            let mut connected = self.peers.connected().into_iter().filter(|(name, _)| self.register.in_sync.contains(name));
            let whole = connected.find(|(_, peer)| committed >= end && peer.synced >= end && peer.redone >= end);
            match whole {
                Some((name, _)) => return Ok((name, end)),
                None if self.machine.now().duration_since(begun) > LIMIT => {
                    return Err("no standby in sync has all of the log".into());
                }
                None => {
                    // What is committed is told with the next frame, and what is redone with the ack of one after it: they come now.
                    self.peers.written.notify_one();
                    self.machine.sleep(LOOK).await;
                }
            }
        }
    }
}
