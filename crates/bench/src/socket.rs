//! Non-blocking dialling, and enough descriptors and ports for tens of thousands of connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use rustix::io::Errno;
use rustix::net::{self, sockopt, AddressFamily, SocketFlags, SocketType};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

/// One source address has some 28,000 ports by default; loopback has 16 million addresses.
const PORTS_PER_SOURCE: u64 = 15_000;

/// Starts a connection. It stands, or has failed, when the socket becomes writable.
pub(crate) fn dial(to: SocketAddr, serial: u64) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    if let Some(from) = source(to, serial) {
        net::bind(&fd, &from)?;
    }
    match net::connect(&fd, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(fd)),
        Err(e) => Err(e.into()),
    }
}

/// The outcome of a dial.
pub(crate) fn dialled(stream: &TcpStream) -> io::Result<()> {
    Ok(sockopt::socket_error(stream)??)
}

fn source(to: SocketAddr, serial: u64) -> Option<SocketAddr> {
    let nth = serial / PORTS_PER_SOURCE;
    match to.ip() {
        IpAddr::V4(ip) if ip.is_loopback() && nth > 0 => {
            let low = (nth % 250) as u8 + 1;
            Some(SocketAddr::new(Ipv4Addr::new(127, 0, 1, low).into(), 0))
        }
        _ => None,
    }
}

/// Raises the soft limit of open files to the hard one and returns it.
pub(crate) fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}
