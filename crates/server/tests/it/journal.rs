//! `carrick journal`: what an operator finds in a data directory.

use super::*;

fn run(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut process = command(dir, arguments).spawn().expect("started");
    let code = wait(&mut process);
    let Output { stdout, stderr, .. } = process.wait_with_output().expect("read");
    (code, format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

/// The first segment, and where the batch with `needle` lies in it.
fn find(dir: &Path, needle: &[u8]) -> (std::path::PathBuf, usize) {
    let folder = std::fs::read_dir(dir.join("carrick-data/j")).expect("segments");
    for path in folder.map(|entry| entry.expect("an entry").path()) {
        let bytes = std::fs::read(&path).expect("a segment");
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            return (path, at);
        }
    }
    panic!("the message is not in the log");
}

#[test]
fn a_data_directory_is_listed_and_damage_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = start(dir.path(), &["--listen", "mqtt://127.0.0.1:0"]);
    let mut client = carrick.connect();
    assert_eq!(login(&mut client, CONNECT), CONNACK);
    let mut retained = publish("kept", b"a needle");
    retained[0] |= 1;
    client.write_all(&retained).expect("sent");
    assert_eq!(packet(&mut client).0, 0x40);
    assert_eq!(carrick.stop(), Some(0));

    let (code, text) = run(dir.path(), &["journal", "inspect", "carrick-data"]);
    assert!(code == Some(0) && text.contains("clean stop") && text.contains("batches"), "{code:?} {text}");
    let (code, text) = run(dir.path(), &["journal", "verify", "carrick-data"]);
    assert!(code == Some(0) && text.contains("sound"), "{code:?} {text}");

    let (path, at) = find(dir.path(), b"a needle");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let (code, text) = run(dir.path(), &["journal", "verify", "carrick-data"]);
    assert!(code == Some(1) && text.contains("PROBLEM"), "{code:?} {text}");

    std::fs::create_dir(dir.path().join("empty")).expect("made");
    let (code, text) = run(dir.path(), &["journal", "verify", "empty"]);
    assert!(code == Some(2) && text.contains("there is no store in this directory") && !text.contains("damaged"), "{code:?} {text}");
    let (code, text) = run(dir.path(), &["journal", "verify", "nowhere"]);
    assert!(code == Some(2) && text.contains("nowhere"), "{code:?} {text}");
    assert!(!dir.path().join("nowhere").exists(), "looking makes nothing");
}
