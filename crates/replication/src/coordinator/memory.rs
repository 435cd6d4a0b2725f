//! A register in memory, for one process: what a simulation and tests put under their nodes. It keeps the contract, and does everything to its users
//! that the contract allows: answers late or not at all, does twice what was asked once, refuses.
//!
//! Its clock is told what time it is ([`MemoryCluster::set_now`]), and its futures need no runtime: with the same calls, the same faults and the
//! same times it answers the same.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::mutants::{self, Mutant};

use super::{grant, BoxFuture, Cas, Coordinator, Lease, NodeName, Read, Register, Version};

/// What a node asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Read,
    Cas,
    Renew,
    Vacant,
    Release,
}

/// What is done to a call on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It arrives after the first time, and its answer, of that moment, after the second: by then it may be stale.
    Slow(Duration, Duration),
    /// It never arrives.
    LostBefore,
    /// It is done, and the answer is lost.
    LostAfter,
    /// The answer is `Unknown` at once, and it is done later, unless the node has read before that.
    LostThenDone(Duration),
    /// It is done twice, and the second answer is given: a write that was won looks lost to the very register that it wrote.
    Doubled,
    /// The coordinator is not to be had: nothing is done, and the answer is `Unknown`, or `Refused` for a lease.
    Refused,
}

type Faults = Box<dyn FnMut(&NodeName, Call) -> Fault + Send>;

/// The one register, and the clock. Cheap to clone.
#[derive(Clone)]
pub struct MemoryCluster {
    shared: Arc<Mutex<Shared>>,
    lease: Duration,
}

/// The register as one node sees it.
pub struct Memory {
    cluster: MemoryCluster,
    me: NodeName,
}

struct Shared {
    now: Instant,
    stored: Option<(Version, Register)>,
    holder: Option<(NodeName, Instant)>,
    faults: Faults,
    /// Reads that a node has got an answer to: a write of it that was sent before and not done by then is done no more.
    reads: HashMap<NodeName, u64>,
    late: Vec<Late>,
    wakers: Vec<Waker>,
}

/// A write whose answer was `Unknown` before it was done.
struct Late {
    at: Instant,
    node: NodeName,
    reads: u64,
    expect: Option<Version>,
    new: Register,
}

impl MemoryCluster {
    pub fn new(lease: Duration, now: Instant) -> Self {
        let shared = Shared {
            now,
            stored: None,
            holder: None,
            faults: Box::new(|_, _| Fault::None),
            reads: HashMap::new(),
            late: Vec::new(),
            wakers: Vec::new(),
        };
        Self { shared: Arc::new(Mutex::new(shared)), lease }
    }

    pub fn node(&self, me: NodeName) -> Memory {
        Memory { cluster: self.clone(), me }
    }

    /// Asked once for each call, when it is first polled.
    pub fn set_faults(&self, faults: impl FnMut(&NodeName, Call) -> Fault + Send + 'static) {
        self.lock().faults = Box::new(faults);
    }

