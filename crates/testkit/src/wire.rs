//! A byte stream that tears what it carries.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads and writes at most `step` bytes at a time.
pub struct Torn<S> {
    inner: S,
    step: usize,
}

impl<S> Torn<S> {
    pub fn new(inner: S, step: usize) -> Torn<S> {
        assert!(step > 0);
        Torn { inner, step }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Torn<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let step = self.step.min(buf.remaining());
        let mut piece = vec![0; step];
        let mut small = ReadBuf::new(&mut piece);
        let poll = Pin::new(&mut self.inner).poll_read(cx, &mut small);
        buf.put_slice(small.filled());
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Torn<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let step = self.step.min(buf.len());
        Pin::new(&mut self.inner).poll_write(cx, &buf[..step])
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
