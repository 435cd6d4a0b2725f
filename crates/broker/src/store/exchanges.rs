//! Exchanges and bindings as records and checkpoint objects. Of a checkpoint's objects, one is an exchange (class 6) and one holds all
//! bindings from one source to one destination (class 7).

use super::records::{kind, LEVEL};
use super::wire::{Reader, Writer};
use crate::core::Shared;
use crate::exchange::{Binding, Dest, DestId, Exchange};
use crate::routing::exchange::DELAYED;
use crate::vhost::Vhost;
use broker_api::{ExchangeName, ExchangeSpec};
use journal::Records;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn push(records: &mut Records, kind: u8, write: impl FnOnce(&mut Writer<'_>)) {
    records.push(kind, LEVEL, 0, 0, |out| write(&mut Writer(out)));
}

fn write_exchange(w: &mut Writer<'_>, vhost: u32, id: u64, name: &ExchangeName, spec: &ExchangeSpec) {
    w.u64(id);
    w.u32(vhost);
    w.bytes(name.as_str().as_bytes());
    w.bytes(spec.kind.as_bytes());
    w.u8(u8::from(spec.durable) | u8::from(spec.auto_delete) << 1 | u8::from(spec.internal) << 2);
    w.opt_text(spec.alternate.as_ref().map(ExchangeName::as_str));
    w.u8(spec.format);
    w.bytes(&spec.arguments);
}

fn read_exchange(r: &mut Reader<'_>) -> Option<(u64, RecoveredExchange)> {
    let (id, vhost) = (r.u64()?, r.u32()?);
    let name = ExchangeName::new(r.text()?);
    let kind = r.text()?.to_owned();
    let flags = r.u8()?;
    let spec = ExchangeSpec {
        kind,
        durable: flags & 1 != 0,
        auto_delete: flags & 2 != 0,
        internal: flags & 4 != 0,
        alternate: r.opt_text()?.map(ExchangeName::new),
        format: r.u8()?,
        arguments: r.bytes()?.to_vec(),
    };
    Some((id, RecoveredExchange { vhost, name, spec }))
}

pub(crate) fn write_binding(w: &mut Writer<'_>, binding: &Binding) {
    w.u64(binding.source);
    let (what, id) = match binding.to {
        DestId::Queue(id) => (0, id),
        DestId::Exchange(id) => (1, id),
    };
    w.u8(what);
    w.u64(id);
    w.bytes(binding.key.as_bytes());
    w.u8(binding.format);
    w.bytes(&binding.arguments);
}

fn read_binding(r: &mut Reader<'_>) -> Option<Binding> {
    let source = r.u64()?;
    let to = match (r.u8()?, r.u64()?) {
        (0, id) => DestId::Queue(id),
        (1, id) => DestId::Exchange(id),
        _ => return None,
    };
    Some(Binding { source, to, key: r.text()?.into(), format: r.u8()?, arguments: r.bytes()?.into() })
}

pub(crate) fn exchange_record(vhost: u32, exchange: &Exchange) -> Records {
    let mut records = Records::new();
    push(&mut records, kind::EXCHANGE, |w| write_exchange(w, vhost, exchange.id, &exchange.name, &exchange.spec));
    records
}

/// Exchanges that go take their bindings with them, both ways.
pub(crate) fn exchange_gone_record(records: &mut Records, ids: &[u64]) {
    for id in ids {
        push(records, kind::EXCHANGE_GONE, |w| w.u64(*id));
    }
}

fn write_vhost_binding(w: &mut Writer<'_>, vhost: u32, binding: &Binding) {
    w.u32(vhost);
    write_binding(w, binding);
}

pub(crate) fn binding_record(vhost: u32, binding: &Binding) -> Records {
    let mut records = Records::new();
    push(&mut records, kind::BIND, |w| write_vhost_binding(w, vhost, binding));
    records
}

pub(crate) fn binding_gone_record(vhost: u32, binding: &Binding) -> Records {
    let mut records = Records::new();
    push(&mut records, kind::UNBIND, |w| write_vhost_binding(w, vhost, binding));
    records
}

/// What changed since the last checkpoint.
#[derive(Default)]
pub(crate) struct DirtyExchanges(Mutex<Changes>);

#[derive(Default, Clone)]
pub(crate) struct Changes {
    pub(super) exchanges: BTreeSet<(u32, u64)>,
    pub(super) pairs: BTreeSet<(u32, u64, DestId)>,
}

impl DirtyExchanges {
    pub fn exchange(&self, vhost: u32, id: u64) {
        self.0.lock().exchanges.insert((vhost, id));
    }
    pub fn binding(&self, vhost: u32, binding: &Binding) {
        self.0.lock().pairs.insert((vhost, binding.source, binding.to));
    }
    pub(super) fn take(&self) -> Changes {
        std::mem::take(&mut *self.0.lock())
    }
    /// The checkpoint failed: all of it has to be written again.
    pub(super) fn give_back(&self, changes: Changes) {
        let mut now = self.0.lock();
        now.exchanges.extend(changes.exchanges);
        now.pairs.extend(changes.pairs);
    }
}

pub(super) fn exchange_object(core: &Shared, vhost: u32, id: u64) -> Option<Vec<u8>> {
    let exchange = core.vhost_by_id(vhost)?.exchange_by_id(id)?;
    let mut bytes = Vec::new();
    write_exchange(&mut Writer(&mut bytes), vhost, exchange.id, &exchange.name, &exchange.spec);
    Some(bytes)
}

pub(super) fn pair_object(vhost: &Vhost, source: u64, to: DestId) -> Option<Vec<u8>> {
    write_pair(vhost.id, vhost.bindings.lock().between(source, to))
}

fn write_pair<'a>(vhost: u32, bindings: impl Iterator<Item = &'a Binding>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut w = Writer(&mut bytes);
    w.u32(vhost);
    let mut any = false;
    for binding in bindings {
        any = true;
        w.u8(1);
        write_binding(&mut w, binding);
    }
    w.u8(0);
    any.then_some(bytes)
}

