//! Maps in the bodies of messages, as ActiveMQ's clients write them (`transformation: jms-map-json`, `jms-map-xml`): from one form into the
//! other, for who subscribes with the other. They stay what they came as; nobody but such a subscriber has to understand them.
//!
//! ```text
//! <map><entry><string>name</string><string>value</string></entry><entry><string>size</string><int>4</int></entry></map>
//! {"map":{"entry":[{"string":["name","value"]},{"string":"size","int":4}]}}
//! ```
//! That is how XStream has it: a type is the name of an element, and of two texts JSON makes a list.

use serde_json::{Map, Value};

/// Larger ones are not converted.
const BYTES_MAX: usize = 1 << 20;
/// Of a map's values.
const TYPES: [&str; 10] = ["string", "int", "long", "short", "byte", "double", "float", "boolean", "char", "null"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Json,
    Xml,
}

impl Form {
    /// What a message says that it is.
    fn of_message(named: &[u8]) -> Option<Form> {
        [Form::Json, Form::Xml].into_iter().find(|form| form.name().as_bytes() == named)
    }

    /// What a subscriber wants.
    pub fn wanted(named: &[u8]) -> Option<Form> {
        match named {
            b"jms-json" => Some(Form::Json),
            b"jms-xml" => Some(Form::Xml),
            named => Form::of_message(named),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Form::Json => "jms-map-json",
            Form::Xml => "jms-map-xml",
        }
    }
}

/// Is the body what its sender says? Why not, for the header `transformation-error`.
pub(crate) fn check(named: &[u8], body: &[u8]) -> Result<(), String> {
    match Form::of_message(named) {
        Some(form) => read(form, body).map(drop),
        None if named == b"jms-byte" => Ok(()),
        None if named.starts_with(b"jms-object") => Err("objects need classes of Java, and there are none here".to_owned()),
        None => Err(format!("Unknown transformation: {}", String::from_utf8_lossy(named))),
    }
}

/// The body in the form that is wanted. `None`: it is so already, or cannot be.
pub(crate) fn convert(named: &[u8], body: &[u8], wanted: Form) -> Option<Vec<u8>> {
    let form = Form::of_message(named).filter(|form| *form != wanted)?;
    let entries = read(form, body).ok()?;
    Some(match wanted {
        Form::Json => to_json(&entries).to_string().into_bytes(),
        Form::Xml => to_xml(&entries).into_bytes(),
    })
}

/// A name, and a value by its type.
#[derive(PartialEq, Eq, Debug)]
struct Entry {
    name: String,
    kind: &'static str,
    value: String,
}

fn read(form: Form, body: &[u8]) -> Result<Vec<Entry>, String> {
    if body.len() > BYTES_MAX {
        return Err(format!("a map of {} bytes; up to {BYTES_MAX} are read", body.len()));
    }
    let text = std::str::from_utf8(body).map_err(|_| "not UTF-8".to_owned())?;
    match form {
        Form::Json => from_json(text),
        Form::Xml => Xml { rest: text, whole: text.len() }.map(),
    }
}

fn kind_of(name: &str) -> Result<&'static str, String> {
    TYPES.iter().find(|known| **known == name).copied().ok_or_else(|| format!("'{name}' is no type of a map's value"))
}

fn from_json(text: &str) -> Result<Vec<Entry>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let map = value.get("map").ok_or("no map")?;
    match map.get("entry") {
        None if matches!(map, Value::String(text) if text.is_empty()) || map.as_object().is_some_and(Map::is_empty) => Ok(Vec::new()),
        None => Err("a map of no entries".to_owned()),
        Some(Value::Array(entries)) => entries.iter().map(json_entry).collect(),
        Some(one) => json_entry(one).map(|entry| vec![entry]),
    }
}

