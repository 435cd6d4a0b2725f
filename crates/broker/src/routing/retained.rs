//! The retained-message index: one value per topic, found by pattern.
//!
//! Topics are kept in the order of their encoded bytes ([`Encoded`]), in which all topics below a topic are one range. A look-up
//! walks that order and jumps: at each topic it compares segment by segment with the pattern, and where they part it knows the
//! next topic that can match, however many lie between. So `site/+/temperature` costs two steps per site, not one per sensor.
//!
//! ```text
//!   pattern a/+/z      a/1/q -> jump to a/1/z    hit -> jump past a/1 -> a/2/...
//! ```
//! Sixteen such maps, by the first segment, each under its own lock. A page holds a lock for a bounded number of steps and then
//! lets go, so a subscriber to `#` never stops a publisher for long. Paging is stable: what is neither added nor removed
//! meanwhile is seen exactly once.
//!
//! Each topic has an id for as long as it holds a value, never used again: the name of its object in a checkpoint. Changes since
//! the last checkpoint are kept as ids and handed out in bounded pieces.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::topic::{push_segment, split_encoded, unescape, Encoded, Name, Pattern, Piece, END};

const SHARDS: usize = 16;
/// Steps under one hold of a lock, per value asked for, and the least: about 50 us of work for a page of 100.
const STEPS_PER_VALUE: usize = 4;
const STEPS_MIN: usize = 64;

pub struct Retained<V> {
    shards: [RwLock<Shard<V>>; SHARDS],
    len: AtomicUsize,
    next_id: AtomicU64,
}

struct Shard<V> {
    topics: BTreeMap<Encoded, Slot<V>>,
    /// By id: what the next checkpoint has to write (the topic) or delete (`None`).
    dirty: BTreeMap<u64, Option<Encoded>>,
}

struct Slot<V> {
    id: u64,
    /// Whether a checkpoint has been handed this id; if not, its removal is no news to the next one.
    written: bool,
    value: V,
}

/// Where a look-up goes on. Opaque; stays valid whatever changes in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    shard: usize,
    after: Option<Encoded>,
}

impl Cursor {
    /// Goes on behind a topic that a look-up has found.
    pub fn behind(topic: Encoded) -> Cursor {
        Cursor { shard: shard_of_encoded(&topic), after: Some(topic) }
    }
}

/// A slice of a look-up. May be empty although `next` is set: then the bound on work came first.
#[derive(Debug)]
pub struct Page<V> {
    pub found: Vec<(Encoded, V)>,
    pub next: Option<Cursor>,
}

/// A change the next checkpoint has to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<V> {
    Put { id: u64, topic: Encoded, value: V },
    Delete { id: u64 },
}

impl<V> Default for Retained<V> {
    fn default() -> Self {
        let shard = || RwLock::new(Shard { topics: BTreeMap::new(), dirty: BTreeMap::new() });
        Retained { shards: std::array::from_fn(|_| shard()), len: AtomicUsize::new(0), next_id: AtomicU64::new(1) }
    }
}

