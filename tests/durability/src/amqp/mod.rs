//! The load in AMQP 0-9-1: messages that go to several queues at once, that expire, are evicted and rejected into other queues, that stand
//! in order of priority, and that transactions publish and move on.
//!
//! ```text
//!                      ┌ # ──► all, replicated, ranked ───────────────► consumers
//!  producers ─► load ──┼ # ──► rejects ── every fifth is rejected ──► rejected.live, rejected.kept
//!   (confirms, tx)     ├ # ──► moves ─── a client, in transactions ─► moved.live, moved.kept
//!                      └ *.keep ► ranked.kept, expires ─ TTL ─► expired, short ─ too many ─► evicted
//!  a producer ─► light ── # ──► light, light.kept: quorum queues, and no word of persistence in what is published
//! ```
//!
//! What nobody consumes before the end says whether a message is in exactly one place: there each must stand once.
//!
//! The codec is the broker's own, unlike that of the MQTT clients: what it makes of bytes is held against RabbitMQ and against seven other
//! libraries elsewhere, and what is asked here is which messages there are.

mod cast;
mod consumer;
mod link;
mod mover;
mod producer;
mod topology;

pub use cast::Cast;