fn json_entry(entry: &Value) -> Result<Entry, String> {
    let wrong = || format!("no entry: {}", entry.to_string().chars().take(40).collect::<String>());
    let fields = entry.as_object().ok_or_else(wrong)?;
    if let (1, Some(Value::Array(two))) = (fields.len(), fields.get("string")) {
        let [name, value] = &two[..] else { return Err(wrong()) };
        return Ok(Entry { name: plain(name).ok_or_else(wrong)?, kind: "string", value: plain(value).ok_or_else(wrong)? });
    }
    let name = fields.get("string").and_then(plain).ok_or_else(wrong)?;
    let (kind, value) = fields.iter().find(|(kind, _)| *kind != "string").filter(|_| fields.len() == 2).ok_or_else(wrong)?;
    Ok(Entry { name, kind: kind_of(kind)?, value: plain(value).ok_or_else(wrong)? })
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn to_json(entries: &[Entry]) -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    let entry = |entry: &Entry| {
        let value = match entry.kind {
            "string" => return serde_json::json!({ "string": [entry.name, entry.value] }),
            "boolean" if matches!(entry.value.as_str(), "true" | "false") => Value::Bool(entry.value == "true"),
            "char" | "null" | "boolean" => text(&entry.value),
            _ => serde_json::from_str(&entry.value).ok().filter(Value::is_number).unwrap_or_else(|| text(&entry.value)),
        };
        Value::Object(Map::from_iter([("string".to_owned(), text(&entry.name)), (entry.kind.to_owned(), value)]))
    };
    let inner = match entries {
        [] => text(""),
        [one] => serde_json::json!({ "entry": entry(one) }),
        all => serde_json::json!({ "entry": all.iter().map(entry).collect::<Vec<_>>() }),
    };
    serde_json::json!({ "map": inner })
}

fn to_xml(entries: &[Entry]) -> String {
    let mut out = "<map>\n".to_owned();
    for Entry { name, kind, value } in entries {
        out += "  <entry>\n    <string>";
        put_text(name, &mut out);
        out += "</string>\n    ";
        if *kind == "null" {
            out += "<null/>";
        } else {
            out += &format!("<{kind}>");
            put_text(value, &mut out);
            out += &format!("</{kind}>");
        }
        out += "\n  </entry>\n";
    }
    out += "</map>";
    out
}

fn put_text(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
    }
}

/// As much of XML as a map is written in: elements without attributes, texts, references to characters.
struct Xml<'a> {
    rest: &'a str,
    whole: usize,
}

impl<'a> Xml<'a> {
    fn map(mut self) -> Result<Vec<Entry>, String> {
        self.space();
        if let Some(behind) = self.rest.strip_prefix("<?xml").and_then(|rest| rest.split_once("?>")) {
            self.rest = behind.1;
        }
        let mut entries = Vec::new();
        if self.opens("map")? {
            while self.sees("<entry") {
                self.opens("entry")?;
                let (kind, name) = self.value()?;
                let (of, value) = self.value()?;
                self.closes("entry")?;
                if kind != "string" {
                    return Err(self.wrong("a name"));
                }
                entries.push(Entry { name, kind: of, value });
            }
            self.closes("map")?;
        }
        self.space();
        if self.rest.is_empty() {
            Ok(entries)
        } else {
            Err(self.wrong("the end"))
        }
    }

