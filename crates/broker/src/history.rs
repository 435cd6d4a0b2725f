//! What went through an exchange of type `x-recent-history` last: whatever is bound to it anew is given this first.
//!
//! As in RabbitMQ it is in memory and not in the log: after a restart an exchange begins with nothing.

use crate::core::Shared;
use crate::exchange::{Dest, Exchange};
use crate::link::{copy_out, one_run, targets_of, Bundle};
use crate::queue::Follow;
use crate::route::{compute, syntax, Publisher, Route};
use crate::routing::exchange::{is_recent_history, Arguments, Key, Value};
use crate::routing::topic::words_of;
use crate::vhost::Vhost;
use broker_api::{Batch, HEAD_CONFIRM, HEAD_MANDATORY, HEAD_RETAIN};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Messages that are kept where the exchange does not say how many.
const LENGTH: usize = 20;
/// Bytes of messages that one exchange keeps, at most; beyond that it keeps fewer.
const BYTES_MAX: usize = 16 << 20;

pub(crate) struct History {
    max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    messages: VecDeque<Arc<Batch>>,
    bytes: usize,
    ended: bool,
}

impl History {
    /// For an exchange that keeps one.
    pub fn of(kind: &str, arguments: &Arguments) -> Option<History> {
        is_recent_history(kind, arguments).then(|| {
            let max = match arguments.get(b"x-recent-history-length") {
                Some(Value::Int(length)) => usize::try_from(*length).unwrap_or(LENGTH),
                _ => LENGTH,
            };
            History { max, kept: Mutex::default() }
        })
    }

    fn push(&self, message: Arc<Batch>) {
        let mut kept = self.kept.lock();
        if kept.ended {
            return;
        }
        kept.bytes += message.footprint();
        kept.messages.push_back(message);
        while kept.messages.len() > self.max || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.messages.pop_front() else { return };
            kept.bytes -= oldest.footprint();
        }
    }

    /// Its exchange is gone; routes that connections remember may still lead here.
    pub fn end(&self) {
        let mut kept = self.kept.lock();
        *kept = Kept { ended: true, ..Kept::default() };
    }

    fn all(&self) -> Vec<Arc<Batch>> {
        self.kept.lock().messages.iter().cloned().collect()
    }
}

impl Shared {
    /// Notes a message where it went through an exchange that keeps what was last.
    pub fn remember(&self, route: &Route, batch: &Batch, index: u32) {
        if route.histories.is_empty() {
            return;
        }
        let mut copy = copy_out(batch, index);
        if let Some(head) = copy.heads.first_mut() {
            head.flags &= !(HEAD_CONFIRM | HEAD_MANDATORY | HEAD_RETAIN);
            head.state = 0;
        }
        self.memory.count(&mut copy);
        let copy = Arc::new(copy);
        route.histories.iter().filter_map(|exchange| exchange.history.as_ref()).for_each(|history| history.push(copy.clone()));
    }

    /// A binding was made: what it leads to is given what was last.
    pub fn replay(&self, vhost: &Vhost, source: &Exchange, to: &Dest) {
        let Some(history) = &source.history else { return };
        let mut follow = Follow::default();
        let mut all = history.all();
        if let Dest::Exchange(_) = to {
            // As RabbitMQ's plug-in does it: the newest first where they go through another exchange.
            all.reverse();
        }
        for message in all {
            self.replay_one(vhost, &message, to, &mut follow);
        }
        self.follow_up(follow);
    }

    fn replay_one(&self, vhost: &Vhost, message: &Batch, to: &Dest, follow: &mut Follow) {
        let mut copy = copy_out(message, 0);
        let now_ms = self.now_ms();
        let arrived_ms = std::mem::replace(&mut copy.arrived_ms, now_ms);
        let Some(head) = copy.heads.first_mut() else { return };
        if head.expires_ms != 0 {
            // A time to live begins where the message comes to.
            head.expires_ms = now_ms + head.expires_ms.saturating_sub(arrived_ms);
        }
        let head = *head;
        let route = match to {
            Dest::Queue(queue) => Route::to(queue),
            Dest::Exchange(exchange) => {
                let (text, headers) = (copy.key(&head), crate::exchange::LazyHeaders::of(self, &copy, &head));
                let words = words_of(syntax(head.separator), text);
                let key = Key::read(syntax(head.separator), text, words.as_deref());
                compute(vhost, exchange.clone(), &key, &headers, Publisher::default())
            }
        };
        self.remember(&route, &copy, 0);
        self.memory.count(&mut copy);
        let run = one_run(Arc::new(route), head.level, head.has(broker_api::HEAD_DURABLE));
        let targets = targets_of(&run);
        let slot = targets.iter().any(|t| t.ordinal.is_some()).then(|| self.log.reserve());
        let mut bundle = Bundle::default();
        self.place(Arc::new(copy), run, &targets, follow, &mut bundle, None);
        if let Some(slot) = slot {
            slot.fill(bundle.filled());
        }
    }
}
