//! A store that is not to be used any more is set aside, and the node comes in sync again with a copy of the other's.

use super::coordinators::{promote, until_says};
use super::pair::{drain, judge, subscribe, Publisher, Trio};
use super::*;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

fn files(data: &Path, dir: &str, kind: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(data.join(dir)).expect("a store").map(|entry| entry.expect("a file").path());
    all.filter(|path| path.extension().is_some_and(|extension| extension == kind)).collect()
}

/// The log and its checkpoints are something else than what had been synced. (Of a log whose checkpoint is whole only the end is read at a start.)
fn damage(data: &Path) {
    for path in files(data, "x", "root").into_iter().chain(files(data, "j", "log")) {
        let mut file = std::fs::File::options().read(true).write(true).open(&path).expect("opened");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("read");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // Not the header of a segment, and not the last marker.
        let first = if path.extension().is_some_and(|extension| extension == "root") { 16 } else { 8192 };
        for at in (first..used.saturating_sub(first)).step_by(512) {
            file.seek(SeekFrom::Start(at as u64)).expect("there");
            file.write_all(&[!bytes[at]]).expect("written");
        }
    }
}

fn until_in_sync(trio: &Trio, primary: usize) {
    let begun = Instant::now();
    while !trio.nodes[primary].sees_both_in_sync() {
        assert!(begun.elapsed() < LIMIT, "{:?}", trio.nodes[primary].ask("GET /api/ha"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kept(trio: &Trio, at: usize) -> usize {
    let replaced = trio.dir.path().join(format!("data-{}", trio.nodes[at].name)).join("replaced");
    std::fs::read_dir(replaced).map_or(0, |files| files.count())
}

#[test]
fn a_damaged_log_is_replaced_by_a_copy_unless_no_other_node_has_it() {
    let (mut trio, first, mut publisher) = Trio::whole();
    // The primary's disk goes bad while the other one is in sync.
    trio.kill(first);
    damage(&trio.dir.path().join(format!("data-{}", trio.nodes[first].name)));
    trio.restart(first);
    publisher.until(&mut trio, first, 200);
    let second = 1 - first;
    until_in_sync(&trio, second);
    trio.standby_in_sync(second, &mut publisher);
    assert!(kept(&trio, first) > 0, "the damaged store is kept");
    // It can take over with what it got, and the other one goes on alone.
    trio.kill(second);
    publisher.until(&mut trio, second, 200);
    let now = trio.primary(Some(second));
    assert_eq!(now, first);
    judge(&publisher.confirmed, &drain(&trio.nodes[now]));
    // Alone in sync: nobody else has what it confirmed, so it does nothing but say so.
    let before = kept(&trio, first);
    trio.kill(first);
    damage(&trio.dir.path().join(format!("data-{}", trio.nodes[first].name)));
    trio.restart(second);
    trio.restart(first);
    assert_eq!(wait(&mut trio.nodes[first].process), Some(75));
    let log = std::fs::read_to_string(trio.dir.path().join(format!("{}.log", trio.nodes[first].name))).expect("a log");
    assert!(log.contains("is alone in sync"), "{log}");
    assert_eq!(kept(&trio, first), before);
    assert!(!trio.nodes[second].serves(), "it lacks what the other one confirmed alone");
}

/// Its own register still says that it is primary: of the other one's promotion it was not told.
#[test]
fn a_primary_whose_log_is_damaged_takes_a_copy_of_the_one_that_a_person_promoted() {
    let (mut trio, mut publisher) = (Trio::with("coordinator = 'manual'\n"), Publisher::default());
    let dir = trio.dir.path().to_owned();
    until_says(&trio.nodes[0], "carrick ha promote --epoch 1");
    let (code, text) = promote(&trio.nodes[0], &dir, &["--epoch", "1"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(trio.primary(None), 0);
    subscribe(&trio.nodes[0]);
    trio.standby_in_sync(0, &mut publisher);
    until_says(&trio.nodes[1], r#""in_sync":["a","b"]"#);
    trio.kill(0);
    damage(&dir.join("data-a"));
    // Nobody serves, so it waits.
    trio.restart(0);
    until_says(&trio.nodes[0], "waiting for another node to serve");
    until_says(&trio.nodes[1], "carrick ha promote --epoch 2");
    assert_eq!(kept(&trio, 0), 0);
    let (code, text) = promote(&trio.nodes[1], &dir, &["--epoch", "2"]);
    assert_eq!(code, Some(0), "{text}");
    publisher.until(&mut trio, 0, 100);
    trio.standby_in_sync(1, &mut publisher);
    assert!(kept(&trio, 0) > 0, "the damaged store is kept");
    judge(&publisher.confirmed, &drain(&trio.nodes[1]));
}

#[test]
fn a_standby_takes_a_copy_when_it_is_asked_to_and_nobody_else_does() {
    let (mut trio, primary, mut publisher) = Trio::whole();
    let standby = 1 - primary;
    let (code, text) = door::run(trio.dir.path(), &["ha", "join", "--url", &trio.nodes[primary].url()]);
    assert!(code == Some(1) && text.contains("is primary"), "{code:?} {text}");
    assert_eq!(kept(&trio, standby), 0);
    let (code, text) = door::run(trio.dir.path(), &["ha", "join", "--url", &trio.nodes[standby].url()]);
    assert!(code == Some(0) && text.contains("takes a copy"), "{code:?} {text}");
    let begun = Instant::now();
    while kept(&trio, standby) == 0 {
        assert!(begun.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(5));
    }
    trio.standby_in_sync(primary, &mut publisher);
    trio.kill(primary);
    publisher.until(&mut trio, primary, 100);
    let now = trio.primary(Some(primary));
    judge(&publisher.confirmed, &drain(&trio.nodes[now]));
    let (code, text) = door::run(trio.dir.path(), &["ha", "join", "--url", &trio.nodes[now].url()]);
    assert!(code == Some(1) && text.contains("is primary"), "{code:?} {text}");
}

/// The number behind a name in an answer of `/api/ha`.
fn number(body: &str, name: &str) -> u64 {
    let Some((_, rest)) = body.split_once(&format!("\"{name}\":")) else { return 0 };
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

/// Publishes until the standby has compared so many digests, and answers with what it says then.
fn until_compared(trio: &mut Trio, standby: usize, compared: u64, publisher: &mut Publisher) -> String {
    let begun = Instant::now();
    loop {
        let (_, body) = trio.nodes[standby].ask("GET /api/ha").expect("an answer");
        if number(&body, "compared") >= compared {
            return body;
        }
        publisher.until(trio, standby, 10);
        assert!(begun.elapsed() < LIMIT, "{body}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_standby_that_differs_says_so_and_takes_one_copy() {
    let (mut trio, primary, mut publisher) = Trio::whole();
    let standby = 1 - primary;
    // One that is as it should be compares, and finds nothing.
    let body = until_compared(&mut trio, standby, 1, &mut publisher);
    assert_eq!(number(&body, "differed"), 0, "{body}");
    trio.kill(standby);
    trio.restart_with(standby, &[("CARRICK_MUTANT", "skip_settlement")]);
    // It leaves a settlement out in the store that it has, and later another one in the copy that it takes.
    let begun = Instant::now();
    let compared = loop {
        until_in_sync(&trio, primary);
        publisher.until(&mut trio, standby, 50);
        drain(&trio.nodes[primary]);
        let (_, body) = trio.nodes[standby].ask("GET /api/ha").expect("an answer");
        if number(&body, "differed") == 2 {
            assert!(body.contains("on the primary"), "{body}");
            break number(&body, "compared");
        }
        assert!(begun.elapsed() < LIMIT, "{body}");
    };
    let files = kept(&trio, standby);
    assert!(files > 0);
    // The second time within an hour it goes on with what it has.
    until_compared(&mut trio, standby, compared + 2, &mut publisher);
    until_in_sync(&trio, primary);
    assert_eq!(kept(&trio, standby), files);
    let (_, text) = door::run(trio.dir.path(), &["ha", "status", "--url", &trio.nodes[standby].url()]);
    assert!(text.contains("2 stores differed"), "{text}");
}

/// The store that it has is good, so it follows with that, in sync.
#[test]
fn who_has_no_room_for_a_copy_goes_on_and_says_so() {
    let (mut trio, primary, mut publisher) = Trio::whole();
    let standby = 1 - primary;
    trio.kill(standby);
    let config = trio.dir.path().join(format!("{}.toml", trio.nodes[standby].name));
    let text = std::fs::read_to_string(&config).expect("read");
    std::fs::write(&config, format!("journal.min_free_bytes = '4000000 GiB'\n{text}")).expect("written");
    trio.restart(standby);
    trio.standby_in_sync(primary, &mut publisher);
    let (code, text) = door::run(trio.dir.path(), &["ha", "join", "--url", &trio.nodes[standby].url()]);
    assert_eq!(code, Some(0), "{text}");
    // It leaves the primary for that, and comes back.
    let log = trio.dir.path().join(format!("{}.log", trio.nodes[standby].name));
    let begun = Instant::now();
    while !std::fs::read_to_string(&log)
        .is_ok_and(|log| log.rsplit_once("was not replaced").is_some_and(|(_, then)| then.contains("following the primary")))
    {
        assert!(begun.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(5));
    }
    trio.standby_in_sync(primary, &mut publisher);
    assert_eq!(kept(&trio, standby), 0);
    let (_, text) = door::run(trio.dir.path(), &["ha", "status", "--url", &trio.nodes[standby].url()]);
    assert!(text.contains("there is no room for a copy beside the store that is here"), "{text}");
}
