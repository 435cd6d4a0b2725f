//! The configuration file as it is written: every key optional, unknown ones refused with their line and the known ones.

use super::units::{Bytes, Prefix, Text, Whole, GIB, MIB};
use broker::auth;
use gateway::ListenUrl;
use serde::{Deserialize, Deserializer};
use std::path::PathBuf;
use toml::Spanned;

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    pub data_dir: Option<PathBuf>,
    /// RabbitMQ's definitions.json, read at each start.
    pub load_definitions: Option<PathBuf>,
    pub listen: Option<Spanned<Vec<Listen>>>,
    pub log: Option<LogLevel>,
    pub allow_anonymous: Option<bool>,
    #[serde(rename = "user")]
    pub users: Vec<Spanned<User>>,
    #[serde(rename = "acl")]
    pub rules: Vec<Spanned<Rule>>,
    #[serde(rename = "vhost")]
    pub vhosts: Vec<Vhost>,
    #[serde(rename = "permission")]
    pub permissions: Vec<Spanned<Permission>>,
    #[serde(rename = "topic_permission")]
    pub topic_permissions: Vec<Spanned<TopicPermission>>,
    pub server: Server,
    pub gateway: gateway::Config,
    pub tls: gateway::TlsSettings,
    pub broker: Broker,
    pub journal: Journal,
    pub mqtt: Mqtt,
    pub amqp: Amqp,
    pub stomp: Stomp,
    pub websocket: WebSocket,
    pub dead_letter: DeadLetter,
    pub ha: Option<super::ha::Ha>,
}

/// `[[user]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "RawUser")]
pub struct User {
    pub name: String,
    pub secret: Secret,
    pub tags: Vec<String>,
    pub max_connections: Option<u64>,
    pub max_channels: Option<u64>,
    /// Where it stands in the file.
    pub line: usize,
}

#[derive(Clone)]
pub enum Secret {
    Password(String),
    Hash(String),
    /// He logs in by a client certificate.
    None,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Secret::Password(_) => "Password(..)",
            Secret::Hash(_) => "Hash(..)",
            Secret::None => "None",
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUser {
    name: String,
    password: Option<String>,
    password_hash: Option<String>,
    /// He may do without a password.
    #[serde(default)]
    certificate: bool,
    #[serde(default)]
    tags: Vec<String>,
    max_connections: Option<u64>,
    max_channels: Option<u64>,
}

impl TryFrom<RawUser> for User {
    type Error = String;

    fn try_from(raw: RawUser) -> Result<User, String> {
        let secret = match (raw.password, raw.password_hash) {
            (Some(password), None) => Secret::Password(password),
            (None, Some(hash)) => Secret::Hash(hash),
            (None, None) if raw.certificate => Secret::None,
            (None, None) => {
                return Err(format!(
                    "user '{}' has neither password nor password_hash: right would be one of them, or certificate = true for one who logs \
                     in by a client certificate",
                    raw.name
                ))
            }
            (Some(_), Some(_)) => {
                return Err(format!("user '{}' has both password and password_hash: right would be one of them", raw.name))
            }
        };
        let RawUser { name, tags, max_connections, max_channels, .. } = raw;
        let user = User { name, secret, tags, max_connections, max_channels, line: 0 };
        let alone = auth::Config { users: vec![user.credentials()], ..auth::Config::default() };
        auth::Auth::check(&alone).map_err(|error| error.to_string())?;
        Ok(user)
    }
}

impl User {
    /// As the core knows it.
    pub fn credentials(&self) -> auth::User {
        auth::User {
            name: self.name.clone(),
            credential: match &self.secret {
                Secret::Password(text) => auth::Credential::Plain(text.clone()),
                Secret::Hash(text) => auth::Credential::Hash(text.clone()),
                Secret::None => auth::Credential::None,
            },
            tags: self.tags.clone(),
            connections_max: self.max_connections,
            channels_max: self.max_channels,
        }
    }
}

/// `[[acl]]`: what a user may do with a topic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A name, or `*` for everybody. Without it: clients without credentials, or everybody if the topic has `%u` or `%c`.
    pub user: Option<String>,
    /// `read`, `write`, `readwrite` or `deny`.
    pub access: String,
    pub topic: String,
    #[serde(skip)]
    pub line: usize,
}

impl Rule {
    pub fn parsed(&self) -> Result<auth::Rule, auth::ConfigError> {
        auth::Rule::parse(self.user.as_deref(), &self.access, &self.topic)
    }
}

