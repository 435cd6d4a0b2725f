//! rumqttc against a broker, over MQTT 3.1.1 and 5, over TCP and WebSocket, with and without TLS. Prints a TAP line per scenario.

mod connection;
mod scenarios;
mod v4;
mod v5;

use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering::Relaxed;

/// Runs itself once per scenario: the workspace aborts on panic, and a failure must not take the other scenarios along.
fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if let (Some(tag), Some(name)) = (args.next(), args.next()) {
        return one(&tag, &name);
    }
    let ourselves = std::env::current_exe().expect("a program has a path");
    let mut failed = false;
    for (version, tag) in VERSIONS {
        for (name, _) in scenarios::of(version) {
            let status = Command::new(&ourselves).args([tag, name]).status().expect("a program can run itself");
            failed |= !status.success();
        }
    }
    failed |= !Command::new(&ourselves).args([ONCE, TLS]).status().expect("a program can run itself").success();
    ExitCode::from(u8::from(failed))
}

/// What is done once, for both versions.
const ONCE: &str = "once";
const TLS: &str = "tls";

const VERSIONS: [(u8, &str); 4] = [(4, "v311"), (5, "v5"), (4, "ws-v311"), (5, "ws-v5")];

fn one(tag: &str, name: &str) -> ExitCode {
    let version = VERSIONS.iter().find(|(_, known)| *known == tag).map_or(0, |(version, _)| *version);
    let found = scenarios::of(version).find(|(known, _)| *known == name);
    let (scenario, title): (fn(u8, &str), String) = match found {
        Some((_, scenario)) => (scenario, format!("{tag}/{name}")),
        None if (tag, name) == (ONCE, TLS) => (scenarios::tls, TLS.to_owned()),
        None => {
            eprintln!("no scenario {tag}/{name}");
            return ExitCode::from(2);
        }
    };
    connection::OVER_WEB.store(tag.starts_with("ws-"), Relaxed);
    let failure = title.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let what = panic.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        println!("not ok - {failure}: {}", what.chars().take(400).collect::<String>());
        std::process::exit(1);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    scenario(version, &format!("rs-{tag}-{name}"));
    println!("ok - {title}");
    // Whatever a scenario left behind ends with the process.
    std::process::exit(0)
}
