//! A standby answers clients on their ports, each in its protocol's words, and serves those who wait there once it is primary.

use super::pair::Trio;
use super::steering::{connect, frame, method};
use super::*;

#[test]
fn clients_of_a_standby_are_told_who_is_primary() {
    let (trio, primary, _) = Trio::whole();
    let standby = 1 - primary;
    let (name, port) = (trio.nodes[primary].name, trio.nodes[standby].any);
    let ends = |stream: &mut TcpStream| assert_eq!(stream.read_to_end(&mut Vec::new()).expect("an end"), 0);

    let mut mqtt = connect(port);
    mqtt.write_all(CONNECT_5).expect("sent");
    let (kind, body) = packet(&mut mqtt);
    let host = format!("{name}.example:1");
    // CONNACK, use another server; its properties are Server Reference and Reason String.
    assert_eq!((kind, &body[..2]), (0x20, &[0, 0x9c][..]));
    let reference = [&[0x1c, 0, host.len() as u8], host.as_bytes()].concat();
    assert!(body.windows(reference.len()).any(|part| part == reference), "{:?}", body.escape_ascii().to_string());
    ends(&mut mqtt);
    let mut mqtt = connect(trio.nodes[standby].mqtt);
    assert_eq!(login(&mut mqtt, CONNECT), b"\x20\x02\x00\x03");
    ends(&mut mqtt);

    // A wrong password is nothing that a standby looks at.
    let mut amqp = connect(port);
    amqp.write_all(b"AMQP\0\0\x09\x01").expect("sent");
    assert_eq!(frame(&mut amqp)[..4], [0, 10, 0, 10], "start");
    method(&mut amqp, b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0wrong\x05en_US");
    let tune = frame(&mut amqp);
    assert_eq!(tune[..4], [0, 10, 0, 30], "libraries take a close here for a wrong password");
    method(&mut amqp, &[b"\0\x0a\0\x1f", &tune[4..10], b"\0\0"].concat());
    method(&mut amqp, b"\0\x0a\0\x28\x01/\0\0");
    let close = frame(&mut amqp);
    assert_eq!((&close[..4], u16::from_be_bytes([close[4], close[5]])), (&[0, 10, 0, 50][..], 320));
    let text = String::from_utf8_lossy(&close[7..]).into_owned();
    assert!(text.contains(&format!("stands by for {name} at {name}.example:2")), "{text}");
    method(&mut amqp, b"\0\x0a\0\x33");
    ends(&mut amqp);

    let mut stomp = connect(port);
    stomp.write_all(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0").expect("sent");
    let mut answer = String::new();
    stomp.read_to_string(&mut answer).expect("an end");
    assert!(answer.starts_with("ERROR\nmessage:connection_forced\n"), "{answer:?}");
    assert!(answer.contains(&format!("stands by for {name} at {name}.example:3")), "{answer:?}");

    let mut web = connect(port);
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13";
    let request = format!("GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n\r\n");
    web.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    web.read_to_string(&mut answer).expect("an end");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains(&format!("stands by for {name}")), "{answer:?}");
}

#[test]
fn who_waits_at_a_standby_is_served_when_it_is_primary() {
    let (mut trio, primary, _) = Trio::whole();
    // It has said nothing yet when the node changes its part, on the same sockets.
    let mut waits = connect(trio.nodes[1 - primary].mqtt);
    trio.kill(primary);
    assert_eq!(trio.primary(Some(primary)), 1 - primary);
    assert_eq!(login(&mut waits, CONNECT), CONNACK);
}

#[test]
fn a_standby_stops_when_it_is_told_to_and_says_where_it_listens() {
    let (mut trio, primary, _) = Trio::whole();
    let standby = &mut trio.nodes[1 - primary];
    let _idle = connect(standby.mqtt);
    signal(&standby.process, rustix::process::Signal::TERM);
    assert_eq!(wait(&mut standby.process), Some(0));
    let said = standby.lines().to_vec();
    let mqtt = format!("listening mqtt://127.0.0.1:{}", standby.mqtt);
    let at = |line: &str| said.iter().position(|said| said == line);
    assert!(at(&mqtt).expect("it listens") < at("standby").expect("it stands by"), "{said:?}");
    assert!(at("ready").is_none(), "{said:?}");
}
