//! Time as the payloads carry it: nanoseconds of CLOCK_MONOTONIC, comparable between processes of one machine.

use rustix::time::{clock_gettime, ClockId};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const MILLI: u64 = 1_000_000;

pub(crate) fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * SECOND + t.tv_nsec as u64
}

/// Negative and absurd values become the nearest sensible one.
pub(crate) fn from_secs(secs: f64) -> u64 {
    (secs.clamp(0.0, 1e9) * SECOND as f64) as u64
}

pub(crate) fn to_secs(nanos: u64) -> f64 {
    nanos as f64 / SECOND as f64
}
