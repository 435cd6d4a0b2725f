//! The client's side, for tests. It derives everything itself, so that a mistake shared with the server's side does not cancel out:
//! its PBKDF2 is the loop of RFC 5802, 2.2 written down.

use super::Algorithm;
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};

pub(crate) struct Client {
    pub(crate) algorithm: Algorithm,
    header: &'static str,
    password: Vec<u8>,
    bare: String,
    nonce: String,
    expected: Vec<u8>,
}

impl Client {
    pub(crate) fn new(user: &str, password: &str, nonce: &str) -> Client {
        Client::with_header("n,,", user, password, nonce)
    }

    pub(crate) fn with_header(header: &'static str, user: &str, password: &str, nonce: &str) -> Client {
        let name = user.replace('=', "=3D").replace(',', "=2C");
        let algorithm = Algorithm::Sha256;
        Client {
            algorithm,
            header,
            password: password.into(),
            bare: format!("n={name},r={nonce}"),
            nonce: nonce.to_owned(),
            expected: Vec::new(),
        }
    }

    pub(crate) fn by(self, algorithm: Algorithm) -> Client {
        Client { algorithm, ..self }
    }

    pub(crate) fn first(&self) -> Vec<u8> {
        format!("{}{}", self.header, self.bare).into_bytes()
    }

    pub(crate) fn last(&mut self, server_first: &[u8]) -> Vec<u8> {
        let server_first = std::str::from_utf8(server_first).unwrap();
        let field = |key: &str| server_first.split(',').find_map(|f| f.strip_prefix(key)).unwrap_or_else(|| panic!("{server_first}"));
        let (nonce, salt, iterations) = (field("r="), STANDARD.decode(field("s=")).unwrap(), field("i=").parse::<u32>().unwrap());
        assert!(nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len());
        let hmac = |key: &[u8], message: &[u8]| hmac(self.algorithm, key, message);
        let salted = hi(self.algorithm, &self.password, &salt, iterations);
        let client_key = hmac(&salted, b"Client Key");
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(self.header));
        let auth_message = format!("{},{server_first},{without_proof}", self.bare);
        let signature = hmac(&hash(self.algorithm, &client_key), auth_message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let server_signature = hmac(&hmac(&salted, b"Server Key"), auth_message.as_bytes());
        self.expected = format!("v={}", STANDARD.encode(server_signature)).into_bytes();
        format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes()
    }

    /// The server has shown that it knows the password as well.
    pub(crate) fn accepts(&self, server_final: &[u8]) -> bool {
        !self.expected.is_empty() && self.expected == server_final
    }
}

fn hash(algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
    match algorithm {
        Algorithm::Sha256 => Sha256::digest(message).to_vec(),
        Algorithm::Sha512 => Sha512::digest(message).to_vec(),
    }
}

fn hmac(algorithm: Algorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
    match algorithm {
        Algorithm::Sha256 => Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(message).finalize().into_bytes().to_vec(),
        Algorithm::Sha512 => Hmac::<Sha512>::new_from_slice(key).unwrap().chain_update(message).finalize().into_bytes().to_vec(),
    }
}

fn hi(algorithm: Algorithm, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
    let mut u = hmac(algorithm, password, &[salt, &[0, 0, 0, 1]].concat());
    let mut all = u.clone();
    for _ in 1..iterations {
        u = hmac(algorithm, password, &u);
        all.iter_mut().zip(&u).for_each(|(a, b)| *a ^= b);
    }
    all
}
