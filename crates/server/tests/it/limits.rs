//! Who is let in: one connection more than there may be is told so in its protocol's words, and nobody is offered what is refused.

use super::steering::{connect, frame, method};
use super::*;

#[test]
fn who_is_one_too_many_is_told_so_and_let_in_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("full.toml"), "gateway.max_connections = 1\n").expect("written");
    let carrick = start(dir.path(), &["serve", "--config", "full.toml", "--listen", "mqtt://127.0.0.1:0", "--listen", "any://127.0.0.1:0"]);
    let any = carrick.urls.iter().find_map(|url| url.strip_prefix("any://127.0.0.1:")?.parse().ok()).expect("a port");
    let mut first = carrick.connect();
    assert_eq!(login(&mut first, CONNECT), CONNACK);
    let ends = |stream: &mut TcpStream| assert_eq!(stream.read_to_end(&mut Vec::new()).expect("an end"), 0);
    // More often than there are places for who is told.
    for _ in 0..70 {
        let mut mqtt = carrick.connect();
        assert_eq!(login(&mut mqtt, CONNECT), b"\x20\x02\x00\x03");
        ends(&mut mqtt);
    }
    let mut mqtt = connect(any);
    mqtt.write_all(CONNECT_5).expect("sent");
    let (kind, body) = packet(&mut mqtt);
    assert_eq!((kind, &body[..2]), (0x20, &[0, 0x89][..]), "server busy");
    ends(&mut mqtt);

    let mut amqp = connect(any);
    amqp.write_all(b"AMQP\0\0\x09\x01").expect("sent");
    assert_eq!(frame(&mut amqp)[..4], [0, 10, 0, 10], "start");
    method(&mut amqp, b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
    let tune = frame(&mut amqp);
    assert_eq!(tune[..4], [0, 10, 0, 30], "libraries take a close here for a wrong password");
    method(&mut amqp, &[b"\0\x0a\0\x1f", &tune[4..10], b"\0\0"].concat());
    method(&mut amqp, b"\0\x0a\0\x28\x01/\0\0");
    let close = frame(&mut amqp);
    assert_eq!((&close[..4], u16::from_be_bytes([close[4], close[5]])), (&[0, 10, 0, 50][..], 530));
    let text = String::from_utf8_lossy(&close[7..]).into_owned();
    assert!(text.starts_with("NOT_ALLOWED - connection refused: node connection limit (1) is reached"), "{text}");
    method(&mut amqp, b"\0\x0a\0\x33");
    ends(&mut amqp);

    let mut stomp = connect(any);
    stomp.write_all(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0").expect("sent");
    let mut answer = String::new();
    stomp.read_to_string(&mut answer).expect("an end");
    assert!(answer.starts_with("ERROR\nmessage:Bad CONNECT\n"), "{answer:?}");
    assert!(answer.contains("connection refused: node connection limit (1) is reached"), "{answer:?}");

    let mut web = connect(any);
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13";
    let request = format!("GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n\r\n");
    web.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    web.read_to_string(&mut answer).expect("an end");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("node connection limit (1) is reached"), "{answer:?}");

    // Those who say nothing while they are told are no more than 64, take nobody's place, and others are closed without a word.
    let silent: Vec<TcpStream> = (0..64).map(|_| carrick.connect()).collect();
    let mut closed = carrick.connect();
    let _ = closed.write_all(CONNECT);
    let mut end = Vec::new();
    let _ = closed.read_to_end(&mut end);
    assert!(end.is_empty(), "{end:?}");
    drop(first);
    let until = Instant::now() + LIMIT;
    loop {
        let mut late = carrick.connect();
        let mut answer = [0; 4];
        if late.write_all(CONNECT).and_then(|()| late.read_exact(&mut answer)).is_ok() && answer == CONNACK {
            break;
        }
        assert!(Instant::now() < until, "no room");
    }
    drop(silent);
}

#[test]
fn anonymous_is_announced_where_it_is_let_in() {
    for (config, announced) in [("", true), ("allow_anonymous = false\n", false)] {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("one.toml"), config).expect("written");
        let carrick = start(dir.path(), &["serve", "--config", "one.toml", "--listen", "amqp://127.0.0.1:0"]);
        let port = carrick.urls.iter().find_map(|url| url.strip_prefix("amqp://127.0.0.1:")?.parse().ok()).expect("a port");
        let mut amqp = connect(port);
        amqp.write_all(b"AMQP\0\0\x09\x01").expect("sent");
        let start = String::from_utf8_lossy(&frame(&mut amqp)).into_owned();
        assert_eq!(start.contains("AMQPLAIN PLAIN ANONYMOUS"), announced, "{config}");
        method(&mut amqp, b"\0\x0a\0\x0b\0\0\0\0\x09ANONYMOUS\0\0\0\0\x05en_US");
        let mut answer = Vec::new();
        match announced {
            true => assert_eq!(frame(&mut amqp)[..4], [0, 10, 0, 30], "tune"),
            false => assert_eq!(amqp.read_to_end(&mut answer).expect("an end"), 0),
        }
    }
}
