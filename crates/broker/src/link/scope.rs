//! Open transactions: what their scopes collect until they are committed or rolled back.

use super::Link;
use broker_api::{
    Batch, Control, Entry, Event, Head, Limit, OwnerIx, QueueId, Refusal, Seq, Serial, Settle, Span, StateEdit, TxIx, HEAD_CONFIRM,
    HEAD_DURABLE, HEAD_RETAIN, HEAD_VERBATIM,
};
use std::collections::{BTreeMap, HashSet};

/// What one entry weighs beside the bytes of its message.
const PUBLISH_WEIGHT: usize = 160;
const SETTLE_WEIGHT: usize = 64;
/// Bodies from this size on are shared with the turn they came in, unless that is much larger.
const SHARE_FROM: usize = 16 << 10;

/// Publishes and settlements of one scope, in order. Messages are copied into one batch, so that no turn's block is pinned.
#[derive(Default)]
pub(super) struct Transaction {
    /// Of its first entry.
    owner: Option<OwnerIx>,
    pub batch: Batch,
    /// (first head, count, serial of the first)
    pub publishes: Vec<(u32, u32, Serial)>,
    pub settles: Vec<Settle>,
    pub states: Vec<StateEdit>,
    bytes: usize,
    /// Why it cannot be committed any more.
    pub failed: Option<Refusal>,
}

/// Open transactions of one connection, at most; STOMP sessions have a few, AMQP channels one each.
const TRANSACTIONS_MAX: usize = 4096;

/// The open transactions of a connection.
#[derive(Default)]
pub(super) struct Transactions {
    /// Almost always one, and mostly none: a tree is smaller than a table then.
    open: BTreeMap<TxIx, Box<Transaction>>,
    bytes: usize,
    /// More were opened than may be: what is not in `open` was perhaps not empty.
    overflowed: bool,
}

fn too_much() -> Refusal {
    Refusal::LimitReached(Limit::Transaction)
}

impl Transactions {
    fn open(&mut self, tx: TxIx, owner: OwnerIx) -> Result<&mut Transaction, Refusal> {
        if !self.open.contains_key(&tx) && self.open.len() >= TRANSACTIONS_MAX {
            self.overflowed = true;
            return Err(too_much());
        }
        let found = self.open.entry(tx).or_default();
        found.owner.get_or_insert(owner);
        Ok(found)
    }

    /// Weighs `more` against the bound; an entry of another owner than the transaction's is refused.
    fn enter(&mut self, tx: TxIx, owner: OwnerIx, more: usize, max: usize) -> Result<&mut Transaction, Refusal> {
        let full = self.bytes + more > max;
        let found = self.open(tx, owner)?;
        if let Some(why) = &found.failed {
            return Err(why.clone());
        }
        if found.owner != Some(owner) {
            let why = Refusal::PreconditionFailed("this transaction belongs to another owner".into());
            self.fail(tx, owner, why.clone());
            return Err(why);
        }
        if full {
            self.fail(tx, owner, too_much());
            return Err(too_much());
        }
        self.bytes += more;
        let found = self.open(tx, owner)?;
        found.bytes += more;
        Ok(found)
    }

    /// It cannot be committed any more; what it holds is let go. Another refusal does not change the first reason.
    fn fail(&mut self, tx: TxIx, owner: OwnerIx, why: Refusal) {
        let Ok(found) = self.open(tx, owner) else { return };
        let was = std::mem::take(found);
        *found = Transaction { owner: was.owner, failed: was.failed.or(Some(why)), ..Transaction::default() };
        self.bytes -= was.bytes;
    }

    /// Takes a transaction out. `Ok(None)`: nothing was ever put into it.
    pub fn take(&mut self, tx: TxIx, owner: OwnerIx) -> Result<Option<Box<Transaction>>, Refusal> {
        match self.open.get(&tx) {
            Some(found) if found.owner.is_some_and(|o| o != owner) => {
                Err(Refusal::PreconditionFailed("this transaction belongs to another owner".into()))
            }
            Some(_) => Ok(self.open.remove(&tx).inspect(|found| self.bytes -= found.bytes)),
            None if self.overflowed => Err(too_much()),
            None => Ok(None),
        }
    }

    pub fn forget_owner(&mut self, owner: OwnerIx) {
        let bytes = &mut self.bytes;
        self.open.retain(|_, found| {
            let stays = found.owner != Some(owner);
            *bytes -= if stays { 0 } else { found.bytes };
            stays
        });
    }

    /// Deliveries that open transactions of this owner have settled.
    pub fn settled_by(&self, owner: OwnerIx) -> HashSet<(QueueId, Seq)> {
        let of_owner = self.open.values().flat_map(|found| &found.settles).filter(|s| s.owner == owner);
        of_owner.flat_map(|s| (0..u64::from(s.count)).map(|n| (s.queue, s.first.plus(n)))).collect()
    }
}

