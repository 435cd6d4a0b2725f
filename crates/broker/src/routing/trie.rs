//! Patterns to values: which values have a pattern that matches this name?
//!
//! ```text
//!   exact     a/b/c        ->  a map by the whole name (most subscriptions)
//!   by first  a/+/c  a/#   ->  64 trees by the hash of the first segment, each
//!                                    node --literal--> node      one child per next segment (a hash tree: any number)
//!                                      |-----one-----> node      `+` or `*`
//!                                      |----many-----> node      `#`; stays active whatever follows
//!   wild      #  +/b  *.b  ->  one such tree for patterns that start with a wildcard; hidden names skip it whole
//! ```
//! A match walks all active nodes at once, segment by segment, so its work is at most segments x active nodes: a `many` node is
//! entered once and then stays, which is what keeps `#.#.#.x` from costing more than its length. MQTT's trailing `#` is the same
//! node, as both languages let `#` stand for nothing (MQTT 5.0, 4.7.1.2: it includes the parent level).
//!
//! Nodes are immutable. A change copies the nodes on its path and publishes the new root, see [`super::hamt`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use ahash::AHashSet;
use smallvec::SmallVec;

use super::exact::ExactMap;
use super::hamt::{Hamt, Item, Owned};
use super::published::{Published, Shards};
use super::topic::{Encoded, Name, Pattern, Piece, Segment};

/// Whether names that start with `$` are hidden from patterns that start with a wildcard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dollar {
    #[default]
    Hidden,
    Ordinary,
}

/// Several values per pattern, each under the id of its owner. `V` is cloned when a neighbour changes: keep that cheap.
pub struct Trie<V> {
    exact: ExactMap<Encoded, V>,
    by_first: Shards<Node<V>>,
    wild: Published<Node<V>>,
    wildcard_len: AtomicUsize,
    dollar: Dollar,
}

struct Node<V> {
    /// The segment that leads here and its hash; empty for roots and wildcard nodes.
    label: Arc<[u8]>,
    hash: u64,
    values: Hamt<Owned<V>>,
    children: Hamt<Arc<Node<V>>>,
    one: Option<Arc<Node<V>>>,
    many: Option<Arc<Node<V>>>,
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Trie::new(Dollar::Hidden)
    }
}

impl<V> Trie<V> {
    pub fn new(dollar: Dollar) -> Self {
        Trie {
            exact: ExactMap::default(),
            by_first: Shards::default(),
            wild: Published::default(),
            wildcard_len: AtomicUsize::new(0),
            dollar,
        }
    }
}

impl<V: Clone> Trie<V> {
    /// The value this (pattern, id) had before; it is replaced.
    pub fn insert(&self, pattern: &Pattern<'_>, id: u64, value: V) -> Option<V> {
        if let Some(hash) = pattern.exact_hash() {
            let is_key = |stored: &Encoded| stored.is_exactly(pattern);
            return self.exact.insert_hashed(hash, is_key, || Encoded::of_pattern(pattern), id, value);
        }
        let before = self.tree_of(pattern).change(|root| {
            let path = path_to(root, pattern);
            let end = path[pattern.pieces().len()];
            let before = end.and_then(|node| node.values.of_id(id).cloned());
            let mut end = copy_of(end, pattern.pieces().last());
            end.values = end.values.with(Owned { id, value });
            Ok((Some(rebuild(&path, pattern, Some(end)).unwrap_or_default()), before))
        });
        if before.is_none() {
            self.wildcard_len.fetch_add(1, Ordering::Relaxed);
        }
        before
    }