    /// Does what was due by then, and wakes whoever waits for a time. Time never goes back.
    pub fn set_now(&self, now: Instant) {
        let mut shared = self.lock();
        shared.now = shared.now.max(now);
        shared.do_late_writes();
        let wakers = std::mem::take(&mut shared.wakers);
        drop(shared);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub fn now(&self) -> Instant {
        self.lock().now
    }

    /// What an observer outside of the simulation sees.
    pub fn register(&self) -> Option<(Version, Register)> {
        self.lock().stored.clone()
    }

    /// Whose grant is in force.
    pub fn holder(&self) -> Option<NodeName> {
        let shared = self.lock();
        shared.holder.as_ref().filter(|(_, until)| shared.now < *until).map(|(node, _)| node.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn sleep_until(&self, at: Instant) {
        poll_fn(|context| {
            let mut shared = self.lock();
            if shared.now >= at {
                return Poll::Ready(());
            }
            shared.wakers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn fault(&self, me: &NodeName, call: Call) -> Fault {
        (self.lock().faults)(me, call)
    }

    /// Carries a call through its fault. `None`: no answer.
    async fn carry<T>(&self, fault: Fault, mut act: impl FnMut(&mut Shared) -> T + Send) -> Option<T> {
        match fault {
            Fault::None => Some(act(&mut self.lock())),
            Fault::Slow(before, after) => {
                let at = self.now() + before;
                self.sleep_until(at).await;
                let (answer, now) = {
                    let mut shared = self.lock();
                    (act(&mut shared), shared.now)
                };
                self.sleep_until(now + after).await;
                Some(answer)
            }
            Fault::Doubled => {
                let mut shared = self.lock();
                act(&mut shared);
                Some(act(&mut shared))
            }
            Fault::LostAfter => {
                act(&mut self.lock());
                None
            }
            // What is done later is a write; everything else that is lost is just lost.
            Fault::LostBefore | Fault::LostThenDone(_) | Fault::Refused => None,
        }
    }
}

impl Shared {
    fn cas(&mut self, expect: Option<Version>, new: Register) -> Cas {
        let current = self.stored.as_ref().map(|(version, _)| *version);
        let same_epoch = || self.stored.as_ref().is_some_and(|(_, register)| register.epoch == new.epoch);
        if current != expect && !(mutants::active(Mutant::CasByEpoch) && same_epoch()) {
            return Cas::Lost(self.stored.clone());
        }
        if let Err(refused) = Register::may_follow(self.stored.as_ref().map(|(_, register)| register), &new) {
            return Cas::Refused(refused);
        }
        let version = Version(current.map_or(1, |version| version.0 + 1));
        self.stored = Some((version, new));
        Cas::Won(version)
    }

    fn do_late_writes(&mut self) {
        let (now, late) = (self.now, std::mem::take(&mut self.late));
        let (mut due, waiting): (Vec<_>, Vec<_>) = late.into_iter().partition(|late| late.at <= now);
        self.late = waiting;
        due.sort_by_key(|late| late.at);
        for late in due {
            let unread = self.reads.get(&late.node).copied().unwrap_or(0) == late.reads;
            if unread || mutants::active(Mutant::CasByEpoch) {
                self.cas(late.expect, late.new);
            }
        }
    }

    fn renew(&mut self, me: &NodeName, epoch: u64, lease: Duration) -> bool {
        let named = self.stored.as_ref().is_some_and(|(_, register)| register.primary == *me && register.epoch == epoch);
        named && self.hold(me, lease)
    }

    /// Whether it is ours now.
    fn hold(&mut self, me: &NodeName, lease: Duration) -> bool {
        let free = self.holder.as_ref().is_none_or(|(holder, until)| holder == me || *until <= self.now);
        if free {
            self.holder = Some((me.clone(), self.now + lease));
        }
        free
    }
}

impl Coordinator for Memory {
    fn read(&self) -> BoxFuture<'_, Read> {
        Box::pin(async move {
            let act = |shared: &mut Shared| {
                *shared.reads.entry(self.me.clone()).or_default() += 1;
                shared.stored.clone()
            };
            let fault = self.cluster.fault(&self.me, Call::Read);
            self.cluster.carry(fault, act).await.map_or(Read::Unknown, Read::Known)
        })
    }

    fn cas(&self, expect: Option<Version>, new: Register) -> BoxFuture<'_, Cas> {
        Box::pin(async move {
            let fault = self.cluster.fault(&self.me, Call::Cas);
            if let Fault::LostThenDone(after) = fault {
                let mut shared = self.cluster.lock();
                let reads = shared.reads.get(&self.me).copied().unwrap_or(0);
                let late = Late { at: shared.now + after, node: self.me.clone(), reads, expect, new };
                shared.late.push(late);
                return Cas::Unknown;
            }
            self.cluster.carry(fault, |shared| shared.cas(expect, new.clone())).await.unwrap_or(Cas::Unknown)
        })
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Lease> {
        Box::pin(async move {
            let fault = self.cluster.fault(&self.me, Call::Renew);
            if fault == Fault::Refused {
                return Lease::Refused;
            }
            // The node counts from before it asked, and a fifth less than what is kept free for it.
            let until = self.cluster.now() + grant(self.cluster.lease);
            match self.cluster.carry(fault, |shared| shared.renew(&self.me, epoch, self.cluster.lease)).await {
                Some(true) => Lease::Granted { until },
                Some(false) => Lease::Refused,
                None => Lease::Unknown,
            }
        })
    }

    fn vacant(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                let fault = self.cluster.fault(&self.me, Call::Vacant);
                if self.cluster.carry(fault, |shared| shared.hold(&self.me, self.cluster.lease)).await == Some(true) {
                    return;
                }
                let again = self.cluster.now() + self.cluster.lease / 16;
                self.cluster.sleep_until(again).await;
            }
        })
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let act = |shared: &mut Shared| {
                if shared.holder.as_ref().is_some_and(|(holder, _)| *holder == self.me) {
                    shared.holder = None;
                }
            };
            let fault = self.cluster.fault(&self.me, Call::Release);
            self.cluster.carry(fault, act).await;
        })
    }

    fn lease(&self) -> Duration {
        self.cluster.lease
    }

