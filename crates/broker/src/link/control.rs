//! Control commands: everything that changes more than a destination's contents.

use super::access::may_enter;
use super::retained::Sending;
use super::stop::Stop;
use super::{add_consumer, consumer_of, Link, Owner};
use crate::auth::LoginOutcome;
use crate::core::{Counters, Shared};
use crate::outbox::Work;
use crate::queue::{bound_of, Follow, Group, Queue};
use crate::route::syntax;
use crate::routing::Pattern;
use crate::selector::Selector;
use crate::session::{Session, Share, Subscription, SubscriptionKey, SUBSCRIPTIONS_MAX};
use crate::store::{queue_gone_record, queue_record, subscription_gone_record, subscription_record};
use crate::vhost::{TopicTarget, Vhost};
use broker_api::{
    Control, Declare, Filter, Limit, Login, LoginStep, OwnerIx, QueueName, QueueSpec, Refusal, Reply, RetainedOn, Subscribe, Token,
    VhostName, DELIVERY_AS_PUBLISHED,
};
use journal::{Filled, Slot, Ticket};
use std::sync::atomic::Ordering;
use std::sync::Arc;

pub(super) type Answer = Result<(Reply, Option<Ticket>, Option<Work>), Refusal>;

/// Of who may not have it, or cannot, it is refused.
pub(super) fn read_selector(text: &str) -> Result<Selector, Refusal> {
    Selector::parse(text).map_err(|error| Refusal::Invalid { what: "selector", why: error.to_string() })
}

pub(super) fn done(reply: Reply) -> Answer {
    Ok((reply, None, None))
}

impl Link {
    pub(super) fn control(&mut self, token: Token, control: Control) {
        let owner = control.owner().filter(|_| self.may_stop);
        if owner.is_some_and(|owner| self.is_stopped(owner, self.serial)) {
            return self.outbox.reply_at(None, token, Err(Refusal::OwnerEnded), None);
        }
        let refused = self.check_access(&control).err();
        let answer = match control {
            Control::Login(login) => return self.login(token, login),
            _ if self.outbox.principal.load().is_none() => Err(Refusal::AccessRefused("not logged in".into())),
            _ if refused.is_some() => refused.map_or_else(|| done(Reply::Ok), Err),
            Control::Attach(attach) => match self.check_entry() {
                Ok(()) => return self.attach(token, attach),
                Err(refusal) => Err(refusal),
            },
            Control::EndOwner(end) => return self.end_owner(token, end),
            Control::Owner { owner, fail_stop, channel } => self.check_entry().and_then(|()| self.check_channel(channel)).and_then(|()| {
                let id = self.core.id();
                self.may_stop |= fail_stop;
                self.owners.push((owner, Owner::Local { id, consumers: Vec::new(), stop: Stop::new(fail_stop), channel }));
                done(Reply::Ok)
            }),
            Control::Group { group, credit } => {
                self.groups.push((group, Group::new(credit)));
                done(Reply::Ok)
            }
            Control::Subscribe(subscribe) => self.subscribe(subscribe),
            Control::Unsubscribe { owner, filter, share } => self.unsubscribe(owner, filter, share),
            Control::Declare(Declare::Queue { name, spec, passive, .. }) => self.declare_queue(name, spec, passive),
            Control::Declare(Declare::Exchange { name, spec, passive, .. }) => self.declare_exchange(name, spec, passive),
            Control::DeleteQueue { name, if_unused, if_empty, .. } => self.delete_queue(&name, if_unused, if_empty),
            Control::Purge { queue, .. } => self.purge(&queue),
            Control::Bind(bind) => self.bind(bind, true),
            Control::Unbind(bind) => self.bind(bind, false),
            Control::Consume(consume) => self.consume(consume),
            Control::Watch(watch) => self.watch(watch),
            Control::Cancel { consumer } => self.cancel(consumer),
            Control::DeleteExchange { name, if_unused, .. } => self.delete_exchange(&name, if_unused),
            Control::Take(take) => {
                self.trace_take(token, take.owner);
                self.take(token, &take)
            }
            Control::Recover { owner } => self.recover(owner),
            Control::Commit { owner, tx } => self.commit(owner, tx),
            Control::Rollback { owner, tx } => self.rollback(owner, tx),
        };
        match answer {
            Ok((reply, ticket, work)) => self.outbox.reply_at(ticket, token, Ok(reply), work),
            Err(refusal) => {
                self.outbox.reply_at(None, token, Err(refusal), None);
                if let Some(owner) = owner {
                    self.stop(owner, self.serial);
                }
            }
        }
    }

