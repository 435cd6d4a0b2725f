//! Time, and who runs when. One thread polls every task; which of those that could go on does, and how long each takes to get there, is drawn from
//! the seed. So the same seed gives the same run.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use journal::sim::Rng;
use replication::Task;

/// Between the moment in which a task may go on and that in which it does, at most.
const JITTER_NS: u64 = 120_000;

/// The tasks of one life of one node: they are paused together, and end together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Group(pub u64);

/// What a task waits for beside its wakers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Plain,
    /// It works on the disk, which may stall.
    Disk,
}

type Id = u64;

struct Slot {
    group: Group,
    kind: Kind,
    /// Away while it is polled.
    task: Option<Task>,
    /// It stands in the line of those that go on.
    queued: bool,
}

struct Inner {
    rng: Rng,
    now: Duration,
    /// Of tasks, timers and places in the line: equal times go in the order in which they came.
    next: u64,
    line: BTreeMap<(Duration, u64), Next>,
    tasks: HashMap<Id, Slot>,
    paused: HashSet<Group>,
    stalled: HashSet<Group>,
    /// Those that would have gone on.
    held: Vec<Id>,
    polls: u64,
}

enum Next {
    Poll(Id),
    Wake(Waker),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct World {
    inner: Arc<Mutex<Inner>>,
    base: Instant,
}

struct TaskWaker {
    world: std::sync::Weak<Mutex<Inner>>,
    id: Id,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if let Some(inner) = self.world.upgrade() {
            inner.lock().unwrap_or_else(PoisonError::into_inner).queue(self.id);
        }
    }
}

impl Inner {
    fn place(&mut self, at: Duration, next: Next) {
        self.next += 1;
        self.line.insert((at, self.next), next);
    }

    fn queue(&mut self, id: Id) {
        let Some(slot) = self.tasks.get_mut(&id) else { return };
        if !std::mem::replace(&mut slot.queued, true) {
            let at = self.now + Duration::from_nanos(self.rng.below(JITTER_NS));
            self.place(at, Next::Poll(id));
        }
    }

    fn is_held(&self, slot: &Slot) -> bool {
        self.paused.contains(&slot.group) || (slot.kind == Kind::Disk && self.stalled.contains(&slot.group))
    }

    fn release_held(&mut self) {
        for id in std::mem::take(&mut self.held) {
            if let Some(slot) = self.tasks.get_mut(&id) {
                slot.queued = false;
                self.queue(id);
            }
        }
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        let inner = Inner {
            rng: Rng::new(seed),
            now: Duration::ZERO,
            next: 0,
            line: BTreeMap::new(),
            tasks: HashMap::new(),
            paused: HashSet::new(),
            stalled: HashSet::new(),
            held: Vec::new(),
            polls: 0,
        };
        World { inner: Arc::new(Mutex::new(inner)), base: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.lock().now
    }

    /// When the beginning was, for what counts from an instant.
    pub fn base(&self) -> Instant {
        self.base
    }

    pub fn draw<T>(&self, of: impl FnOnce(&mut Rng) -> T) -> T {
        of(&mut self.lock().rng)
    }

    pub fn polls(&self) -> u64 {
        self.lock().polls
    }

    /// A number that nothing else here has.
    pub fn group(&self) -> Group {
        let mut inner = self.lock();
        inner.next += 1;
        Group(inner.next)
    }

    pub fn spawn(&self, group: Group, kind: Kind, task: Task) {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.tasks.insert(id, Slot { group, kind, task: Some(task), queued: false });
        inner.queue(id);
    }

    /// Wakes somebody at that time.
    pub fn wake_at(&self, at: Duration, waker: Waker) {
        let mut inner = self.lock();
        let at = at.max(inner.now);
        inner.place(at, Next::Wake(waker));
    }

    pub fn sleep(&self, time: Duration) -> Task {
        let until = self.elapsed() + time;
        Box::pin(Sleep { world: self.clone(), until, set: false })
    }

    /// None of its tasks goes on any more; none is left.
    pub fn kill(&self, group: Group) {
        let mut inner = self.lock();
        let mut ids: Vec<Id> = inner.tasks.iter().filter(|(_, slot)| slot.group == group).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let dead: Vec<Slot> = ids.iter().filter_map(|id| inner.tasks.remove(id)).collect();
        inner.paused.remove(&group);
        inner.stalled.remove(&group);
        // What they held may wake others, so not under the lock.
        drop(inner);
        drop(dead);
    }

    /// Every task holds the world, so none may stay in it.
    pub fn end(&self) {
        let mut inner = self.lock();
        let (tasks, line) = (std::mem::take(&mut inner.tasks), std::mem::take(&mut inner.line));
        drop(inner);
        drop((tasks, line));
    }

    pub fn pause(&self, group: Group, on: bool) {
        let mut inner = self.lock();
        if on {
            inner.paused.insert(group);
        } else {
            inner.paused.remove(&group);
            inner.release_held();
        }
    }

    pub fn is_paused(&self, group: Group) -> bool {
        self.lock().paused.contains(&group)
    }

    /// Its disk answers nothing.
    pub fn stall(&self, group: Group, on: bool) {
        let mut inner = self.lock();
        if on {
            inner.stalled.insert(group);
        } else {
            inner.stalled.remove(&group);
            inner.release_held();
        }
    }

    /// Lets everything happen that happens by then. `each` is called whenever time has moved, and ends the run by an error.
    pub fn run_until(&self, end: Duration, each: &mut dyn FnMut(Duration) -> Result<(), String>) -> Result<(), String> {
        loop {
            let mut inner = self.lock();
            let Some(entry) = inner.line.first_entry() else { break };
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let next = entry.remove();
            let moved = at > inner.now;
            inner.now = at.max(inner.now);
            drop(inner);
            if moved {
                each(at)?;
            }
            match next {
                Next::Wake(waker) => waker.wake(),
                Next::Poll(id) => self.poll(id),
            }
        }
        let mut inner = self.lock();
        inner.now = inner.now.max(end);
        Ok(())
    }

    fn poll(&self, id: Id) {
        let mut inner = self.lock();
        inner.polls += 1;
        let Some(slot) = inner.tasks.get(&id) else { return };
        if inner.is_held(slot) {
            inner.held.push(id);
            return;
        }
        let Some(slot) = inner.tasks.get_mut(&id) else { return };
        slot.queued = false;
        let Some(mut task) = slot.task.take() else { return };
        drop(inner);
        let waker = Waker::from(Arc::new(TaskWaker { world: Arc::downgrade(&self.inner), id }));
        let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
        let mut inner = self.lock();
        match (polled, inner.tasks.get_mut(&id)) {
            (Poll::Pending, Some(slot)) => slot.task = Some(task),
            (Poll::Ready(()), _) => drop(inner.tasks.remove(&id)),
            // Killed by what it did itself.
            (Poll::Pending, None) => {
                drop(inner);
                drop(task);
            }
        }
    }
}

struct Sleep {
    world: World,
    until: Duration,
    set: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.world.elapsed() >= self.until {
            return Poll::Ready(());
        }
        if !self.set {
            self.set = true;
            self.world.wake_at(self.until, context.waker().clone());
        }
        Poll::Pending
    }
}
