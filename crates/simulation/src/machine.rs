//! What a simulated node runs on: its own clock, which may go faster or slower than others', the world's tasks, and the network.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replication::coordinator::{BoxFuture, Cas, Coordinator, Lease, Memory, NodeName, Read, Register, Version};
use replication::net::{Link, NetError};
use replication::{Machine, Task};

use crate::network::Network;
use crate::world::{Group, Kind, World};

/// A write to the disk and its sync take so long, without what is drawn.
const DISK: Duration = Duration::from_micros(150);

#[derive(Clone)]
pub struct SimMachine {
    pub world: World,
    pub network: Network,
    pub name: NodeName,
    pub group: Group,
    /// What 1,000 ns of the world are on this node's clock.
    pub rate: u32,
}

impl SimMachine {
    fn local(&self, time: Duration) -> Duration {
        time * self.rate / 1000
    }

    pub fn of_world(&self, time: Duration) -> Duration {
        time * 1000 / self.rate
    }

    pub async fn disk(&self) {
        let spread = self.world.draw(|rng| rng.below(400));
        self.world.sleep(DISK + Duration::from_micros(spread)).await;
    }
}

impl Machine for SimMachine {
    fn now(&self) -> Instant {
        self.world.base() + self.local(self.world.elapsed())
    }

    fn sleep(&self, time: Duration) -> Task {
        self.world.sleep(self.of_world(time))
    }

    fn spawn(&self, task: Task) {
        self.world.spawn(self.group, Kind::Plain, task);
    }

    fn thread(&self, _: &'static str, task: Task) -> io::Result<()> {
        self.world.spawn(self.group, Kind::Disk, task);
        Ok(())
    }

    fn block(&self, work: Box<dyn FnOnce() + Send>) -> Task {
        let (machine, (done, answered)) = (self.clone(), tokio::sync::oneshot::channel::<()>());
        let task = async move {
            machine.disk().await;
            work();
            drop(done);
        };
        self.world.spawn(self.group, Kind::Disk, Box::pin(task));
        Box::pin(async move { drop(answered.await) })
    }

    fn dial<'a>(&'a self, _: &'a str, to: &'a NodeName) -> BoxFuture<'a, Result<Link, NetError>> {
        Box::pin(async move {
            let refused = || NetError::Io(io::ErrorKind::ConnectionRefused.into());
            self.network.dial(&self.name, to).await.ok_or_else(refused)
        })
    }
}

/// The register as this node sees it: a grant counts by the node's own clock, from before it asked.
pub struct SimCoordinator {
    pub machine: Arc<SimMachine>,
    pub register: Memory,
}

impl Coordinator for SimCoordinator {
    fn read(&self) -> BoxFuture<'_, Read> {
        self.register.read()
    }

    fn cas(&self, expect: Option<Version>, new: Register) -> BoxFuture<'_, Cas> {
        self.register.cas(expect, new)
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Lease> {
        Box::pin(async move {
            let asked = self.machine.now();
            match self.register.renew(epoch).await {
                Lease::Granted { .. } => Lease::Granted { until: asked + self.register.lease().mul_f64(0.8) },
                other => other,
            }
        })
    }

    fn vacant(&self) -> BoxFuture<'_, ()> {
        self.register.vacant()
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        self.register.release()
    }

    fn lease(&self) -> Duration {
        self.register.lease()
    }

    fn describe(&self) -> String {
        self.register.describe()
    }
}
