//! The stack machine. NULL and "unknown" are one value.

use super::{Op, Selector};
use broker_api::Value;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::cmp::Ordering;

#[derive(Clone, PartialEq, Debug)]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
}

impl<'a> Val<'a> {
    /// What is no text, number or truth value is as if it were not there.
    pub fn of(value: Value<'a>) -> Val<'a> {
        match value {
            Value::Bool(value) => Val::Bool(value),
            Value::Int(value) => Val::Int(value),
            Value::Uint(value) | Value::Timestamp(value) => i64::try_from(value).map_or(Val::Float(value as f64), Val::Int),
            Value::Float(value) => Val::Float(value),
            Value::Bytes(Cow::Borrowed(bytes)) => std::str::from_utf8(bytes).map_or(Val::Null, |text| Val::Text(Cow::Borrowed(text))),
            Value::Bytes(Cow::Owned(bytes)) => String::from_utf8(bytes).map_or(Val::Null, |text| Val::Text(Cow::Owned(text))),
            Value::Void | Value::Encoded(_) => Val::Null,
        }
    }

    /// As a condition; `None`: unknown. What is there and no truth value is false.
    fn truth(&self) -> Option<bool> {
        match self {
            Val::Null => None,
            Val::Bool(value) => Some(*value),
            _ => Some(false),
        }
    }

    /// As a number, if it is one or `converts` to one.
    fn number(&self, converts: bool) -> Option<Val<'static>> {
        match self {
            Val::Int(value) => Some(Val::Int(*value)),
            Val::Float(value) => Some(Val::Float(*value)),
            Val::Text(text) if converts => {
                let text = text.trim();
                text.parse().map(Val::Int).or_else(|_| text.parse().map(Val::Float)).ok()
            }
            _ => None,
        }
    }
}

fn known(truth: Option<bool>) -> Val<'static> {
    truth.map_or(Val::Null, Val::Bool)
}

fn as_float(number: &Val<'_>) -> f64 {
    match number {
        Val::Int(value) => *value as f64,
        Val::Float(value) => *value,
        _ => f64::NAN,
    }
}

