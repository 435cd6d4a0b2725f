//! The PROXY protocol, versions 1 and 2 (haproxy.org, doc/proxy-protocol.txt): a header in front of everything else, in which a load balancer
//! says whose connection it passes on.
//!
//! What is announced decides who is thought to be at this machine, and `guest` may come from there. So a client is near only if both the
//! sender of the header is and what it announces; who passes on a client without saying whose it is passes on a stranger.

use crate::Transport;
use broker_api::Peer;
use bytes::BytesMut;
use serde::{Deserialize, Deserializer};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::time::{timeout_at, Instant};

/// 2.1: "the longest possible line", with its end.
pub(crate) const V1_MAX: usize = 107;
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD: usize = 16;
/// Addresses take at most 216 bytes; what follows them (certificates, names of services) is not read.
pub(crate) const V2_MAX: usize = 4096;

/// Which headers are taken, and of whom.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub version: ProxyVersion,
    /// Others speak for themselves and send no header. Empty: everybody sends one.
    pub from: Arc<[Network]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyVersion {
    V1,
    V2,
    Any,
}

/// An address, or all that begin with the same bits: `10.0.0.0/8`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => (base.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(self.bits),
            (IpAddr::V6(base), IpAddr::V6(ip)) => (base.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(self.bits),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let fail = || format!("'{text}' is no network; right would be 10.1.2.3, 10.0.0.0/8 or fd00::/8");
        let (base, bits) = text.split_once('/').map_or((text, None), |(base, bits)| (base, Some(bits)));
        let base: IpAddr = base.parse().map_err(|_| fail())?;
        let max = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(max), str::parse).map_err(|_| fail())?;
        (bits <= max).then_some(Network { base, bits }).ok_or_else(fail)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whose connection it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// The proxy's own, to see whether we are there.
    Own,
    Client(SocketAddr),
    /// A client's, by a way that has no such address.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Header {
    Whole { len: usize, origin: Origin },
    Partial,
}

impl Proxy {
    /// Takes the header off the stream, and says whose it is.
    pub(crate) async fn accept_until(&self, until: Instant, mut stream: Transport, peer: Peer) -> io::Result<(Transport, Peer)> {
        if !self.trusts(&peer) {
            return Ok((stream, peer));
        }
        let mut seen = BytesMut::with_capacity(V1_MAX);
        loop {
            match parse(self.version, &seen).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))? {
                Header::Whole { len, origin } => {
                    let rest = seen.split_off(len).freeze();
                    return Ok((stream.with_read_ahead(rest), peer_of(origin, peer)));
                }
                Header::Partial => {}
            }
            match timeout_at(until, stream.read_buf(&mut seen)).await {
                Ok(Ok(0)) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before its PROXY header did")),
                Ok(read) => drop(read?),
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no PROXY header in time (handshake_timeout_secs)")),
            }
        }
    }

    fn trusts(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Tcp(address) => self.from.is_empty() || self.from.iter().any(|network| network.contains(address.ip())),
            Peer::Unix => true,
        }
    }
}

fn peer_of(origin: Origin, sender: Peer) -> Peer {
    match origin {
        Origin::Own => sender,
        // Its loopback is not ours.
        Origin::Client(address) if address.ip().to_canonical().is_loopback() && !sender.is_loopback() => sender,
        Origin::Client(address) => Peer::Tcp(address),
        Origin::Unknown => Peer::Tcp((Ipv4Addr::UNSPECIFIED, 0).into()),
    }
}

pub(crate) fn parse(version: ProxyVersion, bytes: &[u8]) -> Result<Header, &'static str> {
    let is_v2 = bytes.starts_with(&V2_SIGNATURE[..bytes.len().min(V2_SIGNATURE.len())]);
    let is_v1 = bytes.starts_with(&b"PROXY "[..bytes.len().min(6)]);
    match version {
        _ if bytes.is_empty() => Ok(Header::Partial),
        ProxyVersion::V1 | ProxyVersion::Any if is_v1 => parse_v1(bytes),
        ProxyVersion::V2 | ProxyVersion::Any if is_v2 => parse_v2(bytes),
        ProxyVersion::V1 => Err("it does not begin with a PROXY header of version 1: right would be a proxy that sends one (proxy=v1)"),
        ProxyVersion::V2 => Err("it does not begin with a PROXY header of version 2: right would be a proxy that sends one (proxy=v2)"),
        ProxyVersion::Any => Err("it does not begin with a PROXY header: right would be a proxy that sends one (proxy=any)"),
    }
}

