//! Positions and names that the journal hands out.

use std::fmt;

/// A byte position in the replicated record stream (batch headers included), the same on both nodes of a pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

/// The order of reservation. LSN order is ticket order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ticket(pub u64);

/// The name of a checkpoint object, e.g. (queue page, queue id, page number). Classes from [`ObjectKey::OWN_CLASS`] are the journal's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey {
    pub class: u8,
    pub a: u64,
    pub b: u64,
}

impl ObjectKey {
    /// Classes from here on are the journal's own and are refused to the application.
    pub const OWN_CLASS: u8 = 0xf0;

    pub const fn new(class: u8, a: u64, b: u64) -> Self {
        ObjectKey { class, a, b }
    }
}

/// Where an object lies in the page files. It is only valid until the journal moves the object: read by key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectPlace {
    pub file: u64,
    pub offset: u64,
    /// Bytes of the object, without its header.
    pub len: u32,
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
