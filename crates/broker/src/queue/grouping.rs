//! Message groups: what one group has in a queue goes to one consumer, in order, for as long as that one consumes or until the group ends.
//!
//! ```text
//!   cursor ──► g1 a g2 g1 b          g2 belongs to a consumer that takes nothing now:
//!              │  │  └─► aside        it is passed by, so that it holds nobody else up, and goes out before
//!              ▼  ▼                   anything that its consumer could have from behind it
//! ```
//!
//! A queue without groups has none of this, and pays for one bit of each entry. Which consumer a group has is forgotten by a restart, as
//! consumers are.

use super::lane::Next;
use super::pump::{Giving, Step};
use super::{Entry, Follow, Held, Queue, State, Wanted, HELD_BYTES, LOAD};
use crate::store::Log;
use ahash::{AHashMap, RandomState};
use broker_api::{ConsumerIx, Seq, HEAD_GROUP_ENDS};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

/// Of an entry's flags: its message belongs to a group. Says nothing outside the queue.
pub(crate) const GROUPED: u8 = 128;

/// Groups of a queue that are known one by one. Those beyond share [`BUCKETS`], each of which has one consumer for all of its groups: they
/// stay together and in order, too, but are spread less evenly, and their end makes no room.
const KNOWN: usize = 1024;
const BUCKETS: usize = 1024;
/// Messages that wait aside for busy consumers; beyond these the others wait as well.
const ASIDE: usize = 4096;
/// And their bytes, which stay in memory.
const ASIDE_BYTES: u64 = 4 * HELD_BYTES;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Whose {
    outbox: u64,
    to: ConsumerIx,
}

struct Aside {
    group: u64,
    whose: Whose,
    bytes: u32,
}

#[derive(Default)]
pub(crate) struct Grouping {
    known: AHashMap<u64, Whose>,
    /// Made when the first group finds no more room.
    buckets: Vec<Option<Whose>>,
    aside: BTreeMap<Seq, Aside>,
    aside_bytes: u64,
    /// The same by consumer; the highest level comes first.
    waiting: Vec<(Whose, BTreeSet<Seq>)>,
    /// Something was put aside since somebody asked.
    moved: bool,
    /// It waits aside, its consumer would take it, and it has to be read first.
    unread: Option<Seq>,
}

/// Whether a consumer may be handed a message of a group.
pub(super) enum Turn {
    /// And whether it has just become this consumer's.
    Mine(u64, bool),
    /// Its group is another's, who does not want this one.
    Free,
    /// Another's, for whom it was put aside.
    Aside,
    /// Another's, and there is no more room aside.
    Full,
}

fn upside_down(seq: Seq) -> Seq {
    Seq::new(u8::MAX - seq.lane(), seq.position())
}

fn hash(group: &[u8]) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(group)
}

impl Grouping {
    /// The first that waits aside on this level.
    pub(super) fn first_aside(&self, level: u8) -> Option<u64> {
        let first = self.aside.range(Seq::new(level, 0)..).next()?.0;
        (first.lane() == level).then(|| first.position())
    }

    fn whose(&self, group: u64) -> Option<Whose> {
        let bucket = || self.buckets.get(group as usize % BUCKETS).copied().flatten();
        self.known.get(&group).copied().or_else(bucket)
    }

    fn assign(&mut self, group: u64, whose: Whose) {
        if self.buckets.is_empty() && self.known.len() >= KNOWN {
            self.buckets.resize(BUCKETS, None);
        }
        match self.known.len() < KNOWN {
            true => drop(self.known.insert(group, whose)),
            false => self.buckets[group as usize % BUCKETS] = Some(whose),
        }
    }

    fn put_aside(&mut self, seq: Seq, aside: Aside) {
        let whose = aside.whose;
        self.aside_bytes += u64::from(aside.bytes);
        self.moved = true;
        self.aside.insert(seq, aside);
        match self.waiting.iter_mut().find(|(who, _)| *who == whose) {
            Some((_, all)) => drop(all.insert(upside_down(seq))),
            None => self.waiting.push((whose, BTreeSet::from([upside_down(seq)]))),
        }
    }

    fn forget(&mut self, seq: Seq) -> bool {
        let Some(aside) = self.aside.remove(&seq) else { return false };
        self.aside_bytes -= u64::from(aside.bytes);
        if let Some(at) = self.waiting.iter().position(|(who, _)| *who == aside.whose) {
            self.waiting[at].1.remove(&upside_down(seq));
            if self.waiting[at].1.is_empty() {
                self.waiting.swap_remove(at);
            }
        }
        true
    }
}

impl Entry {
    /// Its message is in memory (again).
    pub(super) fn hold(&mut self, held: Arc<Held>, head: u32) {
        if held.batch.heads.get(head as usize).is_some_and(|head| !head.group.is_empty()) {
            self.flags |= GROUPED;
        }
        (self.held, self.head) = (Some(held), head);
    }

