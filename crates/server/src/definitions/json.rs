//! Walking a JSON document with the path at hand, so that each complaint says where.

use anyhow::{anyhow, bail, Result};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// One object of the document, and which of its keys were asked for.
pub struct Object<'a> {
    path: String,
    fields: &'a Map<String, Value>,
    known: BTreeSet<&'static str>,
}

/// `null` says nothing, as in RabbitMQ's exports.
fn said(value: &Value) -> Option<&Value> {
    (!value.is_null()).then_some(value)
}

pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl<'a> Object<'a> {
    /// `path`: empty for the whole document.
    pub fn new(value: &'a Value, path: String) -> Result<Object<'a>> {
        match value {
            Value::Object(fields) => Ok(Object { path, fields, known: BTreeSet::new() }),
            other => bail!("{}: {} instead of an object", if path.is_empty() { "the document" } else { &path }, kind_of(other)),
        }
    }

    pub fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.insert(key);
        self.fields.get(key).and_then(said)
    }

    fn wrong<T>(&self, key: &str, value: &Value, right: &str) -> Result<T> {
        bail!("{}: {} instead of {right}", self.at(key), kind_of(value))
    }

    pub fn opt_text(&mut self, key: &'static str) -> Result<Option<&'a str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.wrong(key, other, "a text"),
        }
    }

    pub fn text(&mut self, key: &'static str) -> Result<&'a str> {
        self.opt_text(key)?.ok_or_else(|| anyhow!("{}: missing", self.at(key)))
    }

    pub fn flag(&mut self, key: &'static str) -> Result<bool> {
        match self.value(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => self.wrong(key, other, "true or false"),
        }
    }

    pub fn int(&mut self, key: &'static str) -> Result<i64> {
        match self.value(key) {
            None => Ok(0),
            Some(Value::Number(number)) => number.as_i64().ok_or_else(|| anyhow!("{}: {number} is no whole number", self.at(key))),
            Some(other) => self.wrong(key, other, "a number"),
        }
    }

    /// The elements of a list of objects; a key that is missing is an empty list.
    pub fn objects(&mut self, key: &'static str) -> Result<Vec<Object<'a>>> {
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                let at = self.at(key);
                list.iter().enumerate().map(|(n, value)| Object::new(value, format!("{at}[{n}]"))).collect()
            }
            Some(other) => self.wrong(key, other, "a list"),
        }
    }

    /// The pairs of an object. RabbitMQ writes some as lists of pairs, and empty ones as empty lists.
    pub fn pairs(&mut self, key: &'static str) -> Result<Vec<(&'a str, &'a Value)>> {
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(fields)) => Ok(fields.iter().map(|(key, value)| (key.as_str(), value)).collect()),
            Some(list @ Value::Array(pairs)) => {
                let pair = |pair: &'a Value| match pair.as_array().map(Vec::as_slice) {
                    Some([Value::String(key), value]) => Ok((key.as_str(), value)),
                    _ => self.wrong(key, list, "an object or a list of pairs"),
                };
                pairs.iter().map(pair).collect()
            }
            Some(other) => self.wrong(key, other, "an object"),
        }
    }

    /// The paths of what nobody asked for.
    pub fn unknown(&self) -> Vec<String> {
        self.fields.keys().filter(|key| !self.known.contains(key.as_str())).map(|key| self.at(key)).collect()
    }
}
