//! Headers: to destinations whose arguments match the message's headers (AMQP 0-9-1, 3.1.3.4, and RabbitMQ's x-match kinds).
//!
//! As RabbitMQ does: types are not compared, only values (a byte 1 is a long 1 is 1.0); a void argument asks only that the header
//! is present; `x-` arguments count only with `all-with-x` and `any-with-x`, `x-match` itself never; no x-match means `all`.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

pub use broker_api::Value;

use super::{BindError, BindKey, Binding, Bound, Key, Router};
use crate::routing::hamt::{Hamt, Owned};
use crate::routing::published::Published;
use crate::routing::topic::Syntax;
use crate::selector::Selector;

/// The headers of a message. Asked only by exchanges that need them, so an implementation may parse at the first question.
pub trait Headers {
    /// The first header with this name.
    fn get(&self, name: &[u8]) -> Option<Value<'_>>;

    /// A property of the message by its name in AMQP 0-9-1.
    fn property(&self, _name: &[u8]) -> Option<Value<'_>> {
        None
    }

    /// How long an exchange that delays is to hold it back; 0: not at all, or not any more.
    fn delay_ms(&self) -> u32 {
        0
    }

    /// Does this hold for the message?
    fn selects(&self, _selector: &Selector) -> bool {
        false
    }
}

pub struct NoHeaders;

impl Headers for NoHeaders {
    fn get(&self, _: &[u8]) -> Option<Value<'_>> {
        None
    }
}

/// The arguments of a binding or an exchange: sorted, so that their order tells no two bindings apart. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments(Option<Arc<[Argument]>>);

type Argument = (Box<[u8]>, Value<'static>);

impl Arguments {
    pub const NONE: Arguments = Arguments(None);

    /// Of two with one name the first counts.
    pub fn new<'a>(arguments: impl IntoIterator<Item = (&'a [u8], Value<'a>)>) -> Self {
        let mut arguments: Vec<Argument> = arguments.into_iter().map(|(name, value)| (name.into(), value.into_owned())).collect();
        arguments.sort_by(|one, two| one.0.cmp(&two.0));
        arguments.dedup_by(|later, first| later.0 == first.0);
        Arguments((!arguments.is_empty()).then(|| arguments.into()))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Value<'static>)> {
        self.0.iter().flat_map(|arguments| arguments.iter().map(|(name, value)| (&**name, value)))
    }

    pub fn get(&self, name: &[u8]) -> Option<&Value<'static>> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }
}

/// What a binding asks of the headers.
#[derive(Clone, Copy)]
struct MatchKind {
    all: bool,
    with_x: bool,
}

impl MatchKind {
    fn of(arguments: &Arguments) -> Result<Self, BindError> {
        let (all, with_x) = match arguments.get(b"x-match") {
            None => (true, false),
            Some(Value::Bytes(kind)) => match &**kind {
                b"all" => (true, false),
                b"any" => (false, false),
                b"all-with-x" => (true, true),
                b"any-with-x" => (false, true),
                other => return Err(BindError::MatchKind(String::from_utf8_lossy(other).into_owned())),
            },
            Some(_) => return Err(BindError::MatchKindType),
        };
        Ok(MatchKind { all, with_x })
    }

    fn reads(self, name: &[u8]) -> bool {
        name != b"x-match" && (self.with_x || !name.starts_with(b"x-"))
    }
}

struct Rule<D> {
    kind: MatchKind,
    arguments: Arguments,
    destination: D,
}

impl<D> Rule<D> {
    fn matches(&self, headers: &dyn Headers) -> bool {
        let mut asked = self.arguments.iter().filter(|(name, _)| self.kind.reads(name));
        let holds = |(name, wanted): (&[u8], &Value<'_>)| {
            headers.get(name).is_some_and(|value| matches!(wanted, Value::Void) || wanted.matches(&value))
        };
        if self.kind.all {
            asked.all(holds)
        } else {
            asked.any(holds)
        }
    }
}

