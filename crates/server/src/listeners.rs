//! The listeners of this process: which schemes there are, and how the sockets are made.

use crate::config::Settings;
use anyhow::{bail, Result};
use gateway::{bind, Bound, ListenUrl, TlsSettings};
use tracing::debug;

/// Schemes that other work will add. Known ones get a better answer than unknown ones.
const LATER: [&str; 3] = ["https", "openwire", "tcp"];
/// For operators, not for clients.
const HTTP: &str = "http";
const RIGHT: &str =
    "right would be mqtt://, amqp://, stomp://, ws://, any://, with TLS mqtts://, amqps://, stomps://, wss://, any+tls://, http:// for operators, or unix:";

pub fn check_url(url: &ListenUrl, tls: &TlsSettings) -> Result<()> {
    for (n, (name, _)) in url.settings.iter().enumerate() {
        if url.settings[..n].iter().any(|(other, _)| other == name) {
            bail!("{url}: '{name}' is there twice; right would be once");
        }
    }
    crate::tls::settings_of(url, tls)?;
    crate::tls::proxy_of(url)?;
    let inside = crate::tls::inside(url);
    for (name, value) in &inside.settings {
        check_setting(&inside, name, value)?;
    }
    check_scheme(&inside)
}

fn check_scheme(url: &ListenUrl) -> Result<()> {
    match url.scheme.as_str() {
        "mqtt" | "amqp" | "stomp" | "ws" | "any" | "unix" | HTTP => Ok(()),
        later if LATER.contains(&later) => bail!("{url}: {later}:// is not yet supported; {RIGHT}"),
        other => bail!("{url}: '{other}' is no scheme that this program knows; {RIGHT}"),
    }
}

fn check_setting(url: &ListenUrl, name: &str, value: &str) -> Result<()> {
    const DIALECT: &str = "dialect=rabbitmq, dialect=activemq or dialect=native, and strict=true or strict=false";
    const DEFAULT: &str = "default=mqtt, default=stomp or default=amqp";
    const IDENTITY: &str = "product=RabbitMQ and version=3.13.7";
    match (url.scheme.as_str(), name) {
        ("stomp" | "ws" | "any", "dialect") if stomp::Dialect::named(value).is_some() => Ok(()),
        ("stomp" | "ws" | "any", "dialect") => bail!("{url}: '{value}' is no dialect; right would be {DIALECT}"),
        ("stomp" | "ws" | "any", "strict") if matches!(value, "true" | "false") => Ok(()),
        ("stomp" | "ws" | "any", "strict") => bail!("{url}: strict is '{value}'; right would be {DIALECT}"),
        ("amqp" | "ws" | "any", "product" | "version") if is_plain(value) => Ok(()),
        ("amqp" | "ws" | "any", "product" | "version") => {
            bail!("{url}: {name} is '{value}'; right would be up to 128 letters, digits and signs, without '%', like {IDENTITY}")
        }
        ("ws" | "any", "default") if ["mqtt", "stomp", "amqp"].contains(&value) => Ok(()),
        ("ws" | "any", "default") => bail!("{url}: '{value}' is not carried; right would be {DEFAULT}"),
        ("amqp", _) => bail!("{url}: AMQP has no setting '{name}'; right would be {IDENTITY}"),
        ("stomp", _) => bail!("{url}: STOMP has no setting '{name}'; right would be {DIALECT}"),
        (scheme @ ("ws" | "any"), _) => {
            bail!("{url}: {scheme}:// has no setting '{name}'; right would be {DEFAULT}, {DIALECT}, {IDENTITY}")
        }
        (scheme, _) => bail!("{url}: {scheme}:// has no settings; right would be nothing behind the port"),
    }
}

/// What a client is told as it stands in the URL: nothing in there is decoded, so nothing may look as if it were.
fn is_plain(value: &str) -> bool {
    value.len() <= 128 && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%')
}

/// For clients: listens everywhere, or says where it cannot.
pub fn bind_clients(settings: &Settings) -> Result<Vec<Bound>> {
    let all = bind_all(settings, |url| url.scheme != HTTP)?;
    if all.is_empty() && settings.default_listeners {
        bail!("none of the default listeners could be opened: this machine has neither 127.0.0.1 nor ::1; name an address with --listen");
    }
    Ok(all)
}

/// For operators, likewise.
pub fn bind_http(settings: &Settings) -> Result<Vec<Bound>> {
    bind_all(settings, |url| url.scheme == HTTP)
}

/// Default listeners may be missing at one address: not every machine has IPv6.
fn bind_all(settings: &Settings, which: impl Fn(&ListenUrl) -> bool) -> Result<Vec<Bound>> {
    let mut all = Vec::new();
    for url in settings.listen.iter().filter(|url| which(url)) {
        match bind(url, settings.gateway.backlog) {
            Ok(bound) => all.extend(bound),
            Err(error) if settings.default_listeners && error.is_unavailable() => debug!(%error, "skipped"),
            Err(error) if settings.default_listeners => bail!(
                "{error}. These are the default listeners; --listen URL (repeated), or listen = [...] in the file of --config, names others \
                 instead of them, with the ports that you choose"
            ),
            // It names its cause itself, so the cause is not chained again.
            Err(error) => bail!("{error}"),
        }
    }
    Ok(all)
}
