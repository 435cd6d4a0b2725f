//! From settings to the core: the parts' own configurations are made here, and nowhere else.

use crate::config::{file, Settings};
use crate::definitions::{self, Definitions};
use anyhow::{Context, Result};
use broker::{auth, Core, VhostLimits};
use broker_api::{Broker, Elsewhere, VhostName};
use gateway::Slots;
use journal::storage::DirStorage;
use journal::Failure;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The core while it is open, and the news of its failure.
#[derive(Clone)]
pub struct House {
    core: Core,
    /// Users that the files name, and whether clients without credentials may do anything.
    pub named: (usize, bool),
    failed: watch::Receiver<Option<Failure>>,
}

/// What a core is made with: everything that can be wrong with the settings has been looked at.
pub struct Plan {
    pub storage: Arc<DirStorage>,
    pub journal: journal::Config,
    pub config: broker::Config,
    dir: PathBuf,
    definitions: Definitions,
    dead_letter: file::DeadLetter,
}

/// Locks the data directory, recovers what is in it, and starts the core.
pub fn open(plan: Plan) -> Result<House> {
    let (on_failure, failed) = failure_watch();
    let core = Core::open(plan.storage.clone(), plan.journal.clone(), plan.config.clone(), on_failure)
        .with_context(|| format!("cannot open the data directory {}", plan.dir.display()))?;
    plan.settle(core, failed)
}

type OnFailure = Box<dyn Fn(&Failure) + Send + Sync>;

/// For a core, and for who waits for its failure.
pub fn failure_watch() -> (OnFailure, watch::Receiver<Option<Failure>>) {
    let (tell, failed) = watch::channel(None);
    let on_failure = Box::new(move |failure: &Failure| {
        tell.send_replace(Some(failure.clone()));
    });
    (on_failure, failed)
}

pub fn plan(settings: &Settings) -> Result<Plan> {
    // Before the store is touched: a user's typing error should not cost a recovery.
    let mut definitions = settings.definitions.as_deref().map(Definitions::load).transpose()?.unwrap_or_default();
    let mut auth = users(settings, &mut definitions)?;
    let dir = absolute(&settings.data_dir);
    let storage = DirStorage::new(&dir).with_context(|| format!("cannot make the data directory {}", dir.display()))?;
    auth.salt_secret = Some(salt_secret(&dir.join("salt")).with_context(|| format!("in the data directory {}", dir.display()))?);
    let vhosts = settings.vhosts.iter().map(|vhost| vhost.name.0.clone()).filter(|name| name != "/");
    let vhosts = vhosts.chain(definitions.vhosts.drain(..)).collect();
    let traced = settings.vhosts.iter().filter(|vhost| vhost.trace).map(|vhost| vhost.name.0.clone());
    let traced_vhosts = traced.chain(definitions.traced_vhosts.drain(..)).collect();
    let default_queue_types = std::mem::take(&mut definitions.default_queue_types);
    let limits = settings
        .vhosts
        .iter()
        .map(|vhost| (vhost.name.0.clone(), VhostLimits { connections_max: vhost.max_connections, queues_max: vhost.max_queues }));
    // The last one holds: the configuration file's.
    let vhost_limits = definitions.vhost_limits.drain(..).chain(limits.filter(|(_, limits)| *limits != VhostLimits::default())).collect();
    let config = broker::Config { vhosts, default_queue_types, vhost_limits, traced_vhosts, ..broker_config(&settings.broker, auth) };
    let journal = journal_config(&settings.journal);
    let dead_letter = settings.dead_letter.clone();
    Ok(Plan { storage: Arc::new(storage), journal, config, dir, definitions, dead_letter })
}

impl Plan {
    /// What the settings say is to be there is made in a core that has begun to serve.
    pub fn settle(self, core: Core, failed: watch::Receiver<Option<Failure>>) -> Result<House> {
        let Plan { mut definitions, dead_letter, config, .. } = self;
        let auth = &config.auth;
        if !(auth.rules.is_empty() && auth.permissions.is_empty() && auth.topic_permissions.is_empty()) {
            core.review_subscriptions();
        }
        crate::dead_letter::prepare(&dead_letter, &core, &mut definitions)?;
        let mut notes = std::mem::take(&mut definitions.notes);
        notes.extend(definitions::apply(definitions, &core).context("the definitions cannot be made")?);
        definitions::tell(&notes);
        let anonymous = auth.permissions.is_empty() || auth.permissions.iter().any(|permission| permission.user() == auth::ANONYMOUS);
        Ok(House { core, named: (auth.users.len(), anonymous), failed })
    }
}

