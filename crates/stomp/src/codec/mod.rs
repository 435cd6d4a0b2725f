//! Bytes to frames and back, for all three versions. No I/O.

mod error;
mod escape;
mod frame;
pub mod fuzz;
mod split;
mod write;

pub use error::DecodeError;
pub use escape::{escape, unescape};
pub use frame::{Command, Frame, Frames, Headers};
pub use split::{Limits, Splitter, Whole};
pub use write::{put_number, FrameWriter};

/// Which version's rules hold. Before CONNECTED: those of 1.0, the only ones that every CONNECT obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Version {
    #[default]
    V10,
    V11,
    V12,
}

impl Version {
    pub const ALL: [Version; 3] = [Version::V10, Version::V11, Version::V12];

    pub const fn text(self) -> &'static str {
        match self {
            Version::V10 => "1.0",
            Version::V11 => "1.1",
            Version::V12 => "1.2",
        }
    }

    /// The highest that both sides speak. A client that says nothing speaks 1.0 (1.2, "Protocol Negotiation").
    pub fn negotiate(accept_version: Option<&str>) -> Option<Version> {
        let Some(list) = accept_version else { return Some(Version::V10) };
        let offered = |version: &Version| list.split(',').any(|one| one.trim() == version.text());
        Version::ALL.into_iter().rev().find(offered)
    }
}
