//! etcd as the coordinator, for those who run one already. Spoken to through its JSON gateway (`/v3/...` over HTTP), so no protocol compiler is needed.
//!
//! Three kinds of keys under a prefix:
//!
//! | key | value |
//! |---|---|
//! | `register` | the register, as JSON; its version is etcd's `mod_revision` |
//! | `holder` | the name of the node that has the lease, bound to an etcd lease, which takes it away when nobody keeps that alive |
//! | `fence/NODE` | a word that this node has chosen anew since the last time it did not know what became of a write |
//!
//! A write is one transaction that compares the register's revision *and* the node's word: so once a read has put another word there, a write that
//! is still on its way does nothing any more, and what is not known does not come true later.
//!
//! A stock etcd makes no lease shorter than one and a half of its election timeouts, and looks for those that have run out twice a second:
//! a failover takes 2.5 to 3 s with it, 1.4 s if its timings are lowered (docs/ha.md).

mod http;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde_json::{json, Value};
use tokio::time::sleep;
use tracing::{error, warn};

use super::{grant, BoxFuture, Cas, Coordinator, Lease, NodeName, Read, Register, Version};
use http::{Failure, Http};

#[derive(Debug, Clone)]
pub struct EtcdSettings {
    pub name: NodeName,
    /// `http://host:port` or `https://host:port`; tried in turn.
    pub endpoints: Vec<String>,
    /// In front of all keys; one for each cluster, `/carrick/NAME/`.
    pub prefix: String,
    /// Whole seconds; etcd may make it longer.
    pub lease: Duration,
    pub tls: Option<EtcdTls>,
    /// Where etcd asks for one.
    pub user: Option<EtcdUser>,
}

#[derive(Clone)]
pub struct EtcdUser {
    pub name: String,
    pub password: String,
}

impl std::fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EtcdUser {{ name: {:?}, .. }}", self.name)
    }
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    pub ca: PathBuf,
    /// This node's certificate and its key, where etcd asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

pub struct Etcd {
    settings: EtcdSettings,
    http: Http,
    /// What etcd has made of the lease that was asked for, in seconds.
    granted_secs: Mutex<Option<u64>>,
    /// The word under `fence/`, and one command of this node at a time.
    word: tokio::sync::Mutex<Option<String>>,
    /// The etcd lease under which `holder` is ours, or may be.
    own: tokio::sync::Mutex<Option<String>>,
    last_error: Mutex<Option<String>>,
}

/// A key as it stands in etcd.
struct Key {
    value: Vec<u8>,
    revision: u64,
    lease: Option<String>,
}

/// What trying to be the holder came to.
enum Taken {
    Until(Instant),
    ByOther,
    NotPrimary,
    Unknown,
}

impl Etcd {
    /// Asks nothing yet.
    pub fn new(settings: EtcdSettings) -> Result<Self, String> {
        if settings.lease.subsec_nanos() != 0 || !(1..=60).contains(&settings.lease.as_secs()) {
            return Err("a lease of etcd is 1 to 60 whole seconds".into());
        }
        if settings.prefix.is_empty() {
            return Err("the prefix of the keys in etcd is empty".into());
        }
        // Two tries and a rest fit into what a primary has left after it has renewed once.
        let timeout = (settings.lease / 4).clamp(Duration::from_millis(250), Duration::from_secs(2));
        let http = Http::new(&settings.endpoints, settings.tls.as_ref(), settings.user.as_ref(), timeout)?;
        Ok(Self {
            settings,
            http,
            granted_secs: Mutex::new(None),
            word: tokio::sync::Mutex::new(None),
            own: tokio::sync::Mutex::new(None),
            last_error: Mutex::new(None),
        })
    }

    fn key(&self, name: &str) -> String {
        STANDARD.encode(format!("{}{name}", self.settings.prefix))
    }

    fn fence(&self) -> String {
        self.key(&format!("fence/{}", self.settings.name))
    }

    fn me(&self) -> String {
        STANDARD.encode(self.settings.name.as_str())
    }

    async fn post(&self, path: &'static str, body: Value) -> Result<Value, Failure> {
        let answer = self.http.post(path, body).await;
        let failed = answer.as_ref().err().map(|failure| failure.0.clone());
        let mut last = self.last_error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let (Some(why), None) = (&failed, &*last) {
            warn!(why, "etcd does not answer");
        }
        *last = failed;
        answer
    }

    /// Whether the comparison held, and the answers of the branch that it chose.
    async fn txn(&self, compare: Vec<Value>, success: Vec<Value>, failure: Vec<Value>) -> Result<(bool, Value), Failure> {
        let answer = self.post("/v3/kv/txn", json!({ "compare": compare, "success": success, "failure": failure })).await?;
        Ok((answer["succeeded"].as_bool().unwrap_or(false), answer))
    }

    fn range(&self, name: &str) -> Value {
        json!({ "request_range": { "key": self.key(name) } })
    }

