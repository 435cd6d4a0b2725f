//! Which web pages may connect.
//!
//! A browser lets any page open a WebSocket to any host, this machine's loopback included, and says which page it is in `Origin`. What a
//! page has no way to bring along, but the connection has, is where it comes from: clients of this machine are let in more easily (`guest`,
//! no credentials). So where nothing is set, a connection from this machine is taken from pages of this machine only; one from elsewhere has to
//! log in anyway. Programs that are no browsers say no origin, or any they like, and are not meant by this.

/// `origins`, as it was written.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Origins(Option<Vec<String>>);

impl Origins {
    /// These and no others: `https://app.example`, `http://localhost:3000`, `null`, or `*` for all. `None`: what the module says.
    pub fn new(allowed: Option<Vec<String>>) -> Result<Origins, String> {
        for origin in allowed.iter().flatten() {
            let (scheme, host) = origin.split_once("://").unwrap_or(("", origin));
            let plain = !host.is_empty() && !host.contains(['/', '?', '#', ' ', '*']) && !scheme.is_empty();
            if origin != "*" && origin != "null" && !plain {
                return Err(format!(
                    "'{origin}' is no origin: right would be https://app.example, http://localhost:3000, \"null\" or \"*\""
                ));
            }
        }
        Ok(Origins(allowed))
    }

    /// May a page of this origin connect, from this machine or from elsewhere?
    pub fn allow(&self, origin: Option<&str>, from_here: bool) -> bool {
        let Some(origin) = origin else { return true };
        match &self.0 {
            Some(allowed) => allowed.iter().any(|one| one == "*" || one.eq_ignore_ascii_case(origin)),
            None => !from_here || is_of_here(origin),
        }
    }
}

/// A page that this machine serves. `null` is not one: any page can open a frame whose origin is that.
fn is_of_here(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    match host.parse::<std::net::IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        // RFC 6761, 6.3: both are the loopback to every browser.
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_elsewhere_do_not_reach_through_this_machine() {
        let default = Origins::default();
        for (origin, from_here, from_elsewhere) in [
            (None, true, true),
            (Some("http://localhost:3000"), true, true),
            (Some("http://app.localhost"), true, true),
            (Some("http://127.0.0.1"), true, true),
            (Some("https://[::1]:8443"), true, true),
            (Some("https://evil.example"), false, true),
            (Some("https://localhost.evil.example"), false, true),
            (Some("http://127.0.0.1.evil.example"), false, true),
            (Some("null"), false, true),
            (Some(""), false, true),
        ] {
            assert_eq!((default.allow(origin, true), default.allow(origin, false)), (from_here, from_elsewhere), "{origin:?}");
        }
    }

    #[test]
    fn a_list_says_it_all() {
        let list = |origins: &[&str]| Origins::new(Some(origins.iter().map(ToString::to_string).collect()));
        let some = list(&["https://App.example", "null"]).expect("right");
        assert!(some.allow(Some("https://app.example"), true) && some.allow(Some("null"), false) && some.allow(None, false));
        assert!(!some.allow(Some("https://app.example:8443"), false) && !some.allow(Some("http://localhost"), true));
        assert!(list(&["*"]).expect("right").allow(Some("https://any.example"), true));
        for wrong in ["app.example", "https://", "https://app.example/", "https://*.example", ""] {
            assert!(list(&[wrong]).is_err(), "{wrong}");
        }
    }
}
