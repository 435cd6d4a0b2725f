//! What carries the bytes of a conversation: TCP, TLS over it, WebSocket over either.
//!
//! A carrier reads and writes like a non-blocking socket. It may hold bytes back that the socket did not take; [`Carrier::holds_output`] says so.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::args::{Proto, Target};
use crate::websocket::WebSocket;

/// How connections of this run are made.
pub(crate) struct Carriage {
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    websocket: Option<(Proto, String)>,
}

impl Carriage {
    /// `host`: what the broker's certificate has to name, and what is asked for over WebSocket.
    pub fn new(target: &Target, host: &str) -> Result<Carriage> {
        let tls = target.tls_ca.as_deref().map(|ca| trust(ca, host)).transpose()?;
        let websocket = target.websocket.as_deref().map(|path| request(target.proto, path, host)).transpose()?;
        Ok(Carriage { tls, websocket: websocket.map(|request| (target.proto, request)) })
    }

    pub fn carry(&self, stream: TcpStream) -> Result<Carrier, rustls::Error> {
        let tls = match &self.tls {
            None => None,
            Some((config, name)) => {
                let mut tls = ClientConnection::new(config.clone(), name.clone())?;
                // It may keep as much as is written in one go.
                tls.set_buffer_limit(None);
                Some(Box::new(tls))
            }
        };
        let websocket = self.websocket.as_ref().map(|(proto, request)| Box::new(WebSocket::new(*proto, request)));
        Ok(Carrier { socket: Socket { stream, tls }, websocket })
    }
}

fn trust(ca: &Path, host: &str) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(|| format!("--tls-ca {}", ca.display()))? {
        roots.add(certificate.with_context(|| format!("--tls-ca {}", ca.display()))?)?;
    }
    ensure!(!roots.is_empty(), "--tls-ca {}: no certificate in there", ca.display());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("--addr: {host} is no name that a certificate could have"))?;
    Ok((config.into(), name))
}

fn request(proto: Proto, path: &str, host: &str) -> Result<String> {
    let (usual, offered) = match proto {
        Proto::Mqtt => ("/mqtt", "mqtt"),
        Proto::Amqp => ("/amqp", "amqp"),
        Proto::Stomp => ("/stomp", "v12.stomp"),
    };
    let path = if path.is_empty() { usual } else { path };
    if !path.starts_with('/') || path.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control()) {
        bail!("--websocket {path}: a path begins with a slash and has no spaces");
    }
    Ok(format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n",
        crate::websocket::KEY
    ))
}

pub(crate) struct Carrier {
    socket: Socket,
    websocket: Option<Box<WebSocket>>,
}

impl Carrier {
    pub fn stream(&self) -> &TcpStream {
        &self.socket.stream
    }

    pub fn holds_output(&self) -> bool {
        self.socket.tls.as_ref().is_some_and(|tls| tls.wants_write())
            || self.websocket.as_ref().is_some_and(|websocket| websocket.holds_output())
    }
}

impl Read for Carrier {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.websocket {
            None => self.socket.read(buffer),
            Some(websocket) => websocket.read(&mut self.socket, buffer),
        }
    }
}

impl Write for Carrier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.websocket {
            None => self.socket.write(bytes),
            Some(websocket) => websocket.write(&mut self.socket, bytes),
        }
    }

    /// Writes what is held back, as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        if let Some(websocket) = &mut self.websocket {
            websocket.flush(&mut self.socket)?;
        }
        self.socket.flush()
    }
}

/// TCP, or TLS over it.
pub(crate) struct Socket {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(buffer) };
        let mut len = 0;
        // All that has come: what is left in here is nothing that the socket would wake anybody for.
        loop {
            match tls.reader().read(&mut buffer[len..]) {
                Ok(0) if len < buffer.len() => return Ok(len),
                Ok(more) => len += more,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return if len > 0 { Ok(len) } else { Err(e) },
            }
            if len == buffer.len() {
                return Ok(len);
            }
            match tls.read_tls(&mut self.stream) {
                Ok(0) => return if len > 0 || !tls.is_handshaking() { Ok(len) } else { Err(ErrorKind::UnexpectedEof.into()) },
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && len > 0 => return Ok(len),
                Err(e) => return Err(e),
            }
            if let Err(e) = tls.process_new_packets() {
                // It may have an alert to say.
                let _ = tls.write_tls(&mut self.stream);
                return Err(io::Error::new(ErrorKind::InvalidData, format!("TLS: {e}")));
            }
            put_tls(tls, &mut self.stream)?;
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.write(bytes) };
        if tls.wants_write() {
            put_tls(tls, &mut self.stream)?;
            if tls.wants_write() {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
        let len = tls.writer().write(bytes)?;
        put_tls(tls, &mut self.stream)?;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => put_tls(tls, &mut self.stream),
            None => Ok(()),
        }
    }
}

fn put_tls(tls: &mut ClientConnection, stream: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(stream) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
