//! For tests only: what stands in for the rest of the house when one room is tested.
//!
//! * [`FakeBroker`]: a core that hands publishes back to their publisher, answers commands, and can be told to be slow, saturated or gone;
//! * [`Toy`]: a line protocol that uses every way in which a session can steer the driver;
//! * [`transcripts`]: conversations that are written down, played and compared;
//! * [`Torn`]: a byte stream that reads and writes only a few bytes at a time.

mod fake;
mod toy;
pub mod transcripts;
mod wire;

pub use fake::{FakeBroker, Handle};
pub use toy::{Toy, BIG_MAX, LINE_MAX};
pub use wire::Torn;
