mod faults;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::voter::lock;
use super::{Settings, Voter, VoterPeer};
use crate::coordinator::contract::{self, granted, known, name, register, vacant, write, Rig};
use crate::coordinator::{BoxFuture, Cas, Coordinator, Lease, NodeName, Read, Version};
use crate::net::{Identity, Listener, Secret};

const LONG: Duration = Duration::from_secs(30);
const NAMES: [&str; 3] = ["a", "b", "w"];

/// Three voters in this process, over real connections.
struct Cluster {
    folder: tempfile::TempDir,
    addresses: Vec<String>,
    /// By what address a node reaches another one, where that is not its own.
    routes: BTreeMap<(&'static str, &'static str), String>,
    lease: Duration,
    nodes: Vec<Option<(Arc<Voter>, JoinHandle<()>)>>,
}

impl Cluster {
    async fn start() -> Self {
        let mut cluster = Self::new();
        for name in NAMES {
            cluster.boot(name).await;
        }
        cluster
    }

    fn new() -> Self {
        let reserved: Vec<_> = NAMES.map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).into();
        let addresses = reserved.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
        drop(reserved);
        let folder = tempfile::tempdir().unwrap();
        Self { folder, addresses, routes: BTreeMap::new(), lease: Settings::LEASE, nodes: vec![None, None, None] }
    }

    fn at(name: &str) -> usize {
        NAMES.iter().position(|other| *other == name).unwrap()
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn boot(&mut self, me: &str) {
        let peers = NAMES.iter().filter(|other| **other != me);
        let address = |other: &str| {
            let route = self.routes.iter().find(|((from, to), _)| *from == me && *to == other);
            route.map_or_else(|| self.addresses[Self::at(other)].clone(), |(_, route)| route.clone())
        };
        let peer = |other: &&str| VoterPeer { name: name(other), address: address(other), witness: *other == "w" };
        let settings = Settings {
            name: name(me),
            witness: me == "w",
            peers: peers.map(peer).collect(),
            folder: self.folder(me),
            lease: self.lease,
            heartbeat: Settings::HEARTBEAT,
        };
        let identity = Identity::with_secret(name(me), Secret::new("the secret of the tests").unwrap());
        let mut listener = Listener::bind(&self.addresses[Self::at(me)], identity.clone()).await.unwrap();
        let voter = Voter::start(settings, identity, Arc::new(|why: &str| eprintln!("a voter has failed: {why}"))).await.unwrap();
        let served = voter.clone();
        let serving = tokio::spawn(async move {
            let mut links = tokio::task::JoinSet::new();
            loop {
                let (link, ..) = listener.accept().await;
                let voter = served.clone();
                links.spawn(async move { voter.serve(link).await });
            }
        });
        self.nodes[Self::at(me)] = Some((voter, serving));
    }

    /// As sudden as it gets inside of one process: its links break, and nothing is said.
    async fn kill(&mut self, name: &str) {
        let (voter, serving) = self.nodes[Self::at(name)].take().unwrap();
        serving.abort();
        let _ = serving.await;
        voter.stop().await;
    }

    fn voter(&self, name: &str) -> Arc<Voter> {
        self.nodes[Self::at(name)].as_ref().unwrap().0.clone()
    }

    async fn leader(&self) -> &'static str {
        until("a leader", || {
            NAMES.into_iter().find(|name| self.nodes[Self::at(name)].as_ref().is_some_and(|(voter, _)| voter.shared.leads()))
        })
        .await
    }
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            match look() {
                Some(found) => return found,
                None => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// A voter is a node's process in the embedded coordinator; so what is given to a test goes on to work across a restart of all three.
struct Lasting {
    current: Arc<std::sync::Mutex<Arc<Voter>>>,
}

impl Lasting {
    fn voter(&self) -> Arc<Voter> {
        lock(&self.current).clone()
    }
}

impl Coordinator for Lasting {
    fn read(&self) -> BoxFuture<'_, crate::coordinator::Read> {
        Box::pin(async { self.voter().read().await })
    }
    fn cas(&self, expect: Option<Version>, new: crate::coordinator::Register) -> BoxFuture<'_, Cas> {
        Box::pin(async move { self.voter().cas(expect, new).await })
    }
    fn renew(&self, epoch: u64) -> BoxFuture<'_, Lease> {
        Box::pin(async move { self.voter().renew(epoch).await })
    }
    fn vacant(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.voter().vacant().await })
    }
    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.voter().release().await })
    }
    fn lease(&self) -> Duration {
        self.voter().lease()
    }
    fn describe(&self) -> String {
        self.voter().describe()
    }
}

