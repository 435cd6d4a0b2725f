//! Real sockets.

use crate::support::{timed, until, LIMIT};
use broker_api::VhostName;
use gateway::{bind, Config, Front, Gateway, ListenUrl, Service, Spoken};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;
use testkit::{FakeBroker, Toy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

pub struct House {
    pub gateway: Gateway,
    pub broker: Arc<FakeBroker>,
    pub url: ListenUrl,
}

fn house(config: Config, url: &str) -> House {
    house_of(config, url, Spoken::One(Toy::new()))
}

pub fn house_of(config: Config, url: &str, spoken: Spoken) -> House {
    let broker = FakeBroker::new();
    let mut gateway = Gateway::new(config, broker.clone());
    let mut bound = bind(&url.parse().expect("a URL"), 64).expect("bound");
    let bound = bound.remove(0);
    let url = bound.url.clone();
    let service = Service { spoken, vhost: VhostName::new("/"), allow_anonymous: true, front: Front::default() };
    gateway.listen(bound, service).expect("listening");
    House { gateway, broker, url }
}

impl House {
    pub async fn connect(&self) -> TcpStream {
        let url = self.url.to_string();
        timed(TcpStream::connect(url.split_once("://").expect("a scheme").1)).await.expect("connected")
    }
}

pub async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), question: &str) -> String {
    timed(stream.write_all(question.as_bytes())).await.expect("sent");
    let mut answer = [0; 64];
    let count = timed(stream.read(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

#[tokio::test]
async fn tcp_and_unix_clients_are_served_and_told_when_it_ends() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("socket");
    for url in ["mqtt://127.0.0.1:0".to_owned(), format!("unix:{}", path.display())] {
        let mut house = house(Config::default(), &url);
        let mut client: Box<dyn Wire> = match url.starts_with("unix") {
            true => Box::new(UnixStream::connect(&path).await.expect("connected")),
            false => Box::new(house.connect().await),
        };
        assert_eq!(ask(&mut client, "echo hi\n").await, "hi\n");
        house.gateway.stop_accepting(false).await;
        house.broker.shutdown();
        assert_eq!(ask(&mut client, "").await, "shutdown\n");
        drop(client);
        assert_eq!(timed(house.gateway.drained()).await, 0);
    }
    assert!(!path.exists());
}

trait Wire: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Wire for T {}

#[tokio::test]
async fn the_last_words_survive_unread_input() {
    let house = house(Config::default(), "mqtt://127.0.0.1:0");
    for _ in 0..20 {
        let mut client = house.connect().await;
        // What follows `bang` is never read by a session; closing at once would reset the connection and lose the answer.
        let _ = client.write_all(format!("ping\nwhat\n{}", "echo x\n".repeat(50_000)).as_bytes()).await;
        let mut answer = String::new();
        timed(client.read_to_string(&mut answer)).await.expect("no reset");
        assert_eq!(answer, "pong\nwhat?\n");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_room_comes_back() {
    let house = house(Config { max_connections: 1, ..Config::default() }, "mqtt://127.0.0.1:0");
    let mut first = house.connect().await;
    assert_eq!(ask(&mut first, "ping\n").await, "pong\n");
    // Its command is answered, and not by the core.
    let mut second = house.connect().await;
    assert_eq!(ask(&mut second, "login\n").await, "hello\n");
    assert_eq!((house.broker.sessions().len(), house.gateway.slots().live()), (1, 1));
    assert_eq!(house.gateway.slots().stats.connections_refused.load(Relaxed), 1);
    drop(first);
    until("the slot", || house.gateway.slots().live() == 0).await;
    let mut third = house.connect().await;
    assert_eq!(ask(&mut third, "ping\n").await, "pong\n");
}

#[tokio::test]
async fn a_refusing_core_closes_the_connection() {
    let house = house(Config::default(), "mqtt://127.0.0.1:0");
    house.broker.refuse();
    let mut client = house.connect().await;
    let mut end = Vec::new();
    let _ = timed(client.read_to_end(&mut end)).await;
    assert!(end.is_empty());
    until("the slot", || house.gateway.slots().live() == 0).await;
}

/// The descriptor limit belongs to the process, so this runs in a child of its own.
#[test]
fn a_listener_without_descriptors_pauses_and_recovers() {
    const CHILD: &str = "GATEWAY_TEST_EMFILE";
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(run_out_of_descriptors());
    }
    let me = std::env::current_exe().expect("a path");
    let test = "listening::a_listener_without_descriptors_pauses_and_recovers";
    let child = std::process::Command::new(me).args(["--exact", test, "--nocapture"]).env(CHILD, "1").output().expect("a child");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

async fn run_out_of_descriptors() {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let house = house(Config::default(), "mqtt://127.0.0.1:0");
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: old.maximum }).expect("lowered");
    // Both ends are here: connect until our own side fails, which leaves connections that the kernel has queued and nobody can accept.
    let mut clients = Vec::new();
    let url = house.url.to_string();
    let address: std::net::SocketAddr = url.trim_start_matches("mqtt://").parse().expect("an address");
    while let Ok(client) = std::net::TcpStream::connect(address) {
        clients.push(client);
        tokio::task::yield_now().await;
    }
    let stats = &house.gateway.slots().stats;
    until("a pause", || stats.accept_pauses.load(Relaxed) == 1).await;
    let before = cpu();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(cpu() - before < Duration::from_millis(250), "it spins");
    assert_eq!(stats.accept_pauses.load(Relaxed), 1, "said once");
    clients.truncate(4);
    let mut late = TcpStream::connect(address).await.expect("room again");
    assert_eq!(tokio::time::timeout(LIMIT, ask(&mut late, "ping\n")).await.expect("served"), "pong\n");
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
