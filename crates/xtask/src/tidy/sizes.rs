//! Long files and long functions. Tests are held to the file size only.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

pub fn warnings(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        let text = std::fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {}", file.display()))?;
        let lines = text.lines().count();
        if lines > FILE_LINES {
            warnings.push(format!("{} has {lines} lines (over {FILE_LINES}: split it)", file.display()));
        }
        for function in functions(&text).into_iter().filter(|function| function.lines > FUNCTION_LINES) {
            let Function { name, line, lines } = function;
            warnings.push(format!("{}:{line}: fn {name} has {lines} lines (over {FUNCTION_LINES})", file.display()));
        }
    }
    Ok(warnings)
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// Every function with a body, from the line of its `fn` to its closing brace.
fn functions(text: &str) -> Vec<Function> {
    let code = blank(text);
    let words = code.match_indices("fn ").filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
    let mut found = Vec::new();
    for (at, _) in words {
        let rest = &code[at + 3..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            continue;
        }
        let Some(length) = body_end(rest) else { continue };
        let line = code[..at].matches('\n').count() + 1;
        let lines = rest[..length].matches('\n').count() + 1;
        found.push(Function { name, line, lines });
    }
    found
}

/// The offset of the brace that closes the body; none for a declaration without one.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut others) = (0i32, 0i32);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            ';' if braces == 0 && others == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces <= 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The text with comments and literals blanked out, line by line the same.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let previous = out.chars().next_back().unwrap_or(' ');
        let in_word = previous.is_alphanumeric() || previous == '_';
        let length = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' if !in_word => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"..."`, `r#"..."#`, `br"..."`; 0 when this is no raw string.
fn raw_string(text: &str) -> usize {
    let rest = text.strip_prefix('b').unwrap_or(text);
    let Some(rest) = rest.strip_prefix('r') else { return 0 };
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let Some(body) = rest[hashes..].strip_prefix('"') else { return 0 };
    let close = format!("\"{}", "#".repeat(hashes));
    let before = text.len() - body.len();
    body.find(&close).map_or(text.len(), |at| before + at + close.len())
}

/// A character literal; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, c))) => text[at + c.len_utf8()..].find('\'').map_or(0, |end| at + c.len_utf8() + end + 1),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_past_braces_in_literals() {
        let text = r##"
trait T { fn declared(&self) -> [u8; 3]; }
/* fn commented() { */
fn one<'a>(x: &'a str) -> char {
    // not a brace: }
    let s = "}\" }"; let r = r#"} " }"#;
    if s == r { '}' } else { '\'' }
}
fn two() {}
"##;
        let found: Vec<_> = functions(text).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(found, [("one".to_string(), 4, 5), ("two".to_string(), 9, 1)]);
    }
}
