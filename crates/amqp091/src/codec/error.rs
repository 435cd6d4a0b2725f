//! What can be wrong with bytes. The session adds the class and the method that it was about.

use thiserror::Error;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CodecError {
    #[error("a value goes past the end of its frame")]
    Truncated,
    #[error("bytes are left behind the last field")]
    TrailingBytes,
    #[error("no such method: {class}.{method}")]
    UnknownMethod { class: u16, method: u16 },
    #[error("no such field type: {0}")]
    FieldType(u8),
    #[error("tables or arrays are nested deeper than {0}")]
    TooDeep(usize),
    #[error("property flags with unknown bits")]
    PropertyFlags,
}

/// The first octets of a payload, sixteen at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Octets {
    bytes: [u8; 16],
    len: u8,
}

impl Octets {
    pub fn of(payload: &[u8]) -> Octets {
        let len = payload.len().min(16);
        let mut bytes = [0; 16];
        bytes[..len].copy_from_slice(&payload[..len]);
        Octets { bytes, len: len as u8 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What is wrong with the frame behind those that are whole (AMQP 0-9-1, 4.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    #[error("a frame of {size} bytes, where {max} is the most")]
    TooLarge { kind: u8, channel: u16, size: u32, max: u32 },
    #[error("a frame does not end with 0xCE")]
    End { kind: u8, channel: u16, size: u32, found: u8, first: Octets },
    #[error("not the protocol header AMQP 0 0 9 1")]
    Header([u8; 8]),
}
