//! An old primary that has not heard that it is none, for simulations: a standby that reaches it must take nothing from it.

use super::wire::{self, Ack, Hello};
use crate::net::Link;

/// Welcomes whoever comes, in this epoch, and says that everything is committed. Answers with what the standby had promised, if that is more than the
/// epoch and it acks all the same.
pub async fn old_primary(mut link: Link, epoch: u64) -> Option<u64> {
    let (wire::HELLO, body) = link.recv().await.ok()?? else { return None };
    let hello = Hello::decode(&body)?;
    link.send(wire::WELCOME, &wire::welcome(epoch, false, link.version()), &[]).await.ok()?;
    link.send(wire::LOG, &wire::log_head(epoch, hello.end.lsn), &[]).await.ok()?;
    let (wire::ACK, body) = link.recv().await.ok()?? else { return None };
    let ack = Ack::decode(&body)?;
    (ack.epoch == epoch && epoch < hello.promised).then_some(hello.promised)
}
