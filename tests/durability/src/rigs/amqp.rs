//! The rigs of kills, power cuts and full disks with clients of AMQP 0-9-1.

use anyhow::Result;

use super::{full, kill, power, Bench};
use crate::amqp::Cast;
use crate::broker::{Recipe, SMALL_JOURNAL};
use crate::load::Mix;
use crate::shim::Class;

const KEEP_EVERY: u64 = 20;

pub fn kill(bench: &Bench) -> Result<()> {
    kills(bench, bench.recipe("amqp-kill", SMALL_JOURNAL)?, "amqp-kill", 6 * bench.scale)
}

pub fn kills(bench: &Bench, mut recipe: Recipe, name: &str, kills: u64) -> Result<()> {
    recipe.protocol = "amqp";
    kill::run(bench, &recipe, Mix::amqp(Cast::usual(KEEP_EVERY), KEEP_EVERY), name, kills)
}

pub fn power(bench: &Bench) -> Result<()> {
    let mut stage = power::stage(bench, "amqp-power", SMALL_JOURNAL)?;
    stage.recipe.protocol = "amqp";
    power::run_cut(bench, &mut stage, Mix::amqp(Cast::usual(KEEP_EVERY), KEEP_EVERY), "amqp-power", 3 * bench.scale)
}

pub fn full(bench: &Bench) -> Result<()> {
    let cases = [Class::Segment, Class::Cold];
    full::run(bench, "amqp", Mix::amqp(Cast::for_a_full_disk(KEEP_EVERY), KEEP_EVERY), "amqp-full", &cases)
}
