//! What is retained, for those who subscribe: in slices, as fast as the client takes it.
//!
//! A subscription stands in routing before its first slice is sent. Each message is read and enqueued under its topic's lock, which writers hold
//! over store and enqueue, so the last value that a subscriber sees is the newest. How far it has come is kept with the session: the next
//! connection goes on where one was lost. What a restart of the broker cuts short is not taken up again.

use super::publish::Wanted;
use super::segment::Fills;
use super::{is_current, Link, Owner};
use crate::outbox::Work;
use crate::queue::{Follow, Queue};
use crate::route::syntax;
use crate::routing::{Cursor, Encoded, Name, Pattern};
use crate::selector::Subject;
use crate::session::{Session, SessionState, Subscription, SubscriptionKey};
use broker_api::DELIVERY_RETAINED;
use std::sync::Arc;

/// Messages of one slice: a few hundred microseconds.
const SLICE: usize = 128;
/// Bytes in a connection's outbox above which no more is added. Far under the outbox's own bound, so that messages which are not to be kept
/// still find room.
const AHEAD_BYTES: usize = 512 << 10;
/// Messages in a session's queue above which no more is added.
const AHEAD: u64 = 1000;
/// Nothing retained is as new as this.
const NEVER: u64 = u64::MAX;

/// A subscription that is being sent what is retained.
pub(crate) struct Sending {
    key: SubscriptionKey,
    cursor: Option<Cursor>,
    /// What was retained after this was sent when it was published, and is left out.
    since: u64,
}

impl Sending {
    /// `since` = the order of the newest retained message after the subscription came into routing.
    pub fn new(key: SubscriptionKey, since: u64) -> Sending {
        Sending { key, cursor: None, since }
    }
}

/// Nothing more is sent for this subscription.
pub(crate) fn end(state: &mut SessionState, key: &SubscriptionKey) {
    if let Some(sending) = &mut state.sending {
        sending.retain(|sending| sending.key != *key);
    }
}

/// How a page ended.
enum Paged {
    All,
    More,
    /// The client has to take something first.
    NoRoom,
}

impl Link {
    /// The subscription has been answered.
    pub(super) fn begin_retained(&mut self, session: &Arc<Session>, sending: Sending) {
        let mut state = session.state.lock();
        if state.ended || !state.subscriptions.contains_key(&sending.key) {
            return;
        }
        end(&mut state, &sending.key);
        state.sending.get_or_insert_default().push_back(sending);
        self.retaining = true;
    }

    /// This connection goes on with what an earlier one of the session left.
    pub(super) fn take_up_retained(&mut self, session: &Session) {
        if let Some(sending) = &mut session.state.lock().sending {
            // What came in between may not have found the session.
            sending.iter_mut().for_each(|sending| sending.since = NEVER);
            self.retaining = true;
            self.outbox.work(Work::MoreRetained);
        }
    }

    /// Something was settled or written: there may be room for more.
    pub(super) fn wake_retained(&mut self) {
        if !self.retaining || self.retaining_woken {
            return;
        }
        self.retaining_woken = self.owners.iter().any(|(_, owner)| match owner {
            Owner::Session { session, .. } => self.has_room(&session.queue, 2, 0),
            Owner::Local { .. } => false,
        });
        if self.retaining_woken {
            self.outbox.work(Work::MoreRetained);
        }
    }

    /// The next slice for each session of this connection.
    pub(super) fn send_retained(&mut self) {
        self.retaining_woken = false;
        self.retaining = false;
        let current = |owner: &Owner| match owner {
            Owner::Session { session, live } if is_current(session, live) => Some(session.clone()),
            _ => None,
        };
        let sessions: smallvec::SmallVec<[Arc<Session>; 1]> = self.owners.iter().filter_map(|(_, owner)| current(owner)).collect();
        for session in sessions {
            match self.send_slice(&session) {
                Paged::All => {}
                Paged::NoRoom => self.retaining = true,
                Paged::More => {
                    self.retaining = true;
                    self.wake_retained();
                }
            }
        }
    }

