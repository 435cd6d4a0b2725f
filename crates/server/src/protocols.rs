//! The list of protocols. The only place that names every one of them.

use crate::config::file;
use crate::config::Settings;
use anyhow::{Context, Result};
use broker_api::{Protocol, Tracer, Views};
use gateway::{Endpoint, ListenUrl, Spoken, Web};
use std::num::{NonZeroU16, NonZeroU64};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;
use websocket::Origins;

/// Where RabbitMQ's web-stomp plug-in listens, plain and with TLS: whoever says nothing else means STOMP there.
pub const WEB_STOMP: u16 = 15674;
pub const WEB_STOMP_TLS: u16 = 15673;

/// Schemes of listen URLs, and what is spoken there.
pub struct List {
    mqtt: Arc<mqtt::Mqtt>,
    /// As `[amqp]` has it; a URL may name another product.
    amqp: amqp091::Config,
    /// As `[stomp]` has it; a URL may say otherwise.
    stomp: stomp::Config,
    origins: Origins,
    websocket: websocket::Config,
}

pub fn all(settings: &Settings) -> Result<List> {
    let config = mqtt_config(&settings.mqtt);
    config.check().context("in [mqtt]")?;
    let mqtt = mqtt::Mqtt::among(config, header_views());
    let relaxed_redeclare = settings.broker.relaxed_redeclare.unwrap_or_default();
    let amqp = amqp091::Config { relaxed_redeclare, ..amqp_config(&settings.amqp) };
    amqp.check().context("in [amqp]")?;
    let mut stomp = stomp_config(&settings.stomp);
    stomp.dead_letters = settings.dead_letter.default.is_some();
    stomp.check().context("in [stomp]")?;
    let origins = Origins::new(settings.websocket.origins.clone()).map_err(anyhow::Error::msg).context("in [websocket]")?;
    let websocket = websocket_config(&settings.websocket);
    Ok(List { mqtt, amqp, stomp, origins, websocket })
}

/// How each protocol's messages are read by exchanges and by the other protocols.
pub fn header_views() -> Views {
    vec![
        (mqtt::FORMAT_V3, Arc::new(mqtt::Headers)),
        (mqtt::FORMAT_V5, Arc::new(mqtt::Headers)),
        (amqp091::FORMAT, Arc::new(amqp091::Headers)),
        (stomp::FORMAT, Arc::new(stomp::Headers)),
    ]
}

/// How publishes and deliveries are told of, where a virtual host is traced.
pub fn tracer() -> Arc<dyn Tracer> {
    Arc::new(amqp091::Firehose::new(header_views()))
}

impl List {
    /// With the settings that [`crate::listeners::check_url`] has passed.
    pub fn of_url(&self, url: &ListenUrl) -> Option<Spoken> {
        match url.scheme.as_str() {
            "ws" => self.web(url).map(Spoken::Web),
            "any" => self.web(url).map(Spoken::Any),
            scheme => self.speaker(scheme, url).map(Spoken::One),
        }
    }

    fn speaker(&self, scheme: &str, url: &ListenUrl) -> Option<Arc<dyn Protocol>> {
        match scheme {
            "mqtt" | "unix" => Some(self.mqtt.clone()),
            "amqp" => Some(self.amqp_of(url)),
            "stomp" => Some(self.stomp_of(url)),
            _ => None,
        }
    }

    fn amqp_of(&self, url: &ListenUrl) -> Arc<dyn Protocol> {
        let or = |name, general: &String| url.setting(name).map_or_else(|| general.clone(), str::to_owned);
        let (product, version) = (or("product", &self.amqp.product), or("version", &self.amqp.version));
        amqp091::Amqp::new(amqp091::Config { product, version, ..self.amqp.clone() }, header_views())
    }

    fn stomp_of(&self, url: &ListenUrl) -> Arc<dyn Protocol> {
        let dialect = url.setting("dialect").and_then(stomp::Dialect::named).unwrap_or(self.stomp.dialect);
        let strict = url.setting("strict").map_or(self.stomp.strict, |strict| strict == "true");
        stomp::Stomp::new(stomp::Config { strict, ..self.stomp.clone().speaking(dialect) }, header_views())
    }

