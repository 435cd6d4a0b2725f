//! Other people's clients with two addresses: each goes over by itself, also when it meets the standby first.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::bench::{Bench, Times};
use crate::scenarios::switchover;
use crate::world::World;

const GENEROUS: Duration = Duration::from_secs(20);

/// Folder of clients/, and name.
const ALL: [(&str, &str); 8] = [
    ("python", "paho-v311"),
    ("python", "paho-v5"),
    ("python", "pika"),
    ("python", "stomp-py"),
    ("js", "mqttjs-v311"),
    ("js", "mqttjs-v5"),
    ("go", "amqp091-go"),
    ("java", "rabbitmq-java"),
];

/// What an MQTT 5 client, one of AMQP and one of STOMP are to have read when they met the standby.
const WORDS: [(&str, &str); 3] = [("paho-v5", "156"), ("amqp091-go", "stands by"), ("stomp-py", "stands by")];

#[derive(Clone, Copy, Debug)]
enum Move {
    Switchover,
    Stop,
    Kill,
}

pub fn rig(bench: &Bench) -> Result<()> {
    let mut invited = None;
    for _ in 0..3 {
        invited = Some(invite(bench)?).filter(|(_, stayed)| *stayed);
        if invited.is_some() {
            break;
        }
    }
    let (world, _) = invited.context("the primary did not stay for as long as it takes to invite them all")?;
    for (name, words) in WORDS {
        let Some(program) = world.programs.iter().find(|program| program.name == name) else { continue };
        let told = |(_, line): &(Instant, String)| line.starts_with("refused ") && line.contains(words);
        ensure!(program.said().iter().any(told), "{name} was not told '{words}' by the standby: {:?}", program.said());
    }
    for kind in [Move::Switchover, Move::Kill, Move::Stop] {
        let mut times: Vec<Times> = world.programs.iter().map(|_| Times::default()).collect();
        for _ in 0..if bench.soak { 10 } else { 2 } {
            one(&world, kind, &mut times).with_context(|| format!("{kind:?}"))?;
        }
        for (program, times) in world.programs.iter().zip(&times) {
            println!("# clients: {kind:?}: until the first confirm, {:<13} {times}", program.name);
        }
    }
    world.finish("clients")
}

/// All of them, to the standby first, which turns them away. Also whether it was the standby all the time: a busy machine may cost a primary its lease.
fn invite(bench: &Bench) -> Result<(World, bool)> {
    let mut world = World::start(bench)?;
    let primary = world.pair.whole()?;
    for (kind, name) in ALL {
        world.invite(kind, name, 1 - primary)?;
    }
    let stayed = world.pair.ends(primary).is_empty() && world.pair.whole()? == primary;
    Ok((world, stayed))
}

fn one(world: &World, kind: Move, times: &mut [Times]) -> Result<()> {
    let pair = &world.pair;
    let primary = world.settled(300)?;
    let mut stopping = None;
    let since = match kind {
        Move::Switchover => switchover::ask(pair, primary).0,
        Move::Kill => pair.kill9(primary),
        Move::Stop => {
            let since = Instant::now();
            stopping = Some(pair.stop_later(primary)?);
            since
        }
    };
    // Confirms of the old primary may come for a moment yet.
    let gone = since + world.first_confirm(since, 1 - primary, GENEROUS)?;
    for (program, times) in world.programs.iter().zip(times) {
        times.add(world.first_confirm_of(program, gone, GENEROUS)? + gone.duration_since(since));
    }
    if let Some(stopping) = stopping {
        stopping()?;
    }
    if !matches!(kind, Move::Switchover) {
        pair.start_node(primary)?;
    }
    Ok(())
}
