//! What queues hold against what the log keeps for them: a message that a queue holds must have a living reference, or its body goes with the
//! next evacuation; and a reference that nobody holds keeps a part of the log for ever.

use crate::core::Shared;
use crate::queue::Queue;
use journal::{Lsn, Release};

impl Shared {
    pub fn audit(&self) -> Result<(), String> {
        let mut held = Vec::new();
        for queue in self.queues.iter() {
            if !queue.references(self, &mut held)? {
                return Ok(());
            }
        }
        let audit = self.log.journal().audit(&held);
        if let Some(dead) = audit.dead.first() {
            let names: Vec<String> = self.queues.iter().filter(|queue| queue.holds(*dead)).map(|queue| queue.name.to_string()).collect();
            return Err(format!("{} references are held and counted dead, the first at {dead:?}, in {names:?}", audit.dead.len()));
        }
        // While fan-outs and transactions are half made, they have references of their own.
        match audit.ranges.iter().find(|(_, counted, found)| counted != found) {
            Some((first, counted, found)) if audit.settled && self.stepped => {
                Err(format!("range {first} of the log counts {counted} references, but queues hold {found}"))
            }
            _ => Ok(()),
        }
    }
}

impl Queue {
    /// All that it holds of the log, also what is in pages. `false`: one of these cannot be read.
    fn references(&self, core: &Shared, held: &mut Vec<Release>) -> Result<bool, String> {
        let state = self.lock();
        for (level, lane) in state.lanes.iter() {
            for page in &lane.pages {
                let here = page.live_entries().map(|(_, entry)| entry).filter(|entry| entry.durable && entry.known_lsn() != 0);
                held.extend(here.map(|entry| Release { lsn: Lsn(entry.known_lsn()), ordinal: entry.ordinal }));
                if page.away == 0 {
                    continue;
                }
                let Ok(entries) = core.log.read_page(self.id, level, page.number) else { return Ok(false) };
                let first = page.start();
                let away = entries.iter().filter(|(position, _)| *position < first).map(|(_, entry)| entry);
                let count = held.len();
                held.extend(away.map(|entry| Release { lsn: Lsn(entry.known_lsn()), ordinal: entry.ordinal }));
                if held.len() - count != page.away as usize {
                    let found = held.len() - count;
                    return Err(format!("{}: page {} has {found} entries before {first}, not {}", self.name, page.number, page.away));
                }
            }
        }
        Ok(true)
    }

    fn holds(&self, wanted: Release) -> bool {
        let state = self.lock();
        let mut all = state.lanes.iter().flat_map(|(_, lane)| lane.iter());
        all.any(|(_, entry)| entry.durable && entry.known_lsn() == wanted.lsn.0 && entry.ordinal == wanted.ordinal)
    }
}
