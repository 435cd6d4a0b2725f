//! A pair whose register is kept by somebody else than a witness: by a folder, by etcd, by a person.

use super::pair::{drain, judge, subscribe, Node, Publisher, Trio};
use super::*;
use std::path::PathBuf;

/// The primary is killed, and the other one goes on; then it comes back.
fn survives_a_kill(trio: &mut Trio, says: &str) {
    let primary = trio.primary(None);
    subscribe(&trio.nodes[primary]);
    let mut publisher = Publisher::default();
    trio.standby_in_sync(primary, &mut publisher);
    let (_, body) = trio.nodes[primary].ask("GET /api/ha").expect("an answer");
    assert!(body.contains(says), "{body}");
    trio.kill(primary);
    publisher.until(trio, primary, 200);
    trio.restart(primary);
    let now = trio.primary(Some(primary));
    trio.standby_in_sync(now, &mut publisher);
    judge(&publisher.confirmed, &drain(&trio.nodes[now]));
}

#[test]
fn a_folder_on_one_host() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut trio = Trio::with(&format!("coordinator = 'file'\nfolder = '{}'\n", folder.path().display()));
    survives_a_kill(&mut trio, "for one host only; the lease is with");
}

/// Debian's etcd-server, in its own timings.
struct Etcd {
    process: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Etcd {
    /// `None`: this machine has none. Where CI counts on it, that fails.
    fn start() -> Option<Etcd> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let found: Option<PathBuf> = std::env::split_paths(&paths).map(|folder| folder.join("etcd")).find(|path| path.is_file());
        let Some(program) = found else {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "etcd is not installed (Debian: etcd-server), and CI=true");
            eprintln!("SKIPPED: etcd is not installed (Debian: etcd-server)");
            return None;
        };
        // In memory where that can be: what is tested is the pair, not how long this disk takes while others write on it.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
        let [url, peer] = [0; 2].map(|_| format!("http://127.0.0.1:{}", super::pair::port()));
        let process = Command::new(program)
            .args(["--name", "one", "--log-level", "error", "--data-dir"])
            .arg(dir.path().join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("one={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let etcd = Etcd { process, url, _dir: dir };
        let begun = Instant::now();
        while TcpStream::connect(etcd.url.trim_start_matches("http://")).is_err() {
            assert!(begun.elapsed() < LIMIT, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(etcd)
    }
}

#[test]
fn a_standby_whose_memory_is_enough_takes_over_and_is_caught_up_at_a_bounded_rate() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "standby_ack = 'received'\ncatch_up_bytes_per_second = '64 MiB'\n";
    let mut trio = Trio::with(&format!("coordinator = 'file'\nfolder = '{}'\n{keys}", folder.path().display()));
    survives_a_kill(&mut trio, r#""role":"primary""#);
}

#[test]
fn an_etcd_that_is_there_already() {
    let Some(etcd) = Etcd::start() else { return };
    let mut trio = Trio::with(&format!("coordinator = 'etcd'\netcd = {{ endpoints = ['{}'], prefix = '/carrick/test/' }}\n", etcd.url));
    survives_a_kill(&mut trio, "keys under /carrick/test/: answers");
}

pub fn promote(node: &Node, dir: &Path, epoch: &[&str]) -> (Option<i32>, String) {
    let url = node.url();
    let mut arguments = vec!["ha", "promote", "--url", &url];
    arguments.extend(epoch);
    door::run(dir, &arguments)
}

pub fn until_says(node: &Node, part: &str) {
    let begun = Instant::now();
    while !node.ask("GET /api/ha").is_some_and(|(_, body)| body.contains(part)) {
        assert!(begun.elapsed() < LIMIT, "no {part:?} in {:?}", node.ask("GET /api/ha"));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_person_decides_and_nothing_else_does() {
    let mut trio = Trio::with("coordinator = 'manual'\n");
    let dir = trio.dir.path().to_owned();
    until_says(&trio.nodes[0], "carrick ha promote --epoch 1");
    let (code, text) = promote(&trio.nodes[0], &dir, &[]);
    assert!(code == Some(1) && text.contains("--epoch"), "{text}");
    let (code, text) = promote(&trio.nodes[0], &dir, &["--epoch", "1"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(trio.primary(None), 0);
    subscribe(&trio.nodes[0]);
    let mut publisher = Publisher::default();
    trio.standby_in_sync(0, &mut publisher);
    // The standby has been told, and nobody promotes it while its primary lives.
    until_says(&trio.nodes[1], r#""in_sync":["a","b"]"#);
    let (code, text) = promote(&trio.nodes[1], &dir, &["--epoch", "2"]);
    assert!(code == Some(1) && text.contains("follows a primary that lives"), "{text}");
    trio.kill(0);
    until_says(&trio.nodes[1], "carrick ha promote --epoch 2");
    assert!(!trio.nodes[1].serves(), "nobody has said so");
    let (code, text) = promote(&trio.nodes[1], &dir, &["--epoch", "7"]);
    assert!(code == Some(1) && text.contains("the next one is 2"), "{text}");
    let (code, text) = promote(&trio.nodes[1], &dir, &["--epoch", "2"]);
    assert_eq!(code, Some(0), "{text}");
    publisher.until(&mut trio, 0, 100);
    // The old one comes back, and follows by itself.
    trio.restart(0);
    trio.standby_in_sync(1, &mut publisher);
    // What is on purpose and with both nodes there needs no epoch.
    let (code, text) = door::run(&dir, &["ha", "switchover", "--url", &trio.nodes[1].url()]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(wait(&mut trio.nodes[1].process), Some(75));
    publisher.until(&mut trio, 1, 100);
    judge(&publisher.confirmed, &drain(&trio.nodes[0]));
}
