//! Finding the way of a message: through the topic space, or through the exchange that it names.

use super::Link;
use crate::exchange::{Exchange, LazyHeaders};
use crate::route::{Publisher, Route};
use broker_api::{Batch, Head, Refusal};
use std::sync::Arc;

const TOPICS: &[u8] = b"amq.topic";

impl Link {
    /// Where a message goes, by all its keys: each destination once.
    pub(super) fn find_route(&mut self, batch: &Batch, head: &Head) -> Result<Arc<Route>, Refusal> {
        let route = self.find_route_by(batch, head, batch.key(head))?;
        if head.keys.is_empty() {
            return Ok(route);
        }
        let mut routes = vec![route];
        for key in batch.keys(head) {
            routes.push(self.find_route_by(batch, head, key)?);
        }
        Ok(Arc::new(Route::union(&routes)))
    }

    /// An exchange other than the topic space, by its name.
    pub fn named_exchange(&mut self, name: &[u8]) -> Option<Arc<Exchange>> {
        self.routes.get_or_insert_with(Box::default).exchange(&self.vhost, name)
    }

    fn find_route_by(&mut self, batch: &Batch, head: &Head, key: &[u8]) -> Result<Arc<Route>, Refusal> {
        let publisher = Publisher { session: self.publisher_session(), connection: self.outbox.id };
        let is_internal = self.is_internal();
        let headers = LazyHeaders::of(&self.core, batch, head);
        let name = batch.bytes(head.exchange);
        if head.topic || name == TOPICS {
            let route = self.routes.get_or_insert_with(Box::default).route(&self.vhost, head.separator, key, &headers, publisher);
            return route.map_err(|error| Refusal::Invalid { what: "topic", why: error.to_string() });
        }
        let not_found = || Refusal::NotFound { what: "exchange", name: String::from_utf8_lossy(name).into_owned() };
        let routes = self.routes.get_or_insert_with(Box::default);
        let exchange = routes.exchange(&self.vhost, name).ok_or_else(not_found)?;
        if exchange.spec.internal && !is_internal {
            let text = format!("cannot publish to internal exchange '{}' in vhost '{}'", exchange.name, self.vhost.name);
            return Err(Refusal::AccessRefused(text));
        }
        Ok(routes.through(&self.vhost, &exchange, head.separator, key, &headers, publisher))
    }
}
