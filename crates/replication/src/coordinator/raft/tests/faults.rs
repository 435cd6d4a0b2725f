//! Networks that are cut in one way or another, and voters that come and go while nodes write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::coordinator::{Read, Register};

/// Cuts what one node sends to another over links of either's: nothing is closed, bytes just stay away until it is mended.
struct Cable {
    cut: Arc<AtomicBool>,
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: Arc<AtomicBool>) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let Ok(read) = from.read(&mut bytes).await else { return };
        while cut.load(Ordering::Acquire) {
            sleep(Duration::from_millis(5)).await;
        }
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// A cluster whose nodes reach each other through cables that can be cut, one for each direction.
async fn wired() -> (Cluster, BTreeMap<(&'static str, &'static str), Cable>) {
    let mut cluster = Cluster::new();
    let mut cables = BTreeMap::new();
    for from in NAMES {
        for to in NAMES.into_iter().filter(|to| *to != from) {
            cables.insert((from, to), Cable { cut: Arc::default() });
        }
    }
    for from in NAMES {
        for to in NAMES.into_iter().filter(|to| *to != from) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.routes.insert((from, to), listener.local_addr().unwrap().to_string());
            let target = cluster.addresses[Cluster::at(to)].clone();
            let (there, back) = (cables[&(from, to)].cut.clone(), cables[&(to, from)].cut.clone());
            tokio::spawn(async move {
                while let Ok((incoming, _)) = listener.accept().await {
                    let Ok(outgoing) = TcpStream::connect(&target).await else { continue };
                    let ((in_read, in_write), (out_read, out_write)) = (incoming.into_split(), outgoing.into_split());
                    tokio::spawn(carry(in_read, out_write, there.clone()));
                    tokio::spawn(carry(out_read, in_write, back.clone()));
                }
            });
        }
    }
    for name in NAMES {
        cluster.boot(name).await;
    }
    (cluster, cables)
}

fn set(cables: &BTreeMap<(&'static str, &'static str), Cable>, cut: bool, which: &[(&'static str, &'static str)]) {
    for way in which {
        cables[way].cut.store(cut, Ordering::Release);
    }
}