    /// All of them, bare and over WebSocket.
    fn web(&self, url: &ListenUrl) -> Option<Arc<Web>> {
        let protocols = ["mqtt", "amqp", "stomp"].into_iter().map(|scheme| Some((scheme, self.speaker(scheme, url)?)));
        let is_stomp = matches!(url.endpoint, Endpoint::Tcp { port: WEB_STOMP | WEB_STOMP_TLS, .. });
        let default = url.setting("default").unwrap_or(if is_stomp { "stomp" } else { "mqtt" });
        Web::new(protocols.collect::<Option<_>>()?, default, self.origins.clone(), self.websocket.clone()).map(Arc::new)
    }
}

impl List {
    /// Deliveries that protocols dropped and publishes that were refused, over all of them, since the start.
    pub fn lost(&self) -> impl Fn() -> (u64, u64) + Send + Sync + 'static {
        let mqtt = self.mqtt.clone();
        move || {
            let counters = mqtt.counters();
            let dropped = [&counters.too_large, &counters.expired, &counters.unsayable];
            (dropped.iter().map(|counter| counter.load(Relaxed)).sum(), counters.refused.load(Relaxed))
        }
    }
}

fn websocket_config(file: &file::WebSocket) -> websocket::Config {
    let default = websocket::Config::default();
    let ping = |secs: u64| (secs > 0).then(|| Duration::from_secs(secs));
    websocket::Config {
        message_max: file.max_message_size.map_or(default.message_max, |bytes| bytes.0),
        ping: file.ping_secs.map_or(default.ping, |secs| ping(secs.0)),
    }
}

/// `[amqp]` over the defaults of the crate. The file's bounds make the narrowing exact.
fn amqp_config(file: &file::Amqp) -> amqp091::Config {
    let default = amqp091::Config::default();
    amqp091::Config {
        product: file.product.clone().map_or(default.product, |text| text.0),
        version: file.version.clone().map_or(default.version, |text| text.0),
        cluster_name: file.cluster_name.clone().map_or(default.cluster_name, |text| text.0),
        frame_max: file.frame_max.map_or(default.frame_max, |bytes| bytes.0 as u32),
        channel_max: file.channel_max.map_or(default.channel_max, |n| n.0 as u16),
        heartbeat_secs: file.heartbeat_secs.map_or(default.heartbeat_secs, |n| n.0 as u16),
        handshake_timeout: file.handshake_timeout_secs.map_or(default.handshake_timeout, |n| Duration::from_secs(n.0)),
        max_message_size: file.max_message_size.map_or(default.max_message_size, |bytes| bytes.0),
        consumer_max_per_channel: file.consumer_max_per_channel.map(|n| n.0 as u32).or(default.consumer_max_per_channel),
        relaxed_redeclare: default.relaxed_redeclare,
    }
}

/// `[stomp]` over the defaults of the crate. The file's bounds make the narrowing exact.
fn stomp_config(file: &file::Stomp) -> stomp::Config {
    let default = stomp::Config::default();
    let limits = stomp::codec::Limits {
        body: file.max_body_size.map_or(default.limits.body, |bytes| bytes.0 as usize),
        header: file.max_header_size.map_or(default.limits.header, |bytes| bytes.0 as usize),
        headers: file.max_headers.map_or(default.limits.headers, |n| n.0 as usize),
        ..default.limits
    };
    stomp::Config {
        dialect: file.dialect.map_or(default.dialect, |dialect| match dialect {
            file::StompDialect::Native | file::StompDialect::RabbitMq => stomp::Dialect::RabbitMq,
            file::StompDialect::ActiveMq => stomp::Dialect::ActiveMq,
        }),
        strict: file.strict.unwrap_or(default.strict),
        limits,
        max_subscriptions: file.max_subscriptions.map_or(default.max_subscriptions, |n| n.0 as usize),
        max_transactions: file.max_transactions.map_or(default.max_transactions, |n| n.0 as usize),
        connect_timeout: file.connect_timeout_secs.map_or(default.connect_timeout, |n| Duration::from_secs(n.0)),
        min_heart_beat: file.min_heart_beat_ms.map_or(default.min_heart_beat, |n| Duration::from_millis(n.0)),
        heart_beats_missed: file.heart_beats_missed.map_or(default.heart_beats_missed, |n| n.0 as u32),
        auto_create: file.auto_create.unwrap_or(default.auto_create),
        default_prefetch: file.default_prefetch.map(|n| n.0 as u32).or(default.default_prefetch),
        ..default
    }
}

