//! What listeners have in front of their protocol: TLS, with what files, and their reload; PROXY headers.

use crate::config::Settings;
use anyhow::{bail, Context, Result};
use gateway::{Front, ListenUrl, Proxy, ProxyVersion, Tls, TlsSettings};
use std::sync::Arc;
use tracing::{error, info};

/// Schemes with TLS, and what is spoken inside.
const SCHEMES: [(&str, &str); 5] = [("mqtts", "mqtt"), ("amqps", "amqp"), ("stomps", "stomp"), ("wss", "ws"), ("any+tls", "any")];
/// Takes whatever arrives, TLS too where there is a certificate.
const ANY: &str = "any";
/// Setting of every listener.
const PROXY: &str = "proxy";

/// The part of a listen URL that stands inside of TLS: its scheme without TLS, and the settings that are not TLS's.
pub fn inside(url: &ListenUrl) -> ListenUrl {
    let scheme = SCHEMES.iter().find(|(outer, _)| *outer == url.scheme).map_or(url.scheme.as_str(), |(_, inner)| inner);
    let of_front = |name: &str| name == PROXY || TlsSettings::NAMES.contains(&name);
    let settings = url.settings.iter().filter(|(name, _)| !of_front(name)).cloned().collect();
    ListenUrl { scheme: scheme.to_owned(), settings, ..url.clone() }
}

/// Whether the listener expects a PROXY header, and which.
pub fn proxy_of(url: &ListenUrl) -> Result<Option<ProxyVersion>> {
    let version = match url.setting(PROXY) {
        None => return Ok(None),
        Some("v1") => ProxyVersion::V1,
        Some("v2") => ProxyVersion::V2,
        Some("any") => ProxyVersion::Any,
        Some(other) => bail!("{url}: '{other}' is no version of the PROXY protocol; right would be proxy=v1, proxy=v2 or proxy=any"),
    };
    Ok(Some(version))
}

fn is_tls(url: &ListenUrl) -> bool {
    SCHEMES.iter().any(|(outer, _)| *outer == url.scheme)
}

/// What the URL says of TLS, over `[tls]`. `None`: the listener has none.
pub fn settings_of(url: &ListenUrl, base: &TlsSettings) -> Result<Option<TlsSettings>> {
    let mut own = base.clone();
    for (name, value) in url.settings.iter().filter(|(name, _)| TlsSettings::NAMES.contains(&name.as_str())) {
        if !is_tls(url) && url.scheme != ANY {
            let right = SCHEMES.iter().find(|(_, inner)| *inner == url.scheme).map_or("mqtts", |(outer, _)| outer);
            bail!("{url}: {}:// has no TLS, and so no '{name}'; right would be {right}://", url.scheme);
        }
        own.set(name, value).map_err(|right| anyhow::anyhow!("{url}: '{value}' is no {name}; right would be {right}"))?;
    }
    // Another certificate than that of [tls] has another key.
    if url.setting("certificate").is_some() && url.setting("private_key").is_none() {
        own.private_key = None;
    }
    if is_tls(url) && own.certificate.is_none() {
        bail!("{url}: there is no certificate to show; right would be certificate = \"FILE\" in [tls], or --tls-certificate FILE. `carrick tls dev` makes one to try");
    }
    Ok((is_tls(url) || url.scheme == ANY && own.certificate.is_some()).then_some(own))
}

/// Each set of files once, however many listeners use it.
#[derive(Default)]
pub struct Certificates(Vec<Arc<Tls>>);

impl Certificates {
    /// Those of all listeners.
    pub fn of(settings: &Settings) -> Result<Certificates> {
        let mut certificates = Certificates::default();
        for url in &settings.listen {
            certificates.front(url, settings)?;
        }
        Ok(certificates)
    }

    /// What comes in front of a listener's protocol.
    pub fn front(&mut self, url: &ListenUrl, settings: &Settings) -> Result<Front> {
        let from = settings.gateway.proxy_from.clone().into();
        let proxy = proxy_of(url)?.map(|version| Proxy { version, from });
        let Some(own) = settings_of(url, &settings.tls)? else { return Ok(Front { proxy, ..Front::default() }) };
        let known = self.0.iter().find(|tls| *tls.settings() == own).cloned();
        let tls = match known {
            Some(tls) => tls,
            None => {
                let tls = Arc::new(Tls::load(own).with_context(|| format!("no TLS for {url}"))?);
                self.0.push(tls.clone());
                tls
            }
        };
        Ok(match is_tls(url) {
            true => Front { proxy, tls: Some(tls), tls_if_asked: None },
            false => Front { proxy, tls: None, tls_if_asked: Some(tls) },
        })
    }

    /// Reads all files again. What is wrong is said, and what was read before stays.
    pub fn reload(&self) {
        let reload = |tls: &&Arc<Tls>| {
            let read = tls.reload();
            read.inspect_err(|error| error!(%error, "not reloaded: its listeners go on with what they have")).is_ok()
        };
        let read = self.0.iter().filter(reload).count();
        info!(read, of = self.0.len(), "certificates were read again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ListenUrl {
        text.parse().expect(text)
    }

    #[test]
    fn what_is_spoken_inside_keeps_its_own_settings() {
        let outer = url("stomps://127.0.0.1:1?dialect=activemq&client_auth=require&client_ca=/x/ca.pem");
        assert_eq!(inside(&outer).to_string(), "stomp://127.0.0.1:1?dialect=activemq");
        assert_eq!(inside(&url("any+tls://127.0.0.1:1")).scheme, "any");
        assert_eq!(inside(&url("mqtt://127.0.0.1:1")), url("mqtt://127.0.0.1:1"));
    }

    #[test]
    fn a_listener_s_settings_stand_over_the_section_s() {
        let base = TlsSettings { certificate: Some("a".into()), private_key: Some("b".into()), ..TlsSettings::default() };
        assert_eq!(settings_of(&url("mqtts://127.0.0.1:1"), &base).expect("right"), Some(base.clone()));
        assert_eq!(settings_of(&url("mqtt://127.0.0.1:1"), &base).expect("right"), None);
        assert!(settings_of(&url("mqtts://127.0.0.1:1"), &TlsSettings::default()).is_err(), "no certificate");
        assert_eq!(settings_of(&url("any://127.0.0.1:1"), &base).expect("right"), Some(base.clone()));
        assert_eq!(settings_of(&url("any://127.0.0.1:1"), &TlsSettings::default()).expect("right"), None);
        let own = settings_of(&url("mqtts://127.0.0.1:1?certificate=c&min_version=1.3"), &base).expect("right").expect("TLS");
        assert_eq!((own.certificate, own.private_key, own.min_version), (Some("c".into()), None, gateway::MinVersion::V13));
    }

    #[test]
    fn what_is_wrong_is_refused_with_what_would_be_right() {
        for (text, right) in [
            ("amqp://127.0.0.1:1?certificate=c", "right would be amqps://"),
            ("mqtts://127.0.0.1:1?client_auth=maybe", "none, request or require"),
            ("mqtts://127.0.0.1:1?min_version=1.1", "1.2 or 1.3"),
            ("mqtts://127.0.0.1:1?user_from=dn", "cn or san"),
        ] {
            let error = settings_of(&url(text), &TlsSettings::default()).expect_err(text).to_string();
            assert!(error.contains(right), "{error}");
        }
        let error = proxy_of(&url("mqtt://127.0.0.1:1?proxy=v3")).expect_err("no such").to_string();
        assert!(error.contains("proxy=v1, proxy=v2 or proxy=any"), "{error}");
    }
}
