//! The pair from outside (`cargo xtask test --only failover`): real processes on machines of their own (network namespaces), clients that
//! write down what they were told, something terrible, and a checker that knows nothing else.

mod bench;
mod checker;
mod house;
mod ledger;
mod mqtt;
mod net;
mod node;
mod pair;
mod program;
mod publisher;
mod scenarios;
mod shim;
mod world;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{bail, Context, Result};

use crate::bench::Bench;

type Rig = fn(&Bench) -> Result<()>;

struct Scenario {
    name: &'static str,
    about: &'static str,
    /// Measures something: nothing else runs beside it.
    alone: bool,
    rig: Rig,
}

const fn scenario(name: &'static str, about: &'static str, rig: Rig) -> Scenario {
    Scenario { name, about, alone: false, rig }
}

/// The longest ones first: two run at a time.
const SCENARIOS: &[Scenario] = &[
    Scenario { alone: true, ..scenario("kill", "kill -9 of the primary, again and again", scenarios::kill::rig) },
    Scenario { alone: true, ..scenario("deposed", "the others lose the primary, both ways or one", scenarios::partition::deposed) },
    Scenario { alone: true, ..scenario("switchover", "the primary hands over: asked to, and by SIGTERM", scenarios::switchover::rig) },
    Scenario {
        alone: true,
        ..scenario("clients", "other people's clients with two addresses go over by themselves", scenarios::clients::rig)
    },
    scenario("upgrade", "to a version that writes another format, one node after the other, and the way back", scenarios::upgrade::rig),
    scenario("stays", "a path is cut that nobody has to give up for", scenarios::partition::stays),
    scenario("freeze-others", "the standby, or the witness, is frozen for 10 s", scenarios::freeze::others),
    scenario(
        "survive",
        "what has to be there afterwards, of each protocol; 10,000 untouched messages over five kills",
        scenarios::survive::rig,
    ),
    scenario("unplugged", "the primary's cable is pulled out", scenarios::partition::unplugged),
    scenario("freeze-primary", "the primary is frozen for 10 s and wakes up", scenarios::freeze::primary),
    scenario("disk-fails", "disks stand still and fail", scenarios::disk::fails),
    scenario("disk-full", "disks are full", scenarios::disk::full),
    scenario("etcd", "the register is in etcd, which is restarted", scenarios::etcd::rig),
    scenario("lost-answers", "words of a switchover get lost", scenarios::switchover::lost_answers),
    scenario("drain", "both nodes are restarted, and a queue with priorities is read to its end", scenarios::drain::rig),
    scenario("restarts", "both nodes go and come back in each order", scenarios::restarts::in_each_order),
    scenario("witness", "the witness is lost; with the standby; with both nodes", scenarios::restarts::witness),
    scenario("node-wiped", "the standby loses its directory", scenarios::restarts::node_wiped),
    scenario("witness-wiped", "the witness forgets that one node is alone in sync", scenarios::restarts::witness_wiped),
    scenario("witness-restored", "the same with an old copy of its directory", scenarios::restarts::witness_restored),
];

/// Pairs at a time.
const AT_A_TIME: u8 = 2;

#[derive(Default)]
struct Options {
    only: Vec<String>,
    soak: bool,
}

impl Options {
    fn parse() -> Result<Options> {
        let mut options = Options::default();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--only" => options.only = args.next().context("--only NAME,NAME")?.split(',').map(str::to_owned).collect(),
                "--soak" => options.soak = true,
                "--list" => {
                    SCENARIOS.iter().for_each(|scenario| println!("{:<18} {}", scenario.name, scenario.about));
                    std::process::exit(0);
                }
                other => bail!("unknown option {other}; there are --only NAME,NAME, --soak and --list"),
            }
        }
        if let Some(unknown) = options.only.iter().find(|name| SCENARIOS.iter().all(|known| known.name != **name)) {
            bail!("there is no scenario '{unknown}'");
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("failover: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let options = Options::parse()?;
    let wanted: Vec<&Scenario> =
        SCENARIOS.iter().filter(|scenario| options.only.is_empty() || options.only.iter().any(|name| name == scenario.name)).collect();
    if !house::are_we_inside() {
        let Err(why) = house::probe() else { return Err(house::move_in()) };
        let ci = house::is_ci();
        for Scenario { name, about, .. } in wanted {
            println!("{}", if ci { format!("not ok - {name}: {about}: {why}") } else { format!("ok - {name}: {about} # SKIP {why}") });
        }
        return Ok(!ci);
    }
    house::furnish()?;
    let binary = PathBuf::from(std::env::var_os("CARRICK_BIN").context("CARRICK_BIN must name the broker's binary")?);
    let debug = std::env::var_os("CARRICK_DEBUG_BIN").map(PathBuf::from);
    let tmp = std::env::var_os("CARRICK_TMP").map_or_else(|| std::env::temp_dir().join("carrick-failover"), PathBuf::from);
    let bench =
        |slot: u8, name: &str| Bench { binary: binary.clone(), debug: debug.clone(), dir: tmp.join(name), slot, soak: options.soak };
    let mut good = true;
    let (alone, together): (Vec<&Scenario>, Vec<&Scenario>) = wanted.into_iter().partition(|scenario| scenario.alone);
    for scenario in alone {
        good &= one(scenario, &bench(0, scenario.name));
    }
    let queue = Mutex::new((VecDeque::from(together), good));
    std::thread::scope(|scope| {
        for slot in 1..=AT_A_TIME {
            let (queue, bench) = (&queue, &bench);
            scope.spawn(move || loop {
                let Some(scenario) = queue.lock().unwrap_or_else(PoisonError::into_inner).0.pop_front() else { return };
                let fine = one(scenario, &bench(slot, scenario.name));
                queue.lock().unwrap_or_else(PoisonError::into_inner).1 &= fine;
            });
        }
    });
    Ok(queue.into_inner().unwrap_or_else(PoisonError::into_inner).1)
}

fn one(scenario: &Scenario, bench: &Bench) -> bool {
    let begun = Instant::now();
    // A panic is a fault of the rig, and its pair has to go all the same.
    let outcome = std::panic::catch_unwind(|| (scenario.rig)(bench)).unwrap_or_else(|_| Err(anyhow::anyhow!("the rig panicked")));
    let (name, took) = (scenario.name, begun.elapsed().as_secs_f64());
    match &outcome {
        Ok(()) => {
            println!("ok - {name}: {} # {took:.1} s", scenario.about);
            let _ = std::fs::remove_dir_all(&bench.dir);
        }
        Err(error) => println!("not ok - {name}: {error:#} # {took:.1} s"),
    }
    outcome.is_ok()
}