    /// Goes to another virtual host than the listener's; nothing may have been done in that one.
    fn enter(&mut self, name: &VhostName) -> Result<(), Refusal> {
        if *name == self.vhost.name {
            return Ok(());
        }
        if !self.owners.is_empty() {
            return Err(Refusal::PreconditionFailed("the virtual host is chosen before anything else".into()));
        }
        let vhost = self.core.vhost(name).ok_or_else(|| Refusal::NotFound { what: "vhost", name: name.to_string() })?;
        self.vhost.links.remove(&self.outbox.id);
        vhost.links.insert(self.outbox.id, self.outbox.clone());
        (self.vhost, self.info.vhost) = (vhost, name.clone());
        self.routes = None;
        Ok(())
    }

    fn login(&mut self, token: Token, login: Login) {
        if matches!(login.step, LoginStep::Enter) && self.outbox.principal.load().is_none() {
            return self.outbox.reply_at(None, token, Err(Refusal::AccessRefused("not logged in".into())), None);
        }
        if let Some(Err(refusal)) = login.vhost.as_ref().map(|name| self.enter(name)) {
            return self.outbox.reply_at(None, token, Err(refusal), None);
        }
        self.write_memo = None;
        if matches!(login.step, LoginStep::Enter) {
            let entered = self.check_entry();
            let answer = entered.map(|()| Reply::Entered { default_queue_type: self.vhost.default_queue_type.read().clone() });
            return self.outbox.reply_at(None, token, answer, None);
        }
        let vhost = login.vhost.is_some().then(|| self.vhost.name.clone());
        let state = self.login.get_or_insert_with(Box::default);
        let outbox = self.outbox.clone();
        let core = self.core.clone();
        let done = Box::new(move |outcome: LoginOutcome| {
            let reply = match outcome {
                LoginOutcome::LoggedIn { principal: who, last } => {
                    let may = vhost.map_or(Ok(()), |vhost| may_enter(&who, &vhost));
                    let info = who.info();
                    // Again on a live connection: what it holds, and what is counted for it, is the first user's.
                    let same = outbox.principal.load().as_ref().is_none_or(|before| before.name() == who.name());
                    may.and(same.then_some(()).ok_or(Refusal::LoginRefused)).map(|()| {
                        outbox.principal.store(Some(who));
                        // The users may have been read again since the password was looked at.
                        core.refresh_principal(&outbox);
                        Reply::LoggedIn { principal: info, last }
                    })
                }
                LoginOutcome::Challenge(bytes) => Ok(Reply::Challenge(bytes)),
                LoginOutcome::Refused(refusal) => Err(refusal),
            };
            outbox.reply_at(None, token, reply, None);
        });
        self.core.auth.login(state, &self.info, login.step, done);
    }

    fn subscribe(&mut self, subscribe: Subscribe) -> Answer {
        if subscribe.selector.is_some() && subscribe.share.is_some() {
            let why = "members of a share have no selector".to_owned();
            return Err(Refusal::Invalid { what: "selector", why });
        }
        let session = self.session(subscribe.owner).cloned().ok_or(Refusal::OwnerEnded)?;
        let Filter { pattern: text, separator } = &subscribe.filter;
        let pattern = Pattern::parse(syntax(*separator), text.as_bytes())
            .map_err(|error| Refusal::Invalid { what: "topic filter", why: error.to_string() })?;
        let principal = self.outbox.principal.load_full();
        if !principal.as_ref().is_some_and(|p| p.may_subscribe(text, &self.client)) {
            return Err(Refusal::AccessRefused(format!("{} may not subscribe to '{text}'", self.client)));
        }
        let key = SubscriptionKey { pattern: text.clone(), separator: *separator, share: subscribe.share.clone() };
        let slot = session.is_durable().then(|| self.core.log.reserve());
        let mut first = None;
        let (subscription, existed) = loop {
            let share = key.share.is_some().then(|| self.share(&key));
            let (subscription, existed) = self.keep_subscription(&session, &key, &subscribe, share)?;
            if first.is_none() && !existed {
                Counters::add(&self.core.counters.subscriptions, 1);
            }
            let existed = *first.get_or_insert(existed);
            if self.core.route_subscription(&self.vhost, &session, &key, &pattern, &subscription) {
                break (subscription, existed);
            }
        };
        // The session's end takes out of routing what it finds there; what came later goes here.
        if session.state.lock().ended {
            self.core.take_out(&self.vhost, &key, &pattern, &subscription);
            return Err(Refusal::OwnerEnded);
        }
        // The rules have changed meanwhile: one of the two, this or the reload, sees the other.
        if principal.as_ref().map(Arc::as_ptr) != self.outbox.principal.load().as_ref().map(Arc::as_ptr) {
            self.core.review(&session);
        }
        let ticket = slot.map(|slot| self.log_subscription(slot, &session, &key, &subscription));
        let wants_retained = match subscribe.retained {
            RetainedOn::Always => true,
            RetainedOn::IfNew => !existed,
            RetainedOn::Never => false,
        };
        // After the subscription is in routing: what is retained from here on comes to it when it is published.
        let since = self.vhost.retained_order();
        let work = (wants_retained && subscription.share.is_none()).then(|| Work::Retained(session, Box::new(Sending::new(key, since))));
        Ok((Reply::Subscribed { existed }, ticket, work))
    }