struct Embedded {
    cluster: Cluster,
    given: Vec<(String, Arc<std::sync::Mutex<Arc<Voter>>>)>,
}

impl Rig for Embedded {
    fn node<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, Arc<dyn Coordinator>> {
        let current = Arc::new(std::sync::Mutex::new(self.cluster.voter(name)));
        self.given.push((name.to_owned(), current.clone()));
        Box::pin(async { Arc::new(Lasting { current }) as Arc<dyn Coordinator> })
    }

    fn restart(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            for name in NAMES {
                self.cluster.kill(name).await;
            }
            for name in NAMES {
                self.cluster.boot(name).await;
            }
            for (name, current) in &self.given {
                *lock(current) = self.cluster.voter(name);
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract() {
    contract::all(|| async { Embedded { cluster: Cluster::start().await, given: Vec::new() } }).await;
}

/// A register that names a as primary and both in sync.
async fn reign(cluster: &Cluster) -> (Version, Arc<Voter>, Arc<Voter>) {
    let (a, b) = (cluster.voter("a"), cluster.voter("b"));
    vacant(&*a).await;
    let version = write(&*a, None, register(1, "a", &["a", "b"])).await;
    granted(&*a, 1).await;
    (version, a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_dies_the_other_one_has_the_lease_after_it_ran_out() {
    let mut cluster = Cluster::start().await;
    let mut took = Vec::new();
    let (mut version, _, _) = reign(&cluster).await;
    for (epoch, (old, new)) in [("a", "b"), ("b", "a")].into_iter().enumerate() {
        let epoch = epoch as u64 + 1;
        let until = granted(&*cluster.voter(old), epoch).await;
        let killed = Instant::now();
        cluster.kill(old).await;
        let standby = cluster.voter(new);
        vacant(&*standby).await;
        let free = Instant::now();
        assert!(free >= until, "while the other's grant was in force");
        version = write(&*standby, Some(version), register(epoch + 1, new, &["a", "b"])).await;
        granted(&*standby, epoch + 1).await;
        took.push((free - killed, killed.elapsed()));
        cluster.boot(old).await;
        assert_eq!(known(&*cluster.voter(old)).await.unwrap().1.epoch, epoch + 1);
    }
    println!("from the primary's end to the vacancy, and to a grant: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_alone_has_the_newest_entry_hands_it_on() {
    let mut cluster = Cluster::start().await;
    let (version, a, b) = reign(&cluster).await;
    drop(b);
    cluster.kill("b").await;
    let shrunk = write(&*a, Some(version), register(1, "a", &["a"])).await;
    drop(a);
    cluster.kill("a").await;
    cluster.boot("b").await;
    let b = cluster.voter("b");
    vacant(&*b).await;
    assert_eq!(known(&*b).await, Some((shrunk, register(1, "a", &["a"]))));
    assert!(matches!(b.cas(Some(shrunk), register(2, "b", &["b"])).await, Cas::Refused(_)));
    // It leads no longer than it has to.
    until("b as leader", || b.shared.leads().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_are_enough_whichever_is_missing() {
    let mut cluster = Cluster::start().await;
    let (mut version, a, b) = reign(&cluster).await;
    drop((a, b));
    for missing in ["w", "b", "w"] {
        cluster.kill(missing).await;
        let a = cluster.voter("a");
        version = write(&*a, Some(version), register(1, "a", &["a", "b"])).await;
        granted(&*a, 1).await;
        drop(a);
        cluster.boot(missing).await;
    }
    // Alone it says that it does not know, in bounded time, and grants itself nothing.
    cluster.kill("w").await;
    cluster.kill("b").await;
    let a = cluster.voter("a");
    assert_ne!(timeout(LONG, a.cas(Some(version), register(1, "a", &["a"]))).await.unwrap(), Cas::Won(Version(version.0 + 1)));
    assert!(!matches!(timeout(LONG, a.renew(1)).await.unwrap(), Lease::Granted { .. }));
    assert!(timeout(Duration::from_millis(500), a.vacant()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_start_without_the_witness_agree_who_comes_first() {
    let mut cluster = Cluster::start().await;
    let (version, a, b) = reign(&cluster).await;
    drop((a, b));
    for name in NAMES {
        cluster.kill(name).await;
    }
    for name in ["b", "a"] {
        cluster.boot(name).await;
    }
    let (a, b) = (cluster.voter("a"), cluster.voter("b"));
    let (mut first, mut second) = (a.vacant(), b.vacant());
    let waiting = async {
        tokio::select! {
            () = &mut first => "a",
            () = &mut second => "b",
        }
    };
    let winner = timeout(LONG, waiting).await.expect("one of them");
    write(&*cluster.voter(winner), Some(version), register(2, winner, &["a", "b"])).await;
    granted(&*cluster.voter(winner), 2).await;
    let loser = cluster.voter(if winner == "a" { "b" } else { "a" });
    assert_eq!(loser.renew(2).await, Lease::Refused);
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_whose_directory_was_lost_has_no_vote_before_it_is_replaced() {
    let mut cluster = Cluster::start().await;
    let (version, a, b) = reign(&cluster).await;
    let copied = cluster.folder.path().join("copy");
    for older in [false, true] {
        cluster.kill("w").await;
        // Made before b left, so it would still let b take over.
        copy(&cluster.folder("w"), &copied);
        cluster.boot("w").await;
        let current = known(&*a).await.unwrap().0;
        write(&*a, Some(current), register(1, "a", &["a"])).await;
        let grown = known(&*a).await.unwrap().0;
        write(&*a, Some(grown), register(1, "a", &["a", "b"])).await;
        until("what w has to be known to a", || {
            let (last, seen) = (a.shared.last_entry()?.index + 1, lock(&a.shared.file).identity.seen.get("w")?.entries);
            (seen == last).then_some(())
        })
        .await;
        let id = a.shared.voters().into_iter().find(|(_, node)| *node == name("w")).unwrap().0;
        cluster.kill("w").await;
        match older {
            false => std::fs::remove_dir_all(cluster.folder("w")).unwrap(),
            // In place: what is a copy by itself is found out without the others.
            true => ["voter.json", "raft.log"].into_iter().for_each(|file| {
                let older = std::fs::read(copied.join(file)).unwrap();
                std::fs::write(cluster.folder("w").join(file), older).unwrap();
            }),
        }
        cluster.boot("w").await;
        let w = cluster.voter("w");
        until("w to know it", || {
            let text = w.describe();
            (text.starts_with("no voter") && (older == text.contains("older"))).then_some(())
        })
        .await;
        sleep(Duration::from_millis(800)).await;
        assert!(w.describe().starts_with("no voter"), "{}", w.describe());
        timeout(LONG, async {
            while let Err(why) = b.replace_voter(&name("w")).await {
                println!("not yet: {why}");
                sleep(Duration::from_millis(200)).await;
            }
        })
        .await
        .expect("w to be replaced");
        let voters = a.shared.voters();
        assert!(voters.len() == 3 && !voters.contains_key(&id), "{voters:?}");
        until("w to have everything", || {
            let text = w.describe();
            text.contains("w (here").then_some(())
        })
        .await;
    }
    assert!(known(&*b).await.unwrap().0 > version);
    // It counts: without b, it is w that makes the majority.
    drop(b);
    cluster.kill("b").await;
    granted(&*a, 1).await;
    let current = known(&*a).await.unwrap().0;
    write(&*a, Some(current), register(1, "a", &["a"])).await;
}

/// What a node asks for is numbered within its life, and an empty directory is in its first one again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_directory_was_lost_in_a_later_life_is_answered() {
    let mut cluster = Cluster::start().await;
    let (_, a, b) = reign(&cluster).await;
    drop(b);
    for _ in 0..3 {
        cluster.kill("b").await;
        cluster.boot("b").await;
        known(&*cluster.voter("b")).await.unwrap();
    }
    cluster.kill("b").await;
    std::fs::remove_dir_all(cluster.folder("b")).unwrap();
    cluster.boot("b").await;
    timeout(LONG, async {
        while a.replace_voter(&name("b")).await.is_err() {
            sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("b to be replaced");
    let b = cluster.voter("b");
    let read = timeout(LONG, async {
        loop {
            if let Read::Known(register) = b.read().await {
                return register;
            }
        }
    });
    assert_eq!(read.await.expect("b to be told of the register"), known(&*a).await);
}

/// The witness had a part in taking b out, and then comes back as it was before, while a is away: nobody who remembers is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_whose_directory_is_a_copy_has_no_vote_though_nobody_remembers() {
    let mut cluster = Cluster::start().await;
    let (_, a, b) = reign(&cluster).await;
    cluster.kill("w").await;
    let copied = cluster.folder.path().join("copy");
    copy(&cluster.folder("w"), &copied);
    cluster.boot("w").await;
    drop(b);
    cluster.kill("b").await;
    let current = known(&*a).await.unwrap().0;
    write(&*a, Some(current), register(1, "a", &["a"])).await;
    drop(a);
    for name in ["a", "w"] {
        cluster.kill(name).await;
    }
    copy(&copied, &cluster.folder("w"));
    for name in ["b", "w"] {
        cluster.boot(name).await;
    }
    let (b, w) = (cluster.voter("b"), cluster.voter("w"));
    sleep(Duration::from_millis(1500)).await;
    assert!(!b.shared.leads() && w.describe().contains("a copy"), "{} / {}", b.describe(), w.describe());
    // The one that remembers makes a majority with b, and then w can be replaced.
    cluster.boot("a").await;
    let a = cluster.voter("a");
    assert!(known(&*a).await.unwrap().1.in_sync.len() == 1);
    timeout(LONG, async {
        while b.replace_voter(&name("w")).await.is_err() {
            sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("w to be replaced");
    // And is not taken for a copy at its next start.
    cluster.kill("w").await;
    cluster.boot("w").await;
    let w = cluster.voter("w");
    until("w to vote", || w.describe().contains("w (here").then_some(())).await;
}

#[tokio::test]
async fn settings_are_checked_and_a_directory_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let peer = |text: &str, witness| VoterPeer { name: name(text), address: "127.0.0.1:1".into(), witness };
    let good = Settings {
        name: name("a"),
        witness: false,
        peers: vec![peer("b", false), peer("w", true)],
        folder: folder.path().to_owned(),
        lease: Settings::LEASE,
        heartbeat: Settings::HEARTBEAT,
    };
    let start = |settings: Settings| async move {
        let identity = Identity::with_secret(settings.name.clone(), Secret::new("the secret of the tests").unwrap());
        Voter::start(settings, identity, Arc::new(|_: &str| {})).await.map_err(|error| error.to_string())
    };
    for (bad, why) in [
        (Settings { peers: vec![peer("b", false)], ..good.clone() }, "three voters"),
        (Settings { peers: vec![peer("a", false), peer("w", true)], ..good.clone() }, "three voters"),
        (Settings { peers: vec![peer("b", false), peer("w", false)], ..good.clone() }, "the witness"),
        (Settings { lease: Duration::from_millis(10), ..good.clone() }, "the lease"),
    ] {
        assert!(start(bad).await.err().unwrap().contains(why), "{why}");
    }
    let voter = start(good.clone()).await.unwrap();
    assert!(start(good.clone()).await.err().unwrap().contains("in use"));
    voter.stop().await;
    drop(voter);
    let renamed = Settings { name: name("c"), ..good };
    assert!(start(renamed).await.err().unwrap().contains("belongs to the node a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_with_another_lease_stay_apart() {
    let mut cluster = Cluster::start().await;
    let (version, a, b) = reign(&cluster).await;
    drop(b);
    cluster.kill("b").await;
    cluster.lease = Settings::LEASE * 2;
    cluster.boot("b").await;
    let b = cluster.voter("b");
    sleep(Duration::from_secs(1)).await;
    assert!(a.describe().contains("b (out of reach"), "{}", a.describe());
    assert!(timeout(Duration::from_secs(1), b.vacant()).await.is_err());
    write(&*a, Some(version), register(1, "a", &["a"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_come_from_the_data_nodes() {
    let cluster = Cluster::start().await;
    let (_, a, _) = reign(&cluster).await;
    assert_ne!(cluster.leader().await, "w");
    let text = a.describe();
    assert!(text.contains("a (here") && text.contains("leads") && text.contains("w (reachable"), "{text}");
    let _: &NodeName = a.name();
}
