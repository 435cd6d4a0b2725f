//! Direct: to destinations bound with this very key (AMQP 0-9-1, 3.1.3.1).

use super::table::Table;
use super::{Arguments, BindError, BindKey, Binding, Bound, Headers, Key, Router};
use crate::routing::exact::ExactMap;

pub struct Direct<D> {
    table: Table<D>,
    routes: ExactMap<Box<[u8]>, D>,
}

impl<D> Default for Direct<D> {
    fn default() -> Self {
        Direct { table: Table::default(), routes: ExactMap::default() }
    }
}

impl<D: Clone + Send + Sync> Router<D> for Direct<D> {
    fn bind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64, destination: D) -> Result<Bound, BindError> {
        Ok(self.table.bind(key.text, key, arguments, id, destination, |destination| {
            self.routes.insert(key.text, id, destination);
        }))
    }

    fn unbind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64) -> bool {
        self.table.unbind(key.text, key, arguments, id, || {
            self.routes.remove(key.text, id);
        })
    }

    fn unbind_all(&self, id: u64) -> usize {
        self.table.unbind_all(id, |route, _| {
            self.routes.remove(route, id);
        })
    }

    fn route(&self, key: &Key<'_>, _: &dyn Headers, out: &mut Vec<D>) {
        self.routes.find(key.text(), |_, destination| out.push(destination.clone()));
    }

    fn bindings(&self) -> Vec<Binding<D>> {
        self.table.list()
    }

    fn len(&self) -> usize {
        self.table.len()
    }
}
