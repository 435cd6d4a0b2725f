//! BEGIN, COMMIT and ABORT. What is sent and acknowledged in a transaction goes to the core at once, which keeps it until the end.

use broker_api::{Control, TxIx};

use super::settle::Unsettled;
use super::{malformed, Asked, Handled, Session, Step, OWNER};
use crate::codec::Frame;
use crate::error::Fault;

pub(super) struct Transaction {
    pub(super) ix: TxIx,
    /// What was acknowledged in it, with its subscription: unsettled again if it is aborted.
    pub(super) settled: Vec<(u32, Unsettled)>,
}

impl Session {
    /// The transaction that a frame belongs to.
    pub(super) fn transaction(&self, name: &[u8]) -> Handled<TxIx> {
        match self.transactions.get(name) {
            Some(transaction) => Ok(transaction.ix),
            None => Err(Fault::new("Bad transaction", format!("Invalid transaction identifier: \"{}\"\n", String::from_utf8_lossy(name)))),
        }
    }

    /// A name that is in use begins anew, without what was in it, as in RabbitMQ.
    pub(super) fn begin(&mut self, frame: &Frame<'_>, step: &mut Step<'_>) -> Handled {
        let name = transaction_name(frame, "BEGIN")?;
        if let Some(before) = self.transactions.remove(&name) {
            self.abort(before, step);
        }
        let most = self.stomp.config.max_transactions;
        if self.transactions.len() >= most {
            return Err(Fault::new("Transaction limit exceeded", format!("Too many concurrent transactions (limit {most})")));
        }
        self.numbers.tx += 1;
        self.transactions.insert(name, Transaction { ix: TxIx(self.numbers.tx), settled: Vec::new() });
        Ok(())
    }

    pub(super) fn end_transaction(&mut self, frame: &Frame<'_>, commit: bool, step: &mut Step<'_>) -> Handled {
        let name = transaction_name(frame, if commit { "COMMIT" } else { "ABORT" })?;
        self.transaction(&name)?;
        let Some(ended) = self.transactions.remove(&name) else { return Ok(()) };
        if !commit {
            self.abort(ended, step);
            return Ok(());
        }
        self.command(Control::Commit { owner: OWNER, tx: ended.ix }, Asked::Silent, step);
        for (subscription, _) in ended.settled {
            self.owe(subscription);
            self.forget_if_idle(subscription);
        }
        Ok(())
    }

    fn abort(&mut self, ended: Transaction, step: &mut Step<'_>) {
        self.command(Control::Rollback { owner: OWNER, tx: ended.ix }, Asked::Silent, step);
        self.restore(ended.settled);
    }
}

fn transaction_name(frame: &Frame<'_>, command: &str) -> Handled<Box<[u8]>> {
    match frame.headers.get("transaction").map_err(malformed)? {
        Some(name) => Ok((*name).into()),
        None => Err(Fault::new("Missing transaction", format!("\"{command}\" must include a 'transaction' header\n"))),
    }
}
