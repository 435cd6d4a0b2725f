//! A core that echoes.

use broker_api::{
    Broker, ConnectionInfo, ConsumerIx, CoreSession, DeliverTo, Delivery, Entry, Event, EventBatch, QueueId, Refusal, Reply, Seq, Serial,
    Signal, Token, Turn,
};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Hands every publish back to its publisher as a delivery to consumer 1, and answers every command with `Reply::Ok`.
#[derive(Default)]
pub struct FakeBroker {
    sessions: Mutex<Vec<Handle>>,
    infos: Mutex<Vec<ConnectionInfo>>,
    refuse: AtomicBool,
}

/// A test's view of one connection, and its hand in it.
#[derive(Clone, Default)]
pub struct Handle(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    events: EventBatch,
    waker: Option<Waker>,
    turns: usize,
    publishes: usize,
    swaps: usize,
    written: usize,
    /// Told that nothing is left of what was swapped.
    all_written: bool,
    saturated: bool,
    keep_replies: bool,
    kept: Vec<Token>,
    serial: u64,
    disconnects: usize,
}

impl FakeBroker {
    pub fn new() -> Arc<FakeBroker> {
        Arc::default()
    }

    /// The connections so far, in order.
    pub fn sessions(&self) -> Vec<Handle> {
        self.sessions.lock().clone()
    }

    /// What the gateway said of each connection, in order.
    pub fn infos(&self) -> Vec<ConnectionInfo> {
        self.infos.lock().clone()
    }

    /// Refuse new connections.
    pub fn refuse(&self) {
        self.refuse.store(true, SeqCst);
    }

    /// Tells every session that the broker is going down.
    pub fn shutdown(&self) {
        for session in self.sessions() {
            session.push(Event::Signal(Signal::Shutdown));
        }
    }

    /// A session without a listener, for tests that drive a connection by hand.
    pub fn open(&self) -> (Handle, Box<dyn CoreSession>) {
        let handle = Handle::default();
        self.sessions.lock().push(handle.clone());
        (handle.clone(), Box::new(Echo(handle)))
    }
}

impl Broker for FakeBroker {
    fn connect(&self, info: ConnectionInfo) -> Result<Box<dyn CoreSession>, Refusal> {
        self.infos.lock().push(info);
        match self.refuse.load(SeqCst) {
            true => Err(Refusal::AccessRefused("the test says so".into())),
            false => Ok(self.open().1),
        }
    }
    fn now_ms(&self) -> u64 {
        1
    }
}

impl Handle {
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, waker) = {
            let mut state = self.0.lock();
            let result = change(&mut state);
            (result, state.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    pub fn push(&self, event: Event) {
        self.change(|state| state.events.events.push(event));
    }

    /// Answers to commands stay here until they are released.
    pub fn keep_replies(&self) {
        self.0.lock().keep_replies = true;
    }

    /// Lets kept answers go; how many there were.
    pub fn release_replies(&self) -> usize {
        self.change(|state| {
            let kept = std::mem::take(&mut state.kept);
            state.events.events.extend(kept.iter().map(|&token| ok(token)));
            kept.len()
        })
    }

    /// Stop or resume being read from. Resuming comes with an event, as the core promises.
    pub fn saturate(&self, saturated: bool) {
        self.change(|state| {
            state.saturated = saturated;
            if !saturated {
                state.events.events.push(Event::Signal(Signal::Unblocked));
            }
        });
    }

    pub fn turns(&self) -> usize {
        self.0.lock().turns
    }
    pub fn publishes(&self) -> usize {
        self.0.lock().publishes
    }
    pub fn swaps(&self) -> usize {
        self.0.lock().swaps
    }
    pub fn written(&self) -> usize {
        self.0.lock().written
    }
    pub fn all_written(&self) -> bool {
        self.0.lock().all_written
    }
    pub fn disconnects(&self) -> usize {
        self.0.lock().disconnects
    }
    /// Events that were not taken yet.
    pub fn waiting(&self) -> usize {
        self.0.lock().events.events.len()
    }
}

fn ok(token: Token) -> Event {
    Event::Reply(token, Box::new(Ok(Reply::Ok)))
}

struct Echo(Handle);

impl CoreSession for Echo {
    fn submit(&mut self, turn: &mut Turn) {
        let entries = std::mem::take(&mut turn.entries);
        let batch = Arc::new(turn.freeze(1));
        self.0.change(|state| {
            state.turns += 1;
            for entry in entries {
                match entry {
                    Entry::Publish { first, count } => {
                        let start = state.events.deliveries.len() as u32;
                        state.events.deliveries.extend((first..first + count).map(|index| Delivery {
                            seq: Seq(u64::from(index)),
                            index,
                            side: None,
                            attempts: 0,
                            level: 0,
                            flags: 0,
                        }));
                        let to = DeliverTo::Consumer(ConsumerIx(1));
                        state.events.events.push(Event::Run { to, queue: QueueId(1), batch: batch.clone(), start, count });
                        state.publishes += count as usize;
                        state.serial += u64::from(count);
                        let through = Serial(state.serial);
                        state.events.events.push(Event::Done { through });
                    }
                    Entry::Control(token, _) if state.keep_replies => state.kept.push(token),
                    Entry::Control(token, _) => state.events.events.push(ok(token)),
                    _ => {}
                }
            }
        });
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0 .0.lock();
        if state.events.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn swap(&mut self, into: &mut EventBatch) {
        assert!(into.is_empty(), "swap wants an empty batch");
        let mut state = self.0 .0.lock();
        state.swaps += 1;
        state.all_written = false;
        std::mem::swap(&mut state.events, into);
    }

    fn written(&mut self, bytes: usize) {
        let mut state = self.0 .0.lock();
        match bytes {
            usize::MAX => state.all_written = true,
            bytes => state.written += bytes,
        }
    }

    fn saturated(&self) -> bool {
        self.0 .0.lock().saturated
    }

    fn now_ms(&self) -> u64 {
        1
    }

    fn disconnect(&mut self) {
        self.0 .0.lock().disconnects += 1;
    }
}
