//! Links in README and docs lead to files of the repository.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

pub fn problems(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {}", file.display()))?;
        for (line, target) in links(&text) {
            let Some(path) = local_path(&target) else { continue };
            let resolved = match path.strip_prefix('/') {
                Some(from_root) => normalise(Path::new(from_root)),
                None => normalise(&file.parent().unwrap_or(Path::new("")).join(path)),
            };
            let there = resolved.as_ref().is_some_and(|to| to.as_os_str().is_empty() || files.iter().any(|file| file.starts_with(to)));
            if !there {
                problems.push(format!("{}:{line}: the link to {target} leads to no file of the repository", file.display()));
            }
        }
    }
    Ok(problems)
}

/// The targets of `[text](target)` and `[label]: target` outside code, with their line numbers.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence = None;
    for (index, line) in text.lines().enumerate() {
        let start = line.trim_start();
        if let Some(mark) = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark)) {
            fence = match fence {
                None => Some(mark),
                Some(open) if open == mark => None,
                open => open,
            };
            continue;
        }
        if fence.is_some() {
            continue;
        }
        if let Some((_, target)) = start.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            found.push((index + 1, target.split_whitespace().next().unwrap_or_default().to_string()));
        }
        // Odd pieces between backticks are code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let mut rest = prose.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            found.push((index + 1, rest[..end].split_whitespace().next().unwrap_or_default().to_string()));
            rest = &rest[end..];
        }
    }
    found
}

/// The file part of a link that stays in the repository.
fn local_path(target: &str) -> Option<&str> {
    let target = target.trim_start_matches('<').trim_end_matches('>');
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let path = target.split(['#', '?']).next().unwrap_or_default();
    (!path.is_empty()).then_some(path)
}

/// `a/./b/../c` is `a/c`; none when it leaves the repository.
fn normalise(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code() {
        let text = "see [a](b.md#x) and `[no](c.md)`\n```\n[no](d.md)\n```\n[ref]: e.md\n[w](https://x/y) [two](f/ \"title\")\n";
        let expect = [(1, "b.md#x"), (5, "e.md"), (6, "https://x/y"), (6, "f/")];
        assert_eq!(links(text), expect.map(|(line, target)| (line, target.to_string())));
        assert_eq!(local_path("b.md#x"), Some("b.md"));
        assert_eq!(local_path("#x"), None);
        assert_eq!(local_path("https://x/y"), None);
    }

    #[test]
    fn a_link_may_not_leave_the_repository() {
        assert_eq!(normalise(Path::new("docs/../README.md")), Some(PathBuf::from("README.md")));
        assert_eq!(normalise(Path::new("docs/../../shared/x.md")), None);
    }
}
