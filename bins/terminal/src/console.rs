//! What a command writes: tables and sentences for people, or JSON lines for programs, to standard
//! output; warnings, errors and progress to standard error.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};

use backstay::SystemClock;
use backstay::core::{Finding, Limits, Location, OpContext, Severity, Sink};
use backstay::engine::{Fallbacks, Notices, Repository};
use backstay::throttle::{Limits as Rates, Rate};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::options::Common;
use crate::progress::Progress;
use crate::text;

/// Version of the JSON lines.
pub const JSON_VERSION: u32 = 1;

/// How many findings are shown to people unless they ask for more.
const MOST_SHOWN: usize = 20;

/// The terminal of one command.
#[derive(Debug)]
pub struct Console {
    /// The common options.
    pub common: Common,
    /// The surroundings of operations: cancelled by signals.
    pub cx: OpContext,
    program: &'static str,
    out: BufWriter<io::Stdout>,
    reader: Reader,
    progress: Option<Arc<Progress>>,
    /// What is noticed beside what a command does, by each repository that it opened.
    noticed: Mutex<Vec<Notices>>,
    /// The tiers whose requests are counted.
    pub(crate) counted: Mutex<Vec<(Location, Arc<dyn Sink>)>>,
    /// How fast tiers are written to and read from, all of them together.
    pub(crate) rates: Rates,
    /// Copies of the repository from which is read what it lacks.
    pub(crate) also_from: Vec<String>,
    /// What was read from them, by the place that did not give it.
    pub(crate) fallbacks: Mutex<Vec<(String, Fallbacks)>>,
    /// Subjects of findings that were said.
    said: BTreeSet<String>,
}

/// Whoever reads the output.
#[derive(Debug, Default)]
struct Reader {
    /// It went away.
    is_gone: bool,
    /// There is nothing to do without it.
    is_all: bool,
}

/// What lets so many processors (0: as there are) work at once, up to half a gigabyte.
fn memory_for(processors: usize) -> usize {
    let there = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let processors = Some(processors).filter(|&n| n > 0).unwrap_or_else(there);
    processors.saturating_mul(48 << 20).min(512 << 20)
}