pub(super) struct RecoveredExchange {
    vhost: u32,
    name: ExchangeName,
    spec: ExchangeSpec,
}

/// Ids until everything is there; resolved once the core stands.
#[derive(Default)]
pub(crate) struct RecoveredExchanges {
    exchanges: BTreeMap<u64, RecoveredExchange>,
    /// By destination, so that a queue that goes finds its own.
    bindings: BTreeMap<DestId, BTreeSet<(u32, Binding)>>,
    /// What records changed: the next checkpoint begins behind them, so it has to hold this.
    pub(super) touched: Changes,
}

impl RecoveredExchanges {
    pub(super) fn exchange_object(&self, vhost: u32, id: u64) -> Option<Vec<u8>> {
        let found = self.exchanges.get(&id)?;
        let mut bytes = Vec::new();
        write_exchange(&mut Writer(&mut bytes), vhost, id, &found.name, &found.spec);
        Some(bytes)
    }

    pub(super) fn pair_object(&self, vhost: u32, source: u64, to: DestId) -> Option<Vec<u8>> {
        let here = self.bindings.get(&to)?.iter().filter(|(of, binding)| *of == vhost && binding.source == source);
        write_pair(vhost, here.map(|(_, binding)| binding))
    }

    /// Answers the id, which no new one may take.
    pub(super) fn exchange(&mut self, r: &mut Reader<'_>) -> Option<u64> {
        let (id, exchange) = read_exchange(r)?;
        self.exchanges.insert(id, exchange);
        Some(id)
    }

    /// A record, not an object of the checkpoint: the next checkpoint has to hold it.
    pub(super) fn touch_exchange(&mut self, id: u64) {
        let vhost = self.exchanges.get(&id).map_or(0, |x| x.vhost);
        self.touched.exchanges.insert((vhost, id));
    }

    /// The virtual host and the name of this exchange, if it is one that holds messages back.
    pub(super) fn delaying(&self, id: u64) -> Option<(u32, String)> {
        let exchange = self.exchanges.get(&id).filter(|x| x.spec.kind == DELAYED)?;
        Some((exchange.vhost, exchange.name.to_string()))
    }

