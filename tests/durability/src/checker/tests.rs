//! Forged histories: the checker must flag each, and nothing else.

use super::*;

const PRODUCERS: [Producer; 2] = [Producer::new(1, 1), Producer::new(2, 2)];
const CONSUMERS: [Consumer; 2] = [Consumer::new(11, 1), Consumer::new(12, 2)];

/// A run in which everything went well: 100 messages of each producer, at both consumers.
fn honest() -> Vec<Event> {
    let mut events = Vec::new();
    for n in 1..=100 {
        for producer in [1, 2] {
            events.push(Event::Sent { producer, n });
            for consumer in [11, 12] {
                events.push(Event::Received { consumer, producer, n, dup: false, connection: 1 });
            }
            events.push(Event::Confirmed { producer, n });
        }
    }
    events
}

fn verdict(events: &[Event]) -> Verdict {
    check(events, &PRODUCERS, &CONSUMERS)
}

fn is(event: &Event, consumer: u16, producer: u16, n: u64) -> bool {
    matches!(*event, Event::Received { consumer: c, producer: p, n: m, .. } if (c, p, m) == (consumer, producer, n))
}

fn place(events: &[Event], consumer: u16, producer: u16, n: u64) -> usize {
    events.iter().position(|event| is(event, consumer, producer, n)).expect("the honest history has it")
}

/// The counts of all rules but the last: lost, unexpected, reordered, duplicates, resurrected, sessions lost. No transaction is torn here.
fn counts(events: &[Event]) -> [u64; 6] {
    let [counts @ .., torn] = verdict(events).rules().map(|(_, breaches)| breaches.count);
    assert_eq!(torn, 0);
    counts
}

#[test]
fn an_honest_history_is_clean() {
    let verdict = verdict(&honest());
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!((verdict.confirmed, verdict.received, verdict.repeats, verdict.vanished), (200, 400, 0, 0));
}

