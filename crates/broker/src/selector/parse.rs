//! From a text to a program, by descent: each level of precedence is a function, the weakest first.

use super::lex::{Lexer, Token};
use super::like::Like;
use super::{Name, Op, Selector, SelectorError, DEPTH_MAX, NAMES_MAX, OWN, TEXT_MAX};

const CONVERTS: &str = "convert_string_expressions:";
const CONVERTS_NOT: &str = "no_convert_string_expressions:";
const HYPHENS: &str = "hyphenated_props:";
const HYPHENS_NOT: &str = "no_hyphenated_props:";

/// What is known of a value before there is a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Condition,
    Number,
    Text,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Any => "value",
            Kind::Condition => "condition",
            Kind::Number => "number",
            Kind::Text => "text",
        }
    }
}

/// What was read, and where it began.
#[derive(Clone, Copy)]
struct Read {
    kind: Kind,
    at: usize,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token,
    at: usize,
    depth: usize,
    names: Vec<Name>,
    program: Vec<Op>,
}

pub(super) fn parse(text: &str) -> Result<Selector, SelectorError> {
    if text.len() > TEXT_MAX {
        return Err(SelectorError { at: 1, why: format!("a selector has at most {TEXT_MAX} bytes, this one has {}", text.len()) });
    }
    let (mut from, mut converts, mut hyphens) = (0, false, false);
    loop {
        from += text[from..].len() - text[from..].trim_start().len();
        let known = [CONVERTS, CONVERTS_NOT, HYPHENS, HYPHENS_NOT].into_iter().find(|prefix| text[from..].starts_with(prefix));
        match known {
            Some(CONVERTS) => converts = true,
            Some(CONVERTS_NOT) => converts = false,
            Some(HYPHENS) => hyphens = true,
            Some(HYPHENS_NOT) => hyphens = false,
            _ => break,
        }
        from += known.map_or(0, str::len);
    }
    let lexer = Lexer::new(text, from, hyphens);
    let mut parser = Parser { lexer, token: Token::End, at: 0, depth: 0, names: Vec::new(), program: Vec::new() };
    parser.step()?;
    let all = parser.or()?;
    if parser.token != Token::End {
        return Err(parser.unexpected("the end"));
    }
    parser.must_be(all, Kind::Condition)?;
    let Parser { names, program, .. } = parser;
    Ok(Selector { text: text.into(), names, program, converts })
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => format!("the name {name}"),
        Token::Keyword(word) => (*word).to_owned(),
        Token::Text(text) => format!("the text '{text}'"),
        Token::Int(number) => format!("the number {number}"),
        Token::Float(number) => format!("the number {number}"),
        Token::Sign(sign) => format!("'{sign}'"),
        Token::End => "the end".to_owned(),
    }
}

type Parsed = Result<Read, SelectorError>;

