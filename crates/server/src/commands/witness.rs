//! `carrick witness`: the third voter of a pair. It keeps no data, serves no clients, and is meant to be forgotten about.

use crate::cli::{Witness, WitnessCli};
use crate::config::witness::WitnessConfig;
use crate::logging;
use anyhow::{bail, Context, Result};
use replication::coordinator::Voter;
use replication::net::{Listener, Purpose};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{signal, SignalKind};
use tokio::task::JoinSet;
use tracing::{debug, error, info};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// EX_TEMPFAIL of sysexits.h: its disk failed, so nothing that it says counts any more.
const DISK_FAILED: i32 = 75;
/// Links at once: two from each of two nodes, and those that break and come again.
const LINKS_MAX: usize = 32;

/// In the small program, if that lies beside this one: most of this one's pages would be in memory for nothing.
pub fn run_small(flags: &Witness) -> Result<ExitCode> {
    let small = std::env::current_exe().map(|path| path.with_file_name("carrick-witness"));
    match small {
        Ok(small) if small.is_file() => {
            let mut command = Command::new(&small);
            command.arg("--config").arg(&flags.config).args(["--for-carrick", VERSION]);
            // It comes back only if it could not be done.
            Err(command.exec()).with_context(|| format!("cannot run {}", small.display()))
        }
        _ => run(flags),
    }
}

pub fn run_for(flags: &WitnessCli) -> Result<ExitCode> {
    if let Some(version) = flags.for_carrick.as_ref().filter(|version| *version != VERSION) {
        bail!("carrick is of version {version} and carrick-witness beside it of {VERSION}: install both of one version");
    }
    run(&flags.witness)
}

fn run(flags: &Witness) -> Result<ExitCode> {
    let config = WitnessConfig::load(&flags.config)?;
    logging::init(&config.log).map_err(anyhow::Error::msg)?;
    // One thread, and another one that waits for the disk.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(256 * 1024)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let outcome = runtime.block_on(live(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn live(config: WitnessConfig) -> Result<ExitCode> {
    let hook = |kind| signal(kind).context("cannot listen for signals");
    let (mut terminate, mut interrupt) = (hook(SignalKind::terminate())?, hook(SignalKind::interrupt())?);
    let mut listener =
        Listener::bind(&config.listen, config.identity.clone()).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let fatal = Arc::new(|why: &str| {
        error!(why, "stopping: the disk has failed");
        std::process::exit(DISK_FAILED);
    });
    let folder = config.voter.folder.clone();
    let voter = Voter::start(config.voter, config.identity, fatal).await;
    let voter = voter.with_context(|| format!("cannot be a voter with {}", folder.display()))?;
    announce(&listener.local_addr()?.to_string());
    info!(node = %voter.name(), folder = %folder.display(), "a witness");
    let mut links = JoinSet::new();
    let name = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            (link, peer, purpose) = listener.accept(), if links.len() < LINKS_MAX => match purpose {
                Purpose::Voters => {
                    let voter = voter.clone();
                    links.spawn(async move { voter.serve(link).await });
                }
                Purpose::Peer => debug!(%peer, "a witness has no log to share"),
            },
            Some(_) = links.join_next() => {}
        }
    };
    info!(signal = name, "stopping");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    links.shutdown().await;
    voter.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// As `serve` does it: for programs that wait for us.
fn announce(address: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "listening {address}\nready").and_then(|()| stdout.flush());
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
}
