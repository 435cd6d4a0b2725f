//! Exchanges of a virtual host: what they are, what is bound to what, and the walk from one to the queues behind it.
//!
//! The default exchange is the list of queue names and `amq.topic` is the topic space itself; all others have a table of their own from
//! [`crate::routing::exchange`]. Bindings are listed once per virtual host, by source and by destination; that list's lock orders their
//! changes and their records, and publishing never takes it.

use crate::core::Shared;
use crate::history::History;
use crate::queue::Queue;
use crate::routing::exchange::{by_name, cron_header, Arguments, BindKey, Headers, Key, Router, Value, DELAYED};
use crate::routing::topic::words_of;
use crate::routing::{Pattern, Stamp, Syntax};
use crate::selector::{Selector, Subject};
use crate::vhost::{TopicTarget, Vhost};
use broker_api::{Batch, ExchangeName, ExchangeSpec, Head, HeaderView, Refusal};
use parking_lot::RwLock;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Ids of the exchanges that every virtual host has; no counter reaches them.
const FIXED: u64 = 1 << 63;
/// Name, kind, and whether only the broker publishes to it.
const FIXED_EXCHANGES: [(&str, &str, bool); 7] = [
    ("", "direct", false),
    ("amq.topic", "topic", false),
    ("amq.direct", "direct", false),
    ("amq.fanout", "fanout", false),
    ("amq.headers", "headers", false),
    ("amq.match", "headers", false),
    ("amq.rabbitmq.trace", "topic", true),
];

/// Slots for the versions of an exchange's bindings, by key.
const SLOTS: usize = 16;

/// What a binding leads to.
#[derive(Clone)]
pub(crate) enum Dest {
    Queue(Arc<Queue>),
    Exchange(Arc<Exchange>),
}

impl Dest {
    pub fn id(&self) -> DestId {
        match self {
            Dest::Queue(queue) => DestId::Queue(queue.id.0),
            Dest::Exchange(exchange) => DestId::Exchange(exchange.id),
        }
    }
    fn is_durable(&self) -> bool {
        match self {
            Dest::Queue(queue) => queue.durable,
            Dest::Exchange(exchange) => exchange.spec.durable,
        }
    }
    fn is_gone(&self) -> bool {
        match self {
            Dest::Queue(queue) => queue.lock().deleted,
            Dest::Exchange(exchange) => exchange.is_deleted(),
        }
    }
}

/// Ids of queues and exchanges come from one counter, so the number alone is unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum DestId {
    Queue(u64),
    Exchange(u64),
}

impl DestId {
    pub fn number(self) -> u64 {
        match self {
            DestId::Queue(id) | DestId::Exchange(id) => id,
        }
    }
}

enum Table {
    /// The default exchange: queues by name.
    Names,
    /// `amq.topic`: the topic space.
    Topics,
    Own(Box<dyn Router<Dest>>),
}

pub(crate) struct Exchange {
    pub id: u64,
    pub name: ExchangeName,
    pub spec: ExchangeSpec,
    /// Where a policy sends what goes nowhere; the exchange's own argument comes first.
    pub alternate_by_policy: RwLock<Option<ExchangeName>>,
    table: Table,
    /// Where an exchange that delays keeps what is not due; set as it is made (see `crate::delay`).
    pub delays: OnceLock<Arc<Queue>>,
    /// The header that may say of what it holds back when it comes again and again (see `crate::cron`).
    pub cron_header: Option<Box<[u8]>>,
    /// What went through it last, where its type keeps this.
    pub history: Option<History>,
    deleted: AtomicBool,
    versions: [AtomicU64; SLOTS],
    version_of_all: AtomicU64,
}

/// What an exchange's bindings were for a key when a route was computed through it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Version(u64),
    Topic(Stamp),
    Never,
}

impl Exchange {
    /// `None`: there is no such type.
    pub fn new(id: u64, name: ExchangeName, spec: ExchangeSpec, arguments: &Arguments) -> Option<Arc<Exchange>> {
        let table = match id.checked_sub(FIXED) {
            Some(0) => Table::Names,
            Some(1) => Table::Topics,
            _ => Table::Own(by_name::<Dest>(&spec.kind)?(arguments)),
        };
        let history = History::of(&spec.kind, arguments);
        let cron_header = cron_header(&spec.kind, arguments);
        let versions = std::array::from_fn(|_| AtomicU64::new(0));
        Some(Arc::new(Exchange {
            id,
            name,
            spec,
            alternate_by_policy: RwLock::default(),
            table,
            delays: OnceLock::new(),
            cron_header,
            history,
            deleted: AtomicBool::new(false),
            versions,
            version_of_all: AtomicU64::new(0),
        }))
    }

