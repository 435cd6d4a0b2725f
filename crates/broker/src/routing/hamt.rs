//! A persistent hash tree: a change returns a new tree that shares all but one path with the old one.
//!
//! ```text
//!   hash  ... 101 011 110          each branch looks at the next three bits of the hash; a bit in its map says which of the eight
//!                     |            slots exist, and only those are stored. A slot holds one item, the next branch, or, when all
//!   branch [.. 110 ..]-+           64 bits are used up, a bucket of items whose whole hashes are equal.
//!   branch [.. 011 ..]
//! ```
//! Eight slots rather than the usual 32: a change clones every slot on its path, and each clone touches a reference count that is
//! seldom in the cache. Narrow branches make a change in a table of 100,000 about three times cheaper, for two more steps in a lookup.

use std::sync::Arc;

const BITS: u32 = 3;
const WIDTH_MASK: u64 = (1 << BITS) - 1;
const HASH_BITS: u32 = 64;

/// What the tree holds. Cloning must be cheap: a change clones the neighbours of what it changes.
pub(super) trait Item: Clone {
    fn hash(&self) -> u64;
    /// Same key, given that the hashes are equal.
    fn same_key(&self, other: &Self) -> bool;
}

pub(super) struct Hamt<T> {
    root: Option<Slot<T>>,
}

enum Slot<T> {
    Item(T),
    Branch(u8, Arc<[Slot<T>]>),
    Bucket(Arc<[T]>),
}

impl<T: Clone> Clone for Slot<T> {
    fn clone(&self) -> Self {
        match self {
            Slot::Item(item) => Slot::Item(item.clone()),
            Slot::Branch(map, slots) => Slot::Branch(*map, slots.clone()),
            Slot::Bucket(items) => Slot::Bucket(items.clone()),
        }
    }
}

impl<T: Clone> Clone for Hamt<T> {
    fn clone(&self) -> Self {
        Hamt { root: self.root.clone() }
    }
}

impl<T> Default for Hamt<T> {
    fn default() -> Self {
        Hamt { root: None }
    }
}

impl<T: Item> Hamt<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    pub(super) fn get(&self, hash: u64, is_key: impl Fn(&T) -> bool) -> Option<&T> {
        let mut slot = self.root.as_ref()?;
        let mut rest = hash;
        loop {
            match slot {
                Slot::Item(item) => return (item.hash() == hash && is_key(item)).then_some(item),
                Slot::Bucket(items) => return items.iter().find(|item| item.hash() == hash && is_key(item)),
                Slot::Branch(map, slots) => {
                    let bit = 1u8 << (rest & WIDTH_MASK);
                    if map & bit == 0 {
                        return None;
                    }
                    slot = &slots[index_of(*map, bit)];
                    rest >>= BITS;
                }
            }
        }
    }

    /// This tree with `item` in it, in place of one with the same key.
    pub(super) fn with(&self, item: T) -> Self {
        Hamt { root: Some(self.root.as_ref().map_or_else(|| Slot::Item(item.clone()), |root| root.with(item.clone(), 0))) }
    }

    /// This tree without the item that has this key.
    pub(super) fn without(&self, hash: u64, is_key: impl Fn(&T) -> bool) -> Self {
        Hamt { root: self.root.as_ref().and_then(|root| root.without(hash, &is_key, 0)) }
    }

    /// In no particular order.
    pub(super) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a T)) {
        if let Some(root) = &self.root {
            root.for_each(visit);
        }
    }
}

fn index_of(map: u8, bit: u8) -> usize {
    (map & (bit - 1)).count_ones() as usize
}

fn bit_at(hash: u64, shift: u32) -> u8 {
    1 << ((hash >> shift) & WIDTH_MASK)
}

impl<T: Item> Slot<T> {
    fn with(&self, item: T, shift: u32) -> Self {
        match self {
            Slot::Item(old) if old.hash() == item.hash() && old.same_key(&item) => Slot::Item(item),
            Slot::Item(old) => join(old.clone(), item, shift),
            Slot::Bucket(items) => {
                let others = items.iter().filter(|old| !old.same_key(&item)).cloned();
                Slot::Bucket(others.chain([item.clone()]).collect())
            }
            Slot::Branch(map, slots) => {
                let bit = bit_at(item.hash(), shift);
                let index = index_of(*map, bit);
                let (old, changed) = if map & bit == 0 { (0, Slot::Item(item)) } else { (1, slots[index].with(item, shift + BITS)) };
                Slot::Branch(map | bit, splice(slots, index, old, Some(changed)))
            }
        }
    }

    fn without(&self, hash: u64, is_key: &impl Fn(&T) -> bool, shift: u32) -> Option<Self> {
        let goes = |item: &T| item.hash() == hash && is_key(item);
        match self {
            Slot::Item(item) => (!goes(item)).then(|| self.clone()),
            Slot::Bucket(items) => {
                let left: Vec<T> = items.iter().filter(|item| !goes(item)).cloned().collect();
                match <[T; 1]>::try_from(left) {
                    Ok([last]) => Some(Slot::Item(last)),
                    Err(left) => (!left.is_empty()).then(|| Slot::Bucket(left.into())),
                }
            }
            Slot::Branch(map, slots) => {
                let bit = bit_at(hash, shift);
                if map & bit == 0 {
                    return Some(self.clone());
                }
                let index = index_of(*map, bit);
                match slots[index].without(hash, is_key, shift + BITS) {
                    None if slots.len() == 1 => None,
                    None if slots.len() == 2 && matches!(slots[1 - index], Slot::Item(_)) => Some(slots[1 - index].clone()),
                    None => Some(Slot::Branch(map & !bit, splice(slots, index, 1, None))),
                    // A branch with one item is that item: the tree's shape depends on its content only. (Buckets stay below all branches.)
                    Some(left @ Slot::Item(_)) if slots.len() == 1 => Some(left),
                    Some(left) => Some(Slot::Branch(*map, splice(slots, index, 1, Some(left)))),
                }
            }
        }
    }

    fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a T)) {
        match self {
            Slot::Item(item) => visit(item),
            Slot::Bucket(items) => items.iter().for_each(visit),
            Slot::Branch(_, slots) => slots.iter().for_each(|slot| slot.for_each(visit)),
        }
    }
}

/// `slots` with `old` of them at `index` replaced by `new`. One allocation: all parts of the chain know their length.
fn splice<T: Clone>(slots: &[Slot<T>], index: usize, old: usize, new: Option<Slot<T>>) -> Arc<[Slot<T>]> {
    slots[..index].iter().cloned().chain(new).chain(slots[index + old..].iter().cloned()).collect()
}

fn join<T: Item>(one: T, two: T, shift: u32) -> Slot<T> {
    if shift >= HASH_BITS {
        return Slot::Bucket(Arc::new([one, two]));
    }
    let (bit_one, bit_two) = (bit_at(one.hash(), shift), bit_at(two.hash(), shift));
    let slots: Arc<[Slot<T>]> = if bit_one == bit_two {
        Arc::new([join(one, two, shift + BITS)])
    } else if bit_one < bit_two {
        Arc::new([Slot::Item(one), Slot::Item(two)])
    } else {
        Arc::new([Slot::Item(two), Slot::Item(one)])
    };
    Slot::Branch(bit_one | bit_two, slots)
}

/// A value under the id of whoever owns it.
pub(super) struct Owned<V> {
    pub(super) id: u64,
    pub(super) value: V,
}

impl<V: Clone> Clone for Owned<V> {
    fn clone(&self) -> Self {
        Owned { id: self.id, value: self.value.clone() }
    }
}

impl<V: Clone> Item for Owned<V> {
    fn hash(&self) -> u64 {
        id_hash(self.id)
    }

    fn same_key(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// Spreads ids, which are mostly counters, over all bits; one to one, so two ids never share a hash (the finaliser of splitmix64).
fn id_hash(id: u64) -> u64 {
    let id = (id ^ (id >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let id = (id ^ (id >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    id ^ (id >> 31)
}

impl<V: Clone> Hamt<Owned<V>> {
    pub(super) fn of_id(&self, id: u64) -> Option<&V> {
        self.get(id_hash(id), |owned| owned.id == id).map(|owned| &owned.value)
    }

    pub(super) fn without_id(&self, id: u64) -> Self {
        self.without(id_hash(id), |owned| owned.id == id)
    }
}

#[cfg(test)]
impl<T> Hamt<T> {
    /// Visits the slots of every branch with the branch's address and length, top down; goes below a branch only if told so.
    pub(super) fn for_each_branch<'a>(&'a self, go_below: &mut impl FnMut(usize, usize) -> bool, visit: &mut impl FnMut(&'a T)) {
        fn slot<'a, T>(at: &'a Slot<T>, go_below: &mut impl FnMut(usize, usize) -> bool, visit: &mut impl FnMut(&'a T)) {
            match at {
                Slot::Item(item) => visit(item),
                Slot::Bucket(items) => items.iter().for_each(visit),
                Slot::Branch(_, slots) => {
                    if go_below(slots.as_ptr() as usize, slots.len()) {
                        slots.iter().for_each(|at| slot(at, go_below, visit));
                    }
                }
            }
        }
        if let Some(root) = &self.root {
            slot(root, go_below, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// An item whose hash the test chooses, so that hashes collide wholly and in their low bits.
    #[derive(Clone, Debug, PartialEq)]
    struct Chosen(u64, u8, u32);

    impl Item for Chosen {
        fn hash(&self) -> u64 {
            self.0
        }

        fn same_key(&self, other: &Self) -> bool {
            (self.0, self.1) == (other.0, other.1)
        }
    }

    fn hash() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..20, Just(1 << 63), Just(7 | 1 << 63), Just(u64::MAX), Just(u64::MAX >> 1)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_tree_is_a_map(history in prop::collection::vec((hash(), 0u8..3, any::<u32>(), any::<bool>()), 1..150)) {
            let (mut tree, mut model) = (Hamt::default(), BTreeMap::new());
            for (hash, key, value, removes) in history {
                let before = tree.clone();
                let of_before: Vec<Chosen> = model.iter().map(|((hash, key), value)| Chosen(*hash, *key, *value)).collect();
                if removes {
                    tree = tree.without(hash, |item: &Chosen| item.1 == key);
                    model.remove(&(hash, key));
                } else {
                    tree = tree.with(Chosen(hash, key, value));
                    model.insert((hash, key), value);
                }
                let list = |tree: &Hamt<Chosen>| {
                    let mut items = Vec::new();
                    tree.for_each(&mut |item| items.push(item.clone()));
                    items.sort_by_key(|item| (item.0, item.1));
                    items
                };
                prop_assert_eq!(list(&before), of_before, "the tree before is untouched");
                prop_assert_eq!(list(&tree), model.iter().map(|((hash, key), value)| Chosen(*hash, *key, *value)).collect::<Vec<_>>());
                prop_assert_eq!(tree.is_empty(), model.is_empty());
                let found = tree.get(hash, |item| item.1 == key).map(|item| item.2);
                prop_assert_eq!(found, model.get(&(hash, key)).copied());
            }
        }
    }
}
