//! Split, torn and large frames; coalescing; fairness.

use crate::support::{connect, connect_with, timed, until};
use testkit::Toy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn frames_arrive_whole_however_the_wire_tears_them() {
    let script = b"ping\necho one\n#3\nabcecho two\nping\n";
    for step in 1..=script.len() {
        let mut client = connect(&Toy::new(), 4096, step);
        client.send(script).await;
        client.wire.shutdown().await.expect("half close");
        let lines = client.rest().await.lines().map(str::to_owned).collect::<Vec<_>>();
        // Answers of the session may overtake deliveries of the same turn; each kind keeps its order.
        let (lines, deliveries): (Vec<String>, Vec<String>) = lines.into_iter().partition(|line| line == "pong");
        assert_eq!((lines.len(), deliveries.join(" ").as_str()), (2, "one abc two"), "step {step}");
    }
}

#[tokio::test]
async fn a_read_of_many_frames_is_one_turn_and_few_swaps() {
    let mut client = connect(&Toy::new(), 1 << 20, 1 << 20);
    client.send("echo x\n".repeat(1000)).await;
    client.expect("x\n".repeat(1000)).await;
    assert_eq!(client.core.publishes(), 1000);
    assert!(client.core.turns() <= 3, "{} turns", client.core.turns());
    assert!(client.core.swaps() <= 3, "{} swaps", client.core.swaps());
    assert!(client.core.all_written());
}

#[tokio::test]
async fn large_frames_pass_with_small_ones_around_them() {
    for (len, step) in [(70_000, 1 << 20), (70_000, 777), (300_000, 5000), (3 << 20, 1 << 20)] {
        let client = connect(&Toy::new(), 1 << 16, step);
        let body: Vec<u8> = (0..len).map(|i| b'a' + (i % 26) as u8).collect();
        let mut script = format!("echo before\n#{len}\n").into_bytes();
        script.extend_from_slice(&body);
        script.extend_from_slice(b"echo after\n");
        let mut expected = b"before\n".to_vec();
        expected.extend_from_slice(&body);
        expected.extend_from_slice(b"\nafter\n");
        let (mut reader, mut writer) = tokio::io::split(client.wire);
        let send = tokio::spawn(async move { writer.write_all(&script).await.map(|()| writer) });
        let mut got = vec![0; expected.len()];
        timed(reader.read_exact(&mut got)).await.expect("all of it");
        assert!(got == expected, "len {len} step {step}");
        drop(send.await.expect("sender").expect("sent"));
        client.task.abort();
    }
}

#[tokio::test]
async fn a_slow_reader_does_not_stop_the_other_direction() {
    let mut client = connect(&Toy::new(), 8 * 1024, 1 << 20);
    let line = format!("echo {}\n", "y".repeat(1000));
    // 400 KiB come back and nobody reads them: more than is encoded ahead, less than stops reading.
    for _ in 0..400 {
        client.send(&line).await;
    }
    until("all publishes", || client.core.publishes() == 400).await;
    assert!(!client.core.all_written(), "most of it is still here");
    let answer = format!("{}\n", "y".repeat(1000));
    client.expect(answer.repeat(400)).await;
    until("the budget", || client.core.all_written()).await;
    assert!(client.core.written() > 0 && client.core.written() < 400 * 1001, "told in steps: {}", client.core.written());
}

#[tokio::test]
async fn what_is_encoded_ahead_has_a_bound() {
    let mut client = connect(&Toy::new(), 1024, 1 << 20);
    client.send("ping\n").await;
    client.expect("pong\n").await;
    let line = format!("echo {}\n", "z".repeat(1000));
    for _ in 0..2000 {
        client.send(&line).await;
    }
    until("all publishes", || client.core.publishes() == 2000).await;
    assert!(client.core.waiting() > 0, "2 MB must not leave the core for a client that does not read");
    client.expect(format!("{}\n", "z".repeat(1000)).repeat(2000)).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_ended_after_a_time_and_a_slow_one_is_not() {
    let patience = Some(std::time::Duration::from_millis(700));
    let mut slow = connect_with(&Toy::new(), 8 * 1024, 1 << 20, patience);
    let mut deaf = connect_with(&Toy::new(), 8 * 1024, 1 << 20, patience);
    let mut forgiven = connect(&Toy::new(), 8 * 1024, 1 << 20);
    let line = format!("echo {}\n", "y".repeat(1000));
    for client in [&mut slow, &mut deaf, &mut forgiven] {
        for _ in 0..400 {
            client.send(&line).await;
        }
    }
    let answer = format!("{}\n", "y".repeat(1000));
    slow.expect(answer.repeat(200)).await;
    until("its end", || deaf.task.is_finished()).await;
    assert_eq!(deaf.slots.live(), 0);
    slow.expect(answer.repeat(200)).await;
    forgiven.expect(answer.repeat(400)).await;
    assert!(!slow.task.is_finished() && !forgiven.task.is_finished());
}

#[tokio::test]
async fn a_peer_that_asks_and_never_listens_is_read_no_further() {
    let mut client = connect(&Toy::new(), 64 * 1024, 1 << 20);
    let flood = "ping\n".repeat(10_000);
    let stuck = tokio::time::timeout(std::time::Duration::from_millis(500), async {
        for _ in 0..1000 {
            client.wire.write_all(flood.as_bytes()).await.expect("open");
        }
    })
    .await;
    assert!(stuck.is_err(), "50 MB of pings were read and their answers kept");
}

#[tokio::test]
async fn a_busy_connection_lets_others_run() {
    // One thread: a connection that never runs dry must not keep it.
    let busy = connect(&Toy::new(), 1 << 20, 64);
    let flood = "echo x\n".repeat(100_000);
    let (mut reader, mut writer) = tokio::io::split(busy.wire);
    let writing = tokio::spawn(async move { writer.write_all(flood.as_bytes()).await.map(|()| writer) });
    let reading = tokio::spawn(async move {
        let mut sink = vec![0; 200_000];
        reader.read_exact(&mut sink).await.map(|_| reader)
    });
    let mut other = connect(&Toy::new(), 1024, 1024);
    other.send("ping\n").await;
    other.expect("pong\n").await;
    assert!(busy.core.publishes() < 100_000, "the other one waited for the whole flood");
    timed(writing).await.expect("writer").expect("written");
    timed(reading).await.expect("reader").expect("read");
    busy.task.abort();
}
