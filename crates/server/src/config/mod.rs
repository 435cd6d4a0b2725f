//! From file, environment and flags to what the broker runs with. Later ones win: defaults, file, `CARRICK_*`, flags.

pub mod coordinator;
pub mod file;
pub mod ha;
mod nodes;
mod units;
pub mod witness;

use crate::cli::Serve;
use anyhow::{bail, Context, Result};
use file::File;
use gateway::ListenUrl;
use std::path::{Path, PathBuf};

/// Checked, merged, and in the form the code uses.
#[derive(Debug)]
pub struct Settings {
    pub data_dir: PathBuf,
    /// RabbitMQ's definitions.json, read at each start.
    pub definitions: Option<PathBuf>,
    pub listen: Vec<ListenUrl>,
    /// The listeners are the built-in ones: on a machine without IPv6 half of them may be missing.
    pub default_listeners: bool,
    pub log: String,
    /// Threads that serve connections.
    pub worker_threads: usize,
    /// `None`: only from this machine.
    pub allow_anonymous: Option<bool>,
    pub users: Vec<file::User>,
    pub rules: Vec<file::Rule>,
    pub vhosts: Vec<file::Vhost>,
    pub permissions: Vec<file::Permission>,
    pub topic_permissions: Vec<file::TopicPermission>,
    pub gateway: gateway::Config,
    pub tls: gateway::TlsSettings,
    pub broker: file::Broker,
    pub journal: file::Journal,
    pub mqtt: file::Mqtt,
    pub amqp: file::Amqp,
    pub stomp: file::Stomp,
    pub websocket: file::WebSocket,
    pub dead_letter: file::DeadLetter,
    /// This node is one of a pair.
    pub ha: Option<ha::Ha>,
}

impl Settings {
    /// Reads the file, if one is named, and puts flags and environment over it.
    pub fn load(flags: &Serve) -> Result<Settings> {
        let file = match &flags.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let settings = Settings::merge(file, flags);
        match &flags.config {
            Some(path) => settings.with_context(|| format!("in the configuration file {}", path.display())),
            None => settings,
        }
    }

    fn merge(file: File, flags: &Serve) -> Result<Settings> {
        let from_flags: Vec<ListenUrl> = flags.listen.iter().map(|url| url.trim().parse()).collect::<Result<_, _>>().context("--listen")?;
        let from_file = file.listen.map(|urls| urls.into_inner().into_iter().map(|url| url.0).collect::<Vec<_>>());
        let chosen = if from_flags.is_empty() { from_file } else { Some(from_flags) };
        let log = match &flags.log {
            Some(log) => {
                crate::logging::parse(log).map_err(anyhow::Error::msg).context("--log")?;
                log.clone()
            }
            None => file.log.map_or_else(|| "info".to_owned(), |log| log.0),
        };
        let tls = over(file.tls, flags);
        let settings = Settings {
            data_dir: flags.data_dir.clone().or(file.data_dir).unwrap_or_else(|| PathBuf::from("./carrick-data")),
            definitions: flags.definitions.clone().or(file.load_definitions),
            default_listeners: chosen.is_none(),
            listen: chosen.unwrap_or_else(|| default_listeners(tls.certificate.is_some())),
            log,
            worker_threads: flags
                .worker_threads
                .map(usize::from)
                .or(file.server.worker_threads.map(|n| n.0 as usize))
                .unwrap_or_else(default_worker_threads),
            allow_anonymous: file.allow_anonymous,
            users: plain(file.users),
            rules: plain(file.rules),
            vhosts: file.vhosts,
            permissions: plain(file.permissions),
            topic_permissions: plain(file.topic_permissions),
            gateway: file.gateway,
            tls,
            broker: file.broker,
            journal: file.journal,
            mqtt: file.mqtt,
            amqp: file.amqp,
            stomp: file.stomp,
            websocket: file.websocket,
            dead_letter: file.dead_letter,
            ha: file.ha,
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        if self.listen.is_empty() {
            bail!("listen is empty: right would be at least one URL, such as mqtt://127.0.0.1:1883");
        }
        for url in &self.listen {
            crate::listeners::check_url(url, &self.tls)?;
        }
        for (at, user) in self.users.iter().enumerate() {
            if let Some(first) = self.users[..at].iter().find(|first| first.name == user.name) {
                let (name, line, first) = (&user.name, user.line, first.line);
                bail!("line {line}: user '{name}' is there twice, on line {first} too: right would be one [[user]] for each name");
            }
        }
        if self.mqtt.server_moved && self.mqtt.server_reference.is_none() {
            bail!("mqtt.server_moved is true, and nothing says where to: right would be mqtt.server_reference with it");
        }
        self.check_exposure()
    }

    /// Nobody is let in from elsewhere by accident.
    fn check_exposure(&self) -> Result<()> {
        let exposed = self.listen.iter().find(|url| !url.is_loopback());
        if let (Some(url), true, None | Some(false)) = (exposed, self.users.is_empty() && self.definitions.is_none(), self.allow_anonymous)
        {
            bail!(
                "{url} can be reached from other machines, and there is no [[user]]: nobody could log in there. \
                 Right would be a [[user]] with name and password (or password_hash) in the file given by --config, \
                 or, if everybody may publish and read everything, allow_anonymous = true"
            );
        }
        Ok(())
    }
}

/// One core is left to the log's thread, the kernel and neighbours. Measured on two cores: one worker spends a fifth less per message than
/// two, which fight for the second core with the rest of the path.
fn default_worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() - 1).max(1))
}