impl Parser<'_> {
    fn step(&mut self) -> Result<Token, SelectorError> {
        let (token, at) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn unexpected(&self, wanted: &str) -> SelectorError {
        self.lexer.error(self.at, format!("expected {wanted}, found {}", shown(&self.token)))
    }

    fn is(&self, keyword: &str) -> bool {
        matches!(&self.token, Token::Keyword(word) if *word == keyword)
    }

    fn sign(&self, among: &[&'static str]) -> Option<&'static str> {
        match &self.token {
            Token::Sign(sign) => among.iter().find(|wanted| *wanted == sign).copied(),
            _ => None,
        }
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), SelectorError> {
        if !self.is(keyword) {
            return Err(self.unexpected(keyword));
        }
        self.step().map(drop)
    }

    fn the_sign(&mut self, sign: &'static str) -> Result<(), SelectorError> {
        if self.sign(&[sign]).is_none() {
            return Err(self.unexpected(&format!("'{sign}'")));
        }
        self.step().map(drop)
    }

    fn text(&mut self, what: &str) -> Result<(String, usize), SelectorError> {
        let at = self.at;
        match &self.token {
            Token::Text(_) => match self.step()? {
                Token::Text(text) => Ok((text, at)),
                _ => Err(self.unexpected(what)),
            },
            _ => Err(self.unexpected(what)),
        }
    }

    fn must_be(&self, read: Read, kind: Kind) -> Result<(), SelectorError> {
        if read.kind == kind || read.kind == Kind::Any {
            return Ok(());
        }
        Err(self.lexer.error(read.at, format!("a {} stands where a {} is wanted", read.kind.name(), kind.name())))
    }

    fn deeper(&mut self) -> Result<(), SelectorError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.lexer.error(self.at, format!("more than {DEPTH_MAX} levels in one another")));
        }
        Ok(())
    }

    /// Left to right: `next (word next)*`.
    fn conditions(&mut self, word: &str, op: fn() -> Op, next: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = next(self)?;
        while self.is(word) {
            self.step()?;
            self.must_be(left, Kind::Condition)?;
            let right = next(self)?;
            self.must_be(right, Kind::Condition)?;
            self.program.push(op());
            left.kind = Kind::Condition;
        }
        Ok(left)
    }

    fn or(&mut self) -> Parsed {
        self.conditions("OR", || Op::Or, Self::and)
    }

    fn and(&mut self) -> Parsed {
        self.conditions("AND", || Op::And, Self::not)
    }

    fn not(&mut self) -> Parsed {
        if !self.is("NOT") {
            return self.comparison();
        }
        let at = self.at;
        self.step()?;
        self.deeper()?;
        let read = self.not()?;
        self.depth -= 1;
        self.must_be(read, Kind::Condition)?;
        self.program.push(Op::Not);
        Ok(Read { kind: Kind::Condition, at })
    }

    fn comparison(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            if let Some(sign) = self.sign(&["=", "<>", "<", "<=", ">", ">="]) {
                self.step()?;
                let right = self.sum()?;
                self.compares(left, sign, right)?;
            } else if self.is("IS") {
                self.step()?;
                let not = self.maybe_not()?;
                self.keyword("NULL")?;
                self.program.push(Op::IsNull);
                self.negated(not);
            } else if ["NOT", "BETWEEN", "LIKE", "IN"].iter().any(|word| self.is(word)) {
                let not = self.maybe_not()?;
                self.in_or_like(left)?;
                self.negated(not);
            } else {
                return Ok(left);
            }
            left.kind = Kind::Condition;
        }
    }

    fn maybe_not(&mut self) -> Result<bool, SelectorError> {
        let not = self.is("NOT");
        if not {
            self.step()?;
        }
        Ok(not)
    }

    fn negated(&mut self, not: bool) {
        if not {
            self.program.push(Op::Not);
        }
    }

    fn compares(&mut self, left: Read, sign: &str, right: Read) -> Result<(), SelectorError> {
        let op = match sign {
            "=" => Op::Equal,
            "<>" => Op::Unequal,
            "<" => Op::Less,
            "<=" => Op::LessEqual,
            ">" => Op::Greater,
            _ => Op::GreaterEqual,
        };
        if !matches!(op, Op::Equal | Op::Unequal) {
            self.must_be(left, Kind::Number)?;
            self.must_be(right, Kind::Number)?;
        }
        self.program.push(op);
        Ok(())
    }

    fn in_or_like(&mut self, left: Read) -> Result<(), SelectorError> {
        if self.is("BETWEEN") {
            self.step()?;
            self.must_be(left, Kind::Number)?;
            let low = self.sum()?;
            self.must_be(low, Kind::Number)?;
            self.keyword("AND")?;
            let high = self.sum()?;
            self.must_be(high, Kind::Number)?;
            self.program.push(Op::Between);
        } else if self.is("IN") {
            self.step()?;
            self.must_be(left, Kind::Text)?;
            let list = self.list()?;
            self.program.push(Op::In(list));
        } else {
            self.keyword("LIKE")?;
            self.must_be(left, Kind::Text)?;
            let like = self.pattern()?;
            self.program.push(Op::Like(like));
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Box<[Box<str>]>, SelectorError> {
        self.the_sign("(")?;
        let mut list = Vec::new();
        loop {
            list.push(self.text("a text")?.0.into());
            if self.sign(&[","]).is_none() {
                break;
            }
            self.step()?;
        }
        self.the_sign(")")?;
        Ok(list.into())
    }

    fn pattern(&mut self) -> Result<Like, SelectorError> {
        let (pattern, at) = self.text("a pattern in quotes")?;
        let mut escape = None;
        if self.is("ESCAPE") {
            self.step()?;
            let (text, at) = self.text("one character in quotes")?;
            let mut chars = text.chars();
            escape = chars.next();
            if escape.is_none() || chars.next().is_some() {
                return Err(self.lexer.error(at, "the escape is one character"));
            }
        }
        Like::new(&pattern, escape).map_err(|_| self.lexer.error(at, "the pattern ends with its escape character"))
    }

    fn numbers(&mut self, signs: &[&'static str], next: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = next(self)?;
        while let Some(sign) = self.sign(signs) {
            self.step()?;
            self.must_be(left, Kind::Number)?;
            let right = next(self)?;
            self.must_be(right, Kind::Number)?;
            self.program.push(match sign {
                "+" => Op::Add,
                "-" => Op::Subtract,
                "*" => Op::Multiply,
                "/" => Op::Divide,
                _ => Op::Remainder,
            });
            left.kind = Kind::Number;
        }
        Ok(left)
    }

    fn sum(&mut self) -> Parsed {
        self.numbers(&["+", "-"], Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.numbers(&["*", "/", "%"], Self::signed)
    }

    fn signed(&mut self) -> Parsed {
        let Some(sign) = self.sign(&["+", "-"]) else { return self.single() };
        let at = self.at;
        self.step()?;
        if let (Token::Int(number), "-") = (&self.token, sign) {
            let number = (*number as i64).wrapping_neg();
            self.step()?;
            self.program.push(Op::Int(number));
            return Ok(Read { kind: Kind::Number, at });
        }
        self.deeper()?;
        let read = self.signed()?;
        self.depth -= 1;
        self.must_be(read, Kind::Number)?;
        if sign == "-" {
            self.program.push(Op::Negate);
        }
        Ok(Read { kind: Kind::Number, at })
    }

    fn single(&mut self) -> Parsed {
        let at = self.at;
        let (op, kind) = match &self.token {
            Token::Sign("(") => {
                self.step()?;
                self.deeper()?;
                let read = self.or()?;
                self.depth -= 1;
                self.the_sign(")")?;
                return Ok(Read { at, ..read });
            }
            Token::Name(name) => (Op::Name(self.name(&name.clone())?), Kind::Any),
            Token::Text(text) => (Op::Text(text.as_str().into()), Kind::Text),
            Token::Int(number) => match i64::try_from(*number) {
                Ok(number) => (Op::Int(number), Kind::Number),
                Err(_) => return Err(self.lexer.error(at, "this is no whole number of 64 bits")),
            },
            Token::Float(number) => (Op::Float(*number), Kind::Number),
            Token::Keyword("TRUE") => (Op::Bool(true), Kind::Condition),
            Token::Keyword("FALSE") => (Op::Bool(false), Kind::Condition),
            Token::Keyword("NULL") => (Op::Null, Kind::Any),
            Token::Keyword(word @ ("XPATH" | "XQUERY")) => {
                return Err(self.lexer.error(at, format!("{word} is not there: selectors do not look into bodies")))
            }
            _ => return Err(self.unexpected("a value")),
        };
        self.step()?;
        self.program.push(op);
        Ok(Read { kind, at })
    }

    fn name(&mut self, name: &str) -> Result<u16, SelectorError> {
        let found = self.names.iter().position(|known| *known.text == *name);
        if found.is_none() && self.names.len() == NAMES_MAX {
            return Err(self.lexer.error(self.at, format!("more than {NAMES_MAX} names")));
        }
        let at = found.unwrap_or_else(|| {
            let own = OWN.iter().find(|(known, _)| *known == name).map(|(_, own)| *own);
            self.names.push(Name { text: name.into(), own });
            self.names.len() - 1
        });
        Ok(at as u16)
    }
}
