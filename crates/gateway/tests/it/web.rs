//! WebSocket, and finding out what is spoken, over real sockets.

use crate::listening::{ask, house_of, House};
use crate::support::{timed, until};
use futures_util::{SinkExt, StreamExt};
use gateway::{Config, Spoken, Web};
use std::sync::Arc;
use std::time::Duration;
use testkit::Toy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::WebSocketStream;
use websocket::Origins;

fn web() -> Arc<Web> {
    let stream = websocket::Config { message_max: 1 << 20, ..websocket::Config::default() };
    Arc::new(Web::new(vec![("toy", Toy::new())], "toy", Origins::default(), stream).expect("it is carried"))
}

fn impatient() -> Config {
    Config { handshake_timeout_secs: 1, ..Config::default() }
}

async fn client(house: &House, path: &str, offer: Option<&str>) -> Result<WebSocketStream<TcpStream>, Error> {
    let stream = house.connect().await;
    let mut request = format!("ws://localhost{path}").into_client_request().expect("a request");
    if let Some(offer) = offer {
        request.headers_mut().insert("sec-websocket-protocol", offer.parse().expect("a word"));
    }
    timed(tokio_tungstenite::client_async(request, stream)).await.map(|(client, _)| client)
}

async fn echo(client: &mut WebSocketStream<TcpStream>, word: &str) {
    timed(client.send(Message::binary(format!("echo {word}\n").into_bytes()))).await.expect("sent");
    let answer = timed(client.next()).await.expect("more").expect("right");
    assert_eq!(answer, Message::binary(format!("{word}\n").into_bytes()));
}

#[tokio::test]
async fn a_session_does_not_know_that_it_is_in_frames() {
    for spoken in [Spoken::Web(web()), Spoken::Any(web())] {
        let house = house_of(Config::default(), "ws://127.0.0.1:0", spoken);
        for (path, offer) in [("/ws", Some("toy")), ("/toy", None), ("/", None)] {
            let mut client = client(&house, path, offer).await.expect("a handshake");
            for n in 0..20 {
                echo(&mut client, &n.to_string()).await;
            }
            // A line that comes byte by byte, and two in one frame.
            for byte in b"echo torn\n" {
                client.send(Message::binary(vec![*byte])).await.expect("sent");
            }
            client.send(Message::binary(b"echo one\necho two\n".to_vec())).await.expect("sent");
            let mut all = Vec::new();
            while all.len() < b"torn\none\ntwo\n".len() {
                all.extend_from_slice(&timed(client.next()).await.expect("more").expect("right").into_data());
            }
            assert_eq!(all, b"torn\none\ntwo\n");
            timed(client.close(None)).await.expect("closed");
            while let Some(message) = timed(client.next()).await {
                assert!(matches!(message, Ok(Message::Close(None))), "{message:?}");
            }
        }
        until("they have gone", || house.gateway.slots().live() == 0).await;
    }
}

#[tokio::test]
async fn text_is_closed_with_1003_and_a_fault_hurts_nobody_else() {
    let house = house_of(Config::default(), "ws://127.0.0.1:0", Spoken::Web(web()));
    let mut other = client(&house, "/ws", None).await.expect("a handshake");
    let mut one = client(&house, "/ws", None).await.expect("a handshake");
    one.send(Message::text("echo hi\n")).await.expect("sent");
    let Some(Ok(Message::Close(Some(frame)))) = timed(one.next()).await else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 1003);
    let mut large = client(&house, "/ws", None).await.expect("a handshake");
    let mut wire = large.get_mut();
    // A message of 2 MiB is announced: nobody waits for it.
    timed(AsyncWriteExt::write_all(&mut wire, b"\x82\xff\0\0\0\0\0\x20\0\0\x01\x02\x03\x04")).await.expect("sent");
    let Some(Ok(Message::Close(Some(frame)))) = timed(large.next()).await else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 1009);
    echo(&mut other, "still here").await;
}

