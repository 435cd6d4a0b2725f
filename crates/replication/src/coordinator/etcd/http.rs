//! Calls to one of several etcd members.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{json, Value};
use tokio_rustls::rustls::crypto::ring;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use ureq::Agent;

use super::{EtcdTls, EtcdUser};

/// A register is under 100 KiB.
const ANSWER_MAX: u64 = 4 << 20;

/// Whether it was done is not known.
#[derive(Debug)]
pub struct Failure(pub String);

#[derive(Clone)]
pub struct Http {
    agent: Agent,
    endpoints: Arc<[String]>,
    /// The one that answered last.
    good: Arc<AtomicUsize>,
    login: Option<Arc<Login>>,
}

/// For an etcd that wants to know who asks. Its tokens run out when they were not used for a while, and with every change of its users.
struct Login {
    user: EtcdUser,
    token: Mutex<Option<String>>,
}

/// What a call came to.
enum Called {
    Answer(Value),
    /// Nothing was done, since etcd does not know who asked.
    WhoAsks(String),
}

impl Http {
    pub fn new(endpoints: &[String], tls: Option<&EtcdTls>, user: Option<&EtcdUser>, timeout: Duration) -> Result<Self, String> {
        let known = |endpoint: &&String| endpoint.starts_with("http://") || (endpoint.starts_with("https://") && tls.is_some());
        if endpoints.is_empty() || !endpoints.iter().all(|endpoint| known(&endpoint)) {
            return Err("endpoints of etcd are http://HOST:PORT, or https://HOST:PORT with the file of its CA".into());
        }
        let mut config = Agent::config_builder().timeout_global(Some(timeout)).timeout_connect(Some(timeout / 2));
        config = config.proxy(None).http_status_as_error(false);
        if let Some(tls) = tls {
            config = config.tls_config(tls_config(tls)?);
        }
        let endpoints = endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/').to_owned()).collect();
        let login = user.map(|user| Arc::new(Login { user: user.clone(), token: Mutex::default() }));
        Ok(Self { agent: config.build().new_agent(), endpoints, good: Arc::default(), login })
    }

    pub async fn post(&self, path: &'static str, body: Value) -> Result<Value, Failure> {
        let this = self.clone();
        let call = tokio::task::spawn_blocking(move || this.post_blocking(path, &body));
        call.await.unwrap_or_else(|error| Err(Failure(error.to_string())))
    }

    fn post_blocking(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let Some(login) = &self.login else {
            return match self.call(path, body, None)? {
                Called::Answer(answer) => Ok(answer),
                Called::WhoAsks(why) => Err(Failure(format!("{why} (no user is configured)"))),
            };
        };
        let kept = login.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = kept {
            if let Called::Answer(answer) = self.call(path, body, Some(&token))? {
                return Ok(answer);
            }
        }
        let token = self.log_in(login)?;
        match self.call(path, body, Some(&token))? {
            Called::Answer(answer) => Ok(answer),
            Called::WhoAsks(why) => Err(Failure(why)),
        }
    }

    fn log_in(&self, login: &Login) -> Result<String, Failure> {
        let EtcdUser { name, password } = &login.user;
        let answer = match self.call("/v3/auth/authenticate", &json!({ "name": name, "password": password }), None)? {
            Called::Answer(answer) => answer,
            Called::WhoAsks(why) => return Err(Failure(why)),
        };
        let token = answer["token"].as_str().ok_or_else(|| Failure("a login at etcd was answered without a token".into()))?;
        *login.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.to_owned());
        Ok(token.to_owned())
    }

    /// Goes on to the next member only when this one cannot have heard of it.
    fn call(&self, path: &str, body: &Value, token: Option<&str>) -> Result<Called, Failure> {
        let body = body.to_string();
        let first = self.good.load(Ordering::Relaxed);
        let mut why = String::new();
        for step in 0..self.endpoints.len() {
            let at = (first + step) % self.endpoints.len();
            let url = format!("{}{path}", self.endpoints[at]);
            let mut request = self.agent.post(&url).content_type("application/json");
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            match request.send(&body) {
                Ok(answer) => {
                    // One that is without its leader says so; another member may have one.
                    let next = if answer.status().is_server_error() { (at + 1) % self.endpoints.len() } else { at };
                    self.good.store(next, Ordering::Relaxed);
                    return read(&url, answer);
                }
                Err(error) => {
                    why = format!("{url}: {error}");
                    // The next call begins with another one, also when this one is not tried again.
                    self.good.store((at + 1) % self.endpoints.len(), Ordering::Relaxed);
                    if !was_not_sent(&error) {
                        break;
                    }
                }
            }
        }
        Err(Failure(why))
    }
}

/// Of a refusal the gateway says in JSON what it is about; the status alone does not tell.
fn read(url: &str, mut answer: ureq::http::Response<ureq::Body>) -> Result<Called, Failure> {
    let status = answer.status();
    let text = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_string();
    let text = text.map_err(|error| Failure(format!("{url}: {error}")))?;
    if status.is_success() {
        return serde_json::from_str(&text).map(Called::Answer).map_err(|error| Failure(format!("{url}: {error}")));
    }
    let said: Value = serde_json::from_str(&text).unwrap_or_default();
    let said = said["message"].as_str().or(said["error"].as_str()).unwrap_or("no reason given").to_owned();
    let why = format!("{url}: {} {said}", status.as_u16());
    // No token, one that has run out, or one from before a change of its users.
    let unknown = ["invalid auth token", "user name is empty", "revision in header is old"];
    match status.as_u16() == 401 || unknown.iter().any(|part| said.contains(part)) {
        true => Ok(Called::WhoAsks(why)),
        false => Err(Failure(why)),
    }
}

fn was_not_sent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => true,
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

fn tls_config(files: &EtcdTls) -> Result<TlsConfig, String> {
    let mut config = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&certificates(&files.ca)?));
    if let Some((certificate, key)) = &files.client {
        let pem = fs::read(key).map_err(|error| format!("{}: {error}", key.display()))?;
        let private = PrivateKey::from_pem(&pem).map_err(|error| format!("{}: {error}", key.display()))?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&certificates(certificate)?, private)));
    }
    Ok(config.build())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let bad = |why: String| format!("{}: {why}", path.display());
    let bytes = fs::read(path).map_err(|error| bad(error.to_string()))?;
    let items: Result<Vec<_>, _> = ureq::tls::parse_pem(&bytes).collect();
    let found: Vec<_> = items
        .map_err(|error| bad(error.to_string()))?
        .into_iter()
        .filter_map(|item| match item {
            ureq::tls::PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    match found.is_empty() {
        true => Err(bad("there is no certificate in it".into())),
        false => Ok(found),
    }
}
