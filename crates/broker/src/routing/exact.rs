//! Whole keys to values: patterns without a wildcard, and the keys of a direct exchange.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use super::hamt::{Hamt, Item, Owned};
use super::published::Shards;
use super::topic::hash_bytes;

/// Several values per key, each under the id of its owner.
pub struct ExactMap<K, V> {
    shards: Shards<Hamt<Arc<Entry<K, V>>>>,
    len: AtomicUsize,
}

struct Entry<K, V> {
    hash: u64,
    key: K,
    values: Hamt<Owned<V>>,
}

impl<K: Eq, V: Clone> Item for Arc<Entry<K, V>> {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn same_key(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<K, V> Default for ExactMap<K, V> {
    fn default() -> Self {
        ExactMap { shards: Shards::default(), len: AtomicUsize::new(0) }
    }
}

/// For keys that are bytes.
impl<V: Clone> ExactMap<Box<[u8]>, V> {
    /// The value this (key, id) had before.
    pub fn insert(&self, key: &[u8], id: u64, value: V) -> Option<V> {
        self.insert_hashed(hash_bytes(key), |stored| **stored == *key, || key.into(), id, value)
    }

    pub fn remove(&self, key: &[u8], id: u64) -> Option<V> {
        self.remove_hashed(hash_bytes(key), |stored| **stored == *key, id)
    }

    pub fn find(&self, key: &[u8], visit: impl FnMut(u64, &V)) {
        self.find_hashed(hash_bytes(key), |stored| **stored == *key, visit);
    }
}

impl<K: Eq, V: Clone> ExactMap<K, V> {
    /// How many (key, id) pairs.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert_hashed(&self, hash: u64, is_key: impl Fn(&K) -> bool, key: impl FnOnce() -> K, id: u64, value: V) -> Option<V>
    where
        K: Clone,
    {
        let before = self.shards.of(hash).change(|tree| {
            let entry = tree.and_then(|tree| tree.get(hash, |entry| is_key(&entry.key)));
            let before = entry.and_then(|entry| entry.values.of_id(id).cloned());
            let entry = match entry {
                Some(entry) => Entry { hash, key: entry.key.clone(), values: entry.values.with(Owned { id, value }) },
                None => Entry { hash, key: key(), values: Hamt::default().with(Owned { id, value }) },
            };
            let entry = Arc::new(entry);
            Ok((Some(tree.map_or_else(|| Hamt::default().with(entry.clone()), |tree| tree.with(entry.clone()))), before))
        });
        if before.is_none() {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        before
    }

    pub(super) fn remove_hashed(&self, hash: u64, is_key: impl Fn(&K) -> bool, id: u64) -> Option<V>
    where
        K: Clone,
    {
        let removed = self.shards.of(hash).change(|tree| {
            let Some(tree) = tree else { return Err(None) };
            let Some(entry) = tree.get(hash, |entry| is_key(&entry.key)) else { return Err(None) };
            let Some(value) = entry.values.of_id(id) else { return Err(None) };
            let values = entry.values.without_id(id);
            let left = if values.is_empty() {
                tree.without(hash, |entry| is_key(&entry.key))
            } else {
                tree.with(Arc::new(Entry { hash, key: entry.key.clone(), values }))
            };
            Ok(((!left.is_empty()).then_some(left), Some(value.clone())))
        });
        if removed.is_some() {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    pub(super) fn find_hashed(&self, hash: u64, is_key: impl Fn(&K) -> bool, mut visit: impl FnMut(u64, &V)) {
        let tree = self.shards.of(hash).load();
        if let Some(entry) = tree.as_ref().and_then(|tree| tree.get(hash, |entry| is_key(&entry.key))) {
            entry.values.for_each(&mut |owned| visit(owned.id, &owned.value));
        }
    }
}