    fn ends_group(&self) -> bool {
        let head = self.held.as_ref().and_then(|held| held.batch.heads.get(self.head as usize));
        head.is_some_and(|head| head.has(HEAD_GROUP_ENDS))
    }
}

impl State {
    /// May the consumer at `at` have this message of a group? What is another's is put aside.
    #[cold]
    pub(super) fn whose_turn(&mut self, at: usize, seq: Seq, may_put_aside: bool) -> Turn {
        let consumer = &self.consumers[at];
        let me = Whose { outbox: consumer.outbox.id, to: consumer.to };
        let Some(entry) = self.lanes.get_mut(seq.lane()).and_then(|lane| lane.get_mut(seq.position())) else { return Turn::Free };
        let (bytes, Some(held), index) = (entry.bytes, entry.held.clone(), entry.head) else { return Turn::Free };
        let Some(head) = held.batch.heads.get(index as usize) else { return Turn::Free };
        let group = hash(held.batch.bytes(head.group));
        let grouping = self.grouping.get_or_insert_default();
        let owner = grouping.whose(group).filter(|whose| *whose != me);
        let owner = owner.and_then(|whose| Some((whose, self.consumers.iter().find(|c| c.is(whose.outbox, whose.to))?.scan)));
        let Some((whose, scan)) = owner else {
            let is_new = grouping.whose(group) != Some(me);
            if is_new {
                grouping.assign(group, me);
            }
            return Turn::Mine(group, is_new);
        };
        // One with a selector need not want all of its group.
        if scan.is_some_and(|scan| !self.is_match(scan, &held, index)) {
            return Turn::Free;
        }
        let Some(grouping) = self.grouping.as_mut().filter(|_| may_put_aside) else { return Turn::Full };
        if grouping.aside.len() >= ASIDE || grouping.aside_bytes + u64::from(bytes) > ASIDE_BYTES {
            return Turn::Full;
        }
        grouping.put_aside(seq, Aside { group, whose, bytes });
        if let Some(lane) = self.lanes.get_mut(seq.lane()) {
            lane.returned.remove(&seq.position());
            lane.cursor = lane.cursor.max(seq.position() + 1);
        }
        Turn::Aside
    }

    /// Was anything put aside since this was last asked?
    pub(super) fn put_something_aside(&mut self) -> bool {
        self.grouping.as_mut().is_some_and(|grouping| std::mem::take(&mut grouping.moved))
    }

    /// Its last message was handed out: whoever takes the next of it may be another.
    fn end_group(&mut self, group: u64) {
        let Some(grouping) = &mut self.grouping else { return };
        if grouping.known.remove(&group).is_none() {
            return;
        }
        let free: Vec<Seq> = grouping.aside.iter().filter(|(_, aside)| aside.group == group).map(|(seq, _)| *seq).collect();
        self.put_back_in_place(free);
    }

    fn put_back_in_place(&mut self, those: Vec<Seq>) {
        for seq in those {
            if self.grouping.as_mut().is_some_and(|grouping| grouping.forget(seq)) {
                if let Some(lane) = self.lanes.get_mut(seq.lane()) {
                    lane.returned.insert(seq.position());
                }
            }
        }
    }

    /// Consumers have gone: their groups are anybody's. Answers whether anything of these waits.
    pub(super) fn free_groups(&mut self) -> bool {
        let State { grouping, consumers, .. } = self;
        let Some(grouping) = grouping else { return false };
        let is_there = |whose: &Whose| consumers.iter().any(|c| c.is(whose.outbox, whose.to));
        grouping.known.retain(|_, whose| is_there(whose));
        grouping.buckets.iter_mut().for_each(|bucket| *bucket = bucket.filter(is_there));
        let free: Vec<Seq> = grouping.aside.iter().filter(|(_, aside)| !is_there(&aside.whose)).map(|(seq, _)| *seq).collect();
        self.put_back_in_place(free);
        if self.consumers.is_empty() {
            self.grouping = None;
        }
        // What only scans have met was not put aside.
        self.ready > 0
    }

    /// Does any group belong to this consumer?
    pub(super) fn has_groups(&self, outbox: u64, to: ConsumerIx) -> bool {
        let is_its = |whose: &Whose| *whose == Whose { outbox, to };
        self.grouping.as_ref().is_some_and(|grouping| grouping.known.values().any(is_its) || grouping.buckets.iter().flatten().any(is_its))
    }

    /// All groups are anybody's.
    pub(super) fn end_groups(&mut self) {
        let Some(grouping) = &self.grouping else { return };
        let free = grouping.aside.keys().copied().collect();
        self.put_back_in_place(free);
        self.grouping = None;
    }

