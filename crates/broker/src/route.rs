//! Who gets a message: the topic space asked once per topic, remembered per connection while nothing changes that concerns it.

use crate::queue::Queue;
use crate::routing::{Name, Stamp, Syntax, TopicError};
use crate::session::{SessionTarget, Share, Subscription};
use crate::vhost::{TopicTarget, Vhost};
use ahash::RandomState;
use broker_api::Side;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Default)]
pub(crate) struct Route {
    pub sessions: Vec<SessionTarget>,
    pub shares: Vec<Arc<Share>>,
    pub queues: Vec<Arc<Queue>>,
}

impl Route {
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.shares.is_empty() && self.queues.is_empty()
    }
}

pub(crate) fn syntax(separator: u8) -> Syntax {
    if separator == b'.' {
        Syntax::Amqp
    } else {
        Syntax::Mqtt
    }
}

/// Routes a topic for a publisher; subscriptions of `publisher` that want nothing of their own are left out.
pub(crate) fn compute(vhost: &Vhost, name: &Name<'_>, publisher: Option<u64>) -> Route {
    let mut route = Route::default();
    let mut matches: Vec<Arc<Subscription>> = Vec::new();
    vhost.topics.matches(name, |_, target| match target {
        TopicTarget::Subscription(s) if s.no_local && publisher == Some(s.session.id) => {}
        TopicTarget::Subscription(s) => matches.push(s.clone()),
        TopicTarget::Share(share) => route.shares.push(share.clone()),
        TopicTarget::Queue(queue) => route.queues.push(queue.clone()),
    });
    matches.sort_unstable_by_key(|s| (s.session.id, s.id));
    for s in matches {
        match route.sessions.last_mut() {
            Some(last) if Arc::ptr_eq(&last.session, &s.session) => merge(last, &s),
            _ => route.sessions.push(SessionTarget {
                session: s.session.clone(),
                level: s.level,
                flags: s.flags,
                side: (s.identifier != 0).then(|| Arc::new(Side { subscriptions: vec![s.identifier] })),
            }),
        }
    }
    route.queues.sort_unstable_by_key(|q| q.id);
    route.queues.dedup_by_key(|q| q.id);
    route
}

fn merge(target: &mut SessionTarget, s: &Subscription) {
    target.level = target.level.max(s.level);
    target.flags |= s.flags;
    if s.identifier != 0 {
        let mut side = target.side.take().map_or_else(Side::default, |side| (*side).clone());
        side.subscriptions.push(s.identifier);
        target.side = Some(Arc::new(side));
    }
}

/// Routes that one connection remembers, at most.
const ROUTES_MAX: usize = 512;

#[derive(Default)]
pub(crate) struct RouteCache {
    routes: HashMap<Box<[u8]>, (Stamp, Arc<Route>), RandomState>,
    separator: u8,
}

impl RouteCache {
    pub fn route(&mut self, vhost: &Vhost, separator: u8, key: &[u8], publisher: Option<u64>) -> Result<Arc<Route>, TopicError> {
        let name = Name::parse(syntax(separator), key)?;
        // Taken before the look-up: a change that comes between makes this route stale at once.
        let stamp = vhost.generations.stamp_of(&name);
        if self.separator != separator {
            self.separator = separator;
            self.routes.clear();
        }
        if let Some((known, route)) = self.routes.get(key) {
            if *known == stamp {
                return Ok(route.clone());
            }
        }
        let route = Arc::new(compute(vhost, &name, publisher));
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        self.routes.insert(key.into(), (stamp, route.clone()));
        Ok(route)
    }

    pub fn forget(&mut self) {
        self.routes = HashMap::default();
    }
}
