//! What a person sees at start. Programs read standard output; this goes to standard error.

use crate::config::Settings;
use gateway::{Endpoint, ListenUrl};
use std::fmt::Write;
use std::path::Path;

pub fn text(settings: &Settings, urls: &[ListenUrl], data_dir: &Path) -> String {
    let mut text = format!("carrick {}\n", env!("CARGO_PKG_VERSION"));
    for (i, url) in urls.iter().enumerate() {
        let _ = writeln!(text, "{} {url}", if i == 0 { "  listens at" } else { "            " });
    }
    let _ = writeln!(text, "  keeps data in {}", data_dir.display());
    let _ = writeln!(text, "  lets in {}", who(settings));
    let _ = writeln!(text, "  try it    {}", attempt(urls));
    text
}

fn who(settings: &Settings) -> String {
    let users = match settings.users.len() {
        0 => "guest (password guest, from this machine only)".to_owned(),
        1 => "1 user".to_owned(),
        n => format!("{n} users"),
    };
    match settings.allow_anonymous {
        Some(true) => format!("{users}, and anybody without credentials, from anywhere"),
        Some(false) => format!("{users}, and nobody without credentials"),
        None => format!("{users}, and from this machine also clients without credentials"),
    }
}

fn attempt(urls: &[ListenUrl]) -> String {
    let tcp = urls.iter().find_map(|url| match &url.endpoint {
        Endpoint::Tcp { host, port } => Some((host, port)),
        Endpoint::Unix(_) => None,
    });
    match tcp {
        Some((host, port)) => {
            let at = if host == "127.0.0.1" || host == "0.0.0.0" { String::new() } else { format!(" -h {host}") };
            format!("mosquitto_sub{at} -p {port} -t 'demo/#' -v   and, elsewhere,   mosquitto_pub{at} -p {port} -t demo/hello -m hi")
        }
        None => "connect a client to the socket".to_owned(),
    }
}