    fn keep_subscription(
        &self,
        session: &Arc<Session>,
        key: &SubscriptionKey,
        subscribe: &Subscribe,
        share: Option<Arc<Share>>,
    ) -> Result<(Arc<Subscription>, bool), Refusal> {
        let selector = subscribe.selector.as_deref().map(read_selector).transpose()?.map(Box::new);
        let mut state = session.state.lock();
        if state.ended {
            return Err(Refusal::OwnerEnded);
        }
        let before = state.subscriptions.get(key);
        if before.is_none() && state.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(Refusal::LimitReached(Limit::Subscriptions));
        }
        let existed = before.is_some();
        let id = before.map_or_else(|| self.core.id(), |s| s.id);
        let subscription = Arc::new(Subscription {
            id,
            session: session.clone(),
            level: subscribe.level,
            identifier: subscribe.identifier,
            no_local: subscribe.no_local,
            flags: if subscribe.as_published { DELIVERY_AS_PUBLISHED } else { 0 },
            share,
            selector,
        });
        state.rests_no_more(key);
        state.subscriptions.insert(key.clone(), subscription.clone());
        Ok((subscription, existed))
    }

    /// The queue and members of a share group, made by its first subscription.
    fn share(&self, key: &SubscriptionKey) -> Arc<Share> {
        self.core.share(&self.vhost, key)
    }

    fn log_subscription(&mut self, slot: Slot, session: &Arc<Session>, key: &SubscriptionKey, subscription: &Subscription) -> Ticket {
        self.core.checkpoint.session(session);
        self.fill_with_callback(slot, subscription_record(session.id, key, subscription))
    }

    fn unsubscribe(&mut self, owner: OwnerIx, filter: Filter, share: Option<Box<str>>) -> Answer {
        let session = self.session(owner).cloned().ok_or(Refusal::OwnerEnded)?;
        let key = SubscriptionKey { pattern: filter.pattern, separator: filter.separator, share };
        let slot = session.is_durable().then(|| self.core.log.reserve());
        let removed = {
            let mut state = session.state.lock();
            super::retained::end(&mut state, &key);
            state.rests_no_more(&key);
            state.subscriptions.remove(&key)
        };
        let Some(subscription) = removed else { return done(Reply::Unsubscribed { existed: false }) };
        self.core.unroute(session.vhost, &key, &subscription);
        let Some(slot) = slot else { return done(Reply::Unsubscribed { existed: true }) };
        self.core.checkpoint.session(&session);
        let ticket = self.fill_with_callback(slot, subscription_gone_record(session.id, &key));
        Ok((Reply::Unsubscribed { existed: true }, Some(ticket), None))
    }
}

fn join(share: &Share, subscription: &Arc<Subscription>) {
    let mut members = share.members.lock();
    match members.iter_mut().find(|m| m.id == subscription.id) {
        Some(member) => *member = subscription.clone(),
        None => members.push(subscription.clone()),
    }
}

impl Shared {
    pub fn make_queue(&self, vhost: &crate::vhost::Vhost, name: QueueName, spec: QueueSpec) -> Arc<Queue> {
        let bound = bound_of(&spec);
        let queue = Queue::new(broker_api::QueueId(self.id()), name.clone(), vhost.id, spec, bound);
        self.queues.insert(queue.id.0, queue.clone());
        vhost.queues.insert(name, queue.clone());
        self.rule(vhost, &queue);
        self.checkpoint.queue(&queue);
        vhost.watches.made(vhost, &queue);
        queue
    }

    /// Everything in a queue goes, by one record that also ends the queue.
    pub fn drop_queue(&self, queue: &Arc<Queue>) -> (u64, Option<Ticket>) {
        let (n, end) = queue.end(&self.log);
        let ticket = end.slot.filter(|_| queue.durable).map(|slot| {
            let ticket = slot.ticket();
            slot.fill(Filled { records: queue_gone_record(queue.id), releases: end.releases, ..Filled::default() });
            ticket
        });
        self.queues.remove(&queue.id.0);
        self.checkpoint.queue_gone(queue);
        (n, ticket)
    }

