//! `x-delayed-message` (RabbitMQ's plug-in type): another type's table, and the promise that the core holds back what has a delay.
//!
//! What is routed here was due: holding back is done before, by whoever walks over exchanges (`crate::route`).

use super::{by_name, check, Arguments, BadArguments, BindError, BindKey, Binding, Bound, Headers, Key, Router, Value, DELAYED};

pub struct Delayed<D>(Box<dyn Router<D>>);

/// The type whose table it has.
pub(super) fn inner(arguments: &Arguments) -> Option<&str> {
    match arguments.get(b"x-delayed-type") {
        Some(Value::Bytes(name)) => std::str::from_utf8(name).ok(),
        _ => None,
    }
}

/// The name of the header that says when a message comes again and again.
pub fn cron_header(kind: &str, arguments: &Arguments) -> Option<Box<[u8]>> {
    match arguments.get(CRON_HEADER) {
        Some(Value::Bytes(name)) if kind == DELAYED => Some(name.as_ref().into()),
        _ => None,
    }
}

const CRON_HEADER: &[u8] = b"x-cron-header";

impl<D: Clone + Send + Sync + 'static> Delayed<D> {
    /// Of what [`check_delayed`] let through.
    pub fn of(arguments: &Arguments) -> Self {
        let make = inner(arguments).filter(|name| *name != DELAYED).and_then(by_name::<D>);
        Delayed(make.map_or_else(|| Box::new(super::Direct::default()) as Box<dyn Router<D>>, |make| make(arguments)))
    }
}

pub(super) fn check_delayed(arguments: &Arguments) -> Result<(), BadArguments> {
    let missing = || BadArguments::Value("Invalid argument, 'x-delayed-type' must be an existing exchange type".to_owned());
    match arguments.get(CRON_HEADER) {
        None => {}
        Some(Value::Bytes(name)) if !name.is_empty() && name.len() <= 255 => {}
        Some(_) => return Err(BadArguments::Value("Invalid argument, 'x-cron-header' must be the name of a header".to_owned())),
    }
    // RabbitMQ's never comes back from one that is its own type.
    let name = inner(arguments).filter(|name| *name != DELAYED).ok_or_else(missing)?;
    match by_name::<()>(name) {
        Some(_) => check(name, arguments),
        None => Err(BadArguments::Type(name.to_owned())),
    }
}

impl<D: Clone + Send + Sync> Router<D> for Delayed<D> {
    fn bind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64, destination: D) -> Result<Bound, BindError> {
        self.0.bind(key, arguments, id, destination)
    }

    fn unbind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64) -> bool {
        self.0.unbind(key, arguments, id)
    }

    fn unbind_all(&self, id: u64) -> usize {
        self.0.unbind_all(id)
    }

    fn route(&self, key: &Key<'_>, headers: &dyn Headers, out: &mut Vec<D>) {
        self.0.route(key, headers, out);
    }

    fn bindings(&self) -> Vec<Binding<D>> {
        self.0.bindings()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a message is held back depends on its delay.
    fn reads_headers(&self) -> bool {
        true
    }

    fn reads_key(&self) -> bool {
        self.0.reads_key()
    }
}
