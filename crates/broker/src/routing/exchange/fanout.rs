//! Fanout: to every destination, whatever the key (AMQP 0-9-1, 3.1.3.2).

use super::table::Table;
use super::{Arguments, BindError, BindKey, Binding, Bound, Headers, Key, Router};
use crate::routing::hamt::{Hamt, Owned};
use crate::routing::published::Published;

pub struct Fanout<D> {
    table: Table<D>,
    destinations: Published<Hamt<Owned<D>>>,
}

/// All bindings of a destination are one route.
const ROUTE: &[u8] = b"";

impl<D> Default for Fanout<D> {
    fn default() -> Self {
        Fanout { table: Table::default(), destinations: Published::default() }
    }
}

impl<D: Clone> Fanout<D> {
    fn add(&self, id: u64, value: D) {
        let owned = Owned { id, value };
        self.destinations
            .change(|all| Ok((Some(all.map_or_else(|| Hamt::default().with(owned.clone()), |all| all.with(owned.clone()))), ())))
    }

    fn remove(&self, id: u64) {
        self.destinations.change(|all| {
            let left = all.map(|all| all.without_id(id));
            Ok((left.filter(|left| !left.is_empty()), ()))
        })
    }
}

impl<D: Clone + Send + Sync> Router<D> for Fanout<D> {
    fn bind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64, destination: D) -> Result<Bound, BindError> {
        Ok(self.table.bind(ROUTE, key, arguments, id, destination, |destination| self.add(id, destination)))
    }

    fn unbind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64) -> bool {
        self.table.unbind(ROUTE, key, arguments, id, || self.remove(id))
    }

    fn unbind_all(&self, id: u64) -> usize {
        self.table.unbind_all(id, |_, _| self.remove(id))
    }

    fn route(&self, _: &Key<'_>, _: &dyn Headers, out: &mut Vec<D>) {
        if let Some(all) = &*self.destinations.load() {
            all.for_each(&mut |owned| out.push(owned.value.clone()));
        }
    }

    fn bindings(&self) -> Vec<Binding<D>> {
        self.table.list()
    }

    fn len(&self) -> usize {
        self.table.len()
    }

    fn reads_key(&self) -> bool {
        false
    }
}
