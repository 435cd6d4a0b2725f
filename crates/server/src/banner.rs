//! What a person sees at start. Programs read standard output; this goes to standard error.

use crate::config::Settings;
use gateway::{Endpoint, ListenUrl};
use std::fmt::Write;
use std::path::Path;

/// `named`: users, and whether permissions let clients without credentials do anything.
pub fn text(settings: &Settings, named: (usize, bool), urls: &[ListenUrl], data_dir: &Path) -> String {
    let mut text = format!("carrick {}\n", env!("CARGO_PKG_VERSION"));
    for (i, url) in places(urls).iter().enumerate() {
        let _ = writeln!(text, "{} {url}", if i == 0 { "  listens at" } else { "            " });
    }
    let _ = writeln!(text, "  keeps data in {}", data_dir.display());
    let _ = writeln!(text, "  lets in {}", who(settings.allow_anonymous, named));
    let _ = writeln!(text, "  try it    {}", attempt(urls));
    text
}

/// Both loopback addresses of a port are one line, by the name that stands for both.
fn places(urls: &[ListenUrl]) -> Vec<String> {
    let at = |url: &ListenUrl, host: &str| match &url.endpoint {
        Endpoint::Tcp { port, .. } => ListenUrl { endpoint: Endpoint::Tcp { host: host.to_owned(), port: *port }, ..url.clone() },
        Endpoint::Unix(_) => url.clone(),
    };
    let mut lines: Vec<String> = Vec::new();
    for url in urls {
        let (v4, v6) = (at(url, "127.0.0.1"), at(url, "::1"));
        let line = match (*url == v4 || *url == v6) && v4 != v6 && urls.contains(&v4) && urls.contains(&v6) {
            true => at(url, "localhost").to_string(),
            false => url.to_string(),
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

fn who(allow_anonymous: Option<bool>, (users, anonymous): (usize, bool)) -> String {
    let users = match users {
        0 => "guest (password guest, from this machine only)".to_owned(),
        1 => "1 user".to_owned(),
        n => format!("{n} users"),
    };
    match allow_anonymous {
        _ if !anonymous => format!("{users}, and nobody without credentials"),
        Some(true) => format!("{users}, and anybody without credentials, from anywhere"),
        Some(false) => format!("{users}, and nobody without credentials"),
        None => format!("{users}, and from this machine also clients without credentials"),
    }
}

/// A command that needs no file: of MQTT if it is spoken, else of the first protocol that a command speaks.
fn attempt(urls: &[ListenUrl]) -> String {
    let tcp = |scheme: &str| {
        urls.iter().find_map(|url| match &url.endpoint {
            Endpoint::Tcp { host, port } if url.scheme == scheme => Some((reachable(host), *port)),
            _ => None,
        })
    };
    if let Some((host, port)) = tcp("mqtt").or_else(|| tcp("any")) {
        let at = if host == "127.0.0.1" { String::new() } else { format!(" -h {host}") };
        return format!("mosquitto_sub{at} -p {port} -t 'demo/#' -v   and, elsewhere,   mosquitto_pub{at} -p {port} -t demo/hello -m hi");
    }
    if let Some((host, port)) = tcp("amqp") {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let url = format!("-u amqp://{host}:{port}");
        return format!("amqp-declare-queue {url} -q demo; amqp-publish {url} -r demo -b hi; amqp-get {url} -q demo");
    }
    "connect a client to one of these".to_owned()
}

/// Where a client of this machine finds what listens at this address.
fn reachable(host: &str) -> &str {
    match host {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_try_fits_what_listens() {
        let tried = |urls: &[&str]| attempt(&urls.iter().map(|url| url.parse().expect("a URL")).collect::<Vec<ListenUrl>>());
        assert!(tried(&["amqp://127.0.0.1:5672", "mqtt://0.0.0.0:1884"]).starts_with("mosquitto_sub -p 1884 "));
        assert!(tried(&["mqtt://[::]:1884"]).starts_with("mosquitto_sub -h ::1 -p 1884 "));
        assert!(tried(&["amqp://[::1]:5672"]).starts_with("amqp-declare-queue -u amqp://[::1]:5672 -q demo;"));
        assert!(tried(&["ws://127.0.0.1:15675", "any://127.0.0.1:61616"]).starts_with("mosquitto_sub -p 61616 "));
        assert_eq!(tried(&["unix:/tmp/carrick"]), "connect a client to one of these");
    }

    #[test]
    fn who_comes_in_is_who_is_named() {
        assert_eq!(
            who(None, (0, true)),
            "guest (password guest, from this machine only), and from this machine also clients without credentials"
        );
        assert_eq!(who(None, (2, false)), "2 users, and nobody without credentials");
        assert_eq!(who(Some(true), (1, true)), "1 user, and anybody without credentials, from anywhere");
    }

    #[test]
    fn both_loopback_addresses_of_a_port_are_one_line() {
        let urls = ["mqtt://127.0.0.1:1", "mqtt://[::1]:1", "ws://127.0.0.1:2", "ws://[::1]:3", "any://0.0.0.0:4", "unix:/x"];
        let urls: Vec<ListenUrl> = urls.iter().map(|url| url.parse().expect("a URL")).collect();
        assert_eq!(places(&urls), ["mqtt://localhost:1", "ws://127.0.0.1:2", "ws://[::1]:3", "any://0.0.0.0:4", "unix:/x"]);
    }
}
