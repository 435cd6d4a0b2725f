//! Against tungstenite's client, and against bytes.

use super::*;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::{Message, Role};

fn quiet() -> Config {
    Config { ping: None, ..Config::default() }
}

/// A client and our end over a pipe of this size.
async fn pair(size: usize, config: &Config, text: bool) -> (WebSocketStream<DuplexStream>, WebSocket<DuplexStream>) {
    let (near, far) = tokio::io::duplex(size);
    let client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    (client, WebSocket::new(far, config, text))
}

/// A frame of a client whose mask is zero.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0][..], payload].concat()
}

#[tokio::test]
async fn bytes_travel_both_ways_through_pipes_of_any_size() {
    for size in [1, 7, 64, 100_000] {
        let (mut client, mut ours) = pair(size, &quiet(), false).await;
        let body: Vec<u8> = (0..70_000u32).map(|n| n as u8).collect();
        let sent = body.clone();
        let told = tokio::spawn(async move {
            client.send(Message::binary(sent[..3].to_vec())).await.expect("sent");
            client.send(Message::binary(sent[3..].to_vec())).await.expect("sent");
            let mut back = Vec::new();
            while back.len() < sent.len() {
                match client.next().await.expect("more").expect("a message") {
                    Message::Binary(bytes) => back.extend_from_slice(&bytes),
                    other => panic!("{other:?}"),
                }
            }
            back
        });
        let mut got = vec![0; body.len()];
        ours.read_exact(&mut got).await.expect("all of it");
        assert_eq!(got, body);
        ours.write_all(&got).await.expect("written");
        ours.flush().await.expect("flushed");
        assert_eq!(told.await.expect("joined"), body);
    }
}

#[tokio::test]
async fn text_is_answered_with_text_until_binary_comes() {
    let (mut client, mut ours) = pair(4096, &quiet(), true).await;
    let mut got = [0; 6];
    client.send(Message::text("grüß")).await.expect("sent");
    ours.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, "grüß".as_bytes());
    ours.write_all("né".as_bytes()).await.expect("written");
    assert_eq!(client.next().await.expect("more").expect("right"), Message::text("né"));
    ours.write_all(b"\xff").await.expect("written");
    assert_eq!(client.next().await.expect("more").expect("right"), Message::binary(vec![0xff]));
    client.send(Message::binary(vec![1; 6])).await.expect("sent");
    ours.read_exact(&mut got).await.expect("read");
    ours.write_all(b"text").await.expect("written");
    assert_eq!(client.next().await.expect("more").expect("right"), Message::binary(b"text".to_vec()));
}