/// `[[vhost]]`: a virtual host that is to be there beside `/`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vhost {
    /// `/` only for what is said of it here.
    pub name: Text<1, 255>,
    pub max_connections: Option<u64>,
    pub max_queues: Option<u64>,
    /// Publishes and deliveries are told to `amq.rabbitmq.trace`.
    #[serde(default)]
    pub trace: bool,
}

/// `[[permission]]`: what a user may do with exchanges and queues of a virtual host, as regular expressions over their names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    pub user: String,
    #[serde(default = "slash")]
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
    #[serde(skip)]
    pub line: usize,
}

impl Permission {
    pub fn parsed(&self) -> Result<auth::Permission, auth::ConfigError> {
        auth::Permission::parse(&self.user, &self.vhost, &self.configure, &self.write, &self.read)
    }
}

/// `[[topic_permission]]`: the routing keys with which a user may publish to a topic exchange and bind there, as regular expressions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicPermission {
    pub user: String,
    #[serde(default = "slash")]
    pub vhost: String,
    #[serde(default = "topics")]
    pub exchange: String,
    pub write: String,
    pub read: String,
    #[serde(skip)]
    pub line: usize,
}

impl TopicPermission {
    pub fn parsed(&self) -> Result<auth::TopicPermission, auth::ConfigError> {
        auth::TopicPermission::parse(&self.user, &self.vhost, &self.exchange, &self.write, &self.read)
    }
}

fn topics() -> String {
    "amq.topic".to_owned()
}

fn slash() -> String {
    "/".to_owned()
}

/// `[server]`
#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    pub worker_threads: Option<Whole<1, 1024>>,
}

/// `[broker]`
#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Broker {
    pub session_queue_messages: Option<Whole<1, { u64::MAX }>>,
    pub session_queue_bytes: Option<Bytes<1, { u64::MAX }>>,
    pub transaction_bytes: Option<Bytes<1024, { 48 * MIB }>>,
    pub sessions_max: Option<Whole<1, { u64::MAX }>>,
    pub retained_max: Option<Whole<0, { u64::MAX }>>,
    pub delayed_max: Option<Whole<0, { u64::MAX }>>,
    pub vhosts_max: Option<Whole<1, 100_000>>,
    /// Over all connections.
    pub channels_max: Option<Whole<1, { u64::MAX }>>,
    /// Over all virtual hosts, as `exchanges_max` is.
    pub queues_max: Option<Whole<0, { u64::MAX }>>,
    pub exchanges_max: Option<Whole<0, { u64::MAX }>>,
    pub relaxed_redeclare: Option<bool>,
    pub sys_interval_secs: Option<Whole<0, 86_400>>,
    pub restart_will_delay_secs: Option<Whole<0, 86_400>>,
    pub delivery: Option<Delivery>,
    pub memory_high: Option<Bytes<MIB, { u64::MAX }>>,
    pub transient_memory: Option<Bytes<0, { u64::MAX }>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    Early,
    Committed,
}

/// `[journal]`
#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    pub segment_bytes: Option<Bytes<MIB, GIB>>,
    pub checkpoint_bytes: Option<Bytes<{ 4 * MIB }, { 1024 * GIB }>>,
    pub checkpoint_interval_secs: Option<Whole<1, 86_400>>,
    pub staging_bytes: Option<Bytes<MIB, GIB>>,
    pub min_free_bytes: Option<Bytes<0, { u64::MAX }>>,
    pub evacuate_dead_percent: Option<Whole<10, 100>>,
    pub fill: Option<Fill>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    Allocate,
    Zero,
}

