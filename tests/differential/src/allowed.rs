//! `allowed.txt`: a line for each wanted difference, `part of the title | what RabbitMQ says | what Carrick says | why`.

use std::path::Path;

use anyhow::{bail, Context, Result};

pub struct Allowed {
    rows: Vec<Row>,
}

struct Row {
    line: usize,
    title: String,
    theirs: String,
    ours: String,
    /// It depends on who wins a race.
    sometimes: bool,
    used: bool,
}

impl Allowed {
    pub fn read(path: &Path) -> Result<Allowed> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut rows = Vec::new();
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let parts: Vec<&str> = line.split(" | ").collect();
            let [title, theirs, ours, why] = parts[..] else { bail!("{}:{}: not four parts between ' | '", path.display(), n + 1) };
            if why.is_empty() {
                bail!("{}:{}: no reason", path.display(), n + 1);
            }
            let sometimes = why.starts_with("sometimes: ");
            rows.push(Row { line: n + 1, title: title.into(), theirs: theirs.into(), ours: ours.into(), sometimes, used: false });
        }
        Ok(Allowed { rows })
    }

    /// Is this conversation not to be compared at all (`*` for what is said)?
    pub fn skips(&mut self, title: &str) -> bool {
        let row = self.rows.iter_mut().find(|row| row.theirs == "*" && title.contains(&row.title));
        row.map(|row| row.used = true).is_some()
    }

    /// Are these the same but for rows that are listed? Every row that fits is applied to what RabbitMQ says.
    pub fn allows(&mut self, title: &str, theirs: &str, ours: &str) -> bool {
        let mut ours = ours.to_owned();
        for row in self.rows.iter_mut().filter(|row| row.theirs == "-" && title.contains(&row.title)) {
            let kept: Vec<&str> = ours.split(' ').map(|word| if word.starts_with(&row.ours) { end_of(word) } else { word }).collect();
            // A word that is left out takes its blank along.
            let without = kept.join(" ").replace(" \u{0}", "");
            row.used |= without != ours;
            ours = without;
        }
        let mut theirs = theirs.to_owned();
        for row in self.rows.iter_mut().filter(|row| row.ours == "+" && title.contains(&row.title)) {
            let kept: Vec<&str> = theirs.split(' ').filter(|word| !word.starts_with(&row.theirs)).collect();
            let without = kept.join(" ");
            row.used |= without != theirs;
            theirs = without;
        }
        let theirs = &*theirs;
        let fits = |row: &Row, line: &str| {
            !matches!(&*row.theirs, "-" | "*") && row.ours != "+" && title.contains(&row.title) && line.contains(&row.theirs)
        };
        // One of them, or all that fit, one after the other.
        if theirs == ours {
            return true;
        }
        if let Some(row) = self.rows.iter_mut().find(|row| fits(row, theirs) && theirs.replace(&row.theirs, &row.ours) == ours) {
            row.used = true;
            return true;
        }
        let (mut made, mut fitting) = (theirs.to_owned(), Vec::new());
        for (n, row) in self.rows.iter().enumerate() {
            if fits(row, &made) {
                made = made.replace(&row.theirs, &row.ours);
                fitting.push(n);
            }
        }
        let same = made == ours;
        if same {
            fitting.into_iter().for_each(|n| self.rows[n].used = true);
        }
        same
    }

    pub fn used(&self) -> usize {
        self.rows.iter().filter(|row| row.used).count()
    }

    pub fn unused(&self) -> impl Iterator<Item = usize> + '_ {
        self.rows.iter().filter(|row| !row.used && !row.sometimes).map(|row| row.line)
    }
}

/// What stands for a word that is left out: the brackets behind it stay.
fn end_of(word: &str) -> &'static str {
    if word.ends_with('}') {
        "\u{0}}"
    } else {
        "\u{0}"
    }
}
