//! A configuration in the form that logins use. Made once, never changed: a reload makes another.

use super::acl::{RuleBook, Who};
use super::cache::Recent;
use super::config::{check_name, Config, ConfigError, Credential, User, PASSWORD_MAX};
use super::hash::PasswordHash;
use super::keyed::{fill_random, same, Digest, Key};
use super::permission::{Access, Permission, Permissions};
use super::principal::{Principal, Quota, ANONYMOUS};
use super::scram::{self, Algorithm, Verifier};
use super::topic_permission::TopicPermissions;
use ahash::RandomState;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// Verified credentials that need no slow hash any more. 10,000 digests are some 500 KB.
const VERIFIED_MAX: usize = 10_000;
const REFUSED_MAX: usize = 10_000;

/// RabbitMQ's tag for those who may do everything.
const ADMINISTRATOR: &str = "administrator";

pub(super) struct Table {
    pub(super) generation: u64,
    pub(super) anonymous: Arc<Principal>,
    pub(super) anonymous_on_loopback: bool,
    users: HashMap<Box<str>, Arc<Entry>, RandomState>,
    /// In the order of the configuration; a name that does not exist is answered as one of these would be.
    order: Vec<Arc<Entry>>,
    /// Digests of (user, password).
    pub(super) verified: Recent,
    pub(super) refused: Recent,
    /// Names that do not exist and have already been made to wait as long as a first SCRAM login takes.
    pub(super) nobodies: Recent,
    /// What answers for names that do not exist are made of. Never made of passwords: salts are public, and one made of a password would
    /// let it be guessed at the price of an HMAC.
    seed: Key,
}

pub(super) struct Entry {
    pub(super) principal: Arc<Principal>,
    secret: Secret,
    loopback_only: bool,
    /// Derived from a plain password when SCRAM first asks for it, by algorithm.
    derived: [OnceLock<Verifier>; 2],
}

enum Secret {
    Plain { password: Box<[u8]>, digest: Digest },
    Hash(PasswordHash),
}

/// Whom a name stands for, or who is asked in its place.
pub(super) struct Found<'a> {
    pub(super) entry: &'a Arc<Entry>,
    /// False: whatever the password, the answer is no.
    pub(super) real: bool,
}

impl Entry {
    pub(super) fn is_slow(&self) -> bool {
        matches!(&self.secret, Secret::Hash(hash) if hash.is_slow())
    }

    pub(super) fn verify(&self, process: &Key, password: &[u8]) -> bool {
        match &self.secret {
            Secret::Plain { digest, .. } => same(&process.digest(&[password]), digest),
            Secret::Hash(hash) => hash.verify(password),
        }
    }
}

/// What SCRAM needs of a user.
pub(super) struct ScramUser {
    entry: Arc<Entry>,
    name: Box<str>,
    real: bool,
    algorithm: Algorithm,
    pub(super) salt: Box<[u8]>,
    pub(super) iterations: u32,
}

fn wrong(permission: &Permission, why: &str) -> ConfigError {
    ConfigError::Permission { user: permission.user().to_owned(), vhost: permission.vhost().to_owned(), why: why.to_owned() }
}

/// `None`: there are none of anybody.
fn permissions_of(user: &str, all: &[Permission]) -> Result<Option<Permissions>, ConfigError> {
    if all.is_empty() {
        return Ok(None);
    }
    let mut own = Permissions::default();
    for permission in all.iter().filter(|p| p.user() == user) {
        if own.insert(permission.vhost().into(), Access::new(permission)).is_some() {
            return Err(wrong(permission, "it is there twice"));
        }
    }
    Ok(Some(own))
}

