//! Transactions that publish to two queues: whole or not at all, and nothing of one that was not committed.

use std::collections::BTreeMap;

use crate::history::Broken;

/// Messages of one transaction, by turns to the two queues.
pub const PARTS: u32 = 4;

#[derive(Default)]
pub struct Transactions {
    known: BTreeMap<u32, Transaction>,
    pub committed: u64,
    /// Commits whose answer was lost, and which had happened or not.
    pub whole: u64,
}

#[derive(Clone, Copy, Default)]
struct Transaction {
    asked: bool,
    committed: bool,
    /// A bit for each part that came.
    seen: u32,
}

impl Transactions {
    pub fn begun(&mut self, tx: u32) {
        self.known.insert(tx, Transaction::default());
    }

    pub fn asked(&mut self, tx: u32) {
        if let Some(known) = self.known.get_mut(&tx) {
            known.asked = true;
        }
    }

    pub fn committed(&mut self, tx: u32) {
        if let Some(known) = self.known.get_mut(&tx) {
            known.committed = true;
            self.committed += 1;
        }
    }

    pub fn delivered(&mut self, tx: u32, part: u32) -> Result<(), Broken> {
        let Some(known) = self.known.get_mut(&tx).filter(|_| part < PARTS) else {
            return Err(Broken::new("nothing_unexpected", format!("part {part} of transaction {tx} was never sent")));
        };
        if !known.asked {
            return Err(Broken::new("transactions_are_whole", format!("part {part} of transaction {tx}, which was never committed, came")));
        }
        known.seen |= 1 << part;
        Ok(())
    }

    /// Of transactions that have happened, parts that are still to come.
    pub fn owed(&self) -> usize {
        let parts = |known: &Transaction| if known.committed || known.seen > 0 { PARTS - known.seen.count_ones() } else { 0 };
        self.known.values().map(|known| parts(known) as usize).sum()
    }

    pub fn end(&mut self) -> Result<(), Broken> {
        for (tx, known) in &self.known {
            if (known.committed || known.seen > 0) && known.seen != (1 << PARTS) - 1 {
                let what = if known.committed { "its commit was confirmed" } else { "a part of it came" };
                return Err(Broken::new(
                    "transactions_are_whole",
                    format!("of transaction {tx} parts {:04b} came, and {what}", known.seen),
                ));
            }
            self.whole += u64::from(known.seen > 0 && !known.committed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name<T>(result: Result<T, Broken>) -> Result<T, &'static str> {
        result.map_err(|broken| broken.invariant)
    }

    #[test]
    fn forged_transactions_are_found_out() {
        let asked = || {
            let mut transactions = Transactions::default();
            transactions.begun(1);
            transactions.begun(2);
            transactions.asked(1);
            transactions
        };
        assert_eq!(asked().end(), Ok(()));
        let mut whole = asked();
        assert!((0..PARTS).all(|part| whole.delivered(1, part).is_ok()));
        assert_eq!((whole.owed(), whole.end(), whole.whole), (0, Ok(()), 1));
        let mut torn = asked();
        assert_eq!(torn.delivered(1, 2), Ok(()));
        assert_eq!((torn.owed(), name(torn.end())), (PARTS as usize - 1, Err("transactions_are_whole")));
        let mut lost = asked();
        lost.committed(1);
        assert_eq!(name(lost.end()), Err("transactions_are_whole"));
        assert_eq!(name(asked().delivered(2, 0)), Err("transactions_are_whole"));
        assert_eq!(name(asked().delivered(3, 0)), Err("nothing_unexpected"));
        assert_eq!(name(asked().delivered(1, PARTS)), Err("nothing_unexpected"));
    }
}
