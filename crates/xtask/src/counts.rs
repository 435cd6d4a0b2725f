//! What a suite did, read from what it printed: cargo's test summary lines and TAP lines.

use std::path::Path;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Names of what failed, and names with reasons of what was skipped.
    pub failures: Vec<String>,
    pub skips: Vec<String>,
}

impl Counts {
    pub fn add(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
    }

    pub fn fail(&mut self, name: impl Into<String>) {
        self.failed += 1;
        self.failures.push(name.into());
    }

    pub fn skip(&mut self, name: impl Into<String>) {
        self.skipped += 1;
        self.skips.push(name.into());
    }

    pub fn read(log: &Path) -> Counts {
        let bytes = std::fs::read(log).unwrap_or_default();
        Counts::parse(&String::from_utf8_lossy(&bytes))
    }

    pub fn parse(text: &str) -> Counts {
        let mut counts = Counts::default();
        for line in text.lines() {
            if let Some(summary) = line.strip_prefix("test result:") {
                counts.add_summary(summary);
            } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix("... FAILED")) {
                counts.failures.push(name.trim().to_string());
            } else if let Some(line) = TapLine::parse(line) {
                match line.result {
                    TapResult::Passed => counts.passed += 1,
                    TapResult::Failed => counts.fail(line.name),
                    TapResult::Skipped(reason) => counts.skip(format!("{} ({reason})", line.name)),
                }
            }
        }
        counts
    }

    /// ` ok. 3 passed; 1 failed; 2 ignored; ...`
    fn add_summary(&mut self, summary: &str) {
        for part in summary.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(amount), Some(what)) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next()) else { continue };
            match what {
                "passed" => self.passed += amount,
                "failed" => self.failed += amount,
                "ignored" => self.skipped += amount,
                _ => {}
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum TapResult {
    Passed,
    Failed,
    Skipped(String),
}

/// `ok - name`, `not ok - name`, `ok - name # SKIP reason`; a test number before the dash is allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct TapLine {
    pub name: String,
    pub result: TapResult,
}

impl TapLine {
    pub fn parse(line: &str) -> Option<TapLine> {
        let (ok, rest) = match line.strip_prefix("not ok") {
            Some(rest) => (false, rest),
            None => (true, line.strip_prefix("ok")?),
        };
        let rest = rest.strip_prefix(' ')?.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let rest = rest.strip_prefix('-').unwrap_or(rest).trim();
        let (name, directive) = match rest.split_once(" # SKIP") {
            Some((name, reason)) => (name.trim(), Some(reason.trim())),
            None => (rest, None),
        };
        let result = match (ok, directive) {
            (false, _) => TapResult::Failed,
            (true, Some(reason)) => TapResult::Skipped(reason.to_string()),
            (true, None) => TapResult::Passed,
        };
        Some(TapLine { name: name.to_string(), result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_are_counted() {
        let text = "running 3 tests\ntest a::b ... ok\ntest a::c ... FAILED\n\
            test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s\n\
            ok - v5/will\nnot ok - v5/retain: got 2 messages\nok 3 - v311/shared # SKIP the library has no filter for it\nokay, not tap\n";
        let counts = Counts::parse(text);
        assert_eq!((counts.passed, counts.failed, counts.skipped), (2, 2, 2));
        assert_eq!(counts.failures, ["a::c", "v5/retain: got 2 messages"]);
        assert_eq!(counts.skips, ["v311/shared (the library has no filter for it)"]);
    }
}