/// What the flags say of TLS. Another certificate than the file's has another key.
fn over(mut tls: gateway::TlsSettings, flags: &Serve) -> gateway::TlsSettings {
    if flags.tls_certificate.is_some() {
        (tls.certificate, tls.private_key) = (flags.tls_certificate.clone(), None);
    }
    tls.private_key = flags.tls_private_key.clone().or(tls.private_key);
    tls
}

/// Each protocol at its own port, WebSocket where RabbitMQ has it for MQTT and for STOMP, one port for all (61616, ActiveMQ's), and RabbitMQ's
/// port for operators.
const DEFAULT_LISTENERS: [(&str, u16); 7] =
    [("mqtt", 1883), ("amqp", 5672), ("stomp", 61613), ("ws", 15675), ("ws", crate::protocols::WEB_STOMP), ("any", 61616), ("http", 15672)];
/// Where there is a certificate, these too.
const TLS_LISTENERS: [(&str, u16); 5] =
    [("mqtts", 8883), ("amqps", 5671), ("stomps", 61614), ("wss", 15676), ("wss", crate::protocols::WEB_STOMP_TLS)];

/// `localhost` resolves to either address in real clients.
fn default_listeners(tls: bool) -> Vec<ListenUrl> {
    let both = |(scheme, port)| ["127.0.0.1", "::1"].map(|host| ListenUrl::tcp(scheme, host, port));
    DEFAULT_LISTENERS.into_iter().chain(TLS_LISTENERS.into_iter().filter(|_| tls)).flat_map(both).collect()
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    parse_file(&text).with_context(|| format!("in the configuration file {}", path.display()))
}

/// The file, whose entries know where they stand in it.
fn parse_file(text: &str) -> Result<File> {
    let mut file: File = parse(text)?;
    let line = |at: std::ops::Range<usize>| 1 + text[..at.start.min(text.len())].matches('\n').count();
    for user in &mut file.users {
        user.get_mut().line = line(user.span());
    }
    for rule in &mut file.rules {
        let line = line(rule.span());
        rule.get_mut().line = line;
        rule.get_ref().parsed().with_context(|| format!("line {line}, [[acl]]"))?;
    }
    for permission in &mut file.permissions {
        let line = line(permission.span());
        permission.get_mut().line = line;
        permission.get_ref().parsed().with_context(|| format!("line {line}, [[permission]]"))?;
    }
    for permission in &mut file.topic_permissions {
        let line = line(permission.span());
        permission.get_mut().line = line;
        permission.get_ref().parsed().with_context(|| format!("line {line}, [[topic_permission]]"))?;
    }
    Ok(file)
}

fn plain<T>(entries: Vec<toml::Spanned<T>>) -> Vec<T> {
    entries.into_iter().map(toml::Spanned::into_inner).collect()
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| anyhow::Error::msg(error.to_string().trim_end().to_owned()))
}

#[cfg(test)]
mod tests;
