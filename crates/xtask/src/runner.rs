//! Runs suites and adds up what they did.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::context::Context;
use crate::counts::Counts;
use crate::process;
use crate::registry::{Commands, Suite, SUITES};
use crate::Options;

/// One suite's line in the table.
pub struct Row {
    pub name: String,
    pub counts: Counts,
    pub took: Duration,
}

pub fn test(context: &Context, options: &Options) -> Result<bool> {
    let suites: Vec<&Suite> = SUITES.iter().filter(|suite| suite.test.is_some()).collect();
    if options.list {
        list(&suites);
        return Ok(true);
    }
    options.check_names(&suites.iter().map(|suite| suite.name).collect::<Vec<_>>())?;
    let mut runner = Runner::new(context);
    for suite in suites.into_iter().filter(|suite| options.wants(suite.name)) {
        if let Some(commands) = suite.test {
            runner.run(suite, commands, None);
        }
    }
    Ok(runner.finish())
}

pub fn list(suites: &[&Suite]) {
    for suite in suites {
        println!("{:<12} {} (at most {} min)", suite.name, suite.about, suite.limit.as_secs() / 60);
    }
}

pub struct Runner<'a> {
    context: &'a Context,
    binary: Option<Result<PathBuf, String>>,
    rows: Vec<Row>,
}

impl<'a> Runner<'a> {
    pub fn new(context: &'a Context) -> Runner<'a> {
        Runner { context, binary: None, rows: Vec::new() }
    }

    /// Runs one suite, for `soak` on top of its limit if that is given. What goes wrong is a failure in its row, so that the next one runs.
    pub fn run(&mut self, suite: &Suite, commands: Commands, soak: Option<Duration>) {
        let start = Instant::now();
        let counts = match self.attempt(suite, commands, soak) {
            Ok(counts) => counts,
            Err(error) => {
                println!("{}: {error:#}", suite.name);
                let mut counts = Counts::default();
                counts.fail(suite.name);
                counts
            }
        };
        let row = Row { name: suite.name.to_string(), counts, took: start.elapsed() };
        println!("{}", line(&row));
        self.rows.push(row);
    }

    fn attempt(&mut self, suite: &Suite, commands: Commands, soak: Option<Duration>) -> Result<Counts> {
        let mut counts = Counts::default();
        for need in suite.needs {
            if let Err(why) = need.ensure(self.context) {
                note_missing(self.context, &mut counts, suite.name, &why);
                return Ok(counts);
            }
        }
        let binary = if suite.binary { Some(self.binary()?) } else { None };
        let log = fresh_log(self.context, suite.name)?;
        let scratch = self.context.dir("tmp")?.join(suite.name);
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch)?;
        let deadline = Instant::now() + suite.limit + soak.unwrap_or_default();
        println!("{}: {} (log: {})", suite.name, suite.about, log.display());
        for mut command in commands(self.context)? {
            command.env("CARRICK_TMP", &scratch);
            if let Some(binary) = &binary {
                command.env("CARRICK_BIN", binary);
            }
            if let Some(soak) = soak {
                command.env("CARRICK_SOAK_SECONDS", soak.as_secs().to_string());
            }
            let outcome = process::run(command, &log, deadline.saturating_duration_since(Instant::now()))?;
            if !outcome.success {
                counts = Counts::read(&log);
                if counts.failed == 0 {
                    counts.fail(format!("{}{}", suite.name, outcome.why()));
                }
                println!("{} failed{}; the end of its log:\n{}", suite.name, outcome.why(), process::tail(&log, 60));
                return Ok(counts);
            }
        }
        let counts = Counts::read(&log);
        if counts.passed + counts.failed + counts.skipped == 0 {
            anyhow::bail!("ended well but ran no test (log: {})", log.display());
        }
        let _ = fs::remove_dir_all(&scratch);
        Ok(counts)
    }

    fn binary(&mut self) -> Result<PathBuf> {
        let context = self.context;
        let built = self.binary.get_or_insert_with(|| context.release_binary().map_err(|error| format!("{error:#}")));
        built.clone().map_err(anyhow::Error::msg)
    }

    /// Prints the table and the closing line; true when nothing failed.
    pub fn finish(self) -> bool {
        let mut total = Counts::default();
        println!("\n{:<14} {:>7} {:>7} {:>8} {:>8}", "suite", "passed", "failed", "skipped", "minutes");
        let mut took = Duration::ZERO;
        for row in self.rows {
            let Counts { passed, failed, skipped, .. } = row.counts;
            println!("{:<14} {passed:>7} {failed:>7} {skipped:>8} {:>8.1}", row.name, row.took.as_secs_f64() / 60.0);
            took += row.took;
            total.add(row.counts);
        }
        println!("{:<14} {:>7} {:>7} {:>8} {:>8.1}", "total", total.passed, total.failed, total.skipped, took.as_secs_f64() / 60.0);
        for skip in &total.skips {
            println!("skipped: {skip}");
        }
        for failure in &total.failures {
            println!("failed: {failure}");
        }
        println!("\n{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
        total.failed == 0 && total.passed > 0
    }
}

/// A tool that cannot be had: a skip by name on a user's machine, a failure on CI.
pub fn note_missing(context: &Context, counts: &mut Counts, name: &str, why: &str) {
    println!("{name}: {why}");
    if context.ci {
        counts.fail(format!("{name}: {why}"));
    } else {
        counts.skip(format!("{name}: {why}"));
    }
}

fn fresh_log(context: &Context, name: &str) -> Result<PathBuf> {
    let log = context.dir("logs")?.join(format!("{name}.log"));
    if Path::new(&log).exists() {
        fs::remove_file(&log)?;
    }
    Ok(log)
}

fn line(row: &Row) -> String {
    let Counts { passed, failed, skipped, .. } = row.counts;
    format!("{}: {passed} passed, {failed} failed, {skipped} skipped in {:.1} min", row.name, row.took.as_secs_f64() / 60.0)
}
