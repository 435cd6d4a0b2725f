//! What the HTTP door needs of the process behind it.

use crate::access::{Account, Credentials, Denied};
use crate::ha::{Pair, Promote, ReplaceVoter};
use crate::health::Ready;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why something that was asked for was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It makes no sense here and now: this node is not primary, the standby is not in sync.
    Conflict(String),
    /// It was tried and did not come about.
    Failed(String),
    /// This process cannot do that at all.
    NotHere(String),
}

/// The process as an operator sees it. Asked from the door's own thread: answers are at hand, or futures that wait elsewhere.
pub trait House: Send + Sync + 'static {
    /// Whether clients are served here now.
    fn ready(&self) -> Ready;

    fn pair(&self) -> BoxFuture<'_, Pair>;

    fn login(&self, who: Credentials, from: SocketAddr) -> BoxFuture<'_, Result<Account, Denied>>;

    /// The other node becomes primary. Answers with its name, when it is.
    fn switch_over(&self) -> BoxFuture<'_, Result<String, Refusal>>;

    /// This node, a standby, becomes primary. Answers with its name, when it is.
    fn promote(&self, how: Promote) -> BoxFuture<'_, Result<String, Refusal>>;

    /// This node, a standby, sets its store aside and takes a copy of the primary's. Answers with the primary's name, when that begins.
    fn join(&self) -> BoxFuture<'_, Result<String, Refusal>>;

    /// A voter that came back without its directory votes again. Answers with its name.
    fn replace_voter(&self, which: ReplaceVoter) -> BoxFuture<'_, Result<String, Refusal>>;
}
