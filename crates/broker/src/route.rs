//! Who gets a message: the topic space asked once per topic, remembered per connection while nothing changes that concerns it.

use crate::exchange::{Dest, Exchange, Found, Mark};
use crate::queue::Queue;
use crate::routing::exchange::{Headers, Key, Value};
use crate::routing::topic::words_of;
use crate::routing::{Name, Stamp, Syntax, TopicError};
use crate::session::{SessionTarget, Share, Subscription};
use crate::vhost::{TopicTarget, Vhost};
use ahash::RandomState;
use broker_api::Side;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;

#[derive(Default)]
pub(crate) struct Route {
    pub sessions: Vec<SessionTarget>,
    pub shares: Vec<Arc<Share>>,
    pub queues: Vec<Arc<Queue>>,
    /// Exchanges on the way that remember what went through them.
    pub histories: Vec<Arc<Exchange>>,
    /// Exchanges on the way, as they were.
    via: Vec<(Arc<Exchange>, Mark)>,
    /// Depends on more than exchange and key: on headers, or on an exchange that is not there.
    pub volatile: bool,
}

impl Route {
    /// Nobody gets it now. What an exchange holds back is as good as returned to who asks, as in RabbitMQ: where it goes when it is due
    /// nobody knows.
    pub fn reaches_nobody(&self) -> bool {
        self.sessions.is_empty() && self.shares.is_empty() && self.queues.iter().all(|queue| queue.delays)
    }

    /// No binding leads anywhere.
    pub fn is_unbound(&self) -> bool {
        self.width() == 0 && self.via.len() <= 1
    }

    /// How many it may go to.
    pub fn width(&self) -> usize {
        self.sessions.len() + self.shares.len() + self.queues.len()
    }

    /// Straight to one queue.
    pub fn to(queue: &Arc<Queue>) -> Route {
        Route { queues: vec![queue.clone()], volatile: true, ..Route::default() }
    }

    /// Several routes of one message as one. Nobody remembers it, so it needs no marks of the exchanges on the way.
    pub fn union(routes: &[Arc<Route>]) -> Route {
        let mut all = Route { volatile: true, ..Route::default() };
        let mut targets: Vec<&SessionTarget> = routes.iter().flat_map(|r| &r.sessions).collect();
        targets.sort_by_key(|t| t.session.id);
        for target in targets {
            match all.sessions.last_mut() {
                Some(last) if Arc::ptr_eq(&last.session, &target.session) => last.join(target),
                _ => all.sessions.push(target.clone()),
            }
        }
        all.shares.extend(routes.iter().flat_map(|r| r.shares.iter().cloned()));
        all.queues.extend(routes.iter().flat_map(|r| r.queues.iter().cloned()));
        all.histories.extend(routes.iter().flat_map(|r| r.histories.iter().cloned()));
        all.histories.sort_unstable_by_key(|x| x.id);
        all.histories.dedup_by_key(|x| x.id);
        all.each_once();
        all
    }

    fn each_once(&mut self) {
        self.shares.sort_unstable_by_key(|s| s.id);
        self.shares.dedup_by_key(|s| s.id);
        self.queues.sort_unstable_by_key(|q| q.id);
        self.queues.dedup_by_key(|q| q.id);
    }

    fn is_fresh(&self, vhost: &Vhost, key: &Key<'_>) -> bool {
        self.via.iter().all(|(exchange, mark)| !exchange.is_deleted() && exchange.mark(vhost, key) == *mark)
    }
}

pub(crate) fn syntax(separator: u8) -> Syntax {
    if separator == b'.' {
        Syntax::Amqp
    } else {
        Syntax::Mqtt
    }
}

/// A header by which a message asks not to be remembered.
const NO_STORE: &[u8] = b"x-recent-history-no-store";

/// Who publishes, for those who want nothing of their own.
#[derive(Clone, Copy, Default)]
pub(crate) struct Publisher {
    pub session: Option<u64>,
    /// 0: none.
    pub connection: u64,
}

impl Publisher {
    fn is_unwanted_in(&self, queue: &Queue) -> bool {
        let has_it = || queue.life.holder.load(Ordering::Acquire) == self.connection || queue.is_consumed_by(self.connection);
        queue.spec.no_local && self.connection != 0 && has_it()
    }
}

