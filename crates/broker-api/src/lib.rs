//! The seam: what a protocol, the gateway and the core say to each other.
//!
//! A connection's bytes become a [`Turn`] (publishes, settlements, credit, state edits and control commands, in order); what the core has
//! to say comes back as an [`EventBatch`]. Nothing here does I/O, knows a clock or allocates per message.
//!
//! # What a session may rely on
//!
//! Events of one connection come through one outbox in one order, and
//!
//! 1. deliveries of one queue to one consumer keep the queue's order;
//! 2. a consumer's reply comes before its first delivery, and nothing comes after its cancel reply or [`Signal::Ended`];
//! 3. [`Event::Done`] is a watermark in serial order: everything up to it has taken effect and, where it is durable, has passed the commit
//!    point. [`Event::Refused`] and [`Event::Returned`] of a serial come before the `Done` that covers it; a refused serial is covered
//!    but was not accepted;
//! 4. replies come in the order of their commands, each after its command has passed the commit point;
//! 5. between replies and `Done` there is no order: who needs one asks for it with [`Entry::Fence`];
//! 6. [`Signal::Superseded`] is the last event of its owner.
//!
//! Names chosen by the session ([`OwnerIx`], [`ConsumerIx`], [`GroupIx`], [`Token`]) are never reused within a connection, so a
//! handle is its own incarnation and pipelined commands wait for no reply.

mod batch;
mod broker;
mod control;
mod event;
mod headers;
mod names;
mod refusal;
mod session;
mod turn;

pub use batch::{Batch, Head, Region, Span, FORMAT_PLAIN, HEAD_CONFIRM, HEAD_DURABLE, HEAD_MANDATORY, HEAD_RETAIN, HEAD_VERBATIM};
pub use broker::{Broker, ConnectionInfo, CoreSession, Peer};
pub use control::{
    Attach, Attached, Bind, Consume, Control, Declare, Destination, EndOwner, ExchangeSpec, Expiry, Filter, Login, LoginStep, Mode,
    Parting, PartingFate, PrincipalInfo, QueueSpec, Reply, RetainedOn, Subscribe, Take,
};
pub use event::{
    Death, DeathReason, DeliverTo, Delivery, EndReason, Event, EventBatch, Moved, Side, Signal, DELIVERY_AS_PUBLISHED,
    DELIVERY_REDELIVERED, DELIVERY_RESUMED, DELIVERY_RETAINED,
};
pub use headers::{HeaderView, Value};
pub use names::{ConsumerIx, ExchangeName, GroupIx, OwnerIx, QueueId, QueueName, Seq, Serial, SessionName, Token, TxIx, VhostName};
pub use refusal::{Inequivalent, Limit, Refusal};
pub use session::{Close, Context, Flow, Out, Piece, Protocol, ProtocolSession, Split, Verdict};
pub use turn::{Credit, CreditTo, Entry, Outcome, Settle, StateEdit, StateValue, Turn};
