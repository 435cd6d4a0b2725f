//! `carrick ha status`: each node asked, and what follows from all answers.

use super::client::Client;
use admin::ha::Pair;
use serde_json::json;
use std::fmt::Write;

/// One URL, and what it answered.
pub struct Seen {
    url: String,
    answer: Result<Pair, String>,
}

pub fn ask(clients: &[Client]) -> Vec<Seen> {
    let ask = |client: &Client| Seen { url: client.url.clone(), answer: client.get("/api/ha").map_err(|error| format!("{error:#}")) };
    // All at once: a node that is gone must not keep the answer of the other one.
    std::thread::scope(|scope| {
        let asked: Vec<_> = clients.iter().map(|client| scope.spawn(|| ask(client))).collect();
        asked.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    Well,
    /// Somebody is missing, out of sync, or on the way.
    Unwell,
    /// Nobody answered.
    Unknown,
}

pub fn judge(seen: &[Seen]) -> Health {
    let pairs: Vec<&Pair> = seen.iter().filter_map(|seen| seen.answer.as_ref().ok()).collect();
    if pairs.is_empty() {
        return Health::Unknown;
    }
    let settled = |pair: &&Pair| match pair.role.as_str() {
        "alone" => true,
        "primary" | "standby" => pair.in_sync.len() > 1,
        _ => false,
    };
    // Of two that both say so, one has not yet heard the news.
    let primaries = pairs.iter().filter(|pair| pair.role == "primary").count();
    match pairs.len() == seen.len() && pairs.iter().all(settled) && primaries <= 1 {
        true => Health::Well,
        false => Health::Unwell,
    }
}

pub fn as_json(seen: &[Seen]) -> String {
    let one = |seen: &Seen| match &seen.answer {
        Ok(pair) => json!({ "url": seen.url, "ha": pair }),
        Err(error) => json!({ "url": seen.url, "error": error }),
    };
    let text = serde_json::to_string_pretty(&seen.iter().map(one).collect::<Vec<_>>()).unwrap_or_default();
    text + "\n"
}

pub fn as_text(seen: &[Seen]) -> String {
    let mut text = String::new();
    for seen in seen {
        match &seen.answer {
            Ok(pair) => node(&mut text, &seen.url, pair),
            Err(error) => drop(writeln!(text, "{}\n  {error}", seen.url)),
        }
    }
    text
}

fn node(text: &mut String, url: &str, pair: &Pair) {
    let name = pair.node.as_ref().map_or(String::new(), |name| format!("{name} is "));
    let epoch = pair.epoch.map_or(String::new(), |epoch| format!(", epoch {epoch}"));
    let _ = writeln!(text, "{url}\n  {name}{}{epoch}", pair.role);
    if let Some(primary) = pair.primary.as_ref().filter(|primary| Some(*primary) != pair.node.as_ref()) {
        let _ = writeln!(text, "  primary   {primary}");
    }
    if !pair.in_sync.is_empty() {
        let _ = writeln!(text, "  in sync   {}", pair.in_sync.join(", "));
    }
    if let Some(log) = &pair.log {
        let done = if pair.role == "primary" { "committed" } else { "redone" };
        let _ = writeln!(text, "  log       {} bytes, {done} {}", log.end, log.done);
    }
    for standby in &pair.standbys {
        let place = if standby.in_sync { "in sync" } else { "catching up" };
        let _ = writeln!(text, "  standby   {}: {place}, {} bytes behind", standby.node, standby.lag_bytes);
    }
    for member in pair.members.iter().filter(|member| !member.clients.is_empty()) {
        let _ = writeln!(text, "  clients   {}: {}", member.node, member.clients.join(" "));
    }
    if let Some(coordinator) = &pair.coordinator {
        let _ = writeln!(text, "  {coordinator}");
    }
    if let Some(digests) = &pair.digests {
        let last = digests.last.as_ref().map_or(String::new(), |last| format!("; the last: {last}"));
        let _ = writeln!(text, "  digests   {} compared with the primary's, {} stores differed{last}", digests.compared, digests.differed);
    }
    if let Some(says) = &pair.says {
        let _ = writeln!(text, "  says      {says}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin::ha::{Log, Standby};

    fn seen(role: &str, in_sync: &[&str]) -> Seen {
        let in_sync = in_sync.iter().map(ToString::to_string).collect();
        let pair = Pair { role: role.into(), node: Some("a".into()), epoch: Some(3), in_sync, ..Pair::default() };
        Seen { url: "http://x:1".into(), answer: Ok(pair) }
    }

    #[test]
    fn well_is_both_in_sync_and_one_primary() {
        let gone = || Seen { url: "http://y:1".into(), answer: Err("does not answer".into()) };
        let both = ["a", "b"];
        for (all, expected) in [
            (vec![seen("alone", &[])], Health::Well),
            (vec![seen("primary", &both), seen("standby", &both)], Health::Well),
            (vec![seen("primary", &both), seen("primary", &both)], Health::Unwell),
            (vec![seen("primary", &["a"])], Health::Unwell),
            (vec![seen("primary", &both), seen("joining", &both)], Health::Unwell),
            (vec![seen("primary", &both), gone()], Health::Unwell),
            (vec![gone()], Health::Unknown),
        ] {
            assert_eq!(judge(&all), expected, "{}", as_text(&all));
        }
    }

    #[test]
    fn what_a_person_reads() {
        let mut primary = seen("primary", &["a", "b"]);
        if let Ok(pair) = &mut primary.answer {
            pair.log = Some(Log { end: 900, done: 800 });
            pair.standbys = vec![Standby { node: "b".into(), in_sync: true, synced: 850, redone: 800, lag_bytes: 50 }];
        }
        let text = as_text(&[primary]);
        for part in ["a is primary, epoch 3", "in sync   a, b", "log       900 bytes, committed 800", "b: in sync, 50 bytes behind"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