/// A walk over exchanges: each is asked once, each queue gets one copy.
struct Walk<'a> {
    vhost: &'a Vhost,
    publisher: Publisher,
    headers: &'a dyn Headers,
    route: Route,
    matches: Vec<Arc<Subscription>>,
    /// Still to ask.
    next: Vec<Arc<Exchange>>,
}

impl Walk<'_> {
    fn topic(&mut self, target: TopicTarget) {
        match target {
            TopicTarget::Subscription(s) if s.no_local && self.publisher.session == Some(s.session.id) => {}
            TopicTarget::Subscription(s) => {
                self.route.volatile |= s.selector.is_some();
                if s.selector.as_ref().is_none_or(|selector| self.headers.selects(selector)) {
                    self.matches.push(s);
                }
            }
            TopicTarget::Share(share) => self.route.shares.push(share),
            TopicTarget::Queue(queue) => self.route.queues.push(queue),
            TopicTarget::Exchange(exchange) => self.exchange(exchange),
        }
    }

    fn exchange(&mut self, exchange: Arc<Exchange>) {
        let seen = |x: &Arc<Exchange>| x.id == exchange.id;
        if !self.next.iter().any(seen) && !self.route.via.iter().any(|(x, _)| x.id == exchange.id) {
            self.next.push(exchange);
        }
    }

    /// Asks the exchanges found so far, and those that they lead to.
    fn on(&mut self, key: &Key<'_>, headers: &dyn Headers) {
        let mut found = Vec::new();
        while let Some(exchange) = self.next.pop() {
            let mark = exchange.mark(self.vhost, key);
            if let Some(held_back) = exchange.delays.get().filter(|_| headers.delay_ms() > 0) {
                self.route.volatile = true;
                self.route.queues.push(held_back.clone());
                self.route.via.push((exchange, mark));
                continue;
            }
            if exchange.history.is_some() {
                self.route.volatile = true;
                if headers.get(NO_STORE) != Some(Value::Bool(true)) {
                    self.route.histories.push(exchange.clone());
                }
            }
            self.route.volatile |= self.vhost.look_up(&exchange, key, headers, &mut found);
            let nowhere = found.is_empty();
            for found in found.drain(..) {
                match found {
                    Found::Bound(Dest::Queue(queue)) => self.route.queues.push(queue),
                    Found::Bound(Dest::Exchange(exchange)) => self.exchange(exchange),
                    Found::Topic(target) => self.topic(target),
                }
            }
            if let (true, Some(name)) = (nowhere, exchange.alternate()) {
                match self.vhost.exchange(name.as_str()) {
                    Some(alternate) => self.exchange(alternate),
                    None => self.route.volatile = true,
                }
            }
            self.route.via.push((exchange, mark));
        }
    }

    fn done(mut self) -> Route {
        if self.route.queues.iter().any(|queue| queue.selector.is_some()) {
            self.route.volatile = true;
            let headers = self.headers;
            self.route.queues.retain(|queue| queue.selector.as_ref().is_none_or(|selector| headers.selects(selector)));
        }
        // Routes are remembered by connections, each for itself; but one that consumes from a queue may come and go.
        self.route.volatile |= self.route.queues.iter().any(|queue| queue.spec.no_local && !queue.spec.exclusive);
        self.route.queues.retain(|queue| !self.publisher.is_unwanted_in(queue));
        self.matches.sort_unstable_by_key(|s| (s.session.id, s.id));
        for s in self.matches {
            match self.route.sessions.last_mut() {
                Some(last) if Arc::ptr_eq(&last.session, &s.session) => merge(last, &s),
                _ => self.route.sessions.push(SessionTarget {
                    session: s.session.clone(),
                    level: s.level,
                    flags: s.flags,
                    side: (s.identifier != 0).then(|| Arc::new(Side { subscriptions: vec![s.identifier], ..Side::default() })),
                }),
            }
        }
        self.route.each_once();
        self.route
    }
}

