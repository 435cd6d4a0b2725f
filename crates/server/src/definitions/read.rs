//! From the text of a definitions file to [`Definitions`].

use super::json::{kind_of, Object};
use super::{Definitions, Placed};
use amqp091::codec::{ArrayWriter, Field, TableWriter};
use amqp091::{exchange_spec, queue_spec, ExchangeFlags, QueueFlags};
use anyhow::{anyhow, bail, Context, Result};
use broker::auth::{Credential, Permission, TopicPermission, User};
use broker::{known_policy_setting, ApplyTo, Policy, PolicyKind, PolicyValue, VhostLimits};
use broker_api::{Bind, Destination, ExchangeName, OwnerIx, QueueName};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A million bindings take some 200 MB of text.
const FILE_MAX: u64 = 256 << 20;
const DEPTH_MAX: usize = 16;
/// Parameters that say who wrote the file.
const OF_THE_ORIGIN: [&str; 4] = ["cluster_name", "internal_cluster_id", "cluster_tags", "mqtt_port_to_vhost_mapping"];

impl Definitions {
    pub fn load(path: &Path) -> Result<Definitions> {
        let whole = || format!("in the definitions file {}", path.display());
        let size = std::fs::metadata(path).with_context(|| format!("cannot read the definitions file {}", path.display()))?.len();
        if size > FILE_MAX {
            bail!("the definitions file {} has {size} bytes, more than {FILE_MAX}", path.display());
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the definitions file {}", path.display()))?;
        Definitions::parse(&text).with_context(whole)
    }

    pub fn parse(text: &str) -> Result<Definitions> {
        let document: Value = serde_json::from_str(text).context("it is not JSON")?;
        let mut all = Object::new(&document, String::new())?;
        let mut found = Definitions::default();
        let version = all.opt_text("rabbitmq_version")?.or(all.opt_text("rabbit_version")?).unwrap_or("").to_owned();
        for key in ["product_name", "product_version", "original_cluster_name", "explanation"] {
            all.value(key);
        }
        // An export of one virtual host says its name once, if at all.
        let vhost = all.opt_text("original_vhost_name")?.unwrap_or("/").to_owned();
        found.users(&mut all, &version)?;
        found.vhosts(&mut all)?;
        found.permissions(&mut all)?;
        found.parameters(&mut all, &vhost)?;
        found.policies(&mut all, "policies", PolicyKind::User, &vhost)?;
        found.policies(&mut all, "operator_policies", PolicyKind::Operator, &vhost)?;
        found.exchanges(&mut all, &vhost)?;
        found.queues(&mut all, &vhost)?;
        found.bindings(&mut all, &vhost)?;
        found.unknown(&all);
        Ok(found)
    }

    fn unknown(&mut self, object: &Object<'_>) {
        self.notes.extend(object.unknown().into_iter().map(|path| format!("{path}: not known here, without effect")));
    }

    fn users(&mut self, all: &mut Object<'_>, version: &str) -> Result<()> {
        for mut user in all.objects("users")? {
            let name = user.text("name")?.to_owned();
            let tags = tags(&mut user)?;
            // Before 3.6 exports did not say it.
            let old = ["3.0.", "3.1.", "3.2.", "3.3.", "3.4.", "3.5.", "2."].iter().any(|old| version.starts_with(old));
            let default = if old { "rabbit_password_hashing_md5" } else { "rabbit_password_hashing_sha256" };
            let algorithm = user.opt_text("hashing_algorithm")?.unwrap_or(default);
            let (password, hash) = (user.opt_text("password")?, user.opt_text("password_hash")?);
            let connections_max = limit(user.value("limits"), "max-connections").with_context(|| user.at("limits"))?;
            let channels_max = limit(user.value("limits"), "max-channels").with_context(|| user.at("limits"))?;
            let credential = match (password, hash) {
                (Some(password), _) if !password.is_empty() => Credential::Plain(password.to_owned()),
                (_, Some(hash)) if !hash.is_empty() => Credential::Hash(format!("{{{algorithm}}}{hash}")),
                // As there: such a user logs in by a client certificate.
                _ => Credential::None,
            };
            self.unknown(&user);
            self.users.push(User { name, credential, tags, connections_max, channels_max });
        }
        Ok(())
    }

    fn vhosts(&mut self, all: &mut Object<'_>) -> Result<()> {
        for mut vhost in all.objects("vhosts")? {
            let name = vhost.text("name")?.to_owned();
            for key in ["description", "tags", "metadata", "protected_from_deletion"] {
                vhost.value(key);
            }
            if vhost.flag("tracing")? {
                self.traced_vhosts.push(name.clone());
            }
            // 3.13 says it in both places.
            let kind = vhost.opt_text("default_queue_type")?;
            let kind = match vhost.value("metadata").and_then(|metadata| metadata.get("default_queue_type")) {
                Some(Value::String(kind)) => Some(kind.as_str()),
                _ => kind,
            };
            match kind {
                Some("quorum") => self.default_queue_types.push((name.clone(), "quorum".to_owned())),
                None | Some("classic" | "undefined") => {}
                Some(other) => self.notes.push(format!("{}: default queue type '{other}' is not there yet, without effect", vhost.path())),
            }
            let limits = limits(vhost.value("limits")).with_context(|| vhost.at("limits"))?;
            self.vhost_limits.extend(limits.map(|limits| (name.clone(), limits)));
            self.unknown(&vhost);
            if name != "/" {
                self.vhosts.push(name);
            }
        }
        Ok(())
    }

    fn permissions(&mut self, all: &mut Object<'_>) -> Result<()> {
        let users: BTreeSet<String> = self.users.iter().map(|user| user.name.clone()).collect();
        for mut permission in all.objects("permissions")? {
            let (user, vhost) = (permission.text("user")?, permission.text("vhost")?);
            let patterns = [permission.text("configure")?, permission.text("write")?, permission.text("read")?];
            self.unknown(&permission);
            if !users.contains(user) {
                self.notes.push(format!("{}: there is no user '{user}' in the file, left out", permission.path()));
                continue;
            }
            let parsed = Permission::parse(user, vhost, patterns[0], patterns[1], patterns[2]);
            self.permissions.push(parsed.with_context(|| permission.path().to_owned())?);
        }
        if let (false, true, Some(user)) = (self.users.is_empty(), self.permissions.is_empty(), self.users.first()) {
            // To RabbitMQ no permission is none at all; to our configuration, no line about permissions means that everybody may do everything.
            self.permissions.push(Permission::parse(&user.name, "", "", "", "").context("permissions")?);
        }
        for mut permission in all.objects("topic_permissions")? {
            let (user, vhost) = (permission.text("user")?, permission.text("vhost")?);
            let (exchange, write, read) = (permission.text("exchange")?, permission.text("write")?, permission.text("read")?);
            self.unknown(&permission);
            if !users.contains(user) {
                self.notes.push(format!("{}: there is no user '{user}' in the file, left out", permission.path()));
                continue;
            }
            let parsed = TopicPermission::parse(user, vhost, exchange, write, read);
            self.topic_permissions.push(parsed.with_context(|| permission.path().to_owned())?);
        }
        Ok(())
    }

    fn parameters(&mut self, all: &mut Object<'_>, default_vhost: &str) -> Result<()> {
        for key in ["parameters", "global_parameters"] {
            for mut parameter in all.objects(key)? {
                let name = parameter.text("name")?;
                let component = parameter.opt_text("component")?.unwrap_or("");
                let vhost = parameter.opt_text("vhost")?.unwrap_or(default_vhost).to_owned();
                // Where RabbitMQ's own exports have them.
                if let ("operator_policy", Some(value)) = (component, parameter.value("value")) {
                    self.policy(Object::new(value, parameter.at("value"))?, name, &vhost, PolicyKind::Operator)?;
                } else if let ("vhost-limits", Some(value)) = (component, parameter.value("value")) {
                    let limits = limits(Some(value)).with_context(|| parameter.at("value"))?;
                    self.vhost_limits.extend(limits.map(|limits| (vhost, limits)));
                } else if key == "parameters" || !OF_THE_ORIGIN.contains(&name) {
                    let of = if component.is_empty() { String::new() } else { format!(" of {component}") };
                    self.notes.push(format!("{}: parameter '{name}'{of} has no effect here", parameter.path()));
                }
            }
        }
        Ok(())
    }

    fn policies(&mut self, all: &mut Object<'_>, key: &'static str, kind: PolicyKind, default_vhost: &str) -> Result<()> {
        for mut policy in all.objects(key)? {
            let vhost = policy.opt_text("vhost")?.unwrap_or(default_vhost).to_owned();
            let name = policy.text("name")?;
            self.policy(policy, name, &vhost, kind)?;
        }
        Ok(())
    }

    fn policy(&mut self, mut policy: Object<'_>, name: &str, vhost: &str, kind: PolicyKind) -> Result<()> {
        let pattern = policy.text("pattern")?.to_owned();
        let apply_to = policy.opt_text("apply-to")?.unwrap_or("all");
        let apply_to =
            ApplyTo::parse(apply_to).ok_or_else(|| anyhow!("{}: '{apply_to}' is nothing policies apply to", policy.at("apply-to")))?;
        let priority = policy.int("priority")?.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        let mut definition = BTreeMap::new();
        for (setting, value) in policy.pairs("definition")? {
            let at = format!("{}.{setting}", policy.at("definition"));
            if known_policy_setting(setting) {
                if !broker::policy_setting_acts(setting) {
                    self.notes.push(format!("{at}: kept, without effect here"));
                }
                definition.insert(setting.to_owned(), policy_value(value, 0).map_err(|why| anyhow!("{at}: {why}"))?);
            } else {
                self.notes.push(format!("{at}: not a setting that is known here, without effect"));
            }
        }
        self.unknown(&policy);
        let (path, vhost) = (policy.path().to_owned(), vhost.to_owned());
        let policy = Policy { name: name.to_owned(), pattern, apply_to, priority, definition };
        if policy.definition.is_empty() {
            self.notes.push(format!("{path}: policy '{name}' has no setting that is known here and is left out"));
            return Ok(());
        }
        broker::check_policy(kind, &policy).map_err(|why| anyhow!("{path}: {why}"))?;
        self.policies.push(Placed { path, vhost, what: (kind, policy) });
        Ok(())
    }

    fn exchanges(&mut self, all: &mut Object<'_>, default_vhost: &str) -> Result<()> {
        for mut exchange in all.objects("exchanges")? {
            let vhost = exchange.opt_text("vhost")?.unwrap_or(default_vhost).to_owned();
            let (name, kind) = (exchange.text("name")?, exchange.text("type")?);
            let flags = ExchangeFlags {
                durable: exchange.flag("durable")?,
                auto_delete: exchange.flag("auto_delete")?,
                internal: exchange.flag("internal")?,
            };
            let arguments = arguments(&mut exchange)?;
            exchange.value("policy");
            let path = exchange.path().to_owned();
            let spec = exchange_spec(name, &vhost, kind, flags, arguments.as_table()).map_err(|fault| anyhow!("{path}: {}", fault.text))?;
            self.unknown(&exchange);
            self.exchanges.push(Placed { path, vhost, what: (ExchangeName::new(name), spec) });
        }
        Ok(())
    }

    fn queues(&mut self, all: &mut Object<'_>, default_vhost: &str) -> Result<()> {
        for mut queue in all.objects("queues")? {
            let vhost = queue.opt_text("vhost")?.unwrap_or(default_vhost).to_owned();
            let name = queue.text("name")?;
            let flags = QueueFlags { durable: queue.flag("durable")?, exclusive: false, auto_delete: queue.flag("auto_delete")? };
            let mut table = arguments(&mut queue)?;
            match queue.opt_text("type")? {
                Some(kind) if table.as_table().get("x-queue-type").is_none() => {
                    table.text("x-queue-type", kind);
                }
                _ => {}
            }
            queue.value("policy");
            let path = queue.path().to_owned();
            self.unknown(&queue);
            match queue_spec(name, &vhost, flags, table.as_table()) {
                Ok(spec) => self.queues.push(Placed { path, vhost, what: (QueueName::new(name), spec) }),
                // A type that is not there yet keeps nobody from having the rest.
                Err(fault) if fault.code == amqp091::Code::NotImplemented => self.notes.push(format!("{path}: not made: {}", fault.text)),
                Err(fault) => bail!("{path}: {}", fault.text),
            }
        }
        Ok(())
    }

    fn bindings(&mut self, all: &mut Object<'_>, default_vhost: &str) -> Result<()> {
        for mut binding in all.objects("bindings")? {
            let vhost = binding.opt_text("vhost")?.unwrap_or(default_vhost).to_owned();
            let (source, destination) = (binding.text("source")?, binding.text("destination")?);
            let destination = match binding.opt_text("destination_type")?.unwrap_or("queue") {
                "queue" => Destination::Queue(QueueName::new(destination)),
                "exchange" => Destination::Exchange(ExchangeName::new(destination)),
                other => bail!("{}: '{other}' instead of queue or exchange", binding.at("destination_type")),
            };
            let key = binding.opt_text("routing_key")?.unwrap_or("").into();
            let arguments = arguments(&mut binding)?.as_table().as_bytes().to_vec();
            binding.value("properties_key");
            let path = binding.path().to_owned();
            self.unknown(&binding);
            // Every queue is bound to the default exchange; old exports say so.
            if !source.is_empty() {
                let source = ExchangeName::new(source);
                let bind = Bind { owner: OwnerIx(1), source, destination, key, arguments, format: amqp091::FORMAT };
                self.bindings.push(Placed { path, vhost, what: bind });
            }
        }
        Ok(())
    }
}

/// A list, or as before 3.9 a text with commas.
fn tags(user: &mut Object<'_>) -> Result<Vec<String>> {
    let at = user.at("tags");
    match user.value("tags") {
        None => Ok(Vec::new()),
        Some(Value::String(tags)) => Ok(tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()),
        Some(Value::Array(tags)) => {
            let tag = |tag: &Value| tag.as_str().map(str::to_owned).ok_or_else(|| anyhow!("{at}: {} instead of a text", kind_of(tag)));
            tags.iter().map(tag).collect()
        }
        Some(other) => bail!("{at}: {} instead of a list", kind_of(other)),
    }
}

fn policy_value(value: &Value, depth: usize) -> Result<PolicyValue, String> {
    match value {
        Value::Bool(value) => Ok(PolicyValue::Bool(*value)),
        Value::String(text) => Ok(PolicyValue::Text(text.clone())),
        Value::Number(number) => number.as_i64().map(PolicyValue::Int).ok_or_else(|| format!("{number} is no whole number")),
        Value::Array(list) if depth < DEPTH_MAX => {
            list.iter().map(|value| policy_value(value, depth + 1)).collect::<Result<_, _>>().map(PolicyValue::List)
        }
        other => Err(format!("{} has no place in a policy", kind_of(other))),
    }
}

/// The field table that RabbitMQ makes of a JSON object.
fn arguments(object: &mut Object<'_>) -> Result<TableWriter> {
    let at = object.at("arguments");
    let mut table = TableWriter::default();
    for (name, value) in object.pairs("arguments")? {
        if name.len() > 255 {
            bail!("{at}: a name of {} bytes is longer than 255", name.len());
        }
        with_field(value, 0, &mut |field| {
            table.put(name.as_bytes(), &field);
        })
        .map_err(|why| anyhow!("{at}.{name}: {why}"))?;
    }
    Ok(table)
}

fn with_field(value: &Value, depth: usize, each: &mut dyn FnMut(Field<'_>)) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("more than {DEPTH_MAX} levels"));
    }
    match value {
        Value::Null => each(Field::Void),
        Value::Bool(value) => each(Field::Bool(*value)),
        Value::String(text) => each(Field::LongStr(text.as_bytes())),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => each(Field::I64(integer)),
            (None, Some(float)) => each(Field::F64(float)),
            (None, None) => return Err(format!("{number} cannot be said")),
        },
        Value::Array(list) => {
            let mut array = ArrayWriter::default();
            for value in list {
                with_field(value, depth + 1, &mut |field| {
                    array.put(&field);
                })?;
            }
            each(Field::Array(array.as_array()));
        }
        Value::Object(fields) => {
            let mut table = TableWriter::default();
            for (name, value) in fields {
                if name.len() > 255 {
                    return Err("a name longer than 255 bytes".to_owned());
                }
                with_field(value, depth + 1, &mut |field| {
                    table.put(name.as_bytes(), &field);
                })?;
            }
            each(Field::Table(table.as_table()));
        }
    }
    Ok(())
}

/// A limit of this name; less than none means that there is none, as in RabbitMQ.
fn limit(limits: Option<&Value>, name: &str) -> Result<Option<u64>> {
    match limits.and_then(|limits| limits.get(name)) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_i64() {
            Some(number) => Ok(u64::try_from(number).ok()),
            None => bail!("{name}: a {} instead of a whole number", kind_of(value)),
        },
    }
}

/// `None`: nothing is said.
fn limits(value: Option<&Value>) -> Result<Option<VhostLimits>> {
    let found = VhostLimits { connections_max: limit(value, "max-connections")?, queues_max: limit(value, "max-queues")? };
    Ok(Some(found).filter(|found| *found != VhostLimits::default()))
}