    pub fn share(&self, vhost: &crate::vhost::Vhost, key: &SubscriptionKey) -> Arc<Share> {
        let entry = vhost.shares.entry(key.clone()).or_insert_with(|| {
            let group = key.share.clone().unwrap_or_default();
            let name = QueueName::new(&format!("$share/{group}/{}", key.pattern));
            // After a restart the queue is there before the subscriptions that share it.
            let found = vhost.queues.get(&name).map(|q| q.clone());
            let queue = found.unwrap_or_else(|| {
                let queue = self.make_queue(vhost, name, QueueSpec { durable: true, ..QueueSpec::default() });
                let slot = self.log.reserve();
                slot.fill(Filled { records: queue_record(&queue), ..Filled::default() });
                queue
            });
            Share::new(self.id(), queue)
        });
        entry.clone()
    }

    /// `false`: the share's last member left and took it along, before this one was in.
    pub fn route_subscription(
        &self,
        vhost: &Vhost,
        session: &Arc<Session>,
        key: &SubscriptionKey,
        pattern: &Pattern<'_>,
        subscription: &Arc<Subscription>,
    ) -> bool {
        let Some(share) = &subscription.share else {
            vhost.topics.insert(pattern, subscription.id, TopicTarget::Subscription(subscription.clone()));
            vhost.generations.bump(pattern);
            return true;
        };
        join(share, subscription);
        // A share with a member is not removed; one that was removed before is not in the map.
        if !vhost.shares.get(key).is_some_and(|kept| Arc::ptr_eq(&kept, share)) {
            return false;
        }
        vhost.topics.insert(pattern, share.id, TopicTarget::Share(share.clone()));
        vhost.generations.bump(pattern);
        if let Some(live) = session.live.load_full() {
            add_consumer(&share.queue, consumer_of(session, &live, Some(subscription), true));
            let mut follow = Follow::default();
            share.queue.pump(&self.log, self.now_ticks(), &mut follow);
            self.follow_up(follow);
        }
        true
    }

    /// Takes a subscription out of routing; a share group goes with its last member.
    pub fn unroute(&self, vhost: u32, key: &SubscriptionKey, subscription: &Arc<Subscription>) {
        let Some(vhost) = self.vhost_by_id(vhost) else { return };
        let Ok(pattern) = Pattern::parse(syntax(key.separator), key.pattern.as_bytes()) else { return };
        self.counters.subscriptions.fetch_sub(1, Ordering::Relaxed);
        self.take_out(&vhost, key, &pattern, subscription);
    }

    pub fn take_out(&self, vhost: &Vhost, key: &SubscriptionKey, pattern: &Pattern<'_>, subscription: &Arc<Subscription>) {
        match &subscription.share {
            None => {
                vhost.topics.remove(pattern, subscription.id);
            }
            Some(share) => {
                let empty = self.leave_share(share, subscription);
                if empty && vhost.shares.remove_if(key, |_, s| s.members.lock().is_empty()).is_some() {
                    vhost.topics.remove(pattern, share.id);
                    vhost.queues.remove(&share.queue.name);
                    share.queue.lock().deleted = true;
                    self.drop_queue(&share.queue);
                }
            }
        }
        vhost.generations.bump(pattern);
    }

    /// What the member held goes to those that stay. Answers whether it was the last.
    pub fn leave_share(&self, share: &Share, subscription: &Subscription) -> bool {
        let empty = {
            let mut members = share.members.lock();
            members.retain(|m| m.id != subscription.id);
            members.is_empty()
        };
        if let Some(live) = subscription.session.live.load_full() {
            share.queue.remove_consumer(live.outbox.id, Some(live.consumer));
        }
        share.queue.give_back_all(subscription.session.id, |_| false);
        let mut follow = Follow::default();
        share.queue.pump(&self.log, self.now_ticks(), &mut follow);
        self.follow_up(follow);
        empty
    }

    /// Retained messages, sessions and wills that time has come for.
    pub fn expire_session(self: &Arc<Shared>, session: &Arc<Session>, incarnation: u64) {
        let over = {
            let state = session.state.lock();
            !state.ended && state.incarnation == incarnation && state.detached_ms != 0
        };
        if over && session.live.load().is_none() {
            Counters::add(&self.counters.sessions_expired, 1);
            self.end_session(session, true);
        }
    }

    pub fn fire_parting(self: &Arc<Shared>, session: &Arc<Session>, incarnation: u64) {
        let slot = self.log.reserve();
        let parting = {
            let mut state = session.state.lock();
            let due = !state.ended && state.incarnation == incarnation && state.detached_ms != 0;
            due.then(|| state.parting.take()).flatten()
        };
        if let Some(parting) = parting {
            self.fire(session, parting);
            self.log_meta(slot, session, journal::Records::new());
        }
    }
}