#[tokio::test]
async fn a_ping_is_answered_while_we_only_read() {
    let (mut client, mut ours) = pair(4096, &quiet(), false).await;
    client.send(Message::Ping(b"are you there".to_vec().into())).await.expect("sent");
    let mut byte = [0];
    let reading = ours.read(&mut byte);
    tokio::select! {
        _ = reading => panic!("a ping is not payload"),
        pong = client.next() => assert_eq!(pong.expect("more").expect("right"), Message::Pong(b"are you there".to_vec().into())),
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_both_ends_know() {
    let (mut client, mut ours) = pair(4096, &quiet(), false).await;
    let frame = tungstenite::protocol::CloseFrame { code: 3001.into(), reason: "enough".into() };
    client.send(Message::binary(b"last".to_vec())).await.expect("sent");
    client.close(Some(frame)).await.expect("sent");
    let mut all = Vec::new();
    ours.read_to_end(&mut all).await.expect("to the end");
    assert_eq!(all, b"last");
    ours.write_all(b"still").await.expect("written");
    ours.shutdown().await.expect("shut down");
    assert_eq!(client.next().await.expect("more").expect("right"), Message::binary(b"still".to_vec()));
    let Some(Ok(Message::Close(Some(frame)))) = client.next().await else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 3001);
    assert!(client.next().await.is_none());
}

#[tokio::test]
async fn our_close_is_1000_and_the_answer_ends_the_stream() {
    let (mut client, mut ours) = pair(4096, &quiet(), false).await;
    ours.shutdown().await.expect("shut down");
    let Some(Ok(Message::Close(Some(frame)))) = client.next().await else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 1000);
    // tungstenite answers by itself.
    let _ = client.flush().await;
    let mut rest = Vec::new();
    ours.read_to_end(&mut rest).await.expect("its close");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_fault_comes_behind_what_was_right_and_is_said_in_the_close() {
    let (mut near, far) = tokio::io::duplex(4096);
    let mut ours = WebSocket::new(far, &quiet(), false);
    near.write_all(&[raw(0x82, b"right"), raw(0x81, b"wrong")].concat()).await.expect("sent");
    let mut got = [0; 16];
    assert_eq!(ours.read(&mut got).await.expect("what was right"), 5);
    assert_eq!(&got[..5], b"right");
    let error = ours.read(&mut got).await.expect_err("text");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(error.get_ref().and_then(|inner| inner.downcast_ref::<Fault>()), Some(&Fault::TextFrame));
    ours.write_all(b"bye").await.expect("written");
    ours.shutdown().await.expect("shut down");
    let mut said = Vec::new();
    near.read_to_end(&mut said).await.expect("all");
    assert_eq!(&said[..5], b"\x82\x03bye");
    assert_eq!(said[5], 0x88);
    assert_eq!(&said[7..9], &1003u16.to_be_bytes());
    assert!(std::str::from_utf8(&said[9..]).is_ok_and(|why| why.contains("binary")));
    // Whoever waits for the peer's end sees it.
    near.write_all(b"anything").await.expect("sent");
    drop(near);
    let mut rest = Vec::new();
    ours.read_to_end(&mut rest).await.expect("to the end");
    assert_eq!(rest, b"anything");
}

#[tokio::test]
async fn a_close_does_not_stand_inside_of_a_frame() {
    let (mut near, far) = tokio::io::duplex(10);
    let mut ours = WebSocket::new(far, &quiet(), false);
    // Two bytes of head and eight of a hundred fit; then the writer gives up.
    let wrote = ours.write(&[7; 100]).await.expect("a part");
    assert_eq!(wrote, 8);
    ours.shutdown().await.expect("shut down");
    let mut said = Vec::new();
    near.read_to_end(&mut said).await.expect("all");
    assert_eq!(said, [&[0x82, 100][..], &[7; 8]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_asked_and_one_that_does_not_answer_is_gone() {
    let config = Config { ping: Some(Duration::from_secs(30)), ..Config::default() };
    let (mut near, far) = tokio::io::duplex(4096);
    let mut ours = WebSocket::new(far, &config, false);
    let start = Instant::now();
    let answering = async {
        let mut ping = [0; 2];
        near.read_exact(&mut ping).await.expect("a ping");
        assert_eq!(ping, [0x89, 0]);
        near.write_all(&raw(0x8a, b"")).await.expect("a pong");
        near.read_exact(&mut ping).await.expect("another ping");
        assert!(Instant::now() - start >= Duration::from_secs(60));
        std::future::pending::<()>().await;
    };
    let mut byte = [0];
    let error = tokio::select! {
        result = ours.read(&mut byte) => result.expect_err("silence"),
        () = answering => unreachable!("it waits for ever"),
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let waited = Instant::now() - start;
    assert!(waited >= Duration::from_secs(90) && waited < Duration::from_secs(91), "{waited:?}");
}

#[tokio::test]
async fn empty_fragments_without_end_let_others_have_their_turn() {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let mut ours = WebSocket::new(far, &quiet(), false);
    near.write_all(&raw(0x02, b"")).await.expect("sent");
    for _ in 0..50_000 {
        near.write_all(&raw(0x00, b"")).await.expect("sent");
    }
    let mut small = [0; 64];
    let mut buffer = ReadBuf::new(&mut small);
    let waker = futures_util::task::noop_waker();
    let mut cx = Context::from_waker(&waker);
    assert!(Pin::new(&mut ours).poll_read(&mut cx, &mut buffer).is_pending());
    assert!(buffer.filled().is_empty());
}

/// Beside its socket, a connection keeps this much.
#[test]
fn it_is_small() {
    let size = std::mem::size_of::<WebSocket<tokio::net::TcpStream>>();
    assert!(size <= 256, "{size}");
}
