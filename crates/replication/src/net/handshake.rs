//! How two nodes prove to each other that they know the secret, without saying it.
//!
//! ```text
//!   dialer                                                        acceptor
//!     ── HELLO      magic, versions low..high, purpose, nonce, own name, whom it means ──►
//!     ◄── CHALLENGE version, nonce, own name ──
//!     ── PROOF      HMAC-SHA256(secret, "carrick link: dialer"   + HELLO + CHALLENGE) ──►
//!     ◄── WELCOME   HMAC-SHA256(secret, "carrick link: acceptor" + HELLO + CHALLENGE) ──      or REFUSED, with words
//! ```
//!
//! Both nonces, names, the purpose and the version are under both proofs, and the two begin with different words: so nothing can be recorded and
//! used again, and nothing that one side said can be sent back to it. The dialer proves itself first, so that whoever merely connects
//! gets nothing that he could try guesses on.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use hmac::{Hmac, Mac};
use journal::next;
use rand::RngCore;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{self, Parsed};
use super::{Identity, NetError};
use crate::coordinator::NodeName;

const MAGIC: &[u8; 8] = b"CARRICK\0";
/// Versions of everything above the handshake that this build speaks.
pub(super) const LOWEST: u16 = 1;
/// 2: an ACK says what has been received, too, and WELCOME whether confirms wait for that.
/// 3: HELLO of a standby says which level of the log it understands.
const HIGHEST: u16 = 3;

/// The version that does not exist has one that this one does not know.
pub(super) fn highest() -> u16 {
    HIGHEST + u16::from(next::is_on())
}

/// No frame of the handshake is larger, so nobody unproved makes us keep more.
const MAX: usize = 512;
/// Somebody who guesses waits this long for each answer.
const REFUSAL_DELAY: Duration = Duration::from_millis(300);

const HELLO: u8 = 1;
const CHALLENGE: u8 = 2;
const PROOF: u8 = 3;
const WELCOME: u8 = 4;
const REFUSED: u8 = 5;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The log, from the primary to its standby.
    Peer,
    /// The calls between voters of the embedded coordinator.
    Voters,
}

impl Purpose {
    fn code(self) -> u8 {
        match self {
            Self::Peer => 1,
            Self::Voters => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Peer),
            2 => Some(Self::Voters),
            _ => None,
        }
    }
}

/// What both sides know when it is done.
#[derive(Debug)]
pub(super) struct Agreed {
    pub peer: NodeName,
    pub purpose: Purpose,
    pub version: u16,
    /// What the peer has sent behind its last frame of the handshake.
    pub early: BytesMut,
}

type Nonce = [u8; 32];

fn nonce() -> Nonce {
    let mut nonce = [0; 32];
    rand::thread_rng().fill_bytes(&mut nonce);
    nonce
}

pub(super) async fn dial<S>(stream: &mut S, identity: &Identity, to: &NodeName, purpose: Purpose) -> Result<Agreed, NetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    dial_with(stream, identity, to, purpose, nonce()).await
}

pub(super) async fn dial_with<S>(
    stream: &mut S,
    identity: &Identity,
    to: &NodeName,
    purpose: Purpose,
    nonce: Nonce,
) -> Result<Agreed, NetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::new();
    let hello = hello_body(identity, to, purpose, nonce);
    send(stream, HELLO, &hello).await?;
    let challenge = match receive(stream, &mut buffer).await? {
        (CHALLENGE, body) => body,
        (REFUSED, body) => return Err(refused_us(&body)),
        _ => return Err(NetError::NotOurs("no challenge")),
    };
    let mut fields = Fields(&challenge);
    let version = fields.u16()?;
    fields.nonce()?;
    let peer = fields.name()?;
    fields.end()?;
    if !(LOWEST..=highest()).contains(&version) {
        return Err(NetError::Version { theirs_low: version, theirs_high: version, ours_low: LOWEST, ours_high: highest() });
    }
    if peer != *to {
        return Err(NetError::WrongName { expected: to.clone(), found: peer });
    }
    send(stream, PROOF, &proof(identity, Side::Dialer, &hello, &challenge)).await?;
    match receive(stream, &mut buffer).await? {
        (WELCOME, body) if same(&body, &proof(identity, Side::Acceptor, &hello, &challenge)) => {
            Ok(Agreed { peer, purpose, version, early: buffer })
        }
        (WELCOME, _) => Err(NetError::WrongSecret(peer)),
        (REFUSED, body) => Err(refused_us(&body)),
        _ => Err(NetError::NotOurs("no welcome")),
    }
}

pub(super) async fn accept<S>(stream: &mut S, identity: &Identity) -> Result<Agreed, NetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_with(stream, identity, nonce()).await
}

