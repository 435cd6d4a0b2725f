//! What a client may make a connection hold.

use crate::rig::Rig;
use amqp091::Config;

const LARGEST: usize = 8 << 20;

/// All but four bytes of a message of the largest size, on a channel that is opened for it. Answers what the server said.
fn begin(rig: &mut Rig, channel: usize) -> Vec<String> {
    rig.step(&format!("a channel.open ch={channel}"));
    rig.lines.clear();
    rig.step(&format!("a basic.publish ch={channel} routing_key=q ; content_header ch={channel} size={LARGEST}"));
    rig.step(&format!("a content_body ch={channel} body=abcd*{}", LARGEST / 4 - 1));
    std::mem::take(&mut rig.lines)
}

/// Each channel may hold the parts of one message of the largest size, but together they hold no more than one and 32 MiB.
#[test]
fn contents_that_have_not_come_whole_are_bounded_over_all_channels() {
    let mut rig = Rig::with(Config { max_message_size: LARGEST as u64, ..Config::default() }, usize::MAX);
    rig.step("a connect");
    for channel in 2..=5 {
        assert_eq!(begin(&mut rig, channel), [""; 0]);
    }
    // What a failed channel held counts no longer, nor does what has come whole.
    rig.step("a queue.declare ch=1 queue=nope passive ; basic.publish ch=1 routing_key=q ; content_header ch=1 size=4000000");
    assert!(rig.lines[0].contains("NOT_FOUND"), "{:?}", rig.lines);
    rig.step("a channel.close_ok ch=1");
    rig.step("a content_body ch=5 body=1234");
    assert_eq!(begin(&mut rig, 6), [""; 0]);
    let said = begin(&mut rig, 7);
    assert!(said[0].contains("reply_code=506 reply_text=\"RESOURCE_ERROR - messages that have not come whole take "), "{said:?}");
    assert_eq!(said[1], "a| closed by us");
}

/// Headers count too: many channels with a large header each.
#[test]
fn the_headers_of_contents_that_have_not_come_whole_count() {
    let mut rig = Rig::with(Config { max_message_size: 1 << 20, ..Config::default() }, usize::MAX);
    rig.step("a connect");
    for channel in 2..400 {
        rig.step(&format!("a channel.open ch={channel}"));
        rig.lines.clear();
        rig.step(&format!(
            "a basic.publish ch={channel} routing_key=q ; content_header ch={channel} size=9 headers=h:S{}",
            "x".repeat(100_000)
        ));
        if let [said, closed] = &rig.lines[..] {
            assert!(said.contains("RESOURCE_ERROR") && closed == "a| closed by us", "{said} {closed}");
            assert!((300..360).contains(&channel), "{channel} channels");
            return;
        }
        assert_eq!(rig.lines, [""; 0]);
    }
    panic!("no bound over 40 MB");
}

/// A table in a table in a table, with nothing in the innermost: ten thousand of them fit a frame.
fn nested(depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for left in (0..depth).rev() {
        // A name of one byte, the type, and the length of what is inside.
        out.extend_from_slice(b"\x01tF");
        out.extend_from_slice(&(7 * left as u32).to_be_bytes());
    }
    out
}

fn declare_with(table: &[u8]) -> String {
    let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
    payload.extend_from_slice(&(table.len() as u32).to_be_bytes());
    payload.extend_from_slice(table);
    hex_frame(1, &payload)
}

fn hex_frame(kind: u8, payload: &[u8]) -> String {
    let mut hex = format!("a hex {kind:02x}0001{:08x}", payload.len());
    payload.iter().for_each(|byte| hex += &format!("{byte:02x}"));
    hex + "ce"
}

/// As arguments and as headers of a message. Thirty-two are taken.
#[test]
fn tables_nested_ten_thousand_deep_are_refused_without_a_deep_stack() {
    for depth in [31, 32, 33, 1000, 10_000] {
        let taken = depth < 32;
        let mut rig = Rig::new(usize::MAX);
        rig.step("a connect");
        rig.step(&declare_with(&nested(depth)));
        let said = rig.lines.concat();
        match taken {
            true => assert!(said.contains("queue.declare_ok"), "{depth}: {said}"),
            false => assert!(said.contains("reply_code=502 reply_text=\"SYNTAX_ERROR - "), "{depth}: {said}"),
        }
        let mut rig = Rig::new(usize::MAX);
        rig.step("a connect");
        rig.step("a queue.declare queue=q");
        rig.step("a basic.publish routing_key=q");
        let table = nested(depth);
        let mut head = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0];
        head.extend_from_slice(&(table.len() as u32).to_be_bytes());
        head.extend_from_slice(&table);
        rig.lines.clear();
        rig.step(&hex_frame(2, &head));
        rig.step("a basic.get queue=q no_ack");
        let said = rig.lines.concat();
        match taken {
            true => assert!(said.contains("basic.get_ok"), "{depth}: {said}"),
            false => assert!(said.contains("reply_code=502 reply_text=\"SYNTAX_ERROR - "), "{depth}: {said}"),
        }
    }
}

/// Ten thousand channels: those agreed, and then the connection ends.
#[test]
fn ten_thousand_channels_are_more_than_agreed() {
    let mut rig = Rig::new(usize::MAX);
    rig.step("b connect");
    rig.step("b queue.declare queue=q");
    rig.step("a connect");
    rig.lines.clear();
    let opens: Vec<String> = (2..=10_000).map(|channel| format!("channel.open ch={channel}")).collect();
    rig.step(&format!("a {}", opens.join(" ; ")));
    let opened = rig.lines.iter().filter(|line| line.contains("channel.open_ok")).count();
    assert_eq!(opened, 2046);
    let said = rig.lines[opened..].concat();
    assert!(said.contains("reply_code=530 reply_text=\"NOT_ALLOWED - number of channels opened (2047) has reached"), "{said}");
    rig.lines.clear();
    rig.step("b publish routing_key=q body=fine");
    rig.step("b basic.get queue=q no_ack");
    assert!(rig.lines.concat().contains("body=fine"), "{:?}", rig.lines);
}
