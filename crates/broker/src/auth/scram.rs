//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side, as pure functions over messages.
//!
//! ```text
//! client first   n,,n=user,r=<client nonce>
//! server first   r=<client nonce><server nonce>,s=<salt>,i=<iterations>
//! client final   c=<base64 of "n,,">,r=<both nonces>,p=<proof>
//! server final   v=<server signature>
//! ```
//!
//! The server keeps no password: `StoredKey` recognises a proof without being able to make one, `ServerKey` proves to the client that
//! the server knew it. Channel binding is not offered, so `n` and `y` are taken and `p=` is not.
//!
//! Deviation: RFC 5802, 2.2 wants names and passwords prepared with SASLprep; we take their UTF-8 as it comes. For ASCII that is the same.

use super::hash::{decode_base64, decode_salt, parse_iterations};
use super::keyed::{hmac, same, Digest};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// RFC 7677, section 4: at least 4096.
pub(super) const ITERATIONS: u32 = 4096;
pub(super) const SALT_LEN: usize = 16;

/// More than any client sends: names are short and nonces are some 24 bytes.
const MESSAGE_MAX: usize = 2048;
const CLIENT_NONCE_MAX: usize = 256;

/// What is stored of a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Box<[u8]>,
    stored_key: Digest,
    server_key: Digest,
}

impl Verifier {
    pub(super) fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Verifier {
        let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations);
        let stored_key = Sha256::digest(hmac(&salted, b"Client Key")).into();
        Verifier { iterations, salt: salt.into(), stored_key, server_key: hmac(&salted, b"Server Key") }
    }

    /// Recognises nobody: for names that do not exist.
    pub(super) fn of_nobody(salt: &[u8], iterations: u32, stored_key: Digest) -> Verifier {
        Verifier { iterations, salt: salt.into(), stored_key, server_key: stored_key }
    }

    pub(super) fn parse(text: &str) -> Result<Verifier, String> {
        let shape = "a stored SCRAM credential is SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey or \
                     {SCRAM-SHA-256}iterations,salt,StoredKey,ServerKey, in base64";
        let fields = match text.strip_prefix("SCRAM-SHA-256$") {
            Some(rest) => rest.split([':', '$']).collect::<Vec<_>>(),
            None => text.strip_prefix("{SCRAM-SHA-256}").ok_or(shape)?.split(',').collect(),
        };
        let [iterations, salt, stored_key, server_key] = fields[..] else { return Err(shape.to_owned()) };
        let key = |text: &str, what: &str| {
            let bytes = decode_base64(text, what)?;
            Digest::try_from(&*bytes).map_err(|_| format!("{what} has {} bytes, not 32 bytes", bytes.len()))
        };
        Ok(Verifier {
            iterations: parse_iterations(iterations, ITERATIONS)?,
            salt: decode_salt(salt)?,
            stored_key: key(stored_key, "the StoredKey")?,
            server_key: key(server_key, "the ServerKey")?,
        })
    }

    /// For a mechanism that sends the password itself.
    pub(super) fn verify_password(&self, password: &[u8]) -> bool {
        same(&Verifier::derive(password, &self.salt, self.iterations).stored_key, &self.stored_key)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        write!(f, "SCRAM-SHA-256${}:{}${}:{}", self.iterations, encode(&self.salt), encode(&self.stored_key), encode(&self.server_key))
    }
}

/// Why a message cannot be answered. For the log; the client learns only that it is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Malformed {
    /// The client wants channel binding, which only a mechanism ending in `-PLUS` offers.
    ChannelBinding,
    Syntax(&'static str),
}

