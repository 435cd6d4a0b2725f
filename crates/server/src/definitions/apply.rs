//! Making what the definitions say: after the store is open and before anybody can connect.

use super::{Definitions, Placed};
use anyhow::{bail, Context, Result};
use broker::Core;
use broker_api::{Control, CoreSession, Declare, Event, EventBatch, OwnerIx, Refusal, Token, Turn, VhostName};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Nothing happens for so long only if something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// Commands that wait for their answers at a time.
const AT_ONCE: usize = 1024;
const OWNER: OwnerIx = OwnerIx(1);

/// Where a command came from, and whether it may find something else in its place.
struct Asked {
    path: String,
    name: String,
}

/// Makes what is not there yet. Answers what an operator should hear: what could not be made, or is there in another form.
pub fn apply(definitions: Definitions, core: &Core) -> Result<Vec<String>> {
    let Definitions { policies, exchanges, queues, bindings, .. } = definitions;
    let mut notes = Vec::new();
    // First, so that queues are made under them.
    set_policies(core, policies, &mut notes)?;
    let mut commands: BTreeMap<String, Vec<(Asked, Control)>> = BTreeMap::new();
    for Placed { path, vhost, what: (name, spec) } in exchanges {
        let asked = Asked { path, name: format!("exchange '{name}'") };
        let declare = Control::Declare(Declare::Exchange { owner: OWNER, name, spec, passive: false });
        commands.entry(vhost).or_default().push((asked, declare));
    }
    for Placed { path, vhost, what: (name, spec) } in queues {
        let asked = Asked { path, name: format!("queue '{name}'") };
        let declare = Control::Declare(Declare::Queue { owner: OWNER, name, spec, passive: false });
        commands.entry(vhost).or_default().push((asked, declare));
    }
    for Placed { path, vhost, what } in bindings {
        let asked = Asked { path, name: "binding".to_owned() };
        commands.entry(vhost).or_default().push((asked, Control::Bind(what)));
    }
    for (vhost, commands) in commands {
        match core.trusted(&VhostName::new(&vhost)) {
            Ok(session) => ask_all(session, &vhost, commands, &mut notes).with_context(|| format!("in virtual host '{vhost}'"))?,
            Err(_) => notes.push(format!("vhosts: there is no virtual host '{vhost}'; {} objects of it are not made", commands.len())),
        }
    }
    Ok(notes)
}

fn set_policies(core: &Core, policies: Vec<Placed<(broker::PolicyKind, broker::Policy)>>, notes: &mut Vec<String>) -> Result<()> {
    let (tell, committed) = mpsc::channel();
    let mut waiting = 0;
    for Placed { path, vhost, what: (kind, policy) } in policies {
        let tell = tell.clone();
        let done = Box::new(move || {
            let _ = tell.send(());
        });
        match core.set_policy(&vhost, kind, policy, done) {
            Ok(_) => waiting += 1,
            Err(why) => notes.push(format!("{path}: not set: {why}")),
        }
    }
    for _ in 0..waiting {
        committed.recv_timeout(PATIENCE).context("the log does not take the policies")?;
    }
    Ok(())
}

fn ask_all(mut session: Box<dyn CoreSession>, vhost: &str, commands: Vec<(Asked, Control)>, notes: &mut Vec<String>) -> Result<()> {
    let mut turn = Turn::default();
    turn.control(Token(0), Control::Owner { owner: OWNER, fail_stop: false, channel: 0 });
    session.submit(&mut turn);
    let mut waiting = BTreeMap::from([(0, None)]);
    let mut commands = (1..).zip(commands);
    loop {
        for (token, (asked, control)) in commands.by_ref().take(AT_ONCE) {
            waiting.insert(token, Some(asked));
            turn.control(Token(token), control);
        }
        session.submit(&mut turn);
        turn.clear();
        if waiting.is_empty() {
            return Ok(());
        }
        answers(&mut *session, vhost, &mut waiting, notes)?;
    }
}

/// Until everything is answered.
fn answers(session: &mut dyn CoreSession, vhost: &str, waiting: &mut BTreeMap<u32, Option<Asked>>, notes: &mut Vec<String>) -> Result<()> {
    let mut batch = EventBatch::default();
    let mut heard = Instant::now();
    while !waiting.is_empty() {
        session.swap(&mut batch);
        let nothing = batch.events.is_empty();
        for event in batch.events.drain(..) {
            let Event::Reply(token, result) = event else { continue };
            heard = Instant::now();
            if let (Some(Some(asked)), Err(why)) = (waiting.remove(&token.0), *result) {
                notes.extend(complaint(&asked, vhost, &why));
            }
        }
        batch.clear();
        if heard.elapsed() > PATIENCE {
            bail!("{} commands were not answered", waiting.len());
        }
        if nothing && !session.saturated() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// What is there already stays as it is, as in RabbitMQ.
fn complaint(asked: &Asked, vhost: &str, why: &Refusal) -> Option<String> {
    let Asked { path, name } = asked;
    Some(match why {
        Refusal::Inequivalent(how) => {
            format!("{path}: {name} in vhost '{vhost}' is there, different in its {}; it stays as it is", how.property)
        }
        why => format!("{path}: {name} in vhost '{vhost}' is not made: {why}"),
    })
}
