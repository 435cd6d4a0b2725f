//! The commands besides `serve`.

pub mod bench;
pub mod ha;
pub mod hash_password;
pub mod journal;
pub mod tls_dev;
pub mod witness;
