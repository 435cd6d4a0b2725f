//! What neither the compiler nor a linter checks: the direction between crates, sizes, and links in the docs.

mod arrows;
mod links;
mod sizes;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{bail, Context as _, Result};

use crate::context::Context;

/// Arrows and links must hold; sizes are only listed, as a push to split.
pub fn tidy(context: &Context) -> Result<bool> {
    let files = tracked(context)?;
    for warning in sizes::warnings(&context.root, &files)? {
        println!("tidy: warning: {warning}");
    }
    let mut problems = arrows::problems(context)?;
    problems.extend(links::problems(&context.root, &files)?);
    for problem in &problems {
        println!("tidy: {problem}");
    }
    Ok(problems.is_empty())
}

/// The files under version control and the new ones beside them, relative to the root. What is ignored is not looked at.
fn tracked(context: &Context) -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&context.root);
    let output = git.output().context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut files: Vec<PathBuf> = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    files.retain(|file| context.root.join(file).is_file());
    files.sort();
    Ok(files)
}
