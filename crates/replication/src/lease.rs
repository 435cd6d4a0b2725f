//! Until when a primary may act, and the care for that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::coordinator::{Coordinator, Lease};
use crate::disk::DiskProbe;
use crate::machine::Machine;
use crate::mutants::{self, Mutant};

pub struct Granted {
    machine: Arc<dyn Machine>,
    base: Instant,
    /// Nanoseconds since then.
    until: AtomicU64,
    /// Nobody else is in sync, so nobody else can be primary.
    alone: AtomicBool,
    /// How long a grant lasts.
    pub lasts: Duration,
    /// Held while a renewal is on its way; `true`: there will be no more.
    given_up: tokio::sync::Mutex<bool>,
}

impl Granted {
    /// The register has just been written by this node: until the first renewal that counts as a grant.
    pub fn new(machine: Arc<dyn Machine>, lasts: Duration) -> Granted {
        Granted {
            base: machine.now(),
            machine,
            until: AtomicU64::new(lasts.as_nanos() as u64),
            alone: true.into(),
            lasts,
            given_up: false.into(),
        }
    }

    fn extend(&self, until: Instant) {
        self.until.fetch_max(until.saturating_duration_since(self.base).as_nanos() as u64, Ordering::AcqRel);
    }

    fn left(&self) -> Duration {
        let passed = self.machine.now().duration_since(self.base);
        Duration::from_nanos(self.until.load(Ordering::Acquire)).saturating_sub(passed)
    }

    pub fn has_run_out(&self) -> bool {
        self.left().is_zero()
    }

    pub fn set_alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.has_run_out() && !self.alone.load(Ordering::Acquire) && !mutants::active(Mutant::OutliveLease)
    }

    /// How long to wait for something at most, so that the end is noticed when it comes.
    fn at_most(&self, wait: Duration) -> Duration {
        if self.alone.load(Ordering::Acquire) {
            wait
        } else {
            wait.min(self.left() + Duration::from_millis(1))
        }
    }

    /// When this returns no renewal is on its way, and none will be: a release that follows is the last word.
    pub async fn give_up(&self) {
        *self.given_up.lock().await = true;
    }

    /// Renews it for as long as the disk earns it. Answers through `lost` when it is over.
    pub async fn keep(self: Arc<Self>, coordinator: Arc<dyn Coordinator>, epoch: u64, disk: DiskProbe, lost: oneshot::Sender<String>) {
        loop {
            let given_up = self.given_up.lock().await;
            if *given_up {
                return std::future::pending().await;
            }
            if disk.since() < self.lasts || mutants::active(Mutant::UnearnedKeepalive) {
                let answer = self.machine.within(self.at_most(self.lasts), coordinator.renew(epoch)).await;
                if let Ok(Lease::Granted { until }) = answer {
                    self.extend(until);
                }
            }
            drop(given_up);
            if self.is_over() {
                let _ = lost.send("the lease is over and cannot be renewed".into());
                return;
            }
            self.machine.sleep(self.at_most(self.lasts / 6)).await;
        }
    }
}