    /// The exchanges that are always there.
    pub fn fixed() -> impl Iterator<Item = Arc<Exchange>> {
        FIXED_EXCHANGES.iter().enumerate().filter_map(|(n, &(name, kind, internal))| {
            let spec = ExchangeSpec { kind: kind.to_owned(), durable: true, internal, ..ExchangeSpec::default() };
            Exchange::new(FIXED + n as u64, ExchangeName::new(name), spec, &Arguments::NONE)
        })
    }

    pub fn is_fixed(&self) -> bool {
        self.id >= FIXED
    }
    pub fn is_default(&self) -> bool {
        matches!(self.table, Table::Names)
    }
    pub fn is_topics(&self) -> bool {
        matches!(self.table, Table::Topics)
    }
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }
    /// Holds messages back that have a delay.
    pub fn is_delaying(&self) -> bool {
        self.spec.kind == DELAYED
    }

    /// Where it sends what its bindings do not.
    pub fn alternate(&self) -> Option<ExchangeName> {
        self.spec.alternate.clone().or_else(|| self.alternate_by_policy.read().clone())
    }

    /// Taken before the table is looked at, so that a change that comes between shows.
    pub fn mark(&self, vhost: &Vhost, key: &Key<'_>) -> Mark {
        if self.is_topics() {
            return key.name().map_or(Mark::Never, |name| Mark::Topic(vhost.generations.stamp_of(name)));
        }
        let slot = self.versions[slot_of(key.text())].load(Ordering::Acquire);
        Mark::Version(slot.wrapping_add(self.version_of_all.load(Ordering::Acquire)))
    }

    /// After the bindings for one key changed.
    pub fn bump(&self, key: &[u8]) {
        // Only a direct exchange's keys are literal.
        if self.is_default() || self.spec.kind == "direct" {
            self.versions[slot_of(key)].fetch_add(1, Ordering::Release);
        } else {
            self.bump_all();
        }
    }

    pub fn bump_all(&self) {
        self.version_of_all.fetch_add(1, Ordering::Release);
    }
}

fn slot_of(key: &[u8]) -> usize {
    key.iter().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193)) as usize % SLOTS
}

/// The headers of one message, read by its protocol's view when an exchange first asks.
pub(crate) struct LazyHeaders<'a> {
    view: Option<&'a dyn HeaderView>,
    origin: &'a [u8],
    read: OnceCell<Vec<(&'a [u8], Value<'a>)>>,
    delay_ms: u32,
    subject: Subject<'a>,
}

impl<'a> LazyHeaders<'a> {
    pub fn of(core: &'a Shared, batch: &'a Batch, head: &'a Head) -> LazyHeaders<'a> {
        let (view, origin) = (core.header_view(head.format), batch.bytes(head.origin));
        let subject = Subject { views: &core.config.header_views, batch, head, arrived_ms: batch.arrived_ms };
        LazyHeaders { view, origin, read: OnceCell::new(), delay_ms: head.delay_ms, subject }
    }

    /// Of a message that was held back before, if `waited`: once is enough.
    pub fn after_delay(self, waited: bool) -> LazyHeaders<'a> {
        LazyHeaders { delay_ms: if waited { 0 } else { self.delay_ms }, ..self }
    }
}

impl Headers for LazyHeaders<'_> {
    fn get(&self, name: &[u8]) -> Option<Value<'_>> {
        let view = self.view?;
        let all = self.read.get_or_init(|| {
            let mut all = Vec::new();
            view.headers(self.origin, &mut |name, value| all.push((name, value)));
            all
        });
        all.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone())
    }

    fn property(&self, name: &[u8]) -> Option<Value<'_>> {
        self.view?.property(self.origin, name)
    }

    fn delay_ms(&self) -> u32 {
        self.delay_ms
    }

    fn selects(&self, selector: &Selector) -> bool {
        selector.matches(&self.subject)
    }
}

/// A binding, as the list and the log have it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Binding {
    pub source: u64,
    pub to: DestId,
    pub key: Box<str>,
    pub format: u8,
    pub arguments: Box<[u8]>,
}

/// All bindings of a virtual host.
#[derive(Default)]
pub(crate) struct Bindings {
    by_source: BTreeSet<Binding>,
    sources: BTreeMap<DestId, BTreeSet<u64>>,
}

impl Bindings {
    pub fn between(&self, source: u64, to: DestId) -> impl Iterator<Item = &Binding> {
        let from = Binding { source, to, key: "".into(), format: 0, arguments: Box::default() };
        self.by_source.range(from..).take_while(move |b| b.source == source && b.to == to)
    }

