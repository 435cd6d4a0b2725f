//! Policies in the log: one record for each that is set or cleared, one object of a checkpoint (class 8) for all of a virtual host.

use super::records::{kind, LEVEL};
use super::wire::{Reader, Writer};
use crate::policy::{ApplyTo, Known, Policies, Policy, PolicyKind, PolicyValue};
use crate::vhost::Vhost;
use journal::Records;
use std::collections::BTreeMap;

/// Lists in lists; what is set is checked to have fewer.
const DEPTH_MAX: usize = 8;

pub(crate) fn policy_record(vhost: u32, of: PolicyKind, policy: &Policy) -> Records {
    super::one(kind::POLICY, |w| {
        w.u32(vhost);
        write_policy(w, of, policy);
    })
}

pub(crate) fn policy_gone_record(vhost: u32, of: PolicyKind, name: &str) -> Records {
    let mut records = Records::new();
    records.push(kind::POLICY_GONE, LEVEL, 0, 0, |out| {
        let mut w = Writer(out);
        w.u32(vhost);
        w.u8(of as u8);
        w.bytes(name.as_bytes());
    });
    records
}

/// All policies of a virtual host; nothing where it has none.
pub(super) fn policies_object(vhost: &Vhost) -> Option<Vec<u8>> {
    let policies = vhost.policies.read().clone();
    if policies.is_empty() {
        return None;
    }
    let mut bytes = Vec::new();
    let mut w = Writer(&mut bytes);
    w.u32(vhost.id);
    for of in [PolicyKind::User, PolicyKind::Operator] {
        for known in policies.of(of) {
            w.u8(1);
            write_policy(&mut w, of, &known.policy);
        }
    }
    w.u8(0);
    Some(bytes)
}

fn write_policy(w: &mut Writer<'_>, of: PolicyKind, policy: &Policy) {
    w.u8(of as u8);
    w.bytes(policy.name.as_bytes());
    w.bytes(policy.pattern.as_bytes());
    w.bytes(policy.apply_to.as_str().as_bytes());
    w.u32(policy.priority as u32);
    w.u32(policy.definition.len() as u32);
    for (key, value) in &policy.definition {
        w.bytes(key.as_bytes());
        write_value(w, value);
    }
}

fn write_value(w: &mut Writer<'_>, value: &PolicyValue) {
    match value {
        PolicyValue::Int(number) => {
            w.u8(0);
            w.u64(*number as u64);
        }
        PolicyValue::Bool(value) => {
            w.u8(1);
            w.u8(u8::from(*value));
        }
        PolicyValue::Text(text) => {
            w.u8(2);
            w.bytes(text.as_bytes());
        }
        PolicyValue::List(list) => {
            w.u8(3);
            w.u32(list.len() as u32);
            list.iter().for_each(|value| write_value(w, value));
        }
    }
}

fn read_kind(r: &mut Reader<'_>) -> Option<PolicyKind> {
    Some(match r.u8()? {
        0 => PolicyKind::User,
        1 => PolicyKind::Operator,
        _ => return None,
    })
}

fn read_policy(r: &mut Reader<'_>) -> Option<(PolicyKind, Policy)> {
    let of = read_kind(r)?;
    let (name, pattern) = (r.text()?.to_owned(), r.text()?.to_owned());
    let apply_to = ApplyTo::parse(r.text()?)?;
    let priority = r.u32()? as i32;
    let mut definition = BTreeMap::new();
    for _ in 0..r.u32()? {
        definition.insert(r.text()?.to_owned(), read_value(r, 0)?);
    }
    Some((of, Policy { name, pattern, apply_to, priority, definition }))
}

fn read_value(r: &mut Reader<'_>, depth: usize) -> Option<PolicyValue> {
    Some(match r.u8()? {
        0 => PolicyValue::Int(r.u64()? as i64),
        1 => PolicyValue::Bool(r.u8()? != 0),
        2 => PolicyValue::Text(r.text()?.to_owned()),
        3 if depth < DEPTH_MAX => PolicyValue::List((0..r.u32()?).map(|_| read_value(r, depth + 1)).collect::<Option<_>>()?),
        _ => return None,
    })
}

/// What a virtual host's policies become by the log.
pub(super) fn set(vhost: &Vhost, r: &mut Reader<'_>) -> Option<()> {
    let (of, policy) = read_policy(r)?;
    let mut policies = vhost.policies.write();
    let name = policy.name.clone();
    match Known::check(of, policy) {
        Ok(known) => Policies::set(std::sync::Arc::make_mut(&mut policies), of, known),
        Err(why) => tracing::error!(policy = name, why, "a policy is not understood by this version; it is left out"),
    }
    Some(())
}

pub(super) fn clear(vhost: &Vhost, r: &mut Reader<'_>) -> Option<()> {
    let (of, name) = (read_kind(r)?, r.text()?);
    std::sync::Arc::make_mut(&mut vhost.policies.write()).clear(of, name);
    Some(())
}

/// One of the records or objects of a virtual host that is not there is passed over, but read.
pub(super) fn skip(r: &mut Reader<'_>) -> Option<()> {
    read_policy(r).map(drop)
}
