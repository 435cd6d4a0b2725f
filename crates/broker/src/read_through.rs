//! The reader thread looks through a queue for consumers with a selector: what it is given to look at, it asks without the queue's lock.

use crate::core::Shared;
use crate::queue::{Follow, Held, Look, Queue};
use crate::selector::Subject;
use broker_api::{Batch, Head, Seq};
use std::sync::Arc;

type Matching = Vec<(Seq, Option<Arc<Held>>)>;

impl Shared {
    /// One step; who wants more of it asks again.
    pub fn look_through(&self, queue: &Arc<Queue>, scan: u32) {
        let Some(mut look) = queue.plan_look(scan) else { return };
        let page = look.page.and_then(|number| match self.log.read_page(queue.id, look.level(), number) {
            Ok(entries) => Some(entries),
            Err(error) => {
                tracing::error!(queue = %queue.name, number, %error, "a page of references cannot be read and is passed over");
                look.pass_over();
                None
            }
        });
        if let Some(entries) = &page {
            look.take_page(entries);
        }
        let matching = self.matching(queue, &look);
        // A page without a match stays where it is; one that was asked for by what is in it comes back.
        let page = page.filter(|_| !matching.is_empty() || look.candidates.is_empty());
        let mut follow = Follow::default();
        queue.looked(&look, page, matching, &self.log, self.now_ticks(), &mut follow);
        self.follow_up(follow);
    }

    fn matching(&self, queue: &Queue, look: &Look) -> Matching {
        let asks = |batch: &Batch, head: &Head, arrived_ms: u64| {
            let subject = Subject { views: &look.views, batch, head, arrived_ms };
            look.selector.as_ref().is_none_or(|selector| selector.matches(&subject))
        };
        let in_memory = look.candidates.iter().filter(|candidate| {
            let head = candidate.held.as_ref().and_then(|(held, head)| Some((held, held.batch.heads.get(*head as usize)?)));
            head.is_some_and(|(held, head)| asks(&held.batch, head, held.batch.arrived_ms))
        });
        let mut matching: Matching = in_memory.map(|candidate| (candidate.seq, None)).collect();
        let unread: Vec<(Seq, u64)> =
            look.candidates.iter().filter(|candidate| candidate.held.is_none()).map(|candidate| (candidate.seq, candidate.lsn)).collect();
        let places: Vec<u64> = unread.iter().map(|(_, lsn)| *lsn).collect();
        match self.log.read_some(&places, &asks) {
            Ok(found) => matching.extend(found.into_iter().map(|(i, held)| (unread[i].0, Some(held)))),
            // One that was settled meanwhile is no reason to pass over the others.
            Err(_) => {
                for (seq, lsn) in unread {
                    match self.log.read_some(&[lsn], &asks) {
                        Ok(found) => matching.extend(found.into_iter().map(|(_, held)| (seq, Some(held)))),
                        Err(error) => tracing::debug!(queue = %queue.name, lsn, %error, "a message cannot be looked at"),
                    }
                }
            }
        }
        matching
    }
}
