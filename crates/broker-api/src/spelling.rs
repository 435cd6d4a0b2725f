//! The virtual host's one topic space has two spellings: MQTT's topic name `a/b`, and the routing key `a.b` of AMQP and STOMP.
//!
//! What divides the words of one spelling may stand inside a word of the other, so the key escapes it, and only there:
//!
//! ```text
//!   topic            key                topic            key
//!   a/b.c       <->  a.b%2Ec            a/50%       <->  a.50%
//!   a/%2E       <->  a.%252E            a%2Fb       <--  a/b         (also + and #, as %2B and %23)
//! ```
//!
//! `%2E` in a key is a dot inside a word to everybody who reads it as words, so that what MQTT published to `a/b.c` can be bound, answered
//! and published to by the key that a consumer of it was shown. A `%` is escaped (`%25`) where it would otherwise be read so. Topics are
//! shown as they are: `%2F` in one is three characters, and a word of a key that has a slash cannot be named in MQTT, only matched.

use std::borrow::Cow;

/// Whether what stands behind a `%` makes it an escape: `2E`, or any number of `25` and then `2E`.
fn is_escape(mut behind: &[u8]) -> bool {
    while let Some(rest) = behind.strip_prefix(b"25") {
        behind = rest;
    }
    behind.starts_with(b"2E")
}

/// Whether a key says something else as words than byte for byte.
#[inline]
pub fn has_escapes(key: &[u8]) -> bool {
    key.iter().enumerate().any(|(at, byte)| *byte == b'%' && is_escape(&key[at + 1..]))
}

/// What a word of a routing key stands for.
pub fn read_word(word: &[u8]) -> Cow<'_, [u8]> {
    if !has_escapes(word) {
        return Cow::Borrowed(word);
    }
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((byte, behind)) = rest.split_first() {
        if *byte == b'%' && is_escape(behind) {
            out.push(if behind.starts_with(b"2E") { b'.' } else { b'%' });
            rest = &behind[2..];
        } else {
            out.push(*byte);
            rest = behind;
        }
    }
    Cow::Owned(out)
}

/// A topic name as a routing key.
pub fn key_of_topic(topic: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(topic.len());
    for (at, byte) in topic.iter().enumerate() {
        match byte {
            b'/' => key.push(b'.'),
            b'.' => key.extend_from_slice(b"%2E"),
            b'%' if is_escape(&topic[at + 1..]) => key.extend_from_slice(b"%25"),
            byte => key.push(*byte),
        }
    }
    key
}

/// A routing key as a topic name. It may still be none: MQTT knows no empty name, no NUL and no text that is not UTF-8.
pub fn topic_of_key(key: &[u8]) -> Vec<u8> {
    let mut topic = Vec::with_capacity(key.len());
    for (position, word) in key.split(|byte| *byte == b'.').enumerate() {
        if position > 0 {
            topic.push(b'/');
        }
        for byte in &*read_word(word) {
            match byte {
                b'/' => topic.extend_from_slice(b"%2F"),
                b'+' => topic.extend_from_slice(b"%2B"),
                b'#' => topic.extend_from_slice(b"%23"),
                byte => topic.push(*byte),
            }
        }
    }
    topic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_come_back_from_their_keys() {
        let rows: [(&str, &str); 12] = [
            ("a/b", "a.b"),
            ("a", "a"),
            ("/a//b/", ".a..b."),
            ("a/b.c", "a.b%2Ec"),
            ("device/10.0.0.1/up", "device.10%2E0%2E0%2E1.up"),
            ("50%", "50%"),
            ("%2E", "%252E"),
            ("%252E", "%25252E"),
            ("%25", "%25"),
            ("%2e", "%2e"),
            ("%%2E.", "%%252E%2E"),
            ("a b/ü/*", "a b.ü.*"),
        ];
        for (topic, key) in rows {
            assert_eq!(String::from_utf8(key_of_topic(topic.as_bytes())).unwrap(), key);
            assert_eq!(String::from_utf8(topic_of_key(key.as_bytes())).unwrap(), topic);
        }
    }

    #[test]
    fn keys_with_mqtts_characters_are_shown_but_cannot_be_named() {
        assert_eq!(topic_of_key(b"a/b.+.#"), b"a%2Fb/%2B/%23");
        assert_eq!(topic_of_key(b""), b"");
    }

    /// Every text of up to six characters out of those that the escapes are made of.
    #[test]
    fn no_two_topics_share_a_key_and_no_key_changes_on_the_way_there_and_back() {
        let alphabet = b"%25E./a";
        let mut texts: Vec<Vec<u8>> = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..6 {
            let until = texts.len();
            for at in from..until {
                for byte in alphabet {
                    let mut longer = texts[at].clone();
                    longer.push(*byte);
                    texts.push(longer);
                }
            }
            from = until;
        }
        for text in &texts {
            assert_eq!(topic_of_key(&key_of_topic(text)), *text);
            if !text.contains(&b'/') {
                assert_eq!(key_of_topic(&topic_of_key(text)), *text);
            }
            assert_eq!(has_escapes(text), *read_word(text) != **text);
        }
    }
}
