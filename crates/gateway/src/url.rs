//! What a user writes to say where to listen: `mqtt://127.0.0.1:1883`, `mqtt://[::1]:0`, `unix:/run/carrick.sock`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// A place to listen at, and the protocol that is spoken there, by its scheme.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenUrl {
    /// `mqtt`; for `unix:` alone, the default protocol.
    pub scheme: String,
    pub endpoint: Endpoint,
    /// What stands behind a `?`: names and values, which mean something to the protocol.
    pub settings: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// An address or a name that is resolved when it is bound. Port 0: any free one.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("'{url}' is not a listen URL: {why}; right would be mqtt://127.0.0.1:1883, mqtt://[::1]:1883, mqtt://127.0.0.1:0 (any free port) or unix:/path/to/socket")]
pub struct UrlError {
    pub url: String,
    pub why: &'static str,
}

impl ListenUrl {
    pub fn tcp(scheme: &str, host: &str, port: u16) -> ListenUrl {
        ListenUrl { scheme: scheme.to_owned(), endpoint: Endpoint::Tcp { host: host.to_owned(), port }, settings: Vec::new() }
    }

    /// What stands behind its `?` under this name.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// Can only this machine reach it? A name counts as remote unless it is `localhost`: it may resolve to anything.
    pub fn is_loopback(&self) -> bool {
        match &self.endpoint {
            Endpoint::Unix(_) => true,
            Endpoint::Tcp { host, .. } => match host.parse::<IpAddr>() {
                Ok(ip) => ip.to_canonical().is_loopback(),
                Err(_) => host.eq_ignore_ascii_case("localhost"),
            },
        }
    }
}

impl FromStr for ListenUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<ListenUrl, UrlError> {
        let fail = |why| UrlError { url: url.to_owned(), why };
        let (scheme, rest) = url.split_once(':').ok_or(fail("it has no scheme"))?;
        let scheme = scheme.to_ascii_lowercase();
        if !scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') || scheme.is_empty() {
            return Err(fail("its scheme is not a word"));
        }
        if scheme == "unix" {
            // unix:/path and unix:///path mean the same.
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return match path {
                "" => Err(fail("it has no path")),
                path => Ok(ListenUrl { scheme, endpoint: Endpoint::Unix(PathBuf::from(path)), settings: Vec::new() }),
            };
        }
        let rest = rest.strip_prefix("//").ok_or(fail("'//' does not follow the scheme"))?;
        let (authority, query) = rest.split_once('?').map_or((rest, None), |(authority, query)| (authority, Some(query)));
        let setting = |pair: &str| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(fail("what stands behind its '?' is not name=value, with '&' between several")),
        };
        let settings = query.map_or(Ok(Vec::new()), |query| query.split('&').map(setting).collect())?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '@', '?', '#']) {
            return Err(fail("it has more than a host and a port"));
        }
        let (host, port) = authority.rsplit_once(':').ok_or(fail("it has no port"))?;
        let port = port.parse().map_err(|_| fail("its port is not a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(fail("what stands in brackets is not an IPv6 address")),
            None if host.contains(':') => return Err(fail("an IPv6 address needs brackets")),
            None if host.is_empty() => return Err(fail("it has no host")),
            None => host,
        };
        Ok(ListenUrl { scheme, endpoint: Endpoint::Tcp { host: host.to_owned(), port }, settings })
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Unix(path) => write!(f, "{}:{}", self.scheme, path.display())?,
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "{}://[{host}]:{port}", self.scheme)?,
            Endpoint::Tcp { host, port } => write!(f, "{}://{host}:{port}", self.scheme)?,
        }
        for (n, (name, value)) in self.settings.iter().enumerate() {
            write!(f, "{}{name}={value}", if n == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_is_read_and_printed_back() {
        for (url, printed, loopback) in [
            ("mqtt://127.0.0.1:1883", "mqtt://127.0.0.1:1883", true),
            ("MQTT://127.9.9.9:0/", "mqtt://127.9.9.9:0", true),
            ("mqtt://[::1]:1883", "mqtt://[::1]:1883", true),
            ("mqtt://[::ffff:127.0.0.1]:1", "mqtt://[::ffff:127.0.0.1]:1", true),
            ("mqtt://localhost:1883", "mqtt://localhost:1883", true),
            ("stomp://127.0.0.1:1/?a=b&c=d=e", "stomp://127.0.0.1:1?a=b&c=d=e", true),
            ("mqtt://0.0.0.0:1883", "mqtt://0.0.0.0:1883", false),
            ("mqtt://[::]:1883", "mqtt://[::]:1883", false),
            ("mqtt://broker.example:1883", "mqtt://broker.example:1883", false),
            ("unix:/run/carrick.sock", "unix:/run/carrick.sock", true),
            ("unix:///run/carrick.sock", "unix:/run/carrick.sock", true),
        ] {
            let parsed: ListenUrl = url.parse().expect(url);
            assert_eq!((parsed.to_string().as_str(), parsed.is_loopback()), (printed, loopback));
        }
    }

    #[test]
    fn what_is_wrong_is_refused_with_a_reason() {
        for (url, why) in [
            ("1883", "no scheme"),
            ("mqtt:1883", "'//'"),
            ("mqtt://127.0.0.1", "no port"),
            ("mqtt://127.0.0.1:70000", "0 to 65535"),
            ("mqtt://:1883", "no host"),
            ("mqtt://::1:1883", "needs brackets"),
            ("mqtt://[127.0.0.1]:1883", "not an IPv6"),
            ("mqtt://u:p@host:1883", "more than a host"),
            ("mqtt://h:1?a", "name=value"),
            ("mqtt://h:1?", "name=value"),
            ("unix:", "no path"),
            ("mq tt://h:1", "not a word"),
        ] {
            let error = url.parse::<ListenUrl>().expect_err(url).to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
