//! Direct reply-to, with addresses that differ from run to run.

use crate::rig::Rig;

fn said(rig: &mut Rig, step: &str) -> Vec<String> {
    rig.lines.clear();
    rig.step(step);
    std::mem::take(&mut rig.lines)
}

/// A client that waits for replies, and a server that has its question.
fn asked() -> Rig {
    let mut rig = Rig::new(usize::MAX);
    for step in [
        "a connect",
        "b connect",
        "b queue.declare queue=rpc",
        "b basic.consume queue=rpc consumer_tag=server no_ack",
        "a basic.consume queue=amq.rabbitmq.reply-to consumer_tag=replies no_ack",
        "a publish routing_key=rpc reply_to=amq.rabbitmq.reply-to body=question",
    ] {
        rig.step(step);
    }
    rig
}

const ANSWER: [&str; 2] =
    ["a< 1 basic.deliver consumer_tag=replies delivery_tag=1 exchange=\"\" routing_key=amq.rabbitmq.reply-to.*", "a<   body=answer"];

#[test]
fn a_reply_comes_by_the_address_of_its_question() {
    let mut rig = asked();
    assert_eq!(said(&mut rig, "b publish routing_key=@reply body=answer"), ANSWER);
}

/// RabbitMQ's way to ask if somebody still waits; the channel goes on.
#[test]
fn whether_somebody_waits_for_a_reply_can_be_asked() {
    let mut rig = asked();
    let there = ["b< 1 queue.declare_ok queue=amq.rabbitmq.reply-to.* message_count=0 consumer_count=1"];
    assert_eq!(said(&mut rig, "b queue.declare queue=@reply passive"), there);
    assert_eq!(said(&mut rig, "b queue.declare queue=@reply"), there);
    assert_eq!(said(&mut rig, "b publish routing_key=@reply body=answer"), ANSWER);
    rig.step("a basic.cancel consumer_tag=replies");
    let gone = said(&mut rig, "b queue.declare queue=@reply passive");
    assert!(gone[0].starts_with("b< 1 channel.close reply_code=404 reply_text=\"NOT_FOUND - no queue 'amq.rabbitmq.reply-to."), "{gone:?}");
    rig.step("b channel.close_ok");
    rig.step("b channel.open");
    assert_eq!(said(&mut rig, "b queue.declare queue=rpc"), ["b< 1 queue.declare_ok queue=rpc message_count=0 consumer_count=0"]);
}
