//! Times that come again and again, written down as five fields: minute, hour, day of the month, month, day of the week (0 is Sunday).
//!
//! Fields are read as cron reads them: `*`, lists, ranges, steps, names of months and days; where both days are given one of them is
//! enough. The time zone is the machine's; what falls into the hour that summer time skips comes when that hour is over. Behind the
//! fields may stand `+MS`: so many milliseconds later.

use chrono::{DateTime, Local, TimeZone};
use croner::parser::{CronParser, Seconds, Year};

/// The longest text that is read.
const LEN_MAX: usize = 1024;

const FIELDS: [&str; 5] = ["Minutes", "Hours", "DayOfMonth", "Month", "DayOfWeek"];

#[derive(Clone, Debug)]
pub struct Cron {
    times: croner::Cron,
    later_ms: u64,
}

impl Cron {
    /// No later than so many ms (40 days) behind its time does anything come.
    pub const LATER_MAX_MS: u64 = 40 * 86_400_000;

    /// What is wrong with it is said in ActiveMQ's words.
    pub fn parse(text: &str) -> Result<Cron, String> {
        if text.len() > LEN_MAX {
            return Err(format!("Not a valid cron entry - longer than {LEN_MAX} bytes"));
        }
        let mut tokens: Vec<&str> = text.split_ascii_whitespace().collect();
        let later_ms = match tokens.last().filter(|_| tokens.len() == FIELDS.len() + 1).and_then(|last| last.strip_prefix('+')) {
            Some(later) => {
                tokens.pop();
                let ms = later.parse().ok().filter(|ms| *ms <= Cron::LATER_MAX_MS);
                ms.ok_or_else(|| format!("Invalid token: Later:+{later}"))?
            }
            None => 0,
        };
        if tokens.len() != FIELDS.len() {
            return Err(format!("Not a valid cron entry - wrong number of tokens({}): {text}", tokens.len()));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        for (n, token) in tokens.iter().enumerate() {
            let mut alone = ["*"; FIELDS.len()];
            alone[n] = token;
            // What is short for all five fields is none of them.
            if token.contains('@') || parser.parse(&alone.join(" ")).is_err() {
                return Err(format!("Invalid token: {}:{token}", FIELDS[n]));
            }
        }
        let times = parser.parse(&tokens.join(" ")).map_err(|error| error.to_string())?;
        Ok(Cron { times, later_ms })
    }

    /// The first time for what begins now, both in ms since 1970. `None`: it never comes.
    pub fn first_after(&self, ms: u64) -> Option<u64> {
        self.next_in(&Local, ms)
    }

    /// The next time of what began long ago: what is still to come of an earlier time of the fields counts too.
    pub fn next_after(&self, ms: u64) -> Option<u64> {
        self.next_in(&Local, ms.saturating_sub(self.later_ms))
    }

    /// When what the fields say first behind this time comes.
    fn next_in<Tz: TimeZone + 'static>(&self, zone: &Tz, ms: u64) -> Option<u64> {
        let from = DateTime::from_timestamp_millis(i64::try_from(ms).ok()?)?.with_timezone(zone);
        let next = self.times.find_next_occurrence(&from, false).ok()?;
        u64::try_from(next.timestamp_millis()).ok()?.checked_add(self.later_ms)
    }
}