/// 2.1: `PROXY TCP4 192.0.2.1 192.0.2.2 40000 1883\r\n`.
fn parse_v1(bytes: &[u8]) -> Result<Header, &'static str> {
    const WRONG: &str = "its PROXY header of version 1 is malformed";
    let head = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = head.windows(2).position(|two| two == b"\r\n") else {
        return if bytes.len() < V1_MAX { Ok(Header::Partial) } else { Err("its PROXY header does not end") };
    };
    let line = std::str::from_utf8(&head[..end]).map_err(|_| WRONG)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().ok_or(WRONG)?;
    if family == "UNKNOWN" {
        return Ok(Header::Whole { len: end + 2, origin: Origin::Unknown });
    }
    let [Some(from), Some(to), Some(from_port), Some(to_port), None] =
        [words.next(), words.next(), words.next(), words.next(), words.next()]
    else {
        return Err(WRONG);
    };
    let (from, to): (IpAddr, IpAddr) = (from.parse().map_err(|_| WRONG)?, to.parse().map_err(|_| WRONG)?);
    let fits = |ip: &IpAddr| family == "TCP4" && ip.is_ipv4() || family == "TCP6" && ip.is_ipv6();
    // No sign, no leading zeros: one way to write each.
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| port.to_string() == text).ok_or(WRONG);
    if !fits(&from) || !fits(&to) {
        return Err(WRONG);
    }
    port(to_port)?;
    Ok(Header::Whole { len: end + 2, origin: Origin::Client((from, port(from_port)?).into()) })
}

/// 2.2: signature, version and command, family, length, addresses, and more that is passed over.
fn parse_v2(bytes: &[u8]) -> Result<Header, &'static str> {
    let Some(head) = bytes.first_chunk::<V2_HEAD>() else { return Ok(Header::Partial) };
    let (command, family) = (head[12], head[13]);
    let len = V2_HEAD + usize::from(u16::from_be_bytes([head[14], head[15]]));
    if command >> 4 != 2 {
        return Err("its PROXY header has a version that is not known");
    }
    if len > V2_MAX {
        return Err("its PROXY header is longer than 4096 bytes");
    }
    if bytes.len() < len {
        return Ok(Header::Partial);
    }
    let mut addresses = &bytes[V2_HEAD..len];
    let origin = match (command & 0xf, family) {
        (0, _) => Origin::Own,
        (1, 0x11) => Origin::Client(v2_source::<4>(&mut addresses).ok_or("its PROXY header is too short")?),
        (1, 0x21) => Origin::Client(v2_source::<16>(&mut addresses).ok_or("its PROXY header is too short")?),
        (1, 0x00..=0x02 | 0x10..=0x12 | 0x20..=0x22 | 0x30..=0x32) => Origin::Unknown,
        _ => return Err("its PROXY header has a command or a family that is not known"),
    };
    Ok(Header::Whole { len, origin })
}

/// Source address, destination address, source port, destination port.
fn v2_source<const N: usize>(bytes: &mut &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (_, rest) = rest.split_first_chunk::<N>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    rest.first_chunk::<2>()?;
    let ip = match IpAddr::from(*source) {
        IpAddr::V6(ip) => canonical(ip),
        ip => ip,
    };
    Some((ip, u16::from_be_bytes(*port)).into())
}

