//! The HTTP door, and the commands that knock there.

use super::*;

/// GET or POST as the user guest; the status and the body.
pub fn ask(at: &str, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    // guest:guest
    let head = "Host: x\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nConnection: close\r\nContent-Length: 0";
    stream.write_all(format!("{request} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A command that ends: its exit code and what it printed.
pub fn run(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut process = command(dir, arguments).spawn().expect("started");
    let code = wait(&mut process);
    let Output { stdout, stderr, .. } = process.wait_with_output().expect("read");
    (code, String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

#[test]
fn a_broker_that_is_alone_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = start(dir.path(), &["--listen", "mqtt://127.0.0.1:0", "--listen", "http://127.0.0.1:0"]);
    let url = carrick.urls.iter().find(|url| url.starts_with("http://")).expect("a door").clone();
    let at = url.strip_prefix("http://").expect("HTTP");
    assert_eq!(ask(at, "GET /health/live"), Some((200, r#"{"live":true}"#.to_owned())));
    assert_eq!(ask(at, "GET /health/ready"), Some((200, r#"{"ready":true,"role":"alone"}"#.to_owned())));
    let (status, body) = ask(at, "GET /api/ha").expect("an answer");
    assert!(status == 200 && body.contains(r#""role":"alone""#), "{body}");
    let (code, text) = run(dir.path(), &["ha", "status", "--url", &url]);
    assert!(code == Some(0) && text.contains("alone"), "{code:?} {text}");
    let (code, text) = run(dir.path(), &["ha", "status", "--url", &url, "--user", "guest:wrong"]);
    assert!(code == Some(1) && text.contains("401"), "{code:?} {text}");
    let (code, text) = run(dir.path(), &["ha", "status", "--url", &url, "--url", "http://127.0.0.1:1", "--json"]);
    assert!(code == Some(3) && text.contains("\"error\"") && text.contains("alone"), "{code:?} {text}");
    let (code, text) = run(dir.path(), &["ha", "status", "--url", "mqtt://127.0.0.1:1"]);
    assert!(code == Some(1) && text.contains("http://HOST:PORT"), "{code:?} {text}");
    // A second one at the same port is told which, and what to do.
    let (code, why) = refused(dir.path(), &["--listen", "mqtt://127.0.0.1:0", "--listen", &url, "--data-dir", "other"]);
    assert!(code == Some(1) && why.contains(at) && why.contains("another port"), "{why}");
    assert_eq!(carrick.stop(), Some(0));
    assert_eq!(ask(at, "GET /health/live"), None, "the door goes with the process");
}

#[test]
fn the_files_users_come_in_and_a_hangup_brings_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |text: &str| std::fs::write(dir.path().join("c.toml"), text).expect("written");
    write("[[user]]\nname = 'ann'\npassword = 'ann'\ntags = ['monitoring']\n[[user]]\nname = 'app'\npassword = 'app'\n");
    let carrick = start(dir.path(), &["--config", "c.toml", "--listen", "http://127.0.0.1:0", "--listen", "mqtt://127.0.0.1:0"]);
    let url = carrick.urls.iter().find(|url| url.starts_with("http://")).expect("a door").clone();
    let status = |user: &str| run(dir.path(), &["ha", "status", "--url", &url, "--user", user]);
    for (user, code, part) in [("ann:ann", 0, "alone"), ("app:app", 1, "403"), ("guest:guest", 1, "401")] {
        let (got, text) = status(user);
        assert!(got == Some(code) && text.contains(part), "{user}: {got:?} {text}");
    }
    write("[[user]]\nname = 'ann'\npassword = 'new'\ntags = ['administrator']\n");
    signal(&carrick.process, rustix::process::Signal::HUP);
    let begun = Instant::now();
    while status("ann:new").0 != Some(0) {
        assert!(begun.elapsed() < LIMIT, "the new password does not work");
    }
    assert_eq!(status("ann:ann").0, Some(1));
}
