//! lapin against a broker, over AMQP 0-9-1. Prints a TAP line per scenario.

mod peer;
mod scenarios;

use std::process::ExitCode;

use crate::peer::LIMIT;

/// Runs itself once per scenario, so that a failure does not take the other scenarios along.
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => all(),
        ["hold", queue] => runtime().block_on(scenarios::hold(queue)),
        [name] => one(name),
        _ => ExitCode::from(2),
    }
}

fn all() -> ExitCode {
    let mut failed = false;
    for name in scenarios::NAMES {
        let status = peer::ourselves().arg(name).status().expect("a program can run itself");
        failed |= !status.success();
    }
    ExitCode::from(u8::from(failed))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

fn one(name: &str) -> ExitCode {
    if !scenarios::NAMES.contains(&name) {
        eprintln!("no scenario {name}");
        return ExitCode::from(2);
    }
    let failure = name.to_string();
    std::panic::set_hook(Box::new(move |panic| {
        let what = panic.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        println!("not ok - {failure}: {}", what.chars().take(400).collect::<String>());
        std::process::exit(1);
    }));
    runtime().block_on(async {
        tokio::time::timeout(LIMIT, scenarios::run(name)).await.expect("it ends in time");
    });
    println!("ok - {name}");
    // Whatever a scenario left behind ends with the process.
    std::process::exit(0)
}