const A_FROM_B: [(&str, &str); 2] = [("a", "b"), ("b", "a")];
const A_FROM_ALL: [(&str, &str); 4] = [("a", "b"), ("b", "a"), ("a", "w"), ("w", "a")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_witness_hears_the_primary_a_standby_that_does_not_is_kept_out() {
    let (cluster, cables) = wired().await;
    let (version, a, b) = reign(&cluster).await;
    for ways in [&A_FROM_B[..], &A_FROM_B[..1], &A_FROM_B[1..]] {
        set(&cables, true, ways);
        let waiting = tokio::spawn({
            let b = b.clone();
            async move { b.vacant().await }
        });
        let end = Instant::now() + Duration::from_secs(2);
        let (mut grants, mut asked, mut last, mut gap) = (0, 0, Instant::now(), Duration::ZERO);
        while Instant::now() < end {
            asked += 1;
            if let Lease::Granted { .. } = a.renew(1).await {
                grants += 1;
                gap = gap.max(last.elapsed());
                last = Instant::now();
            }
            sleep(Duration::from_millis(40)).await;
        }
        // Only on a machine that is too busy to ask or to answer in time may the lease be lost.
        if gap < Settings::LEASE / 2 {
            assert!(grants > asked / 2 && !waiting.is_finished(), "{grants} grants of {asked}, {ways:?}");
        }
        waiting.abort();
        set(&cables, false, ways);
        sleep(Duration::from_millis(200)).await;
    }
    // The register can be written all the while.
    set(&cables, true, &A_FROM_B);
    write(&*a, Some(version), register(1, "a", &["a"])).await;
    set(&cables, false, &A_FROM_B);
    assert_eq!(known(&*b).await.unwrap().1, register(1, "a", &["a"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_cut_off_has_no_grant_when_the_standby_has_one() {
    let (cluster, cables) = wired().await;
    let (version, a, b) = reign(&cluster).await;
    let renewing = tokio::spawn({
        let a = a.clone();
        async move {
            let mut until = Instant::now();
            for _ in 0..20 {
                if let Lease::Granted { until: longer } = a.renew(1).await {
                    until = longer;
                }
                sleep(Duration::from_millis(30)).await;
            }
            until
        }
    });
    sleep(Duration::from_millis(200)).await;
    set(&cables, true, &A_FROM_ALL);
    let cut = Instant::now();
    vacant(&*b).await;
    let free = Instant::now();
    write(&*b, Some(version), register(2, "b", &["b"])).await;
    granted(&*b, 2).await;
    println!("from the cut to the vacancy {:?}, to a grant of b {:?}", free - cut, cut.elapsed());
    let until = timeout(LONG, renewing).await.unwrap().unwrap();
    assert!(until <= free, "a counted on its grant for {:?} longer", until - free);
    assert!(!matches!(a.renew(1).await, Lease::Granted { .. }));
    set(&cables, false, &A_FROM_ALL);
    assert_eq!(known(&*a).await.unwrap().1.epoch, 2);
    assert!(!matches!(a.renew(1).await, Lease::Granted { .. }));
}

/// What a node has been told.
#[derive(Default)]
struct Told {
    /// Which write stands in which version.
    stood: BTreeMap<u64, u128>,
    /// Writes that a read has shown not to have happened.
    never: BTreeSet<u128>,
    won: usize,
    unknown: usize,
}

impl Told {
    fn saw(&mut self, version: Version, write: u128) {
        let before = self.stood.insert(version.0, write);
        assert!(before.is_none_or(|before| before == write), "{version} was two things");
    }
}

fn numbered(write: u128) -> Register {
    let mut new = register(1, "a", &["a", "b"]);
    new.members.get_mut("b").unwrap().boot = write;
    new
}

/// Writes as fast as it can, without the patience to hear of everything, and asks what became of it then.
async fn writer(node: Arc<dyn Coordinator>, first: u128, told: Arc<std::sync::Mutex<Told>>, stop: Arc<AtomicBool>) {
    let mut write = first;
    while !stop.load(Ordering::Acquire) {
        let Read::Known(Some((version, stored))) = node.read().await else { continue };
        lock(&told).saw(version, stored.members["b"].boot);
        write += 1;
        let patience = Duration::from_micros(rand::thread_rng().gen_range(200..20_000));
        match timeout(patience, node.cas(Some(version), numbered(write))).await.unwrap_or(Cas::Unknown) {
            Cas::Won(version) => {
                let mut told = lock(&told);
                told.won += 1;
                told.saw(version, write);
            }
            Cas::Lost(Some((version, stored))) => {
                let mut told = lock(&told);
                told.saw(version, stored.members["b"].boot);
                told.never.insert(write);
            }
            Cas::Unknown => {
                lock(&told).unknown += 1;
                let stands = known(&*node).await.unwrap();
                let mut told = lock(&told);
                told.saw(stands.0, stands.1.members["b"].boot);
                // Nobody has written since, so it is known that it did not happen and never will.
                if stands.0 == version {
                    told.never.insert(write);
                }
            }
            other => panic!("{other:?}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_unknown_does_not_come_true_later() {
    let (mut cluster, cables) = wired().await;
    let (version, a, b) = reign(&cluster).await;
    write(&*a, Some(version), numbered(1)).await;
    let (told, stop) = (Arc::new(std::sync::Mutex::new(Told::default())), Arc::new(AtomicBool::new(false)));
    let nodes = [a.clone() as Arc<dyn Coordinator>, b.clone()];
    let writers: Vec<_> = (1..).zip(nodes).map(|(n, node)| tokio::spawn(writer(node, n << 64, told.clone(), stop.clone()))).collect();
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let ways: Vec<_> = cables.keys().copied().collect();
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        let some: Vec<_> = ways.iter().copied().filter(|_| random.gen_bool(0.3)).collect();
        set(&cables, true, &some);
        let witness = random.gen_bool(0.2);
        if witness {
            cluster.kill("w").await;
        }
        sleep(Duration::from_millis(random.gen_range(50..900))).await;
        set(&cables, false, &ways);
        if witness {
            cluster.boot("w").await;
        }
        sleep(Duration::from_millis(random.gen_range(50..600))).await;
    }
    stop.store(true, Ordering::Release);
    for writer in writers {
        timeout(LONG, writer).await.expect("an end").unwrap();
    }
    let last = known(&*b).await.unwrap();
    let mut told = lock(&told);
    told.saw(last.0, last.1.members["b"].boot);
    println!("{} won, {} unknown, {} known never to happen", told.won, told.unknown, told.never.len());
    assert!(told.won > 20 && told.unknown > 20, "{} won, {} unknown", told.won, told.unknown);
    for (version, write) in &told.stood {
        assert!(!told.never.contains(write), "seed {seed}: v{version} holds a write that was known never to happen");
    }
}