/// Of the configuration file and of the definitions, checked.
fn users(settings: &Settings, definitions: &mut Definitions) -> Result<auth::Config> {
    let mut auth = auth_config(settings)?;
    definitions.add_users(&mut auth);
    auth::Auth::check(&auth).map_err(|error| match line_of(settings, &error) {
        Some(line) => anyhow::anyhow!("in the configuration file, line {line}: {error}"),
        None => anyhow::Error::from(error).context("in [[user]], [[acl]], [[permission]] or [[topic_permission]]"),
    })?;
    Ok(auth)
}

/// Of the entry that is wrong beside others.
fn line_of(settings: &Settings, error: &auth::ConfigError) -> Option<usize> {
    match error {
        auth::ConfigError::User { name, .. } => settings.users.iter().find(|user| user.name == *name).map(|user| user.line),
        auth::ConfigError::Rule { topic, .. } => settings.rules.iter().find(|rule| rule.topic == *topic).map(|rule| rule.line),
        auth::ConfigError::Permission { user, vhost, .. } => {
            settings.permissions.iter().find(|p| p.user == *user && p.vhost == *vhost).map(|p| p.line)
        }
        auth::ConfigError::TopicPermission { user, exchange, .. } => {
            settings.topic_permissions.iter().find(|p| p.user == *user && p.exchange == *exchange).map(|p| p.line)
        }
        auth::ConfigError::Random(_) => None,
    }
}

/// As the files say now.
pub fn users_again(settings: &Settings) -> Result<auth::Config> {
    let mut definitions = settings.definitions.as_deref().map(Definitions::load).transpose()?.unwrap_or_default();
    let mut auth = users(settings, &mut definitions)?;
    auth.salt_secret = Some(salt_secret(&absolute(&settings.data_dir).join("salt"))?);
    Ok(auth)
}

impl House {
    /// Users, rules and permissions take effect. Nothing changes if they are wrong.
    pub fn reload_users(&self, users: &auth::Config) -> Result<()> {
        self.core.reload_users(users).map_err(anyhow::Error::from)
    }

    pub fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.core.clone())
    }

    /// `$SYS` tells what the gateway and the protocols count; `lost`: deliveries dropped, publishes refused.
    pub fn watch_traffic(&self, slots: Arc<Slots>, lost: impl Fn() -> (u64, u64) + Send + Sync + 'static) {
        self.core.watch_traffic(move || {
            let (deliveries_dropped, publishes_refused) = lost();
            broker::Traffic {
                bytes_received: slots.stats.bytes_received.load(Relaxed),
                bytes_sent: slots.stats.bytes_sent.load(Relaxed),
                sockets_opened: slots.stats.connections_total.load(Relaxed),
                deliveries_dropped,
                publishes_refused,
            }
        });
    }

    /// Until the store has failed; then why.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let failure = failed.wait_for(Option::is_some).await.map(|failure| failure.as_ref().map(ToString::to_string));
        match failure {
            Ok(failure) => failure.unwrap_or_default(),
            // Nobody is left who could say that it failed.
            Err(_) => std::future::pending().await,
        }
    }

    pub fn shut_down_connections(&self, elsewhere: Option<Elsewhere>) {
        self.core.shut_down_connections(elsewhere);
    }

    /// Of the core: what has parted may still be writing its last words.
    pub fn connections(&self) -> u64 {
        self.core.connections()
    }

    /// Waits until every connection has left the core, for so long at most.
    pub async fn parted(&self, limit: Duration) {
        let begun = std::time::Instant::now();
        while self.core.connections() > 0 && begun.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Everything that is staged is committed first.
    pub fn close(&self) -> Result<()> {
        self.core.close().context("closing the journal")
    }
}

/// Where clients arrive that name no virtual host.
pub fn default_vhost() -> VhostName {
    VhostName::new("/")
}

pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn auth_config(settings: &Settings) -> Result<auth::Config> {
    Ok(auth::Config {
        users: settings.users.iter().map(file::User::credentials).collect(),
        topic_permissions: settings.topic_permissions.iter().map(file::TopicPermission::parsed).collect::<Result<_, _>>()?,
        permissions: settings.permissions.iter().map(file::Permission::parsed).collect::<Result<_, _>>()?,
        rules: settings.rules.iter().map(file::Rule::parsed).collect::<Result<_, _>>()?,
        anonymous_on_loopback: settings.allow_anonymous != Some(false),
        ..auth::Config::default()
    })
}

