//! Compares the dependencies between our crates with the picture in docs/architecture.md.

use std::time::Duration;

use anyhow::{bail, Context as _, Result};
use serde_json::Value;

use crate::context::Context;
use crate::process;

/// Which of our crates may use which. A new arrow is a design decision: change docs/architecture.md in the same commit.
/// Test code may use any crate, and only test code may use `testkit`.
const ARROWS: &[(&str, &[&str])] = &[
    ("broker-api", &[]),
    ("broker", &["broker-api", "journal"]),
    ("journal", &[]),
    ("replication", &["journal"]),
    ("mqtt", &["broker-api"]),
    ("amqp091", &["broker-api"]),
    ("stomp", &["broker-api"]),
    ("websocket", &[]),
    ("gateway", &["broker-api", "websocket"]),
    ("admin", &["broker"]),
    ("simulation", &["broker-api", "broker", "journal", "replication", "mqtt"]),
    ("bench", &[]),
    ("server", EVERYTHING),
    ("testkit", &["broker-api", "broker", "journal"]),
    ("xtask", &[]),
];

const EVERYTHING: &[&str] =
    &["broker-api", "broker", "journal", "replication", "mqtt", "amqp091", "stomp", "websocket", "gateway", "admin", "simulation", "bench"];

/// Crates that decide and never do: no sockets, no runtime.
const WITHOUT_IO: &[&str] = &["broker-api", "mqtt", "amqp091", "stomp"];
const IO: &[&str] = &["tokio", "mio", "socket2", "async-std", "smol", "hyper"];

pub fn problems(context: &Context) -> Result<Vec<String>> {
    let log = context.dir("logs")?.join("metadata.json");
    let _ = std::fs::remove_file(&log);
    let mut command = context.cargo(&["metadata", "--format-version", "1", "--no-deps", "--quiet"]);
    command.env("CARGO_TERM_QUIET", "true");
    let outcome = process::run(command, &log, Duration::from_secs(60))?;
    let text = std::fs::read_to_string(&log)?;
    if !outcome.success {
        bail!("cargo metadata failed{}: {text}", outcome.why());
    }
    // Notes of cargo, if any, stand before the one line of JSON.
    let json = text.lines().find(|line| line.starts_with('{')).context("cargo metadata printed no JSON")?;
    Ok(compare(&serde_json::from_str(json).context("cargo metadata printed something else")?))
}

fn compare(metadata: &Value) -> Vec<String> {
    let none = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&none);
    let in_crates = |package: &&Value| package["manifest_path"].as_str().is_some_and(|path| path.contains("/crates/"));
    let ours: Vec<&str> = packages.iter().filter(in_crates).filter_map(|package| package["name"].as_str()).collect();
    let mut problems = Vec::new();
    for package in packages.iter().filter(in_crates) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            problems
                .push(format!("crate {name} is not in the picture: add it to docs/architecture.md and crates/xtask/src/tidy/arrows.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap_or(&none) {
            let to = dependency["name"].as_str().unwrap_or_default();
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            if ours.contains(&to) && !allowed.contains(&to) {
                problems.push(format!("{name} -> {to} is not in the picture (docs/architecture.md, crates/xtask/src/tidy/arrows.rs)"));
            }
            if WITHOUT_IO.contains(&name) && IO.contains(&to) {
                problems.push(format!("{name} -> {to}: {name} is handed bytes and time and does no I/O"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> = dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        json!({"name": name, "manifest_path": format!("/r/crates/{name}/Cargo.toml"), "dependencies": dependencies})
    }

    #[test]
    fn a_wrong_arrow_is_found_and_a_test_arrow_is_free() {
        let good = json!({"packages": [package("journal", &[("libc", None), ("testkit", Some("dev"))]), package("testkit", &[]),
            package("broker", &[("journal", None)])]});
        assert_eq!(compare(&good), Vec::<String>::new());
        let bad = json!({"packages": [package("journal", &[("broker", None)]), package("broker", &[("testkit", None)]), package("testkit", &[]),
            package("mqtt", &[("tokio", None)]), package("surprise", &[])]});
        let problems = compare(&bad);
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[0].starts_with("journal -> broker"));
        assert!(problems[1].starts_with("broker -> testkit"));
        assert!(problems[2].starts_with("mqtt -> tokio"));
        assert!(problems[3].contains("surprise"));
    }

    #[test]
    fn the_picture_has_no_cycle_and_no_unknown_end() {
        // Peel off crates whose arrows all lead to peeled ones; a cycle would be left over.
        let mut left: Vec<_> = ARROWS.iter().collect();
        let mut peeled: Vec<&str> = Vec::new();
        while let Some(at) = left.iter().position(|(_, to)| to.iter().all(|to| peeled.contains(to))) {
            peeled.push(left.remove(at).0);
        }
        assert!(left.is_empty(), "a cycle or an unknown crate among {left:?}");
    }
}