impl Console {
    /// A console for a program with its common options.
    #[must_use]
    pub fn new(program: &'static str, common: Common) -> Self {
        let mut cx = OpContext::new(Arc::new(SystemClock));
        let mut limits = Limits::default();
        if let Some(threads) = common.threads {
            limits.cpu_threads = threads;
        }
        limits.memory_bytes = match common.memory_limit {
            Some(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
            None => memory_for(limits.cpu_threads).max(limits.memory_bytes),
        };
        cx.limits = limits;
        let shows = !common.quiet && !common.json && io::stderr().is_terminal();
        let progress = shows.then(|| Arc::new(Progress::new()));
        if let Some(progress) = &progress {
            cx.observer = progress.clone();
        }
        let rate = |limit: Option<NonZero<u64>>| limit.map(|limit| Arc::new(Rate::new(limit)));
        let rates = Rates {
            up: rate(common.limit_up),
            down: rate(common.limit_down),
        };
        Self {
            common,
            cx,
            program,
            out: BufWriter::with_capacity(64 << 10, io::stdout()),
            reader: Reader::default(),
            progress,
            noticed: Mutex::default(),
            counted: Mutex::default(),
            rates,
            also_from: Vec::new(),
            fallbacks: Mutex::default(),
            said: BTreeSet::new(),
        }
    }

    /// Ends the command when whoever reads its output goes away, as if all had been read: for commands
    /// that do nothing but show.
    pub const fn end_with_reader(&mut self) {
        self.reader.is_all = true;
    }

    /// What is to be said of output that could not be written. A command that does something goes on
    /// without a reader, and its exit code tells how it ended.
    fn unless_gone(&mut self, written: io::Result<()>) -> Outcome<()> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && !self.reader.is_all => {
                self.reader.is_gone = true;
                Ok(())
            }
            written => written.map_err(Failure::from),
        }
    }

    /// From now on what this repository notices is said when the command ends, as findings, unless it says so itself.
    pub(crate) fn listen(&self, repo: &Repository) {
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        noticed.push(repo.notices().clone());
    }

    /// Says what was noticed and was not said yet; whether there was anything.
    fn say_noticed(&mut self) -> Outcome<bool> {
        let noticed = std::mem::take(
            self.noticed
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let mut findings: Vec<_> = noticed.iter().flat_map(Notices::findings).collect();
        findings.retain(|finding| !self.said.contains(&finding.subject));
        self.findings(&findings, 0)
    }

    /// Whether JSON lines are wanted.
    #[must_use]
    pub const fn json(&self) -> bool {
        self.common.json
    }

    /// Whether sentences that are no results are wanted.
    #[must_use]
    pub const fn talks(&self) -> bool {
        !self.common.quiet && !self.common.json
    }

    /// Writes a line for people; nothing with `--json`.
    ///
    /// # Errors
    /// Output that cannot be written.
    pub fn line(&mut self, text: impl AsRef<str>) -> Outcome<()> {
        if self.common.json {
            return Ok(());
        }
        self.raw(text.as_ref().as_bytes())?;
        self.raw(b"\n")
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// Output that cannot be written.
    pub fn raw(&mut self, bytes: &[u8]) -> Outcome<()> {
        if self.reader.is_gone {
            return Ok(());
        }
        let written = self.out.write_all(bytes);
        self.unless_gone(written)
    }

    /// Hands over what was written so far, so that whoever waits sees it now.
    ///
    /// # Errors
    /// Output that cannot be written.
    pub fn flush(&mut self) -> Outcome<()> {
        if self.reader.is_gone {
            return Ok(());
        }
        let written = self.out.flush();
        self.unless_gone(written)
    }

    /// Writes a JSON line of a type with these members; nothing without `--json`.
    ///
    /// # Errors
    /// Output that cannot be written.
    pub fn record(&mut self, kind: &str, members: Value) -> Outcome<()> {
        if !self.common.json {
            return Ok(());
        }
        let line = json_line(&self.now(), kind, members);
        self.raw(line.as_bytes())
    }

    /// A note to people that is no result: to standard error, unless `--quiet` or `--json`.
    pub fn note(&self, text: &str) {
        if self.talks() {
            self.say(text);
        }
    }

    /// A warning: always to standard error.
    pub fn warn(&self, text: &str) {
        if self.common.json {
            let line = json_line(&self.now(), "warning", json!({ "message": text }));
            self.say(line.trim_end());
        } else {
            self.say(&format!("{}: warning: {text}", self.program));
        }
    }

    fn say(&self, text: &str) {
        let write = || {
            // There is nowhere left to say that standard error is closed.
            let _ = writeln!(io::stderr().lock(), "{text}");
        };
        match &self.progress {
            Some(progress) => progress.suspend(write),
            None => write(),
        }
    }

    /// Whether people watch how it goes on.
    #[must_use]
    pub const fn shows_progress(&self) -> bool {
        self.progress.is_some()
    }

    /// Takes the progress bar away.
    pub fn end_progress(&self) {
        if let Some(progress) = &self.progress {
            progress.end();
        }
    }

    /// Writes findings, and says whether they make the run one with findings.
    ///
    /// # Errors
    /// Output that cannot be written.
    pub fn findings(&mut self, findings: &[Finding], left_out: u64) -> Outcome<bool> {
        self.end_progress();
        let subjects = findings.iter().map(|finding| finding.subject.clone());
        self.said.extend(subjects);
        let as_json = self.common.json;
        for finding in findings.iter().filter(|_| as_json) {
            let line = json_line(&self.now(), "finding", finding_members(finding));
            self.raw(line.as_bytes())?;
        }
        let serious = |finding: &&Finding| finding.severity > Severity::Note;
        if !self.common.json {
            let most = if self.common.verbose > 0 {
                usize::MAX
            } else {
                MOST_SHOWN
            };
            let shown = findings
                .iter()
                .filter(|f| self.common.verbose > 0 || serious(f));
            let total = shown.clone().count();
            for finding in shown.take(most) {
                self.say(&describe(finding));
            }
            let hidden = total.saturating_sub(most) as u64 + left_out;
            if hidden > 0 {
                self.say(&format!(
                    "… and {} more; -v shows all that are kept",
                    text::count(hidden)
                ));
            }
        }
        Ok(left_out > 0 || findings.iter().any(|finding| serious(&finding)))
    }

    /// Ends the output of a command that came out as `outcome`; gives the exit code.
    pub fn end(mut self, outcome: Outcome) -> Exit {
        self.end_progress();
        let noticed = self.say_noticed();
        let told = self.say_fallbacks().and_then(|()| self.say_traffic());
        let outcome = match (outcome, noticed.and_then(|found| told.map(|()| found))) {
            (Ok(Exit::Ok), Ok(true)) => Ok(Exit::Findings),
            (Ok(_), Err(failure)) => Err(failure),
            (outcome, _) => outcome,
        };
        // Output that cannot be written is no reason to hide how it ended.
        let outcome = match self.flush() {
            Ok(()) => outcome,
            Err(failure) => outcome.and_then(|exit| match exit {
                Exit::Ok => Err(failure),
                exit => Ok(exit),
            }),
        };
        match outcome {
            Ok(exit) => exit,
            Err(failure) => {
                if !failure.is_silent {
                    self.say(&show_failure(
                        self.program,
                        &failure,
                        self.common.json,
                        &self.now(),
                    ));
                }
                failure.exit
            }
        }
    }

    pub(crate) fn now(&self) -> String {
        self.cx.clock.now().to_string()
    }
}

fn describe(finding: &Finding) -> String {
    let word = match finding.severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    // Subjects are spelled by whoever found them; a detail may quote what a system said.
    let text = finding.to_string();
    let text: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    format!("{word}: {text}")
}

/// The members of a finding's JSON line.
#[must_use]
pub fn finding_members(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity,
        "kind": finding.kind,
        "subject": finding.subject,
        "detail": finding.detail,
    })
}

/// How a failure is shown.
#[must_use]
pub fn show_failure(program: &str, failure: &Failure, as_json: bool, now: &str) -> String {
    if as_json {
        let members = json!({
            "code": failure.exit.code(),
            "name": failure.exit.name(),
            "message": failure.what,
            "hint": failure.hint,
        });
        return json_line(now, "error", members).trim_end().to_owned();
    }
    let what: String = failure
        .what
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if failure.hint.is_empty() {
        format!("{program}: {what}")
    } else {
        format!("{program}: {what}\n  → {}", failure.hint)
    }
}

/// One JSON line: `v`, `t` and `type` first, then the members.
#[must_use]
pub fn json_line(now: &str, kind: &str, members: Value) -> String {
    let mut line = format!(
        "{{\"v\":{JSON_VERSION},\"t\":{},\"type\":{}",
        json!(now),
        json!(kind)
    );
    if let Value::Object(members) = members {
        for (name, value) in members {
            line.push_str(&format!(",{}:{value}", json!(name)));
        }
    }
    line.push_str("}\n");
    line
}
