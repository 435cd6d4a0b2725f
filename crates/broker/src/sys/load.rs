//! Moving averages of counters, as Mosquitto computes them: events per minute, decaying over 1, 5 and 15 minutes.

/// Names below `$SYS/broker/load/`, in the order of [`Counts`].
pub(super) const NAMES: [&str; 9] = [
    "bytes/received",
    "bytes/sent",
    "connections",
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "sockets",
];
pub(super) const WINDOWS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// Counters since the start.
pub(super) type Counts = [u64; NAMES.len()];

/// A shorter time says little about a minute; it is added to the next.
const SHORTEST_MS: u64 = 500;

#[derive(Default)]
pub(super) struct Load {
    seen_ms: u64,
    seen: Counts,
    averages: [[f64; WINDOWS.len()]; NAMES.len()],
}

impl Load {
    pub fn starting(now_ms: u64) -> Load {
        Load { seen_ms: now_ms, ..Load::default() }
    }

    pub fn update(&mut self, now_ms: u64, counts: Counts) {
        let elapsed_ms = now_ms.saturating_sub(self.seen_ms);
        if elapsed_ms < SHORTEST_MS {
            return;
        }
        let elapsed_secs = elapsed_ms as f64 / 1000.0;
        for (i, averages) in self.averages.iter_mut().enumerate() {
            let per_minute = counts[i].saturating_sub(self.seen[i]) as f64 * 60.0 / elapsed_secs;
            for (average, (_, window_secs)) in averages.iter_mut().zip(WINDOWS) {
                *average = per_minute + (-elapsed_secs / window_secs).exp() * (*average - per_minute);
            }
        }
        self.seen_ms = now_ms;
        self.seen = counts;
    }

    /// Topic and value of each average.
    pub fn values(&self) -> impl Iterator<Item = (String, String)> + '_ {
        NAMES.iter().zip(&self.averages).flat_map(|(name, averages)| {
            averages
                .iter()
                .zip(WINDOWS)
                .map(move |(average, (window, _))| (format!("$SYS/broker/load/{name}/{window}"), format!("{average:.2}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(per_second: u64, secs: u64) -> Load {
        let mut load = Load::starting(1_000_000);
        for tick in (10..=secs).step_by(10) {
            load.update(1_000_000 + tick * 1000, [tick * per_second; NAMES.len()]);
        }
        load
    }

    #[test]
    fn a_steady_flow_is_reached_after_each_window() {
        let load = steady(5, 60);
        // 1 - 1/e of 300 per minute after one window; the longer windows lag.
        assert!((load.averages[0][0] - 300.0 * (1.0 - (-1.0f64).exp())).abs() < 0.01, "{:?}", load.averages[0]);
        assert!((load.averages[0][1] - 300.0 * (1.0 - (-0.2f64).exp())).abs() < 0.01, "{:?}", load.averages[0]);
        let long = steady(5, 7200);
        assert!(long.averages.iter().flatten().all(|average| (average - 300.0).abs() < 0.2), "{:?}", long.averages[8]);
    }

    #[test]
    fn silence_decays_and_a_moment_is_not_extrapolated() {
        let mut load = steady(5, 600);
        let before = load.averages[3][0];
        load.update(1_600_100, [1_000_000; NAMES.len()]);
        assert_eq!(load.averages[3][0], before, "100 ms are added to the next time");
        let mut silent = steady(5, 600);
        silent.update(1_660_000, [3000; NAMES.len()]);
        assert!((silent.averages[3][0] - before / std::f64::consts::E).abs() < 0.01);
        assert!(silent.values().any(|(topic, value)| topic == "$SYS/broker/load/sockets/15min" && value.parse::<f64>().is_ok()));
    }
}
