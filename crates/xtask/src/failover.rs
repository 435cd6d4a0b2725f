//! `cargo xtask failover`: makes the clients of tests/failover/clients and runs the rig, which is its own program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Result};

use crate::clients::programs::{self, Shop};
use crate::context::Context;
use crate::needs::Need;
use crate::{process, Options};

struct Kind {
    /// Its folder in tests/failover/clients; the rig looks for `FAILOVER_` and this.
    name: &'static str,
    needs: &'static [Need],
    prepare: fn(&Shop) -> Result<Command>,
}

const KINDS: &[Kind] = &[
    Kind { name: "python", needs: &[Need::Python], prepare: programs::python },
    Kind { name: "js", needs: &[Need::Npm], prepare: programs::npm },
    Kind { name: "go", needs: &[Need::Go], prepare: programs::go },
    Kind { name: "java", needs: &[Need::Java, Need::Maven], prepare: programs::maven },
];

/// Beyond this the rig hangs; the suite's own limit is the bound that counts.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

pub fn failover(context: &Context, options: &Options) -> Result<bool> {
    let logs = context.dir("logs")?;
    let mut rig = context.cargo(&["run", "-q", "-p", "failover", "--"]);
    for kind in KINDS {
        if let Some(why) = kind.needs.iter().find_map(|need| need.ensure(context).err()) {
            ensure!(!context.ci, "{}: {why}", kind.name);
            println!("# clients in {}: {why}", kind.name);
            continue;
        }
        let log = logs.join(format!("failover-{}.log", kind.name));
        let _ = fs::remove_file(&log);
        let source = context.root.join("tests/failover/clients").join(kind.name);
        let work = context.dir(&format!("failover/{}", kind.name))?;
        let client = (kind.prepare)(&Shop { context, source, work, log })?;
        let words = [client.get_program()].into_iter().chain(client.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        rig.env(format!("FAILOVER_{}", kind.name.to_uppercase()), words.join("\n"));
        rig.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
    }
    if let Err(why) = Need::Etcd.ensure(context) {
        ensure!(!context.ci, "etcd: {why}");
        println!("# etcd: {why}");
    }
    rig.env("CARRICK_BIN", context.release_binary()?).env("CARRICK_DEBUG_BIN", debug_binary(context, &logs)?);
    if !options.only.is_empty() {
        rig.arg("--only").arg(options.only.join(","));
    }
    rig.args(options.soak.then_some("--soak"));
    let mut group = process::Group::spawn(rig)?;
    let status = group.wait_until(std::time::Instant::now() + LIMIT)?;
    Ok(status.is_some_and(|status| status.success()))
}

/// The one that the tests of the workspace run, with the features that third-party crates have there.
fn debug_binary(context: &Context, logs: &Path) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("CARRICK_DEBUG_BIN") {
        return Ok(given.into());
    }
    let build = context.cargo(&["test", "--workspace", "--test", "it", "--no-run"]);
    let log = logs.join("failover-debug.log");
    let outcome = process::run(build, &log, Duration::from_secs(1800))?;
    ensure!(outcome.success, "the debug build failed{}:\n{}", outcome.why(), process::tail(&log, 60));
    Ok(context.target.join("debug/carrick"))
}
