//! A connection before it is clear what it speaks: a task of its own, which reads a little, and ends when the connection has a session.
//!
//! ```text
//!  any:// ── detect ──┬── a protocol ──────────────────────────┐
//!                     ├── HTTP ──┐                             ├── Door::connect, Door::seat
//!  ws:// ─────────────────────── upgrade ── 101, WebSocket ────┘
//! ```
//!
//! What was read to find out is put back in front of the stream. All of it together has one deadline, and a bound on its bytes.

use crate::accept::Door;
use crate::detect::{detect, Claim, Detected, FIRST_MAX};
use crate::opening::Caller;
use crate::slots::Slot;
use crate::{Spoken, Transport, Web};
use broker_api::{Peer, Protocol};
use bytes::BytesMut;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{timeout, timeout_at, Instant};
use tracing::{debug, info};
use websocket::{Opening, Refusal, Request, WebSocket};

/// The head of an HTTP request. Browsers stay below 2 KiB; cookies of the host may come on top.
const HEAD_MAX: usize = 8 * 1024;
/// Room for a first read. Most requests fit.
const READ: usize = 1024;
/// For a client that is refused: to take the answer, and then to close its end.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: usize = 64 * 1024;

/// Why nobody speaks to it.
enum Lost {
    /// The peer has gone, or the network.
    Gone(Option<io::Error>),
    Late,
    Unknown,
    NoTls(io::Error),
    /// It spoke HTTP, and gets an answer.
    Refused(Refusal),
}

struct Guest {
    stream: Transport,
    seen: BytesMut,
    until: Instant,
}

impl Guest {
    /// With what was read of it in front. The guest has none then.
    fn take_stream(&mut self) -> Transport {
        std::mem::replace(&mut self.stream, Transport::nothing()).with_read_ahead(self.seen.split().freeze())
    }

    /// At least one more byte.
    async fn more(&mut self) -> Result<(), Lost> {
        self.seen.reserve(READ);
        match timeout_at(self.until, self.stream.read_buf(&mut self.seen)).await {
            Ok(Ok(0)) => Err(Lost::Gone(None)),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Lost::Gone(Some(error))),
            Err(_) => Err(Lost::Late),
        }
    }
}

/// What a guest turned out to be.
struct Known {
    protocol: Arc<dyn Protocol>,
    /// For WebSocket: the answer that its client waits for, and whether text frames are right.
    upgrade: Option<(Arc<Web>, Vec<u8>, bool)>,
}

pub(crate) async fn greet(door: &Door, stream: Transport, mut caller: Caller, until: Instant, slot: Slot) {
    let mut guest = Guest { stream, seen: BytesMut::new(), until };
    let known = match &door.service.spoken {
        Spoken::One(protocol) => Ok(Known { protocol: protocol.clone(), upgrade: None }),
        Spoken::Web(web) => upgrade(web, &mut guest, &caller.peer).await,
        Spoken::Any(web) => any(door, web, &mut guest, &mut caller).await,
    };
    let lost = match known {
        Ok(known) => match settle(door, known, guest, &caller, slot).await {
            Ok(()) => return,
            Err((lost, stream, slot)) => (lost, stream, slot),
        },
        Err(lost) => {
            if matches!(lost, Lost::Unknown) {
                let first = guest.seen[..guest.seen.len().min(16)].escape_ascii();
                info!(listener = %door.url, peer = %caller.peer, %first, "connection closed: nothing that is spoken here begins like this");
            }
            (lost, guest.stream, slot)
        }
    };
    farewell(door, lost, &caller.peer).await;
}

/// Finds out by the first bytes.
async fn any(door: &Door, web: &Arc<Web>, guest: &mut Guest, caller: &mut Caller) -> Result<Known, Lost> {
    let mut tls = door.service.front.tls_if_asked.as_ref();
    loop {
        match (detect(&web.protocols, &guest.seen), tls) {
            (Detected::Is(Claim::Protocol(which)), _) => return Ok(Known { protocol: web.protocols[which].clone(), upgrade: None }),
            (Detected::Is(Claim::Http), _) => return upgrade(web, guest, &caller.peer).await,
            (Detected::Is(Claim::Tls), Some(offered)) => {
                // Once: nobody speaks TLS in TLS.
                tls = None;
                let stream = guest.take_stream();
                (guest.stream, caller.identity) = offered.accept_until(guest.until, stream).await.map_err(Lost::NoTls)?;
            }
            (Detected::Is(Claim::Tls), None) | (Detected::Nobody, _) => return Err(Lost::Unknown),
            (Detected::NeedMore, _) => guest.more().await?,
        }
    }
}

