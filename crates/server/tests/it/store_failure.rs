//! A store that fails under a running broker: nothing more is confirmed, and the process ends with 75.

use super::*;
use rustix::process::{prlimit, Pid, Resource, Rlimit};

/// The file size limit is lowered under the running process, so that its next write fails with EFBIG. The shell is there to ignore the
/// signal that comes along with it; `exec` keeps both the process id and that setting.
#[test]
fn a_failed_write_is_not_confirmed_and_ends_the_process_with_75() {
    let dir = tempfile::tempdir().expect("a folder");
    let inner = command(dir.path(), &[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" --listen mqtt://127.0.0.1:0"]).arg(inner.get_program());
    shell.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    for (name, value) in inner.get_envs().filter(|(_, value)| value.is_none()) {
        assert_eq!(value, None);
        shell.env_remove(name);
    }
    let mut carrick = start_command(shell);
    let mut client = carrick.connect();
    assert_eq!(login(&mut client, CONNECT), CONNACK);
    client.write_all(&publish("a", b"before")).expect("sent");
    assert_eq!(packet(&mut client).0, 0x40, "confirmed");

    let none = Rlimit { current: Some(0), maximum: None };
    prlimit(Some(Pid::from_child(&carrick.process)), Resource::Fsize, none).expect("lowered");
    let mut retained = publish("a", b"after");
    retained[0] |= 1;
    client.write_all(&retained).expect("sent");
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    assert!(!rest.starts_with(&[0x40]), "confirmed what was not written: {rest:?}");
    assert_eq!(wait(&mut carrick.process), Some(75));
}
