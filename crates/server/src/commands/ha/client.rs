//! HTTP to one node. A few calls from a command that may wait.

use anyhow::{bail, ensure, Context, Result};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use ureq::Agent;

const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// A handover waits for what the standby lacks; a new voter for all of the register.
const ASK_LIMIT: Duration = Duration::from_secs(70);
const ANSWER_MAX: u64 = 1 << 20;

pub struct Client {
    pub url: String,
    authorization: String,
    agent: Agent,
}

impl Client {
    /// `user`: `name:password`.
    pub fn new(url: &str, user: &str) -> Result<Client> {
        let url = url.trim_end_matches('/').to_owned();
        ensure!(url.starts_with("http://"), "--url {url}: right would be http://HOST:PORT, where the broker has an http:// listener");
        ensure!(user.contains(':'), "--user: right would be NAME:PASSWORD");
        let agent = Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
        Ok(Client { url, authorization: format!("Basic {}", STANDARD.encode(user)), agent })
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = self.agent.get(format!("{}{path}", self.url)).header("authorization", &self.authorization);
        let request = request.config().timeout_global(Some(LOOK_LIMIT)).build();
        self.read(request.call())
    }

    /// `null` is no body.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        let request = self.agent.post(format!("{}{path}", self.url)).header("authorization", &self.authorization);
        let request = request.config().timeout_global(Some(ASK_LIMIT)).build();
        self.read(if body.is_null() { request.send_empty() } else { request.content_type("application/json").send(body.to_string()) })
    }

    fn read<T: DeserializeOwned>(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<T> {
        let mut answer = answer.with_context(|| format!("{} does not answer", self.url))?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_string();
        let text = text.with_context(|| format!("the answer of {} breaks off", self.url))?;
        if status.is_success() {
            return serde_json::from_str(&text).with_context(|| format!("the answer of {} is not a broker's", self.url));
        }
        let reason = serde_json::from_str::<serde_json::Value>(&text).ok();
        let reason = reason.as_ref().and_then(|problem| problem["reason"].as_str()).unwrap_or(&text);
        bail!("{} says {}: {reason}", self.url, status.as_u16());
    }
}
