//! Commands on exchanges and bindings.

use super::control::{done, Answer};
use super::Link;
use crate::core::Shared;
use crate::exchange::{Binding, Bindings, Changed, Dest, DestId, Exchange};
use crate::routing::exchange::{by_name, check, BadArguments};
use crate::store::exchanges::{binding_gone_record, binding_record, exchange_gone_record, exchange_record};
use crate::vhost::Vhost;
use broker_api::{Bind, Destination, ExchangeName, ExchangeSpec, Inequivalent, Limit, Refusal, Reply};
use journal::{Records, Slot, Ticket};
use std::sync::Arc;

impl Link {
    pub(super) fn declare_exchange(&mut self, name: ExchangeName, spec: ExchangeSpec, passive: bool) -> Answer {
        let vhost = self.vhost.clone();
        let _order = vhost.bindings.lock();
        if name.as_str().is_empty() {
            return Err(Refusal::AccessRefused("operation not permitted on the default exchange".into()));
        }
        let found = vhost.exchange(name.as_str());
        if passive {
            let missing = Refusal::NotFound { what: "exchange", name: name.to_string() };
            return found.ok_or(missing).and_then(|_| done(Reply::Ok));
        }
        if let Some(found) = found {
            return equivalent(&found, &spec).and_then(|()| done(Reply::Ok));
        }
        if name.as_str().starts_with("amq.") {
            return Err(Refusal::AccessRefused(format!("exchange name '{name}' contains reserved prefix 'amq.*'")));
        }
        let unknown = |kind: &str| {
            let why = format!("{} exchange type '{kind}'", if kind.is_empty() { "invalid" } else { "unknown" });
            Refusal::Invalid { what: "exchange type", why }
        };
        if by_name::<Dest>(&spec.kind).is_none() {
            return Err(unknown(&spec.kind));
        }
        let arguments = self.core.arguments(spec.format, &spec.arguments);
        check(&spec.kind, &arguments).map_err(|bad| match bad {
            BadArguments::Type(kind) => unknown(&kind),
            BadArguments::Value(why) => Refusal::PreconditionFailed(why),
            BadArguments::Length(given) => {
                Refusal::unfit("Invalid argument ", given, ", 'x-recent-history-length' must be a positive integer")
            }
        })?;
        self.core.check_exchanges_max(&name, &vhost)?;
        let slot = spec.durable.then(|| self.core.log.reserve());
        let made = Exchange::new(self.core.id(), name.clone(), spec, &arguments);
        let exchange = made.ok_or(Refusal::NotImplemented("this exchange type"))?;
        self.core.hold_back_for(vhost.id, &exchange);
        vhost.exchanges.insert(name, exchange.clone());
        crate::policy::rule_exchange(&vhost, &exchange);
        let Some(slot) = slot else { return done(Reply::Ok) };
        self.core.checkpoint.exchange(vhost.id, exchange.id);
        let ticket = self.fill_with_callback(slot, exchange_record(vhost.id, &exchange));
        Ok((Reply::Ok, Some(ticket), None))
    }

    pub(super) fn delete_exchange(&mut self, name: &ExchangeName, if_unused: bool) -> Answer {
        let vhost = self.vhost.clone();
        let mut bindings = vhost.bindings.lock();
        // Deleting what is not there is no error: RabbitMQ answers delete-ok.
        let Some(exchange) = vhost.exchange(name.as_str()) else { return done(Reply::Ok) };
        if exchange.is_default() {
            return Err(Refusal::AccessRefused("operation not permitted on the default exchange".into()));
        }
        if exchange.is_fixed() {
            return Err(Refusal::AccessRefused(format!("deletion of system exchange '{name}' in vhost '{}' not allowed", vhost.name)));
        }
        if if_unused && bindings.has_source(exchange.id) {
            return Err(Refusal::PreconditionFailed(format!("exchange '{name}' in vhost '{}' in use", vhost.name)));
        }
        let mut gone = Vec::new();
        let slot = self.core.log.reserve();
        self.core.remove_exchanges(&vhost, &mut bindings, vec![exchange], &mut gone);
        let ticket = self.fill_gone(slot, &gone);
        Ok((Reply::Ok, ticket, None))
    }