/// WebSocket's handshake, up to the answer.
async fn upgrade(web: &Arc<Web>, guest: &mut Guest, peer: &Peer) -> Result<Known, Lost> {
    let request = loop {
        // Not HTTP at all: it is not waited for.
        if guest.seen.len() < FIRST_MAX && websocket::recognise(&guest.seen) == Some(false) {
            return Err(Lost::Unknown);
        }
        if ends_head(&guest.seen) {
            match Request::parse(&guest.seen).map_err(Lost::Refused)? {
                Opening::Whole(request, len) => {
                    let _ = guest.seen.split_to(len);
                    break request;
                }
                Opening::Partial => {}
            }
        }
        if guest.seen.len() > HEAD_MAX {
            return Err(Lost::Refused(Refusal::too_large()));
        }
        guest.more().await.map_err(|lost| match lost {
            Lost::Late if !guest.seen.is_empty() => Lost::Refused(Refusal::too_slow()),
            lost => lost,
        })?;
    };
    let accepted = web.menu.answer(&request, peer.is_loopback()).map_err(Lost::Refused)?;
    let protocol = web.protocols[web.carried[accepted.which]].clone();
    let text = web.menu.carried[accepted.which].text;
    Ok(Known { protocol, upgrade: Some((web.clone(), accepted.response, text)) })
}

/// An empty line. Looked for before anything is parsed: a head that comes byte by byte is parsed once.
fn ends_head(seen: &[u8]) -> bool {
    seen.windows(2).any(|two| two == b"\n\n") || seen.windows(4).any(|four| four == b"\r\n\r\n")
}

/// Gives it a session.
async fn settle(door: &Door, known: Known, guest: Guest, caller: &Caller, slot: Slot) -> Result<(), (Lost, Transport, Slot)> {
    let Guest { mut stream, seen, until } = guest;
    // Who comes through HTTP is told in its words, which proxies and load balancers understand too.
    if let (Err(refusal), Some(_)) = (door.serves(&slot), &known.upgrade) {
        return Err((Lost::Refused(Refusal::new(503, refusal.to_string())), stream, slot));
    }
    let core = match (door.connect(&known.protocol, caller, &slot), &known.upgrade) {
        (Ok(core), _) => core,
        // It is in the log.
        (Err(_), None) => return Ok(()),
        (Err(refusal), Some(_)) => return Err((Lost::Refused(Refusal::new(503, refusal.to_string())), stream, slot)),
    };
    let stream = match known.upgrade {
        None => stream.with_read_ahead(seen.freeze()),
        Some((web, response, text)) => {
            let answered = timeout_at(until, async {
                stream.write_all(&response).await?;
                stream.flush().await
            });
            match answered.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err((Lost::Gone(Some(error)), stream, slot)),
                Err(_) => return Err((Lost::Late, stream, slot)),
            }
            let stream = WebSocket::new(stream.with_read_ahead(seen.freeze()), &web.stream, text);
            Transport::layered(stream.going_away_with(door.ending()))
        }
    };
    door.seat(&known.protocol, core, stream, caller.clone(), slot);
    Ok(())
}

/// The last words to those who understand them. The place in the pool is held until the end.
async fn farewell(door: &Door, (lost, mut stream, _slot): (Lost, Transport, Slot), peer: &Peer) {
    let refusal = match lost {
        Lost::Gone(None) => return debug!(listener = %door.url, %peer, "the peer closed the connection before it said what it speaks"),
        Lost::Gone(Some(error)) => return debug!(listener = %door.url, %peer, %error, "connection lost before it said what it speaks"),
        Lost::Late => return info!(listener = %door.url, %peer, "connection closed: it did not say in time what it speaks"),
        Lost::Unknown => return,
        Lost::NoTls(error) => return info!(listener = %door.url, %peer, %error, "no TLS"),
        Lost::Refused(refusal) => refusal,
    };
    info!(listener = %door.url, %peer, status = refusal.status, why = refusal.why, "no WebSocket for this request");
    let words = async {
        stream.write_all(&refusal.response()).await?;
        stream.shutdown().await?;
        // Closing with unread input would send a reset, and that could overtake the answer.
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES as u64), &mut tokio::io::sink()).await
    };
    let _ = timeout(FAREWELL, words).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_an_empty_line() {
        assert!(ends_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") && ends_head(b"GET / HTTP/1.1\n\n\x82"));
        assert!(!ends_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r") && !ends_head(b""));
    }
}
