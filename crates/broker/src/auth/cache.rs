//! What the authenticator remembers between logins, all of it bounded: credentials that were verified or refused, and how often
//! logins from an address have failed.

use super::keyed::Digest;
use ahash::RandomState;
use broker_api::Peer;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Instant;

/// Digests of credentials, the most recently used ones. Two generations: the older is dropped as a whole when the younger is full, and
/// what is asked for in the older moves to the younger. So a lookup costs two probes and no list is kept.
pub(super) struct Recent {
    generations: Mutex<Generations>,
    half: usize,
}

#[derive(Default)]
struct Generations {
    young: HashSet<Digest, RandomState>,
    old: HashSet<Digest, RandomState>,
}

impl Generations {
    fn insert(&mut self, digest: Digest, half: usize) {
        if self.young.len() >= half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest);
    }
}

impl Recent {
    pub(super) fn new(bound: usize) -> Recent {
        Recent { generations: Mutex::new(Generations::default()), half: (bound / 2).max(1) }
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        let mut generations = self.generations.lock();
        if generations.young.contains(digest) {
            return true;
        }
        let known = generations.old.remove(digest);
        if known {
            generations.insert(*digest, self.half);
        }
        known
    }

    pub(super) fn insert(&self, digest: Digest) {
        self.generations.lock().insert(digest, self.half);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.len() + generations.old.len()
    }
}

/// Failures that an address may have at once, and how many it is forgiven per second. One slow hash per second and address is what an
/// attacker gets; a person who mistypes never notices.
const FAILURES_MAX: f32 = 30.0;
const FORGIVEN_PER_SEC: f32 = 1.0;
/// A quarter of the worker's queue, so that one address cannot fill it.
const QUEUED_MAX: u16 = 256;
/// Addresses share this many counters. A collision makes two addresses share a limit, which a keyed hash keeps unpredictable.
const COUNTERS: usize = 1024;

/// Who may have a slow hash computed.
pub(super) struct Failures {
    counters: Mutex<Vec<Counter>>,
    hash: RandomState,
}

#[derive(Clone, Copy)]
struct Counter {
    failures: f32,
    since: Instant,
    queued: u16,
}

/// An admitted login's counter. To be given back, once, with how the login ended.
pub(super) struct Admission(usize);

impl Failures {
    pub(super) fn new(now: Instant) -> Failures {
        let counter = Counter { failures: 0.0, since: now, queued: 0 };
        Failures { counters: Mutex::new(vec![counter; COUNTERS]), hash: RandomState::new() }
    }

    pub(super) fn admit(&self, peer: &Peer, now: Instant) -> Option<Admission> {
        let at = self.hash.hash_one(origin(peer)) as usize % COUNTERS;
        let counter = &mut self.counters.lock()[at];
        counter.forgive(now);
        if counter.queued >= QUEUED_MAX || counter.failures > FAILURES_MAX - 1.0 {
            return None;
        }
        counter.queued += 1;
        Some(Admission(at))
    }

    pub(super) fn finish(&self, admission: Admission, failed: bool, now: Instant) {
        let counter = &mut self.counters.lock()[admission.0];
        counter.forgive(now);
        counter.queued -= 1;
        if failed {
            counter.failures = (counter.failures + 1.0).min(FAILURES_MAX + f32::from(QUEUED_MAX));
        }
    }
}

impl Counter {
    fn forgive(&mut self, now: Instant) {
        let forgiven = now.saturating_duration_since(self.since).as_secs_f32() * FORGIVEN_PER_SEC;
        self.failures = (self.failures - forgiven).max(0.0);
        self.since = now;
    }
}

/// An IPv6 customer has a /64 at least, so the rest of the address tells nobody apart.
fn origin(peer: &Peer) -> u64 {
    match peer {
        Peer::Unix => u64::MAX,
        Peer::Tcp(addr) => match addr.ip().to_canonical() {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn digest(n: u32) -> Digest {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&n.to_le_bytes());
        digest
    }

    #[test]
    fn the_recent_ones_stay_and_the_bound_holds() {
        let recent = Recent::new(100);
        for n in 0..1000 {
            recent.insert(digest(n));
            assert!(recent.contains(&digest(0)), "what is used stays, at {n}");
            assert!(recent.len() <= 101, "{}", recent.len());
        }
        assert!(recent.contains(&digest(999)));
        assert!(!recent.contains(&digest(500)));
    }

    fn peer(ip: &str) -> Peer {
        Peer::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into())
    }

    #[test]
    fn an_address_that_fails_waits_and_is_forgiven() {
        let start = Instant::now();
        let failures = Failures::new(start);
        let bad = peer("192.0.2.1");
        let mut admitted = 0;
        while let Some(admission) = failures.admit(&bad, start) {
            failures.finish(admission, true, start);
            admitted += 1;
            assert!(admitted <= 30);
        }
        assert_eq!(admitted, 30);
        assert!(failures.admit(&bad, start + Duration::from_millis(900)).is_none());
        let later = start + Duration::from_secs(3);
        let again = (0..10).map_while(|_| failures.admit(&bad, later).map(|a| failures.finish(a, true, later))).count();
        assert_eq!(again, 3);
    }

    #[test]
    fn logins_that_succeed_are_not_limited_and_those_under_way_are() {
        let now = Instant::now();
        let failures = Failures::new(now);
        let good = peer("192.0.2.1");
        for _ in 0..1000 {
            let admission = failures.admit(&good, now).expect("admitted");
            failures.finish(admission, false, now);
        }
        let under_way: Vec<_> = std::iter::from_fn(|| failures.admit(&good, now)).take(1000).collect();
        assert_eq!(under_way.len(), usize::from(QUEUED_MAX));
        under_way.into_iter().for_each(|admission| failures.finish(admission, false, now));
        assert!(failures.admit(&good, now).is_some());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_a_mapped_address_as_itself() {
        assert_eq!(origin(&peer("2001:db8:1:2::1")), origin(&peer("2001:db8:1:2:ffff::9")));
        assert_ne!(origin(&peer("2001:db8:1:2::1")), origin(&peer("2001:db8:1:3::1")));
        assert_eq!(origin(&peer("::ffff:192.0.2.1")), origin(&peer("192.0.2.1")));
    }
}