    /// Writes down that exchanges went, if any of them was written down.
    pub(super) fn fill_gone(&mut self, slot: Slot, gone: &[u64]) -> Option<Ticket> {
        if gone.is_empty() {
            return None;
        }
        let mut records = Records::new();
        exchange_gone_record(&mut records, gone);
        Some(self.fill_with_callback(slot, records))
    }

    /// The queue or exchange that is bound, and the exchange it is bound to.
    fn ends(&self, vhost: &Vhost, bind: &Bind) -> Result<(Dest, Arc<Exchange>), Refusal> {
        let exchange = |name: &ExchangeName| {
            let not_found = || Refusal::NotFound { what: "exchange", name: name.to_string() };
            vhost.exchange(name.as_str()).ok_or_else(not_found)
        };
        let to = match &bind.destination {
            Destination::Queue(name) => Dest::Queue(self.named_queue(name)?),
            Destination::Exchange(name) => Dest::Exchange(exchange(name)?),
        };
        Ok((to, exchange(&bind.source)?))
    }

    pub(super) fn bind(&mut self, bind: Bind, on: bool) -> Answer {
        let vhost = self.vhost.clone();
        let (to, source) = match self.ends(&vhost, &bind) {
            // What is not there has no binding.
            Err(Refusal::NotFound { .. }) if !on => return Ok((Reply::Ok, None, None)),
            ends => ends?,
        };
        if source.is_default() || matches!(&to, Dest::Exchange(x) if x.is_default()) {
            return Err(Refusal::AccessRefused("operation not permitted on the default exchange".into()));
        }
        let mut bindings = vhost.bindings.lock();
        let slot = self.core.log.reserve();
        let Bind { key, arguments, format, .. } = bind;
        let binding = Binding { source: source.id, to: to.id(), key, format, arguments: arguments.into() };
        if !on {
            let ticket = self.drop_binding(&vhost, &mut bindings, slot, &source, &binding);
            return Ok((Reply::Ok, ticket, None));
        }
        let (ticket, is_new) = self.make_binding(&vhost, &mut bindings, slot, &source, &to, binding)?;
        drop(bindings);
        if is_new {
            self.core.replay(&vhost, &source, &to);
        }
        Ok((Reply::Ok, ticket, None))
    }

    /// Answers the ticket of what is logged, and whether it is new.
    fn make_binding(
        &mut self,
        vhost: &Vhost,
        bindings: &mut Bindings,
        slot: Slot,
        source: &Arc<Exchange>,
        to: &Dest,
        binding: Binding,
    ) -> Result<(Option<Ticket>, bool), Refusal> {
        let arguments = self.core.arguments(binding.format, &binding.arguments);
        let changed = vhost.bind(bindings, source, to, binding, &arguments)?;
        let is_new = changed.is_some();
        let Some(Changed { binding, .. }) = changed.filter(|c| c.durable) else { return Ok((None, is_new)) };
        self.core.checkpoint.binding(vhost.id, &binding);
        Ok((Some(self.fill_with_callback(slot, binding_record(vhost.id, &binding))), is_new))
    }

    /// A binding that is not there is no error.
    fn drop_binding(
        &mut self,
        vhost: &Vhost,
        bindings: &mut Bindings,
        slot: Slot,
        source: &Arc<Exchange>,
        binding: &Binding,
    ) -> Option<Ticket> {
        let arguments = self.core.arguments(binding.format, &binding.arguments);
        let same = |b: &&Binding| b.key == binding.key && self.core.arguments(b.format, &b.arguments) == arguments;
        let found = bindings.between(source.id, binding.to).find(same).cloned()?;
        vhost.unbind(bindings, source, &found, &arguments);
        self.core.checkpoint.binding(vhost.id, &found);
        let mut gone = Vec::new();
        self.core.auto_delete(vhost, bindings, vec![source.clone()], &mut gone);
        let mut records = binding_gone_record(vhost.id, &found);
        exchange_gone_record(&mut records, &gone);
        Some(self.fill_with_callback(slot, records))
    }
}