    /// It does not wait any more, if it did.
    #[inline]
    pub(super) fn not_aside(&mut self, level: u8, position: u64) {
        if let Some(grouping) = &mut self.grouping {
            grouping.forget(Seq::new(level, position));
        }
    }

    pub(super) fn is_aside(&self, level: u8, position: u64) -> bool {
        self.grouping.as_ref().is_some_and(|grouping| grouping.aside.contains_key(&Seq::new(level, position)))
    }

    /// What waits aside for this consumer, if it stands before what is next for everybody.
    pub(super) fn next_aside(&self, at: usize, next: Option<(u8, Next)>) -> Option<Seq> {
        let grouping = self.grouping.as_ref()?;
        let consumer = &self.consumers[at];
        let mut waiting = grouping.waiting.iter().filter(|(whose, _)| consumer.is(whose.outbox, whose.to));
        let seq = upside_down(*waiting.next()?.1.first()?);
        let is_first = match next {
            None | Some((_, Next::Nothing)) => true,
            Some((level, Next::Ready(position))) => (seq.lane(), position) > (level, seq.position()),
            Some((level, Next::Away(number))) => (seq.lane(), number * super::PAGE) > (level, seq.position()),
        };
        is_first.then_some(seq)
    }

    /// What waits aside and has to be read: a page, or messages.
    pub(super) fn unread_aside(&mut self) -> Option<Wanted> {
        let State { grouping, lanes, .. } = self;
        let grouping = grouping.as_mut()?;
        let seq = grouping.unread.take()?;
        let lane = lanes.get_mut(seq.lane())?;
        if let Next::Away(number) = lane.look(seq.position()) {
            return Some(Wanted::Page(seq.lane(), number));
        }
        let mut wanted = Vec::new();
        for (seq, _) in grouping.aside.range(seq..).take_while(|(other, _)| other.lane() == seq.lane()).take(LOAD) {
            let entry = lane.get_mut(seq.position()).filter(|entry| entry.held.is_none());
            wanted.extend(entry.map(|entry| (*seq, entry.known_lsn())));
        }
        Some(Wanted::Messages(wanted))
    }
}

impl Queue {
    /// Hands a message of a group to the consumer at `at`, if it is its turn.
    #[allow(clippy::too_many_arguments, reason = "whom, what, and what the queue's lock guards")]
    pub(super) fn give_grouped(
        self: &Arc<Queue>,
        state: &mut State,
        giving: &mut Giving,
        at: usize,
        seq: Seq,
        may_put_aside: bool,
        log: &Log,
        now: u32,
        follow: &mut Follow,
    ) -> Step {
        let turn = state.whose_turn(at, seq, may_put_aside);
        giving.may_have = matches!(turn, Turn::Mine(..) | Turn::Free);
        if !giving.may_have {
            return if matches!(turn, Turn::Aside) { Step::Aside } else { Step::NotMine };
        }
        let ends = state.lanes.get_mut(seq.lane()).and_then(|lane| lane.get_mut(seq.position())).map(|entry| entry.ends_group());
        let step = giving.one(self, state, seq.lane(), seq.position(), log, now, follow);
        giving.may_have = false;
        if let (Step::Given, Turn::Mine(group, is_new)) = (&step, turn) {
            // The next new group is the next consumer's.
            giving.had_its_turn |= is_new && state.consumers.len() > 1;
            if ends == Some(true) {
                state.end_group(group);
            }
        }
        step
    }

    /// Hands out what waits aside for the consumer at `at`.
    #[allow(clippy::too_many_arguments, reason = "whom, what, and what the queue's lock guards")]
    pub(super) fn give_aside(
        self: &Arc<Queue>,
        state: &mut State,
        giving: &mut Giving,
        at: usize,
        seq: Seq,
        log: &Log,
        now: u32,
        follow: &mut Follow,
    ) -> Step {
        let lane = state.lanes.get_mut(seq.lane());
        let step = match lane.map(|lane| lane.look(seq.position())) {
            Some(Next::Ready(_)) => match giving.one(self, state, seq.lane(), seq.position(), log, now, follow) {
                Step::Grouped => match self.give_grouped(state, giving, at, seq, false, log, now, follow) {
                    // Not for this one any more.
                    Step::NotMine | Step::Aside => {
                        state.put_back_in_place(vec![seq]);
                        Step::Gone
                    }
                    other => other,
                },
                other => other,
            },
            Some(Next::Away(_)) => Step::Unread,
            _ => {
                state.not_aside(seq.lane(), seq.position());
                Step::Gone
            }
        };
        if let (Step::Unread, Some(grouping)) = (&step, &mut state.grouping) {
            grouping.unread = Some(seq);
        }
        step
    }
}
