//! Conversations over AMQP 0-9-1, had with two brokers and compared: codes, texts, orders, counts (`cargo xtask differential`).
//!
//! The conversations are the transcripts of `crates/amqp091`, which so are held against the original, and those in `scenes/`. What stands
//! behind a step, indented, says how many answers to wait for. `allowed.txt` lists the differences that we want, each with its reason.

mod allowed;
mod peer;
mod scene;
#[path = "../../../crates/amqp091/tests/it/words.rs"]
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{bail, Context, Result};

use crate::allowed::Allowed;
use crate::scene::{Said, Scene};

/// Conversations that may differ once and not the second time: two brokers on a busy machine do not always win the same races.
const UNSTABLE_MAX: usize = 3;

struct Options {
    only: Vec<String>,
    /// Writes what RabbitMQ says into the files of `scenes/`.
    record: bool,
}

fn options() -> Result<Options> {
    let mut options = Options { only: Vec::new(), record: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => options.only.push(args.next().context("--only WORDS OF A TITLE")?),
            "--record" => options.record = true,
            other => bail!("unknown option {other}; there are --only WORDS and --record"),
        }
    }
    Ok(options)
}

fn port(name: &str) -> Result<u16> {
    std::env::var(name).with_context(|| format!("{name} must say the broker's port"))?.parse().with_context(|| format!("{name} is no port"))
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("differential: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let options = options()?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let theirs = port("DIFFERENTIAL_RABBITMQ_PORT")?;
    let ours = port("DIFFERENTIAL_CARRICK_PORT")?;
    let vhosts =
        std::env::var("DIFFERENTIAL_VHOSTS").context("DIFFERENTIAL_VHOSTS must name virtual hosts, one for each conversation at a time")?;
    let traced = std::env::var("DIFFERENTIAL_TRACED_VHOST").context("DIFFERENTIAL_TRACED_VHOST must name one that is traced")?;
    let vhosts: Vec<&str> = vhosts.split(',').chain([&*traced]).collect();
    let mut allowed = Allowed::read(&here.join("allowed.txt"))?;
    let (mut wrong, mut once, mut compared) = (Vec::new(), Vec::new(), 0u64);
    for folder in [here.join("../../crates/amqp091/tests/it/transcripts"), here.join("scenes")] {
        for path in files(&folder)? {
            let mut scenes = Scene::read(&path)?;
            let asked = |scene: &Scene| options.only.is_empty() || options.only.iter().any(|words| scene.title.contains(words));
            let left_out: BTreeSet<String> = scenes
                .iter()
                .filter(|scene| asked(scene))
                .map(|scene| scene.title.clone())
                .filter(|title| allowed.skips(title) && !options.record)
                .collect();
            left_out.iter().for_each(|title| println!("ok - {title} # not compared, see allowed.txt"));
            let wanted = |scene: &Scene| asked(scene) && !left_out.contains(&scene.title);
            for (n, both) in all(&scenes, &wanted, &vhosts, theirs, ours) {
                let (mut left, right) = both.with_context(|| scenes[n].title.clone())?;
                compared += 1;
                let mut differs = differences(&scenes[n], &left, &right, &mut allowed);
                if differs.is_some() {
                    // What a busy machine or a race in one of the brokers did is not there again.
                    let vhost = if scenes[n].is_traced() { &*traced } else { vhosts[0] };
                    let (again, ours) = play(&scenes[n], vhost, theirs, ours).with_context(|| scenes[n].title.clone())?;
                    let still = differences(&scenes[n], &again, &ours, &mut allowed);
                    once.extend(differs.filter(|_| still.is_none()));
                    (left, differs) = (again, still);
                }
                println!("{}ok - {}", if differs.is_some() { "not " } else { "" }, scenes[n].title);
                wrong.extend(differs);
                if options.record {
                    scenes[n].record(&left);
                }
            }
            if options.record && path.starts_with(here.join("scenes")) {
                Scene::write(&path, &scenes)?;
            }
        }
    }
    println!("# {compared} conversations compared, {} differences allowed", allowed.used());
    // A reason that explains nothing any more is out of date.
    if options.only.is_empty() {
        for unused in allowed.unused() {
            println!("not ok - allowed.txt:{unused}: nothing differs there any more");
            wrong.push(format!("# allowed.txt:{unused}"));
        }
    }
    for text in &once {
        println!("# differed once, and not when it was had again\n{text}");
    }
    if once.len() > UNSTABLE_MAX {
        println!("not ok - {} conversations differed once; {UNSTABLE_MAX} at most may", once.len());
    }
    wrong.iter().for_each(|wrong| println!("{wrong}"));
    Ok(wrong.is_empty() && once.len() <= UNSTABLE_MAX && compared > 0)
}

/// What the two brokers said, RabbitMQ first.
type Both = Result<(Vec<Said>, Vec<Said>)>;

fn play(scene: &Scene, vhost: &str, theirs: u16, ours: u16) -> Both {
    let left = scene.play(theirs, vhost).context("rabbitmq")?;
    Ok((left, scene.play(ours, vhost).context("carrick")?))
}

/// Has each conversation with both, as many at a time as there are virtual hosts; the last of these is the one that is traced.
fn all(scenes: &[Scene], wanted: &(dyn Fn(&Scene) -> bool + Sync), vhosts: &[&str], theirs: u16, ours: u16) -> BTreeMap<usize, Both> {
    let (next, next_traced) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for (at, vhost) in vhosts.iter().enumerate() {
            let traces = at == vhosts.len() - 1;
            let (next, found) = (if traces { &next_traced } else { &next }, &found);
            scope.spawn(move || loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(scene) = scenes.get(n) else { return };
                if scene.is_traced() != traces || scene.cuts_power() || !wanted(scene) {
                    continue;
                }
                let both = play(scene, vhost, theirs, ours);
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(n, both);
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What differs, in words.
fn differences(scene: &Scene, theirs: &[Said], ours: &[Said], allowed: &mut Allowed) -> Option<String> {
    let mut wrong = Vec::new();
    for (step, (left, right)) in scene.steps.iter().zip(theirs.iter().zip(ours)) {
        for (name, their, our) in scene::pairs(left, right) {
            if their != our && !allowed.allows(&scene.title, &their, &our) {
                wrong
                    .push(format!("# {}\n#   connection {name}, rabbitmq: {}\n#   connection {name}, carrick:  {}", step.text, their, our));
            }
        }
    }
    (!wrong.is_empty()).then(|| format!("# {}:\n{}", scene.title, wrong.join("\n")))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    Ok(files)
}
