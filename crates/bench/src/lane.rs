//! A lane is a flow with its own pace, bounds and counters. Most modes have one; a steady flow beside a load is a second.

use hdrhistogram::Histogram;

use crate::clock::MILLI;

#[derive(Clone, Debug, Default)]
pub(crate) struct LaneConfig {
    /// Published and not yet delivered, over all producers of the lane; 0 is no bound.
    pub e2e_window: u64,
    /// Deliveries per publish.
    pub fan: u64,
    /// Between two publishes of the lane, nanoseconds; 0 is as fast as possible.
    pub interval: u64,
}

pub(crate) struct Lane {
    pub config: LaneConfig,
    pub publishing: bool,
    /// Indices of the connections that publish.
    pub producers: Vec<usize>,
    /// Who goes first next time.
    pub rotation: usize,
    /// Handed to the socket layer.
    pub published: u64,
    pub delivered: u64,
    pub confirmed: u64,
    /// Filters that a SUBACK has granted.
    pub subscribed: u64,
    pub latency: Histogram<u64>,
    pub confirm_latency: Histogram<u64>,
    /// Latencies count for messages whose intended send time lies in this span, nanoseconds.
    pub recording: Option<(u64, u64)>,
    pub first_delivery: Option<u64>,
    pub last_delivery: u64,
    forgiven: u64,
    progress: (u64, u64),
}

/// How long nothing may arrive before the end-to-end window stops waiting for what is out: lost messages must slow the
/// run down rather than end it.
const FORGIVE_AFTER: u64 = 300 * MILLI;

impl Lane {
    pub fn new(config: LaneConfig) -> Lane {
        Lane {
            config,
            publishing: false,
            producers: Vec::new(),
            rotation: 0,
            published: 0,
            delivered: 0,
            confirmed: 0,
            subscribed: 0,
            latency: histogram(),
            confirm_latency: histogram(),
            recording: None,
            first_delivery: None,
            last_delivery: 0,
            forgiven: 0,
            progress: (0, 0),
        }
    }

    /// How many more publishes the end-to-end window has room for.
    #[inline]
    pub fn room(&self) -> u64 {
        if self.config.e2e_window == 0 {
            return u64::MAX;
        }
        let fan = self.config.fan.max(1);
        (self.config.e2e_window * fan).saturating_sub(self.out()) / fan
    }

    fn out(&self) -> u64 {
        (self.published * self.config.fan.max(1)).saturating_sub(self.delivered + self.forgiven)
    }

    /// Called while the window is shut.
    pub fn forgive_if_stuck(&mut self, now: u64) {
        if self.progress.0 != self.delivered || self.progress.1 == 0 {
            self.progress = (self.delivered, now);
        } else if now - self.progress.1 > FORGIVE_AFTER {
            self.forgiven += self.out();
            self.progress.1 = now;
        }
    }

    #[inline]
    pub fn record_delivery(&mut self, sent_at: u64, now: u64) {
        if counts(self.recording, sent_at) {
            self.latency.saturating_record(now.saturating_sub(sent_at));
        }
    }

    #[inline]
    pub fn record_confirm(&mut self, sent_at: u64, now: u64) {
        self.confirmed += 1;
        if counts(self.recording, sent_at) {
            self.confirm_latency.saturating_record(now.saturating_sub(sent_at));
        }
    }

    pub fn start_recording(&mut self, now: u64) {
        self.latency.reset();
        self.confirm_latency.reset();
        self.recording = Some((now, u64::MAX));
    }

    /// What was sent before `now` still counts when it arrives later: a slow message must not drop out of the figure.
    pub fn stop_recording(&mut self, now: u64) {
        if let Some((_, end)) = &mut self.recording {
            *end = now;
        }
    }
}

#[inline]
fn counts(span: Option<(u64, u64)>, sent_at: u64) -> bool {
    span.is_some_and(|(from, to)| sent_at >= from && sent_at < to)
}

/// 1 us to 10 min at three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("constant bounds are in order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_to_end_window_counts_deliveries_and_forgives_a_stall() {
        let mut lane = Lane::new(LaneConfig { e2e_window: 10, fan: 3, interval: 0 });
        lane.published = 10;
        assert_eq!(lane.room(), 0);
        lane.delivered = 6;
        assert_eq!(lane.room(), 2);
        lane.forgive_if_stuck(1);
        lane.forgive_if_stuck(1 + FORGIVE_AFTER);
        assert_eq!(lane.room(), 2);
        lane.forgive_if_stuck(2 + FORGIVE_AFTER);
        assert_eq!(lane.room(), 10);
    }

    #[test]
    fn a_message_sent_in_the_span_counts_whenever_it_arrives() {
        let mut lane = Lane::new(LaneConfig::default());
        lane.record_delivery(50, 60);
        lane.start_recording(100);
        lane.record_delivery(99, 101);
        lane.record_delivery(100, 2_000_100);
        lane.stop_recording(200);
        lane.record_delivery(199, 5_000_199);
        lane.record_delivery(200, 201);
        assert_eq!(lane.latency.len(), 2);
        assert!(lane.latency.max() >= 5_000_000);
    }
}
