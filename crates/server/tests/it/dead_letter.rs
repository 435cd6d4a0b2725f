//! `[dead_letter]`: one queue for what nobody could deal with, whatever protocol its queue is used by.

use super::conversions::stomp::{Frame, Stomp};
use super::*;

fn settings(dir: &Path, more: &str) -> Carrick {
    let text = format!("listen = ['stomp://127.0.0.1:0?dialect=activemq', 'stomp://127.0.0.1:0']\n{more}");
    let file = dir.join("carrick.toml");
    std::fs::write(&file, text).expect("written");
    start(dir, &["--config", file.to_str().expect("text")])
}

fn settle(client: &mut Stomp, command: &str, message: &Frame) {
    client.ask_beside_messages(command, &[("id", message.header("ack").expect("an ack"))]);
}

/// Takes one message and gives it back.
fn nack(client: &mut Stomp, headers: &[(&str, &str)]) {
    let message = client.take();
    let id = message.header("ack").expect("an ack").to_owned();
    let headers: Vec<_> = [("id", id.as_str())].into_iter().chain(headers.iter().copied()).collect();
    client.ask_beside_messages("NACK", &headers);
}

#[test]
fn dead_letters_go_to_one_queue_in_every_dialect_and_stay_over_restarts() {
    let dir = tempfile::tempdir().expect("a folder");
    let on = "[dead_letter]\ndefault = 'ActiveMQ.DLQ'\nredelivery_limit = 2\n";
    let carrick = settings(dir.path(), on);
    let individually = [("destination", "/queue/work"), ("id", "w"), ("ack", "client-individual")];
    // To an ActiveMQ a NACK is the end of a message.
    let mut activemq = Stomp::at(&carrick.urls[0]);
    activemq.send("/queue/work", &[("persistent", "true")], b"poison");
    activemq.ask("SUBSCRIBE", &individually, b"");
    nack(&mut activemq, &[]);
    activemq.assert_nothing();
    drop(activemq);
    // To a RabbitMQ it is an attempt, of which there may be so many.
    let mut rabbitmq = Stomp::at(&carrick.urls[1]);
    rabbitmq.send("/queue/work", &[("persistent", "true")], b"tried");
    rabbitmq.ask("SUBSCRIBE", &individually, b"");
    (0..3).for_each(|_| nack(&mut rabbitmq, &[]));
    rabbitmq.assert_nothing();
    drop(rabbitmq);
    drop(carrick);
    // Killed: both are there, with their history.
    let carrick = settings(dir.path(), on);
    let mut reader = Stomp::at(&carrick.urls[1]);
    reader.subscribe("/queue/ActiveMQ.DLQ", &[]);
    for (body, reason) in [("poison", "rejected"), ("tried", "delivery_limit")] {
        let letter = reader.take();
        let seen = (
            String::from_utf8_lossy(&letter.body).into_owned(),
            letter.header("x-first-death-reason"),
            letter.header("x-first-death-queue"),
        );
        assert_eq!(seen, (body.to_owned(), Some(reason), Some("work")));
    }
    drop((reader, carrick));
    // Without the setting nothing of it is left but the queue.
    let carrick = settings(dir.path(), "");
    let mut activemq = Stomp::at(&carrick.urls[0]);
    activemq.send("/queue/work", &[], b"again");
    activemq.ask("SUBSCRIBE", &individually, b"");
    (0..5).for_each(|_| nack(&mut activemq, &[]));
    assert_eq!(activemq.take().body, b"again");
}

#[test]
fn expired_messages_go_there_too_and_a_queue_of_its_own_mind_does_not_ask() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = settings(dir.path(), "[dead_letter]\ndefault = 'dead'\n");
    let mut client = Stomp::at(&carrick.urls[1]);
    client.send("/queue/own", &[("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", "mine"), ("expiration", "1")], b"own");
    client.send("/queue/plain", &[("expiration", "1")], b"plain");
    client.subscribe("/queue/dead", &[]);
    assert_eq!(client.take().body, b"plain");
    client.assert_nothing();
}

/// Three settings of `[dead_letter]`, as a client sees them: how long what was given back stays away.
#[test]
fn what_is_given_back_comes_later_and_later_up_to_a_bound() {
    let dir = tempfile::tempdir().expect("a folder");
    let delays = "redelivery_delay_ms = 200\nredelivery_delay_multiplier = 3\nredelivery_delay_max_ms = 900\n";
    let carrick = settings(dir.path(), &format!("[dead_letter]\ndefault = 'dead'\nredelivery_limit = 3\n{delays}"));
    let mut client = Stomp::at(&carrick.urls[1]);
    client.send("/queue/work", &[("persistent", "true")], b"poison");
    client.ask("SUBSCRIBE", &[("destination", "/queue/work"), ("id", "w"), ("ack", "client-individual"), ("prefetch-count", "1")], b"");
    let mut message = client.take();
    // 200 ms, three times that, and not nine times.
    for least_ms in [200, 600, 900] {
        settle(&mut client, "NACK", &message);
        let given_back = Instant::now();
        // What is behind it does not wait for it.
        client.write("SEND", &[("destination", "/queue/work")], b"fine");
        let fine = client.take();
        assert_eq!(fine.body, b"fine");
        settle(&mut client, "ACK", &fine);
        message = client.take();
        let took = given_back.elapsed();
        assert_eq!(message.body, b"poison");
        // The machine may be busy; nine times would be 1,800.
        assert!(took >= Duration::from_millis(least_ms - 20) && took < Duration::from_millis(least_ms + 850), "{least_ms}: {took:?}");
    }
    settle(&mut client, "NACK", &message);
    client.subscribe("/queue/dead", &[]);
    let letter = client.take();
    assert_eq!((&letter.body[..], letter.header("x-first-death-reason")), (&b"poison"[..], Some("delivery_limit")));
}