pub struct HeadersExchange<D> {
    table: Mutex<Table<D>>,
    rules: Published<Hamt<Owned<Arc<Rule<D>>>>>,
}

/// A rule and its number.
type Numbered<D> = (u64, Arc<Rule<D>>);
/// Destination and key.
type Place = (u64, Syntax, Box<[u8]>);

/// Each binding is a rule of its own here, under a number of its own.
struct Table<D> {
    rules: BTreeMap<Place, Vec<Numbered<D>>>,
    next: u64,
    len: usize,
}

impl<D> Default for HeadersExchange<D> {
    fn default() -> Self {
        HeadersExchange { table: Mutex::new(Table { rules: BTreeMap::new(), next: 0, len: 0 }), rules: Published::default() }
    }
}

impl<D> HeadersExchange<D> {
    fn remove(&self, number: u64) {
        self.rules.change(|rules| Ok((rules.map(|rules| rules.without_id(number)).filter(|rules| !rules.is_empty()), ())))
    }
}

impl<D: Clone + Send + Sync> Router<D> for HeadersExchange<D> {
    fn bind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64, destination: D) -> Result<Bound, BindError> {
        let kind = MatchKind::of(arguments)?;
        let mut table = self.table.lock();
        let number = table.next;
        let same_key = table.rules.entry((id, key.syntax, key.text.into())).or_default();
        if same_key.iter().any(|(_, rule)| rule.arguments == *arguments) {
            return Ok(Bound::Existing);
        }
        let rule = Arc::new(Rule { kind, arguments: arguments.clone(), destination });
        same_key.push((number, rule.clone()));
        (table.next, table.len) = (table.next + 1, table.len + 1);
        let rule = Owned { id: number, value: rule };
        self.rules.change(|rules| Ok((Some(rules.unwrap_or(&Hamt::default()).with(rule)), ())));
        Ok(Bound::New)
    }

    fn unbind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64) -> bool {
        let mut table = self.table.lock();
        let place = (id, key.syntax, key.text.into());
        let Some(same_key) = table.rules.get_mut(&place) else { return false };
        let Some(position) = same_key.iter().position(|(_, rule)| rule.arguments == *arguments) else { return false };
        let (number, _) = same_key.remove(position);
        if same_key.is_empty() {
            table.rules.remove(&place);
        }
        table.len -= 1;
        self.remove(number);
        true
    }

    fn unbind_all(&self, id: u64) -> usize {
        let mut table = self.table.lock();
        let from = (id, Syntax::Mqtt, Box::default());
        let places: Vec<_> = table.rules.range(from..).map(|(place, _)| place).take_while(|place| place.0 == id).cloned().collect();
        let rules: Vec<_> = places.iter().filter_map(|place| table.rules.remove(place)).flatten().collect();
        rules.iter().for_each(|(number, _)| self.remove(*number));
        table.len -= rules.len();
        rules.len()
    }

    fn route(&self, _: &Key<'_>, headers: &dyn Headers, out: &mut Vec<D>) {
        if let Some(rules) = &*self.rules.load() {
            rules.for_each(&mut |rule| {
                if rule.value.matches(headers) {
                    out.push(rule.value.destination.clone());
                }
            });
        }
    }

    fn bindings(&self) -> Vec<Binding<D>> {
        let table = self.table.lock();
        let rules = table.rules.iter().flat_map(|(place, rules)| rules.iter().map(move |(_, rule)| (place, rule)));
        let binding = |((id, syntax, key), rule): (&Place, &Arc<Rule<D>>)| Binding {
            syntax: *syntax,
            key: key.clone(),
            arguments: rule.arguments.clone(),
            id: *id,
            destination: rule.destination.clone(),
        };
        rules.map(binding).collect()
    }

    fn len(&self) -> usize {
        self.table.lock().len
    }

    fn reads_headers(&self) -> bool {
        true
    }

    fn reads_key(&self) -> bool {
        false
    }
}