impl Table {
    /// `before`: the one that this takes the place of, which has counted.
    pub(super) fn new(config: &Config, generation: u64, process: &Key, before: Option<&Table>) -> Result<Table, ConfigError> {
        let quota = |name: &str, connections: Option<u64>, channels: Option<u64>| {
            let quota = before.and_then(|table| table.principal(name)?.quota.clone()).unwrap_or_else(Quota::new);
            quota.max.store(connections.unwrap_or(u64::MAX), Ordering::Relaxed);
            quota.channels_max.store(channels.unwrap_or(u64::MAX), Ordering::Relaxed);
            quota
        };
        let guest;
        let (users, loopback_only) = match &config.users[..] {
            [] => {
                let credential = Credential::Plain("guest".to_owned());
                guest = [User {
                    name: "guest".to_owned(),
                    credential,
                    tags: vec![ADMINISTRATOR.to_owned()],
                    connections_max: None,
                    channels_max: None,
                }];
                (&guest[..], true)
            }
            users => (users, false),
        };
        let book = RuleBook::new(&config.rules);
        let mut table = Table {
            generation,
            anonymous: Arc::new(Principal {
                name: ANONYMOUS.into(),
                tags: [].into(),
                administrator: false,
                anonymous: true,
                rules: book.of(None),
                permissions: permissions_of(ANONYMOUS, &config.permissions)?,
                topic_permissions: TopicPermissions::of(ANONYMOUS, &config.topic_permissions)?,
                quota: Some(quota(ANONYMOUS, None, None)),
            }),
            anonymous_on_loopback: config.anonymous_on_loopback,
            users: HashMap::with_capacity_and_hasher(users.len(), RandomState::new()),
            order: Vec::with_capacity(users.len()),
            verified: Recent::new(VERIFIED_MAX),
            refused: Recent::new(REFUSED_MAX),
            nobodies: Recent::new(REFUSED_MAX),
            seed: Key::from_digest(config.salt_secret.unwrap_or_else(|| process.digest(&[b"made-up answers", b"", b""]))),
        };
        for user in users {
            let principal = Principal {
                name: user.name.as_str().into(),
                administrator: user.tags.iter().any(|tag| tag == ADMINISTRATOR),
                tags: user.tags.clone().into(),
                anonymous: false,
                rules: book.of(Some(&user.name)),
                permissions: permissions_of(&user.name, &config.permissions)?,
                topic_permissions: TopicPermissions::of(&user.name, &config.topic_permissions)?,
                quota: Some(quota(&user.name, user.connections_max, user.channels_max)),
            };
            let loopback_only = loopback_only || config.loopback_users.contains(&user.name);
            let added = table.add(user, loopback_only, principal, process);
            added.map_err(|why| ConfigError::User { name: user.name.clone(), why })?;
        }
        table.check_rules(config)?;
        Ok(table)
    }

    fn add(&mut self, user: &User, loopback_only: bool, principal: Principal, process: &Key) -> Result<(), String> {
        check_name(&user.name)?;
        let secret = match &user.credential {
            Credential::Plain(password) if password.is_empty() => return Err("the password is empty".to_owned()),
            Credential::Plain(password) if password.len() > PASSWORD_MAX => {
                return Err(format!("the password is longer than {PASSWORD_MAX} bytes"))
            }
            Credential::Plain(password) => {
                Secret::Plain { password: password.as_bytes().into(), digest: process.digest(&[password.as_bytes()]) }
            }
            Credential::Hash(text) => Secret::Hash(PasswordHash::parse(text).map_err(|why| format!("password_hash: {why}"))?),
            // One that nobody knows, so that nothing tells such a user from others by how long a refusal takes.
            Credential::None => {
                let mut password = [0; 32];
                fill_random(&mut password).map_err(|error| format!("no random numbers: {error}"))?;
                Secret::Plain { password: password.into(), digest: process.digest(&[&password]) }
            }
        };
        let entry = Arc::new(Entry { principal: Arc::new(principal), secret, loopback_only, derived: Default::default() });
        if self.users.insert(user.name.as_str().into(), entry.clone()).is_some() {
            return Err("there are two users of this name".to_owned());
        }
        self.order.push(entry);
        Ok(())
    }

    fn check_rules(&self, config: &Config) -> Result<(), ConfigError> {
        for rule in &config.rules {
            if let Who::User(name) = rule.who() {
                if !self.users.contains_key(name.as_str()) {
                    let why = format!("there is no user {name:?} (\"*\" is everybody)");
                    return Err(ConfigError::Rule { topic: rule.topic().to_owned(), why });
                }
            }
        }
        let nobody = |user: &str| user != ANONYMOUS && !self.users.contains_key(user);
        if let Some(p) = config.permissions.iter().find(|p| nobody(p.user())) {
            return Err(wrong(p, "there is no user of this name"));
        }
        match config.topic_permissions.iter().find(|p| nobody(p.user())) {
            Some(p) => Err(p.wrong("there is no user of this name".to_owned())),
            None => Ok(()),
        }
    }

    pub(super) fn principal(&self, name: &str) -> Option<&Arc<Principal>> {
        if name == ANONYMOUS {
            return Some(&self.anonymous);
        }
        self.users.get(name).map(|entry| &entry.principal)
    }

