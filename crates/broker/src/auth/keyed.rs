//! Digests under a key: what is compared or remembered instead of a secret.

use hmac::{Hmac, Mac};
use rand::rngs::OsRng;
use rand::RngCore;
use sha2::Sha256;
use subtle::ConstantTimeEq;

pub(super) type Digest = [u8; 32];

/// A key, and digests of lists of parts under it. Each part is framed by its length, so `("ab", "c")` and `("a", "bc")` differ.
pub(super) struct Key(Digest);

impl Key {
    pub(super) fn random() -> Result<Key, rand::Error> {
        let mut key = [0; 32];
        fill_random(&mut key)?;
        Ok(Key(key))
    }

    pub(super) fn from_digest(digest: Digest) -> Key {
        Key(digest)
    }

    pub(super) fn digest(&self, parts: &[&[u8]]) -> Digest {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any key length is good for HMAC");
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

pub(super) fn fill_random(bytes: &mut [u8]) -> Result<(), rand::Error> {
    OsRng.try_fill_bytes(bytes)
}

/// Equality in a time that does not depend on where two values differ.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_apart() {
        let key = Key::from_digest([7; 32]);
        assert_ne!(key.digest(&[b"ab", b"c"]), key.digest(&[b"a", b"bc"]));
        assert_ne!(key.digest(&[b"ab", b"c"]), Key::from_digest([8; 32]).digest(&[b"ab", b"c"]));
        assert!(same(&key.digest(&[b"x"]), &key.digest(&[b"x"])));
    }
}