    fn describe(&self) -> String {
        let holder = self.cluster.holder();
        let holder = holder.as_ref().map_or("nobody", NodeName::as_str);
        format!("in memory; the lease is with {holder}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{self, register, Rig};
    use super::*;
    use std::task::{Context, Waker};

    struct InMemory {
        cluster: MemoryCluster,
        clock: tokio::task::JoinHandle<()>,
    }

    impl InMemory {
        fn new() -> Self {
            let cluster = MemoryCluster::new(Duration::from_millis(200), Instant::now());
            let ticked = cluster.clone();
            let clock = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    ticked.set_now(Instant::now());
                }
            });
            Self { cluster, clock }
        }
    }

    impl Drop for InMemory {
        fn drop(&mut self) {
            self.clock.abort();
        }
    }

    impl Rig for InMemory {
        fn node<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, Arc<dyn Coordinator>> {
            let node: Arc<dyn Coordinator> = Arc::new(self.cluster.node(name.parse().unwrap()));
            Box::pin(async { node })
        }

        fn restart(&mut self) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_contract() {
        contract::all(|| async { InMemory::new() }).await;
    }

    fn now<T>(future: BoxFuture<'_, T>) -> Option<T> {
        let mut future = future;
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    fn pair() -> (MemoryCluster, Memory, Memory) {
        let cluster = MemoryCluster::new(Duration::from_millis(100), Instant::now());
        let (a, b) = (cluster.node("a".parse().unwrap()), cluster.node("b".parse().unwrap()));
        assert_eq!(now(a.cas(None, register(1, "a", &["a", "b"]))), Some(Cas::Won(Version(1))));
        (cluster, a, b)
    }

    fn once(cluster: &MemoryCluster, call: Call, fault: Fault) {
        let mut fault = Some(fault);
        cluster.set_faults(move |_, asked| if asked == call { fault.take().unwrap_or(Fault::None) } else { Fault::None });
    }

    #[test]
    fn without_a_runtime_a_grant_ends_exactly_when_the_clock_says_so() {
        let (cluster, a, b) = pair();
        let start = cluster.now();
        assert_eq!(now(a.renew(1)), Some(Lease::Granted { until: start + Duration::from_millis(80) }));
        assert_eq!(now(a.renew(2)), Some(Lease::Refused));
        let mut vacant = b.vacant();
        let context = &mut Context::from_waker(Waker::noop());
        for ms in [0, 50, 99] {
            cluster.set_now(start + Duration::from_millis(ms));
            assert!(vacant.as_mut().poll(context).is_pending(), "{ms}");
        }
        cluster.set_now(start + Duration::from_millis(106));
        assert!(vacant.as_mut().poll(context).is_ready());
        // It is kept free for whoever was told so.
        assert_eq!(now(a.renew(1)), Some(Lease::Refused));
        assert!(now(a.vacant()).is_none());
        now(b.release()).unwrap();
        assert!(now(a.vacant()).is_some());
    }

    #[test]
    fn every_fault_does_what_it_says() {
        let (cluster, a, b) = pair();
        let shrunk = || register(1, "a", &["a"]);
        let stands = || cluster.register().unwrap().0;

        once(&cluster, Call::Cas, Fault::LostBefore);
        assert_eq!((now(a.cas(Some(Version(1)), shrunk())), stands()), (Some(Cas::Unknown), Version(1)));
        once(&cluster, Call::Cas, Fault::LostAfter);
        assert_eq!((now(a.cas(Some(Version(1)), shrunk())), stands()), (Some(Cas::Unknown), Version(2)));
        once(&cluster, Call::Cas, Fault::Doubled);
        let doubled = now(a.cas(Some(Version(2)), shrunk()));
        assert_eq!((doubled, stands()), (Some(Cas::Lost(Some((Version(3), shrunk())))), Version(3)));
        once(&cluster, Call::Read, Fault::Refused);
        assert_eq!(now(a.read()), Some(Read::Unknown));
        once(&cluster, Call::Renew, Fault::Refused);
        assert_eq!(now(a.renew(1)), Some(Lease::Refused));

        // Done later, and only if it has not been asked about before that.
        let start = cluster.now();
        let later = |ms| cluster.set_now(start + Duration::from_millis(ms));
        once(&cluster, Call::Cas, Fault::LostThenDone(Duration::from_millis(10)));
        assert_eq!(now(a.cas(Some(Version(3)), shrunk())), Some(Cas::Unknown));
        assert_eq!(now(b.read()), Some(Read::Known(Some((Version(3), shrunk())))));
        later(10);
        assert_eq!(stands(), Version(4));
        once(&cluster, Call::Cas, Fault::LostThenDone(Duration::from_millis(10)));
        assert_eq!(now(a.cas(Some(Version(4)), shrunk())), Some(Cas::Unknown));
        assert_eq!(now(a.read()), Some(Read::Known(Some((Version(4), shrunk())))));
        later(30);
        assert_eq!(stands(), Version(4));

        // The answer of then, now.
        once(&cluster, Call::Read, Fault::Slow(Duration::from_millis(10), Duration::from_millis(10)));
        let mut slow = b.read();
        let context = &mut Context::from_waker(Waker::noop());
        assert!(slow.as_mut().poll(context).is_pending());
        later(40);
        assert!(slow.as_mut().poll(context).is_pending());
        assert_eq!(now(a.cas(Some(Version(4)), shrunk())), Some(Cas::Won(Version(5))));
        later(50);
        assert_eq!(slow.as_mut().poll(context), Poll::Ready(Read::Known(Some((Version(4), shrunk())))));
    }
}