#[derive(PartialEq, Eq, Debug)]
pub(super) struct ClientFirst<'a> {
    pub(super) user: String,
    /// Of the authorisation identity; None if it is the user itself.
    pub(super) act_as: Option<String>,
    header: &'a str,
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<ClientFirst<'a>, Malformed> {
        let text = text(message)?;
        let mut fields = text.splitn(3, ',');
        let (Some(binding), Some(identity), Some(bare)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(Malformed::Syntax("no GS2 header"));
        };
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err(Malformed::ChannelBinding),
            _ => return Err(Malformed::Syntax("bad channel binding flag")),
        }
        let act_as = match identity.strip_prefix("a=") {
            Some(name) => Some(saslname(name)?),
            None if identity.is_empty() => None,
            None => return Err(Malformed::Syntax("bad authorisation identity")),
        };
        let mut fields = bare.split(',');
        let user = match fields.next().unwrap_or_default() {
            name if name.starts_with("n=") => saslname(&name[2..])?,
            // RFC 5802, 5.1: `m=` is reserved for extensions that the other side must understand.
            extension if extension.starts_with("m=") => return Err(Malformed::Syntax("unknown mandatory extension")),
            _ => return Err(Malformed::Syntax("no user name")),
        };
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(Malformed::Syntax("no nonce"))?;
        if nonce.is_empty() || nonce.len() > CLIENT_NONCE_MAX || !nonce.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Malformed::Syntax("bad nonce"));
        }
        let header = &text[..text.len() - bare.len()];
        Ok(ClientFirst { user, act_as, header, bare, nonce })
    }
}

fn text(message: &[u8]) -> Result<&str, Malformed> {
    if message.len() > MESSAGE_MAX {
        return Err(Malformed::Syntax("message too long"));
    }
    match std::str::from_utf8(message) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Malformed::Syntax("not UTF-8")),
    }
}

/// RFC 5802, 5.1: in a name `,` is written `=2C` and `=` is written `=3D`; no other `=` may stand in it.
fn saslname(text: &str) -> Result<String, Malformed> {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        name.push_str(&rest[..at]);
        name.push(match rest.get(at..at + 3) {
            Some("=2C") => ',',
            Some("=3D") => '=',
            _ => return Err(Malformed::Syntax("bad escape in a name")),
        });
        rest = &rest[at + 3..];
    }
    name.push_str(rest);
    if name.is_empty() {
        return Err(Malformed::Syntax("empty name"));
    }
    Ok(name)
}

/// A conversation between the server's first message and the client's final one.
pub(super) struct Exchange {
    header: Box<str>,
    client_first_bare: Box<str>,
    server_first: Box<str>,
    /// Both nonces.
    nonce: Box<str>,
}

impl Exchange {
    /// `server_nonce` is printable, without a comma, and never used twice.
    pub(super) fn new(first: &ClientFirst<'_>, server_nonce: &str, salt: &[u8], iterations: u32) -> Exchange {
        let nonce = format!("{}{server_nonce}", first.nonce);
        let server_first = format!("r={nonce},s={},i={iterations}", STANDARD.encode(salt));
        Exchange {
            header: first.header.into(),
            client_first_bare: first.bare.into(),
            server_first: server_first.into(),
            nonce: nonce.into(),
        }
    }

    pub(super) fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Checks the form of the client's last message and that it belongs to this conversation.
    pub(super) fn receive(&self, message: &[u8]) -> Result<ClientFinal, Malformed> {
        let text = text(message)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Malformed::Syntax("no proof"))?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|field| field.strip_prefix("c=")).ok_or(Malformed::Syntax("no channel binding"))?;
        // The header comes again under the proof, so that nobody can have changed the flag on the way.
        if STANDARD.decode(binding).ok().as_deref() != Some(self.header.as_bytes()) {
            return Err(Malformed::Syntax("the channel binding differs from the first message"));
        }
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(Malformed::Syntax("no nonce"))?;
        if nonce != &*self.nonce {
            return Err(Malformed::Syntax("the nonce is not ours"));
        }
        let proof = STANDARD.decode(proof).ok().and_then(|proof| Digest::try_from(&*proof).ok());
        let proof = proof.ok_or(Malformed::Syntax("the proof is not 32 bytes of base64"))?;
        let auth_message = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        Ok(ClientFinal { auth_message, proof })
    }
}

/// A well-formed client's last message, not yet verified.
pub(super) struct ClientFinal {
    auth_message: String,
    proof: Digest,
}

impl ClientFinal {
    /// The server's last message, if the client has proved that it knows the password.
    pub(super) fn verify(&self, verifier: &Verifier) -> Option<Vec<u8>> {
        let signature = hmac(&verifier.stored_key, self.auth_message.as_bytes());
        let mut client_key = self.proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        // Computed either way, so that a wrong proof takes as long as a right one.
        let server = hmac(&verifier.server_key, self.auth_message.as_bytes());
        same(&Sha256::digest(client_key), &verifier.stored_key).then(|| format!("v={}", STANDARD.encode(server)).into_bytes())
    }
}

#[cfg(test)]
pub(super) mod client;
#[cfg(test)]
mod tests;
