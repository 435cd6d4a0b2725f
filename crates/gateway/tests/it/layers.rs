//! Streams between the socket and the session.

use crate::support::over;
use bytes::Bytes;
use gateway::Transport;
use std::io;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use testkit::Toy;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

#[tokio::test]
async fn a_session_sees_what_was_read_ahead_before_the_rest() {
    let (wire, theirs) = tokio::io::duplex(256);
    let transport = Transport::layered(theirs).with_read_ahead(Bytes::from_static(b"ping\necho o"));
    let mut client = over(transport, wire, &Toy::new());
    client.expect("pong\n").await;
    client.send("ne\n").await;
    client.expect("one\n").await;
}

/// Tells that everything is written and keeps it until it is asked to pass it on, as TLS does when the socket is full.
struct Keeping {
    inner: DuplexStream,
    kept: Vec<u8>,
}

impl AsyncRead for Keeping {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Keeping {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.kept.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.kept.is_empty() {
            let count = ready!(Pin::new(&mut this.inner).poll_write(cx, &this.kept))?;
            this.kept.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn what_a_layer_keeps_back_is_passed_on_as_the_socket_takes_it() {
    let (wire, theirs) = tokio::io::duplex(16);
    let mut client = over(Transport::layered(Keeping { inner: theirs, kept: Vec::new() }), wire, &Toy::new());
    client.send("echo long enough to fill the wire several times over\n").await;
    client.expect("long enough to fill the wire several times over\n").await;
    client.send("quit\n").await;
    assert_eq!(client.rest().await, "bye\n");
}
