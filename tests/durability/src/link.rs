//! One connection: a blocking socket, what is to be sent, and what came.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::wire::{self, Connect, Packet, Version};

const PATIENCE: Duration = Duration::from_secs(10);

pub struct Link {
    socket: TcpStream,
    version: Version,
    pub out: Vec<u8>,
    input: Vec<u8>,
    parsed: usize,
    waits: Option<Duration>,
}

impl Link {
    /// Connects and logs in; also says whether the broker had the session.
    pub fn open(addr: SocketAddr, connect: &Connect<'_>) -> io::Result<(Link, bool)> {
        let socket = TcpStream::connect_timeout(&addr, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut link = Link { socket, version: connect.version, out: Vec::new(), input: Vec::new(), parsed: 0, waits: None };
        wire::connect(&mut link.out, connect);
        link.flush()?;
        match link.expect(PATIENCE)? {
            Packet::Connack { session_present, code: 0 } => Ok((link, session_present)),
            other => Err(io::Error::new(ErrorKind::PermissionDenied, format!("instead of an accepting CONNACK: {other:?}"))),
        }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// The next packet; `None` when none came within `wait`.
    pub fn next(&mut self, wait: Duration) -> io::Result<Option<Packet>> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some((packet, len)) = wire::decode(self.version, &self.input[self.parsed..])? {
                self.parsed += len;
                return Ok(Some(packet));
            }
            self.input.drain(..self.parsed);
            self.parsed = 0;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !wait.is_zero() {
                return Ok(None);
            }
            if !self.fill(left)? {
                return Ok(None);
            }
        }
    }

    /// Whether a packet can be had without touching the socket.
    pub fn has_packet(&self) -> io::Result<bool> {
        Ok(wire::decode(self.version, &self.input[self.parsed..])?.is_some())
    }

    pub fn expect(&mut self, wait: Duration) -> io::Result<Packet> {
        self.next(wait)?.ok_or_else(|| io::Error::new(ErrorKind::TimedOut, "the broker did not answer"))
    }

    fn fill(&mut self, wait: Duration) -> io::Result<bool> {
        let wait = wait.max(Duration::from_millis(1));
        if self.waits != Some(wait) {
            self.socket.set_read_timeout(Some(wait))?;
            self.waits = Some(wait);
        }
        let mut bytes = [0; 64 << 10];
        match self.socket.read(&mut bytes) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the broker closed the connection")),
            Ok(read) => {
                self.input.extend_from_slice(&bytes[..read]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
