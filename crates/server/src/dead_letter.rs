//! `[dead_letter]`: where messages go that nobody could deal with, unless their queue says otherwise.
//!
//! It is a policy of the lowest priority, in each virtual host, and a queue: so it holds for queues of every protocol, those too that are there already, an
//! operator sees it where policies are listed, and any other policy takes its place.

use crate::config::file;
use crate::definitions::Definitions;
use anyhow::{Context, Result};
use broker::{ApplyTo, Core, Policy, PolicyKind, PolicyValue};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

const NAME: &str = "dead_letter.default";
const PATIENCE: Duration = Duration::from_secs(60);

/// What the settings ask for, beside what definitions say; what an earlier run asked for and this one does not is taken back.
pub fn prepare(settings: &file::DeadLetter, core: &Core, definitions: &mut Definitions) -> Result<()> {
    let policy = policy(settings);
    for vhost in core.vhosts() {
        match (&policy, &settings.default) {
            (Some(policy), Some(queue)) => definitions.add_default(vhost.as_str(), &queue.0, policy.clone()),
            (Some(policy), None) => definitions.add_policy(vhost.as_str(), policy.clone()),
            (None, _) => {
                let (tell, committed) = mpsc::channel();
                let done = Box::new(move || {
                    let _ = tell.send(());
                });
                if core.clear_policy(vhost.as_str(), PolicyKind::User, NAME, done).is_ok() {
                    committed.recv_timeout(PATIENCE).context("the log does not take the policies")?;
                }
            }
        }
    }
    Ok(())
}

fn policy(settings: &file::DeadLetter) -> Option<Policy> {
    let mut definition = BTreeMap::new();
    if let Some(queue) = &settings.default {
        definition.insert("dead-letter-exchange".to_owned(), PolicyValue::Text(String::new()));
        definition.insert("dead-letter-routing-key".to_owned(), PolicyValue::Text(queue.0.clone()));
    }
    let numbers = [
        ("redelivery-limit", settings.redelivery_limit.map(|limit| limit.0)),
        ("redelivery-delay", settings.redelivery_delay_ms.map(|ms| ms.0)),
        ("redelivery-delay-multiplier", settings.redelivery_delay_multiplier.map(|times| times.0)),
        ("redelivery-delay-max", settings.redelivery_delay_max_ms.map(|ms| ms.0)),
    ];
    let given = numbers.into_iter().filter_map(|(key, number)| Some((key.to_owned(), PolicyValue::Int(number? as i64))));
    definition.extend(given);
    let all = Policy { name: NAME.to_owned(), pattern: ".*".to_owned(), apply_to: ApplyTo::Queues, priority: i32::MIN, definition };
    (!all.definition.is_empty()).then_some(all)
}
