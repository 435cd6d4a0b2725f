//! The ways in which a connection ends.

use crate::support::{connect, timed};
use std::time::Duration;
use testkit::{Toy, LINE_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_clean_close_sends_the_last_words_and_tells_the_core_once() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.send("ping\nquit\necho never\n").await;
    assert_eq!(client.rest().await, "pong\nbye\n");
    client.wire.shutdown().await.expect("our side");
    timed(client.task).await.expect("ended");
    assert_eq!(*client.toy.ends.lock(), [true]);
    assert_eq!((client.core.disconnects(), client.core.publishes(), client.slots.live()), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_closes_is_left_after_a_while() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.send("quit\n").await;
    assert_eq!(client.rest().await, "bye\n");
    let start = tokio::time::Instant::now();
    timed(client.task).await.expect("ended");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_the_last_words_sees_the_end_after_its_answer() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.send("leave\n").await;
    client.expect("go?\n").await;
    assert_eq!(client.core.disconnects(), 1);
    let end = tokio::time::timeout(Duration::from_secs(1), client.wire.read_u8());
    assert!(end.await.is_err(), "our end has closed before the answer");
    client.send("sent before it knew\ngo").await;
    client.send("ne\n").await;
    let start = tokio::time::Instant::now();
    assert_eq!(client.rest().await, "");
    assert!(start.elapsed() < Duration::from_millis(100));
    client.wire.shutdown().await.expect("our side");
    timed(client.task).await.expect("ended");
    assert_eq!(*client.toy.ends.lock(), [true]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_answers_the_last_words_is_left_after_a_while() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.send("leave\n").await;
    let start = tokio::time::Instant::now();
    assert_eq!(client.rest().await, "go?\n");
    timed(client.task).await.expect("ended");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_its_good_bye_is_left_after_a_while() {
    let mut client = connect(&Toy::new(), 2, 4096);
    client.send("quit\n").await;
    timed(client.task).await.expect("ended");
    assert_eq!(client.slots.live(), 0);
}

#[tokio::test]
async fn malformed_input_is_answered_in_the_protocols_words() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.send("ping\n").await;
    client.send("x".repeat(LINE_MAX + 1)).await;
    assert_eq!(client.rest().await, "pong\nerror: line too long\n");
    assert_eq!(*client.toy.ends.lock(), [false]);
}

#[tokio::test]
async fn a_half_close_still_gets_the_answers_of_what_was_sent() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.send("echo a\nlogin\necho b\n").await;
    client.wire.shutdown().await.expect("half close");
    assert_eq!(client.rest().await, "a\nhello\nb\n");
    timed(client.task).await.expect("ended");
    assert_eq!(*client.toy.ends.lock(), [false]);
}

#[tokio::test]
async fn a_task_that_is_dropped_tells_the_core() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.send("ping\n").await;
    client.expect("pong\n").await;
    client.task.abort();
    assert!(timed(client.task).await.expect_err("aborted").is_cancelled());
    assert_eq!((client.toy.ends.lock().clone(), client.core.disconnects(), client.slots.live()), (vec![false], 1, 0));
}
