//! Who asks, and whether he may: HTTP Basic (RFC 7617) with the broker's users and RabbitMQ's tags.

use crate::house::House;
use crate::problem::Problem;
use axum::extract::FromRequestParts;
use axum::http::{header, request::Parts, StatusCode};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A login may wait its turn behind slow password hashes; nobody waits longer.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);

/// Where a request comes from, put into it by whoever accepted the connection.
#[derive(Clone, Copy)]
pub(crate) struct Caller(pub SocketAddr);

#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials {{ user: {:?}, .. }}", self.user)
    }
}

/// Somebody who has been let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    pub name: String,
    /// The tag `administrator`.
    pub administrator: bool,
    /// The tag `monitoring`.
    pub monitoring: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// Never says whether the name or the password was wrong.
    Wrong,
    /// It was not looked at: too many at once, or too many failures.
    Busy,
}

/// Whoever may look: an administrator, or one with the tag `monitoring`.
pub struct MayLook;
/// Whoever may change something: an administrator.
pub struct MayChange(pub Account);

impl FromRequestParts<Arc<dyn House>> for MayLook {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, house: &Arc<dyn House>) -> Result<MayLook, Problem> {
        let account = account(parts, house).await?;
        match account.administrator || account.monitoring {
            true => Ok(MayLook),
            false => Err(not_allowed(&account, "administrator or monitoring")),
        }
    }
}

impl FromRequestParts<Arc<dyn House>> for MayChange {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, house: &Arc<dyn House>) -> Result<MayChange, Problem> {
        let account = account(parts, house).await?;
        match account.administrator {
            true => Ok(MayChange(account)),
            false => Err(not_allowed(&account, "administrator")),
        }
    }
}

fn not_allowed(account: &Account, tags: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", format!("user '{}' has not the tag {tags}", account.name))
}

async fn account(parts: &Parts, house: &Arc<dyn House>) -> Result<Account, Problem> {
    let wrong = || Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "a user of the broker and his password, as HTTP Basic has them");
    let busy = || Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", "too many logins, or too many that failed; try again later");
    let Caller(from) = parts.extensions.get::<Caller>().ok_or_else(wrong)?;
    let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let who = value.and_then(basic).ok_or_else(wrong)?;
    match tokio::time::timeout(LOGIN_LIMIT, house.login(who, *from)).await {
        Ok(Ok(account)) => Ok(account),
        Ok(Err(Denied::Wrong)) => Err(wrong()),
        Ok(Err(Denied::Busy)) | Err(_) => Err(busy()),
    }
}

/// RFC 7617, 2: the scheme's name in any case, then base64 of `user:password`; a user's name has no colon.
fn basic(value: &str) -> Option<Credentials> {
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = STANDARD.decode(token.trim()).ok()?;
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(bytes[..colon].to_vec()).ok()?;
    Some(Credentials { user, password: bytes[colon + 1..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_as_rfc_7617_has_it() {
        // Its own example, and one whose password has a colon.
        let aladdin = Credentials { user: "Aladdin".into(), password: b"open sesame".to_vec() };
        assert_eq!(basic("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), Some(aladdin.clone()));
        assert_eq!(basic("bASIC QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), Some(aladdin.clone()));
        let colon = format!("Basic {}", STANDARD.encode("a:b:c"));
        assert_eq!(basic(&colon), Some(Credentials { user: "a".into(), password: b"b:c".to_vec() }));
        assert_eq!(format!("{aladdin:?}"), "Credentials { user: \"Aladdin\", .. }");
        for wrong in ["", "Basic", "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Basic ???", "Basic QWxhZGRpbg==", "Basic /zph"] {
            assert_eq!(basic(wrong), None, "{wrong}");
        }
    }
}