    pub fn has_source(&self, source: u64) -> bool {
        let from = Binding { source, to: DestId::Queue(0), key: "".into(), format: 0, arguments: Box::default() };
        self.by_source.range(from..).next().is_some_and(|b| b.source == source)
    }

    fn insert(&mut self, binding: Binding) {
        self.sources.entry(binding.to).or_default().insert(binding.source);
        self.by_source.insert(binding);
    }

    fn remove(&mut self, binding: &Binding) {
        self.by_source.remove(binding);
        if self.between(binding.source, binding.to).next().is_none() {
            if let Some(sources) = self.sources.get_mut(&binding.to) {
                sources.remove(&binding.source);
                if sources.is_empty() {
                    self.sources.remove(&binding.to);
                }
            }
        }
    }

    fn leading_to(&self, to: DestId) -> Vec<Binding> {
        let sources = self.sources.get(&to).into_iter().flatten();
        sources.flat_map(|source| self.between(*source, to).cloned().collect::<Vec<_>>()).collect()
    }

    fn of_source(&self, source: u64) -> Vec<Binding> {
        let from = Binding { source, to: DestId::Queue(0), key: "".into(), format: 0, arguments: Box::default() };
        self.by_source.range(from..).take_while(|b| b.source == source).cloned().collect()
    }
}

/// A binding that changed and, if it is durable, has to be written down.
pub(crate) struct Changed {
    pub binding: Binding,
    pub durable: bool,
}

impl Vhost {
    pub fn exchange(&self, name: &str) -> Option<Arc<Exchange>> {
        self.exchanges.get(name).map(|x| x.clone())
    }

    pub fn exchange_by_id(&self, id: u64) -> Option<Arc<Exchange>> {
        self.exchanges.iter().find(|x| x.id == id).map(|x| x.clone())
    }

    /// Makes a binding under the list's lock; `None`: it was there.
    pub fn bind(
        &self,
        bindings: &mut Bindings,
        source: &Arc<Exchange>,
        to: &Dest,
        binding: Binding,
        arguments: &Arguments,
    ) -> Result<Option<Changed>, Refusal> {
        if source.is_deleted() || to.is_gone() {
            return Err(match to {
                Dest::Queue(queue) if !source.is_deleted() => Refusal::NotFound { what: "queue", name: queue.name.to_string() },
                Dest::Exchange(other) if !source.is_deleted() => Refusal::NotFound { what: "exchange", name: other.name.to_string() },
                _ => Refusal::NotFound { what: "exchange", name: source.name.to_string() },
            });
        }
        match &source.table {
            Table::Names => return Err(Refusal::AccessRefused("operation not permitted on the default exchange".into())),
            Table::Topics => {
                let words = words_of(Syntax::Amqp, binding.key.as_bytes());
                let pattern = topic_pattern(&binding.key, words.as_deref())?;
                if bindings.by_source.contains(&binding) {
                    return Ok(None);
                }
                let target = match to {
                    Dest::Queue(queue) => TopicTarget::Queue(queue.clone()),
                    Dest::Exchange(exchange) => TopicTarget::Exchange(exchange.clone()),
                };
                self.topics.insert(&pattern, binding.to.number(), target);
                self.generations.bump(&pattern);
            }
            Table::Own(router) => {
                let key = BindKey::amqp(binding.key.as_bytes());
                let bound = router.bind(key, arguments, binding.to.number(), to.clone())?;
                if bound == crate::routing::exchange::Bound::Existing {
                    return Ok(None);
                }
                source.bump(binding.key.as_bytes());
            }
        }
        bindings.insert(binding.clone());
        Ok(Some(Changed { binding, durable: source.spec.durable && to.is_durable() }))
    }

    /// Takes one binding out of the list and the tables; the list says how it was spelled.
    pub fn unbind(&self, bindings: &mut Bindings, source: &Arc<Exchange>, binding: &Binding, arguments: &Arguments) {
        bindings.remove(binding);
        match &source.table {
            Table::Names => {}
            Table::Topics => {
                let other = bindings.between(binding.source, binding.to).any(|b| b.key == binding.key);
                let words = words_of(Syntax::Amqp, binding.key.as_bytes());
                let pattern = topic_pattern(&binding.key, words.as_deref()).ok().filter(|_| !other);
                if let Some(pattern) = pattern {
                    self.topics.remove(&pattern, binding.to.number());
                    self.generations.bump(&pattern);
                }
            }
            Table::Own(router) => {
                router.unbind(BindKey::amqp(binding.key.as_bytes()), arguments, binding.to.number());
                source.bump(binding.key.as_bytes());
            }
        }
    }

