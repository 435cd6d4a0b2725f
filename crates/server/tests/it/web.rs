//! WebSocket and `any://` in front of the real protocols, with tungstenite as the client.

use super::*;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

const HALF_OPEN: usize = 1000;
const ENDLESS: usize = 100;
/// A guest that says nothing, or half of its request, is a task and a small buffer; a stream of fragments is less. And slack.
const GROWTH_MAX_KIB: u64 = (8 * HALF_OPEN + 64 * ENDLESS) as u64 + 32_768;

struct House {
    carrick: Carrick,
    _dir: tempfile::TempDir,
}

fn house(urls: &[&str]) -> House {
    let dir = tempfile::tempdir().expect("a folder");
    let arguments: Vec<&str> = urls.iter().flat_map(|url| ["--listen", url]).collect();
    let carrick = start(dir.path(), &arguments);
    House { carrick, _dir: dir }
}

impl House {
    fn tcp(&self, listener: usize) -> TcpStream {
        let address = self.carrick.urls[listener].split_once("://").expect("a scheme").1;
        let stream = TcpStream::connect(address.split('?').next().expect("an address")).expect("connected");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream.set_write_timeout(Some(LIMIT)).expect("a timeout");
        stream
    }

    fn web(&self, listener: usize, path: &str, offers: &str) -> WebSocket<TcpStream> {
        let mut request = format!("ws://localhost{path}").into_client_request().expect("a request");
        if !offers.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", offers.parse().expect("words"));
        }
        tungstenite::client(request, self.tcp(listener)).expect("a handshake").0
    }
}

/// What comes, until it is this long.
fn gather(client: &mut WebSocket<TcpStream>, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let message = client.read().expect("a message");
        assert!(message.is_binary() || message.is_text(), "{message:?}");
        all.extend_from_slice(&message.into_data());
    }
    all
}

fn gather_text(client: &mut WebSocket<TcpStream>, end: &str) -> String {
    let mut all = String::new();
    while !all.contains(end) {
        all += client.read().expect("a message").to_text().expect("text");
    }
    all
}

const SUBSCRIBE: &[u8] = b"\x82\x08\x00\x01\x00\x03web\x00";

#[test]
fn one_port_takes_whatever_arrives() {
    let house = house(&["any://127.0.0.1:0"]);
    let mut mqtt = house.tcp(0);
    assert_eq!(login(&mut mqtt, CONNECT), CONNACK);

    let mut amqp = house.tcp(0);
    amqp.write_all(b"AMQP\x00\x00\x09\x01").expect("sent");
    let mut head = [0; 11];
    amqp.read_exact(&mut head).expect("connection.start");
    assert_eq!((head[0], &head[7..]), (1, &[0, 10, 0, 10][..]));

    let mut stomp = house.tcp(0);
    stomp.write_all(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0").expect("sent");
    let mut connected = [0; 9];
    stomp.read_exact(&mut connected).expect("CONNECTED");
    assert_eq!(&connected, b"CONNECTED");

    let mut web = house.web(0, "/ws", "mqttv3.1, mqtt");
    web.send(Message::binary([CONNECT, SUBSCRIBE].concat())).expect("sent");
    assert_eq!(gather(&mut web, 9), [CONNACK, b"\x90\x03\x00\x01\x00"].concat());
    // A byte at a time, so that the first bytes come in as many reads.
    let mut torn = house.tcp(0);
    torn.set_nodelay(true).expect("no delay");
    for byte in CONNECT {
        torn.write_all(&[*byte]).expect("sent");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut answer = [0; 4];
    torn.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, CONNACK);
    // TLS without a certificate, and what nobody speaks.
    for opening in [&b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"[..], b"SSH-2.0-x\r\n"] {
        let mut stranger = house.tcp(0);
        stranger.write_all(opening).expect("sent");
        assert_eq!(stranger.read(&mut [0]).unwrap_or(0), 0, "{}", opening.escape_ascii());
    }
    assert_eq!(house.carrick.stop(), Some(0));
}

#[test]
fn what_mqtt_publishes_in_frames_stomp_reads_in_frames_and_the_other_way() {
    let house = house(&["ws://127.0.0.1:0", "ws://127.0.0.1:0?default=stomp"]);
    let mut mqtt = house.web(0, "/ws", "");
    mqtt.send(Message::binary([CONNECT, SUBSCRIBE].concat())).expect("sent");
    gather(&mut mqtt, 9);
    let mut stomp = house.web(1, "/ws", "");
    stomp.send(Message::text("CONNECT\naccept-version:1.2\nhost:/\nheart-beat:0,0\n\n\0")).expect("sent");
    assert!(gather_text(&mut stomp, "\0").starts_with("CONNECTED\n"));
    stomp.send(Message::text("SUBSCRIBE\nid:1\ndestination:/topic/from\nreceipt:r\n\n\0")).expect("sent");
    assert!(gather_text(&mut stomp, "\0").contains("receipt-id:r"));

    stomp.send(Message::text("SEND\ndestination:/topic/web\n\ngrüße\0")).expect("sent");
    assert_eq!(gather(&mut mqtt, 14), [b"\x30\x0c\x00\x03web".as_slice(), "grüße".as_bytes()].concat());
    mqtt.send(Message::binary(publish("from", "zurück ✓".as_bytes()))).expect("sent");
    let message = gather_text(&mut stomp, "\0");
    assert!(message.starts_with("MESSAGE\n") && message.contains("\n\nzurück ✓\0"), "{message}");
    // What is not text comes as it is, in a binary frame.
    mqtt.send(Message::binary(publish("from", b"\xff\xfe"))).expect("sent");
    let binary = stomp.read().expect("a message");
    assert!(binary.is_binary() && binary.into_data().windows(4).any(|four| four == b"\n\xff\xfe\0"));
    // By the path, on either port.
    let mut amqp = house.web(1, "/amqp", "");
    amqp.send(Message::binary(b"AMQP\x00\x00\x09\x01".to_vec())).expect("sent");
    assert_eq!(gather(&mut amqp, 11)[7..11], [0, 10, 0, 10]);
}

/// A client's frame whose mask is zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0][..], payload].concat()
}

