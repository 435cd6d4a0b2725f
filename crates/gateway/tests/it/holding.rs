//! Hold, saturation and the clocks.

use crate::support::{connect, until};
use std::time::Duration;
use testkit::Toy;

#[tokio::test]
async fn a_held_block_is_shown_again_after_the_answer() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.core.keep_replies();
    client.send("ping\nlogin\necho later\nping\n").await;
    client.expect("pong\n").await;
    client.silence().await;
    client.send("echo last\n").await;
    client.silence().await;
    assert_eq!(client.core.publishes(), 0);
    assert_eq!(client.core.release_replies(), 1, "the command was sent once");
    client.expect("hello\npong\nlater\nlast\n").await;
}

#[tokio::test]
async fn unrelated_events_do_not_end_a_hold_for_good() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.core.keep_replies();
    client.send("login\necho later\n").await;
    client.silence().await;
    client.core.saturate(false);
    client.silence().await;
    assert_eq!(client.core.release_replies(), 1);
    client.expect("hello\nlater\n").await;
}

#[tokio::test]
async fn a_saturated_core_is_not_read_for() {
    let mut client = connect(&Toy::new(), 4096, 4096);
    client.core.saturate(true);
    client.send("echo a\n").await;
    client.silence().await;
    assert_eq!(client.core.publishes(), 0);
    client.core.saturate(false);
    client.expect("a\n").await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_meets_its_deadline_and_a_lively_one_does_not() {
    let idle = Duration::from_secs(10);
    let mut client = connect(&Toy::with_idle(idle), 4096, 4096);
    for _ in 0..5 {
        tokio::time::sleep(idle * 9 / 10).await;
        client.send("ping\n").await;
        client.expect("pong\n").await;
    }
    let start = tokio::time::Instant::now();
    assert_eq!(client.rest().await, "timeout\n");
    let waited = start.elapsed();
    assert!(waited >= idle && waited < idle + Duration::from_millis(300), "{waited:?}");
    assert_eq!(*client.toy.ends.lock(), [false]);
}

#[tokio::test(start_paused = true)]
async fn the_clock_stands_still_while_we_do_not_listen() {
    let idle = Duration::from_secs(10);
    let client = connect(&Toy::with_idle(idle), 4096, 4096);
    tokio::time::sleep(Duration::from_secs(4)).await;
    client.core.saturate(true);
    client.core.push(broker_api::Event::Signal(broker_api::Signal::Blocked("test")));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(client.toy.ends.lock().is_empty(), "the broker was deaf, not the client silent");
    client.core.saturate(false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(client.toy.ends.lock().is_empty(), "6 seconds were left");
    let toy = client.toy.clone();
    until("the deadline", move || !toy.ends.lock().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_go_on_while_we_do_not_listen() {
    let (idle, beat) = (Duration::from_secs(10), Duration::from_secs(3));
    let toy = std::sync::Arc::new(Toy { idle: Some(idle), beat: Some(beat), ..Toy::default() });
    let mut client = connect(&toy, 4096, 4096);
    client.core.saturate(true);
    client.core.push(broker_api::Event::Signal(broker_api::Signal::Blocked("test")));
    let start = tokio::time::Instant::now();
    for count in 1..=5 {
        client.expect("beat\n").await;
        let waited = start.elapsed();
        assert!(waited >= count * beat && waited < count * beat + count * Duration::from_millis(150), "{count}: {waited:?}");
    }
    assert!(client.toy.ends.lock().is_empty(), "the peer's own clock stood still");
    client.core.saturate(false);
    assert!(client.rest().await.ends_with("beat\ntimeout\n"), "it goes on when we listen again");
}