/// `[mqtt]`
#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    pub max_packet_size: Option<Bytes<128, 268_435_460>>,
    pub max_connect_size: Option<Bytes<128, 268_435_460>>,
    pub max_subscribe_size: Option<Bytes<128, { 16 * MIB }>>,
    pub receive_maximum: Option<Whole<1, 65_535>>,
    pub max_inflight: Option<Whole<1, 65_535>>,
    pub max_inflight_bytes: Option<Bytes<1, { u64::MAX }>>,
    pub topic_alias_maximum: Option<Whole<0, 65_535>>,
    pub max_qos: Option<Whole<0, 2>>,
    pub max_keepalive_secs: Option<Whole<0, 65_535>>,
    pub max_session_expiry_secs: Option<Whole<0, { u32::MAX as u64 }>>,
    pub max_topic_levels: Option<Whole<1, 65_535>>,
    pub retain_available: Option<bool>,
    pub allow_empty_client_id: Option<bool>,
    pub connect_timeout_secs: Option<Whole<1, 3_600>>,
    pub accept_versions: Option<Vec<MqttVersion>>,
    pub receive_maximum_overrun: Option<Overrun>,
    pub max_pending: Option<Whole<16, { 1 << 20 }>>,
    pub unauthorized: Option<Unauthorized>,
    pub check_payload_format: Option<bool>,
    pub strict_client_id: Option<bool>,
    pub auto_id_prefix: Option<Prefix>,
    pub response_prefix: Option<Prefix>,
    pub server_reference: Option<String>,
    /// The servers of `server_reference` are the right ones for good.
    pub server_moved: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum MqttVersion {
    #[serde(rename = "3.1")]
    V31,
    #[serde(rename = "3.1.1")]
    V311,
    #[serde(rename = "5.0")]
    V5,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overrun {
    Strict,
    Tolerant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unauthorized {
    Acknowledge,
    Disconnect,
}

/// `[amqp]`
#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Amqp {
    pub product: Option<Text<1, 128>>,
    pub version: Option<Text<1, 128>>,
    pub cluster_name: Option<Text<1, 128>>,
    pub frame_max: Option<Bytes<4096, { 16 * MIB }>>,
    pub channel_max: Option<Whole<1, 65_535>>,
    pub heartbeat_secs: Option<Whole<0, 65_535>>,
    pub handshake_timeout_secs: Option<Whole<1, 3_600>>,
    pub max_message_size: Option<Bytes<1, { 512 * MIB }>>,
    pub consumer_max_per_channel: Option<Whole<1, { u32::MAX as u64 }>>,
}

/// `[stomp]`
#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stomp {
    /// Of listeners whose URL does not name one.
    pub dialect: Option<StompDialect>,
    pub strict: Option<bool>,
    pub max_body_size: Option<Bytes<1, { 60 * MIB }>>,
    pub max_header_size: Option<Bytes<256, MIB>>,
    pub max_headers: Option<Whole<10, 10_000>>,
    pub max_subscriptions: Option<Whole<1, { 1 << 20 }>>,
    pub max_transactions: Option<Whole<1, 4096>>,
    pub connect_timeout_secs: Option<Whole<1, 3_600>>,
    pub min_heart_beat_ms: Option<Whole<10, 3_600_000>>,
    pub heart_beats_missed: Option<Whole<1, 100>>,
    pub default_prefetch: Option<Whole<0, 1_000_000>>,
    pub auto_create: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StompDialect {
    Native,
    RabbitMq,
    ActiveMq,
}

/// `[websocket]`
#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocket {
    /// Pages that may connect. Without it: any, but through this machine only those of this machine.
    pub origins: Option<Vec<String>>,
    pub max_message_size: Option<Bytes<1024, { u64::MAX }>>,
    /// 0 = no pings.
    pub ping_secs: Option<Whole<0, 86_400>>,
}

/// `[dead_letter]`: for queues that have no other word about it.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetter {
    /// The queue, in each virtual host.
    pub default: Option<QueueName>,
    pub redelivery_limit: Option<Whole<0, 1_000_000>>,
    pub redelivery_delay_ms: Option<Whole<0, { u32::MAX as u64 }>>,
    pub redelivery_delay_multiplier: Option<Whole<1, 1000>>,
    pub redelivery_delay_max_ms: Option<Whole<1, { u32::MAX as u64 }>>,
}

/// Of a queue that the broker makes.
#[derive(Clone, Debug)]
pub struct QueueName(pub String);

impl<'de> Deserialize<'de> for QueueName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<QueueName, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name.is_empty() || name.len() > 255 || name.starts_with("amq.") {
            let right = "right would be the name of a queue, up to 255 bytes and without amq. before it";
            return Err(serde::de::Error::custom(format!("'{name}': {right}")));
        }
        Ok(QueueName(name))
    }
}

/// A listen URL, refused at its line.
#[derive(Clone, Debug)]
pub struct Listen(pub ListenUrl);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Listen, D::Error> {
        String::deserialize(deserializer)?.parse().map(Listen).map_err(serde::de::Error::custom)
    }
}

/// A log filter, refused at its line.
#[derive(Clone, Debug)]
pub struct LogLevel(pub String);

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LogLevel, D::Error> {
        let text = String::deserialize(deserializer)?;
        crate::logging::parse(&text).map_err(serde::de::Error::custom)?;
        Ok(LogLevel(text))
    }
}