    /// The register that a transaction has read as its `at`th answer.
    fn register_of(&self, answer: &Value, at: usize) -> Result<Option<(Version, Register)>, Failure> {
        let Some(key) = key_of(answer, at)? else { return Ok(None) };
        let register = serde_json::from_slice(&key.value).map_err(|error| {
            error!(key = %format_args!("{}register", self.settings.prefix), %error, "what stands in etcd is no register");
            Failure(format!("what stands in etcd is no register: {error}"))
        })?;
        Ok(Some((Version(key.revision), register)))
    }

    /// Makes sure that nothing asked for earlier happens from now on, and reads.
    async fn fenced_read(&self, word: &mut Option<String>) -> Result<Option<(Version, Register)>, Failure> {
        *word = None;
        let new = format!("{:032x}", rand::random::<u128>());
        let put = json!({ "request_put": { "key": self.fence(), "value": STANDARD.encode(&new) } });
        let (_, answer) = self.txn(vec![], vec![put, self.range("register")], vec![]).await?;
        let register = self.register_of(&answer, 1)?;
        *word = Some(new);
        Ok(register)
    }

    async fn try_cas(&self, expect: Option<Version>, new: &Register, word: &str) -> Result<Cas, Failure> {
        let read = self.post("/v3/kv/range", json!({ "key": self.key("register") })).await?;
        let stored = self.register_of(&json!({ "responses": [{ "response_range": read }] }), 0)?;
        if stored.as_ref().map(|(version, _)| *version) != expect {
            return Ok(Cas::Lost(stored));
        }
        // Whatever is written between this and the transaction has another revision, and then the transaction does nothing.
        if let Err(refused) = Register::may_follow(stored.as_ref().map(|(_, register)| register), new) {
            return Ok(Cas::Refused(refused));
        }
        let same = match expect {
            Some(version) => {
                json!({ "key": self.key("register"), "target": "MOD", "result": "EQUAL", "mod_revision": version.0.to_string() })
            }
            None => json!({ "key": self.key("register"), "target": "CREATE", "result": "EQUAL", "create_revision": "0" }),
        };
        let fence = json!({ "key": self.fence(), "target": "VALUE", "result": "EQUAL", "value": STANDARD.encode(word) });
        let value = serde_json::to_vec(new).map_err(|error| Failure(error.to_string()))?;
        let put = json!({ "request_put": { "key": self.key("register"), "value": STANDARD.encode(value) } });
        let (won, answer) = self.txn(vec![same, fence], vec![put], vec![self.range("register")]).await?;
        if won {
            let revision = number(&answer["header"]["revision"]).ok_or_else(|| Failure("an answer without a revision".into()))?;
            return Ok(Cas::Won(Version(revision)));
        }
        let stands = self.register_of(&answer, 0)?;
        match stands.as_ref().map(|(version, _)| *version) == expect {
            // It was the word that differed: another process uses this node's name.
            true => Err(Failure("another process writes under this node's name".into())),
            false => Ok(Cas::Lost(stands)),
        }
    }

    /// Tries to be the holder, or to remain it; with the epoch in which the register has to name this node.
    async fn hold(&self, own: &mut Option<String>, epoch: Option<u64>) -> Result<Taken, Failure> {
        let asked = Instant::now();
        if let Some(id) = own.clone() {
            let kept = self.post("/v3/lease/keepalive", json!({ "ID": id })).await?;
            match number(&kept["result"]["TTL"]) {
                Some(secs) if secs > 0 => {
                    let (_, answer) = self.txn(vec![], vec![self.range("holder"), self.range("register")], vec![]).await?;
                    let holder = key_of(&answer, 0)?;
                    let ours = |key: &Key| key.value == self.settings.name.as_str().as_bytes() && key.lease.as_deref() == Some(&id);
                    match (holder.as_ref().is_some_and(ours), self.is_named(&answer, 1, epoch)?) {
                        (_, false) => return Ok(Taken::NotPrimary),
                        (true, true) => return Ok(Taken::Until(self.until(asked, secs))),
                        (false, true) => {}
                    }
                }
                _ => *own = None,
            }
        }
        let (_, answer) = self.txn(vec![], vec![self.range("holder"), self.range("register")], vec![]).await?;
        if !self.is_named(&answer, 1, epoch)? {
            return Ok(Taken::NotPrimary);
        }
        let free = match key_of(&answer, 0)? {
            None => json!({ "key": self.key("holder"), "target": "CREATE", "result": "EQUAL", "create_revision": "0" }),
            // Of an earlier life of this node, or of a call whose answer was lost.
            Some(key) if key.value == self.settings.name.as_str().as_bytes() => {
                json!({ "key": self.key("holder"), "target": "MOD", "result": "EQUAL", "mod_revision": key.revision.to_string() })
            }
            Some(_) => return Ok(Taken::ByOther),
        };
        self.take(own, free).await
    }

