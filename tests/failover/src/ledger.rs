//! The clients' own record of what happened, on one clock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::checker::{self, Event, Producer, Verdict};

pub struct Ledger {
    zero: Instant,
    events: Mutex<Vec<Event>>,
    producers: Mutex<Vec<Producer>>,
    /// Of each node, when its latest confirms came.
    pub confirmed: AtomicU64,
    sent: AtomicU64,
    /// Publishers send nothing new from then on.
    pub closing: AtomicBool,
    /// A publisher that stays with one node gives up a connection on which nothing comes, too. Where a cable is pulled out and put back, the kernel
    /// would bring a confirm after seconds that was sent before.
    pub impatient: AtomicBool,
    /// What a client last complained of.
    trouble: Mutex<String>,
}

impl Ledger {
    pub fn open() -> Arc<Ledger> {
        Arc::new(Ledger {
            zero: Instant::now(),
            events: Mutex::default(),
            producers: Mutex::default(),
            confirmed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            impatient: AtomicBool::new(false),
            trouble: Mutex::default(),
        })
    }

    fn time(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.zero).as_micros() as u64
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// Its number, by which its messages are known.
    pub fn producer(&self, sends_again: bool, ordered: bool) -> u16 {
        let mut all = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
        let id = all.len() as u16 + 1;
        all.push(Producer { id, sends_again, ordered });
        id
    }

    pub fn sent(&self, producer: u16, n: u64) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.note(Event::Sent { producer, n, at: self.time(Instant::now()) });
    }

    pub fn confirmed(&self, producer: u16, n: u64, at: Instant, by: Option<usize>) {
        self.note(Event::Confirmed { producer, n, at: self.time(at), by });
        self.confirmed.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what was drained, in its order.
    pub fn drained(&self, text: &str, redelivered: bool) {
        let mut words = text.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let event = match (number(), number()) {
            (Some(producer), Some(n)) => Event::Drained { producer: producer as u16, n, redelivered },
            _ => Event::Garbage,
        };
        self.note(event);
    }

    pub fn total(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    pub fn unconfirmed(&self) -> u64 {
        self.sent.load(Ordering::Relaxed).saturating_sub(self.total())
    }

    pub fn complain(&self, what: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    pub fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first confirm after `since` by that node (to that producer): how long it took.
    pub fn first_confirm(&self, since: Instant, node: Option<usize>, producer: Option<u16>) -> Option<Duration> {
        let since = self.time(since);
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = None;
        // Confirms stand in the record in the order of their times but for the moment between a look at the clock and the record.
        for event in events.iter().rev() {
            match *event {
                Event::Confirmed { at, by, producer: who, .. } => {
                    if at + 1_000_000 < since {
                        break;
                    }
                    let meant = node.is_none_or(|node| by == Some(node)) && producer.is_none_or(|producer| producer == who);
                    if at >= since && meant {
                        first = Some(first.map_or(at, |first: u64| first.min(at)));
                    }
                }
                Event::Sent { .. } | Event::Drained { .. } | Event::Garbage => {}
            }
        }
        first.map(|at| Duration::from_micros(at - since))
    }

    /// The last confirm by that node since then: how long after.
    pub fn last_confirm(&self, since: Instant, node: usize) -> Option<Duration> {
        let since = self.time(since);
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let of_node = events.iter().filter_map(|event| match *event {
            Event::Confirmed { at, by: Some(by), .. } if by == node && at >= since => Some(at - since),
            _ => None,
        });
        of_node.max().map(Duration::from_micros)
    }

    /// The longest time since then, up to now, in which nobody was confirmed anything.
    pub fn longest_pause(&self, since: Instant) -> Duration {
        let (since, now) = (self.time(since), self.time(Instant::now()));
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times: Vec<u64> = events
            .iter()
            .filter_map(|event| match *event {
                Event::Confirmed { at, .. } if at >= since => Some(at),
                _ => None,
            })
            .collect();
        times.extend([since, now]);
        times.sort_unstable();
        Duration::from_micros(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
    }

    /// Confirmed messages of a producer, or of all.
    pub fn confirmed_of(&self, producer: Option<u16>) -> Vec<(u16, u64)> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let of = events.iter().filter_map(|event| match *event {
            Event::Confirmed { producer: who, n, .. } if producer.is_none_or(|wanted| wanted == who) => Some((who, n)),
            _ => None,
        });
        of.collect()
    }

    pub fn verdict(&self) -> Verdict {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        checker::check(&events, &self.producers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