pub(super) async fn accept_with<S>(stream: &mut S, identity: &Identity, nonce: Nonce) -> Result<Agreed, NetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::new();
    let outcome = accept_inner(stream, &mut buffer, identity, nonce).await;
    // Words go only to those who began as a node would. Whether they can be sent is not worth another error.
    let words = match &outcome {
        Err(NetError::WrongSecret(_)) => {
            tokio::time::sleep(REFUSAL_DELAY).await;
            "your secret is not ours: `secret` differs between the two".to_owned()
        }
        Err(error @ NetError::Version { .. }) => format!("versions do not meet: {error}"),
        Err(NetError::WrongName { expected, .. }) => format!("this is {}, not {expected}: see the addresses under `peers`", identity.name),
        _ => return outcome.map(|agreed| Agreed { early: buffer, ..agreed }),
    };
    let _ = send(stream, REFUSED, words.as_bytes()).await;
    outcome
}

async fn accept_inner<S>(stream: &mut S, buffer: &mut BytesMut, identity: &Identity, nonce: Nonce) -> Result<Agreed, NetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (HELLO, hello) = receive(stream, buffer).await? else { return Err(NetError::NotOurs("no hello")) };
    let mut fields = Fields(&hello);
    if fields.take(MAGIC.len())? != MAGIC {
        return Err(NetError::NotOurs("no hello"));
    }
    let (low, high) = (fields.u16()?, fields.u16()?);
    let version = high.min(highest());
    if version < low.max(LOWEST) {
        return Err(NetError::Version { theirs_low: low, theirs_high: high, ours_low: LOWEST, ours_high: highest() });
    }
    let purpose = Purpose::from_code(fields.take(1)?[0]).ok_or(NetError::NotOurs("an unknown purpose"))?;
    fields.nonce()?;
    let (peer, meant) = (fields.name()?, fields.name()?);
    fields.end()?;
    if meant != identity.name {
        return Err(NetError::WrongName { expected: meant, found: identity.name.clone() });
    }
    if peer == identity.name {
        return Err(NetError::NotOurs("it has our own name"));
    }
    let mut challenge = Vec::with_capacity(MAX);
    challenge.put_u16_le(version);
    challenge.put_slice(&nonce);
    put_name(&mut challenge, &identity.name);
    send(stream, CHALLENGE, &challenge).await?;
    match receive(stream, buffer).await? {
        (PROOF, body) if same(&body, &proof(identity, Side::Dialer, &hello, &challenge)) => {}
        (PROOF, _) => return Err(NetError::WrongSecret(peer)),
        _ => return Err(NetError::NotOurs("no proof")),
    }
    send(stream, WELCOME, &proof(identity, Side::Acceptor, &hello, &challenge)).await?;
    Ok(Agreed { peer, purpose, version, early: BytesMut::new() })
}

fn hello_body(identity: &Identity, to: &NodeName, purpose: Purpose, nonce: Nonce) -> Vec<u8> {
    let mut hello = Vec::with_capacity(MAX);
    hello.put_slice(MAGIC);
    hello.put_u16_le(LOWEST);
    hello.put_u16_le(highest());
    hello.put_u8(purpose.code());
    hello.put_slice(&nonce);
    put_name(&mut hello, &identity.name);
    put_name(&mut hello, to);
    hello
}

#[derive(Clone, Copy)]
enum Side {
    Dialer,
    Acceptor,
}

/// Without a secret it proves nothing, and certificates have done so before the first frame.
fn proof(identity: &Identity, side: Side, hello: &[u8], challenge: &[u8]) -> [u8; 32] {
    let key = identity.secret.as_ref().map_or(&[][..], |secret| secret.bytes());
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(match side {
        Side::Dialer => b"carrick link: dialer".as_slice(),
        Side::Acceptor => b"carrick link: acceptor".as_slice(),
    });
    for part in [hello, challenge] {
        mac.update(&(part.len() as u32).to_le_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn same(left: &[u8], right: &[u8; 32]) -> bool {
    left.ct_eq(right.as_slice()).into()
}

fn refused_us(body: &[u8]) -> NetError {
    let text = String::from_utf8_lossy(body);
    NetError::RefusedUs(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

fn put_name(to: &mut Vec<u8>, name: &NodeName) {
    to.put_u8(name.as_str().len() as u8);
    to.put_slice(name.as_str().as_bytes());
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, kind: u8, body: &[u8]) -> Result<(), NetError> {
    let mut bytes = Vec::with_capacity(frame::HEAD + body.len());
    bytes.put_slice(&frame::head(kind, body.len()));
    bytes.put_slice(body);
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> Result<(u8, Vec<u8>), NetError> {
    loop {
        if let Parsed::Frame(kind, body) = frame::take(buffer, MAX)? {
            return Ok((kind, body.to_vec()));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(NetError::Torn);
        }
    }
}

/// What is left of a frame's body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], NetError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(NetError::NotOurs("a frame of the handshake is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, NetError> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn nonce(&mut self) -> Result<(), NetError> {
        self.take(32).map(|_| ())
    }

    fn name(&mut self) -> Result<NodeName, NetError> {
        let len = self.take(1)?[0];
        let text = std::str::from_utf8(self.take(len.into())?).map_err(|_| NetError::NotOurs("a name that is none"))?;
        text.parse().map_err(|_| NetError::NotOurs("a name that is none"))
    }

    fn end(&self) -> Result<(), NetError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(NetError::NotOurs("a frame of the handshake is too long")),
        }
    }
}
