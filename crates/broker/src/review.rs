//! Subscriptions are looked at again when the rules have changed, and when somebody comes back to a session: what its user may not read
//! (any more) rests. A resting subscription stays with its session, out of routing, and goes on when it is allowed again. So nothing is
//! asked per message.
//!
//! Whoever changes what counts (a user's rules, a session's user, a subscription) comes here afterwards, or looks whether the other has
//! been here: [`Core::reload_users`], `attach`, `subscribe`.

use crate::auth::Principal;
use crate::core::{Core, Shared};
use crate::link::{end_sending, may_stay_subscribed};
use crate::route::syntax;
use crate::routing::Pattern;
use crate::session::{Session, SessionState, Subscription, SubscriptionKey};
use crate::vhost::{TopicTarget, Vhost};
use std::collections::HashSet;
use std::sync::Arc;
use tracing::info;

impl Core {
    /// Also after a start: the rules may not be those under which recovered subscriptions were granted.
    pub fn review_subscriptions(&self) {
        let sessions: Vec<Arc<Session>> = self.0.sessions.iter().map(|session| session.clone()).collect();
        match sessions.iter().map(|session| self.0.review(session)).sum::<usize>() {
            0 => {}
            subscriptions => info!(subscriptions, "rest from now on: their users may not have them any more"),
        }
    }
}

impl Shared {
    /// Makes routing what the rules say of this session's subscriptions. Answers how many rest from now on.
    pub fn review(&self, session: &Arc<Session>) -> usize {
        let Some(vhost) = self.vhost_by_id(session.vhost) else { return 0 };
        // Two at a time could leave different halves behind.
        let _one_at_a_time = vhost.reviewing.lock();
        let (changed, newly) = {
            let mut state = session.state.lock();
            let Some(changed) = self.judge(session, &vhost, &mut state) else { return 0 };
            let newly: Vec<&SubscriptionKey> = changed.iter().filter(|key| state.rests(key)).collect();
            let count = newly.len();
            newly.into_iter().for_each(|key| end_sending(&mut state, key));
            (changed, count)
        };
        changed.iter().for_each(|key| self.route_as_judged(&vhost, session, key));
        newly
    }

    /// Which subscriptions rest and did not, or the other way round. `None`: nobody knows whose they are, or nothing was to be looked at.
    fn judge(&self, session: &Session, vhost: &Vhost, state: &mut SessionState) -> Option<Vec<SubscriptionKey>> {
        if state.ended {
            return None;
        }
        let attached = session.live.load();
        let principal = match attached.as_ref() {
            // Who is no user any more has been told to go.
            Some(live) => live.outbox.principal.load_full().and_then(|principal| match principal.is_operator() {
                true => Some(principal),
                false => self.auth.current(&principal),
            }),
            None if state.user.is_empty() => return None,
            None => self.auth.principal(&state.user),
        };
        if state.resting.is_none() && principal.as_ref().is_some_and(|principal| principal.may_all()) {
            return None;
        }
        let may = |key: &SubscriptionKey, principal: &Principal| {
            may_stay_subscribed(principal, vhost.name.as_str(), session.name.as_str(), &key.pattern)
        };
        let resting = state.subscriptions.keys().filter(|key| !principal.as_ref().is_some_and(|principal| may(key, principal)));
        let resting: HashSet<SubscriptionKey> = resting.cloned().collect();
        let before = state.resting.take().unwrap_or_default();
        let changed = resting.symmetric_difference(&before).cloned().collect();
        state.resting = (!resting.is_empty()).then(|| Box::new(resting));
        Some(changed)
    }

    /// In routing or out of it. The session's own connection may change the subscription meanwhile, or end it: then once more.
    fn route_as_judged(&self, vhost: &Vhost, session: &Arc<Session>, key: &SubscriptionKey) {
        let Ok(pattern) = Pattern::parse(syntax(key.separator), key.pattern.as_bytes()) else { return };
        let wanted = || {
            let state = session.state.lock();
            (state.subscriptions.get(key).cloned(), state.rests(key))
        };
        let mut last: Option<Arc<Subscription>> = None;
        let (mut now, mut rests) = wanted();
        loop {
            match &now {
                Some(subscription) if rests => self.rest(vhost, &pattern, subscription),
                Some(subscription) => self.put_back(vhost, session, key, &pattern, subscription),
                // Ended: whoever ended it may have been faster than we were.
                None => last.iter().for_each(|before| self.take_out(vhost, key, &pattern, before)),
            }
            let (then, still) = wanted();
            let same = match (&now, &then) {
                (Some(one), Some(two)) => Arc::ptr_eq(one, two),
                (None, None) => true,
                _ => false,
            };
            if same && still == rests {
                return;
            }
            (last, now, rests) = (now, then, still);
        }
    }

    /// Out of routing. A share without members takes nothing in, but keeps what it has: its members may come back.
    fn rest(&self, vhost: &Vhost, pattern: &Pattern<'_>, subscription: &Subscription) {
        match &subscription.share {
            None => drop(vhost.topics.remove(pattern, subscription.id)),
            Some(share) if self.leave_share(share, subscription) => {
                vhost.topics.remove(pattern, share.id);
                if !share.members.lock().is_empty() {
                    // Somebody joined in between.
                    vhost.topics.insert(pattern, share.id, TopicTarget::Share(share.clone()));
                }
            }
            Some(_) => {}
        }
        vhost.generations.bump(pattern);
    }

    /// A share may have gone with its last member meanwhile: then the subscription is one of a new share.
    fn put_back(&self, vhost: &Vhost, session: &Arc<Session>, key: &SubscriptionKey, pattern: &Pattern<'_>, kept: &Arc<Subscription>) {
        let mut subscription = kept.clone();
        while !self.route_subscription(vhost, session, key, pattern, &subscription) {
            let share = self.share(vhost, key);
            let mut state = session.state.lock();
            // Somebody else's by now: the caller sees it.
            let Some(found) = state.subscriptions.get_mut(key).filter(|found| Arc::ptr_eq(found, &subscription)) else { return };
            *found = Arc::new(subscription.in_share(share));
            subscription = found.clone();
        }
    }
}