/// Any text: what is read has times that only grow.
#[doc(hidden)]
pub fn fuzz_cron(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(cron) = Cron::parse(text) else { return };
    let mut now = 1_800_000_000_000;
    let first = cron.first_after(now);
    assert!(first.is_none_or(|first| first > now + cron.later_ms), "{text:?}");
    for _ in 0..4 {
        let Some(next) = cron.next_after(now) else { return };
        assert!(next > now, "{text:?}");
        assert_eq!(cron.next_after(next - 1), Some(next), "{text:?}");
        now = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{FixedOffset, Utc};

    fn ms(text: &str) -> u64 {
        let at = DateTime::parse_from_rfc3339(text).expect("a time").timestamp_millis();
        at.try_into().expect("after 1970")
    }

    #[test]
    fn times_come_in_order() {
        // 2026-11-24 is a Tuesday.
        let rows = [
            ("* * * * *", "2026-11-24T09:00:00Z", "2026-11-24T09:01:00Z"),
            ("* * * * *", "2026-11-24T09:00:59.999Z", "2026-11-24T09:01:00Z"),
            ("* * * * * +2500", "2026-11-24T09:00:00Z", "2026-11-24T09:01:02.5Z"),
            ("*/20 9-17 * * 1-5", "2026-11-24T17:40:00Z", "2026-11-25T09:00:00Z"),
            ("5,35 8 * * *", "2026-11-24T08:06:00Z", "2026-11-24T08:35:00Z"),
            ("0 0 1 * *", "2026-11-24T09:00:00Z", "2026-12-01T00:00:00Z"),
            ("0 0 1 * sun", "2026-11-24T09:00:00Z", "2026-11-29T00:00:00Z"),
            ("0 0 29 2 *", "2026-11-24T09:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 12 * jan *", "2026-11-24T09:00:00Z", "2027-01-01T12:00:00Z"),
            ("0 12 * * 0", "2026-11-24T09:00:00Z", "2026-11-29T12:00:00Z"),
        ];
        for (text, now, next) in rows {
            let cron = Cron::parse(text).expect(text);
            assert_eq!(cron.next_in(&Utc, ms(now)), Some(ms(next)), "{text} after {now}");
        }
    }

    #[test]
    fn what_comes_later_is_still_to_come() {
        let now = ms("2026-11-24T09:00:00Z");
        let rows = [(2_500, now + 62_500, now + 2_500), (90_000, now + 150_000, now + 30_000), (60_000, now + 120_000, now + 60_000)];
        for (later, first, next) in rows {
            let cron = Cron::parse(&format!("* * * * * +{later}")).expect("an expression");
            assert_eq!((cron.first_after(now), cron.next_after(now)), (Some(first), Some(next)), "{later}");
            assert_eq!(cron.next_after(next), Some(next + 60_000));
        }
    }

    #[test]
    fn hours_are_those_of_the_zone() {
        let zone = FixedOffset::east_opt(2 * 3600).expect("a zone");
        let cron = Cron::parse("0 9 * * *").expect("an expression");
        assert_eq!(cron.next_in(&zone, ms("2026-11-24T06:59:00Z")), Some(ms("2026-11-24T07:00:00Z")));
        assert_eq!(cron.next_in(&zone, ms("2026-11-24T07:00:00Z")), Some(ms("2026-11-25T07:00:00Z")));
    }

    #[test]
    fn what_is_no_expression_says_where() {
        let rows = [
            ("", "Not a valid cron entry - wrong number of tokens(0): "),
            ("* * * *", "Not a valid cron entry - wrong number of tokens(4): * * * *"),
            ("0 * * * * *", "Not a valid cron entry - wrong number of tokens(6): 0 * * * * *"),
            ("@daily", "Not a valid cron entry - wrong number of tokens(1): @daily"),
            ("@daily * * * *", "Invalid token: Minutes:@daily"),
            ("60 * * * *", "Invalid token: Minutes:60"),
            ("* 24 * * *", "Invalid token: Hours:24"),
            ("* * 0 * *", "Invalid token: DayOfMonth:0"),
            ("* * * 13 *", "Invalid token: Month:13"),
            ("* * * * 8", "Invalid token: DayOfWeek:8"),
            ("x * * * *", "Invalid token: Minutes:x"),
            ("* * * * * +-1", "Invalid token: Later:+-1"),
            ("* * * * * +3456000001", "Invalid token: Later:+3456000001"),
        ];
        for (text, why) in rows {
            assert_eq!(Cron::parse(text).expect_err(text), why);
        }
        assert!(Cron::parse(&"*".repeat(LEN_MAX + 1)).is_err());
    }

    #[test]
    fn the_fuzz_corpus_passes() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/cron");
        let files: Vec<_> = std::fs::read_dir(folder).expect("the corpus").map(|file| file.expect("a file").path()).collect();
        assert!(files.len() >= 10);
        for file in files {
            let data = std::fs::read(&file).expect("its bytes");
            (0..=data.len()).for_each(|len| fuzz_cron(&data[..len]));
        }
    }

    /// A bad expression must not cost a thread much: what never comes is found out soon.
    #[test]
    fn what_never_comes_is_known_soon() {
        let begun = std::time::Instant::now();
        for text in ["0 0 30 2 *", "59 23 31 2,4,6,9,11 *"] {
            assert_eq!(Cron::parse(text).expect(text).next_in(&Utc, ms("2026-11-24T09:00:00Z")), None, "{text}");
        }
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }
}
