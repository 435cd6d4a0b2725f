//! The stream above the socket once the handshake is done.
//!
//! rustls takes in at most 4 KiB with each of its reads. So a driver that has room for more, which is how it reads as a rule, gets one read of
//! the socket into a buffer of the thread, and that goes to rustls in pieces. An idle connection keeps what rustls keeps: its keys and 4 KiB.

use crate::Transport;
use std::cell::Cell;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::ServerConnection;

/// Bytes of one read of the socket.
const READ: usize = 64 * 1024;
/// RFC 8446, 5.2: what one record can hold. So much may come out of what was read before.
const RECORD: usize = 17 * 1024;

pub(super) struct TlsStream {
    socket: Transport,
    session: Box<ServerConnection>,
    ended: bool,
}

thread_local! {
    static ENCRYPTED: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

impl TlsStream {
    pub fn new(socket: Transport, session: ServerConnection) -> TlsStream {
        TlsStream { socket, session: Box::new(session), ended: false }
    }

    /// Moves what is decrypted into the buffer. True: it got some, or the stream has ended.
    fn take_decrypted(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        let before = buffer.filled().len();
        while buffer.remaining() > 0 {
            match self.session.reader().read(buffer.initialize_unfilled()) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(count) => buffer.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Ended without the good-bye of TLS, as many clients do. Whether something is missing is seen by whoever reads frames.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.ended || buffer.filled().len() > before)
    }

    fn decrypt(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Err(error) = self.session.process_new_packets() {
            // An alert that says why, if the socket takes it.
            let _ = self.write_socket(cx);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(())
    }

    /// A little, straight into rustls: for a buffer that might not hold what a large read brings.
    fn read_little(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.session.read_tls(&mut Blocking { socket: &mut self.socket, cx }) {
            Ok(_) => Poll::Ready(self.decrypt(cx)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn read_much(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, scratch: &mut [u8]) -> Poll<io::Result<()>> {
        // What comes out is less than what goes in, and what one record of before adds: it has room.
        let limit = scratch.len().min(buffer.remaining() - RECORD);
        let mut encrypted = ReadBuf::new(&mut scratch[..limit]);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut encrypted))?;
        let mut rest = encrypted.filled();
        loop {
            // Without a byte this tells rustls of the end. It takes none after the peer's good-bye.
            let taken = self.session.read_tls(&mut rest)?;
            self.decrypt(cx)?;
            self.take_decrypted(buffer)?;
            if rest.is_empty() || taken == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn write_socket(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Blocking { socket: &mut self.socket, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.ended || this.take_decrypted(buffer)? {
                return Poll::Ready(Ok(()));
            }
            if buffer.remaining() < 2 * RECORD {
                ready!(this.read_little(cx))?;
                continue;
            }
            let before = buffer.filled().len();
            let mut scratch = ENCRYPTED.take().unwrap_or_else(|| vec![0; READ].into_boxed_slice());
            let read = this.read_much(cx, buffer, &mut scratch);
            ENCRYPTED.set(Some(scratch));
            ready!(read)?;
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let mut taken = this.session.writer().write_vectored(slices)?;
        let socket = this.write_socket(cx)?;
        if taken == 0 && socket.is_ready() {
            // It was full, and is empty now. The socket takes more, so nobody else would wake us.
            taken = this.session.writer().write_vectored(slices)?;
            let _ = this.write_socket(cx)?;
        }
        match taken {
            0 => Poll::Pending,
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.write_socket(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Said once, however often this is called.
        this.session.send_close_notify();
        ready!(this.write_socket(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

/// The socket as rustls wants it: what is not ready is an error there.
struct Blocking<'a, 'b> {
    socket: &'a mut Transport,
    cx: &'a mut Context<'b>,
}

impl Read for Blocking<'_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        match Pin::new(&mut *self.socket).poll_read(self.cx, &mut buffer) {
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Blocking<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_write_vectored(self.cx, slices) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
