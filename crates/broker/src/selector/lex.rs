//! A text as words.

use super::SelectorError;

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Token {
    /// As written, or without its quotes.
    Name(String),
    /// In capitals.
    Keyword(&'static str),
    Text(String),
    /// 2^63 is one, for the sign before it.
    Int(u64),
    Float(f64),
    Sign(&'static str),
    End,
}

const KEYWORDS: [&str; 13] = ["NOT", "AND", "OR", "BETWEEN", "LIKE", "ESCAPE", "IN", "IS", "TRUE", "FALSE", "NULL", "XPATH", "XQUERY"];
/// The longer first.
const SIGNS: [&str; 14] = ["<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "+", "-", "*", "/", "%"];

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Names have `-` in them.
    hyphens: bool,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str, at: usize, hyphens: bool) -> Lexer<'a> {
        Lexer { text, at, hyphens }
    }

    pub fn error(&self, at: usize, why: impl Into<String>) -> SelectorError {
        let at = self.text.get(..at).map_or(0, |before| before.chars().count()) + 1;
        SelectorError { at, why: why.into() }
    }

    /// The next word, and where it begins.
    pub fn next(&mut self) -> Result<(Token, usize), SelectorError> {
        let rest = self.text.get(self.at..).unwrap_or("");
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']).len();
        self.at += blank;
        let (at, rest) = (self.at, &rest[blank..]);
        let Some(first) = rest.chars().next() else { return Ok((Token::End, at)) };
        let token = match first {
            '\'' => Token::Text(self.quoted(rest, '\'')?),
            '"' => Token::Name(self.quoted(rest, '"')?),
            '0'..='9' => self.number(rest)?,
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(rest)?,
            c if begins_name(c) => self.word(rest),
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => {
                    self.at += sign.len();
                    Token::Sign(sign)
                }
                None => return Err(self.error(at, format!("'{first}' has no meaning here"))),
            },
        };
        Ok((token, at))
    }

    /// Up to the quote that closes it; two of them stand for one.
    fn quoted(&mut self, rest: &str, quote: char) -> Result<String, SelectorError> {
        let mut out = String::new();
        let mut chars = rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c != quote {
                out.push(c);
            } else if chars.next_if(|(_, next)| *next == quote).is_some() {
                out.push(quote);
            } else {
                self.at += at + 1;
                return Ok(out);
            }
        }
        Err(self.error(self.at, format!("the {quote} is not closed")))
    }

    fn word(&mut self, rest: &str) -> Token {
        let goes_on = |c: char| begins_name(c) || c.is_ascii_digit() || c == '.' || self.hyphens && c == '-';
        let len = rest.find(|c| !goes_on(c)).unwrap_or(rest.len());
        self.at += len;
        match KEYWORDS.iter().find(|keyword| keyword.eq_ignore_ascii_case(&rest[..len])) {
            Some(keyword) => Token::Keyword(keyword),
            None => Token::Name(rest[..len].to_owned()),
        }
    }

    /// As in Java: whole numbers (also octal, hexadecimal, with an `L` behind) and floating point ones.
    fn number(&mut self, rest: &str) -> Result<Token, SelectorError> {
        let at = self.at;
        let wrong = |lexer: &Lexer<'_>, why: &str| lexer.error(at, why);
        if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
            let len = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            let value = u64::from_str_radix(&hex[..len], 16).map_err(|_| wrong(self, "this is no hexadecimal number of 64 bits"))?;
            self.at += 2 + len;
            return self.whole(value, at);
        }
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let mut len = digits(rest);
        let whole_len = len;
        if rest[len..].starts_with('.') {
            len += 1 + digits(&rest[len + 1..]);
        }
        if let Some(exponent) = rest[len..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let found = digits(&exponent[sign..]);
            if found == 0 {
                return Err(wrong(self, "the exponent has no digits"));
            }
            len += 1 + sign + found;
        }
        self.at += len;
        if len > whole_len {
            let value: f64 = rest[..len].parse().map_err(|_| wrong(self, "this is no number"))?;
            return self.behind_number(Token::Float(value), at);
        }
        let value = match &rest[..len] {
            octal if octal.len() > 1 && octal.starts_with('0') => u64::from_str_radix(octal, 8),
            decimal => decimal.parse(),
        };
        let value = value.map_err(|_| wrong(self, "this is no whole number of 64 bits"))?;
        self.whole(value, at)
    }

    fn whole(&mut self, value: u64, at: usize) -> Result<Token, SelectorError> {
        if value > 1 << 63 {
            return Err(self.error(at, "this is no whole number of 64 bits"));
        }
        if self.text[self.at..].starts_with(['l', 'L']) {
            self.at += 1;
        }
        self.behind_number(Token::Int(value), at)
    }

    fn behind_number(&self, token: Token, at: usize) -> Result<Token, SelectorError> {
        match self.text[self.at..].chars().next() {
            Some(c) if begins_name(c) || c.is_ascii_digit() || c == '.' => Err(self.error(at, "a number runs into a name")),
            _ => Ok(token),
        }
    }
}

/// JMS 2.0, 3.8.1.1: as an identifier of Java begins.
fn begins_name(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}
