//! SCRAM-SHA-256 (RFC 5802, RFC 7677) and SCRAM-SHA-512, the server's side, as pure functions over messages.
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
use super::keyed::same;
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};
use std::fmt;

/// RFC 7677, section 4: at least 4096.
const ITERATIONS_LEAST: u32 = 4096;
pub(super) const SALT_LEN: usize = 16;

/// More than any client sends: names are short and nonces are some 24 bytes.
const MESSAGE_MAX: usize = 2048;
const CLIENT_NONCE_MAX: usize = 256;

/// The hash that the mechanism is named after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(super) const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    pub(super) fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "SCRAM-SHA-256",
            Algorithm::Sha512 => "SCRAM-SHA-512",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// What passwords are stretched with that we keep in clear, or turn into a verifier.
    pub(super) fn iterations(self) -> u32 {
        match self {
            Algorithm::Sha256 => ITERATIONS_LEAST,
            // What its draft (draft-melnikov-scram-sha-512) asks for.
            Algorithm::Sha512 => 10_000,
        }
    }

    fn len(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    fn digest(self, message: &[u8]) -> Bytes {
        match self {
            Algorithm::Sha256 => Sha256::digest(message).as_slice().into(),
            Algorithm::Sha512 => Sha512::digest(message).as_slice().into(),
        }
    }

    fn hmac(self, key: &[u8], message: &[u8]) -> Bytes {
        match self {
            Algorithm::Sha256 => hmac_of::<Hmac<Sha256>>(key, message),
            Algorithm::Sha512 => hmac_of::<Hmac<Sha512>>(key, message),
        }
    }

    fn salted(self, password: &[u8], salt: &[u8], iterations: u32) -> Bytes {
        match self {
            Algorithm::Sha256 => pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations).into(),
            Algorithm::Sha512 => pbkdf2::pbkdf2_hmac_array::<Sha512, 64>(password, salt, iterations).into(),
        }
    }
}

fn hmac_of<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Bytes {
    let mut mac = <M as Mac>::new_from_slice(key).expect("any key length is good for HMAC");
    mac.update(message);
    mac.finalize().into_bytes().as_slice().into()
}

/// As many as the algorithm's digest has.
type Bytes = Box<[u8]>;

/// What is stored of a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Verifier {
    pub(super) algorithm: Algorithm,
    pub(super) iterations: u32,
    pub(super) salt: Box<[u8]>,
    stored_key: Bytes,
    server_key: Bytes,
}

impl Verifier {
    pub(super) fn derive(algorithm: Algorithm, password: &[u8], salt: &[u8], iterations: u32) -> Verifier {
        let salted = algorithm.salted(password, salt, iterations);
        let stored_key = algorithm.digest(&algorithm.hmac(&salted, b"Client Key"));
        Verifier { algorithm, iterations, salt: salt.into(), stored_key, server_key: algorithm.hmac(&salted, b"Server Key") }
    }

    /// Recognises nobody: for names that do not exist.
    pub(super) fn of_nobody(algorithm: Algorithm, salt: &[u8], iterations: u32, seed: &[u8]) -> Verifier {
        let key = algorithm.hmac(seed, b"nobody");
        Verifier { algorithm, iterations, salt: salt.into(), stored_key: key.clone(), server_key: key }
    }

    /// Whether a text is one of the stored forms, right or wrong.
    pub(super) fn is_form(text: &str) -> bool {
        Algorithm::ALL.iter().any(|algorithm| {
            let rest = text.trim_start_matches('{').strip_prefix(algorithm.name());
            rest.is_some_and(|rest| rest.starts_with(if text.starts_with('{') { '}' } else { '$' }))
        })
    }

    pub(super) fn parse(text: &str) -> Result<Verifier, String> {
        let shape = "a stored SCRAM credential is SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey or \
                     {SCRAM-SHA-256}iterations,salt,StoredKey,ServerKey, in base64, or the same with SCRAM-SHA-512";
        let (name, fields) = match text.strip_prefix('{') {
            Some(rest) => rest.split_once('}').map(|(name, rest)| (name, rest.split(',').collect::<Vec<_>>())).ok_or(shape)?,
            None => text.split_once('$').map(|(name, rest)| (name, rest.split([':', '$']).collect())).ok_or(shape)?,
        };
        let algorithm = Algorithm::of_name(name).ok_or(shape)?;
        let [iterations, salt, stored_key, server_key] = fields[..] else { return Err(shape.to_owned()) };
        let key = |text: &str, what: &str| {
            let (bytes, len) = (decode_base64(text, what)?, algorithm.len());
            if bytes.len() == len {
                Ok(bytes)
            } else {
                Err(format!("{what} has {} bytes, not {len} bytes", bytes.len()))
            }
        };
        Ok(Verifier {
            algorithm,
            iterations: parse_iterations(iterations, ITERATIONS_LEAST)?,
            salt: decode_salt(salt)?,
            stored_key: key(stored_key, "the StoredKey")?,
            server_key: key(server_key, "the ServerKey")?,
        })
    }

    /// For a mechanism that sends the password itself.
    pub(super) fn verify_password(&self, password: &[u8]) -> bool {
        same(&Verifier::derive(self.algorithm, password, &self.salt, self.iterations).stored_key, &self.stored_key)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let Verifier { algorithm, iterations, .. } = self;
        write!(f, "{}${iterations}:{}${}:{}", algorithm.name(), encode(&self.salt), encode(&self.stored_key), encode(&self.server_key))
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
        let proof = STANDARD.decode(proof).map_err(|_| Malformed::Syntax("the proof is not base64"))?;
        let auth_message = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        Ok(ClientFinal { auth_message, proof })
    }
}

/// A well-formed client's last message, not yet verified.
pub(super) struct ClientFinal {
    auth_message: String,
    proof: Vec<u8>,
}

impl ClientFinal {
    /// The server's last message, if the client has proved that it knows the password.
    pub(super) fn verify(&self, verifier: &Verifier) -> Option<Vec<u8>> {
        let algorithm = verifier.algorithm;
        let signature = algorithm.hmac(&verifier.stored_key, self.auth_message.as_bytes());
        let client_key: Bytes = self.proof.iter().zip(&signature).map(|(byte, mask)| byte ^ mask).collect();
        // Computed either way, so that a wrong proof takes as long as a right one.
        let server = algorithm.hmac(&verifier.server_key, self.auth_message.as_bytes());
        let right = same(&algorithm.digest(&client_key), &verifier.stored_key) && self.proof.len() == algorithm.len();
        right.then(|| format!("v={}", STANDARD.encode(server)).into_bytes())
    }
}

#[cfg(test)]
pub(super) mod client;
#[cfg(test)]
mod tests;
