//! Connections that want to be told of queues by their names: those that are there, and those that are made later.

use crate::auth::Operation;
use crate::outbox::Outbox;
use crate::queue::Queue;
use crate::route::syntax;
use crate::routing::{Name, Pattern};
use crate::vhost::Vhost;
use broker_api::{ConsumerIx, Filter, Signal};
use parking_lot::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

struct Watching {
    outbox: Arc<Outbox>,
    watch: ConsumerIx,
    names: Filter,
}

/// Of one virtual host. Bounded by what each protocol lets a connection have.
#[derive(Default)]
pub(crate) struct Watches {
    all: RwLock<Vec<Watching>>,
    /// Almost always none: then nothing is locked.
    count: AtomicUsize,
}

impl Watches {
    fn change(&self, change: impl FnOnce(&mut Vec<Watching>)) {
        let mut all = self.all.write();
        change(&mut all);
        self.count.store(all.len(), Ordering::Release);
    }

    /// From now on it is told of what is made.
    pub fn add(&self, outbox: Arc<Outbox>, watch: ConsumerIx, names: Filter) {
        self.change(|all| all.push(Watching { outbox, watch, names }));
    }

    /// Ends one of a connection, or all of them.
    pub fn end(&self, outbox: u64, watch: Option<ConsumerIx>) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.change(|all| all.retain(|w| w.outbox.id != outbox || watch.is_some_and(|watch| w.watch != watch)));
        }
    }

    /// A queue was made.
    pub fn made(&self, vhost: &Vhost, queue: &Queue) {
        if self.count.load(Ordering::Acquire) > 0 {
            let all = self.all.read();
            all.iter().filter(|w| matches(&w.names, &w.outbox, vhost, queue)).for_each(|w| found(&w.outbox, w.watch, queue));
        }
    }
}

pub(crate) fn found(outbox: &Outbox, watch: ConsumerIx, queue: &Queue) {
    outbox.signal(Signal::Found { watch, queue: queue.name.clone() });
}

/// Is it one by name, of no connection alone, that this user may read from?
pub(crate) fn matches(names: &Filter, outbox: &Outbox, vhost: &Vhost, queue: &Queue) -> bool {
    let (syntax, text) = (syntax(names.separator), queue.name.as_str());
    // A filter was read before it came here; a name that is none in this syntax matches nothing.
    let (Ok(pattern), Ok(name)) = (Pattern::parse(syntax, names.pattern.as_bytes()), Name::parse(syntax, text.as_bytes())) else {
        return false;
    };
    let may_read = || outbox.principal.load().as_ref().is_some_and(|who| who.may(vhost.name.as_str(), Operation::Read, text));
    !queue.spec.exclusive && !queue.is_share() && pattern.matches(&name) && may_read()
}