#[test]
fn one_lost_message_is_found() {
    for (consumer, producer, n) in [(11, 1, 1), (11, 2, 50), (12, 1, 100), (12, 2, 100)] {
        let mut events = honest();
        let at = place(&events, consumer, producer, n);
        events.remove(at);
        assert_eq!(counts(&events), [1, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn an_unconfirmed_message_may_vanish() {
    let mut events = honest();
    events.retain(|event| !is(event, 11, 1, 100) && !is(event, 12, 1, 100) && *event != Event::Confirmed { producer: 1, n: 100 });
    assert!(verdict(&events).is_clean());
    assert_eq!(verdict(&events).vanished, 1);
}

#[test]
fn a_message_that_reached_one_of_two_is_lost_once_confirmed() {
    let mut events = honest();
    events.retain(|event| !is(event, 12, 2, 7));
    assert_eq!(counts(&events)[0], 1);
}

#[test]
fn two_swapped_messages_are_found() {
    let mut events = honest();
    let (first, second) = (place(&events, 12, 2, 40), place(&events, 12, 2, 41));
    events.swap(first, second);
    assert_eq!(counts(&events), [0, 0, 1, 0, 0, 0]);
}

#[test]
fn a_repeat_at_qos_2_is_found_even_if_it_is_flagged() {
    let mut events = honest();
    events.push(Event::Received { consumer: 12, producer: 2, n: 99, dup: true, connection: 2 });
    assert_eq!(counts(&events), [0, 0, 0, 1, 0, 0]);
}

#[test]
fn a_message_published_twice_may_arrive_twice_and_not_three_times() {
    let mut events = honest();
    events.push(Event::Sent { producer: 1, n: 100 });
    events.push(Event::Received { consumer: 12, producer: 1, n: 100, dup: false, connection: 1 });
    assert!(verdict(&events).is_clean());
    events.push(Event::Received { consumer: 12, producer: 1, n: 100, dup: false, connection: 1 });
    assert_eq!(counts(&events), [0, 0, 0, 1, 0, 0]);
}

#[test]
fn each_of_two_copies_may_come_again_on_a_new_connection_until_it_is_settled() {
    let mut events = honest();
    let again = |connection| Event::Received { consumer: 12, producer: 1, n: 100, dup: true, connection };
    events.extend([Event::Sent { producer: 1, n: 100 }, again(2), again(2)]);
    assert!(verdict(&events).is_clean(), "the first came on connection 1 before a crash, then both came");
    events.push(Event::Settled { consumer: 12, connection: 2, count: 202 });
    events.push(again(3));
    assert_eq!(counts(&events), [0, 0, 0, 0, 1, 0]);
}

#[test]
fn a_qos_2_producer_may_send_twice_but_its_message_arrives_once() {
    let mut events = honest();
    events.push(Event::Sent { producer: 2, n: 100 });
    assert!(verdict(&events).is_clean());
    events.push(Event::Received { consumer: 11, producer: 2, n: 100, dup: false, connection: 1 });
    assert_eq!(counts(&events), [0, 0, 0, 1, 0, 0]);
}

#[test]
fn at_qos_1_a_repeat_needs_a_new_connection() {
    let mut events = honest();
    events.push(Event::Received { consumer: 11, producer: 2, n: 100, dup: true, connection: 2 });
    assert!(verdict(&events).is_clean());
    assert_eq!((verdict(&events).repeats, verdict(&events).unflagged), (1, 0));
    events.pop();
    events.push(Event::Received { consumer: 11, producer: 2, n: 100, dup: true, connection: 1 });
    assert_eq!(counts(&events), [0, 0, 0, 1, 0, 0]);
}

#[test]
fn a_message_published_at_qos_1_comes_at_least_once_to_everybody() {
    let mut events = honest();
    events.push(Event::Received { consumer: 12, producer: 1, n: 100, dup: true, connection: 2 });
    assert!(verdict(&events).is_clean());
}

#[test]
fn a_settled_message_that_comes_back_is_found() {
    let mut events = honest();
    events.push(Event::Settled { consumer: 11, connection: 1, count: 199 });
    events.push(Event::Received { consumer: 11, producer: 2, n: 100, dup: true, connection: 2 });
    assert!(verdict(&events).is_clean(), "the 200th was not settled");
    events.push(Event::Received { consumer: 11, producer: 1, n: 100, dup: true, connection: 2 });
    assert_eq!(counts(&events), [0, 0, 0, 0, 1, 0]);
}

#[test]
fn a_fence_says_nothing_of_an_earlier_connection() {
    let mut events = honest();
    events.push(Event::Settled { consumer: 11, connection: 2, count: 200 });
    events.push(Event::Received { consumer: 11, producer: 2, n: 100, dup: true, connection: 2 });
    assert!(verdict(&events).is_clean());
}

#[test]
fn what_nobody_sent_is_found() {
    let mut events = honest();
    events.push(Event::Received { consumer: 11, producer: 1, n: 101, dup: false, connection: 1 });
    events.push(Event::Received { consumer: 11, producer: 9, n: 1, dup: false, connection: 1 });
    events.push(Event::Garbage { consumer: 12 });
    assert_eq!(counts(&events), [0, 3, 0, 0, 0, 0]);
}

#[test]
fn a_forgotten_session_is_found() {
    let mut events = honest();
    events.push(Event::SessionLost { client: 12 });
    assert_eq!(counts(&events), [0, 0, 0, 0, 0, 1]);
}

#[test]
fn a_consumer_of_every_tenth_misses_and_gets_no_other() {
    let tenth = [Consumer { every: 10, only: Some(2), ..Consumer::new(13, 2) }];
    let mut events: Vec<Event> = honest();
    for n in (10..=100).step_by(10) {
        events.push(Event::Received { consumer: 13, producer: 2, n, dup: false, connection: 1 });
    }
    events.retain(|event| !matches!(event, Event::Received { consumer: 11 | 12, .. }));
    assert!(check(&events, &PRODUCERS, &tenth).is_clean());
    events.push(Event::Received { consumer: 13, producer: 2, n: 11, dup: false, connection: 1 });
    events.push(Event::Received { consumer: 13, producer: 1, n: 10, dup: false, connection: 1 });
    assert_eq!(check(&events, &PRODUCERS, &tenth).unexpected.count, 2);
}

/// The honest run, with producer 2 publishing five messages in each transaction.
fn transactions(events: &[Event]) -> Verdict {
    check(events, &[PRODUCERS[0], Producer { group: 5, ..PRODUCERS[1] }], &CONSUMERS)
}

#[test]
fn a_transaction_of_which_a_part_came_is_found() {
    let mut events = honest();
    assert!(transactions(&events).is_clean());
    // None of it is confirmed, so nothing of it is lost.
    events.retain(|event| !matches!(event, Event::Confirmed { producer: 2, n: 46..=50 }));
    assert!(transactions(&events).is_clean());
    events.retain(|event| !is(event, 12, 2, 50));
    let verdict = transactions(&events);
    assert_eq!((verdict.torn.count, verdict.lost.count), (1, 0), "{verdict}");
    events.retain(|event| !matches!(event, Event::Received { producer: 2, n: 46..=50, .. }));
    assert!(transactions(&events).is_clean(), "all of it vanished");
}

#[test]
fn lanes_keep_their_order_and_ranks_come_before_each_other() {
    let by_parity: fn(u64) -> u8 = |n| (n % 2) as u8;
    let check = |numbers: &[u64], order| {
        let mut events: Vec<Event> = (1..=6).map(|n| Event::Sent { producer: 2, n }).collect();
        events.extend(numbers.iter().map(|n| Event::Received { consumer: 11, producer: 2, n: *n, dup: false, connection: 1 }));
        check(&events, &PRODUCERS, &[Consumer { order, ..CONSUMERS[0] }]).reordered.count
    };
    let (ranked, mixed, swapped) = ([1, 3, 5, 2, 4, 6], [1, 2, 3, 4, 5, 6], [1, 5, 3, 2, 4, 6]);
    assert_eq!([ranked, mixed, swapped].map(|numbers| check(&numbers, Order::Ranked(by_parity))), [0, 2, 1]);
    assert_eq!([ranked, mixed, swapped].map(|numbers| check(&numbers, Order::Lanes(by_parity))), [0, 0, 1]);
    assert_eq!([ranked, mixed, swapped].map(|numbers| check(&numbers, Order::Sent)), [2, 0, 3]);
    assert_eq!([ranked, mixed, swapped].map(|numbers| check(&numbers, Order::Any)), [0, 0, 0]);
}

#[test]
fn a_consumer_of_every_fifth_after_the_second() {
    let fifth = [Consumer { every: 5, rest: 2, ..Consumer::new(11, 2) }];
    let mut events = honest();
    events.retain(|event| !matches!(event, Event::Received { consumer: 12, .. }));
    events.retain(|event| !matches!(event, Event::Received { n, .. } if n % 5 != 2));
    assert!(check(&events, &PRODUCERS, &fifth).is_clean());
    events.retain(|event| !is(event, 11, 1, 52));
    assert_eq!(check(&events, &PRODUCERS, &fifth).lost.count, 1);
}