    fn send_slice(&mut self, session: &Arc<Session>) -> Paged {
        if !self.has_room(&session.queue, 2, 0) {
            return Paged::NoRoom;
        }
        // Out of the list for the time being: it is only put back if nobody ended it meanwhile.
        let (mut sending, subscription) = {
            let mut state = session.state.lock();
            let Some(sending) = state.sending.as_mut().and_then(|sending| sending.pop_front()) else {
                state.sending = None;
                return Paged::All;
            };
            let Some(subscription) = state.subscriptions.get(&sending.key).cloned() else { return Paged::More };
            (sending, subscription)
        };
        let paged = self.send_page(session, &subscription, &mut sending);
        let mut state = session.state.lock();
        if matches!(paged, Paged::All) {
            return Paged::More;
        }
        if state.subscriptions.contains_key(&sending.key) {
            state.sending.get_or_insert_default().push_front(sending);
        }
        paged
    }

    fn send_page(&mut self, session: &Arc<Session>, subscription: &Subscription, sending: &mut Sending) -> Paged {
        let separator = sending.key.separator;
        let Ok(pattern) = Pattern::parse(syntax(separator), sending.key.pattern.as_bytes()) else { return Paged::All };
        let page = self.vhost.retained.page(&pattern, sending.cursor.clone(), SLICE);
        let mut last: Option<Encoded> = None;
        for (topic, retained) in page.found {
            let head = retained.message.heads.first();
            if !self.has_room(&session.queue, 1, head.map_or(0, |head| head.key.len + head.body.len)) {
                if let Some(last) = last {
                    sending.cursor = Some(Cursor::behind(last));
                }
                return Paged::NoRoom;
            }
            self.send_one_retained(session, subscription, sending, &topic.join(separator));
            last = Some(topic);
        }
        match page.next {
            Some(next) => {
                sending.cursor = Some(next);
                Paged::More
            }
            None => Paged::All,
        }
    }

    /// Is there room for a message of `bytes`? To begin (`part` = 2) only half of what may be used is.
    fn has_room(&self, queue: &Queue, part: usize, bytes: u32) -> bool {
        if self.outbox.weight() >= AHEAD_BYTES / part {
            return false;
        }
        let state = queue.lock();
        let stored = state.ready + state.leased;
        let bound = &state.rules.bound;
        let fits = stored < bound.messages && state.bytes.saturating_add(u64::from(bytes)) <= bound.bytes;
        state.ready < AHEAD / part as u64 && (stored == 0 || fits)
    }

    fn send_one_retained(&mut self, session: &Arc<Session>, subscription: &Subscription, sending: &Sending, topic: &[u8]) {
        let vhost = self.vhost.clone();
        let _order = vhost.stripe(topic).lock();
        let Ok(name) = Name::parse(syntax(sending.key.separator), topic) else { return };
        let Some(retained) = vhost.retained.get(&name).filter(|r| r.order <= sending.since) else { return };
        let Some(head) = retained.message.heads.first() else { return };
        let now_ms = self.core.now_ms();
        if head.expires_ms != 0 && head.expires_ms <= now_ms {
            vhost.retained.remove_if(&name, |r| Arc::ptr_eq(&r.message, &retained.message));
            return;
        }
        let arrived_ms = retained.message.arrived_ms;
        let subject = Subject { views: &self.core.config.header_views, batch: &retained.message, head, arrived_ms };
        if subscription.selector.as_ref().is_some_and(|selector| !selector.matches(&subject)) {
            return;
        }
        let may_read = self.outbox.principal.load().as_ref().is_some_and(|p| p.may_read(topic, &self.client));
        if !may_read {
            return;
        }
        let level = head.level.min(subscription.level);
        let flags = DELIVERY_RETAINED | subscription.flags;
        let side = (subscription.identifier != 0)
            .then(|| Arc::new(broker_api::Side { subscriptions: vec![subscription.identifier], ..Default::default() }));
        if level == 0 {
            self.core.direct(session, &retained.message, 0, 1, side, flags);
            return;
        }
        let mut fills = Fills::default();
        let mut follow = Follow::default();
        let wanted = Wanted { level, flags, side };
        self.enqueue(&session.queue, &retained.message, wanted, &mut fills, &mut follow);
        for (slot, filled) in fills.slots {
            slot.fill(filled);
        }
        self.core.follow_up(follow);
    }
}
