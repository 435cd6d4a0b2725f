//! A voter's word: for a while it helps nobody else to be primary.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::types::Serial;
use crate::coordinator::NodeName;

#[derive(Debug)]
pub struct Promise {
    lease: Duration,
    /// What this voter promised before it was restarted has run out by then.
    not_before: Instant,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    by: NodeName,
    serial: Serial,
    until: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Yes,
    /// Another node has this voter's word for so many milliseconds.
    Taken(NodeName, u64),
    /// This voter has been started just now.
    NotYet(u64),
    /// By this voter's register the node is not primary in that epoch.
    NotPrimary,
}

impl Promise {
    pub fn new(lease: Duration, now: Instant) -> Self {
        Self { lease, not_before: now + lease, held: None }
    }

    pub fn ask(&mut self, by: &NodeName, serial: Serial, now: Instant) -> Verdict {
        let millis = |left: Duration| left.as_millis() as u64 + 1;
        if now < self.not_before {
            return Verdict::NotYet(millis(self.not_before - now));
        }
        match &mut self.held {
            Some(held) if held.by == *by => {
                held.serial = held.serial.max(serial);
                held.until = now + self.lease;
            }
            Some(held) if now < held.until => return Verdict::Taken(held.by.clone(), millis(held.until - now)),
            held => *held = Some(Held { by: by.clone(), serial, until: now + self.lease }),
        }
        Verdict::Yes
    }

    /// Gives the word back, unless the node has asked again since.
    pub fn free(&mut self, by: &NodeName, serial: Serial) {
        if self.held.as_ref().is_some_and(|held| held.by == *by && held.serial <= serial) {
            self.held = None;
        }
    }

    pub fn holder(&self, now: Instant) -> Option<&NodeName> {
        self.held.as_ref().filter(|held| now < held.until).map(|held| &held.by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_and_can_be_given_back() {
        let (lease, start) = (Duration::from_millis(100), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let serial = |number| Serial { life: 1, number };
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut promise = Promise::new(lease, start);
        assert!(matches!(promise.ask(&a, serial(1), at(99)), Verdict::NotYet(_)));
        assert_eq!(promise.ask(&a, serial(2), at(100)), Verdict::Yes);
        assert_eq!(promise.ask(&b, serial(1), at(199)), Verdict::Taken(a.clone(), 2));
        assert_eq!(promise.ask(&a, serial(3), at(199)), Verdict::Yes);
        assert!(matches!(promise.ask(&b, serial(2), at(298)), Verdict::Taken(..)));
        // One that was overtaken, and one by somebody else.
        promise.free(&a, serial(2));
        promise.free(&b, serial(9));
        assert_eq!(promise.holder(at(298)), Some(&a));
        assert_eq!(promise.ask(&b, serial(3), at(299)), Verdict::Yes);
        assert!(matches!(promise.ask(&a, serial(4), at(299)), Verdict::Taken(..)));
        promise.free(&b, serial(3));
        assert_eq!(promise.ask(&a, serial(5), at(299)), Verdict::Yes);
    }
}
