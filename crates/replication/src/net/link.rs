//! A connection on which both sides have proved themselves.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::frame::{self, Parsed, BODY_MAX};
use super::handshake::{self, Agreed, Purpose};
use super::{Identity, NetError};
use crate::coordinator::NodeName;

/// Of a body that is announced, at most so much is made room for at once.
const RESERVE_MAX: usize = 8 << 20;
const RESERVE_MIN: usize = 64 << 10;

pub struct Link {
    reader: Reader,
    writer: Writer,
    peer: NodeName,
    purpose: Purpose,
    version: u16,
}

/// The receiving half.
pub struct Reader {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
}

/// The sending half.
pub struct Writer {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    /// A send was dropped before it was done: what follows would be read as a part of its frame.
    torn: bool,
}

impl Link {
    /// Connects to the node `to` at `address` (`host:port`).
    pub async fn dial(address: &str, to: &NodeName, purpose: Purpose, identity: &Identity) -> Result<Link, NetError> {
        let made = within(identity, async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            match &identity.tls {
                None => Self::dial_over(stream, to, purpose, identity).await,
                Some(tls) => Self::dial_over(tls.connect(stream, to).await?, to, purpose, identity).await,
            }
        });
        let made = made.await;
        match &made {
            Err(error) if error.is_setting() => warn!(peer = %to, %address, %error, "the link to another node is refused"),
            Err(error) => debug!(peer = %to, %address, %error, "no link to another node"),
            Ok(_) => {}
        }
        made
    }

    /// The same over a stream that stands, without TLS and without a deadline.
    pub async fn dial_over<S>(mut stream: S, to: &NodeName, purpose: Purpose, identity: &Identity) -> Result<Link, NetError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let agreed = handshake::dial(&mut stream, identity, to, purpose).await?;
        Ok(Self::new(stream, agreed))
    }

    /// The other side of [`Link::dial_over`].
    pub async fn accept_over<S>(mut stream: S, identity: &Identity) -> Result<Link, NetError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let agreed = handshake::accept(&mut stream, identity).await?;
        Ok(Self::new(stream, agreed))
    }

    /// Over a stream that needs no proof of who is at its ends: in one process.
    pub fn between<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S, peer: &NodeName) -> Link {
        let agreed = Agreed { peer: peer.clone(), purpose: Purpose::Peer, version: handshake::highest(), early: BytesMut::new() };
        Self::new(stream, agreed)
    }

    fn new<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S, agreed: Agreed) -> Self {
        let (read, write) = tokio::io::split(stream);
        let reader = Reader { stream: Box::new(read), buffer: agreed.early };
        let writer = Writer { stream: Box::new(write), torn: false };
        Self { reader, writer, peer: agreed.peer, purpose: agreed.purpose, version: agreed.version }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &NodeName {
        &self.peer
    }

    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Of the frames that follow: the highest that both sides speak.
    pub fn version(&self) -> u16 {
        self.version
    }

    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    pub async fn recv(&mut self) -> Result<Option<(u8, Bytes)>, NetError> {
        self.reader.recv().await
    }

    pub async fn send(&mut self, kind: u8, head: &[u8], body: &[u8]) -> Result<(), NetError> {
        self.writer.send(kind, head, body).await
    }
}

/// Takes the handshake of a connection that came in.
pub async fn accept(stream: TcpStream, identity: &Identity) -> Result<(Link, NodeName, Purpose), NetError> {
    let address = stream.peer_addr().ok();
    let made = within(identity, async {
        stream.set_nodelay(true)?;
        match &identity.tls {
            None => Link::accept_over(stream, identity).await,
            Some(tls) => {
                let (stream, certificate) = tls.accept(stream).await?;
                let link = Link::accept_over(stream, identity).await?;
                certificate.is_for(link.peer())?;
                Ok(link)
            }
        }
    });
    match made.await {
        Ok(link) => {
            let (peer, purpose) = (link.peer.clone(), link.purpose);
            Ok((link, peer, purpose))
        }
        Err(error) => {
            tell_of_refusal(address, &error);
            Err(error)
        }
    }
}

fn tell_of_refusal(address: Option<SocketAddr>, error: &NetError) {
    let address = address.map(tracing::field::display);
    match error.is_setting() {
        true => warn!(address, %error, "another node's link is refused"),
        false => debug!(address, %error, "another node's link did not come about"),
    }
}

async fn within<T>(identity: &Identity, work: impl Future<Output = Result<T, NetError>>) -> Result<T, NetError> {
    let limit = identity.handshake_timeout;
    tokio::time::timeout(limit, work).await.unwrap_or(Err(NetError::Late(limit)))
}

impl Reader {
    /// The next frame; `None`: the peer has closed, and every frame it sent has been received. What is dropped half-way loses nothing.
    pub async fn recv(&mut self) -> Result<Option<(u8, Bytes)>, NetError> {
        loop {
            match frame::take(&mut self.buffer, BODY_MAX)? {
                Parsed::Frame(kind, body) => return Ok(Some((kind, body))),
                Parsed::Missing(missing) => self.buffer.reserve(missing.clamp(RESERVE_MIN, RESERVE_MAX)),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(NetError::Torn) };
            }
        }
    }

    /// The next frame if it is here already.
    pub fn take(&mut self) -> Result<Option<(u8, Bytes)>, NetError> {
        match frame::take(&mut self.buffer, BODY_MAX)? {
            Parsed::Frame(kind, body) => Ok(Some((kind, body))),
            Parsed::Missing(_) => Ok(None),
        }
    }
}

impl Writer {
    /// One frame whose body is `head` and then `body`, which are not joined for that. Once begun it has to be awaited to its end: dropping it
    /// half-way makes every later send an error.
    pub async fn send(&mut self, kind: u8, head: &[u8], body: &[u8]) -> Result<(), NetError> {
        let len = head.len() + body.len();
        if len > BODY_MAX {
            return Err(NetError::TooLarge { len: len as u64, max: BODY_MAX });
        }
        if std::mem::replace(&mut self.torn, true) {
            return Err(NetError::HalfSent);
        }
        let prefix = frame::head(kind, len);
        let mut slices = [IoSlice::new(&prefix), IoSlice::new(head), IoSlice::new(body)];
        let mut left = slices.as_mut_slice();
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.stream.write_vectored(left).await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                written => IoSlice::advance_slices(&mut left, written),
            }
        }
        self.stream.flush().await?;
        self.torn = false;
        Ok(())
    }

    /// Says that nothing more comes; the peer's `recv` then ends with `None`.
    pub async fn close(&mut self) -> Result<(), NetError> {
        Ok(self.stream.shutdown().await?)
    }
}
