//! What the HTTP door needs of the process behind it.

use crate::access::{Account, Credentials, Denied};
use crate::ha::Pair;
use crate::health::Ready;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The process as an operator sees it. Asked from the door's own thread: answers are at hand, or futures that wait elsewhere.
pub trait House: Send + Sync + 'static {
    /// Whether clients are served here now.
    fn ready(&self) -> Ready;

    fn pair(&self) -> BoxFuture<'_, Pair>;

    fn login(&self, who: Credentials, from: SocketAddr) -> BoxFuture<'_, Result<Account, Denied>>;
}
