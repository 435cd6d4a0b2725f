//! The forms in which a password may be stored.
//!
//! | text | what it is |
//! |---|---|
//! | `$argon2id$v=19$m=8192,t=3,p=1$salt$hash` | argon2id, our own form (`carrick hash-password`) and that of `mosquitto_passwd` 2.1 |
//! | `$7$iterations$salt$hash` | PBKDF2-HMAC-SHA-512 of `mosquitto_passwd` 1.6 to 2.0 |
//! | `$6$salt$hash` | salted SHA-512 of older `mosquitto_passwd` |
//! | `SCRAM-SHA-256$4096:salt$StoredKey:ServerKey` | a SCRAM verifier, as PostgreSQL and RFC 5803 write it |
//! | `{SCRAM-SHA-256}4096,salt,StoredKey,ServerKey` | the same as Dovecot writes it; both also with SCRAM-SHA-512 |
//! | `{rabbit_password_hashing_sha256}base64` | RabbitMQ: base64 of 4 bytes of salt and the hash of salt and password; also `_sha512` and, of old, `_md5` |
//!
//! The bounds on costs keep a typing error in a file from turning each login into minutes of work or gigabytes of memory.

use super::keyed::{fill_random, same};
use super::scram::{self, Verifier};
use argon2::password_hash::{PasswordHash as Phc, PasswordHasher, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use hmac::Hmac;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};
use std::cell::Cell;

/// The costs of a new hash. OWASP's table trades memory against passes; 8 MiB is small enough that the one hash under way at a time
/// does not show in a broker that is to live in 20 MiB, and three passes over it take some 20 ms of one core, once per user and start
/// (what was right is remembered), while each guess at a stolen file costs those 8 MiB and 20 ms too.
const MEMORY_KIB: u32 = 8 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;

const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
/// About a second of PBKDF2.
pub(super) const ITERATIONS_MAX: u32 = 2_000_000;
const SALT_MAX: usize = 256;
/// A block of argon2 is 1 KiB.
const MEMORY_KEPT_KIB: usize = 16 * 1024;

/// An argon2id hash of this password with a fresh salt, as text for a configuration file.
pub fn hash_password(password: &str) -> String {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("constant parameters in range");
    let salt = SaltString::generate(&mut rand::rngs::OsRng);
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    hasher.hash_password(password.as_bytes(), &salt).expect("a fresh salt and constant parameters").to_string()
}

