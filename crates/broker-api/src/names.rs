//! Names and numbers as types, so that nothing can be mixed up past the edge.

use std::fmt;
use std::sync::Arc;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);
    };
}

number!(/// A queue for as long as the data directory lives; given by the core, never reused.
    QueueId(u64));
number!(/// A message's place in its queue, given by the core, never reused. The top byte is the priority lane.
    Seq(u64));
number!(/// An owner of leases and state within a connection, chosen by the session.
    OwnerIx(u32));
number!(/// A consumer within a connection, chosen by the session.
    ConsumerIx(u32));
number!(/// A credit group (receive maximum, global prefetch) within a connection, chosen by the session.
    GroupIx(u32));
number!(/// A transaction within a connection, chosen by the session.
    TxIx(u32));
number!(/// Names a control command in its reply; chosen by the session.
    Token(u32));
number!(/// A publish's or a fence's position in its connection, counted from 1 by the order in which turns carry them.
    Serial(u64));

impl Seq {
    const LANE_SHIFT: u32 = 56;

    pub fn new(lane: u8, position: u64) -> Seq {
        debug_assert!(position < 1 << Self::LANE_SHIFT);
        Seq(u64::from(lane) << Self::LANE_SHIFT | position)
    }
    pub fn lane(self) -> u8 {
        (self.0 >> Self::LANE_SHIFT) as u8
    }
    pub fn position(self) -> u64 {
        self.0 & ((1 << Self::LANE_SHIFT) - 1)
    }
    pub fn plus(self, n: u64) -> Seq {
        Seq(self.0 + n)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: &str) -> $name {
                $name(Arc::from(text))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> $name {
                $name::new(text)
            }
        }
    };
}

name!(/// A virtual host.
    VhostName);
name!(/// An exchange within its virtual host; the empty name is the default exchange.
    ExchangeName);
name!(/// A queue within its virtual host.
    QueueName);
name!(/// A session that outlives connections: an MQTT client id, a durable subscriber.
    SessionName);

impl From<&SessionName> for QueueName {
    /// A session's own queue is called like it; both share the text.
    fn from(name: &SessionName) -> QueueName {
        QueueName(name.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_number_keeps_lane_and_position_apart() {
        let seq = Seq::new(9, 77);
        assert_eq!((seq.lane(), seq.position()), (9, 77));
        assert_eq!(seq.plus(1), Seq::new(9, 78));
    }
}
