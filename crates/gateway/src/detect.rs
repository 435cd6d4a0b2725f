//! What the first bytes of a connection are. Each protocol has a recogniser of its own; HTTP, which WebSocket begins with, and TLS have theirs
//! here. No opening is two protocols': `server`, which knows all of them, has the test.

use broker_api::{Protocol, Verdict};
use std::sync::Arc;

/// Bytes after which nobody needs more. STOMP allows empty lines in front of a frame.
pub(crate) const FIRST_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// The one at this place of the list.
    Protocol(usize),
    Http,
    Tls,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detected {
    Is(Claim),
    NeedMore,
    Nobody,
}

/// What each recogniser says.
pub fn claims<'a>(protocols: &'a [Arc<dyn Protocol>], first: &'a [u8]) -> impl Iterator<Item = (Claim, Verdict)> + 'a {
    let ours = protocols.iter().enumerate().map(|(n, protocol)| (Claim::Protocol(n), protocol.recognise(first)));
    ours.chain([(Claim::Http, http(first)), (Claim::Tls, tls(first))])
}

/// Whose these first bytes are.
pub fn detect(protocols: &[Arc<dyn Protocol>], first: &[u8]) -> Detected {
    let mut open = false;
    for (claim, verdict) in claims(protocols, first) {
        match verdict {
            Verdict::Mine => return Detected::Is(claim),
            Verdict::NeedMore => open = true,
            Verdict::NotMine => {}
        }
    }
    match open && first.len() < FIRST_MAX {
        true => Detected::NeedMore,
        false => Detected::Nobody,
    }
}

fn http(first: &[u8]) -> Verdict {
    match websocket::recognise(first) {
        Some(true) => Verdict::Mine,
        Some(false) => Verdict::NotMine,
        None => Verdict::NeedMore,
    }
}

/// RFC 8446, 5.1 and 4: a handshake record of some version 3.x, and a ClientHello in it.
fn tls(first: &[u8]) -> Verdict {
    let fits = |at: usize, right: fn(u8) -> bool| first.get(at).is_none_or(|byte| right(*byte));
    match fits(0, |byte| byte == 0x16) && fits(1, |byte| byte == 3) && fits(2, |byte| byte <= 4) && fits(5, |byte| byte == 1) {
        false => Verdict::NotMine,
        true if first.len() > 5 => Verdict::Mine,
        true => Verdict::NeedMore,
    }
}
