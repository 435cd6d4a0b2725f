use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::*;
use crate::coordinator::contract::{self, granted, known, name, register, vacant, write, Rig};

/// The server of this machine. Without one the tests say so and pass, except where CI counts on them.
fn server() -> Option<PathBuf> {
    let found =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join("etcd")).find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "etcd is not installed (Debian: etcd-server), and CI=true");
        eprintln!("SKIPPED: etcd is not installed (Debian: etcd-server), so the adapter is not tested");
    }
    found
}

struct Server {
    program: PathBuf,
    folder: tempfile::TempDir,
    client: String,
    peer: String,
    process: Child,
}

/// Below the ports of outgoing connections, so that nobody takes it while etcd starts.
fn url() -> String {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = std::process::id() as u16 % 900;
    let port = (0..900).map(|_| 31_000 + (first + NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) % 900);
    let free = port.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    format!("http://127.0.0.1:{free}")
}

impl Server {
    async fn start(program: PathBuf) -> Self {
        // In memory where that can be: a disk that is busy with others' work is not what these are about.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (client, peer) = (url(), url());
        let process = Self::spawn(&program, &folder, &client, &peer);
        let server = Self { program, folder, client, peer, process };
        server.up().await;
        server
    }

    fn spawn(program: &PathBuf, folder: &tempfile::TempDir, client: &str, peer: &str) -> Child {
        Command::new(program)
            .args(["--name", "one", "--data-dir"])
            .arg(folder.path().join("etcd"))
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster"])
            .arg(format!("one={peer}"))
            // So low that a lease of one second is one.
            .args(["--heartbeat-interval", "20", "--election-timeout", "200", "--log-level", "error"])
            .env_remove("ETCD_UNSUPPORTED_ARCH")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    async fn up(&self) {
        let address = self.client.trim_start_matches("http://");
        for _ in 0..1500 {
            if TcpStream::connect(address).await.is_ok() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd does not listen");
    }

    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn settings(&self, node: &str, endpoints: &[&str]) -> EtcdSettings {
        EtcdSettings {
            name: name(node),
            endpoints: endpoints.iter().map(|endpoint| endpoint.to_string()).collect(),
            prefix: "/carrick/test/".into(),
            lease: Duration::from_secs(1),
            tls: None,
            user: None,
        }
    }

    fn node(&self, node: &str, endpoints: &[&str]) -> Etcd {
        Etcd::new(self.settings(node, endpoints)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Rig for Server {
    fn node<'a>(&'a mut self, node: &'a str) -> BoxFuture<'a, Arc<dyn Coordinator>> {
        let node: Arc<dyn Coordinator> = Arc::new(Server::node(self, node, &[&self.client]));
        Box::pin(async { node })
    }

    fn restart(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.end();
            self.process = Self::spawn(&self.program, &self.folder, &self.client, &self.peer);
            self.up().await;
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract() {
    let Some(program) = server() else { return };
    contract::all(|| Server::start(program.clone())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_gone_is_passed_over_and_none_means_unknown() {
    let Some(program) = server() else { return };
    let mut server = Server::start(program).await;
    let a = server.node("a", &[&url(), &server.client, &url()]);
    vacant(&a).await;
    let version = write(&a, None, register(1, "a", &["a", "b"])).await;
    granted(&a, 1).await;
    assert!(a.describe().contains("answers"), "{}", a.describe());
    server.end();
    assert_eq!(a.read().await, Read::Unknown);
    assert_eq!(a.cas(Some(version), register(1, "a", &["a"])).await, Cas::Unknown);
    assert_eq!(a.renew(1).await, Lease::Unknown);
    assert!(a.describe().contains("does not answer"), "{}", a.describe());
    server.process = Server::spawn(&server.program, &server.folder, &server.client, &server.peer);
    server.up().await;
    assert_eq!(known(&a).await, Some((version, register(1, "a", &["a", "b"]))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_late_does_nothing_after_a_read() {
    let Some(program) = server() else { return };
    let server = Server::start(program).await;
    let a = server.node("a", &[&server.client]);
    let version = write(&a, None, register(1, "a", &["a", "b"])).await;
    // As if it were still on its way: the word that it was sent with.
    let word = a.word.lock().await.take().unwrap();
    assert_eq!(known(&a).await, Some((version, register(1, "a", &["a", "b"]))));
    assert!(a.try_cas(Some(version), &register(1, "a", &["a"]), &word).await.is_err());
    assert_eq!(known(&a).await, Some((version, register(1, "a", &["a", "b"]))));
    // And so does one whose future was dropped before it was sent.
    drop(a.cas(Some(version), register(1, "a", &["a"])));
    write(&a, Some(version), register(1, "a", &["a"])).await;
}

/// One call of the JSON gateway, as an administrator makes it.
async fn administer(server: &Server, calls: &[(&'static str, Value)]) {
    let http = Http::new(std::slice::from_ref(&server.client), None, None, Duration::from_secs(5)).unwrap();
    for (path, body) in calls {
        http.post(path, body.clone()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_wants_to_know_who_asks_is_told() {
    let Some(program) = server() else { return };
    let server = Server::start(program).await;
    let user = |name: &str, password: &str| json!({ "name": name, "password": password });
    let keys = json!({ "permType": "READWRITE", "key": STANDARD.encode("/carrick/"), "range_end": STANDARD.encode("/carrick0") });
    administer(
        &server,
        &[
            ("/v3/auth/user/add", user("root", "root's")),
            ("/v3/auth/user/add", user("pair", "pair's")),
            ("/v3/auth/role/add", json!({ "name": "root" })),
            ("/v3/auth/role/add", json!({ "name": "pair" })),
            ("/v3/auth/role/grant", json!({ "name": "pair", "perm": keys })),
            ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })),
            ("/v3/auth/user/grant", json!({ "user": "pair", "role": "pair" })),
            ("/v3/auth/enable", json!({})),
        ],
    )
    .await;
    let nobody = server.node("a", &[&server.client]);
    assert_eq!(nobody.read().await, Read::Unknown);
    assert!(nobody.describe().contains("no user is configured"), "{}", nobody.describe());
    let as_user = |name: &str, password: &str| {
        let user = Some(EtcdUser { name: name.into(), password: password.into() });
        Etcd::new(EtcdSettings { user, ..server.settings("a", &[&server.client]) }).unwrap()
    };
    let wrong = as_user("pair", "wrong");
    // A password takes long to hash where other things run, and then the request is given up.
    let refused = timeout(Duration::from_secs(30), async {
        while !wrong.describe().contains("authentication failed") {
            assert_eq!(wrong.read().await, Read::Unknown);
        }
    });
    assert!(refused.await.is_ok(), "{}", wrong.describe());
    let a = as_user("pair", "pair's");
    vacant(&a).await;
    let version = write(&a, None, register(1, "a", &["a", "b"])).await;
    granted(&a, 1).await;
    // Every token from before is void now.
    let root = as_user("root", "root's");
    root.http.post("/v3/auth/user/add", user("more", "more's")).await.unwrap();
    assert_eq!(known(&a).await, Some((version, register(1, "a", &["a", "b"]))));
    granted(&a, 1).await;
    assert!(!format!("{:?}", a.settings).contains("pair's"), "a password in the log");
}

#[test]
fn settings_are_checked() {
    let good = EtcdSettings {
        name: name("a"),
        endpoints: vec!["http://127.0.0.1:2379".into()],
        prefix: "/carrick/x/".into(),
        lease: Duration::from_secs(2),
        tls: None,
        user: None,
    };
    assert!(Etcd::new(good.clone()).is_ok());
    let missing = EtcdTls { ca: "no/such/ca.pem".into(), client: None };
    for (bad, why) in [
        (EtcdSettings { lease: Duration::from_millis(1500), ..good.clone() }, "whole seconds"),
        (EtcdSettings { endpoints: vec![], ..good.clone() }, "endpoints"),
        (EtcdSettings { endpoints: vec!["https://h:1".into()], ..good.clone() }, "its CA"),
        (EtcdSettings { prefix: String::new(), ..good.clone() }, "prefix"),
        (EtcdSettings { endpoints: vec!["https://h:1".into()], tls: Some(missing), ..good }, "no/such/ca.pem"),
    ] {
        assert!(Etcd::new(bad).err().unwrap().contains(why), "{why}");
    }
}
