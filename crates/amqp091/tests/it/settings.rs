//! Conversations under settings that are not the defaults.

use crate::rig::Rig;
use amqp091::Config;

/// What the server says to each step of a client that has logged in.
fn said(rig: &mut Rig, step: &str) -> Vec<String> {
    rig.lines.clear();
    rig.step(step);
    std::mem::take(&mut rig.lines)
}

#[test]
fn a_queue_that_is_quorum_may_be_declared_as_classic_where_that_is_relaxed() {
    let config = Config { relaxed_redeclare: true, ..Config::default() };
    let mut rig = Rig::of(config, |core| core.relaxed_redeclare = true, usize::MAX);
    rig.step("a connect");
    let declare = |arguments: &str| format!("a queue.declare queue=q durable arguments={arguments}");
    let ok = ["a< 1 queue.declare_ok queue=q message_count=0 consumer_count=0"];
    assert_eq!(said(&mut rig, &declare("x-queue-type:Squorum,x-expires:I60000,x-delivery-limit:I3")), ok);
    for arguments in ["x-queue-type:Sclassic", "x-queue-type:Sclassic,x-max-priority:I5", "x-queue-mode:Slazy", ""] {
        let arguments = format!("{arguments},x-expires:I60000").trim_start_matches(',').to_owned();
        // The limit is one that classic queues do not have, and must be said all the same: as in RabbitMQ, only the type is relaxed.
        let refused = said(&mut rig, &declare(&arguments));
        let text = "inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received none but current is the value '3' of type 'signedint'";
        assert!(refused[0].contains("406") && refused[0].contains(text), "{arguments}: {refused:?}");
        rig.step("a channel.close_ok");
        rig.step("a channel.open");
    }
    rig.step("a queue.delete queue=q");
    assert_eq!(said(&mut rig, &declare("x-queue-type:Squorum,x-expires:I60000")), ok);
    for arguments in
        ["x-queue-type:Sclassic,x-expires:I60000", "x-expires:I60000,x-queue-type:Sclassic,x-max-priority:I5", "x-expires:I60000"]
    {
        assert_eq!(said(&mut rig, &declare(arguments)), ok, "{arguments}");
    }
    let refused = said(&mut rig, &declare("x-queue-type:Sclassic,x-max-priority:I5,x-message-ttl:I5,x-expires:I60000"));
    assert!(refused[0].contains("inequivalent arg 'x-message-ttl'"), "{refused:?}");
}

#[test]
fn without_that_setting_it_may_not() {
    let mut rig = Rig::new(usize::MAX);
    rig.step("a connect");
    rig.step("a queue.declare queue=q durable arguments=x-queue-type:Squorum");
    let refused = said(&mut rig, "a queue.declare queue=q durable arguments=x-queue-type:Sclassic");
    assert!(
        refused[0].contains("inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'classic' but current is 'quorum'"),
        "{refused:?}"
    );
}

#[test]
fn a_channel_has_as_many_consumers_as_the_operator_lets_it_have() {
    let config = Config { consumer_max_per_channel: Some(2), ..Config::default() };
    let mut rig = Rig::with(config, usize::MAX);
    rig.step("a connect");
    rig.step("a queue.declare queue=q");
    let consume = |channel: u16, tag: &str| format!("a basic.consume ch={channel} queue=q consumer_tag={tag}");
    assert_eq!(said(&mut rig, &consume(1, "1")), ["a< 1 basic.consume_ok consumer_tag=1"]);
    assert_eq!(said(&mut rig, &consume(1, "2")), ["a< 1 basic.consume_ok consumer_tag=2"]);
    // Who leaves makes room, also for what was sent along.
    assert_eq!(
        said(&mut rig, "a basic.cancel consumer_tag=1 ; basic.consume queue=q consumer_tag=1"),
        ["a< 1 basic.cancel_ok consumer_tag=1", "a< 1 basic.consume_ok consumer_tag=1"]
    );
    rig.step("a channel.open ch=2");
    assert_eq!(said(&mut rig, &consume(2, "1")), ["a< 2 basic.consume_ok consumer_tag=1"]);
    let refused = said(&mut rig, &consume(1, "3"));
    let text = "a< 0 connection.close reply_code=530 reply_text=\"NOT_ALLOWED - reached maximum (2) of consumers per channel\" class_id=60 method_id=20";
    assert_eq!(refused, [text, "a| closed by us"]);
}

