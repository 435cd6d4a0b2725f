//! The bindings of one exchange as they were made: what is listed, and what says whether a route loses its last binding.
//!
//! Several bindings can be one route: same destination, same key (for a topic exchange: the same pattern, in either spelling),
//! different arguments. The routing structure holds the route while at least one of them is left.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Arguments, BindKey, Bound};
use crate::routing::topic::Syntax;

/// A binding, for listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding<D> {
    pub syntax: Syntax,
    pub key: Box<[u8]>,
    pub arguments: Arguments,
    pub id: u64,
    pub destination: D,
}

/// The lock is held while the routing structure is changed too, so that the two agree; `route` takes it never.
pub(super) struct Table<D>(Mutex<Content<D>>);

struct Content<D> {
    /// By destination first, so that a deleted destination finds its bindings.
    routes: BTreeMap<(u64, Box<[u8]>), Route<D>>,
    bindings: usize,
}

struct Route<D> {
    destination: D,
    made: SmallVec<[Made; 1]>,
}

/// One of the bindings of a route, as it was made.
struct Made {
    syntax: Syntax,
    key: Box<[u8]>,
    arguments: Arguments,
}

impl Made {
    fn is(&self, key: BindKey<'_>, arguments: &Arguments) -> bool {
        self.syntax == key.syntax && *self.key == *key.text && self.arguments == *arguments
    }
}

impl<D> Default for Table<D> {
    fn default() -> Self {
        Table(Mutex::new(Content { routes: BTreeMap::new(), bindings: 0 }))
    }
}

impl<D: Clone> Table<D> {
    /// `route` names the route in the routing structure; `add` puts it there if this is its first binding.
    pub(super) fn bind(
        &self,
        route: &[u8],
        key: BindKey<'_>,
        arguments: &Arguments,
        id: u64,
        destination: D,
        add: impl FnOnce(D),
    ) -> Bound {
        let mut content = self.0.lock();
        let content = &mut *content;
        let made = Made { syntax: key.syntax, key: key.text.into(), arguments: arguments.clone() };
        match content.routes.get_mut(&(id, route.into())) {
            Some(known) if known.made.iter().any(|other| other.is(key, arguments)) => return Bound::Existing,
            Some(known) => known.made.push(made),
            None => {
                let new = Route { destination: destination.clone(), made: SmallVec::from_iter([made]) };
                content.routes.insert((id, route.into()), new);
                add(destination);
            }
        }
        content.bindings += 1;
        Bound::New
    }

    /// `remove` takes the route out of the routing structure if this was its last binding.
    pub(super) fn unbind(&self, route: &[u8], key: BindKey<'_>, arguments: &Arguments, id: u64, remove: impl FnOnce()) -> bool {
        let mut content = self.0.lock();
        let place = (id, route.into());
        let Some(known) = content.routes.get_mut(&place) else { return false };
        let Some(position) = known.made.iter().position(|made| made.is(key, arguments)) else { return false };
        known.made.remove(position);
        if known.made.is_empty() {
            content.routes.remove(&place);
            remove();
        }
        content.bindings -= 1;
        true
    }

    /// `remove` takes one route out of the routing structure, by the key of one of its bindings.
    pub(super) fn unbind_all(&self, id: u64, mut remove: impl FnMut(&[u8], BindKey<'_>)) -> usize {
        let mut content = self.0.lock();
        let mut removed = 0;
        while let Some(place) =
            content.routes.range((id, Box::default())..).next().map(|(place, _)| place.clone()).filter(|place| place.0 == id)
        {
            let Some(route) = content.routes.remove(&place) else { break };
            if let Some(made) = route.made.first() {
                remove(&place.1, BindKey { syntax: made.syntax, text: &made.key });
            }
            removed += route.made.len();
        }
        content.bindings -= removed;
        removed
    }

    pub(super) fn list(&self) -> Vec<Binding<D>> {
        let content = self.0.lock();
        let mut list = Vec::with_capacity(content.bindings);
        for ((id, _), route) in &content.routes {
            list.extend(route.made.iter().map(|made| Binding {
                syntax: made.syntax,
                key: made.key.clone(),
                arguments: made.arguments.clone(),
                id: *id,
                destination: route.destination.clone(),
            }));
        }
        list
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().bindings
    }
}