    async fn take(&self, own: &mut Option<String>, free: Value) -> Result<Taken, Failure> {
        let asked = Instant::now();
        let lease = self.post("/v3/lease/grant", json!({ "TTL": self.settings.lease.as_secs().to_string() })).await?;
        let (Some(id), Some(secs)) = (text(&lease["ID"]), number(&lease["TTL"])) else {
            return Err(Failure("a lease without an id".into()));
        };
        // From here on the key may be ours, also if no answer says so.
        *own = Some(id.clone());
        let put = json!({ "request_put": { "key": self.key("holder"), "value": self.me(), "lease": id.clone() } });
        let (taken, _) = self.txn(vec![free], vec![put], vec![]).await?;
        if !taken {
            *own = None;
            let _ = self.post("/v3/lease/revoke", json!({ "ID": id })).await;
            return Ok(Taken::ByOther);
        }
        Ok(Taken::Until(self.until(asked, secs)))
    }

    fn until(&self, asked: Instant, secs: u64) -> Instant {
        *self.granted_secs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(secs);
        asked + grant(Duration::from_secs(secs))
    }

    fn is_named(&self, answer: &Value, at: usize, epoch: Option<u64>) -> Result<bool, Failure> {
        let Some(epoch) = epoch else { return Ok(true) };
        let stored = self.register_of(answer, at)?;
        Ok(stored.is_some_and(|(_, register)| register.epoch == epoch && register.primary == self.settings.name))
    }

    async fn try_hold(&self, epoch: Option<u64>) -> Taken {
        let mut own = self.own.lock().await;
        self.hold(&mut own, epoch).await.unwrap_or(Taken::Unknown)
    }
}

impl Coordinator for Etcd {
    fn read(&self) -> BoxFuture<'_, Read> {
        Box::pin(async move {
            let mut word = self.word.lock().await;
            let read = match &*word {
                None => self.fenced_read(&mut word).await,
                Some(_) => {
                    let read = self.txn(vec![], vec![self.range("register")], vec![]).await;
                    read.and_then(|(_, answer)| self.register_of(&answer, 0))
                }
            };
            read.map_or(Read::Unknown, Read::Known)
        })
    }

    fn cas(&self, expect: Option<Version>, new: Register) -> BoxFuture<'_, Cas> {
        Box::pin(async move {
            let mut slot = self.word.lock().await;
            if slot.is_none() && self.fenced_read(&mut slot).await.is_err() {
                return Cas::Unknown;
            }
            // Should this future be dropped, nobody knows what comes of it: then there is no word, and the next call chooses another one.
            let Some(word) = slot.take() else { return Cas::Unknown };
            match self.try_cas(expect, &new, &word).await {
                Ok(answer) => {
                    *slot = Some(word);
                    answer
                }
                Err(_) => Cas::Unknown,
            }
        })
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Lease> {
        Box::pin(async move {
            match self.try_hold(Some(epoch)).await {
                Taken::Until(until) => Lease::Granted { until },
                Taken::ByOther | Taken::NotPrimary => Lease::Refused,
                Taken::Unknown => Lease::Unknown,
            }
        })
    }

    fn vacant(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            while !matches!(self.try_hold(None).await, Taken::Until(_)) {
                sleep((self.settings.lease / 20).min(Duration::from_millis(200))).await;
            }
        })
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut own = self.own.lock().await;
            if let Some(id) = own.take() {
                // The key goes with its lease.
                let _ = self.post("/v3/lease/revoke", json!({ "ID": id })).await;
            }
        })
    }

    fn lease(&self) -> Duration {
        let granted = *self.granted_secs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        granted.map_or(self.settings.lease, Duration::from_secs)
    }

    fn describe(&self) -> String {
        let last = self.last_error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let state = last.as_ref().map_or("answers".to_owned(), |why| format!("does not answer: {why}"));
        format!("etcd at {}, keys under {}: {state}", self.settings.endpoints.join(", "), self.settings.prefix)
    }
}

/// The key that a transaction has read as its `at`th answer.
fn key_of(answer: &Value, at: usize) -> Result<Option<Key>, Failure> {
    let range = &answer["responses"][at]["response_range"];
    if !range.is_object() {
        return Err(Failure("an answer of etcd is not to what was asked".into()));
    }
    let key = &range["kvs"][0];
    if key.is_null() {
        return Ok(None);
    }
    // What is empty or zero is left out.
    let value = STANDARD.decode(key["value"].as_str().unwrap_or_default()).map_err(|error| Failure(error.to_string()))?;
    let revision = number(&key["mod_revision"]).ok_or_else(|| Failure("a key without a revision".into()))?;
    Ok(Some(Key { value, revision, lease: text(&key["lease"]) }))
}

/// 64-bit numbers are texts in JSON.
fn number(value: &Value) -> Option<u64> {
    value.as_str().map_or_else(|| value.as_u64(), |text| text.parse().ok())
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).filter(|text| text != "0")
}
