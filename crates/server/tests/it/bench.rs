//! `carrick bench` against `carrick serve` over AMQP 0-9-1 and STOMP; over MQTT it has tests of its own, against a broker that misbehaves.

use super::*;

/// The exit code, and what was said.
fn bench(addr: &str, line: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut arguments = vec!["bench"];
    arguments.extend(line.split_whitespace());
    arguments.extend(["--addr", addr]);
    let output = command(dir.path(), &arguments).output().expect("it runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code(), said.concat())
}

#[test]
fn the_amqp_modes_pass_and_clean_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = start(dir.path(), &["--listen", "amqp://127.0.0.1:0"]);
    let addr = carrick.urls[0].strip_prefix("amqp://").expect("a TCP listener");
    for line in [
        "throughput --proto amqp --qos 0 --size 16 --count 3000 --e2e-window 500",
        "throughput --proto amqp --qos 1 --size 1024 --count 2000 --window 256 --producers 4 --consumers 2 --topics 2",
        "throughput --proto amqp --qos 1 --count 500 --window 7 --prefetch 3 --delivery-mode 1",
        // Bodies of several reads.
        "throughput --proto amqp --qos 1 --size 131064 --count 60 --window 10",
        "latency --proto amqp --qos 1 --rate 2000 --window 2000 --duration 0.3 --warmup 0.1",
        "backlog --proto amqp --count 2000 --settle 0",
        "backlog --proto amqp --count 2000 --settle 0 --delivery-mode 1 --sessions 5 --producers 2",
        "connections --proto amqp --count 20 --settle 0 --idle 0.05",
        "queues --count 300 --channels 16 --settle 0",
        "queues --count 3 --channels 16 --settle 0",
    ] {
        let (code, said) = bench(addr, line);
        assert_eq!(code, Some(0), "{line}: {said}");
    }
    for line in ["fanout --proto amqp", "throughput --proto amqp --qos 2", "throughput --proto amqp --consumers 2"] {
        let (code, said) = bench(addr, line);
        assert!(code != Some(0) && said.contains("in AMQP "), "{line}: {said}");
    }
    // Its queues are gone: the same names once more are queues anew.
    for _ in 0..2 {
        let (code, said) = bench(addr, "backlog --proto amqp --count 10 --settle 0 --prefix again");
        assert_eq!(code, Some(0), "{said}");
    }
    assert_eq!(carrick.stop(), Some(0));
}

#[test]
fn the_stomp_modes_pass_in_both_dialects() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = start(dir.path(), &["--listen", "stomp://127.0.0.1:0", "--listen", "stomp://127.0.0.1:0?dialect=activemq"]);
    for url in &carrick.urls {
        let addr = url.strip_prefix("stomp://").and_then(|url| url.split('?').next()).expect("a TCP listener");
        for line in [
            "throughput --proto stomp --qos 0 --size 16 --count 3000 --e2e-window 500",
            "throughput --proto stomp --qos 1 --size 1024 --count 2000 --window 100 --producers 4 --consumers 2 --topics 2",
            "throughput --proto stomp --qos 1 --count 500 --window 7 --prefetch 3 --delivery-mode 1",
            // Bodies of several reads.
            "throughput --proto stomp --qos 1 --size 300000 --count 30 --window 10",
            "latency --proto stomp --qos 1 --rate 2000 --window 2000 --duration 0.3 --warmup 0.1",
            "backlog --proto stomp --count 1000 --settle 0 --sessions 5 --producers 2",
            "connections --proto stomp --count 20 --settle 0 --idle 0.05",
        ] {
            let (code, said) = bench(addr, line);
            assert_eq!(code, Some(0), "{line}: {said}");
        }
    }
    let addr = carrick.urls[0].strip_prefix("stomp://").expect("a TCP listener");
    for line in ["fanout --proto stomp", "throughput --proto stomp --qos 2"] {
        let (code, said) = bench(addr, line);
        assert!(code != Some(0) && said.contains("and STOMP "), "{line}: {said}");
    }
    // Whoever may not come in is told why.
    let (code, said) = bench(addr, "throughput --proto stomp --count 1 --user guest --password wrong");
    assert!(code != Some(0) && said.contains("Access refused for user 'guest'"), "{said}");
    assert_eq!(carrick.stop(), Some(0));
}

#[test]
fn every_protocol_passes_over_tls_and_websocket() {
    let dir = tempfile::tempdir().expect("a folder");
    let certificates = dir.path().join("tls");
    let made = command(dir.path(), &["tls", "dev", "--dir", certificates.to_str().expect("text")]).output().expect("it runs");
    assert!(made.status.success(), "{made:?}");
    let config = dir.path().join("carrick.toml");
    let file = |name: &str| certificates.join(name);
    let text = format!("[tls]\ncertificate = {:?}\nprivate_key = {:?}\n", file("server.pem"), file("server.key"));
    std::fs::write(&config, text).expect("written");
    let config = config.to_str().expect("text");
    let carrick = start(
        dir.path(),
        &["--config", config, "--listen", "ws://127.0.0.1:0", "--listen", "any+tls://127.0.0.1:0", "--listen", "any+tls://127.0.0.2:0"],
    );
    let port = |at: usize| carrick.urls[at].rsplit(':').next().expect("a port").to_owned();
    let (open, closed) = (format!("127.0.0.1:{}", port(0)), format!("localhost:{}", port(1)));
    let trust = format!("--tls-ca {}", file("ca.pem").display());
    for line in [
        "throughput --qos 1 --size 1024 --count 2000 --window 100",
        "throughput --qos 2 --size 70000 --count 50 --version 5",
        "throughput --proto amqp --qos 1 --size 70000 --count 50",
        "throughput --proto stomp --qos 1 --size 70000 --count 50",
        "connections --count 20 --settle 0 --idle 0.05 --subscribe",
    ] {
        for (addr, over) in [(&open, "--websocket".to_owned()), (&closed, trust.clone()), (&closed, format!("--websocket {trust}"))] {
            let line = format!("{line} {over}");
            let (code, said) = bench(addr, &line);
            assert_eq!(code, Some(0), "{line}: {said}");
        }
    }
    // Who is not the one that the certificate names is not spoken to; who has no TLS, and no such path, says so.
    for (addr, line, why) in [
        (&format!("127.0.0.2:{}", port(2)), &*trust, "certificate"),
        (&open, &*trust, "TLS"),
        (&open, "--websocket /nowhere", "WebSocket: refused with HTTP/1.1 404"),
    ] {
        let (code, said) = bench(addr, &format!("throughput --count 1 {line}"));
        assert!(code != Some(0) && said.contains(why), "{line}: {said}");
    }
    assert_eq!(carrick.stop(), Some(0));
}
