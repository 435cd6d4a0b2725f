//! Commands that change more than one destination's contents. Each cuts the turn: all before it has taken effect before it runs.

use crate::{Batch, Seq};
use crate::{ConsumerIx, ExchangeName, GroupIx, OwnerIx, QueueId, QueueName, SessionName, StateValue, TxIx, VhostName};
use std::num::NonZeroU64;
use std::sync::Arc;

/// Who is speaking. A connection is nobody until a login succeeds; before that only `Login` is accepted.
#[derive(Clone, Debug)]
pub struct Login {
    /// Where to go, with the first step of a login or by [`LoginStep::Enter`] after it; whoever may not is refused. `None`: the listener's,
    /// which is entered by the first owner or session.
    pub vhost: Option<VhostName>,
    pub step: LoginStep,
}

#[derive(Clone)]
pub enum LoginStep {
    /// No credentials at all.
    Anonymous,
    Password {
        user: String,
        password: Vec<u8>,
    },
    /// First message of a challenge-response mechanism, by its SASL name.
    Sasl {
        mechanism: String,
        initial: Vec<u8>,
    },
    Continue {
        response: Vec<u8>,
    },
    /// Who is logged in goes to the virtual host named beside this, before anything was done in another.
    Enter,
}

impl std::fmt::Debug for LoginStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LoginStep::Anonymous => f.write_str("Anonymous"),
            LoginStep::Password { user, .. } => write!(f, "Password {{ user: {user:?}, .. }}"),
            LoginStep::Sasl { mechanism, .. } => write!(f, "Sasl {{ mechanism: {mechanism:?}, .. }}"),
            LoginStep::Enter => f.write_str("Enter"),
            LoginStep::Continue { .. } => f.write_str("Continue { .. }"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrincipalInfo {
    pub user: String,
    pub administrator: bool,
    /// May say of what it publishes that somebody else did (RabbitMQ's tag of this name).
    pub impersonator: bool,
}

/// How long a session outlives its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// Dies with it; nothing of it is logged.
    WithConnection,
    Seconds(u32),
    Never,
}

/// A publish that the core makes when its owner is lost (a will).
#[derive(Clone, Debug)]
pub struct Parting {
    /// One head; its flags, level, expiry and key count. `expires_ms` of a parting message is *relative* until it fires.
    pub message: Arc<Batch>,
    pub delay_secs: u32,
}

/// Attaches this connection to a session, making it if need be. The session's earlier connection, if any, is superseded.
#[derive(Clone, Debug)]
pub struct Attach {
    pub owner: OwnerIx,
    pub session: SessionName,
    /// Receives everything for this session, starting paused until the reply is taken.
    pub consumer: ConsumerIx,
    /// Made by this command, with no credit.
    pub group: GroupIx,
    /// The group also counts bytes: with so many bytes of message bodies handed out and not given back ([`crate::Credit::bytes`]), nothing
    /// more is. It starts with all of them; the last message may be larger than what is left.
    pub window_bytes: Option<NonZeroU64>,
    /// Forget what an earlier connection left.
    pub clean: bool,
    pub expiry: Expiry,
    pub parting: Option<Parting>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// A session was there and was kept.
    pub present: bool,
    /// The session's own queue; deliveries of other queues (shared subscriptions) go back when the connection is lost.
    pub queue: QueueId,
    /// Its state map, by key. The leases that it names are delivered again, flagged `DELIVERY_RESUMED`, before anything else.
    pub state: Vec<(u64, StateValue)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartingFate {
    Fire,
    Discard,
}

#[derive(Clone, Debug)]
pub struct EndOwner {
    pub owner: OwnerIx,
    /// Replaces the expiry given at `Attach`.
    pub expiry: Option<Expiry>,
    pub parting: PartingFate,
}

/// A pattern over topic segments, in the language of its separator: `/` with `+ #`, `.` with `* #`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Filter {
    pub pattern: Box<str>,
    pub separator: u8,
}

/// When a new subscription is sent the retained messages that match it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetainedOn {
    Always,
    IfNew,
    Never,
}

