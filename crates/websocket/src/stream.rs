//! The stream: frames of another stream, read and written as the bytes in them.
//!
//! Its end is that of the peer's close frame, or of the stream below. A peer that breaks the rules is an error of kind `InvalidData`
//! ([`Fault`] inside): whoever reads should write what is left, and shut down. `poll_shutdown` sends the close frame that belongs to how it
//! came (RFC 6455, 7.1.5), and closes our direction below.

use crate::decode::{Decoder, Heard, Kind};
use crate::encode::Encoder;
use crate::Fault;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Reads that bring no payload (pings, empty fragments) before other connections have their turn.
const SPINS: u32 = 16;
/// Slices of one write below: a head and what is offered.
const SLICES: usize = 65;
/// RFC 6455, 7.4.1: the purpose has been fulfilled.
const NORMAL: u16 = 1000;
/// The same: the server goes down.
pub const GOING_AWAY: u16 = 1001;
/// Of its registry: the service is restarted, here or elsewhere, and the client should connect again.
pub const SERVICE_RESTART: u16 = 1012;

/// What an operator can set about a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// A message, all its fragments together. Nothing of it is kept in memory: it is a bound on what a client may call one message.
    pub message_max: u64,
    /// A peer that was sent nothing for so long gets a ping, and one that then is silent for as long again is gone. `None`: no pings.
    pub ping: Option<Duration>,
}

impl Default for Config {
    fn default() -> Config {
        Config { message_max: 512 << 20, ping: Some(Duration::from_secs(30)) }
    }
}

pub struct WebSocket<S> {
    inner: S,
    decoder: Decoder,
    encoder: Encoder,
    /// Whether this protocol answers in text frames. It does until its client sends a binary one.
    speaks_text: bool,
    end: End,
    closing: bool,
    /// The code with which to close once the server goes down; 0 as long as it does not.
    going_away: Option<Arc<AtomicU16>>,
    pinger: Option<Box<Pinger>>,
}

/// How the peer's direction stands.
enum End {
    Open,
    /// A close frame came; its payload goes back.
    Closed(Vec<u8>),
    /// What it did wrong, and whether the reader knows.
    Fault(Fault, bool),
}

struct Pinger {
    sleep: Pin<Box<Sleep>>,
    every: Duration,
    wrote: bool,
    heard: bool,
    asked: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Over a stream whose handshake is done. `text`: frames of text are taken, and used for what is text.
    pub fn new(inner: S, config: &Config, text: bool) -> WebSocket<S> {
        let pinger = config.ping.map(|every| {
            let sleep = Box::pin(tokio::time::sleep(every));
            Box::new(Pinger { sleep, every, wrote: false, heard: false, asked: false })
        });
        WebSocket {
            inner,
            decoder: Decoder::new(text, config.message_max),
            encoder: Encoder::default(),
            speaks_text: text,
            end: End::Open,
            closing: false,
            going_away: None,
            pinger,
        }
    }

    /// Once this is not 0 any more our close says so: [`GOING_AWAY`], [`SERVICE_RESTART`].
    #[must_use]
    pub fn going_away_with(self, house: Arc<AtomicU16>) -> WebSocket<S> {
        WebSocket { going_away: Some(house), ..self }
    }

    fn code(&self) -> u16 {
        match self.going_away.as_ref().map_or(0, |house| house.load(Ordering::Acquire)) {
            0 => NORMAL,
            code => code,
        }
    }

    /// Sends the control frames that wait, as far as the stream below takes them.
    fn poll_controls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(due) = self.encoder.due() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, due))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.encoder.due_written(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing can be read: time for a sign of life, or too late for the peer's.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(pinger) = &mut self.pinger {
            if let Err(error) = pinger.tick(cx, &mut self.encoder) {
                return Poll::Ready(Err(error));
            }
        }
        match self.poll_controls(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    }

    fn fail(&mut self, fault: Fault) -> Poll<io::Result<()>> {
        self.end = End::Fault(fault, true);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)))
    }

    fn begin_close(&mut self) {
        if std::mem::replace(&mut self.closing, true) || !self.encoder.is_between_frames() {
            // What was announced of a frame will not come: a close frame would be taken for a piece of it.
            return;
        }
        let payload = match &self.end {
            End::Open => self.code().to_be_bytes().to_vec(),
            // RFC 6455, 5.5.1: the code that came is the one that goes back; its reason need not.
            End::Closed(payload) => payload.iter().take(2).copied().collect(),
            End::Fault(fault, _) => [&fault.code().to_be_bytes()[..], fault.to_string().as_bytes()].concat(),
        };
        self.encoder.close(payload);
    }
}

impl Pinger {
    fn tick(&mut self, cx: &mut Context<'_>, encoder: &mut Encoder) -> io::Result<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let heard = std::mem::take(&mut self.heard);
            if std::mem::take(&mut self.asked) && !heard {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a WebSocket ping was not answered"));
            }
            if !std::mem::take(&mut self.wrote) {
                encoder.ping();
                self.asked = true;
            }
            self.sleep.as_mut().reset(Instant::now() + self.every);
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.end {
            End::Open => {}
            End::Closed(_) => return Poll::Ready(Ok(())),
            End::Fault(fault, false) => return this.fail(fault),
            // Whoever goes on reading only waits for the peer to end.
            End::Fault(_, true) => return Pin::new(&mut this.inner).poll_read(cx, buffer),
        }
        let start = buffer.filled().len();
        for _ in 0..SPINS {
            match Pin::new(&mut this.inner).poll_read(cx, buffer) {
                Poll::Ready(result) => result?,
                Poll::Pending => return this.wait(cx),
            }
            let bytes = &mut buffer.filled_mut()[start..];
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Some(pinger) = &mut this.pinger {
                pinger.heard = true;
            }
            let mut heard = Heard::default();
            let (count, result) = this.decoder.decode(bytes, &mut heard);
            buffer.set_filled(start + count);
            if let Some(kind) = this.decoder.latest {
                this.speaks_text &= kind == Kind::Text;
            }
            if let Some(payload) = heard.ping {
                this.encoder.pong(payload);
            }
            if let Some(payload) = heard.close {
                this.end = End::Closed(payload);
                return Poll::Ready(Ok(()));
            }
            match result {
                // What came before is read first.
                Err(fault) if count > 0 => {
                    this.end = End::Fault(fault, false);
                    return Poll::Ready(Ok(()));
                }
                Err(fault) => return this.fail(fault),
                Ok(()) if count > 0 => return Poll::Ready(Ok(())),
                Ok(()) => {}
            }
        }
        let _ = this.poll_controls(cx)?;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, offered: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_controls(cx))?;
        let offered = &offered[..offered.len().min(SLICES - 1)];
        if offered.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        this.encoder.begin(offered, this.speaks_text);
        loop {
            let (head, left) = this.encoder.rest();
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            if !head.is_empty() {
                slices[0] = IoSlice::new(head);
                count = 1;
            }
            let mut left = usize::try_from(left).unwrap_or(usize::MAX);
            for slice in offered {
                let take = slice.len().min(left);
                if take > 0 {
                    slices[count] = IoSlice::new(&slice[..take]);
                    count += 1;
                    left -= take;
                }
            }
            let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            if let Some(pinger) = &mut this.pinger {
                pinger.wrote = true;
            }
            // A write that took the head only says nothing yet.
            match this.encoder.written(written) {
                0 => {}
                payload => return Poll::Ready(Ok(payload)),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_controls(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.begin_close();
        ready!(this.poll_controls(cx))?;
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
