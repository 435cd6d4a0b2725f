//! `$SYS` over a socket: what the gateway counts and the core says.

use super::*;
use std::collections::HashMap;

/// SUBSCRIBE to `$SYS/#` at QoS 0.
const SUBSCRIBE: &[u8] = b"\x82\x0b\x00\x01\x00\x06$SYS/#\x00";

/// Collects values until `enough`, or panics with what it has.
fn values(stream: &mut TcpStream, enough: impl Fn(&HashMap<String, String>) -> bool) -> HashMap<String, String> {
    let mut said = HashMap::new();
    let start = Instant::now();
    while !enough(&said) {
        assert!(start.elapsed() < LIMIT, "{said:#?}");
        let (first, body) = packet(stream);
        if first >> 4 != 3 {
            continue;
        }
        let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let (topic, payload) = body[2..].split_at(len);
        said.insert(String::from_utf8(topic.to_vec()).expect("text"), String::from_utf8(payload.to_vec()).expect("text"));
    }
    said
}

#[test]
fn the_broker_speaks_of_itself_in_mosquittos_names() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("c.toml"), "[broker]\nsys_interval_secs = 1\n").expect("written");
    let carrick = start(dir.path(), &["--config", "c.toml", "--listen", "mqtt://127.0.0.1:0"]);
    let mut client = carrick.connect();
    assert_eq!(login(&mut client, CONNECT), CONNACK);
    client.write_all(&publish("a", b"x")).expect("sent");
    assert_eq!(packet(&mut client).0, 0x40);
    client.write_all(SUBSCRIBE).expect("sent");
    let number = |said: &HashMap<String, String>, topic: &str| -> f64 {
        said.get(&format!("$SYS/broker/{topic}")).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    let said = values(&mut client, |said| {
        number(said, "clients/connected") == 1.0 && number(said, "load/bytes/received/1min") > 0.0 && number(said, "bytes/sent") > 0.0
    });
    let client_bytes = (CONNECT.len() + publish("a", b"x").len()) as f64;
    assert!(number(&said, "bytes/received") >= client_bytes, "{said:#?}");
    assert_eq!(number(&said, "publish/messages/received"), 1.0, "{said:#?}");
    assert!(number(&said, "heap/maximum") >= number(&said, "heap/current") && number(&said, "heap/current") > 0.0);
    assert!(said["$SYS/broker/version"].starts_with("carrick version ") && said["$SYS/broker/uptime"].ends_with(" seconds"));
    for topic in ["load/sockets/15min", "load/connections/5min", "load/publish/dropped/1min", "store/messages/bytes", "clients/total"] {
        assert!(said.contains_key(&format!("$SYS/broker/{topic}")), "no {topic} in {said:#?}");
    }
}
