//! What carries a connection's bytes.
//!
//! ```text
//!  socket ── [TLS] ── [WebSocket, ...] ── [bytes read ahead] ── driver ── session
//! ```
//!
//! A plain socket is a variant of its own: reading it costs one `match` more than the socket itself, and nothing is boxed. What stands
//! between a socket and its session is a [`Layer`]: a byte stream over another [`Transport`], in a box, which the driver does not tell
//! from a socket. What was read to find out what is spoken is put back in front with [`Transport::with_read_ahead`].

use bytes::Bytes;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A byte stream above another one. It may keep back what it was given to write until `poll_flush`; the driver asks for that.
pub trait Layer: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Layer for T {}

pub enum Transport {
    Tcp(TcpStream),
    /// Boxed, as all but one variant: so the whole is no larger than that one.
    Unix(Box<UnixStream>),
    Layered(Box<dyn Layer>),
    ReadAhead(Box<ReadAhead>),
}

/// Bytes that come before what the stream still has. Gone, box and all, with the last of them.
pub struct ReadAhead {
    bytes: Bytes,
    inner: Transport,
}

impl Transport {
    /// A layer above whatever carries it.
    pub fn layered(layer: impl Layer + 'static) -> Transport {
        Transport::Layered(Box::new(layer))
    }

    /// The same stream, beginning with bytes that were read from it before.
    pub fn with_read_ahead(self, bytes: Bytes) -> Transport {
        match bytes.is_empty() {
            true => self,
            false => Transport::ReadAhead(Box::new(ReadAhead { bytes, inner: self })),
        }
    }

    /// For the moment in which the real one is being put into something else. Nothing is allocated for it.
    pub(crate) fn nothing() -> Transport {
        Transport::Layered(Box::new(tokio::io::empty()))
    }

    fn read_what_was_read(&mut self, buffer: &mut ReadBuf<'_>) {
        let Transport::ReadAhead(ahead) = self else { return };
        let count = buffer.remaining().min(ahead.bytes.len());
        buffer.put_slice(&ahead.bytes.split_to(count));
        if ahead.bytes.is_empty() {
            let inner = std::mem::replace(&mut ahead.inner, Transport::nothing());
            *self = inner;
        }
    }
}

macro_rules! each {
    ($self:expr, $inner:ident => $work:expr) => {
        match &mut *$self {
            Transport::Tcp($inner) => $work,
            Transport::Unix($inner) => $work,
            Transport::Layered($inner) => $work,
            Transport::ReadAhead(ahead) => {
                let $inner = &mut ahead.inner;
                $work
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Transport::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
            Transport::Layered(layer) => Pin::new(layer).poll_read(cx, buffer),
            Transport::ReadAhead(_) => {
                self.read_what_was_read(buffer);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write(cx, bytes))
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }
    fn is_write_vectored(&self) -> bool {
        match self {
            Transport::Tcp(_) | Transport::Unix(_) => true,
            Transport::Layered(layer) => layer.is_write_vectored(),
            Transport::ReadAhead(ahead) => ahead.inner.is_write_vectored(),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_flush(cx))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

impl From<TcpStream> for Transport {
    fn from(socket: TcpStream) -> Transport {
        Transport::Tcp(socket)
    }
}

impl From<UnixStream> for Transport {
    fn from(socket: UnixStream) -> Transport {
        Transport::Unix(Box::new(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_its_box_goes() {
        let (mut peer, ours) = UnixStream::pair().expect("a pair");
        peer.write_all(b"second").await.expect("sent");
        let mut transport = Transport::from(ours).with_read_ahead(Bytes::from_static(b"first "));
        transport.write_all(b"answer").await.expect("writing goes past it");
        let mut byte = [0];
        transport.read_exact(&mut byte).await.expect("a byte");
        assert!(matches!(transport, Transport::ReadAhead(_)), "some of it is left");
        let mut rest = [0; 11];
        transport.read_exact(&mut rest).await.expect("the rest");
        assert_eq!((&byte, &rest), (b"f", b"irst second"));
        assert!(matches!(transport, Transport::Unix(_)));
        let mut answer = [0; 6];
        peer.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"answer");
    }

    #[tokio::test]
    async fn a_layer_over_a_transport_is_a_transport() {
        let (ours, mut peer) = tokio::io::duplex(64);
        let under = Transport::layered(ours).with_read_ahead(Bytes::from_static(b"up"));
        let mut above = Transport::layered(tokio::io::BufStream::new(under));
        let mut two = [0; 2];
        above.read_exact(&mut two).await.expect("two bytes");
        assert_eq!(&two, b"up");
        above.write_all(b"kept back").await.expect("taken");
        above.flush().await.expect("passed on");
        let mut got = [0; 9];
        peer.read_exact(&mut got).await.expect("all of it");
        assert_eq!(&got, b"kept back");
    }
}
