//! The listeners of this process: which schemes there are, and how the sockets are made.

use crate::config::Settings;
use anyhow::{bail, Result};
use gateway::{bind, Bound, ListenUrl};
use tracing::debug;

/// Schemes that other work will add. Known ones get a better answer than unknown ones.
const LATER: [&str; 11] = ["mqtts", "amqps", "stomps", "ws", "wss", "http", "https", "any", "anys", "openwire", "tcp"];

pub fn check_url(url: &ListenUrl) -> Result<()> {
    for (n, (name, value)) in url.settings.iter().enumerate() {
        check_setting(url, name, value)?;
        if url.settings[..n].iter().any(|(other, _)| other == name) {
            bail!("{url}: '{name}' is there twice; right would be once");
        }
    }
    match url.scheme.as_str() {
        "mqtt" | "amqp" | "stomp" | "unix" => Ok(()),
        later if LATER.contains(&later) => {
            bail!("{url}: {later}:// is not yet supported; right would be mqtt://, amqp://, stomp:// or unix:")
        }
        other => bail!("{url}: '{other}' is no scheme that this program knows; right would be mqtt://, amqp://, stomp:// or unix:"),
    }
}

fn check_setting(url: &ListenUrl, name: &str, value: &str) -> Result<()> {
    const RIGHT: &str = "right would be dialect=rabbitmq or dialect=activemq";
    match (url.scheme.as_str(), name) {
        ("stomp", "dialect") if stomp::Dialect::named(value).is_some() => Ok(()),
        ("stomp", "dialect") => bail!("{url}: '{value}' is no dialect; {RIGHT}"),
        ("stomp", _) => bail!("{url}: STOMP has no setting '{name}'; {RIGHT}"),
        (scheme, _) => bail!("{url}: {scheme}:// has no settings; right would be nothing behind the port"),
    }
}

/// Listens everywhere, or says where it cannot. Of the default listeners one may be missing: not every machine has IPv6.
pub fn bind_all(settings: &Settings) -> Result<Vec<Bound>> {
    let mut all = Vec::new();
    for url in &settings.listen {
        match bind(url, settings.gateway.backlog) {
            Ok(bound) => all.extend(bound),
            Err(error) if settings.default_listeners && error.is_unavailable() => debug!(%error, "skipped"),
            // It names its cause itself, so the cause is not chained again.
            Err(error) => bail!("{error}"),
        }
    }
    if all.is_empty() {
        bail!("none of the default listeners could be opened: this machine has neither 127.0.0.1 nor ::1; name an address with --listen");
    }
    Ok(all)
}
