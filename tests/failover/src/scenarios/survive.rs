//! What has to be there afterwards, of each protocol, as other people's libraries see it (clients/python/survive.py).

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{ensure, Context, Result};

use crate::bench::Bench;
use crate::house;
use crate::pair::LONG;
use crate::program;
use crate::world::World;

const CASES: usize = 10;

fn phase(world: &World, name: &str, node: usize) -> Result<Command> {
    let mut command = program::script("python", "survive.py").context("survive.py was not made")?;
    command.arg(name).env("HOST", world.pair.host(node).to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

fn done(world: &World, name: &str, node: usize) -> Result<String> {
    let output = phase(world, name, node)?.stderr(Stdio::piped()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// With deliveries, a transaction and a will in hand.
fn hold(world: &World, node: usize) -> Result<Child> {
    let mut child = phase(world, "hold", node)?.spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("it is piped")?).read_line(&mut line)?;
    ensure!(line == "held\n", "hold ended");
    Ok(child)
}

pub fn rig(bench: &Bench) -> Result<()> {
    if program::script("python", "survive.py").is_none() {
        ensure!(!house::is_ci(), "survive.py was not made");
        println!("# survive CANNOT RUN HERE: cargo xtask test makes it");
        return Ok(());
    }
    let world = World::start(bench)?;
    let pair = &world.pair;
    done(&world, "backlog", pair.whole()?)?;
    for _ in 0..4 {
        let primary = pair.whole()?;
        let killed = pair.kill9(primary);
        world.first_confirm(killed, 1 - primary, LONG)?;
        pair.start_node(primary)?;
    }
    let primary = pair.whole()?;
    done(&world, "setup", primary)?;
    let mut holding = hold(&world, primary)?;
    let killed = pair.kill9(primary);
    // Before it can come back and have a will no more.
    let _ = holding.kill();
    let _ = holding.wait();
    world.first_confirm(killed, 1 - primary, LONG)?;
    let found = done(&world, "check", 1 - primary)?;
    ensure!(found.lines().filter(|line| line.starts_with("ok ")).count() == CASES, "{found}");
    println!("# survive: {}", found.lines().collect::<Vec<_>>().join(", "));
    pair.start_node(primary)?;
    pair.whole()?;
    world.finish("survive")
}