/// A whole number and a floating point one are compared as what they are: 2^53 + 1 is not 2^53.
fn int_to_float(int: i64, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // -2^63 and 2^63 are floats.
    if float >= 9_223_372_036_854_775_808.0 {
        return Some(Ordering::Less);
    }
    if float < -9_223_372_036_854_775_808.0 {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    Some(int.cmp(&(whole as i64)).then_with(|| 0.0_f64.partial_cmp(&(float - whole)).unwrap_or(Ordering::Equal)))
}

fn numeric(one: &Val<'_>, two: &Val<'_>) -> Option<Ordering> {
    match (one, two) {
        (Val::Int(one), Val::Int(two)) => Some(one.cmp(two)),
        (Val::Int(int), Val::Float(float)) => int_to_float(*int, *float),
        (Val::Float(float), Val::Int(int)) => int_to_float(*int, *float).map(Ordering::reverse),
        _ => as_float(one).partial_cmp(&as_float(two)),
    }
}

impl Selector {
    /// With the values of [`Selector::names`], in their order.
    pub fn evaluate<'v>(&'v self, values: &[Val<'v>]) -> Val<'v> {
        let mut stack: SmallVec<[Val<'v>; 8]> = SmallVec::new();
        for op in &self.program {
            let mut pop = || stack.pop().unwrap_or(Val::Null);
            let result = match op {
                Op::Null => Val::Null,
                Op::Bool(value) => Val::Bool(*value),
                Op::Int(value) => Val::Int(*value),
                Op::Float(value) => Val::Float(*value),
                Op::Text(text) => Val::Text(Cow::Borrowed(text)),
                Op::Name(at) => values.get(usize::from(*at)).cloned().unwrap_or(Val::Null),
                Op::Not => known(pop().truth().map(|truth| !truth)),
                Op::IsNull => Val::Bool(pop() == Val::Null),
                Op::In(list) => match pop() {
                    Val::Null => Val::Null,
                    Val::Text(text) => Val::Bool(list.iter().any(|item| **item == *text)),
                    _ => Val::Bool(false),
                },
                Op::Like(like) => match pop() {
                    Val::Null => Val::Null,
                    Val::Text(text) => Val::Bool(like.matches(&text)),
                    _ => Val::Bool(false),
                },
                Op::Negate => match pop().number(self.converts) {
                    Some(Val::Int(value)) => value.checked_neg().map_or(Val::Float(-(value as f64)), Val::Int),
                    Some(Val::Float(value)) => Val::Float(-value),
                    _ => Val::Null,
                },
                Op::Between => {
                    let (high, low, value) = (pop(), pop(), pop());
                    and(&self.compare(&Op::GreaterEqual, &value, &low), &self.compare(&Op::LessEqual, &value, &high))
                }
                binary => {
                    let (two, one) = (pop(), pop());
                    match binary {
                        Op::And => and(&one, &two),
                        Op::Or => or(&one, &two),
                        Op::Add | Op::Subtract | Op::Multiply | Op::Divide | Op::Remainder => self.calculate(binary, &one, &two),
                        _ => self.compare(binary, &one, &two),
                    }
                }
            };
            stack.push(result);
        }
        stack.pop().unwrap_or(Val::Null)
    }

    fn compare(&self, op: &Op, one: &Val<'_>, two: &Val<'_>) -> Val<'static> {
        let equality = |same: bool| match op {
            Op::Equal => same,
            Op::Unequal => !same,
            // JMS 2.0, 3.8.1.1: texts and truth values are equal or not; there is no order among them.
            _ => false,
        };
        Val::Bool(match (one, two) {
            (Val::Null, _) | (_, Val::Null) => return Val::Null,
            (Val::Text(one), Val::Text(two)) => equality(one == two),
            (Val::Bool(one), Val::Bool(two)) => equality(one == two),
            _ => match (one.number(self.converts), two.number(self.converts)) {
                (Some(one), Some(two)) => holds(op, numeric(&one, &two)),
                _ => false,
            },
        })
    }

    fn calculate(&self, op: &Op, one: &Val<'_>, two: &Val<'_>) -> Val<'static> {
        let (Some(one), Some(two)) = (one.number(self.converts), two.number(self.converts)) else { return Val::Null };
        if let (Val::Int(one), Val::Int(two)) = (&one, &two) {
            if *two == 0 && matches!(op, Op::Divide | Op::Remainder) {
                return Val::Null;
            }
            let whole = match op {
                Op::Add => one.checked_add(*two),
                Op::Subtract => one.checked_sub(*two),
                Op::Multiply => one.checked_mul(*two),
                Op::Divide => one.checked_div(*two),
                _ => one.checked_rem(*two),
            };
            if let Some(whole) = whole {
                return Val::Int(whole);
            }
        }
        let (one, two) = (as_float(&one), as_float(&two));
        Val::Float(match op {
            Op::Add => one + two,
            Op::Subtract => one - two,
            Op::Multiply => one * two,
            Op::Divide => one / two,
            _ => one % two,
        })
    }
}

fn holds(op: &Op, order: Option<Ordering>) -> bool {
    match op {
        Op::Equal => order == Some(Ordering::Equal),
        Op::Unequal => order != Some(Ordering::Equal),
        Op::Less => order == Some(Ordering::Less),
        Op::LessEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Op::Greater => order == Some(Ordering::Greater),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

/// JMS 2.0, table 3-4.
fn and(one: &Val<'_>, two: &Val<'_>) -> Val<'static> {
    known(match (one.truth(), two.truth()) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    })
}

/// JMS 2.0, table 3-5.
fn or(one: &Val<'_>, two: &Val<'_>) -> Val<'static> {
    known(match (one.truth(), two.truth()) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    })
}
