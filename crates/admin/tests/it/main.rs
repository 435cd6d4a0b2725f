//! The door over real sockets, in front of a house that answers what a test wants.

use admin::ha::{Pair, ReplaceVoter};
use admin::health::Ready;
use admin::{Account, BoxFuture, Credentials, Denied, House, Limits, Refusal};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Toy {
    ready: Mutex<bool>,
}

impl House for Toy {
    fn ready(&self) -> Ready {
        let ready = *self.ready.lock().unwrap();
        Ready { ready, role: "standby".into(), reason: (!ready).then(|| "it stands by".into()) }
    }

    fn pair(&self) -> BoxFuture<'_, Pair> {
        Box::pin(async { Pair { role: "standby".into(), node: Some("b".into()), epoch: Some(7), ..Pair::default() } })
    }

    fn switch_over(&self) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(async { Ok("a".into()) })
    }

    fn promote(&self, _: admin::ha::Promote) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(async { Err(Refusal::Conflict("not in sync".into())) })
    }

    fn join(&self) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(async { Err(Refusal::Conflict("it is primary".into())) })
    }

    fn replace_voter(&self, which: ReplaceVoter) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(async move { Ok(which.voter) })
    }

    fn login(&self, who: Credentials, from: SocketAddr) -> BoxFuture<'_, Result<Account, Denied>> {
        assert!(from.ip().is_loopback());
        Box::pin(async move {
            let account = |administrator, monitoring| Account { name: who.user.clone(), administrator, monitoring };
            match (who.user.as_str(), who.password.as_slice()) {
                ("root", b"r:oot") => Ok(account(true, false)),
                ("eye", b"eye") => Ok(account(false, true)),
                ("app", b"app") => Ok(account(false, false)),
                ("slow", _) => Err(Denied::Busy),
                _ => Err(Denied::Wrong),
            }
        })
    }
}

struct Door {
    at: SocketAddr,
    house: Arc<Toy>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Door {
    async fn open(limits: Limits) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let house = Arc::new(Toy::default());
        let task = tokio::spawn(admin::serve(listener, house.clone(), limits));
        Door { at, house, task }
    }

    /// The status and all of the answer.
    async fn ask(&self, head: &str, user: Option<&str>, body: &str) -> (u16, String) {
        use base64::engine::{general_purpose::STANDARD, Engine};
        let user = user.map_or(String::new(), |user| format!("Authorization: Basic {}\r\n", STANDARD.encode(user)));
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let text = format!("{head} HTTP/1.1\r\nHost: x\r\n{user}{kind}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        self.send(text.as_bytes()).await
    }

    async fn send(&self, bytes: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let answer = all(&mut stream).await;
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        (status, answer)
    }
}

async fn all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset in place of an end is an end too.
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("it ends");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn health_needs_nobody_s_password() {
    let door = Door::open(Limits::default()).await;
    let (status, answer) = door.ask("GET /health/live", None, "").await;
    assert!(status == 200 && answer.ends_with(r#"{"live":true}"#), "{answer}");
    let (status, answer) = door.ask("GET /health/ready", None, "").await;
    assert!(status == 503 && answer.ends_with(r#"{"ready":false,"role":"standby","reason":"it stands by"}"#), "{answer}");
    *door.house.ready.lock().unwrap() = true;
    let (status, answer) = door.ask("GET /health/ready", None, "").await;
    assert!(status == 200 && answer.ends_with(r#"{"ready":true,"role":"standby"}"#), "{answer}");
}

#[tokio::test]
async fn who_may_look() {
    let door = Door::open(Limits::default()).await;
    for (user, expected) in [
        (None, 401),
        (Some("root:wrong"), 401),
        (Some("nobody:x"), 401),
        (Some("slow:x"), 429),
        (Some("app:app"), 403),
        (Some("eye:eye"), 200),
        (Some("root:r:oot"), 200),
    ] {
        let (status, answer) = door.ask("GET /api/ha", user, "").await;
        assert_eq!(status, expected, "{user:?}: {answer}");
        assert_eq!(answer.to_lowercase().contains("www-authenticate: basic"), expected == 401, "{answer}");
        assert_eq!(answer.contains(r#""epoch":7"#), expected == 200, "{answer}");
    }
    assert_eq!(door.ask("GET /api/nothing", Some("root:r:oot"), "").await.0, 404);
    assert_eq!(door.ask("DELETE /api/ha", Some("root:r:oot"), "").await.0, 405);
}

#[tokio::test]
async fn only_administrators_change_something() {
    let door = Door::open(Limits::default()).await;
    assert_eq!(door.ask("POST /api/ha/switchover", None, "").await.0, 401);
    assert_eq!(door.ask("POST /api/ha/switchover", Some("eye:eye"), "").await.0, 403);
    let (status, answer) = door.ask("POST /api/ha/switchover", Some("root:r:oot"), "").await;
    assert!(status == 200 && answer.ends_with(r#"{"node":"a"}"#), "{answer}");
    let (status, answer) = door.ask("POST /api/ha/promote", Some("root:r:oot"), "").await;
    assert!(status == 409 && answer.ends_with(r#"{"error":"conflict","reason":"not in sync"}"#), "{answer}");
    let replace = |body: String| async {
        let body = body;
        door.ask("POST /api/ha/replace-voter", Some("root:r:oot"), &body).await.0
    };
    assert_eq!(replace(r#"{"voter":"w"}"#.into()).await, 200);
    assert_eq!(replace(r#"{"voter":"w","force":1}"#.into()).await, 422);
    assert_eq!(replace("nonsense".into()).await, 400);
    assert_eq!(replace(format!(r#"{{"voter":"{}"}}"#, "x".repeat(80_000))).await, 413);
    assert_eq!(door.ask("GET /api/ha/switchover", Some("root:r:oot"), "").await.0, 405);
}

#[tokio::test]
async fn what_is_slow_or_large_is_cut_off_and_others_are_served() {
    let limits = Limits { connections: 3, head: Duration::from_millis(300), ..Limits::default() };
    let door = Door::open(limits).await;
    // A head that never ends, in time and in bytes.
    let mut slow = TcpStream::connect(door.at).await.unwrap();
    slow.write_all(b"GET /health/live HTTP/1.1\r\nHost:").await.unwrap();
    let begun = Instant::now();
    all(&mut slow).await;
    assert!(begun.elapsed() < LIMIT);
    let endless = [b"GET /health/live HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 40_000]].concat();
    let mut stream = TcpStream::connect(door.at).await.unwrap();
    let _ = stream.write_all(&endless).await;
    let answer = all(&mut stream).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let many = format!("GET /health/live HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert_eq!(door.send(many.as_bytes()).await.0, 431);
    // Idle ones hold all places; one more is closed at once, and when they have been cut off there is room again.
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(TcpStream::connect(door.at).await.unwrap());
    }
    let begun = Instant::now();
    loop {
        let (status, _) = door.ask("GET /health/live", None, "").await;
        if status == 200 {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "no room again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for mut stream in idle {
        all(&mut stream).await;
    }
}
