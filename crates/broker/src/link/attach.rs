//! Sessions and connections: attaching, taking over, detaching, ending; and the parting message in each of these.

use super::{is_current, Link, Owner};
use crate::auth::{Operation, Principal};
use crate::core::Shared;
use crate::outbox::Work;
use crate::queue::{session_spec, Consumer, Follow, Group, Queue};
use crate::session::{Live, Session, SessionState, Subscription, WaitingAttach};
use crate::store::{push_handed, push_session, session_gone_record, session_record};
use crate::timers::Timer;
use broker_api::{Attach, Attached, EndOwner, Expiry, Limit, Parting, PartingFate, Refusal, Reply, Side, Signal, Token};
use journal::{Filled, Records, Slot, Ticket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// How long an attach waits for the last words of the connection that it supersedes.
pub(crate) const LAST_WORDS_MS: u64 = 1000;

impl Link {
    pub(super) fn attach(&mut self, token: Token, attach: Attach) {
        if let Err(refusal) = self.try_attach(token, attach) {
            self.outbox.reply_at(None, token, Err(refusal), None);
        }
    }

    fn try_attach(&mut self, token: Token, attach: Attach) -> Result<(), Refusal> {
        if self.core.log.failed() {
            return Err(Refusal::StoreFailed);
        }
        self.client = attach.session.clone();
        // A later re-authentication starts over.
        self.login = None;
        let found = self.vhost.sessions.get(&attach.session).map(|s| s.clone());
        match found {
            Some(session) if !attach.clean && session.is_durable() => {
                if self.resume_session(token, &attach, &session) {
                    return Ok(());
                }
                self.core.replace_session(&session);
            }
            Some(session) => self.core.replace_session(&session),
            None => {}
        }
        self.new_session(token, attach)
    }

    fn new_session(&mut self, token: Token, attach: Attach) -> Result<(), Refusal> {
        if self.core.sessions.len() as u64 >= self.core.config.sessions_max {
            return Err(Refusal::LimitReached(Limit::Sessions));
        }
        let durable = attach.expiry != Expiry::WithConnection;
        let id = self.core.id();
        let queue =
            Queue::new(broker_api::QueueId(id), (&attach.session).into(), self.vhost.id, session_spec(durable), self.core.session_bound());
        let session = Session::new(id, self.vhost.id, attach.session.clone(), queue.clone(), attach.expiry);
        let live = self.live(&attach, 1);
        {
            let mut state = session.state.lock();
            state.incarnation = 1;
            state.parting = attach.parting.clone();
            state.user = self.user();
            state.logged = durable || attach.parting.is_some();
        }
        let slot = session.state.lock().logged.then(|| self.core.log.reserve());
        self.core.queues.insert(id, queue);
        self.core.sessions.insert(id, session.clone());
        if let Some(other) = self.vhost.sessions.insert(attach.session.clone(), session.clone()) {
            // Two connections made the same session at once: the later one counts.
            self.core.replace_session(&other);
        }
        let ticket = slot.map(|slot| self.log_session(slot, &session));
        self.owners.reserve_exact(1);
        self.groups.reserve_exact(1);
        self.owners.push((attach.owner, Owner::Session { session: session.clone(), live: live.clone() }));
        self.groups.push((attach.group, live.group.clone()));
        let waiting = WaitingAttach { outbox: self.outbox.clone(), token, live, present: false, ticket };
        complete_attach(&session, waiting);
        Ok(())
    }

    /// `false`: the session ended meanwhile.
    fn resume_session(&mut self, token: Token, attach: &Attach, session: &Arc<Session>) -> bool {
        let slot = self.core.log.reserve();
        let mut state = session.state.lock();
        if state.ended || is_over(&state, self.core.now_ms()) {
            return false;
        }
        state.incarnation += 1;
        let live = self.live(attach, state.incarnation);
        let old = session.live.swap(None);
        let earlier = state.waiting.take();
        let parting = state.parting.take();
        let was_attached = old.is_some() || earlier.is_some();
        if let Some(old) = &old {
            state.last_words_of = old.incarnation;
        }
        let hears_last_words = old.is_some() || earlier.is_some();
        state.parting = attach.parting.clone();
        state.user = self.user();
        state.expiry = Some(attach.expiry);
        state.detached_ms = 0;
        state.logged = true;
        let waiting = WaitingAttach { outbox: self.outbox.clone(), token, live: live.clone(), present: true, ticket: Some(slot.ticket()) };
        // It waits from this moment on: a third connection that comes now must find it, and not be overwritten by it later.
        let (at_once, of) = match hears_last_words {
            true => (state.waiting.replace(Box::new(waiting)), state.last_words_of),
            false => (Some(Box::new(waiting)), state.last_words_of),
        };
        drop(state);
        // Who comes may be another user than the one who subscribed.
        self.core.review(session);
        self.log_session(slot, session);
        self.owners.reserve_exact(1);
        self.groups.reserve_exact(1);
        self.owners.push((attach.owner, Owner::Session { session: session.clone(), live: live.clone() }));
        self.groups.push((attach.group, live.group.clone()));
        // The will of the connection that is superseded goes out, unless its delay gives the client time to come back, which it just did
        // (features §1.6.1; a session that ends with its connection never gets here).
        if let Some(parting) = parting.filter(|p| was_attached && p.delay_secs == 0) {
            self.core.fire(session, parting);
        }
        if let Some(earlier) = earlier {
            earlier.outbox.signal(Signal::Superseded { owner: earlier.live.owner });
        }
        if let Some(waiting) = at_once {
            complete_attach(session, *waiting);
            return true;
        }
        if let Some(old) = old {
            detach_consumers(&self.core, session, &old);
            old.outbox.signal(Signal::Superseded { owner: old.owner });
            if old.outbox.is_closed() {
                self.core.finish_takeover(session, of);
            } else {
                let at = self.core.now_ms() + LAST_WORDS_MS;
                self.core.timers.add(at, Timer::LastWords { session: session.id, incarnation: of });
            }
        }
        true
    }

    fn live(&self, attach: &Attach, incarnation: u64) -> Arc<Live> {
        Arc::new(Live {
            outbox: self.outbox.clone(),
            owner: attach.owner,
            consumer: attach.consumer,
            group: Group::bounded(0, attach.window_bytes),
            incarnation,
            active: AtomicBool::new(false),
        })
    }

    fn user(&self) -> Box<str> {
        self.outbox.principal.load().as_ref().map_or_else(Box::default, |p| p.name().into())
    }

    /// Writes the session down. Answers the ticket that the reply waits for.
    fn log_session(&mut self, slot: Slot, session: &Arc<Session>) -> Ticket {
        self.core.checkpoint.session(session);
        self.fill_with_callback(slot, session_record(session))
    }

    /// Runs in the connection's own task once the attach has been answered.
    pub(super) fn activate(&mut self, session: &Arc<Session>, follow: &mut Follow) {
        let Some(live) = session.live.load_full() else { return };
        if !Arc::ptr_eq(&live.outbox, &self.outbox) {
            return;
        }
        let log = &self.core.log;
        let (pinned, shares) = {
            let state = session.state.lock();
            let pinned: Vec<_> = state.map.values().filter_map(|e| e.lease).collect();
            let shares: Vec<Arc<Subscription>> =
                state.subscriptions.iter().filter(|(key, s)| s.share.is_some() && !state.rests(key)).map(|(_, s)| s.clone()).collect();
            (pinned, shares)
        };
        session.queue.give_back_all(session.id, |seq| pinned.iter().any(|(q, s)| *q == session.queue.id && *s == seq));
        session.queue.resume(&consumer_of(session, &live, None, true), log);
        let others: std::collections::HashSet<_> = pinned.iter().map(|(q, _)| *q).filter(|q| *q != session.queue.id).collect();
        for id in others {
            if let Some(queue) = self.core.queue(id) {
                let from = shares.iter().find(|s| s.share.as_ref().is_some_and(|s| s.queue.id == id));
                queue.resume(&consumer_of(session, &live, from.map(|s| &**s), true), log);
            }
        }
        live.active.store(true, Ordering::Release);
        let now_ticks = self.core.now_ticks();
        session.queue.activate(self.outbox.id, live.consumer, log, now_ticks, follow);
        for subscription in shares {
            if let Some(share) = &subscription.share {
                add_consumer(&share.queue, consumer_of(session, &live, Some(&subscription), true));
                share.queue.pump(log, now_ticks, follow);
            }
        }
        self.take_up_retained(session);
    }

    pub(super) fn end_owner(&mut self, token: Token, end: EndOwner) {
        if let Some(at) = self.owners.iter().position(|(ix, _)| *ix == end.owner) {
            let (_, owner) = self.owners.remove(at);
            self.transactions.forget_owner(end.owner);
            self.end(owner, end.expiry, end.parting);
        }
        self.outbox.reply_at(None, token, Ok(Reply::Ok), None);
    }

    pub(super) fn end(&mut self, owner: Owner, expiry: Option<Expiry>, parting: PartingFate) {
        match owner {
            Owner::Local { id, consumers, channel, .. } => {
                self.close_channel(channel);
                self.end_local(id, consumers);
            }
            Owner::Session { session, live } => {
                if is_current(&session, &live) {
                    self.core.detach(&session, &live, expiry, parting);
                } else {
                    // Superseded: these were its last words.
                    self.core.finish_takeover(&session, live.incarnation);
                }
            }
        }
    }
}

/// Has a detached session outlived its expiry, though its timer has not fired yet?
fn is_over(state: &SessionState, now_ms: u64) -> bool {
    match state.expiry {
        Some(Expiry::Seconds(secs)) if state.detached_ms != 0 => now_ms >= state.detached_ms + u64::from(secs) * 1000,
        _ => false,
    }
}

/// Gives the session its new connection and leaves the reply where the commit releases it.
fn complete_attach(session: &Arc<Session>, waiting: WaitingAttach) {
    let WaitingAttach { outbox, token, live, present, ticket } = waiting;
    add_consumer(&session.queue, consumer_of(session, &live, None, false));
    let attached = {
        let state = session.state.lock();
        if state.ended || state.incarnation != live.incarnation {
            drop(state);
            session.queue.remove_consumer(outbox.id, Some(live.consumer));
            return outbox.signal(Signal::Superseded { owner: live.owner });
        }
        session.live.store(Some(live));
        let map = state.map.iter().map(|(key, entry)| (*key, entry.value.clone())).collect();
        Attached { present, queue: session.queue.id, state: map }
    };
    outbox.reply_at(ticket, token, Ok(Reply::Attached(attached)), Some(Work::Activate(session.clone())));
}

/// Puts a consumer in the place of the connection's earlier one, if there is one.
pub(crate) fn add_consumer(queue: &Arc<Queue>, consumer: Consumer) {
    queue.remove_consumer(consumer.outbox.id, Some(consumer.to));
    queue.add_consumer(consumer);
}

/// A session's connection as a consumer of its own queue, or of the one it shares by a subscription.
pub(crate) fn consumer_of(session: &Session, live: &Live, shared: Option<&Subscription>, active: bool) -> Consumer {
    let identifier = shared.map_or(0, |s| s.identifier);
    Consumer {
        outbox: live.outbox.clone(),
        to: live.consumer,
        owner: session.id,
        group: Some(live.group.clone()),
        credit: u32::MAX,
        settled: false,
        level: shared.map_or(u8::MAX, |s| s.level),
        side: (identifier != 0).then(|| Arc::new(Side { subscriptions: vec![identifier], ..Default::default() })),
        flags: shared.map_or(0, |s| s.flags),
        active,
        priority: 0,
        exclusive: false,
        alone: false,
        scan: None,
    }
}

/// What has been handed out of the queues that a session consumes from and is still there.
fn handed_records(session: &Session) -> Records {
    let mut records = Records::new();
    push_handed(&mut records, session.queue.id, &session.queue.mark_handed());
    let shares: Vec<Arc<Queue>> =
        session.state.lock().subscriptions.values().filter_map(|s| s.share.as_ref().map(|s| s.queue.clone())).collect();
    for queue in shares {
        push_handed(&mut records, queue.id, &queue.mark_handed());
    }
    records
}

/// Takes a lost connection's consumers off the session's queue and off shared ones, whose leases go to other members.
fn detach_consumers(core: &Arc<Shared>, session: &Arc<Session>, live: &Arc<Live>) {
    session.queue.remove_consumer(live.outbox.id, None);
    let (shares, pinned) = {
        let state = session.state.lock();
        let shares: Vec<Arc<Queue>> = state.subscriptions.values().filter_map(|s| s.share.as_ref().map(|s| s.queue.clone())).collect();
        let pinned: Vec<_> = state.map.values().filter_map(|e| e.lease).collect();
        (shares, pinned)
    };
    let mut follow = Follow::default();
    for queue in shares {
        queue.remove_consumer(live.outbox.id, None);
        queue.give_back_all(session.id, |seq| pinned.iter().any(|(q, s)| *q == queue.id && *s == seq));
        follow.pump.push(queue);
    }
    live.group.forget();
    core.follow_up(follow);
}

impl Shared {
    /// The connection is gone: the session waits for the next one, or ends.
    pub fn detach(self: &Arc<Shared>, session: &Arc<Session>, live: &Arc<Live>, expiry: Option<Expiry>, fate: PartingFate) {
        let now = self.now_ms();
        let slot = self.log.reserve();
        let (parting, expiry) = {
            let mut state = session.state.lock();
            if state.ended || state.incarnation != live.incarnation {
                drop(state);
                return self.finish_takeover(session, live.incarnation);
            }
            session.live.store(None);
            if let Some(expiry) = expiry {
                state.expiry = Some(expiry);
            }
            if fate == PartingFate::Discard {
                state.parting = None;
            }
            state.detached_ms = now;
            (state.parting.clone(), state.expiry.unwrap_or(Expiry::WithConnection))
        };
        let handed = handed_records(session);
        detach_consumers(self, session, live);
        let lives_secs = match expiry {
            Expiry::WithConnection | Expiry::Seconds(0) => 0,
            Expiry::Seconds(secs) => secs,
            Expiry::Never => u32::MAX,
        };
        let mut parting_left = false;
        if let Some(parting) = parting {
            let delay = parting.delay_secs.min(lives_secs);
            if delay == 0 {
                session.state.lock().parting = None;
                self.fire(session, parting);
            } else {
                parting_left = true;
                let at = now + u64::from(delay) * 1000;
                self.timers.add(at, Timer::Parting { session: session.id, incarnation: live.incarnation });
            }
        }
        if lives_secs == 0 {
            self.end_session(session, parting_left);
            return;
        }
        if lives_secs != u32::MAX {
            let at = now + u64::from(lives_secs) * 1000;
            self.timers.add(at, Timer::Expiry { session: session.id, incarnation: live.incarnation });
        }
        self.log_meta(slot, session, handed);
    }

    /// Writes down what changed of a session after this slot was reserved.
    pub fn log_meta(&self, slot: Slot, session: &Arc<Session>, mut records: Records) {
        if session.state.lock().logged {
            self.checkpoint.session(session);
            push_session(&mut records, session);
            slot.fill(Filled { records, ..Filled::default() });
        }
    }

    /// Ends a session with its virtual host: no will, nobody takes over.
    pub fn drop_session(self: &Arc<Shared>, session: &Arc<Session>) {
        let live = session.live.swap(None);
        {
            let mut state = session.state.lock();
            (state.parting, state.waiting) = (None, None);
        }
        if let Some(live) = live {
            detach_consumers(self, session, &live);
        }
        self.end_session(session, false);
    }

    /// Ends a session for a new one of the same name; whoever held it hears that it was taken over.
    pub fn replace_session(self: &Arc<Shared>, session: &Arc<Session>) {
        let live = session.live.swap(None);
        let waiting = session.state.lock().waiting.take();
        if let Some(waiting) = waiting {
            waiting.outbox.signal(Signal::Superseded { owner: waiting.live.owner });
        }
        let parting = session.state.lock().parting.take();
        if let Some(parting) = parting {
            self.fire(session, parting);
        }
        if let Some(live) = live {
            detach_consumers(self, session, &live);
            live.outbox.signal(Signal::Superseded { owner: live.owner });
        }
        self.end_session(session, false);
    }

    /// Removes a session with everything that is its own, by a record if there is one of it.
    pub fn end_session(self: &Arc<Shared>, session: &Arc<Session>, fire_parting: bool) {
        let (subscriptions, logged, parting) = {
            let mut state = session.state.lock();
            if std::mem::replace(&mut state.ended, true) {
                return;
            }
            state.incarnation += 1;
            let parting = state.parting.take().filter(|_| fire_parting);
            (std::mem::take(&mut state.subscriptions), state.logged, parting)
        };
        if let Some(parting) = parting {
            self.fire(session, parting);
        }
        for (key, subscription) in subscriptions {
            self.unroute(session.vhost, &key, &subscription);
        }
        // One record ends the session and its queue; the releases of what it held ride along.
        let (_, end) = session.queue.end(&self.log);
        if let Some(slot) = end.slot.filter(|_| logged) {
            slot.fill(Filled { records: session_gone_record(session.id), releases: end.releases, ..Filled::default() });
        }
        if logged {
            self.checkpoint.session_gone(session);
        }
        self.sessions.remove(&session.id);
        self.queues.remove(&session.id);
        if let Some(vhost) = self.vhost_by_id(session.vhost) {
            vhost.sessions.remove_if(&session.name, |_, s| Arc::ptr_eq(s, session));
        }
    }

    /// The superseded connection of this incarnation has said its last words, or has had its time.
    pub fn finish_takeover(self: &Arc<Shared>, session: &Arc<Session>, of: u64) {
        let waiting = {
            let mut state = session.state.lock();
            if state.ended || state.last_words_of != of {
                return;
            }
            state.waiting.take()
        };
        if let Some(waiting) = waiting {
            if waiting.outbox.is_closed() {
                // The new connection went away as well.
                let live = waiting.live.clone();
                session.live.store(Some(live.clone()));
                self.detach(session, &live, None, PartingFate::Fire);
                return;
            }
            complete_attach(session, *waiting);
        }
    }

    /// Publishes a parting message, if its user may.
    pub fn fire(self: &Arc<Shared>, session: &Session, parting: Parting) {
        let user = session.state.lock().user.clone();
        let Some(head) = parting.message.heads.first() else { return };
        let Some(vhost) = self.vhost_by_id(session.vhost) else { return };
        let may = |p: &Principal| {
            p.may_publish(parting.message.key(head), session.name.as_str()) && p.may(vhost.name.as_str(), Operation::Write, "amq.topic")
        };
        let allowed = self.auth.principal(&user).is_some_and(|p| may(&p));
        if !allowed {
            tracing::warn!(session = %session.name, user, "the will was not published: its user may not publish there");
            return;
        }
        self.publish_own(session.vhost, &parting.message);
    }
}
