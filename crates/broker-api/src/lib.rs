//! The seam: what a protocol, the gateway and the core say to each other.
//!
//! A connection's bytes become a [`Turn`] (publishes, settlements, credit, state edits and control commands, in order); what the core has
//! to say comes back as an [`EventBatch`]. Nothing here does I/O, knows a clock or allocates per message; only [`Cron`] looks at the
//! machine's time zone.
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
//! # Fail-stop owners
//!
//! [`Control::Owner`] with `fail_stop` makes an owner (an AMQP channel, a STOMP connection) that stops at the first refusal of a command of
//! its own, whatever the reason, or of a publish for a reason that [`Refusal::stops_publisher`] names. What stands behind the refused
//! entry, in this turn or a later one, is skipped until [`Control::EndOwner`]:
//!
//! - publishes whose [`Head::owner`] it is are answered with [`Event::Refused`] and [`Refusal::OwnerEnded`], in ranges, before the `Done`
//!   that covers them;
//! - its settlements and the credit of its consumers change nothing;
//! - its commands ([`Control::owner`]) are answered with [`Refusal::OwnerEnded`], in their turn;
//! - fences, credit groups and the entries of other owners go on.
//!
//! Its consumers are taken off their queues at once, so nothing more is handed out in its name; its leases stay until it ends and go back
//! to their places then, and its open transactions are forgotten then.
//!
//! # Transactions
//!
//! Between [`Entry::Scope`]`(Some(tx))` and the next `Scope`, publishes and settlements are collected instead of taking effect; several
//! transactions may be open, and a turn may go back and forth between them. A transaction belongs to the owner of its first entry.
//!
//! - A publish is checked when it comes: `Refused` at once where it has no exchange or no permission, and the transaction cannot be
//!   committed any more. Its `Done` says that it was taken in, nothing else. It is routed at the commit.
//! - A settled delivery stays leased until the commit.
//! - [`Control::Commit`] makes all of it one set of records: after a crash all of it happened, or nothing. `Returned`, and `Refused` with
//!   [`Refusal::QueueFull`] for what a full queue rejected, come before its reply. Nothing that it published or dead-lettered is handed
//!   to anybody before the commit point has passed it, and when the reply is there, all of it is there.
//! - What the open transactions of a connection hold in memory is bounded; a publish past the bound is refused with
//!   [`Limit::Transaction`], a settlement past it makes the commit answer so.
//! - When the owner or the connection ends, its open transactions are forgotten.
//!
//! # Selectors
//!
//! A selector is a condition on what a message says of itself, in the language of JMS 2.0, 3.8.1, as ActiveMQ reads it (quoted
//! identifiers, `convert_string_expressions:` and `hyphenated_props:` before it). A name is that of a header of the message, as the
//! [`HeaderView`] of its format shows it, or one of these: JMSMessageID, JMSCorrelationID, JMSType, JMSReplyTo (text), JMSTimestamp,
//! JMSExpiration (ms; when it came in where it does not say), JMSPriority, JMSDeliveryMode (`'PERSISTENT'` or `'NON_PERSISTENT'`),
//! JMSXGroupID, JMSXUserID, JMSDestination (its first routing key). Bytes that are UTF-8 are text.
//!
//! It may stand with a consumer ([`Consume::selector`]: the others are left in the queue), with a subscription
//! ([`Subscribe::selector`]) or with a queue ([`QueueSpec::selector`]), which then get only what matches. One that cannot be read is
//! refused: [`Refusal::Invalid`] with `what: "selector"` and the position in `why`.
//!
//! # Message groups
//!
//! Of the messages of one [`Head::group`] in a queue that several consumers take from, all go to one of them, in order, until that one
//! goes or a message with [`HEAD_GROUP_ENDS`] has been handed out. Which one: who would have been handed the group's first message.
//! What that one has no credit for waits for it and holds nobody else up, as long as it is not too much. One with a selector has those of
//! a group that it wants. Who asks for single messages ([`Take`]) or only looks is asked for no group.
//!
//! Names chosen by the session ([`OwnerIx`], [`ConsumerIx`], [`GroupIx`], [`Token`]) are never reused within a connection, so a
//! handle is its own incarnation and pipelined commands wait for no reply.

mod batch;
mod broker;
mod control;
mod cron;
mod event;
mod headers;
mod names;
mod neutral;
mod refusal;
mod session;
pub mod spelling;
mod trace;
mod turn;

pub use batch::{
    Batch, Counted, Head, Keys, Region, Span, FORMAT_PLAIN, HEAD_CONFIRM, HEAD_DURABLE, HEAD_GROUP_ENDS, HEAD_MANDATORY, HEAD_RETAIN,
    HEAD_VERBATIM,
};
pub use broker::{Broker, ConnectionInfo, CoreSession, Identity, Peer};
pub use control::{
    Attach, Attached, Bind, Consume, Control, Declare, Destination, EndOwner, ExchangeSpec, Expiry, Filter, Login, LoginStep, Mode,
    Parting, PartingFate, PrincipalInfo, QueueSpec, Reply, RetainedOn, Subscribe, Take, Watch,
};
#[doc(hidden)]
pub use cron::fuzz_cron;
pub use cron::Cron;
pub use event::{
    stands_by, Death, DeathReason, DeliverTo, Delivery, Elsewhere, EndReason, Event, EventBatch, Moved, Side, Signal,
    DELIVERY_AS_PUBLISHED, DELIVERY_COUNTED, DELIVERY_DELAYED, DELIVERY_REDELIVERED, DELIVERY_RESUMED, DELIVERY_RETAINED,
};
pub use headers::{view_of, HeaderView, Value, Views};
pub use names::{ConsumerIx, ExchangeName, GroupIx, OwnerIx, QueueId, QueueName, Seq, Serial, SessionName, Token, TxIx, VhostName};
pub use neutral::Neutral;
pub use refusal::{Given, Inequivalent, Limit, Refusal, Uncounted, Unfit};
pub use session::{Close, Context, Flow, Out, Piece, Protocol, ProtocolSession, Split, Then, Verdict};
pub use trace::{Spelled, Traced, TracedAs, Tracer};
pub use turn::{Credit, CreditTo, Entry, Outcome, Settle, StateEdit, StateValue, Turn};