    fn wrong(&self, expected: &str) -> String {
        format!("at byte {}: expected {expected}", self.whole - self.rest.len())
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn sees(&mut self, text: &str) -> bool {
        self.space();
        self.rest.starts_with(text)
    }

    fn takes(&mut self, text: &str) -> bool {
        let found = self.rest.strip_prefix(text);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// `false`: it is empty, and closed with that.
    fn opens(&mut self, name: &str) -> Result<bool, String> {
        self.space();
        let element = self.element()?;
        match element.strip_suffix('/') {
            Some(empty) if empty.trim_end() == name => Ok(false),
            None if element == name => Ok(true),
            _ => Err(self.wrong(&format!("<{name}>"))),
        }
    }

    fn closes(&mut self, name: &str) -> Result<(), String> {
        self.space();
        if self.takes("</") && self.takes(name) && self.takes(">") {
            return Ok(());
        }
        Err(self.wrong(&format!("</{name}>")))
    }

    /// What stands between `<` and `>`.
    fn element(&mut self) -> Result<&'a str, String> {
        let inner = self.rest.strip_prefix('<').and_then(|rest| rest.split_once('>'));
        let (element, rest) = inner.ok_or_else(|| self.wrong("an element"))?;
        self.rest = rest;
        Ok(element)
    }

    fn value(&mut self) -> Result<(&'static str, String), String> {
        self.space();
        let element = self.element()?;
        if let Some(empty) = element.strip_suffix('/') {
            return Ok((kind_of(empty.trim_end())?, String::new()));
        }
        let kind = kind_of(element)?;
        let (text, _) = self.rest.split_once('<').ok_or_else(|| self.wrong("</"))?;
        self.rest = &self.rest[text.len()..];
        let text = unescape(text).ok_or_else(|| self.wrong("a text"))?;
        if !(self.takes("</") && self.takes(element) && self.takes(">")) {
            return Err(self.wrong(&format!("</{element}>")));
        }
        Ok((kind, text))
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('&');
    out.push_str(parts.next()?);
    for part in parts {
        let (name, rest) = part.split_once(';')?;
        out.push(match name {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            number => {
                let number = number.strip_prefix('#')?;
                let code = number.strip_prefix('x').map_or_else(|| number.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
                char::from_u32(code?)?
            }
        });
        out.push_str(rest);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<map>\n  <entry>\n    <string>name</string>\n    <string>D&amp;j &lt;n&gt;</string>\n  </entry>\n  <entry>\n    <string>size</string>\n    <int>4</int>\n  </entry>\n  <entry>\n    <string>is</string>\n    <boolean>true</boolean>\n  </entry>\n  <entry>\n    <string>none</string>\n    <null/>\n  </entry>\n</map>";
    const JSON: &str = r#"{"map":{"entry":[{"string":["name","D&j <n>"]},{"int":4,"string":"size"},{"boolean":true,"string":"is"},{"null":"","string":"none"}]}}"#;

    fn converted(from: Form, body: &str, wanted: Form) -> Option<String> {
        convert(from.name().as_bytes(), body.as_bytes(), wanted).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn each_form_becomes_the_other() {
        assert_eq!(converted(Form::Xml, XML, Form::Json).as_deref(), Some(JSON));
        assert_eq!(converted(Form::Json, JSON, Form::Xml).as_deref(), Some(XML));
        assert_eq!(converted(Form::Json, JSON, Form::Json), None);
        // As ActiveMQ's own tests have it.
        let one = r#"{"map":{"entry":{"string":["name","Dejan"]}}}"#;
        let flat = "<?xml version=\"1.0\"?><map><entry><string>name</string><string>Dejan</string></entry></map>";
        assert_eq!(converted(Form::Xml, flat, Form::Json).as_deref(), Some(one));
        for (empty, json) in [("<map/>", r#"{"map":""}"#), ("<map> </map>", r#"{"map":{}}"#)] {
            assert_eq!(converted(Form::Xml, empty, Form::Json).as_deref(), Some(r#"{"map":""}"#));
            assert_eq!(converted(Form::Json, json, Form::Xml).as_deref(), Some("<map>\n</map>"));
        }
    }

    #[test]
    fn what_is_no_map_is_said_to_be_none() {
        let cut = |text: &str| (0..text.len()).filter(|at| text.is_char_boundary(*at)).map(|at| text[..at].to_owned()).collect::<Vec<_>>();
        for (form, text) in [(Form::Xml, XML), (Form::Json, JSON)] {
            assert_eq!(check(form.name().as_bytes(), text.as_bytes()), Ok(()));
            for torn in cut(text) {
                assert!(check(form.name().as_bytes(), torn.as_bytes()).is_err(), "{torn}");
            }
        }
        let rows = [
            (Form::Xml, "<map><entry><string>a</string><url>b</url></entry></map>", "'url' is no type of a map's value"),
            (Form::Xml, "<map><entry><int>1</int><int>1</int></entry></map>", "at byte 44: expected a name"),
            (Form::Xml, "<map></map>x", "at byte 11: expected the end"),
            (Form::Xml, "<map><entry><string>&bad;</string>", "at byte 25: expected a text"),
            (Form::Json, r#"{"map":{"entry":[{"int":4}]}}"#, r#"no entry: {"int":4}"#),
            (Form::Json, "[]", "no map"),
        ];
        for (form, text, why) in rows {
            assert_eq!(check(form.name().as_bytes(), text.as_bytes()).unwrap_err(), why, "{text}");
        }
        assert!(check(b"jms-object-json", b"{}").unwrap_err().starts_with("objects need"));
        assert!(check(b"jms-map-json", &vec![b' '; BYTES_MAX + 1]).unwrap_err().contains("up to 1048576"));
        assert_eq!(check(b"other", b"").unwrap_err(), "Unknown transformation: other");
    }
}
