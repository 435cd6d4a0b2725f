//! The upgrade (RFC 6455, 4.2): the head of an HTTP request, what it asks for, and the answer.
//!
//! ```text
//!  bytes ── Request::parse ── Opening ── Menu::answer ── Accepted { which, 101 ... }
//!                 └── Refusal: 400, 404, 405, 426, 431, 505      └── Refusal: 403, 404, 400
//! ```

use crate::Origins;
use base64::Engine;
use tungstenite::handshake::derive_accept_key;

/// Header lines that are looked at. Browsers send some fifteen.
const HEADERS_MAX: usize = 64;
/// Words that an HTTP request begins with (RFC 9110, 9.3; RFC 5789).
const METHODS: [&[u8]; 9] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ", b"PATCH "];

/// Does a connection that starts like this speak HTTP? `None`: not clear yet.
pub fn recognise(first: &[u8]) -> Option<bool> {
    let begins = |method: &&[u8]| first.len() >= method.len() && first.starts_with(method);
    let may_begin = |method: &&[u8]| method.starts_with(first);
    match (METHODS.iter().any(begins), METHODS.iter().any(may_begin)) {
        (true, _) => Some(true),
        (false, true) => None,
        (false, false) => Some(false),
    }
}

/// A protocol that can be had.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Its path is `/` and this.
    pub name: &'static str,
    /// In the words of its specification.
    pub sub_protocols: &'static [&'static str],
    /// Its clients may send text frames, and are answered in them.
    pub text: bool,
}

/// What can be had behind a door.
#[derive(Clone, Debug)]
pub struct Menu {
    pub carried: Vec<Carried>,
    /// Of `carried`: whoever asks for nothing else, at `/` or `/ws`.
    pub default: usize,
    pub origins: Origins,
}

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    path: String,
    key: String,
    offers: Vec<String>,
    origin: Option<String>,
}

/// What the first bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opening {
    /// The head of a request has not ended.
    Partial,
    /// A request, and how many bytes its head has. What follows it are frames.
    Whole(Request, usize),
}

/// The answer that ends a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub status: u16,
    pub why: String,
}

/// The answer that begins one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Of [`Menu::carried`].
    pub which: usize,
    pub response: Vec<u8>,
}

impl Refusal {
    pub fn new(status: u16, why: impl Into<String>) -> Refusal {
        Refusal { status, why: why.into() }
    }

    /// The slow and the endless.
    pub fn too_slow() -> Refusal {
        Refusal::new(408, "the request did not come in time")
    }

    pub fn too_large() -> Refusal {
        Refusal::new(431, "the head of the request is too large")
    }

    /// As it is sent; the connection closes behind it.
    pub fn response(&self) -> Vec<u8> {
        let (reason, more) = match self.status {
            403 => ("Forbidden", ""),
            404 => ("Not Found", ""),
            405 => ("Method Not Allowed", "Allow: GET\r\n"),
            408 => ("Request Timeout", ""),
            // RFC 9110, 15.5.22 asks for the first, RFC 6455, 4.2.2 for the second.
            426 => ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
            431 => ("Request Header Fields Too Large", ""),
            503 => ("Service Unavailable", ""),
            505 => ("HTTP Version Not Supported", ""),
            _ => ("Bad Request", ""),
        };
        let Refusal { status, why } = self;
        let connection = if *status == 426 { "close, Upgrade" } else { "close" };
        let length = why.len() + 1;
        format!(
            "HTTP/1.1 {status} {reason}\r\n{more}Connection: {connection}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Length: {length}\r\n\r\n{why}\n"
        )
        .into_bytes()
    }
}

impl Request {
    /// Reads the head of a request, once it is whole.
    pub fn parse(bytes: &[u8]) -> Result<Opening, Refusal> {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Request::new(&mut lines);
        let len = match head.parse(bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(Opening::Partial),
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::too_large()),
            Err(httparse::Error::Version) => return Err(Refusal::new(505, "right would be HTTP/1.1")),
            Err(error) => return Err(Refusal::new(400, format!("this is no HTTP request: {error}"))),
        };
        read(&head).map(|request| Opening::Whole(request, len))
    }
}

