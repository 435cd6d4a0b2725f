//! The load tool against a broker of a few lines that can misbehave on request. Nothing installed is needed.

mod fake_broker;

use std::net::SocketAddr;

use clap::Parser;
use fake_broker::{start, Fault};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: bench::Args,
}

/// Runs the tool and returns its exit code: 0 when everything held.
fn bench(addr: SocketAddr, line: &str) -> i32 {
    let addr = addr.to_string();
    let words = ["bench"].into_iter().chain(line.split_whitespace()).chain(["--json", "--addr", &addr]);
    let cli = Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
    bench::run(cli.args).unwrap_or_else(|e| panic!("{line}: {e:#}"))
}

#[test]
fn an_honest_broker_passes_at_every_qos_in_both_versions() {
    let addr = start(Fault::None);
    for version in [3, 5] {
        for qos in 0..=2 {
            let line = format!(
                "throughput --version {version} --qos {qos} --size 16 --producers 3 --consumers 6 --topics 3 \
                 --window 20 --e2e-window 100 --count 3000 --duration 20"
            );
            assert_eq!(bench(addr, &line), 0, "{line}");
        }
    }
}

#[test]
fn the_flow_modes_pass() {
    let addr = start(Fault::None);
    for line in [
        "latency --qos 1 --rate 2000 --duration 0.3 --warmup 0.1",
        "fanout --consumers 10 --e2e-window 50 --duration 0.3 --warmup 0.1",
        "fanin --producers 10 --e2e-window 50 --duration 0.3 --warmup 0.1",
        "throughput --qos 1 --persistent --count 500 --duration 20",
        "throughput --consumers 0 --qos 1 --count 500 --duration 20",
        "connections --count 50 --settle 0.05 --idle 0.05 --subscribe --keep-alive 1",
    ] {
        assert_eq!(bench(addr, line), 0, "{line}");
    }
}

#[test]
fn the_offline_modes_pass() {
    let addr = start(Fault::None);
    for line in [
        "backlog --count 2000 --settle 0 --version 5",
        "backlog --count 2000 --settle 0 --sessions 7 --producers 2 --qos 2",
        "sessions --sessions 20 --messages 5 --settle 0",
        "sessions --sessions 1001 --messages 1 --settle 0",
        "sessions --sessions 20 --messages 5 --settle 0 --shared",
        "durable-fanout --sessions 30 --fan-count 4 --fan-rate 50 --rate 500 --duration 0.2",
        "subscribe-storm --clients 20 --subscriptions 10 --rate 500 --duration 0.2 --per-packet 3",
    ] {
        assert_eq!(bench(addr, line), 0, "{line}");
    }
}

#[test]
fn a_lost_message_is_noticed_where_the_protocol_forbids_it() {
    let addr = start(Fault::Lose(100));
    let line = "throughput --count 400 --duration 1 --drain-idle 0.3";
    assert_eq!(bench(addr, &format!("{line} --qos 0")), 0, "QoS 0 may lose");
    assert_eq!(bench(addr, &format!("{line} --qos 1")), 1);
    assert_eq!(bench(addr, &format!("{line} --qos 2")), 1);
    assert_eq!(bench(addr, "backlog --count 400 --settle 0 --drain-idle 0.3"), 1);
}

#[test]
fn a_repeated_message_is_noticed_where_the_protocol_forbids_it() {
    let addr = start(Fault::Repeat(100));
    let line = "throughput --count 400 --duration 1 --drain-idle 0.3";
    assert_eq!(bench(addr, &format!("{line} --qos 0")), 1);
    assert_eq!(bench(addr, &format!("{line} --qos 1")), 0, "QoS 1 may repeat");
    assert_eq!(bench(addr, &format!("{line} --qos 2")), 1);
}

#[test]
fn messages_out_of_order_are_noticed() {
    let addr = start(Fault::Swap(100));
    let line = "throughput --count 400 --duration 1 --drain-idle 0.3 --window 5";
    for qos in 0..=2 {
        assert_eq!(bench(addr, &format!("{line} --qos {qos}")), 1, "QoS {qos}");
    }
}

#[test]
fn messages_for_somebody_else_are_noticed() {
    let addr = start(Fault::Everybody);
    assert_eq!(bench(addr, "sessions --sessions 4 --messages 3 --settle 0 --drain-idle 0.3"), 1);
}

#[test]
fn a_broker_that_is_not_there_is_an_error_rather_than_a_hang() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let addr = addr.to_string();
    let cli = Cli::try_parse_from(["bench", "throughput", "--addr", &addr]).unwrap();
    let error = bench::run(cli.args).unwrap_err().to_string();
    assert!(error.contains("0 of 1 connections are ready"), "{error}");
}
