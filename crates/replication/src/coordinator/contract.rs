//! What every coordinator has to keep, as tests that each of them runs.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{BoxFuture, Cas, Coordinator, Lease, Member, NodeName, Read, Refused, Register, Version};

/// Far beyond what any single step takes, also on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// A coordinator with nodes that use it.
pub trait Rig: Send {
    /// One of `a` and `b`. Asked once for each.
    fn node<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, Arc<dyn Coordinator>>;

    /// Ends the coordinator's own processes and starts them again on what they have kept. The nodes asked for earlier go on to work.
    fn restart(&mut self) -> BoxFuture<'_, ()>;
}

pub fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub fn register(epoch: u64, primary: &str, in_sync: &[&str]) -> Register {
    let member = |boot| Member { boot, peer: "127.0.0.1:7000".into(), clients: vec!["127.0.0.1:1883".into(), "[::1]:5672".into()] };
    Register {
        epoch,
        primary: name(primary),
        in_sync: in_sync.iter().map(|text| name(text)).collect(),
        by_memory: std::collections::BTreeSet::new(),
        cluster: u128::MAX - 7,
        members: BTreeMap::from([(name("a"), member(u128::MAX)), (name("b"), member(2))]),
    }
}

pub async fn all<R: Rig, F: Future<Output = R>>(make: impl Fn() -> F) {
    reads_and_writes(&mut make().await).await;
    one_winner(&mut make().await).await;
    what_may_not_follow_is_refused(&mut make().await).await;
    a_grant_keeps_others_out(&mut make().await).await;
    grants_never_overlap(&mut make().await).await;
    a_restart_keeps_everything(&mut make().await).await;
}