#[test]
fn the_limits_of_the_whole_broker_are_said_in_rabbitmqs_words() {
    let mut rig = Rig::of(Config::default(), |core| (core.queues_max, core.exchanges_max) = (1, 0), usize::MAX);
    rig.step("a connect");
    rig.step("a queue.declare queue=q");
    let closed =
        |text: &str, method: &str| format!("a< 1 channel.close reply_code=406 reply_text=\"PRECONDITION_FAILED - {text}\" {method}");
    let refused = said(&mut rig, "a queue.declare queue=r");
    assert_eq!(refused, [closed("cannot declare queue 'r': queue limit in cluster (1) is reached", "class_id=50 method_id=10")]);
    rig.step("a channel.close_ok");
    rig.step("a channel.open");
    let refused = said(&mut rig, "a exchange.declare exchange=x kind=fanout");
    assert_eq!(refused, [closed("cannot declare exchange 'x' in vhost '/': exchange limit of 0 is reached", "class_id=40 method_id=10")]);
}

#[test]
fn all_connections_together_have_as_many_channels_as_the_operator_lets_them_have() {
    let mut rig = Rig::of(Config::default(), |core| core.channels_max = 2, usize::MAX);
    let open = ["a< 2 channel.open_ok channel_id=\"\""];
    let text = "NOT_ALLOWED - number of channels opened on node 'carrick' has reached the maximum allowed limit of (2)";
    rig.step("a connect");
    assert_eq!(said(&mut rig, "a channel.open ch=2"), open);
    // What somebody gives up, others may have: by a close, an error, or the connection's end.
    assert_eq!(said(&mut rig, "a channel.close ch=2"), ["a< 2 channel.close_ok"]);
    assert_eq!(said(&mut rig, "a channel.open ch=2"), open);
    rig.step("a queue.declare ch=2 queue=nope passive");
    rig.step("a channel.close_ok ch=2");
    rig.step("b connect");
    rig.step("b cut");
    assert_eq!(said(&mut rig, "a channel.open ch=2"), open);
    let refused = said(&mut rig, "c connect");
    let close = format!("c< 0 connection.close reply_code=530 reply_text=\"{text}\" class_id=20 method_id=10");
    assert!(refused.contains(&close) && refused.last().is_some_and(|line| line == "c| closed by us"), "{refused:?}");
    // Who was refused holds nothing.
    assert_eq!(said(&mut rig, "a channel.close ch=2"), ["a< 2 channel.close_ok"]);
    assert_eq!(said(&mut rig, "a channel.open ch=2"), open);
}

#[test]
fn who_publishes_too_much_is_told_why_he_waits_and_when_it_goes_on() {
    let mut rig = Rig::of(Config::default(), |core| (core.memory_high, core.transient_memory) = (20_000, 0), usize::MAX);
    rig.step("a connect");
    rig.step("a queue.declare queue=q");
    rig.step("b connect");
    rig.step("a publish routing_key=q body=abcd*10000");
    assert_eq!(said(&mut rig, "a publish routing_key=q body=more"), ["a< 0 connection.blocked reason=\"low on memory\""]);
    // Who publishes nothing is not held, and may make room.
    assert_eq!(said(&mut rig, "b queue.purge queue=q"), ["b< 1 queue.purge_ok message_count=1"]);
    assert_eq!(said(&mut rig, "wait 1"), ["a< 0 connection.unblocked"]);
    let waited = "b< 1 queue.declare_ok queue=q message_count=1 consumer_count=0";
    assert_eq!(said(&mut rig, "b queue.declare queue=q"), [waited]);
}