fn read(head: &httparse::Request<'_, '_>) -> Result<Request, Refusal> {
    let bad = |why: &str| Refusal::new(400, why);
    if head.method != Some("GET") {
        return Err(Refusal::new(405, "WebSocket is asked for with GET"));
    }
    if head.version != Some(1) {
        return Err(Refusal::new(505, "right would be HTTP/1.1"));
    }
    let headers = Headers(head.headers);
    // RFC 9112, 3.2: a request without a host, or with two, is answered with 400.
    headers.one("host")?.ok_or(bad("there is no Host"))?;
    if headers.one("transfer-encoding")?.is_some() || headers.one("content-length")?.is_some_and(|length| length != "0") {
        return Err(bad("a request for WebSocket has no body"));
    }
    if !headers.has_word("upgrade", "websocket")? || !headers.has_word("connection", "upgrade")? {
        return Err(Refusal::new(426, "this port speaks WebSocket: MQTT, STOMP or AMQP 0-9-1 in its frames"));
    }
    if headers.one("sec-websocket-version")? != Some("13") {
        return Err(Refusal::new(426, "right would be Sec-WebSocket-Version: 13"));
    }
    let key = headers.one("sec-websocket-key")?.ok_or(bad("there is no Sec-WebSocket-Key"))?;
    if !base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        return Err(bad("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    let offers = headers.words("sec-websocket-protocol")?.map(str::to_owned).collect();
    let target = head.path.unwrap_or_default();
    let path = target.split(['?', '#']).next().unwrap_or_default();
    Ok(Request { path: path.to_owned(), key: key.to_owned(), offers, origin: headers.one("origin")?.map(str::to_owned) })
}

struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = Result<&'a str, Refusal>> + 'a {
        let lines = self.0.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
        lines.map(move |line| std::str::from_utf8(line.value).map(str::trim).map_err(|_| Refusal::new(400, format!("{name} is not text"))))
    }

    /// What may be there once.
    fn one(&self, name: &'static str) -> Result<Option<&'a str>, Refusal> {
        let mut all = self.all(name);
        let first = all.next().transpose()?;
        match all.next() {
            Some(_) => Err(Refusal::new(400, format!("{name} is there twice"))),
            None => Ok(first),
        }
    }

    /// A list, over several lines too (RFC 9110, 5.3).
    fn words(&self, name: &'static str) -> Result<impl Iterator<Item = &'a str>, Refusal> {
        let lines = self.all(name).collect::<Result<Vec<_>, _>>()?;
        Ok(lines.into_iter().flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty()))
    }

    fn has_word(&self, name: &'static str, word: &str) -> Result<bool, Refusal> {
        Ok(self.words(name)?.any(|one| one.eq_ignore_ascii_case(word)))
    }
}

impl Menu {
    /// Which protocol it is: by the sub-protocols that are offered, in the client's order, else by the path, else the default.
    pub fn answer(&self, request: &Request, from_here: bool) -> Result<Accepted, Refusal> {
        if !self.origins.allow(request.origin.as_deref(), from_here) {
            let origin = request.origin.as_deref().unwrap_or_default();
            return Err(Refusal::new(403, format!("pages of '{origin}' may not connect here; [websocket] origins says who may")));
        }
        let by_path = self.by_path(&request.path)?;
        let speaks = |carried: &Carried, offer: &str| carried.sub_protocols.contains(&offer);
        let (which, chosen) = if request.offers.is_empty() {
            (by_path.unwrap_or(self.default), None)
        } else {
            // Where several are offered, the path says which one is meant.
            let of_path = by_path.and_then(|which| {
                let offer = request.offers.iter().find(|offer| speaks(&self.carried[which], offer))?;
                Some((which, offer))
            });
            let any = || {
                let mut found = request.offers.iter().filter_map(|offer| {
                    let which = self.carried.iter().position(|carried| speaks(carried, offer))?;
                    Some((which, offer))
                });
                found.next()
            };
            let (which, offer) = of_path.or_else(any).ok_or_else(|| self.unknown_offers())?;
            (which, Some(offer))
        };
        let accept = derive_accept_key(request.key.as_bytes());
        let mut response =
            format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n");
        if let Some(chosen) = chosen {
            response += &format!("Sec-WebSocket-Protocol: {chosen}\r\n");
        }
        response += "\r\n";
        Ok(Accepted { which, response: response.into_bytes() })
    }

    /// `None`: a path that stands for no protocol.
    fn by_path(&self, path: &str) -> Result<Option<usize>, Refusal> {
        let name = path.strip_suffix('/').unwrap_or(path);
        if name.is_empty() || name == "/ws" {
            return Ok(None);
        }
        let name = name.strip_prefix("/ws").unwrap_or(name).strip_prefix('/');
        match name.and_then(|name| self.carried.iter().position(|carried| carried.name == name)) {
            Some(which) => Ok(Some(which)),
            None => {
                let paths: Vec<String> = self.carried.iter().map(|carried| format!("/{}", carried.name)).collect();
                Err(Refusal::new(404, format!("nothing is here; right would be /ws, {}", paths.join(", "))))
            }
        }
    }

    fn unknown_offers(&self) -> Refusal {
        let known: Vec<&str> = self.carried.iter().flat_map(|carried| carried.sub_protocols).copied().collect();
        Refusal::new(400, format!("none of the sub-protocols offered is spoken here; right would be one of {}", known.join(", ")))
    }
}

#[cfg(test)]
mod tests;
