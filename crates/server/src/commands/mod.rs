//! The commands besides `serve`.

pub mod hash_password;
