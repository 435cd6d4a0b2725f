//! Broker time: the log's last wall time, advanced by the boot-time clock and slewed to the wall clock by at most 5 %.
//!
//! So a step of the wall clock by a day expires nothing: it is reported once and then approached slowly.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::sys;

/// The two clocks of the machine; a simulation passes its own.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970, as the machine believes.
    fn wall_ms(&self) -> u64;
    /// Nanoseconds since boot, suspended time included. Never steps.
    fn boot_ns(&self) -> u64;
}

pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|since| since.as_millis() as u64).unwrap_or(0)
    }

    fn boot_ns(&self) -> u64 {
        sys::boot_ns()
    }
}

/// A step larger than this is worth a line in the log.
const STEP_MS: i64 = 10_000;
/// How often the slew is corrected; the error within one period is at most 5 % of it.
const PERIOD_NS: u64 = 100_000_000;

pub(crate) struct BrokerClock {
    state: Mutex<State>,
    /// Never goes back, whatever the slew does.
    last_ms: AtomicU64,
}

struct State {
    boot_ns: u64,
    broker_ns: u64,
    stepped: bool,
}

impl BrokerClock {
    /// Downtime is adopted here, once: after a stop the wall clock counts if it is ahead of the log.
    pub fn start(clock: &dyn Clock, last_in_log_ms: u64) -> Self {
        let now_ms = clock.wall_ms().max(last_in_log_ms);
        BrokerClock {
            state: Mutex::new(State { boot_ns: clock.boot_ns(), broker_ns: now_ms.saturating_mul(1_000_000), stepped: false }),
            last_ms: AtomicU64::new(now_ms),
        }
    }

    /// Begins again behind what the log has meanwhile: a standby has taken over.
    pub fn restart(&self, clock: &dyn Clock, last_in_log_ms: u64) {
        let now_ms = clock.wall_ms().max(last_in_log_ms).max(self.last_ms.load(Ordering::Relaxed));
        *self.state.lock() = State { boot_ns: clock.boot_ns(), broker_ns: now_ms.saturating_mul(1_000_000), stepped: false };
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    pub fn now_ms(&self, clock: &dyn Clock) -> u64 {
        let boot = clock.boot_ns();
        let ms = {
            let mut state = self.state.lock();
            let elapsed = boot.saturating_sub(state.boot_ns);
            if elapsed >= PERIOD_NS {
                state.slew(boot, elapsed, clock.wall_ms());
            }
            (state.broker_ns + boot.saturating_sub(state.boot_ns)) / 1_000_000
        };
        self.last_ms.fetch_max(ms, Ordering::Relaxed).max(ms)
    }
}

impl State {
    fn slew(&mut self, boot: u64, elapsed: u64, wall_ms: u64) {
        let plain = self.broker_ns + elapsed;
        let off_ms = wall_ms as i64 - (plain / 1_000_000) as i64;
        let stepped = off_ms.abs() > STEP_MS;
        if stepped && !self.stepped {
            tracing::warn!(off_ms, "the wall clock differs from broker time; it is approached by at most 5 %");
        }
        self.stepped = stepped;
        let bound = (elapsed / 20) as i64;
        let correction = off_ms.saturating_mul(1_000_000).clamp(-bound, bound);
        self.broker_ns = plain.saturating_add_signed(correction);
        self.boot_ns = boot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hands(AtomicU64, AtomicU64);
    impl Clock for Hands {
        fn wall_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
        fn boot_ns(&self) -> u64 {
            self.1.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_step_of_a_day_is_slewed_by_five_percent_and_never_runs_back() {
        let hands = Hands(AtomicU64::new(1_000_000), AtomicU64::new(5));
        let clock = BrokerClock::start(&hands, 400_000);
        assert_eq!(clock.now_ms(&hands), 1_000_000, "downtime is adopted at start");
        hands.0.fetch_add(86_400_000, Ordering::Relaxed);
        for second in 1..=100u64 {
            hands.1.fetch_add(1_000_000_000, Ordering::Relaxed);
            hands.0.fetch_add(1_000, Ordering::Relaxed);
            let now = clock.now_ms(&hands);
            assert!(now <= 1_000_000 + second * 1_051, "{now} ran ahead");
            assert!(now >= 1_000_000 + second * 1_000);
        }
        hands.0.store(0, Ordering::Relaxed);
        let mut before = clock.now_ms(&hands);
        for _ in 0..100 {
            hands.1.fetch_add(150_000_000, Ordering::Relaxed);
            let now = clock.now_ms(&hands);
            assert!(now >= before && now <= before + 150);
            before = now;
        }
    }

    #[test]
    fn a_wall_clock_behind_the_log_starts_at_the_log() {
        let hands = Hands(AtomicU64::new(10), AtomicU64::new(0));
        assert_eq!(BrokerClock::start(&hands, 5_000).now_ms(&hands), 5_000);
    }
}