#[derive(Clone, Debug)]
pub struct Subscribe {
    pub owner: OwnerIx,
    pub filter: Filter,
    /// Members of one group share one queue per filter.
    pub share: Option<Box<str>>,
    /// Highest level at which this subscription wants its messages; 0 = at most once.
    pub level: u8,
    /// 0 = none.
    pub identifier: u32,
    /// Not what the same session published.
    pub no_local: bool,
    pub as_published: bool,
    pub retained: RetainedOn,
    /// Only messages for which this holds (see "Selectors" in the crate's documentation). Not with `share`.
    pub selector: Option<Box<str>>,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ExchangeSpec {
    /// A name of the core's registry of types.
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub alternate: Option<ExchangeName>,
    /// The origin's encoded arguments and their format, as in a head.
    pub arguments: Vec<u8>,
    pub format: u8,
}

/// What a queue is. Protocol arguments are turned into these at the edge; `arguments` keeps the origin's own spelling for listings and
/// equivalence checks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueueSpec {
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub message_ttl_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    pub max_length: Option<u64>,
    pub max_length_bytes: Option<u64>,
    /// Refuse new messages at the bound instead of dropping the oldest.
    pub reject_at_bound: bool,
    /// And dead-letter what was refused.
    pub dead_letter_refused: bool,
    pub dead_letter_exchange: Option<String>,
    pub dead_letter_key: Option<String>,
    pub max_priority: u8,
    pub delivery_limit: Option<u32>,
    /// How long a consumer may take to settle a delivery ([`crate::Signal::SettleWithin`]).
    pub consumer_timeout_ms: Option<u64>,
    /// A dead letter stays until something has taken it. Only where new messages are refused at the bound.
    pub dead_letter_at_least_once: Option<bool>,
    pub single_active_consumer: bool,
    /// Whatever comes back counts as an attempt, also by a consumer that is lost, and deliveries say so ([`crate::DELIVERY_COUNTED`]).
    pub counts_attempts: bool,
    /// Where it is durable every message in it is, whatever its head says; the message itself stays as it was published.
    pub keeps_all: bool,
    /// What a connection publishes is not put into it while that connection has it for its own, or consumes from it.
    pub no_local: bool,
    /// Only messages for which this holds are put into it; others are not routed here (see "Selectors" in the crate's documentation).
    pub selector: Option<String>,
    /// As it was declared with, kept unchanged, also what means nothing; [`crate::HeaderView::compares`] says what makes a difference.
    pub arguments: Vec<u8>,
    /// Of `arguments`, as in a head.
    pub format: u8,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Declare {
    Exchange { owner: OwnerIx, name: ExchangeName, spec: ExchangeSpec, passive: bool },
    Queue { owner: OwnerIx, name: QueueName, spec: QueueSpec, passive: bool },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Destination {
    Queue(QueueName),
    Exchange(ExchangeName),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bind {
    pub owner: OwnerIx,
    pub source: ExchangeName,
    pub destination: Destination,
    pub key: Box<str>,
    /// The origin's encoded arguments, with `format` as in a head; headers exchanges read them through the protocol.
    pub arguments: Vec<u8>,
    pub format: u8,
}

/// How a consumer takes from a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Leases, settled by the owner.
    Lease,
    /// Settled as they leave.
    Settled,
    /// Looks at what is ready when it begins, in order, and takes nothing: there is nothing to settle, and others are handed the same.
    /// Credit counts. [`crate::Signal::Browsed`] comes behind the last one; then nothing more comes.
    Browse,
}

#[derive(Clone, Debug)]
pub struct Consume {
    pub consumer: ConsumerIx,
    pub owner: OwnerIx,
    pub group: Option<GroupIx>,
    pub queue: QueueName,
    pub credit: u32,
    pub mode: Mode,
    pub exclusive: bool,
    /// While it is there no other consumer of the queue is handed anything; they stand by. Of several such it is the one of the highest priority,
    /// and among equals the first.
    pub alone: bool,
    pub priority: i32,
    /// Only messages for which this holds; what it leaves stays for others, and holds nobody up (see "Selectors" in the crate's
    /// documentation).
    pub selector: Option<Box<str>>,
}

#[derive(Clone, Debug)]
pub struct Take {
    pub owner: OwnerIx,
    pub queue: QueueName,
    pub max: u32,
    pub settled: bool,
}

/// To be told of queues by their names: of those that are there when this is answered, and of those that are made later, each by a
/// [`crate::Signal::Found`], maybe twice. Not of those that the user may not read from, nor of those that are one connection's alone.
#[derive(Clone, Debug)]
pub struct Watch {
    pub owner: OwnerIx,
    /// Chosen as for a consumer; [`Control::Cancel`] ends it.
    pub watch: ConsumerIx,
    pub names: Filter,
    /// Of those that are there, no more than so many, the first by name.
    pub at_first: u32,
}

#[derive(Clone, Debug)]
pub enum Control {
    Login(Login),
    /// An owner that dies with this connection. `fail_stop`: after a refusal its remaining entries are skipped until it ends, those of
    /// this turn too (see "Fail-stop owners" in the crate's documentation).
    Owner {
        owner: OwnerIx,
        fail_stop: bool,
        /// The number by which its client knows it, for limits on channels and for who looks on ([`crate::Tracer`]); 0: it is no channel.
        channel: u16,
    },
    Attach(Attach),
    EndOwner(EndOwner),
    Group {
        group: GroupIx,
        credit: u32,
    },
    Subscribe(Subscribe),
    Unsubscribe {
        owner: OwnerIx,
        filter: Filter,
        share: Option<Box<str>>,
    },
    Declare(Declare),
    DeleteExchange {
        owner: OwnerIx,
        name: ExchangeName,
        if_unused: bool,
    },
    DeleteQueue {
        owner: OwnerIx,
        name: QueueName,
        if_unused: bool,
        if_empty: bool,
    },
    Bind(Bind),
    /// No error if there is no such binding, or not even what it would bind.
    Unbind(Bind),
    Purge {
        owner: OwnerIx,
        queue: QueueName,
    },
    Consume(Consume),
    Watch(Watch),
    /// A consumer, or a watch.
    Cancel {
        consumer: ConsumerIx,
    },
    Take(Take),
    /// Everything that this owner holds goes back to its place, to be delivered again.
    Recover {
        owner: OwnerIx,
    },
    /// Everything in the scope of this transaction takes effect, as one. One in which a publish was refused, or that grew past its bound,
    /// is refused with that reason, and forgotten. A transaction without entries is committed at once.
    Commit {
        owner: OwnerIx,
        tx: TxIx,
    },
    /// Publishes of the scope are forgotten; its settlements did not happen, and the leases stay with their owner.
    Rollback {
        owner: OwnerIx,
        tx: TxIx,
    },
}

impl Control {
    /// The owner that this command belongs to, where it is one that stops with its owner.
    pub fn owner(&self) -> Option<OwnerIx> {
        match self {
            Control::Login(_)
            | Control::Owner { .. }
            | Control::Attach(_)
            | Control::EndOwner(_)
            | Control::Group { .. }
            | Control::Cancel { .. } => None,
            Control::Subscribe(Subscribe { owner, .. })
            | Control::Unsubscribe { owner, .. }
            | Control::Declare(Declare::Exchange { owner, .. } | Declare::Queue { owner, .. })
            | Control::DeleteExchange { owner, .. }
            | Control::DeleteQueue { owner, .. }
            | Control::Bind(Bind { owner, .. })
            | Control::Unbind(Bind { owner, .. })
            | Control::Purge { owner, .. }
            | Control::Consume(Consume { owner, .. })
            | Control::Take(Take { owner, .. })
            | Control::Watch(Watch { owner, .. })
            | Control::Recover { owner }
            | Control::Commit { owner, .. }
            | Control::Rollback { owner, .. } => Some(*owner),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Ok,
    /// In the virtual host. `default_queue_type`: what a queue is there that is declared without a type, in the protocol's own word.
    Entered {
        default_queue_type: Option<Arc<str>>,
    },
    /// The login goes on: send this to the client, answer with `LoginStep::Continue`.
    Challenge(Vec<u8>),
    /// `last` is the mechanism's final message to the client, if it has one.
    LoggedIn {
        principal: PrincipalInfo,
        last: Vec<u8>,
    },
    Attached(Attached),
    Subscribed {
        existed: bool,
    },
    Unsubscribed {
        existed: bool,
    },
    Queue {
        id: QueueId,
        name: QueueName,
        ready: u64,
        consumers: u32,
        counts_attempts: bool,
    },
    Messages(u64),
    /// How many deliveries of this `Take` precede this reply, and how many stay.
    Taken {
        count: u32,
        left: u64,
        first: Option<Seq>,
    },
}
