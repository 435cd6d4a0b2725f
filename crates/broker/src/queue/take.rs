//! Single messages for who asks.

use super::lane::Next;
use super::tick::is_due;
use super::{Fill, Gone, Queue, Status};
use crate::outbox::Outbox;
use crate::store::Log;
use broker_api::{DeliverTo, Delivery, Seq, Token};
use std::sync::Arc;

/// What a [`Queue::take`] came to.
pub(crate) enum Taken {
    Done {
        count: u32,
        first: Option<Seq>,
        left: u64,
    },
    /// The next message has to be read from here first. Nothing was taken.
    Read(Seq, u64),
}

impl Queue {
    /// Hands up to `max` ready messages, past all credit, to one who asked for them by `token`.
    #[allow(clippy::too_many_arguments, reason = "a lock is taken in here, and what it guards is needed with all of these")]
    pub fn take(
        self: &Arc<Queue>,
        max: u32,
        owner: u64,
        settled: bool,
        outbox: &Outbox,
        token: Token,
        log: &Log,
        now: u32,
        follow: &mut super::Follow,
    ) -> Taken {
        let mut state = self.lock();
        let state = &mut *state;
        let mut gone = Fill::new(self.id, Gone::Accepted);
        let mut expired = Fill::new(self.id, Gone::Expired);
        let (mut count, mut first) = (0, None);
        let mut unread = None;
        while count < max {
            let (level, position) = match state.next() {
                Some((level, Next::Ready(position))) => (level, position),
                Some((level, Next::Away(number))) if count == 0 => {
                    // Nobody waits here but who asked.
                    self.read_now(state, level, number, log);
                    if matches!(state.next(), Some((_, Next::Away(_)))) {
                        break;
                    }
                    continue;
                }
                _ => break,
            };
            let Some(lane) = state.lanes.get_mut(level) else { break };
            let suspect = position < lane.suspect;
            let Some(entry) = lane.get_mut(position) else { break };
            if is_due(entry.expires, now) {
                self.leave(state, level, position, Gone::Expired, &mut expired, follow);
                continue;
            }
            let seq = Seq::new(level, position);
            if entry.attempts > 0 && entry.is_to_rest(&state.rules) {
                state.rest_again(self, seq, log, follow);
                continue;
            }
            let Some(held) = entry.held.clone() else {
                unread = Some((seq, entry.known_lsn()));
                break;
            };
            let is_committed = || (1..log.committed_lsn()).contains(&entry.known_lsn()) && held.is_committed(log);
            if !held.is_shown() || (log.delivers_late() && entry.durable && !is_committed()) {
                break;
            }
            let flags = entry.shown_flags(suspect) | self.counted_flag();
            let (index, side, attempts, granted) = (entry.head, entry.side.clone(), entry.attempts, entry.level);
            entry.status = Status::Leased;
            entry.owner = owner;
            let bytes = entry.bytes;
            state.taken(level, position, bytes);
            if settled {
                self.take_out(state, level, position, &mut gone);
            }
            let delivery = Delivery { seq, index, side, attempts, level: granted, flags };
            outbox.run(DeliverTo::Reply(token), self.id, &held.batch, std::iter::once(delivery));
            first = first.or(Some(seq));
            count += 1;
        }
        for mut fill in [gone, expired] {
            if fill.is_worth_it() {
                fill.reserve(self.durable, log);
                follow.fills.push(fill);
            }
        }
        match unread {
            Some((seq, lsn)) if count == 0 => Taken::Read(seq, lsn),
            _ => Taken::Done { count, first, left: state.ready },
        }
    }
}
