//! A primary that goes tells its clients where to go, each in its protocol's words.

use super::pair::{Publisher, Trio};
use super::*;
use tungstenite::client::IntoClientRequest;

pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it serves");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

/// The payload of the next frame of AMQP 0-9-1.
pub fn frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 7];
    stream.read_exact(&mut head).expect("a frame");
    let mut payload = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
    stream.read_exact(&mut payload).expect("its payload");
    assert_eq!(payload.pop(), Some(0xce));
    payload
}

pub fn method(stream: &mut TcpStream, payload: &[u8]) {
    let len = (payload.len() as u32).to_be_bytes();
    stream.write_all(&[&[1, 0, 0], &len[..], payload, &[0xce]].concat()).expect("sent");
}

fn amqp(port: u16) -> TcpStream {
    let mut stream = connect(port);
    stream.write_all(b"AMQP\0\0\x09\x01").expect("sent");
    assert_eq!(frame(&mut stream)[..4], [0, 10, 0, 10], "start");
    method(&mut stream, b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
    let tune = frame(&mut stream);
    assert_eq!(tune[..4], [0, 10, 0, 30]);
    method(&mut stream, &[b"\0\x0a\0\x1f", &tune[4..10], b"\0\0"].concat());
    method(&mut stream, b"\0\x0a\0\x28\x01/\0\0");
    assert_eq!(frame(&mut stream)[..4], [0, 10, 0, 41], "open-ok");
    stream
}

#[test]
fn clients_are_told_where_to_go() {
    let mut trio = Trio::start();
    let primary = trio.primary(None);
    trio.standby_in_sync(primary, &mut Publisher::default());
    let other = trio.nodes[1 - primary].name;
    let port = trio.nodes[primary].any;

    let mut mqtt = connect(port);
    assert_eq!(login(&mut mqtt, CONNECT_5)[3], 0);
    let mut amqp = amqp(port);
    let mut stomp = connect(port);
    stomp.write_all(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0").expect("sent");
    let mut connected = [0; 9];
    stomp.read_exact(&mut connected).expect("an answer");
    assert_eq!(&connected, b"CONNECTED");
    let mut request = format!("ws://127.0.0.1:{port}/mqtt").into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().expect("a header"));
    let (mut web, _) = tungstenite::client(request, connect(port)).expect("a handshake");
    let mut as_u = CONNECT_5.to_vec();
    *as_u.last_mut().expect("an id") = b'u';
    web.send(tungstenite::Message::binary(as_u)).expect("sent");
    assert!(web.read().expect("a CONNACK").is_binary());

    signal(&trio.nodes[primary].process, rustix::process::Signal::TERM);

    let (kind, body) = packet(&mut mqtt);
    // DISCONNECT, use another server, and its property Server Reference.
    assert_eq!((kind, body[0]), (0xe0, 0x9c));
    let host = format!("{other}.example:1");
    assert_eq!(body[2..5], [0x1c, 0, host.len() as u8]);
    assert_eq!(body[5..], *host.as_bytes());
    let close = frame(&mut amqp);
    assert_eq!((&close[..4], u16::from_be_bytes([close[4], close[5]])), (&[0, 10, 0, 50][..], 320));
    let text = String::from_utf8_lossy(&close[7..]).into_owned();
    assert!(text.contains(&format!("hands over to {other} at {other}.example:2")), "{text}");
    let mut rest = String::new();
    stomp.read_to_string(&mut rest).expect("an end");
    assert!(rest.contains("\nERROR\n") || rest.contains("\0ERROR\n"), "{rest:?}");
    assert!(rest.contains(&format!("hands over to {other} at {other}.example:3")), "{rest:?}");
    let close = loop {
        match web.read().expect("a close") {
            tungstenite::Message::Close(frame) => break frame.expect("a code"),
            message => assert!(message.is_binary(), "{message:?}"),
        }
    };
    assert_eq!(u16::from(close.code), 1012);
    assert_eq!(wait(&mut trio.nodes[primary].process), Some(0));
}