    /// The value that was there. Nodes that lead to nothing any more go with it.
    pub fn remove(&self, pattern: &Pattern<'_>, id: u64) -> Option<V> {
        if let Some(hash) = pattern.exact_hash() {
            return self.exact.remove_hashed(hash, |stored| stored.is_exactly(pattern), id);
        }
        let removed = self.tree_of(pattern).change(|root| {
            let path = path_to(root, pattern);
            let Some(end) = path[pattern.pieces().len()] else { return Err(None) };
            let Some(value) = end.values.of_id(id) else { return Err(None) };
            let mut left = end.clone();
            left.values = end.values.without_id(id);
            Ok((rebuild(&path, pattern, left.non_empty()), Some(value.clone())))
        });
        if removed.is_some() {
            self.wildcard_len.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    /// Visits each (pattern, id) that matches once: an id with two matching patterns is visited twice. In no particular order.
    pub fn matches(&self, name: &Name<'_>, mut visit: impl FnMut(u64, &V)) {
        self.exact.find_hashed(name.hash(), |stored| stored.is_name(name), &mut visit);
        if let Some(first) = name.first() {
            if let Some(root) = &*self.by_first.of(first.hash).load() {
                walk(root, name.segments(), &mut visit);
            }
        }
        if self.dollar == Dollar::Ordinary || !name.is_hidden() {
            if let Some(root) = &*self.wild.load() {
                walk(root, name.segments(), &mut visit);
            }
        }
    }

    /// How many (pattern, id) pairs.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard_len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn tree_of(&self, pattern: &Pattern<'_>) -> &Published<Node<V>> {
        match pattern.pieces().first() {
            Some(Piece::Literal(first)) => self.by_first.of(first.hash),
            _ => &self.wild,
        }
    }
}

impl<V> Node<V> {
    fn new(label: Arc<[u8]>, hash: u64) -> Self {
        Node { label, hash, values: Hamt::default(), children: Hamt::default(), one: None, many: None }
    }
}

impl<V: Clone> Clone for Node<V> {
    fn clone(&self) -> Self {
        Node {
            label: self.label.clone(),
            hash: self.hash,
            values: self.values.clone(),
            children: self.children.clone(),
            one: self.one.clone(),
            many: self.many.clone(),
        }
    }
}

impl<V: Clone> Item for Arc<Node<V>> {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn same_key(&self, other: &Self) -> bool {
        self.label == other.label
    }
}

impl<V: Clone> Node<V> {
    fn child(&self, segment: &Segment<'_>) -> Option<&Arc<Node<V>>> {
        self.children.get(segment.hash, |child| *child.label == *segment.bytes)
    }

    fn next(&self, piece: &Piece<'_>) -> Option<&Node<V>> {
        match piece {
            Piece::Literal(segment) => self.child(segment).map(|node| &**node),
            Piece::One => self.one.as_deref(),
            Piece::Many => self.many.as_deref(),
        }
    }

    fn set_next(&mut self, piece: &Piece<'_>, next: Option<Node<V>>) {
        let next = next.map(Arc::new);
        match (piece, next) {
            (Piece::Literal(_), Some(next)) => self.children = self.children.with(next),
            (Piece::Literal(segment), None) => self.children = self.children.without(segment.hash, |child| *child.label == *segment.bytes),
            (Piece::One, next) => self.one = next,
            (Piece::Many, next) => self.many = next,
        }
    }

    fn non_empty(self) -> Option<Self> {
        let empty = self.values.is_empty() && self.children.is_empty() && self.one.is_none() && self.many.is_none();
        (!empty).then_some(self)
    }
}

/// The node before each piece and the one after the last, as far as they exist.
type Path<'t, V> = SmallVec<[Option<&'t Node<V>>; 9]>;

fn path_to<'t, V: Clone>(root: Option<&'t Node<V>>, pattern: &Pattern<'_>) -> Path<'t, V> {
    let mut at = root;
    let mut path = Path::new();
    path.push(at);
    for piece in pattern.pieces() {
        at = at.and_then(|node| node.next(piece));
        path.push(at);
    }
    path
}

/// From the last node up: each node of the path with its next one replaced, or left out if nothing remains in it.
fn rebuild<V: Clone>(path: &Path<'_, V>, pattern: &Pattern<'_>, end: Option<Node<V>>) -> Option<Node<V>> {
    let pieces = pattern.pieces();
    let mut next = end;
    for (position, piece) in pieces.iter().enumerate().rev() {
        let leads_here = position.checked_sub(1).map(|before| &pieces[before]);
        let mut node = copy_of(path[position], leads_here);
        node.set_next(piece, next);
        next = node.non_empty();
    }
    next
}

fn copy_of<V: Clone>(node: Option<&Node<V>>, leads_here: Option<&Piece<'_>>) -> Node<V> {
    match (node, leads_here) {
        (Some(node), _) => node.clone(),
        (None, Some(Piece::Literal(segment))) => Node::new(segment.bytes.into(), segment.hash),
        (None, _) => Node::default(),
    }
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Node::new(Arc::default(), 0)
    }
}