fn canonical(ip: Ipv6Addr) -> IpAddr {
    IpAddr::V6(ip).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend_from_slice(&[command, family]);
        header.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
        header.extend_from_slice(addresses);
        header
    }

    fn client(address: &str) -> Origin {
        Origin::Client(address.parse().expect("an address"))
    }

    #[test]
    fn headers_are_read_whole_and_wait_for_their_end() {
        let mut six = [0; 36];
        six[15] = 9;
        six[32..34].copy_from_slice(&[0, 80]);
        for (header, origin) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 1883\r\n".to_vec(), client("192.0.2.7:40000")),
            (b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n".to_vec(), client("[2001:db8::7]:1")),
            (b"PROXY UNKNOWN ffff:f...f:ffff what ever\r\n".to_vec(), Origin::Unknown),
            (b"PROXY UNKNOWN\r\n".to_vec(), Origin::Unknown),
            (v2(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x9c, 0x40, 7, 0x5b]), client("192.0.2.7:40000")),
            (v2(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x9c, 0x40, 7, 0x5b, 4, 0, 1, 0]), client("192.0.2.7:40000")),
            (v2(0x21, 0x21, &six), client("[::9]:80")),
            (v2(0x20, 0x00, &[]), Origin::Own),
            (v2(0x21, 0x00, &[1, 2]), Origin::Unknown),
            (v2(0x21, 0x31, &[0; 216]), Origin::Unknown),
        ] {
            for end in 0..header.len() {
                assert_eq!(parse(ProxyVersion::Any, &header[..end]), Ok(Header::Partial), "{header:?} to {end}");
            }
            let more = [&header[..], b"\x10\x0d\x00"].concat();
            assert_eq!(parse(ProxyVersion::Any, &more), Ok(Header::Whole { len: header.len(), origin }));
            let (right, wrong) = match header[0] {
                b'P' => (ProxyVersion::V1, ProxyVersion::V2),
                _ => (ProxyVersion::V2, ProxyVersion::V1),
            };
            assert!(parse(right, &more).is_ok() && parse(wrong, &more).is_err());
        }
    }

    #[test]
    fn what_is_not_a_header_is_refused() {
        let long = format!("PROXY TCP4 {}", "1".repeat(200));
        for bytes in [
            &b"\x10\x0d\x00\x04MQTT"[..],
            b"AMQP\0\0\x09\x01",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 40000\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 1883 1\r\n",
            b"PROXY TCP4 ::1 ::2 40000 1883\r\n",
            b"PROXY TCP6 192.0.2.7 10.0.0.1 40000 1883\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 70000 1883\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 1883\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 01 1883\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 1 1883\r\n",
            b"PROXY  TCP4 192.0.2.7 10.0.0.1 1 1883\r\n",
            b"PROXY TCP4 \xff 10.0.0.1 1 1883\r\n",
            long.as_bytes(),
            &v2(0x31, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x41, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x11, &[0; 5000])[..16],
        ] {
            assert!(parse(ProxyVersion::Any, bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn nobody_from_elsewhere_becomes_local() {
        let near = Peer::Tcp("127.0.0.1:9".parse().expect("an address"));
        let far = Peer::Tcp("10.0.0.9:9".parse().expect("an address"));
        for (origin, sender, local) in [
            (client("192.0.2.7:1"), &near, false),
            (client("192.0.2.7:1"), &far, false),
            (client("127.0.0.1:1"), &near, true),
            (client("127.0.0.1:1"), &far, false),
            (client("[::ffff:127.0.0.1]:1"), &far, false),
            (Origin::Unknown, &near, false),
            (Origin::Unknown, &Peer::Unix, false),
            (Origin::Own, &near, true),
            (Origin::Own, &far, false),
        ] {
            assert_eq!(peer_of(origin, sender.clone()).is_loopback(), local, "{origin:?} by {sender}");
        }
    }

    #[test]
    fn networks_are_read_and_contain_what_they_should() {
        let network = |text: &str| text.parse::<Network>().expect(text);
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        assert!(network("10.0.0.0/8").contains(ip("10.255.1.2")) && !network("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(network("10.0.0.1").contains(ip("::ffff:10.0.0.1")) && !network("10.0.0.1").contains(ip("10.0.0.2")));
        assert!(network("0.0.0.0/0").contains(ip("8.8.8.8")) && !network("0.0.0.0/0").contains(ip("::1")));
        assert!(network("fd00::/8").contains(ip("fd12::1")) && !network("fd00::/8").contains(ip("fe80::1")));
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "localhost"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