/// Coordinators may say that they do not know; then one asks again.
pub async fn known(node: &dyn Coordinator) -> Option<(Version, Register)> {
    let asking = async {
        loop {
            match node.read().await {
                Read::Known(stored) => return stored,
                Read::Unknown => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(LONG, asking).await.expect("a read that is answered")
}

/// Writes until it is known to be written, by this call or an earlier one of the same loop.
pub async fn write(node: &dyn Coordinator, expect: Option<Version>, new: Register) -> Version {
    let writing = async {
        loop {
            match node.cas(expect, new.clone()).await {
                Cas::Won(version) => return version,
                Cas::Lost(Some((version, stored))) if stored == new => return version,
                Cas::Unknown => match known(node).await {
                    Some((version, stored)) if stored == new => return version,
                    _ => sleep(Duration::from_millis(20)).await,
                },
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(LONG, writing).await.expect("a write that is answered")
}

/// Asks for what changes nothing until there is an answer.
async fn answer(node: &dyn Coordinator, expect: Option<Version>, new: Register) -> Cas {
    let asking = async {
        loop {
            match node.cas(expect, new.clone()).await {
                Cas::Unknown => sleep(Duration::from_millis(20)).await,
                answer => return answer,
            }
        }
    };
    timeout(LONG, asking).await.expect("an answer")
}

pub async fn granted(node: &dyn Coordinator, epoch: u64) -> Instant {
    let asking = async {
        loop {
            match node.renew(epoch).await {
                Lease::Granted { until } => return until,
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(LONG, asking).await.expect("a grant")
}

pub async fn vacant(node: &dyn Coordinator) {
    timeout(LONG, node.vacant()).await.expect("a vacancy");
}

async fn pair(rig: &mut dyn Rig) -> (Arc<dyn Coordinator>, Arc<dyn Coordinator>) {
    let a = rig.node("a").await;
    (a, rig.node("b").await)
}

async fn reads_and_writes(rig: &mut dyn Rig) {
    let (a, b) = pair(rig).await;
    assert_eq!(known(&*a).await, None);
    vacant(&*a).await;
    let first = register(41, "a", &["a"]);
    let v1 = write(&*a, None, first.clone()).await;
    assert_eq!(known(&*b).await, Some((v1, first.clone())));
    let grown = register(41, "a", &["a", "b"]);
    // What expects another version is told what stands there.
    for (node, expect) in [(&a, None), (&b, None), (&b, Some(Version(v1.0 + 1_000_000)))] {
        assert_eq!(answer(&**node, expect, grown.clone()).await, Cas::Lost(Some((v1, first.clone()))));
    }
    let v2 = write(&*b, Some(v1), grown.clone()).await;
    assert!(v2 > v1);
    assert_eq!(known(&*a).await, Some((v2, grown)));
    assert!(!a.describe().is_empty() && a.lease() > Duration::ZERO);
}

async fn one_winner(rig: &mut dyn Rig) {
    let (a, b) = pair(rig).await;
    vacant(&*a).await;
    let mut version = write(&*a, None, register(1, "a", &["a", "b"])).await;
    for round in 0..5 {
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let node = if n % 2 == 0 { a.clone() } else { b.clone() };
                let mut new = register(1, "a", &["a", "b"]);
                new.members.get_mut("b").unwrap().boot = 100 * (round + 1) + n;
                tokio::spawn(async move { (node.cas(Some(version), new.clone()).await, new) })
            })
            .collect();
        let mut won = Vec::new();
        let mut unknown = 0;
        for task in tasks {
            match timeout(LONG, task).await.expect("an answer").unwrap() {
                (Cas::Won(version), new) => won.push((version, new)),
                (Cas::Unknown, _) => unknown += 1,
                (Cas::Lost(Some((stands, _))), _) => assert!(stands > version),
                (other, _) => panic!("{other:?}"),
            }
        }
        let stands = known(&*b).await.unwrap();
        assert!(won.len() == 1 || (won.is_empty() && unknown > 0), "{won:?}");
        if let Some(winner) = won.pop() {
            assert_eq!(stands, winner);
        }
        version = stands.0;
    }
}

async fn what_may_not_follow_is_refused(rig: &mut dyn Rig) {
    let (a, b) = pair(rig).await;
    vacant(&*a).await;
    let refused = answer(&*a, None, register(1, "a", &["b"])).await;
    assert_eq!(refused, Cas::Refused(Refused::PrimaryNotInSync(name("a"))));
    assert_eq!(known(&*a).await, None);
    let alone = register(3, "a", &["a"]);
    let version = write(&*a, None, alone.clone()).await;
    let cases = [
        (register(4, "b", &["b"]), Refused::NotEligible(name("b"))),
        (register(5, "a", &["a"]), Refused::Epoch { old: 3, new: 5 }),
        (register(2, "a", &["a"]), Refused::Epoch { old: 3, new: 2 }),
        (Register { cluster: 1, ..alone.clone() }, Refused::Cluster),
    ];
    for (new, why) in cases {
        assert_eq!(answer(&*b, Some(version), new).await, Cas::Refused(why));
    }
    assert_eq!(known(&*b).await, Some((version, alone)));
}

async fn a_grant_keeps_others_out(rig: &mut dyn Rig) {
    let (a, b) = pair(rig).await;
    vacant(&*a).await;
    let version = write(&*a, None, register(1, "a", &["a", "b"])).await;
    let mut until = granted(&*a, 1).await;
    assert!(until <= Instant::now() + a.lease());
    assert_eq!(b.renew(1).await, Lease::Refused, "b is not primary");
    // As long as a renews, b waits.
    let waiting = tokio::spawn({
        let b = b.clone();
        async move {
            b.vacant().await;
            Instant::now()
        }
    });
    let renewing = Instant::now() + 3 * a.lease();
    while Instant::now() < renewing {
        match a.renew(1).await {
            Lease::Granted { until: longer } => until = until.max(longer),
            // On a machine so busy that the renewal came too late, b has it, rightly.
            Lease::Refused => break,
            Lease::Unknown => {}
        }
        sleep(a.lease() / 8).await;
    }
    let since = timeout(LONG, waiting).await.expect("a vacancy").unwrap();
    assert!(since >= until, "vacant while a's grant was in force");
    assert_eq!(a.renew(1).await, Lease::Refused, "it is kept for b");
    write(&*b, Some(version), register(2, "b", &["b"])).await;
    granted(&*b, 2).await;
    assert!(!matches!(a.renew(1).await, Lease::Granted { .. }), "in an epoch that is over");
    // What is given up need not be waited for.
    b.release().await;
    vacant(&*a).await;
}

/// Whose, when it was told, and when it ends.
type Grants = Arc<Mutex<Vec<(&'static str, Instant, Instant)>>>;

/// Two nodes that both want to be primary as often as they can, with pauses that make them lose it.
async fn grants_never_overlap(rig: &mut dyn Rig) {
    let (a, b) = pair(rig).await;
    vacant(&*a).await;
    write(&*a, None, register(1, "a", &["a", "b"])).await;
    a.release().await;
    let grants: Grants = Arc::default();
    let end = Instant::now() + (12 * a.lease()).max(Duration::from_secs(3));
    let reign = |me: &'static str, node: Arc<dyn Coordinator>, grants: Grants| async move {
        let mut reigns = 0u32;
        while Instant::now() < end {
            if timeout(end.saturating_duration_since(Instant::now()), node.vacant()).await.is_err() {
                break;
            }
            let Read::Known(Some((version, stored))) = node.read().await else { continue };
            let epoch = stored.epoch + 1;
            if !matches!(node.cas(Some(version), register(epoch, me, &["a", "b"])).await, Cas::Won(_)) {
                continue;
            }
            reigns += 1;
            for _ in 0..5 {
                let Lease::Granted { until } = node.renew(epoch).await else { break };
                grants.lock().unwrap().push((me, Instant::now(), until));
                sleep(node.lease() / 10).await;
            }
            match reigns % 2 {
                // What is released is over: the node has stopped to act.
                0 => {
                    let now = Instant::now();
                    for grant in grants.lock().unwrap().iter_mut().filter(|grant| grant.0 == me) {
                        grant.2 = grant.2.min(now);
                    }
                    node.release().await;
                }
                _ => sleep(node.lease() * 2).await,
            }
        }
        reigns
    };
    let tasks = [tokio::spawn(reign("a", a, grants.clone())), tokio::spawn(reign("b", b, grants.clone()))];
    let mut reigns = 0;
    for task in tasks {
        reigns += timeout(LONG * 2, task).await.expect("an end").unwrap();
    }
    let grants = grants.lock().unwrap();
    assert!(reigns >= 2 && !grants.is_empty(), "{reigns} reigns, {} grants", grants.len());
    for left in grants.iter().filter(|grant| grant.0 == "a") {
        for right in grants.iter().filter(|grant| grant.0 == "b") {
            // A grant that had run out by the time it was told is none.
            let overlap = left.2.min(right.2).checked_duration_since(left.1.max(right.1));
            assert!(overlap.unwrap_or_default().is_zero(), "{overlap:?}");
        }
    }
}

async fn a_restart_keeps_everything(rig: &mut dyn Rig) {
    let (a, b) = pair(rig).await;
    vacant(&*a).await;
    let v1 = write(&*a, None, register(1, "a", &["a", "b"])).await;
    let v2 = write(&*a, Some(v1), register(1, "a", &["a"])).await;
    rig.restart().await;
    for node in [&a, &b] {
        vacant(&**node).await;
        assert_eq!(known(&**node).await, Some((v2, register(1, "a", &["a"]))));
        assert_eq!(answer(&**node, Some(v1), register(1, "a", &["a", "b"])).await, Cas::Lost(Some((v2, register(1, "a", &["a"])))));
        node.release().await;
    }
    let refused = answer(&*b, Some(v2), register(2, "b", &["b"])).await;
    assert_eq!(refused, Cas::Refused(Refused::NotEligible(name("b"))));
}