/// A SCRAM verifier of this password with a fresh salt, as text for a configuration file: for a user who logs in without sending the password
/// and whose password is not to stand in the file.
pub fn scram_verifier(algorithm: scram::Algorithm, password: &str) -> Result<String, rand::Error> {
    let mut salt = [0; scram::SALT_LEN];
    fill_random(&mut salt)?;
    Ok(Verifier::derive(algorithm, password.as_bytes(), &salt, algorithm.iterations()).to_string())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RabbitAlgorithm {
    Sha256,
    Sha512,
    /// What RabbitMQ before 3.6 wrote. It keeps the password of nobody who has the file; taken so that its users can come along.
    Md5,
}

#[derive(Clone)]
pub(super) enum PasswordHash {
    Argon2id { params: Params, version: Version, salt: Box<[u8]>, hash: Box<[u8]> },
    MosquittoPbkdf2 { iterations: u32, salt: Box<[u8]>, hash: Box<[u8]> },
    MosquittoSha512 { salt: Box<[u8]>, hash: Box<[u8]> },
    Rabbit { algorithm: RabbitAlgorithm, salt: [u8; 4], hash: Box<[u8]> },
    Scram(Verifier),
}

impl PasswordHash {
    pub(super) fn parse(text: &str) -> Result<PasswordHash, String> {
        if text.starts_with("$argon2id$") {
            return argon2id(text);
        }
        if let Some(rest) = text.strip_prefix("$7$") {
            return mosquitto_pbkdf2(rest);
        }
        if let Some(rest) = text.strip_prefix("$6$") {
            return mosquitto_sha512(rest);
        }
        if Verifier::is_form(text) {
            return Verifier::parse(text).map(PasswordHash::Scram);
        }
        if let Some((algorithm, hash)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            if algorithm.starts_with("rabbit_password_hashing_") {
                return rabbit(algorithm, hash);
            }
        }
        Err(unknown_form(text))
    }

    /// Takes so long that it belongs on the worker thread.
    pub(super) fn is_slow(&self) -> bool {
        match self {
            PasswordHash::Argon2id { .. } | PasswordHash::MosquittoPbkdf2 { .. } | PasswordHash::Scram(_) => true,
            PasswordHash::MosquittoSha512 { .. } | PasswordHash::Rabbit { .. } => false,
        }
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        match self {
            PasswordHash::Argon2id { params, version, salt, hash } => {
                let mut out = vec![0; hash.len()];
                let hasher = Argon2::new(Algorithm::Argon2id, *version, params.clone());
                let done =
                    with_memory(params.block_count(), |memory| hasher.hash_password_into_with_memory(password, salt, &mut out, memory));
                done.is_ok() && same(&out, hash)
            }
            PasswordHash::MosquittoPbkdf2 { iterations, salt, hash } => {
                let mut out = vec![0; hash.len()];
                let done = pbkdf2::pbkdf2::<Hmac<Sha512>>(password, salt, *iterations, &mut out);
                done.is_ok() && same(&out, hash)
            }
            PasswordHash::MosquittoSha512 { salt, hash } => same(&Sha512::new().chain_update(password).chain_update(salt).finalize(), hash),
            PasswordHash::Rabbit { algorithm: RabbitAlgorithm::Sha256, salt, hash } => {
                same(&Sha256::new().chain_update(salt).chain_update(password).finalize(), hash)
            }
            PasswordHash::Rabbit { algorithm: RabbitAlgorithm::Sha512, salt, hash } => {
                same(&Sha512::new().chain_update(salt).chain_update(password).finalize(), hash)
            }
            PasswordHash::Rabbit { algorithm: RabbitAlgorithm::Md5, salt, hash } => {
                same(&Md5::new().chain_update(salt).chain_update(password).finalize(), hash)
            }
            PasswordHash::Scram(verifier) => verifier.verify_password(password),
        }
    }
}

thread_local! {
    /// The worker thread's argon2 memory, kept for the thread's life. Measured: freed after each hash, or even only after each burst, both
    /// glibc and mimalloc held on to it and the process grew by 5 to 8 MiB a time.
    static MEMORY: Cell<Vec<Block>> = const { Cell::new(Vec::new()) };
}

fn with_memory<T>(blocks: usize, work: impl FnOnce(&mut [Block]) -> T) -> T {
    let mut memory = MEMORY.take();
    memory.resize(blocks, Block::default());
    let done = work(&mut memory);
    if blocks <= MEMORY_KEPT_KIB {
        MEMORY.set(memory);
    }
    done
}

fn unknown_form(text: &str) -> String {
    let known =
        "known are $argon2id$ (make one with `carrick hash-password`), mosquitto_passwd's $7$ and $6$, SCRAM-SHA-256$, SCRAM-SHA-512$ and \
                 {rabbit_password_hashing_sha256}";
    if text.starts_with("$argon2") {
        format!("of the argon2 family only argon2id is taken; {known}")
    } else if ["$2a$", "$2b$", "$2y$"].iter().any(|bcrypt| text.starts_with(bcrypt)) {
        format!("bcrypt is not supported; {known}")
    } else {
        format!("unknown form of password hash (a password in clear goes under `password`); {known}")
    }
}

pub(super) fn decode_base64(text: &str, what: &str) -> Result<Box<[u8]>, String> {
    STANDARD.decode(text).map(Vec::into_boxed_slice).map_err(|_| format!("{what} is not base64"))
}

pub(super) fn decode_salt(text: &str) -> Result<Box<[u8]>, String> {
    let salt = decode_base64(text, "the salt")?;
    match salt.len() {
        0 => Err("the salt is empty".to_owned()),
        1..=SALT_MAX => Ok(salt),
        _ => Err(format!("the salt is longer than {SALT_MAX} bytes")),
    }
}

fn expect_len(bytes: Box<[u8]>, len: usize) -> Result<Box<[u8]>, String> {
    if bytes.len() == len {
        Ok(bytes)
    } else {
        Err(format!("the hash has {} bytes, not {len}", bytes.len()))
    }
}

fn argon2id(text: &str) -> Result<PasswordHash, String> {
    let parsed = Phc::new(text).map_err(|error| format!("not a PHC string: {error}"))?;
    let params = Params::try_from(&parsed).map_err(|error| format!("argon2id parameters: {error}"))?;
    if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > PASSES_MAX || params.p_cost() > LANES_MAX {
        return Err(format!("argon2id parameters are over m={MEMORY_KIB_MAX},t={PASSES_MAX},p={LANES_MAX}"));
    }
    let version = match parsed.version {
        None => Version::V0x13,
        Some(number) => Version::try_from(number).map_err(|error| format!("argon2id version: {error}"))?,
    };
    let salt = parsed.salt.ok_or("the salt is missing")?;
    let mut buffer = [0; 64];
    let salt = salt.decode_b64(&mut buffer).map_err(|error| format!("the salt: {error}"))?;
    // The algorithm asks for 8 bytes (RFC 9106, 3.1); without the check each login would fail at that.
    if salt.len() < argon2::MIN_SALT_LEN {
        return Err(format!("the salt is shorter than {} bytes", argon2::MIN_SALT_LEN));
    }
    let hash = parsed.hash.ok_or("the hash is missing")?;
    Ok(PasswordHash::Argon2id { params, version, salt: salt.into(), hash: hash.as_bytes().into() })
}

fn mosquitto_pbkdf2(rest: &str) -> Result<PasswordHash, String> {
    let mut fields = rest.split('$');
    let (Some(iterations), Some(salt), Some(hash), None) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
        return Err("a $7$ hash is $7$iterations$salt$hash".to_owned());
    };
    let iterations = parse_iterations(iterations, 1)?;
    let hash = expect_len(decode_base64(hash, "the hash")?, 64)?;
    Ok(PasswordHash::MosquittoPbkdf2 { iterations, salt: decode_salt(salt)?, hash })
}

