use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::coordinator::NodeName;

/// What goes wrong on a link, or on the way to one. The end of a connection between two frames is none: [`Reader::recv`](super::Reader::recv)
/// answers it with `None`.
#[derive(Debug, Error)]
pub enum NetError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the connection ended in the middle of a frame")]
    Torn,
    #[error("a frame of {len} bytes, where {max} are allowed")]
    TooLarge { len: u64, max: usize },
    #[error("an earlier send was given up half-way")]
    HalfSent,
    #[error("no handshake within {0:?}")]
    Late(Duration),
    #[error("nothing has moved for {0:?}")]
    Stuck(Duration),
    #[error("what came is not the handshake of a Carrick node: {0}")]
    NotOurs(&'static str),
    #[error("it speaks versions {theirs_low} to {theirs_high} of the link, we {ours_low} to {ours_high}")]
    Version { theirs_low: u16, theirs_high: u16, ours_low: u16, ours_high: u16 },
    #[error("{0} does not know our secret: `secret` differs between the two")]
    WrongSecret(NodeName),
    #[error("it says that it is {found}, not {expected}: see the addresses under `peers`")]
    WrongName { expected: NodeName, found: NodeName },
    #[error("it refuses us: {0}")]
    RefusedUs(String),
    #[error("TLS: {0}")]
    Tls(String),
}

impl NetError {
    /// Whether trying again soon is pointless: a person has to change a setting first.
    pub fn is_setting(&self) -> bool {
        matches!(
            self,
            Self::Version { .. } | Self::WrongSecret(_) | Self::WrongName { .. } | Self::RefusedUs(_) | Self::Tls(_) | Self::NotOurs(_)
        )
    }
}