/// `[mqtt]` over the defaults of the crate. The file's bounds make the narrowing exact.
fn mqtt_config(file: &file::Mqtt) -> mqtt::Config {
    let default = mqtt::Config::default();
    let non_zero = |value: Option<u64>, default| value.and_then(|value| NonZeroU16::new(value as u16)).unwrap_or(default);
    mqtt::Config {
        max_packet_size: file.max_packet_size.map_or(default.max_packet_size, |bytes| bytes.0 as u32),
        max_connect_size: file.max_connect_size.map_or(default.max_connect_size, |bytes| bytes.0 as u32),
        max_subscribe_size: file.max_subscribe_size.map_or(default.max_subscribe_size, |bytes| bytes.0 as u32),
        receive_maximum: non_zero(file.receive_maximum.map(|n| n.0), default.receive_maximum),
        max_inflight: non_zero(file.max_inflight.map(|n| n.0), default.max_inflight),
        max_inflight_bytes: file.max_inflight_bytes.and_then(|bytes| NonZeroU64::new(bytes.0)).or(default.max_inflight_bytes),
        topic_alias_maximum: file.topic_alias_maximum.map_or(default.topic_alias_maximum, |n| n.0 as u16),
        max_qos: file.max_qos.map_or(default.max_qos, |n| match n.0 {
            0 => mqtt::codec::Qos::AtMostOnce,
            1 => mqtt::codec::Qos::AtLeastOnce,
            _ => mqtt::codec::Qos::ExactlyOnce,
        }),
        max_keepalive_secs: file.max_keepalive_secs.map_or(default.max_keepalive_secs, |n| n.0 as u16),
        max_session_expiry_secs: file.max_session_expiry_secs.map(|n| n.0 as u32).or(default.max_session_expiry_secs),
        max_topic_levels: non_zero(file.max_topic_levels.map(|n| n.0), default.max_topic_levels),
        retain_available: file.retain_available.unwrap_or(default.retain_available),
        allow_empty_client_id: file.allow_empty_client_id.unwrap_or(default.allow_empty_client_id),
        connect_timeout: file.connect_timeout_secs.map_or(default.connect_timeout, |n| Duration::from_secs(n.0)),
        accept_versions: file.accept_versions.as_ref().map_or(default.accept_versions, |list| list.iter().map(version).collect()),
        receive_maximum_overrun: file.receive_maximum_overrun.map_or(default.receive_maximum_overrun, |overrun| match overrun {
            file::Overrun::Strict => mqtt::Overrun::Strict,
            file::Overrun::Tolerant => mqtt::Overrun::Tolerant,
        }),
        max_pending: file.max_pending.map_or(default.max_pending, |n| n.0 as u32),
        unauthorized: file.unauthorized.map_or(default.unauthorized, |unauthorized| match unauthorized {
            file::Unauthorized::Acknowledge => mqtt::Unauthorized::Acknowledge,
            file::Unauthorized::Disconnect => mqtt::Unauthorized::Disconnect,
        }),
        check_payload_format: file.check_payload_format.unwrap_or(default.check_payload_format),
        strict_client_id: file.strict_client_id.unwrap_or(default.strict_client_id),
        auto_id_prefix: file.auto_id_prefix.clone().map_or(default.auto_id_prefix, |text| text.0),
        response_prefix: file.response_prefix.clone().map(|text| text.0).or(default.response_prefix),
        server_reference: server_reference(file).or(default.server_reference),
    }
}

fn version(version: &file::MqttVersion) -> mqtt::codec::Version {
    match version {
        file::MqttVersion::V31 => mqtt::codec::Version::V31,
        file::MqttVersion::V311 => mqtt::codec::Version::V311,
        file::MqttVersion::V5 => mqtt::codec::Version::V5,
    }
}

fn server_reference(file: &file::Mqtt) -> Option<mqtt::ServerReference> {
    file.server_reference.as_ref().map(|servers| mqtt::ServerReference { servers: servers.clone(), moved: file.server_moved })
}

#[cfg(test)]
mod tests;
