//! Frames out of the words of a transcript, and words out of frames.

/// What a script may name without writing it.
#[derive(Clone, Default)]
pub struct Known {
    /// Of each MESSAGE its `message-id`, and its `ack` where it has one, as they stood on the wire.
    pub ids: Vec<(String, Option<String>)>,
    /// The reply address of the last MESSAGE.
    pub reply_to: String,
}

/// Names that belong to one conversation, so that none finds what another has left behind.
pub struct Names {
    /// Goes before every name on the wire, and is not shown.
    pub prefix: String,
    /// Stands for `/`.
    pub vhost: String,
}

/// Headers whose value is a name, or ends with one.
const NAMES: [&str; 6] = ["destination", "reply-to", "x-queue-name", "x-dead-letter-routing-key", "client-id", "activemq.subscriptionName"];

impl Names {
    /// A header line of a script, on the wire.
    fn own(&self, line: &str) -> String {
        if line == "host:/" {
            return format!("host:{}", self.vhost);
        }
        let Some((header, value)) = line.split_once(':').filter(|(header, _)| NAMES.contains(header)) else { return line.to_owned() };
        let own = |value: &str| {
            const PREFIXES: [&str; 11] = [
                "/queue/",
                "/topic/",
                "/amq/queue/",
                "queue://",
                "topic://",
                "/exchange/",
                "/temp-queue/",
                "/temp-topic/",
                "/remote-",
                "/wat/",
                "/reply-queue/",
            ];
            let blank = value.len() - value.trim_start().len();
            let kept = PREFIXES.iter().find(|prefix| value[blank..].starts_with(**prefix)).map_or(blank, |prefix| blank + prefix.len());
            let (kind, name) = value.split_at(kept);
            let is_ours = matches!(kind.trim_start(), "/queue/" | "/topic/" | "/amq/queue/" | "queue://" | "topic://")
                || kind.trim_start().is_empty() && !name.starts_with('/');
            match is_ours && !name.starts_with("amq.") && !name.is_empty() {
                true => format!("{kind}{}{name}", self.prefix),
                false => value.to_owned(),
            }
        };
        let values: Vec<String> = value.split(',').map(own).collect();
        format!("{header}:{}", values.join(","))
    }

    /// What came off the wire, as the script would say it.
    pub fn shown(&self, text: &str) -> String {
        text.replace(&self.prefix, "").replace(&format!("'{}'", self.vhost), "'/'")
    }
}

/// The bytes of one frame: words with a colon are headers (`_` is a space in them), `body=x*9` is nine of them; `$` is an id seen before, `@`
/// a reply address.
pub fn encode(text: &str, known: &Known, names: &Names) -> Result<Vec<u8>, String> {
    if let Some(raw) = text.strip_prefix("raw ") {
        let raw = raw.replace("\\n", "\n").replace("\\0", "\0").replace("\\r", "\r");
        let lines: Vec<String> = raw.split('\n').map(|line| names.own(line)).collect();
        return Ok(lines.join("\n").into_bytes());
    }
    let (text, body) = text.split_once(" body=").unwrap_or((text, ""));
    let body = match body.split_once('*') {
        Some((what, count)) => what.repeat(count.parse().map_err(|_| "body=x*COUNT")?),
        None => body.to_owned(),
    };
    let mut out = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let id = |number: Option<usize>| {
            let seen = number.map_or_else(|| known.ids.last(), |number| known.ids.get(number.wrapping_sub(1)));
            seen.cloned().unwrap_or_else(|| ("nothing-came".to_owned(), None))
        };
        let line = match word.split_once(":$") {
            Some((name, number)) => {
                let (message_id, ack) = id(number.parse().ok());
                format!("{name}:{}", if name == "id" { ack.unwrap_or(message_id) } else { message_id })
            }
            None if word.ends_with(":@") => format!("{}{}", word.trim_end_matches('@'), known.reply_to),
            None => names.own(&word.replace('_', " ")),
        };
        out += &line;
        out.push('\n');
    }
    out.push('\n');
    out += &body;
    out.push('\0');
    Ok(out.into_bytes())
}

/// A frame as it came.
pub struct Frame {
    pub command: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Frame {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The first frame, and where what follows begins: behind the one line end that a server may add. A line end alone is a sign of life.
pub fn take(bytes: &[u8]) -> Option<(Option<Frame>, usize)> {
    match bytes.first()? {
        b'\n' => return Some((None, 1)),
        b'\r' => return Some((None, 2)),
        _ => {}
    }
    let head = bytes.windows(2).position(|two| two == b"\n\n")?;
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let command = lines.next().unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let body = &bytes[head + 2..];
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.trim().parse::<usize>().ok());
    let len = match length {
        Some(len) if body.len() > len => len,
        Some(_) => return None,
        None => body.iter().position(|byte| *byte == 0)?,
    };
    let end = head + 2 + len + 1;
    // It may come a moment later; then it looks like a sign of life, which is not told apart here.
    let end = end + usize::from(bytes.get(end) == Some(&b'\n'));
    Some((Some(Frame { command, headers, body: body[..len].to_vec() }), end))
}