impl<V: Clone> Retained<V> {
    /// Sets or replaces; answers the value before.
    pub fn set(&self, name: &Name<'_>, value: V) -> Option<V> {
        let topic = Encoded::of_name(name);
        let mut shard = self.shards[shard_of(name)].write();
        let Shard { topics, dirty } = &mut *shard;
        match topics.entry(topic) {
            MapEntry::Occupied(mut entry) => {
                dirty.insert(entry.get().id, Some(entry.key().clone()));
                Some(std::mem::replace(&mut entry.get_mut().value, value))
            }
            MapEntry::Vacant(entry) => {
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                dirty.insert(id, Some(entry.key().clone()));
                entry.insert(Slot { id, written: false, value });
                self.len.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    pub fn remove(&self, name: &Name<'_>) -> Option<V> {
        self.remove_if(name, |_| true)
    }

    /// Removes the value only if it is still the one meant, for expiry that runs apart from publishing.
    pub fn remove_if(&self, name: &Name<'_>, is_meant: impl FnOnce(&V) -> bool) -> Option<V> {
        let mut shard = self.shards[shard_of(name)].write();
        let topic = Encoded::of_name(name);
        if !is_meant(&shard.topics.get(&topic)?.value) {
            return None;
        }
        let slot = shard.topics.remove(&topic)?;
        if slot.written {
            shard.dirty.insert(slot.id, None);
        } else {
            shard.dirty.remove(&slot.id);
        }
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(slot.value)
    }

    pub fn get(&self, name: &Name<'_>) -> Option<V> {
        self.shards[shard_of(name)].read().topics.get(&Encoded::of_name(name)).map(|slot| slot.value.clone())
    }

    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `max` values whose topic the pattern matches, from `after` on. Topics starting with `$` are hidden from patterns
    /// that start with a wildcard (MQTT 5.0, 4.7.2).
    pub fn page(&self, pattern: &Pattern<'_>, after: Option<Cursor>, max: usize) -> Page<V> {
        let only = match pattern.pieces().first() {
            Some(Piece::Literal(first)) => Some(shard_of_first(Some(first.bytes))),
            Some(_) => None,
            None => Some(shard_of_first(None)),
        };
        let search = Search::new(pattern);
        self.collect(only, after, max, |topics, after, max, steps, found| search.run(topics, after, max, steps, found))
    }

    /// Up to `max` values of all, hidden ones included.
    pub fn page_of_all(&self, after: Option<Cursor>, max: usize) -> Page<V> {
        self.collect(None, after, max, |topics, after, max, steps, found| {
            let mut last = after;
            for (topic, slot) in topics.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)) {
                if found.len() >= max || *steps == 0 {
                    return last.cloned();
                }
                *steps -= 1;
                found.push((topic.clone(), slot.value.clone()));
                last = Some(topic);
            }
            None
        })
    }

    /// Goes through the shards; `run` searches one of them and answers where it stopped, or `None` at its end.
    fn collect<F>(&self, only: Option<usize>, after: Option<Cursor>, max: usize, run: F) -> Page<V>
    where
        F: Fn(&BTreeMap<Encoded, Slot<V>>, Option<&Encoded>, usize, &mut usize, &mut Vec<(Encoded, V)>) -> Option<Encoded>,
    {
        let mut found = Vec::new();
        let max = max.max(1);
        let mut steps = max.saturating_mul(STEPS_PER_VALUE).max(STEPS_MIN);
        let (mut shard, mut after) = after.map_or((only.unwrap_or(0), None), |cursor| (cursor.shard, cursor.after));
        let end = only.map_or(SHARDS, |only| only + 1);
        while shard < end.min(SHARDS) {
            if found.len() >= max || steps == 0 {
                return Page { found, next: Some(Cursor { shard, after }) };
            }
            let stopped = run(&self.shards[shard].read().topics, after.as_ref(), max, &mut steps, &mut found);
            if let Some(stopped) = stopped {
                return Page { found, next: Some(Cursor { shard, after: Some(stopped) }) };
            }
            (shard, after) = (shard + 1, None);
        }
        Page { found, next: None }
    }

    /// Puts back what a checkpoint held: not a change. Ids given out later are higher.
    pub fn restore(&self, id: u64, topic: Encoded, value: V) {
        self.next_id.fetch_max(id.saturating_add(1), Ordering::Relaxed);
        let mut shard = self.shards[shard_of_encoded(&topic)].write();
        if shard.topics.insert(topic, Slot { id, written: true, value }).is_none() {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Up to `max` changes, as they stand now, which then no longer count as changes; empty when there are none. A topic that
    /// changes again later is handed out again. If the checkpoint fails, say so with [`Retained::all_changed`].
    pub fn take_changes(&self, max: usize) -> Vec<Change<V>> {
        let mut changes = Vec::new();
        for shard in &self.shards {
            if changes.len() >= max {
                break;
            }
            let mut shard = shard.write();
            let Shard { topics, dirty } = &mut *shard;
            while changes.len() < max {
                let Some((id, topic)) = dirty.pop_first() else { break };
                let Some(topic) = topic else {
                    changes.push(Change::Delete { id });
                    continue;
                };
                if let Some(slot) = topics.get_mut(&topic).filter(|slot| slot.id == id) {
                    slot.written = true;
                    changes.push(Change::Put { id, topic, value: slot.value.clone() });
                }
            }
        }
        changes
    }

    /// Deletions handed out to a checkpoint that failed; they and all present topics count as changed again.
    pub fn all_changed(&self, deleted: impl IntoIterator<Item = u64>) {
        for shard in &self.shards {
            let mut shard = shard.write();
            let Shard { topics, dirty } = &mut *shard;
            dirty.extend(topics.iter().map(|(topic, slot)| (slot.id, Some(topic.clone()))));
        }
        self.shards[0].write().dirty.extend(deleted.into_iter().map(|id| (id, None)));
    }

    pub fn has_changes(&self) -> bool {
        self.shards.iter().any(|shard| !shard.read().dirty.is_empty())
    }
}

fn shard_of(name: &Name<'_>) -> usize {
    shard_of_first(name.first().map(|segment| segment.bytes))
}

fn shard_of_encoded(topic: &Encoded) -> usize {
    let first = split_encoded(topic.as_bytes()).next().map(unescape);
    shard_of_first(first.as_deref())
}

fn shard_of_first(first: Option<&[u8]>) -> usize {
    first.map_or(0, |first| super::topic::hash_bytes(first) as usize % SHARDS)
}

/// A pattern made ready for a walk through the order.
struct Search<'p, 't> {
    pieces: &'p [Piece<'t>],
    /// The pieces before the first `#`, each with the encoded bytes of a literal.
    fixed: Vec<Option<Vec<u8>>>,
    starts_wild: bool,
    /// What decides when a `#` is not the last piece, which only AMQP knows.
    inner_many: Option<&'p Pattern<'t>>,
}

/// What comparing one topic with the pattern says.
enum Step {
    Hit,
    Miss,
    /// No match before the first topic that is at or after these bytes.
    Jump(Vec<u8>),
    /// No match at or after this topic.
    Over,
}

impl<'p, 't> Search<'p, 't> {
    fn new(pattern: &'p Pattern<'t>) -> Self {
        let pieces = pattern.pieces();
        let fixed = pieces.iter().take_while(|piece| !matches!(piece, Piece::Many)).map(|piece| match piece {
            Piece::Literal(segment) => {
                let mut encoded = Vec::with_capacity(segment.bytes.len() + 1);
                push_segment(&mut encoded, segment.bytes);
                Some(encoded)
            }
            Piece::One | Piece::Many => None,
        });
        let fixed: Vec<_> = fixed.collect();
        let inner_many = (fixed.len() + 1 < pieces.len()).then_some(pattern);
        Search { pieces, fixed, starts_wild: pattern.starts_wild(), inner_many }
    }

    /// Searches one map from `after` on. Answers where it stopped for want of room or steps, `None` when it is through.
    fn run<V: Clone>(
        &self,
        topics: &BTreeMap<Encoded, Slot<V>>,
        after: Option<&Encoded>,
        max: usize,
        steps: &mut usize,
        found: &mut Vec<(Encoded, V)>,
    ) -> Option<Encoded> {
        let literal: Vec<u8> = self.fixed.iter().map_while(|piece| piece.as_deref()).flatten().copied().collect();
        let mut last = after.cloned();
        let first = match after {
            Some(after) => Bound::Excluded(after.clone()),
            None => Bound::Included(Encoded::at(&literal)),
        };
        let mut range = topics.range((first, Bound::Unbounded));
        while let Some((topic, slot)) = range.next() {
            if found.len() >= max || *steps == 0 {
                return last;
            }
            *steps -= 1;
            match self.step(topic) {
                Step::Hit => found.push((topic.clone(), slot.value.clone())),
                Step::Miss => {}
                Step::Jump(to) => {
                    debug_assert!(to.as_slice() > topic.as_bytes());
                    range = topics.range((Bound::Included(Encoded::at(&to)), Bound::Unbounded));
                }
                Step::Over => return None,
            }
            last = Some(topic.clone());
        }
        None
    }

    fn step(&self, topic: &Encoded) -> Step {
        let bytes = topic.as_bytes();
        if self.starts_wild && bytes.first() == Some(&b'$') {
            return Step::Jump(vec![b'$' + 1]);
        }
        let mut at = 0;
        for (position, wanted) in self.fixed.iter().enumerate() {
            let length = bytes[at..].iter().position(|byte| *byte == END).map_or(0, |end| end + 1);
            match wanted {
                _ if length == 0 => return self.go_below(bytes, wanted.as_deref()),
                Some(wanted) if bytes[at..at + length] < wanted[..] => return Step::Jump([&bytes[..at], wanted].concat()),
                Some(wanted) if bytes[at..at + length] > wanted[..] => return self.go_past(&bytes[..at], position),
                Some(_) | None => at += length,
            }
        }
        match (self.fixed.len() < self.pieces.len(), self.inner_many) {
            (false, _) if at == bytes.len() => Step::Hit,
            // All that is left are topics below a match.
            (false, _) => self.go_past(&bytes[..at], self.fixed.len()),
            (true, None) => Step::Hit,
            (true, Some(pattern)) => {
                let segments: Vec<_> = topic.segments().collect();
                let name = Name::from_segments(segments.iter().map(|segment| &**segment));
                if name.is_ok_and(|name| pattern.matches(&name)) {
                    Step::Hit
                } else {
                    Step::Miss
                }
            }
        }
    }

    /// The topic ended before the pattern did: what can match comes below it.
    fn go_below(&self, bytes: &[u8], wanted: Option<&[u8]>) -> Step {
        wanted.map_or(Step::Miss, |wanted| Step::Jump([bytes, wanted].concat()))
    }

    /// Past all topics below `prefix`, which is the first `pieces` segments: an end of segment is the lowest byte, one more is
    /// beyond. Without a wildcard in the prefix there is nothing to find there.
    fn go_past(&self, prefix: &[u8], pieces: usize) -> Step {
        match prefix.split_last() {
            Some((_, prefix)) if self.fixed[..pieces].iter().any(Option::is_none) => Step::Jump([prefix, &[END + 1]].concat()),
            _ => Step::Over,
        }
    }
}