/// In the order in which RabbitMQ compares.
fn equivalent(found: &Exchange, spec: &ExchangeSpec) -> Result<(), Refusal> {
    let current = &found.spec;
    let name_of = |name: &Option<ExchangeName>| name.as_ref().map_or_else(String::new, ExchangeName::to_string);
    let differs = |property: &'static str, given: String, current_value: String| {
        if given == current_value {
            return Ok(());
        }
        let (name, arguments, format) = (found.name.to_string(), current.arguments.clone(), current.format);
        let inequivalent = Inequivalent { what: "exchange", name, property, given, current: current_value, arguments, format };
        Err(Refusal::Inequivalent(Box::new(inequivalent)))
    };
    differs("type", spec.kind.clone(), current.kind.clone())?;
    differs("durable", spec.durable.to_string(), current.durable.to_string())?;
    differs("auto_delete", spec.auto_delete.to_string(), current.auto_delete.to_string())?;
    differs("internal", spec.internal.to_string(), current.internal.to_string())?;
    differs("alternate-exchange", name_of(&spec.alternate), name_of(&current.alternate))
}

impl Shared {
    /// Of all virtual hosts together, those that are always there included.
    fn check_exchanges_max(&self, name: &ExchangeName, vhost: &Vhost) -> Result<(), Refusal> {
        let max = self.config.exchanges_max;
        if max == u64::MAX || self.vhosts.iter().map(|vhost| vhost.exchanges.len() as u64).sum::<u64>() < max {
            return Ok(());
        }
        let why = format!("cannot declare exchange '{name}' in vhost '{}': exchange limit of {max} is reached", vhost.name);
        Err(Refusal::OverLimit { limit: Limit::Exchanges, why })
    }

    /// Removes exchanges, their bindings both ways, and what auto-delete then removes. `gone`: those that the log knows.
    pub fn remove_exchanges(&self, vhost: &Vhost, bindings: &mut Bindings, first: Vec<Arc<Exchange>>, gone: &mut Vec<u64>) {
        let mut next = first;
        while let Some(exchange) = next.pop() {
            let sources = vhost.remove_exchange(self, bindings, &exchange);
            if exchange.spec.durable {
                gone.push(exchange.id);
                self.checkpoint.exchange(vhost.id, exchange.id);
            }
            if let Some(history) = &exchange.history {
                history.end();
            }
            if let Some(held_back) = exchange.delays.get() {
                // By a record of its own, behind the exchange's: a restart between the two does it again.
                self.drop_queue(held_back);
            }
            next.extend(sources.into_iter().filter(|x| is_over(x, bindings)));
        }
    }

    /// After these exchanges lost a binding.
    pub fn auto_delete(&self, vhost: &Vhost, bindings: &mut Bindings, sources: Vec<Arc<Exchange>>, gone: &mut Vec<u64>) {
        let over: Vec<_> = sources.into_iter().filter(|x| is_over(x, bindings)).collect();
        self.remove_exchanges(vhost, bindings, over, gone);
    }

    /// A queue is gone: so are the bindings that led to it. Answers exchanges for the queue's own record.
    pub fn unbind_queue(&self, vhost: &Vhost, queue: u64) -> Vec<u64> {
        let mut bindings = vhost.bindings.lock();
        let mut gone = Vec::new();
        let sources = vhost.unbind_destination(self, &mut bindings, DestId::Queue(queue));
        self.auto_delete(vhost, &mut bindings, sources, &mut gone);
        gone
    }
}

/// Auto-delete: it has lost its last binding.
fn is_over(exchange: &Exchange, bindings: &Bindings) -> bool {
    exchange.spec.auto_delete && !exchange.is_deleted() && !bindings.has_source(exchange.id)
}
