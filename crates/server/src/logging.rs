//! Where log lines go (standard error) and which are written.

use std::io::IsTerminal;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// `info`, or with parts of their own: `info,gateway=debug`.
pub fn parse(text: &str) -> Result<Targets, String> {
    for directive in text.split(',') {
        let level = directive.rsplit('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !LEVELS.contains(&level.as_str()) {
            return Err(format!(
                "'{directive}' is not a log level: right would be error, warn, info, debug or trace, or info,gateway=debug"
            ));
        }
    }
    text.parse().map_err(|error| format!("'{text}' is not a log filter: {error}"))
}

pub fn init(text: &str) -> Result<(), String> {
    let mut filter = parse(text)?;
    // It says much, some of it as errors, of what its user knows and has said better: a voter that is out of reach, each heartbeat anew.
    if !text.contains("openraft") {
        filter = filter.with_target("openraft", tracing_subscriber::filter::LevelFilter::OFF);
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn levels_are_checked() {
        for good in ["info", "DEBUG", "off", "info,gateway=debug", "warn,mqtt=trace,journal=info"] {
            assert!(super::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "verbose", "info,gateway=loud", "gateway"] {
            assert!(super::parse(bad).is_err(), "{bad}");
        }
    }
}
