//! Conversations over STOMP, had with RabbitMQ's plug-in or with ActiveMQ, and with Carrick in that dialect, and compared
//! (`cargo xtask differential-stomp`).
//!
//! The conversations are the transcripts of `crates/stomp`. What stands behind a step, indented, says how many frames to wait for.
//! `allowed-stomp-rabbitmq.txt` and `allowed-stomp-activemq.txt` list the differences that we want, each with its reason.

#[path = "../allowed.rs"]
mod allowed;
mod frame;
mod scene;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{bail, Context, Result};

use crate::allowed::Allowed;
use crate::scene::{Door, Said, Scene};

/// Virtual hosts, one for each conversation at a time.
const VHOSTS: [&str; 6] = ["w1", "w2", "w3", "w4", "w5", "w6"];
/// Conversations that may differ once and not the second time: two brokers on a busy machine do not always win the same races.
const UNSTABLE_MAX: usize = 3;

/// With whom, and which transcripts.
struct Original {
    name: &'static str,
    transcripts: &'static [&'static str],
    allowed: &'static str,
}

const ORIGINALS: [Original; 2] = [
    Original { name: "rabbitmq", transcripts: &["golden.txt", "flows.txt"], allowed: "allowed-stomp-rabbitmq.txt" },
    Original { name: "activemq", transcripts: &["activemq.txt"], allowed: "allowed-stomp-activemq.txt" },
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("stomp-differential: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn port(name: &str) -> Result<u16> {
    std::env::var(name).with_context(|| format!("{name} must say the broker's port"))?.parse().with_context(|| format!("{name} is no port"))
}

fn run() -> Result<bool> {
    let mut only = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => only.push(args.next().context("--only WORDS OF A TITLE")?),
            other => bail!("unknown option {other}; there is --only WORDS"),
        }
    }
    let (mut good, mut compared) = (true, 0);
    for original in &ORIGINALS {
        let upper = original.name.to_uppercase();
        let theirs = Door { port: port(&format!("DIFFERENTIAL_{upper}_PORT"))?, activemq: original.name == "activemq" };
        let ours = Door { port: port(&format!("DIFFERENTIAL_CARRICK_{upper}_PORT"))?, ..theirs };
        let (held, count) = compare(original, theirs, ours, &only)?;
        good &= held;
        compared += count;
    }
    Ok(good && compared > 0)
}

fn compare(original: &Original, theirs: Door, ours: Door, only: &[String]) -> Result<(bool, usize)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut allowed = Allowed::read(&here.join(original.allowed))?;
    let mut scenes = Vec::new();
    for file in original.transcripts {
        scenes.extend(Scene::read(&here.join("../../crates/stomp/tests/it/transcripts").join(file))?);
    }
    scenes.retain(|scene| only.is_empty() || only.iter().any(|words| scene.title.contains(words.as_str())));
    let name = original.name;
    scenes.retain(|scene| {
        let skipped = allowed.skips(&scene.title);
        if skipped {
            println!("ok - {name}: {} # not compared, see {}", scene.title, original.allowed);
        }
        !skipped
    });
    let (mut wrong, mut once) = (Vec::new(), Vec::new());
    for (n, both) in all(&scenes, theirs, ours) {
        let scene = &scenes[n];
        let (left, right) = both.with_context(|| scene.title.clone())?;
        let mut differs = differences(name, scene, &left, &right, &mut allowed);
        if differs.is_some() {
            // What a busy machine or a race in one of the brokers did is not there again.
            let (left, right) = play(scene, VHOSTS[0], theirs, ours).with_context(|| scene.title.clone())?;
            let still = differences(name, scene, &left, &right, &mut allowed);
            once.extend(differs.filter(|_| still.is_none()));
            differs = still;
        }
        println!("{}ok - {name}: {}", if differs.is_some() { "not " } else { "" }, scene.title);
        wrong.extend(differs);
    }
    println!("# {name}: {} conversations compared, {} differences allowed", scenes.len(), allowed.used());
    // A reason that explains nothing any more is out of date.
    if only.is_empty() {
        for unused in allowed.unused() {
            println!("not ok - {}:{unused}: nothing differs there any more", original.allowed);
            wrong.push(format!("# {}:{unused}", original.allowed));
        }
    }
    once.iter().for_each(|text| println!("# differed once, and not when it was had again\n{text}"));
    if once.len() > UNSTABLE_MAX {
        println!("not ok - {} conversations differed once; {UNSTABLE_MAX} at most may", once.len());
    }
    wrong.iter().for_each(|wrong| println!("{wrong}"));
    Ok((wrong.is_empty() && once.len() <= UNSTABLE_MAX, scenes.len()))
}

/// What the two brokers said, the original first.
type Both = Result<(Vec<Said>, Vec<Said>)>;

fn play(scene: &Scene, vhost: &str, theirs: Door, ours: Door) -> Both {
    let left = scene.play(theirs, vhost).context("the original")?;
    Ok((left, scene.play(ours, vhost).context("carrick")?))
}

fn all(scenes: &[Scene], theirs: Door, ours: Door) -> BTreeMap<usize, Both> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for vhost in VHOSTS {
            let (next, found) = (&next, &found);
            scope.spawn(move || loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(scene) = scenes.get(n) else { return };
                let both = play(scene, vhost, theirs, ours);
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(n, both);
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What differs, in words.
fn differences(name: &str, scene: &Scene, theirs: &[Said], ours: &[Said], allowed: &mut Allowed) -> Option<String> {
    let mut wrong = Vec::new();
    for (step, (left, right)) in scene.steps.iter().zip(theirs.iter().zip(ours)) {
        for (connection, their, our) in scene::pairs(left, right) {
            if their != our && !allowed.allows(&scene.title, &their, &our) {
                wrong.push(format!(
                    "# {}\n#   connection {connection}, {name}: {their}\n#   connection {connection}, carrick:  {our}",
                    step.text
                ));
            }
        }
    }
    (!wrong.is_empty()).then(|| format!("# {}:\n{}", scene.title, wrong.join("\n")))
}