fn broker_config(file: &file::Broker, auth: auth::Config) -> broker::Config {
    let default = broker::Config::default();
    broker::Config {
        auth,
        header_views: crate::protocols::header_views(),
        tracer: Some(crate::protocols::tracer()),
        session_queue_messages: file.session_queue_messages.map_or(default.session_queue_messages, |n| n.0),
        session_queue_bytes: file.session_queue_bytes.map_or(default.session_queue_bytes, |n| n.0),
        transaction_bytes: file.transaction_bytes.map_or(default.transaction_bytes, |n| n.0 as usize),
        sessions_max: file.sessions_max.map_or(default.sessions_max, |n| n.0),
        retained_max: file.retained_max.map_or(default.retained_max, |n| n.0),
        delayed_max: file.delayed_max.map_or(default.delayed_max, |n| n.0),
        vhosts_max: file.vhosts_max.map_or(default.vhosts_max, |n| n.0),
        channels_max: file.channels_max.map_or(default.channels_max, |n| n.0),
        queues_max: file.queues_max.map_or(default.queues_max, |n| n.0),
        exchanges_max: file.exchanges_max.map_or(default.exchanges_max, |n| n.0),
        relaxed_redeclare: file.relaxed_redeclare.unwrap_or(default.relaxed_redeclare),
        sys_interval_secs: file.sys_interval_secs.map_or(default.sys_interval_secs, |n| n.0),
        restart_will_delay_secs: file.restart_will_delay_secs.map_or(default.restart_will_delay_secs, |n| n.0 as u32),
        delivery: match file.delivery {
            Some(file::Delivery::Early) => broker::DeliveryPoint::Early,
            Some(file::Delivery::Committed) => broker::DeliveryPoint::Committed,
            None => default.delivery,
        },
        memory_high: file.memory_high.map_or_else(|| crate::memory::default_high().unwrap_or(default.memory_high), |n| n.0),
        transient_memory: file.transient_memory.map_or(default.transient_memory, |n| n.0),
        ..default
    }
}

fn journal_config(file: &file::Journal) -> journal::Config {
    let default = journal::Config::default();
    journal::Config {
        segment_bytes: file.segment_bytes.map_or(default.segment_bytes, |n| n.0),
        checkpoint_bytes: file.checkpoint_bytes.map_or(default.checkpoint_bytes, |n| n.0),
        checkpoint_interval: file.checkpoint_interval_secs.map_or(default.checkpoint_interval, |n| Duration::from_secs(n.0)),
        staging_bytes: file.staging_bytes.map_or(default.staging_bytes, |n| n.0),
        min_free_bytes: file.min_free_bytes.map_or(default.min_free_bytes, |n| n.0),
        evacuate_dead_percent: file.evacuate_dead_percent.map_or(default.evacuate_dead_percent, |n| n.0 as u8),
        fill: match file.fill {
            Some(file::Fill::Allocate) => journal::SegmentFill::Allocate,
            Some(file::Fill::Zero) => journal::SegmentFill::Zero,
            None => default.fill,
        },
        ..default
    }
}

/// 32 random bytes that stay with the data: SCRAM answers with made-up salts for names that do not exist, and these must not change
/// with a restart when those of real users do not.
fn salt_secret(path: &Path) -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    match std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut secret)) {
        Ok(()) => return Ok(secret),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // Nothing that is kept depends on it: clients derive their keys anew from whatever salt they are told.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => tracing::warn!(file = %path.display(), "too short, made anew"),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut secret)).context("no random numbers")?;
    write_secret(path, &secret).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(secret)
}

/// Under its name only when it is whole and on the disk.
fn write_secret(path: &Path, secret: &[u8]) -> std::io::Result<()> {
    let draft = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(secret)?;
    file.sync_data()?;
    std::fs::rename(&draft, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_salt_secret_is_kept_private_and_made_anew_only_when_it_was_cut_short() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("salt");
        let first = salt_secret(&path).expect("made");
        assert_eq!(salt_secret(&path).expect("read"), first);
        assert_ne!(first, [0; 32]);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("there").permissions());
        assert_eq!(mode & 0o077, 0, "{mode:o}");
        std::fs::write(&path, "short").expect("cut");
        let second = salt_secret(&path).expect("made anew");
        assert_ne!(second, first);
        assert_eq!(salt_secret(&path).expect("read"), second);
    }
}