/// The nodes a prefix of the name can have reached.
struct Active<'t, V> {
    /// Reached with exactly this prefix; each has one parent, so none is here twice.
    nodes: SmallVec<[&'t Node<V>; 16]>,
    /// `many` nodes, reached with this prefix or a shorter one. They stay.
    many: SmallVec<[&'t Node<V>; 8]>,
    /// The addresses in `many`, once there are too many to look through.
    many_set: AHashSet<*const Node<V>>,
}

const LOOK_THROUGH_MAX: usize = 16;

impl<'t, V: Clone> Active<'t, V> {
    /// A `many` node can be reached from its parent more than once, when the parent is one itself.
    fn enter_many(&mut self, from: &'t Node<V>) {
        let mut from = from;
        while let Some(node) = from.many.as_deref() {
            let known = if self.many.len() <= LOOK_THROUGH_MAX {
                self.many.iter().any(|other| std::ptr::eq(*other, node))
            } else {
                if self.many_set.is_empty() {
                    self.many_set.extend(self.many.iter().map(|other| *other as *const Node<V>));
                }
                !self.many_set.insert(node)
            };
            if known {
                return;
            }
            self.many.push(node);
            from = node;
        }
    }
}

/// Answers how many nodes were looked at, which is what the bound on a match is about.
fn walk<'t, V: Clone>(root: &'t Node<V>, segments: &[Segment<'_>], visit: &mut impl FnMut(u64, &V)) -> usize {
    let mut active = Active { nodes: SmallVec::new(), many: SmallVec::new(), many_set: AHashSet::new() };
    let mut reached: SmallVec<[&'t Node<V>; 16]> = SmallVec::new();
    let mut steps = 0;
    active.nodes.push(root);
    active.enter_many(root);
    for segment in segments {
        if active.nodes.is_empty() && active.many.is_empty() {
            return steps;
        }
        steps += active.nodes.len() + active.many.len();
        for node in active.nodes.iter().chain(&active.many) {
            reached.extend(node.child(segment).map(|node| &**node));
            reached.extend(node.one.as_deref());
        }
        // Only now: a `many` node entered after this segment must not take this segment.
        reached.iter().for_each(|node| active.enter_many(node));
        std::mem::swap(&mut active.nodes, &mut reached);
        reached.clear();
    }
    for node in active.nodes.iter().chain(&active.many) {
        node.values.for_each(&mut |owned| visit(owned.id, &owned.value));
    }
    steps
}

#[cfg(test)]
impl<V: Clone> Trie<V> {
    /// Trees that hold a node; none when all patterns with wildcards are gone.
    pub(super) fn trees(&self) -> usize {
        self.by_first.iter().chain([&self.wild]).filter(|tree| tree.load().is_some()).count()
    }

    pub(super) fn match_steps(&self, name: &Name<'_>) -> usize {
        let first = name.first().and_then(|first| self.by_first.of(first.hash).load().clone());
        let roots = first.into_iter().chain(self.wild.load().clone());
        roots.map(|root| walk(&root, name.segments(), &mut |_, _| {})).sum()
    }

    /// The tree of patterns with this first segment (and of others with its hash), as it is now.
    pub(super) fn snapshot_of(&self, first: &[u8]) -> Option<Snapshot<V>> {
        self.by_first.of(super::topic::hash_bytes(first)).load().clone().map(Snapshot)
    }
}

#[cfg(test)]
pub(super) struct Snapshot<V>(Arc<Node<V>>);

#[cfg(test)]
impl<V: Clone> Snapshot<V> {
    /// Slots in branches that are not branches of `before` as well: what was copied or made between the two.
    pub(super) fn slots_not_shared_with(&self, before: &Snapshot<V>) -> usize {
        let mut known = AHashSet::new();
        before.visit(&mut |branch, _| {
            known.insert(branch);
            true
        });
        let mut copied = 0;
        self.visit(&mut |branch, slots| {
            let new = !known.contains(&branch);
            copied += if new { slots } else { 0 };
            new
        });
        copied
    }

    fn visit(&self, go_below: &mut impl FnMut(usize, usize) -> bool) {
        let mut left = vec![&self.0];
        while let Some(node) = left.pop() {
            left.extend(node.one.as_ref().into_iter().chain(&node.many));
            node.children.for_each_branch(go_below, &mut |child| left.push(child));
            node.values.for_each_branch(go_below, &mut |_| {});
        }
    }
}