fn resident_kib(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn half_open_and_endless_clients_cost_little_and_hurt_nobody() {
    let house = house(&["ws://127.0.0.1:0", "any://127.0.0.1:0"]);
    let mut neighbour = house.web(0, "/mqtt", "mqtt");
    neighbour.send(Message::binary(CONNECT.to_vec())).expect("sent");
    assert_eq!(gather(&mut neighbour, 4), CONNACK);
    let before = resident_kib(&house.carrick.process);

    let mut held: Vec<TcpStream> = Vec::new();
    for n in 0..HALF_OPEN {
        let mut stream = house.tcp(n % 2);
        let half: &[u8] = [&b""[..], b"GET /ws HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"G"][n % 3];
        stream.write_all(half).expect("sent");
        held.push(stream);
    }
    // A message that never ends: a CONNECT packet which announces 256 KiB, a fragment of 100 bytes at a time, and empty ones between.
    for _ in 0..ENDLESS {
        let mut web = house.web(0, "/mqtt", "mqtt");
        let stream = web.get_mut();
        let mut bytes = frame(0x02, b"\x10\x80\x80\x10\x00\x04MQTT\x04");
        for _ in 0..200 {
            bytes.extend(frame(0x00, &[b'x'; 100]));
            bytes.extend(frame(0x00, b""));
            bytes.extend(frame(0x89, b"ping"));
        }
        stream.write_all(&bytes).expect("sent");
        held.push(stream.try_clone().expect("a handle"));
    }
    let begin = Instant::now();
    for n in 0..50u8 {
        neighbour.send(Message::binary(publish("alive", &[n]))).expect("sent");
        assert_eq!(gather(&mut neighbour, 4), b"\x40\x02\x00\x01");
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let grown = resident_kib(&house.carrick.process).saturating_sub(before);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB");
    // All of them are thrown out (10 s); those in the middle of a packet by MQTT's own clock.
    for mut stream in held {
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut sink = [0; 4096];
        while stream.read(&mut sink).is_ok_and(|count| count > 0) {}
    }
    neighbour.send(Message::binary(b"\xc0\x00".to_vec())).expect("sent");
    assert_eq!(gather(&mut neighbour, 2), b"\xd0\x00");
    assert_eq!(house.carrick.stop(), Some(0));
}