    /// A user who may not come from another machine.
    pub(super) fn is_local(&self, name: &str) -> bool {
        self.users.get(name).is_some_and(|entry| entry.loopback_only)
    }

    /// A name that does not exist, or may not come from there, gets the entry of another, always the same one: its answer takes as long.
    pub(super) fn find(&self, name: &str, from_loopback: bool) -> Found<'_> {
        let decoy = self.seed.digest(&[b"decoy", name.as_bytes()]);
        match self.users.get(name) {
            Some(entry) => Found { entry, real: from_loopback || !entry.loopback_only },
            None => {
                let at = u64::from_le_bytes(decoy[..8].try_into().expect("eight of 32 bytes")) % self.order.len() as u64;
                Found { entry: &self.order[at as usize], real: false }
            }
        }
    }

    /// What the server's first SCRAM message says of this name. For a name that does not exist it is made up, the same each time, in
    /// the likeness of some user who does.
    pub(super) fn scram_user(&self, algorithm: Algorithm, name: &str, from_loopback: bool) -> ScramUser {
        let Found { entry, real } = self.find(name, from_loopback);
        let (iterations, salt_len, stored) = match &entry.secret {
            Secret::Hash(PasswordHash::Scram(verifier)) if verifier.algorithm == algorithm => {
                (verifier.iterations, verifier.salt.len(), real.then(|| verifier.salt.clone()))
            }
            _ => (algorithm.iterations(), scram::SALT_LEN, None),
        };
        // A user with another kind of hash cannot log in by this mechanism and is not told so.
        let fits = |hash: &PasswordHash| matches!(hash, PasswordHash::Scram(verifier) if verifier.algorithm == algorithm);
        let real = real && !matches!(&entry.secret, Secret::Hash(hash) if !fits(hash));
        let salt = stored.unwrap_or_else(|| self.made_up_salt(name, salt_len));
        ScramUser { entry: entry.clone(), name: name.into(), real, algorithm, salt, iterations }
    }

    fn made_up_salt(&self, name: &str, len: usize) -> Box<[u8]> {
        let blocks = (0..len.div_ceil(32)).flat_map(|block| self.seed.digest(&[b"salt", &(block as u64).to_le_bytes(), name.as_bytes()]));
        blocks.take(len).collect()
    }

    /// The verifier that the user's proof is held against; None if making it takes the worker thread.
    pub(super) fn scram_verifier(&self, user: &ScramUser) -> Option<Verifier> {
        match &user.entry.secret {
            Secret::Hash(PasswordHash::Scram(verifier)) if user.real => Some(verifier.clone()),
            Secret::Plain { .. } if user.real => user.entry.derived[user.algorithm as usize].get().cloned(),
            Secret::Plain { .. } => self.nobodies.contains(&self.nobody(user)).then(|| self.verifier_of_nobody(user)),
            Secret::Hash(_) => Some(self.verifier_of_nobody(user)),
        }
    }

    /// As `scram_verifier`, taking the time that it takes.
    pub(super) fn derive_scram_verifier(&self, user: &ScramUser) -> Verifier {
        match &user.entry.secret {
            Secret::Plain { password, .. } if user.real => {
                let derived = &user.entry.derived[user.algorithm as usize];
                derived.get_or_init(|| Verifier::derive(user.algorithm, password, &user.salt, user.iterations)).clone()
            }
            Secret::Plain { password, .. } => {
                // For the time it takes, once per name as for a user who exists.
                std::hint::black_box(Verifier::derive(user.algorithm, password, &user.salt, user.iterations));
                self.nobodies.insert(self.nobody(user));
                self.verifier_of_nobody(user)
            }
            Secret::Hash(PasswordHash::Scram(verifier)) if user.real => verifier.clone(),
            Secret::Hash(_) => self.verifier_of_nobody(user),
        }
    }

    fn nobody(&self, user: &ScramUser) -> Digest {
        self.seed.digest(&[b"nobody", user.algorithm.name().as_bytes(), user.name.as_bytes()])
    }

    fn verifier_of_nobody(&self, user: &ScramUser) -> Verifier {
        Verifier::of_nobody(user.algorithm, &user.salt, user.iterations, &self.nobody(user))
    }
}

impl ScramUser {
    pub(super) fn principal(&self) -> Option<&Arc<Principal>> {
        self.real.then_some(&self.entry.principal)
    }
}