pub(super) fn parse_iterations(text: &str, least: u32) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(n) if (least..=ITERATIONS_MAX).contains(&n) => Ok(n),
        _ => Err(format!("the iterations are not a number from {least} to {ITERATIONS_MAX}")),
    }
}

fn mosquitto_sha512(rest: &str) -> Result<PasswordHash, String> {
    // crypt(3) uses the same `$6$` for a different algorithm and another alphabet of base64.
    let why = "a $6$ hash is $6$salt$hash in base64 as mosquitto_passwd writes it (crypt(3) means something else by $6$)";
    let (salt, hash) = rest.split_once('$').ok_or(why)?;
    let salt = decode_salt(salt).map_err(|error| format!("{error}; {why}"))?;
    let hash = decode_base64(hash, "the hash").and_then(|hash| expect_len(hash, 64)).map_err(|error| format!("{error}; {why}"))?;
    Ok(PasswordHash::MosquittoSha512 { salt, hash })
}

fn rabbit(algorithm: &str, hash: &str) -> Result<PasswordHash, String> {
    let (algorithm, len) = match algorithm {
        "rabbit_password_hashing_sha256" => (RabbitAlgorithm::Sha256, 32),
        "rabbit_password_hashing_sha512" => (RabbitAlgorithm::Sha512, 64),
        "rabbit_password_hashing_md5" => (RabbitAlgorithm::Md5, 16),
        other => return Err(format!("unknown hashing algorithm {other:?}")),
    };
    let bytes = expect_len(decode_base64(hash, "the hash")?, 4 + len)?;
    let (salt, hash) = bytes.split_at(4);
    Ok(PasswordHash::Rabbit { algorithm, salt: salt.try_into().expect("split at four"), hash: hash.into() })
}

#[cfg(test)]
mod tests;