impl Transaction {
    fn publish(&mut self, from: &Batch, index: u32, serial: Serial, states: &[StateEdit]) {
        let head = &from.heads[index as usize];
        let state = head.state.checked_sub(1).and_then(|i| states.get(i as usize)).map_or(0, |edit| self.keep_state(edit));
        let own = Head { state, ..copy_head(from, head, &mut self.batch) };
        let at = self.batch.heads.len() as u32;
        self.batch.heads.push(own);
        match self.publishes.last_mut() {
            Some((_, count, first)) if first.0 + u64::from(*count) == serial.0 => *count += 1,
            _ => self.publishes.push((at, 1, serial)),
        }
    }

    fn keep_state(&mut self, edit: &StateEdit) -> u32 {
        self.states.push(edit.clone());
        self.states.len() as u32
    }

    fn is_logged(&self) -> bool {
        self.batch.heads.iter().any(|h| h.flags & (HEAD_DURABLE | HEAD_RETAIN) != 0)
    }
}

pub(super) fn copy_head(from: &Batch, head: &Head, to: &mut Batch) -> Head {
    let mut copy = |span: Span| {
        let bytes = from.bytes(span);
        if bytes.len() >= SHARE_FROM {
            let shared = from.shared(span);
            let pins_little = bytes.len() * 4 >= from.block.len();
            to.big.push(if pins_little { shared } else { bytes::Bytes::copy_from_slice(bytes) });
            return Span::big(to.big.len() - 1, bytes.len());
        }
        let at = to.arena.len();
        to.arena.extend_from_slice(bytes);
        Span::arena(at, bytes.len())
    };
    Head {
        exchange: copy(head.exchange),
        key: copy(head.key),
        origin: copy(head.origin),
        body: copy(head.body),
        user: copy(head.user),
        group: copy(head.group),
        keys: copy(head.keys),
        flags: head.flags & !HEAD_VERBATIM,
        ..*head
    }
}

impl Link {
    /// Takes publishes into a transaction; answers whether somebody waits for their completion.
    pub(super) fn collect_publishes(&mut self, tx: TxIx, batch: &Batch, run: (u32, u32, Serial), states: &[StateEdit]) -> bool {
        let (first, count, serial) = run;
        let mut confirm = false;
        let max = self.core.config.transaction_bytes;
        let mut skipped = super::stop::Skipped::default();
        for index in first..first + count {
            let head = &batch.heads[index as usize];
            let serial = Serial(serial.0 + u64::from(index - first));
            let owner = OwnerIx(head.owner);
            confirm |= head.has(HEAD_CONFIRM);
            if self.is_stopped(owner, serial.0) {
                skipped.add(serial, self);
                continue;
            }
            if let Some(why) =
                self.refuse(batch, index).or_else(|| self.refuse_edit(head, states)).or_else(|| self.leads_nowhere(batch, index))
            {
                self.transactions.fail(tx, owner, why.clone());
                self.refuse_publish(head.owner, serial, why);
                continue;
            }
            match self.transactions.enter(tx, owner, head.bytes() + PUBLISH_WEIGHT, max) {
                Ok(transaction) => transaction.publish(batch, index, serial, states),
                Err(why) => self.outbox.push(Event::Refused { first: serial, last: serial, why }),
            }
        }
        skipped.say(self);
        confirm
    }

    /// Is there no such exchange, may nobody publish to it, or is this no topic?
    fn leads_nowhere(&mut self, batch: &Batch, index: u32) -> Option<Refusal> {
        let head = &batch.heads[index as usize];
        let refused = self.find_route(batch, head).err();
        refused.or_else(|| head.has(HEAD_RETAIN).then(|| self.may_retain(batch, index).err()).flatten())
    }

    pub(super) fn collect_settle(&mut self, tx: TxIx, settle: Settle, states: &[StateEdit]) {
        if self.is_stopped(settle.owner, self.serial) || self.lease_owner(settle.owner).is_none() {
            return;
        }
        let max = self.core.config.transaction_bytes;
        if let Ok(transaction) = self.transactions.enter(tx, settle.owner, SETTLE_WEIGHT, max) {
            let edit = settle.state.checked_sub(1).and_then(|i| states.get(i as usize));
            let state = edit.map_or(0, |edit| transaction.keep_state(edit));
            transaction.settles.push(Settle { state, ..settle });
        }
    }

    /// Is there a commit among these that has to wait where publishes wait?
    pub(super) fn commits_publishes(&self, entries: &[Entry]) -> bool {
        if self.transactions.open.is_empty() {
            return false;
        }
        let commits = entries.iter().filter_map(|entry| match entry {
            Entry::Control(_, control) => match **control {
                Control::Commit { tx, .. } => self.transactions.open.get(&tx),
                _ => None,
            },
            _ => None,
        });
        commits.into_iter().any(|found| found.is_logged() || self.logs_all && !found.publishes.is_empty())
    }
}
