//! Topic: to destinations bound with a pattern that matches the key (AMQP 0-9-1, 3.1.3.3), MQTT's filters included.

use super::table::Table;
use super::{Arguments, BindError, BindKey, Binding, Bound, Headers, Key, Router};
use crate::routing::topic::{words_of, Encoded, Pattern};
use crate::routing::trie::{Dollar, Trie};

pub struct Topic<D> {
    table: Table<D>,
    routes: Trie<D>,
}

impl<D> Default for Topic<D> {
    fn default() -> Self {
        Topic::new(Dollar::Hidden)
    }
}

impl<D> Topic<D> {
    pub fn new(dollar: Dollar) -> Self {
        Topic { table: Table::default(), routes: Trie::new(dollar) }
    }
}

impl<D: Clone + Send + Sync> Router<D> for Topic<D> {
    fn bind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64, destination: D) -> Result<Bound, BindError> {
        let words = words_of(key.syntax, key.text);
        let pattern = Pattern::read(key.syntax, key.text, words.as_deref())?;
        let route = Encoded::of_pattern(&pattern);
        Ok(self.table.bind(route.as_bytes(), key, arguments, id, destination, |destination| {
            self.routes.insert(&pattern, id, destination);
        }))
    }

    fn unbind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64) -> bool {
        let words = words_of(key.syntax, key.text);
        let Ok(pattern) = Pattern::read(key.syntax, key.text, words.as_deref()) else { return false };
        let route = Encoded::of_pattern(&pattern);
        self.table.unbind(route.as_bytes(), key, arguments, id, || {
            self.routes.remove(&pattern, id);
        })
    }

    fn unbind_all(&self, id: u64) -> usize {
        self.table.unbind_all(id, |_, key| {
            let words = words_of(key.syntax, key.text);
            let pattern = Pattern::read(key.syntax, key.text, words.as_deref());
            if let Ok(pattern) = pattern {
                self.routes.remove(&pattern, id);
            }
        })
    }

    fn route(&self, key: &Key<'_>, _: &dyn Headers, out: &mut Vec<D>) {
        if let Some(name) = key.name() {
            self.routes.matches(name, |_, destination| out.push(destination.clone()));
        }
    }

    fn bindings(&self) -> Vec<Binding<D>> {
        self.table.list()
    }

    fn len(&self) -> usize {
        self.table.len()
    }
}
