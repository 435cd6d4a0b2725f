//! Few descriptors: clients take what they may, and the store goes on.

use super::*;

#[test]
fn clients_without_end_leave_the_store_its_files() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("few.toml"), "journal.segment_bytes = '1 MiB'\njournal.checkpoint_bytes = '4 MiB'\n").expect("written");
    let mut shell = Command::new("sh");
    let line = "ulimit -n 64 && exec \"$0\" serve --config few.toml --listen mqtt://127.0.0.1:0";
    shell.args(["-c", line, env!("CARGO_BIN_EXE_carrick")]).current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut carrick = start_command(shell);
    // A session that stays, so that what is published goes to the log.
    let mut subscriber = carrick.connect();
    assert_eq!(login(&mut subscriber, b"\x10\x10\x00\x04MQTT\x04\x00\x00\x3c\x00\x04keep"), CONNACK);
    subscriber.write_all(b"\x82\x08\x00\x01\x00\x03t/#\x01").expect("sent");
    assert_eq!(packet(&mut subscriber).0, 0x90);
    drop(subscriber);
    let mut publisher = carrick.connect();
    assert_eq!(login(&mut publisher, CONNECT), CONNACK);
    let idle: Vec<TcpStream> = (0..100).map(|_| carrick.connect()).collect();
    // Several segments: 1000 bytes each.
    let message = [b"\x32\xef\x07\x00\x03t/x\x00\x01".as_slice(), &[b'x'; 1000]].concat();
    for _ in 0..4000 {
        publisher.write_all(&message).expect("it serves");
        assert_eq!(packet(&mut publisher).0, 0x40);
    }
    drop(idle);
    let mut late = carrick.connect();
    assert_eq!(login(&mut late, &CONNECT.iter().map(|byte| if *byte == b't' { b'u' } else { *byte }).collect::<Vec<_>>()), CONNACK);
    assert_eq!(carrick.process.try_wait().expect("ours"), None);
}
