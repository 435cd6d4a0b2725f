//! Expiry in ticks of a tenth of a second, in 32 bits that go round: an entry stays small, and its expiry is exact to a tick.
//!
//! Two ticks are compared by their distance, which is less than half the round (6.8 years). An expiry further away than that is none. 0 says
//! "never"; the tick that would be 0 is 1.

pub(crate) const TICK_MS: u64 = 100;
/// Further away than this, nothing expires.
const FAR_TICKS: u64 = 1 << 30;

pub(crate) fn tick_of(ms: u64) -> u32 {
    (ms / TICK_MS) as u32
}

/// Has this tick come?
pub(super) fn is_due(tick: u32, now: u32) -> bool {
    tick != 0 && now.wrapping_sub(tick) as i32 >= 0
}

pub(super) fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// From now until a tick, 0 if it has come.
pub(crate) fn ms_until(tick: u32, now_ms: u64) -> u64 {
    let ticks = tick.wrapping_sub(tick_of(now_ms)) as i32;
    (u64::try_from(ticks).unwrap_or(0) * TICK_MS).saturating_sub(now_ms % TICK_MS)
}

/// The earlier of the message's own expiry and the queue's, rounded up.
pub(crate) fn expiry_tick(message_ms: u64, arrived_ms: u64, ttl_ms: Option<u64>) -> u32 {
    let queue_ms = ttl_ms.map_or(0, |ttl| arrived_ms.saturating_add(ttl));
    let ms = match (message_ms, queue_ms) {
        (0, other) | (other, 0) => other,
        (a, b) => a.min(b),
    };
    let tick = ms.div_ceil(TICK_MS);
    if ms == 0 || tick > arrived_ms / TICK_MS + FAR_TICKS {
        return 0;
    }
    (tick as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_exact_to_a_tick_and_never_early() {
        let tick = expiry_tick(1_000_050, 1_000_000, None);
        assert!(!is_due(tick, tick_of(1_000_099)) && is_due(tick, tick_of(1_000_100)));
        assert_eq!(ms_until(tick, 1_000_030), 70);
        assert_eq!(ms_until(tick, 1_000_100), 0);
        assert_eq!(ms_until(tick, 2_000_000), 0);
        assert_eq!(expiry_tick(1_000_500, 1_000_000, Some(200)), expiry_tick(1_000_200, 1_000_000, None));
        assert_eq!(expiry_tick(0, 1_000_000, None), 0);
    }

    #[test]
    fn it_goes_round() {
        let round = TICK_MS << 32;
        let now = round * 130 - 50;
        let tick = expiry_tick(now + 1_000, now, None);
        assert!(!is_due(tick, tick_of(now)) && !is_due(tick, tick_of(now + 900)) && is_due(tick, tick_of(now + 1_100)));
        assert_eq!(ms_until(tick, now), 1_050);
        assert_ne!(expiry_tick(round * 130, now, None), 0, "the tick that says never is left out");
        assert!(is_before(tick_of(now), tick));
    }

    #[test]
    fn what_is_years_away_does_not_expire() {
        let now = 1_700_000_000_000;
        assert_ne!(expiry_tick(now + 3 * 365 * 86_400_000, now, None), 0);
        assert_eq!(expiry_tick(now + 130 * 365 * 86_400_000, now, None), 0);
        assert_eq!(expiry_tick(u64::MAX, now, None), 0);
        assert_eq!(expiry_tick(0, now, Some(u64::MAX)), 0);
    }
}
