//! Calls to one of several etcd members.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use ureq::Agent;

use super::EtcdTls;

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
}

impl Http {
    pub fn new(endpoints: &[String], tls: Option<&EtcdTls>, timeout: Duration) -> Result<Self, String> {
        let known = |endpoint: &&String| endpoint.starts_with("http://") || (endpoint.starts_with("https://") && tls.is_some());
        if endpoints.is_empty() || !endpoints.iter().all(|endpoint| known(&endpoint)) {
            return Err("endpoints of etcd are http://HOST:PORT, or https://HOST:PORT with the file of its CA".into());
        }
        let mut config = Agent::config_builder().timeout_global(Some(timeout)).timeout_connect(Some(timeout / 2)).proxy(None);
        if let Some(tls) = tls {
            config = config.tls_config(tls_config(tls)?);
        }
        let endpoints = endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/').to_owned()).collect();
        Ok(Self { agent: config.build().new_agent(), endpoints, good: Arc::default() })
    }

    /// Goes on to the next member only when this one cannot have heard of it.
    pub async fn post(&self, path: &'static str, body: Value) -> Result<Value, Failure> {
        let this = self.clone();
        let call = tokio::task::spawn_blocking(move || this.post_blocking(path, &body));
        call.await.unwrap_or_else(|error| Err(Failure(error.to_string())))
    }

    fn post_blocking(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = body.to_string();
        let first = self.good.load(Ordering::Relaxed);
        let mut why = String::new();
        for step in 0..self.endpoints.len() {
            let at = (first + step) % self.endpoints.len();
            let url = format!("{}{path}", self.endpoints[at]);
            match self.agent.post(&url).content_type("application/json").send(&body) {
                Ok(mut answer) => {
                    self.good.store(at, Ordering::Relaxed);
                    let text = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_string();
                    let text = text.map_err(|error| Failure(format!("{url}: {error}")))?;
                    return serde_json::from_str(&text).map_err(|error| Failure(format!("{url}: {error}")));
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