#[tokio::test]
async fn the_end_of_the_house_is_told_in_frames() {
    the_end_is_told(false, 1001).await;
    // Another node takes the clients in: they should connect again.
    the_end_is_told(true, 1012).await;
}

async fn the_end_is_told(moved: bool, code: u16) {
    let mut house = house_of(Config::default(), "ws://127.0.0.1:0", Spoken::Web(web()));
    let mut one = client(&house, "/ws", None).await.expect("a handshake");
    echo(&mut one, "hello").await;
    // Somebody who has not said anything does not hold it up.
    let _silent = house.connect().await;
    until("both are there", || house.gateway.slots().live() == 2).await;
    house.gateway.stop_accepting(moved).await;
    house.broker.shutdown();
    assert_eq!(timed(one.next()).await.expect("more").expect("right"), Message::binary(b"shutdown\n".to_vec()));
    assert!(matches!(timed(one.next()).await, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == code));
    let _ = one.flush().await;
    assert_eq!(timed(house.gateway.drained()).await, 0);
}

async fn answer(house: &House, request: &[u8]) -> String {
    let mut stream = house.connect().await;
    timed(stream.write_all(request)).await.expect("sent");
    let mut all = Vec::new();
    timed(stream.read_to_end(&mut all)).await.expect("an end");
    String::from_utf8(all).expect("text")
}

#[tokio::test]
async fn requests_that_are_none_get_the_answers_of_http() {
    let house = house_of(impatient(), "any://127.0.0.1:0", Spoken::Any(web()));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "426"),
        ("POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned(), "405"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(10_000)), "431"),
        ("GET / HTTP/1.1\r\nHost: a".to_owned(), "408"),
    ] {
        let answer = answer(&house, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    assert!(matches!(client(&house, "/elsewhere", None).await, Err(Error::Http(response)) if response.status() == 404));
    assert!(matches!(client(&house, "/ws", Some("soap")).await, Err(Error::Http(response)) if response.status() == 400));
    until("they have gone", || house.gateway.slots().live() == 0).await;
}

#[tokio::test]
async fn any_takes_what_it_knows_and_closes_what_nobody_knows() {
    let house = house_of(impatient(), "any://127.0.0.1:0", Spoken::Any(web()));
    let mut bare = house.connect().await;
    assert_eq!(ask(&mut bare, "echo bare\n").await, "bare\n");
    let mut framed = client(&house, "/ws", None).await.expect("a handshake");
    echo(&mut framed, "framed").await;
    for junk in [&b"\x00\x00\x00\x10\x01ActiveMQ"[..], b"AMQP\x00\x01\x00\x00", b"\xff", b"G\x00"] {
        assert_eq!(answer(&house, junk).await, "", "{junk:?}");
    }
    // Silence, and what could still become something, end at the deadline.
    for slow in [&b""[..], b"GE", b"\x16\x03"] {
        assert_eq!(answer(&house, slow).await, "", "{slow:?}");
    }
    assert_eq!(ask(&mut bare, "echo still\n").await, "still\n");
    until("the others have gone", || house.gateway.slots().live() == 2).await;
}

#[tokio::test]
async fn frames_may_come_right_behind_the_request() {
    let house = house_of(Config::default(), "ws://127.0.0.1:0", Spoken::Web(web()));
    let mut stream = house.connect().await;
    let mut request = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    request.extend_from_slice(b"\x82\x8a\0\0\0\0echo soon\n");
    // Byte by byte: the request is torn everywhere.
    for byte in request {
        timed(stream.write_all(&[byte])).await.expect("sent");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let mut all = Vec::new();
    while !all.ends_with(b"\x82\x05soon\n") {
        assert!(timed(stream.read_buf(&mut all)).await.expect("more") > 0, "{}", all.escape_ascii());
    }
    assert!(all.starts_with(b"HTTP/1.1 101 "));
}
