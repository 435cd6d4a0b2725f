//! Messages that come again and again: exchanges that delay, with an argument that names a header (`x-cron-header`).
//!
//! What has an expression there (see [`Cron`]) is held back until its first time. When it is due a copy goes where its bindings lead, and in
//! the same slot of the log another takes its place behind the exchange, with the delay until its next time: so a crash finds it held back
//! once, and each of its times in the queues at most once. The delay is decided here and stands in the record; who reads the log has no need
//! of a clock or a time zone. Times that passed while nobody served are one.

use crate::core::Shared;
use crate::exchange::{Exchange, LazyHeaders};
use crate::routing::exchange::{Headers, Value};
use broker_api::{Batch, Cron};

/// What is further ahead than this is looked at on the way: a delay has 32 bits.
/// Nothing of a time that was before the message came can be seen for one of its own then: no time is later than this.
const HOLD_MAX_MS: u64 = Cron::LATER_MAX_MS;

/// What has no time any more is held back so long, and then is gone.
const OVER_MS: u32 = 1;

/// A message of this kind is due.
pub(crate) struct Round {
    /// It is one of its times now; else it was only looked at on the way.
    pub fires: bool,
    /// How long it is held back from now on; `None`: that was the last time.
    pub again_ms: Option<u32>,
}

impl Shared {
    /// How long a message of this kind is held back, by when it came.
    pub fn first_hold(&self, exchange: &Exchange, batch: &Batch, index: u32) -> Option<u32> {
        let cron = self.cron_of(exchange, batch, index)?;
        let next = in_time(cron.first_after(batch.arrived_ms), batch.heads[index as usize].expires_ms);
        Some(next.map_or(OVER_MS, |next| hold(next, batch.arrived_ms)))
    }

    fn cron_of(&self, exchange: &Exchange, batch: &Batch, index: u32) -> Option<Cron> {
        let headers = LazyHeaders::of(self, batch, &batch.heads[index as usize]);
        match headers.get(exchange.cron_header.as_deref()?)? {
            Value::Bytes(text) => Cron::parse(std::str::from_utf8(&text).ok()?).ok(),
            _ => None,
        }
    }

    /// For what was held back; `None` where it has no expression.
    pub fn round(&self, exchange: &Exchange, batch: &Batch, index: u32) -> Option<Round> {
        let cron = self.cron_of(exchange, batch, index)?;
        let (now, head) = (self.now_ms(), &batch.heads[index as usize]);
        let due = batch.arrived_ms + u64::from(head.delay_ms);
        // What it was given as a delay is a time, or one of two marks.
        let is_time = (OVER_MS + 1..HOLD_MAX_MS as u32).contains(&head.delay_ms) || cron.next_after(due - 1) == Some(due);
        let fires = is_time && due <= now && in_time(Some(now), head.expires_ms).is_some();
        let again_ms = in_time(cron.next_after(now), head.expires_ms).map(|next| hold(next, now));
        Some(Round { fires, again_ms })
    }
}

/// This time, if the message lives so long.
fn in_time(time: Option<u64>, expires_ms: u64) -> Option<u64> {
    time.filter(|time| expires_ms == 0 || *time < expires_ms)
}

fn hold(next: u64, from: u64) -> u32 {
    // At least a tick: 0 would be no delay.
    next.saturating_sub(from).clamp(1, HOLD_MAX_MS) as u32
}
