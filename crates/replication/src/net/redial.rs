use std::time::Duration;

use super::NetError;

/// How long to wait before dialling again: soon at first, then up to a second; where a person has to change a setting first, five.
#[derive(Debug, Clone, Default)]
pub struct Redial {
    failures: u32,
}

impl Redial {
    const FIRST: Duration = Duration::from_millis(20);
    const LAST: Duration = Duration::from_secs(1);
    const SETTING: Duration = Duration::from_secs(5);

    pub fn after(&mut self, error: &NetError) -> Duration {
        if error.is_setting() {
            return Self::SETTING;
        }
        let wait = Self::FIRST.saturating_mul(1 << self.failures.min(10)).min(Self::LAST);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// A link stood and was of use.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}
