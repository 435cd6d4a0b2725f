//! From a listen URL to listening sockets.

use crate::{Endpoint, ListenUrl};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A listening socket. `url` has the real port.
#[derive(Debug)]
pub struct Bound {
    pub url: ListenUrl,
    pub(crate) socket: Listening,
}

impl Bound {
    /// The socket itself, non-blocking, for who accepts on it without a gateway. `None`: it is none of TCP.
    pub fn into_tcp(self) -> Option<TcpListener> {
        match self.socket {
            Listening::Tcp(socket) => Some(socket),
            Listening::Unix(..) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The socket's name in the file system, removed with it.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[derive(Debug, Error)]
#[error("cannot listen on {url}: {source}{hint}")]
pub struct BindError {
    pub url: String,
    pub source: io::Error,
    hint: &'static str,
}

impl BindError {
    fn new(url: &ListenUrl, source: io::Error) -> BindError {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there: stop it, or choose another port (0 takes any free one)",
            io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
            io::ErrorKind::PermissionDenied => "; ports below 1024 and other users' folders need a privilege",
            _ => "",
        };
        BindError { url: url.to_string(), source, hint }
    }

    /// The machine has no such address (often: no IPv6).
    pub fn is_unavailable(&self) -> bool {
        let unsupported = self.source.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        unsupported || self.source.kind() == io::ErrorKind::AddrNotAvailable
    }
}

/// Listens at every address that the URL's host stands for. All of them get the same port, also when it is chosen here.
pub fn bind(url: &ListenUrl, backlog: u16) -> Result<Vec<Bound>, BindError> {
    match &url.endpoint {
        Endpoint::Unix(path) => {
            bind_unix(path, backlog).map(|socket| vec![Bound { url: url.clone(), socket }]).map_err(|e| BindError::new(url, e))
        }
        Endpoint::Tcp { host, port } => bind_host(url, host, *port, backlog).map_err(|e| BindError::new(url, e)),
    }
}

fn bind_host(asked: &ListenUrl, host: &str, port: u16, backlog: u16) -> io::Result<Vec<Bound>> {
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    let mut bound: Vec<Bound> = Vec::new();
    let mut unavailable = None;
    let mut port = port;
    for address in addresses {
        match bind_tcp(SocketAddr::new(address.ip(), port), backlog) {
            Ok(socket) => {
                let local = socket.local_addr()?;
                port = local.port();
                let url = ListenUrl { endpoint: Endpoint::Tcp { host: local.ip().to_string(), port }, ..asked.clone() };
                bound.push(Bound { url, socket: Listening::Tcp(socket) });
            }
            // `localhost` often names ::1 on machines without IPv6.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => unavailable = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (bound.is_empty(), unavailable) {
        (true, Some(error)) => Err(error),
        (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address")),
        (false, _) => Ok(bound),
    }
}

fn bind_tcp(address: SocketAddr, backlog: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT must not keep a restarted broker off its port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that [::] and 0.0.0.0 can stand beside each other on one port.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit both. Keep-alive finds peers that vanished without a word, also under protocols without a heartbeat.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(i32::from(backlog))?;
    Ok(socket.into())
}

fn bind_unix(path: &Path, backlog: u16) -> io::Result<Listening> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile(path.to_owned());
    socket.listen(i32::from(backlog))?;
    Ok(Listening::Unix(socket.into(), file))
}

/// A socket file that nobody listens on any more is what a killed process leaves behind. Anything else stays and the bind fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ListenUrl {
        text.parse().expect(text)
    }

    #[test]
    fn port_zero_becomes_a_real_one_and_a_taken_one_is_refused() {
        let bound = bind(&url("mqtt://127.0.0.1:0"), 16).expect("a free port");
        assert_eq!(bound.len(), 1);
        let real = bound[0].url.to_string();
        assert!(!real.ends_with(":0"), "{real}");
        let error = bind(&url(&real), 16).expect_err("taken").to_string();
        assert!(error.contains(&real) && error.contains("another process"), "{error}");
        let bound = bind(&url("stomp://127.0.0.1:0?dialect=x"), 16).expect("a free port");
        assert!(bound[0].url.to_string().ends_with("?dialect=x"), "{}", bound[0].url);
    }

    #[test]
    fn an_address_of_another_machine_is_said_to_be_unavailable() {
        // RFC 5737: 192.0.2.0/24 is for documentation and on no machine.
        let error = bind(&url("mqtt://192.0.2.1:0"), 16).expect_err("not ours");
        assert!(error.is_unavailable(), "{error}");
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let at = ListenUrl { scheme: "unix".into(), endpoint: Endpoint::Unix(path.clone()), settings: Vec::new() };
        drop(UnixListener::bind(&path).expect("a first owner"));
        assert!(path.exists(), "std leaves the file behind, as a killed process does");
        let bound = bind(&at, 16).expect("replaced");
        assert!(bind(&at, 16).is_err(), "a live listener keeps its name");
        drop(bound);
        assert!(!path.exists(), "ours is removed with it");
        std::fs::write(&path, "precious").expect("a file");
        assert!(bind(&at, 16).is_err());
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    }
}
