//! `carrick witness` as a process, with the two other voters in this one.

use super::*;
use replication::coordinator::{Cas, Coordinator, Lease, Member, NodeName, Register, Settings, Version, Voter, VoterPeer};
use replication::net::{Identity, Listener, Secret};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SECRET: &str = "a secret of three nodes";

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn address() -> String {
    format!("127.0.0.1:{}", super::pair::port())
}

fn witness(dir: &Path, listen: &str, a: &str, b: &str) -> Carrick {
    let text = format!("node = 'w'\nlisten = '{listen}'\ndata_dir = 'w'\nsecret = '{SECRET}'\npeers = {{ a = '{a}', b = '{b}' }}\n");
    std::fs::write(dir.join("w.toml"), text).expect("written");
    start(dir, &["witness", "--config", "w.toml"])
}

async fn voter(dir: &Path, me: &str, addresses: &BTreeMap<&str, String>) -> Arc<Voter> {
    let others = addresses.iter().filter(|(other, _)| **other != me);
    let settings = Settings {
        name: name(me),
        witness: false,
        peers: others.map(|(other, at)| VoterPeer { name: name(other), address: at.clone(), witness: *other == "w" }).collect(),
        folder: dir.join(me),
        lease: Settings::LEASE,
        heartbeat: Settings::HEARTBEAT,
    };
    let identity = Identity::with_secret(name(me), Secret::new(SECRET).expect("long enough"));
    let mut listener = Listener::bind(&addresses[me], identity.clone()).await.expect("bound");
    let voter = Voter::start(settings, identity, Arc::new(|why: &str| panic!("{why}"))).await.expect("a voter");
    let served = voter.clone();
    tokio::spawn(async move {
        loop {
            let (link, ..) = listener.accept().await;
            let served = served.clone();
            tokio::spawn(async move { served.serve(link).await });
        }
    });
    voter
}

fn resident_kib(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

async fn granted(voter: &Voter, epoch: u64) {
    let asking = async {
        while !matches!(voter.renew(epoch).await, Lease::Granted { .. }) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, asking).await.expect("a grant");
}

async fn written(voter: &Voter, expect: Option<Version>, new: Register) -> Version {
    let writing = async {
        loop {
            match voter.cas(expect, new.clone()).await {
                Cas::Won(version) => return version,
                Cas::Lost(Some((version, stored))) if stored == new => return version,
                Cas::Unknown => {}
                other => panic!("{other:?}: {}", voter.describe()),
            }
        }
    };
    tokio::time::timeout(LIMIT, writing).await.expect("an answer")
}

#[test]
fn a_witness_makes_a_majority_with_either_node_and_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let addresses: BTreeMap<&str, String> = ["a", "b", "w"].map(|node| (node, address())).into();
    let first = witness(dir.path(), &addresses["w"], &addresses["a"], &addresses["b"]);
    assert_eq!(first.urls, [addresses["w"].clone()]);
    let program = std::fs::read_link(format!("/proc/{}/exe", first.process.id())).expect("a program");
    assert!(program.ends_with("carrick-witness"), "not the small one: {}", program.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let register = |epoch, in_sync: &[&str]| {
        let member = Member { boot: 1, peer: String::new(), clients: Vec::new() };
        Register {
            epoch,
            primary: name("a"),
            in_sync: in_sync.iter().map(|node| name(node)).collect::<BTreeSet<_>>(),
            cluster: 5,
            members: ["a", "b"].map(|node| (name(node), member.clone())).into(),
            by_memory: BTreeSet::new(),
        }
    };
    let (a, version) = runtime.block_on(async {
        let a = voter(dir.path(), "a", &addresses).await;
        let b = voter(dir.path(), "b", &addresses).await;
        tokio::time::timeout(LIMIT, a.vacant()).await.expect("a vacancy");
        let version = written(&a, None, register(1, &["a", "b"])).await;
        granted(&a, 1).await;
        b.stop().await;
        granted(&a, 1).await;
        (a, version)
    });
    let resident = resident_kib(&first.process);
    println!("the witness has {resident} KiB resident");
    assert!(resident < 64 * 1024, "{resident} KiB");
    assert_eq!(first.stop(), Some(0));
    let mut again = witness(dir.path(), &addresses["w"], &addresses["a"], &addresses["b"]);
    runtime.block_on(async {
        granted(&a, 1).await;
        assert!(written(&a, Some(version), register(1, &["a"])).await > version);
        a.stop().await;
    });
    signal(&again.process, rustix::process::Signal::INT);
    assert_eq!(wait(&mut again.process), Some(0));
}

#[test]
fn a_witness_that_cannot_work_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let (code, why) = refused(dir.path(), &["witness", "--config", "none.toml"]);
    assert!(code == Some(1) && why.contains("none.toml"), "{why}");
    let running = witness(dir.path(), &address(), "127.0.0.1:1", "127.0.0.1:2");
    let (code, why) = refused(dir.path(), &["witness", "--config", "w.toml"]);
    assert!(code == Some(1) && why.contains("cannot listen on"), "{why}");
    let text = std::fs::read_to_string(dir.path().join("w.toml")).expect("read").replace(&running.urls[0], "127.0.0.1:0");
    std::fs::write(dir.path().join("w.toml"), text).expect("written");
    let (code, why) = refused(dir.path(), &["witness", "--config", "w.toml"]);
    assert!(code == Some(1) && why.contains("in use by another process"), "{why}");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn the_small_program_alone_is_a_witness_and_is_not_mixed_with_another_version() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!("node = 'w'\nlisten = '127.0.0.1:0'\ndata_dir = 'w'\nsecret = '{SECRET}'\npeers = {{ a = 'h:1', b = 'h:2' }}\n");
    std::fs::write(dir.path().join("w.toml"), text).expect("written");
    let small = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carrick-witness"));
        command.args(["--config", "w.toml"]).args(arguments).current_dir(dir.path()).stdout(Stdio::piped());
        command
    };
    let other = small(&["--for-carrick", "0.0.9"]).output().expect("ran");
    let why = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.code() == Some(1) && why.contains("install both of one version"), "{why}");
    assert_eq!(start_command(small(&[])).stop(), Some(0));
}
