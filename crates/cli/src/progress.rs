//! How far is it, and how long will it take? A bar on a terminal, a line now and then in a log.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressState, ProgressStyle};

static IS_QUIET: AtomicBool = AtomicBool::new(false);
static HAS_REASON: AtomicBool = AtomicBool::new(false);
static NAME: OnceLock<String> = OnceLock::new();

const LOG_EVERY: Duration = Duration::from_secs(30);

pub(crate) fn set_quiet(quiet: bool) {
    IS_QUIET.store(quiet, Ordering::Relaxed);
}

pub(crate) fn set_name(name: &str) {
    let _ = NAME.set(name.to_owned());
}

/// Was `--quiet` asked?
pub fn quiet() -> bool {
    IS_QUIET.load(Ordering::Relaxed)
}

/// Says one line on stderr as `tool: message`, unless `--quiet`.
pub fn note(message: impl Display) {
    if !quiet() {
        say(message);
    }
}

/// Says one line on stderr as `tool: message`, with `--quiet` too: why a run that did not fail does not
/// end with status 0.
pub fn reason(message: impl Display) {
    HAS_REASON.store(true, Ordering::Relaxed);
    say(message);
}

/// Says what there is to say where a tool was asked to be quiet and gave no [`reason`].
pub(crate) fn reason_if_none(message: impl Display) {
    if quiet() && !HAS_REASON.load(Ordering::Relaxed) {
        say(message);
    }
}

fn say(message: impl Display) {
    let name = NAME.get().map_or("", String::as_str);
    let _ = writeln!(io::stderr().lock(), "{name}: {message}");
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as MiB.
    Bytes,
    /// Things with a name: `steps`, `cases`.
    Items(&'static str),
}

/// Progress of one piece of work, on stderr. Counts may come from several threads.
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: Option<u64>,
    unit: Unit,
    /// What was done before the clock ran.
    before: u64,
    done: AtomicU64,
    start: Instant,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Nowhere,
    Bar(ProgressBar),
    Log { last: Mutex<Instant> },
}

impl Progress {
    /// Begins. `total` is `None` when nobody can know it, as for a pipe.
    pub fn new(label: &str, total: Option<u64>, unit: Unit) -> Progress {
        Progress::going_on(label, 0, total, unit)
    }

    /// Goes on where an earlier run stopped: what that one did says nothing of this one's speed.
    pub fn going_on(label: &str, before: u64, total: Option<u64>, unit: Unit) -> Progress {
        let shown = if quiet() {
            Shown::Nowhere
        } else if io::stderr().is_terminal() {
            Shown::Bar(bar(label, before, total, unit))
        } else {
            Shown::Log {
                last: Mutex::new(Instant::now()),
            }
        };
        Progress {
            label: label.to_owned(),
            total,
            unit,
            before,
            done: AtomicU64::new(before),
            start: Instant::now(),
            shown,
        }
    }

    /// Counts `n` more.
    pub fn inc(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        match &self.shown {
            Shown::Nowhere => {}
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Log { last } => {
                let Ok(mut last) = last.try_lock() else {
                    return;
                };
                if last.elapsed() >= LOG_EVERY {
                    *last = Instant::now();
                    note(self.line(done, self.start.elapsed()));
                }
            }
        }
    }

    /// One line of a log: how much of how much, how fast, how long yet. As long as nothing is done beside
    /// what was done before, nobody knows how fast.
    fn line(&self, done: u64, elapsed: Duration) -> String {
        let label = &self.label;
        let count = |n: u64| match self.unit {
            Unit::Bytes => HumanBytes(n).to_string(),
            Unit::Items(_) => n.to_string(),
        };
        let name = match self.unit {
            Unit::Bytes => String::new(),
            Unit::Items(name) => format!(" {name}"),
        };
        let of = match self.total {
            Some(total) => format!("{} of {}{name}", count(done), count(total)),
            None => format!("{}{name}", count(done)),
        };
        if done <= self.before {
            return format!("{label}: {of}");
        }
        let rate = (done - self.before) as f64 / elapsed.as_secs_f64().max(1e-9);
        let rate_text = match self.unit {
            Unit::Bytes => HumanBytes(rate as u64).to_string(),
            Unit::Items(_) => format!("{rate:.2}"),
        };
        let left = self.total.map_or(String::new(), |total| {
            let seconds = (total.saturating_sub(done) as f64 / rate.max(1e-9)).min(1e9);
            let left = HumanDuration(Duration::from_secs_f64(seconds));
            format!(", {left} left")
        });
        format!("{label}: {of}, {rate_text}/s{left}")
    }

    /// Counts up to `n` in all.
    pub fn set(&self, n: u64) {
        self.inc(n.saturating_sub(self.done.load(Ordering::Relaxed)));
    }

    /// Shows a word beside the bar, e.g. the loss.
    pub fn message(&self, message: impl Display) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_message(message.to_string());
        }
    }

    /// Prints a line above the bar, or into the log; nothing with `--quiet`.
    pub fn note(&self, message: impl Display) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| note(message)),
            _ => note(message),
        }
    }

    /// Ends; the bar goes away.
    pub fn finish(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(label: &str, before: u64, total: Option<u64>, unit: Unit) -> ProgressBar {
    let template = match (unit, total) {
        (Unit::Bytes, Some(_)) => {
            "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {left} {msg}"
        }
        (Unit::Bytes, None) => "{prefix} {spinner} {bytes} {bytes_per_sec} {msg}",
        (Unit::Items(_), Some(_)) => "{prefix} [{bar:30}] {pos}/{len} {per_sec} {left} {msg}",
        (Unit::Items(_), None) => "{prefix} {spinner} {pos} {per_sec} {msg}",
    };
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let style =
        ProgressStyle::with_template(template).expect("the templates above are well formed");
    let left = move |state: &ProgressState, text: &mut dyn fmt::Write| {
        if state.pos() > before {
            let _ = write!(text, "{:#} left", HumanDuration(state.eta()));
        }
    };
    bar.set_style(style.progress_chars("=> ").with_key("left", left));
    bar.set_prefix(label.to_owned());
    bar.set_position(before);
    bar.tick(); // tells the estimate of that position, so that it can be forgotten as a speed
    bar.reset_eta();
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_says_how_long_yet() {
        let steps = |before, done| {
            let progress = Progress::going_on("train", before, Some(90), Unit::Items("steps"));
            progress.line(done, Duration::from_secs(60))
        };
        assert_eq!(
            steps(0, 30),
            "train: 30 of 90 steps, 0.50/s, 2 minutes left"
        );
        // What a run did before it was stopped took none of this minute.
        assert_eq!(
            steps(60, 75),
            "train: 75 of 90 steps, 0.25/s, 60 seconds left"
        );
        assert_eq!(steps(60, 60), "train: 60 of 90 steps");
        let read = Progress::new("read", None, Unit::Bytes);
        assert_eq!(
            read.line(2 << 20, Duration::from_secs(2)),
            "read: 2.00 MiB, 1.00 MiB/s"
        );
    }
}
