//! One destination per message: `x-consistent-hash`, `x-modulus-hash` and `x-random` (RabbitMQ's plug-in types).
//!
//! Consistent hashing is by highest random weight: each binding draws a number from the message's hash and its own, scaled by its
//! weight, and the highest draw wins. So a binding that comes or goes moves only the messages that it wins or won, the shares follow
//! the weights exactly, and a restart changes nothing.

use super::table::Table;
use super::{Arguments, BindError, BindKey, Binding, Bound, Headers, Key, Router, Value};
use crate::routing::published::Published;
use std::sync::atomic::{AtomicU64, Ordering};

/// How the destination is found.
enum Choice {
    Consistent(Subject),
    Modulus,
    Random(AtomicU64),
}

/// What of a message is hashed.
enum Subject {
    Key,
    Header(Box<[u8]>),
    Property(Box<[u8]>),
}

pub struct Hashed<D> {
    choice: Choice,
    table: Table<D>,
    /// By destination and key.
    candidates: Published<Vec<Candidate<D>>>,
}

#[derive(Clone)]
struct Candidate<D> {
    id: u64,
    key: Box<[u8]>,
    hash: u64,
    weight: f64,
    destination: D,
}

/// The properties that `hash-property` may name.
const PROPERTIES: [&[u8]; 3] = [b"correlation_id", b"message_id", b"timestamp"];

impl<D> Hashed<D> {
    fn new(choice: Choice) -> Self {
        Hashed { choice, table: Table::default(), candidates: Published::default() }
    }

    pub fn consistent(arguments: &Arguments) -> Self {
        let named = |name: &[u8]| match arguments.get(name) {
            Some(Value::Bytes(value)) => Some(Box::from(&**value)),
            _ => None,
        };
        let header = named(b"hash-header").map(Subject::Header);
        let subject = header.or_else(|| named(b"hash-property").map(Subject::Property)).unwrap_or(Subject::Key);
        Self::new(Choice::Consistent(subject))
    }

    pub fn modulus() -> Self {
        Self::new(Choice::Modulus)
    }

    pub fn random() -> Self {
        Self::new(Choice::Random(AtomicU64::new(0)))
    }

    fn weight(&self, key: &[u8]) -> Result<f64, BindError> {
        let Choice::Consistent(_) = self.choice else { return Ok(1.0) };
        let text = || String::from_utf8_lossy(key).into_owned();
        let weight: i64 = std::str::from_utf8(key).ok().and_then(|key| key.parse().ok()).ok_or_else(|| BindError::Weight(text()))?;
        match weight {
            1.. => Ok(weight as f64),
            _ => Err(BindError::WeightTooSmall),
        }
    }
}

impl<D: Clone> Hashed<D> {
    fn add(&self, id: u64, key: &[u8], weight: f64, destination: D) {
        let hash = mix(hash_of(key) ^ mix(id));
        self.candidates.change(|all| {
            let mut all = all.cloned().unwrap_or_default();
            let place = all.partition_point(|c| (c.id, &*c.key) < (id, key));
            all.insert(place, Candidate { id, key: key.into(), hash, weight, destination });
            Ok((Some(all), ()))
        });
    }

    fn remove(&self, id: u64, key: &[u8]) {
        self.candidates.change(|all| {
            let mut all = all.cloned().unwrap_or_default();
            all.retain(|c| c.id != id || *c.key != *key);
            Ok(((!all.is_empty()).then_some(all), ()))
        });
    }
}

impl<D: Clone + Send + Sync> Router<D> for Hashed<D> {
    fn bind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64, destination: D) -> Result<Bound, BindError> {
        let weight = self.weight(key.text)?;
        Ok(self.table.bind(key.text, key, arguments, id, destination, |destination| self.add(id, key.text, weight, destination)))
    }

    fn unbind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64) -> bool {
        self.table.unbind(key.text, key, arguments, id, || self.remove(id, key.text))
    }

    fn unbind_all(&self, id: u64) -> usize {
        self.table.unbind_all(id, |route, _| self.remove(id, route))
    }

    fn route(&self, key: &Key<'_>, headers: &dyn Headers, out: &mut Vec<D>) {
        let candidates = self.candidates.load();
        let Some(all) = candidates.as_deref().filter(|all| !all.is_empty()) else { return };
        let chosen = match &self.choice {
            Choice::Consistent(subject) => {
                let hash = subject.hash(key, headers);
                let draws = all.iter().map(|c| (c, draw(hash ^ c.hash, c.weight)));
                draws.max_by(|one, two| one.1.total_cmp(&two.1)).map(|(c, _)| c)
            }
            Choice::Modulus => all.get((hash_of(key.text()) % all.len() as u64) as usize),
            Choice::Random(drawn) => all.get((mix(drawn.fetch_add(1, Ordering::Relaxed)) % all.len() as u64) as usize),
        };
        out.extend(chosen.map(|c| c.destination.clone()));
    }

    fn bindings(&self) -> Vec<Binding<D>> {
        self.table.list()
    }

    fn len(&self) -> usize {
        self.table.len()
    }

    /// Also a throw of the dice is not to be remembered.
    fn reads_headers(&self) -> bool {
        !matches!(self.choice, Choice::Modulus | Choice::Consistent(Subject::Key))
    }
}

impl Subject {
    /// A message without the header or property is hashed as one with an empty value.
    fn hash(&self, key: &Key<'_>, headers: &dyn Headers) -> u64 {
        match self {
            Subject::Key => hash_of(key.text()),
            Subject::Header(name) => headers.get(name).map_or(0, |value| hash_of_value(&value)),
            Subject::Property(name) => headers.property(name).map_or(0, |value| hash_of_value(&value)),
        }
    }
}

/// What is wrong with the arguments of a consistent-hash exchange, in RabbitMQ's words.
pub fn check(arguments: &Arguments) -> Result<(), String> {
    if arguments.get(b"hash-header").is_some() && arguments.get(b"hash-property").is_some() {
        return Err("hash-header and hash-property are mutually exclusive".into());
    }
    match arguments.get(b"hash-property") {
        Some(Value::Bytes(name)) if !PROPERTIES.contains(&&**name) => {
            Err(format!("Unsupported property: {}", String::from_utf8_lossy(name)))
        }
        _ => Ok(()),
    }
}

/// Uniform in (0, 1] becomes exponential with this rate, negated: the largest belongs to a candidate as often as its weight says.
fn draw(hash: u64, weight: f64) -> f64 {
    let uniform = ((mix(hash) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    uniform.ln() / weight
}

fn hash_of_value(value: &Value<'_>) -> u64 {
    match value {
        Value::Bytes(bytes) => hash_of(bytes),
        other => hash_of(format!("{other:?}").as_bytes()),
    }
}

/// FNV-1a, mixed: the same after a restart and on every machine.
fn hash_of(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)))
}

/// The finalizer of SplitMix64: neighbours go far apart.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