    fn touch_pair(&mut self, vhost: u32, source: u64, to: DestId) {
        self.touched.pairs.insert((vhost, source, to));
    }

    pub(super) fn exchange_gone(&mut self, id: u64) {
        self.touch_exchange(id);
        let ends = self.bindings.values().flatten().filter(|(_, b)| b.source == id || b.to == DestId::Exchange(id));
        self.touched.pairs.extend(ends.map(|(vhost, b)| (*vhost, b.source, b.to)));
        self.exchanges.remove(&id);
        self.bindings.remove(&DestId::Exchange(id));
        self.bindings.values_mut().for_each(|all| all.retain(|(_, b)| b.source != id));
    }

    pub(super) fn vhost_gone(&mut self, id: u32) {
        let ended: Vec<u64> = self.exchanges.iter().filter(|(_, x)| x.vhost == id).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.exchange_gone(id));
        let pairs: Vec<_> = self.bindings.values().flatten().filter(|(vhost, _)| *vhost == id).cloned().collect();
        for (vhost, binding) in pairs {
            self.touch_pair(vhost, binding.source, binding.to);
            if let Some(all) = self.bindings.get_mut(&binding.to) {
                all.remove(&(vhost, binding));
            }
        }
    }

    pub(super) fn queue_gone(&mut self, id: u64) {
        for (vhost, binding) in self.bindings.remove(&DestId::Queue(id)).unwrap_or_default() {
            self.touch_pair(vhost, binding.source, binding.to);
        }
    }

    pub(super) fn bind(&mut self, r: &mut Reader<'_>) -> Option<()> {
        let vhost = r.u32()?;
        let binding = read_binding(r)?;
        self.touch_pair(vhost, binding.source, binding.to);
        self.bindings.entry(binding.to).or_default().insert((vhost, binding));
        Some(())
    }

    pub(super) fn unbind(&mut self, r: &mut Reader<'_>) -> Option<()> {
        let vhost = r.u32()?;
        let binding = read_binding(r)?;
        self.touch_pair(vhost, binding.source, binding.to);
        if let Some(all) = self.bindings.get_mut(&binding.to) {
            all.remove(&(vhost, binding));
        }
        Some(())
    }

    pub(super) fn pair(&mut self, r: &mut Reader<'_>) -> Option<()> {
        let vhost = r.u32()?;
        while r.u8()? != 0 {
            let binding = read_binding(r)?;
            self.bindings.entry(binding.to).or_default().insert((vhost, binding));
        }
        Some(())
    }

    /// Makes them; queues and virtual hosts are there.
    pub fn adopt(self, core: &Shared) {
        core.checkpoint.exchanges_changed(self.touched);
        for (id, RecoveredExchange { vhost, name, spec }) in self.exchanges {
            let Some(vhost) = core.vhost_by_id(vhost) else { continue };
            let arguments = core.arguments(spec.format, &spec.arguments);
            match Exchange::new(id, name.clone(), spec, &arguments) {
                Some(exchange) => {
                    core.hold_back_for(vhost.id, &exchange);
                    vhost.exchanges.insert(name, exchange);
                }
                None => tracing::error!(exchange = %name, "its type is not known to this version; it is left out"),
            }
        }
        for (vhost, binding) in self.bindings.into_values().flatten() {
            let Some(vhost) = core.vhost_by_id(vhost) else { continue };
            let to: Option<Dest> = match binding.to {
                DestId::Queue(id) => core.queue(broker_api::QueueId(id)).map(Dest::Queue),
                DestId::Exchange(id) => vhost.exchange_by_id(id).map(Dest::Exchange),
            };
            let source: Option<Arc<Exchange>> = vhost.exchange_by_id(binding.source);
            let (Some(to), Some(source)) = (to, source) else { continue };
            let arguments = core.arguments(binding.format, &binding.arguments);
            let mut bindings = vhost.bindings.lock();
            if let Err(error) = vhost.bind(&mut bindings, &source, &to, binding, &arguments) {
                tracing::error!(exchange = %source.name, %error, "a binding could not be made again");
            }
        }
    }
}