    /// The bindings that lead to a queue or an exchange, out of everything; answers the sources, by which auto-delete goes on.
    pub fn unbind_destination(&self, core: &Shared, bindings: &mut Bindings, to: DestId) -> Vec<Arc<Exchange>> {
        let mut sources: Vec<Arc<Exchange>> = Vec::new();
        for binding in bindings.leading_to(to) {
            let found = sources.iter().find(|x| x.id == binding.source).cloned();
            let Some(source) = found.or_else(|| self.exchange_by_id(binding.source)) else { continue };
            self.unbind(bindings, &source, &binding, &core.arguments(binding.format, &binding.arguments));
            core.checkpoint.binding(self.id, &binding);
            if !sources.iter().any(|x| x.id == source.id) {
                sources.push(source);
            }
        }
        sources
    }

    /// An exchange goes with its bindings, both ways. Answers the exchanges that led to it.
    pub fn remove_exchange(&self, core: &Shared, bindings: &mut Bindings, exchange: &Arc<Exchange>) -> Vec<Arc<Exchange>> {
        exchange.deleted.store(true, Ordering::Release);
        self.exchanges.remove_if(&exchange.name, |_, x| x.id == exchange.id);
        for binding in bindings.of_source(exchange.id) {
            self.unbind(bindings, exchange, &binding, &core.arguments(binding.format, &binding.arguments));
            core.checkpoint.binding(self.id, &binding);
        }
        let sources = self.unbind_destination(core, bindings, DestId::Exchange(exchange.id));
        exchange.bump_all();
        sources
    }

    /// Appends where `exchange` sends a message itself, not what lies behind other exchanges.
    pub fn look_up(&self, exchange: &Exchange, key: &Key<'_>, headers: &dyn Headers, out: &mut Vec<Found>) -> bool {
        match &exchange.table {
            Table::Names => {
                let name = std::str::from_utf8(key.text()).ok();
                let queue = name.and_then(|name| self.queues.get(name).map(|q| q.clone()));
                out.extend(queue.map(|q| Found::Bound(Dest::Queue(q))));
                false
            }
            Table::Topics => {
                if let Some(name) = key.name() {
                    self.topics.matches(name, |_, target| out.push(Found::Topic(target.clone())));
                }
                false
            }
            Table::Own(router) => {
                let mut found = Vec::new();
                router.route(key, headers, &mut found);
                out.extend(found.into_iter().map(Found::Bound));
                router.reads_headers()
            }
        }
    }
}

/// What an exchange's table answers.
pub(crate) enum Found {
    Bound(Dest),
    Topic(TopicTarget),
}

fn topic_pattern<'a>(key: &'a str, words: Option<&'a [u8]>) -> Result<Pattern<'a>, Refusal> {
    Pattern::read(Syntax::Amqp, key.as_bytes(), words).map_err(|e| Refusal::Invalid { what: "binding key", why: e.to_string() })
}

impl Shared {
    pub fn header_view(&self, format: u8) -> Option<&dyn HeaderView> {
        self.config.header_views.iter().find(|(f, _)| *f == format).map(|(_, view)| &**view)
    }

    /// Encoded arguments as routing reads them.
    pub fn arguments(&self, format: u8, encoded: &[u8]) -> Arguments {
        read_arguments(&self.config.header_views, format, encoded)
    }
}

/// How each format's headers and arguments are read.
pub(crate) type Views = Vec<(u8, Arc<dyn HeaderView>)>;

pub(crate) fn read_arguments(views: &Views, format: u8, encoded: &[u8]) -> Arguments {
    let view = views.iter().find(|(f, _)| *f == format).map(|(_, view)| view);
    let Some(view) = view.filter(|_| !encoded.is_empty()) else { return Arguments::NONE };
    let mut all = Vec::new();
    view.arguments(encoded, &mut |name, value| all.push((name, value)));
    Arguments::new(all)
}

/// Those of a queue that make a difference; where nobody can read them, all of it.
pub(crate) fn compared_arguments(views: &Views, format: u8, encoded: &[u8]) -> Arguments {
    let Some((_, view)) = views.iter().find(|(known, _)| *known == format) else {
        let whole = (!encoded.is_empty()).then(|| (&b""[..], Value::Bytes(encoded.into())));
        return Arguments::new(whole);
    };
    let all = read_arguments(views, format, encoded);
    Arguments::new(all.iter().filter(|(name, value)| view.compares(name, value)).map(|(name, value)| (name, value.clone())))
}