/// Routes a topic for a publisher; subscriptions of `publisher` that want nothing of their own are left out.
fn compute_topic(vhost: &Vhost, name: &Name<'_>, key: &Key<'_>, headers: &dyn Headers, publisher: Publisher) -> Route {
    let mut walk = Walk { vhost, publisher, headers, route: Route::default(), matches: Vec::new(), next: Vec::new() };
    vhost.topics.matches(name, |_, target| walk.topic(target.clone()));
    walk.on(key, headers);
    walk.done()
}

/// Routes through any exchange.
pub(crate) fn compute(vhost: &Vhost, exchange: Arc<Exchange>, key: &Key<'_>, headers: &dyn Headers, publisher: Publisher) -> Route {
    let mut walk = Walk { vhost, publisher, headers, route: Route::default(), matches: Vec::new(), next: vec![exchange] };
    walk.on(key, headers);
    walk.done()
}

impl SessionTarget {
    /// The same session by another key.
    fn join(&mut self, other: &SessionTarget) {
        self.level = self.level.max(other.level);
        self.flags |= other.flags;
        let Some(theirs) = &other.side else { return };
        let mut side = self.side.take().map_or_else(Side::default, |side| (*side).clone());
        for id in &theirs.subscriptions {
            if !side.subscriptions.contains(id) {
                side.subscriptions.push(*id);
            }
        }
        self.side = Some(Arc::new(side));
    }
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
    /// Through exchanges by name: the exchange's id, the separator, the key.
    named: HashMap<Box<[u8]>, Arc<Route>, RandomState>,
    scratch: Vec<u8>,
    last_exchange: Option<Arc<Exchange>>,
}

impl RouteCache {
    pub fn route(
        &mut self,
        vhost: &Vhost,
        separator: u8,
        key: &[u8],
        headers: &dyn Headers,
        publisher: Publisher,
    ) -> Result<Arc<Route>, TopicError> {
        let words = words_of(syntax(separator), key);
        let name = Name::read(syntax(separator), key, words.as_deref())?;
        let asked = || Key::read(syntax(separator), key, words.as_deref());
        // Taken before the look-up: a change that comes between makes this route stale at once.
        let stamp = vhost.generations.stamp_of(&name);
        if self.separator != separator {
            self.separator = separator;
            self.routes.clear();
        }
        if let Some((known, route)) = self.routes.get(key) {
            if *known == stamp && (route.via.is_empty() || route.is_fresh(vhost, &asked())) {
                return Ok(route.clone());
            }
        }
        let route = Arc::new(compute_topic(vhost, &name, &asked(), headers, publisher));
        if route.volatile {
            return Ok(route);
        }
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        self.routes.insert(key.into(), (stamp, route.clone()));
        Ok(route)
    }

    /// Through an exchange other than the topic space. `None`: there is no such exchange.
    pub fn exchange(&mut self, vhost: &Vhost, name: &[u8]) -> Option<Arc<Exchange>> {
        if let Some(last) = self.last_exchange.as_ref().filter(|x| x.name.as_str().as_bytes() == name && !x.is_deleted()) {
            return Some(last.clone());
        }
        let found = vhost.exchange(std::str::from_utf8(name).ok()?)?;
        self.last_exchange = Some(found.clone());
        Some(found)
    }

    pub fn through(
        &mut self,
        vhost: &Vhost,
        exchange: &Arc<Exchange>,
        separator: u8,
        text: &[u8],
        headers: &dyn Headers,
        publisher: Publisher,
    ) -> Arc<Route> {
        let words = words_of(syntax(separator), text);
        let key = Key::read(syntax(separator), text, words.as_deref());
        self.scratch.clear();
        self.scratch.extend_from_slice(&exchange.id.to_le_bytes());
        self.scratch.push(separator);
        self.scratch.extend_from_slice(text);
        if let Some(route) = self.named.get(&*self.scratch).filter(|route| route.is_fresh(vhost, &key)) {
            return route.clone();
        }
        let route = Arc::new(compute(vhost, exchange.clone(), &key, headers, publisher));
        if !route.volatile {
            if self.named.len() >= ROUTES_MAX {
                self.named.clear();
            }
            self.named.insert(self.scratch.as_slice().into(), route.clone());
        }
        route
    }
}
