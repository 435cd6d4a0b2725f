//! A report is a list of named values, printed as a table for people or as one JSON line for programs.

use std::fmt::Write;

use hdrhistogram::Histogram;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Count(u64),
    Real(f64),
    Text(String),
}

pub(crate) struct Report {
    rows: Vec<(String, Value)>,
    /// Why the run does not hold; the exit code follows it.
    pub faults: Vec<String>,
}

impl Report {
    pub fn new(mode: &str, name: Option<&str>) -> Report {
        let mut report = Report { rows: Vec::new(), faults: Vec::new() };
        report.text("mode", mode);
        if let Some(name) = name {
            report.text("name", name);
        }
        report
    }

    pub fn count(&mut self, key: &str, value: u64) {
        self.rows.push((key.into(), Value::Count(value)));
    }

    pub fn real(&mut self, key: &str, value: f64) {
        self.rows.push((key.into(), Value::Real(value)));
    }

    pub fn text(&mut self, key: &str, value: &str) {
        self.rows.push((key.into(), Value::Text(value.into())));
    }

    /// Quantiles in microseconds, under `prefix_p50_us` and so on.
    pub fn quantiles(&mut self, prefix: &str, histogram: &Histogram<u64>) {
        for (name, q) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
            let us = if histogram.is_empty() { f64::NAN } else { histogram.value_at_quantile(q) as f64 / 1e3 };
            self.real(&format!("{prefix}_{name}_us"), us);
        }
    }

    pub fn fault(&mut self, why: impl Into<String>) {
        self.faults.push(why.into());
    }

    pub fn exit_code(&self) -> i32 {
        i32::from(!self.faults.is_empty())
    }

    pub fn print(&self, json: bool) {
        println!("{}", if json { self.json() } else { self.table() });
    }

    fn json(&self) -> String {
        let mut line = String::from("{");
        let faults = (!self.faults.is_empty()).then(|| ("error".to_string(), Value::Text(self.faults.join("; "))));
        for (at, (key, value)) in self.rows.iter().chain(&faults).enumerate() {
            let value = match value {
                Value::Count(n) => n.to_string(),
                Value::Real(x) if x.is_finite() => format!("{x:.3}"),
                Value::Real(_) => "null".into(),
                Value::Text(s) => serde_json::Value::from(s.as_str()).to_string(),
            };
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(line, "{comma}\"{key}\":{value}");
        }
        line.push('}');
        line
    }

    fn table(&self) -> String {
        let width = self.rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (key, value) in &self.rows {
            let value = match value {
                Value::Count(n) => grouped(*n),
                Value::Real(x) if !x.is_finite() => "-".into(),
                Value::Real(x) if x.abs() >= 1000.0 => grouped(x.round() as u64),
                Value::Real(x) => format!("{x:.3}"),
                Value::Text(s) => s.clone(),
            };
            let _ = writeln!(text, "{key:<width$}  {value:>14}");
        }
        for fault in &self.faults {
            let _ = writeln!(text, "FAULT: {fault}");
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<String> = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_line_in_order_and_parses() {
        let mut report = Report::new("throughput", Some("a \"quoted\" name"));
        report.count("lost", 1_234_567);
        report.real("rate", 0.5);
        report.real("nothing", f64::NAN);
        report.fault("1 lost");
        let line = report.json();
        assert!(!line.contains('\n') && line.starts_with("{\"mode\":\"throughput\",\"name\":"));
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["name"], "a \"quoted\" name");
        assert_eq!(parsed["lost"], 1_234_567);
        assert!(parsed["nothing"].is_null());
        assert_eq!(parsed["error"], "1 lost");
        assert_eq!(report.exit_code(), 1);
    }

    #[test]
    fn the_table_groups_thousands_and_names_faults() {
        let mut report = Report::new("limits", None);
        report.count("n", 1_234_567);
        report.real("x", 12_345.6);
        report.fault("gone");
        let table = report.table();
        assert!(table.contains("1,234,567") && table.contains("12,346") && table.ends_with("FAULT: gone"), "{table}");
    }
}
