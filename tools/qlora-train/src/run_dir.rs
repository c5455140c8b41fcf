//! The run's folder: whose it is, what is in it, how a run goes on from it.
//!
//! ```text
//! RUN/config.json      what was asked; --config takes it
//! RUN/inputs.json      fingerprints of base and shards: a run never goes on over other data
//! RUN/metrics.jsonl    a row a logged step and a row an evaluation; same run, same bytes
//! RUN/timing.jsonl     seconds and tokens of every step; differs from run to run
//! RUN/checkpoints/checkpoint-N/   adapter, optimizer moments, trainer_state.json
//! RUN/adapter/         the best adapter, in PEFT's format; appears last
//! ```

mod checkpoints;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cli::{Files, Hint, Lock, Output};
use serde_json::Value;

use crate::{
    args::{Args, Resume},
    state::State,
};
pub use checkpoints::read_moments;
use checkpoints::{STATE_FILE, newest_checkpoint};

/// Flags that change neither what is computed nor what is written.
const INDIFFERENT: [&str; 8] = [
    "out-dir",
    "threads",
    "max-memory",
    "activation-checkpointing",
    "attention",
    "device",
    "config",
    "quiet",
];

/// Where the inputs lie. What they are is in inputs.json; by which path they are reached is indifferent.
const PLACES: [&str; 4] = ["base", "train", "eval", "init-adapter"];

/// What a run reads, and what it writes in its folder.
pub fn files(args: &Args) -> Files {
    let of_the_run = |name: &&str| args.out_dir.join(name);
    let (logs, folders) = ENTRIES.split_at(FILES);
    let logs: Vec<Output> = logs
        .iter()
        .map(|name| Output::File(of_the_run(name)))
        .collect();
    let files = Files::default()
        .reads_paths("--base", [&args.base])
        .reads_paths("--train", &args.train)
        .reads_paths("--eval", &args.eval)
        .reads_paths("--init-adapter", &args.lora.init_adapter)
        .writes("--out-dir", &logs);
    folders.iter().fold(files, |files, name| {
        files.replaces("--out-dir", &of_the_run(name))
    })
}

/// A run's folder, locked.
pub struct RunDir {
    root: PathBuf,
    total_steps: u64,
    epochs: u32,
    metrics: RefCell<Log>,
    timing: RefCell<File>,
    /// The checkpoint to go on from.
    pub resume_from: Option<PathBuf>,
    _lock: Lock,
}

/// metrics.jsonl and how many of the state's rows are in it.
struct Log {
    file: File,
    written: usize,
}

impl RunDir {
    /// Locks the folder and decides whether to go on from it, to begin, or to refuse.
    pub fn open(args: &Args, inputs: &Value, total_steps: u64) -> anyhow::Result<Self> {
        let root = args.out_dir.clone();
        if args.run.resume == Resume::Require && !root.join("config.json").exists() {
            bail!("{}: there is no run to resume", root.display());
        }
        refuse_foreign(&root, &args.base)?;
        let lock = Lock::acquire(&root)?;
        remove_unfinished(&root)?;
        let config = serde_json::to_value(args)?;
        let found = newest_checkpoint(&root)?;
        let same = same_run(&root, &config, inputs);
        let occupied = occupied(&root)?;
        let resume_from = match (args.run.resume, found, same) {
            (Resume::Never, ..) if occupied && !args.run.overwrite => {
                return Err(anyhow::anyhow!("{}: holds a run already", root.display()))
                    .hint("--overwrite replaces it, --resume auto goes on with it");
            }
            (Resume::Never, ..) | (Resume::Auto, None, Ok(())) => None,
            (Resume::Require, None, _) => {
                bail!("{}: has no checkpoint to resume from", root.display())
            }
            (_, found, Ok(())) => found,
            (Resume::Require, _, Err(why)) => bail!("{}: cannot resume: {why}", root.display()),
            (Resume::Auto, _, Err(_)) if !occupied || args.run.overwrite => None,
            (Resume::Auto, _, Err(why)) => {
                return Err(anyhow::anyhow!(
                    "{}: holds another run: {why}",
                    root.display()
                ))
                .hint("--overwrite replaces it; another --out-dir keeps both");
            }
        };
        if resume_from.is_none() {
            clear(&root)?;
            write_json(&root.join("inputs.json"), inputs)?;
            write_json(&root.join("config.json"), &config)?;
        }
        let append = |name: &str| {
            let path = root.join(name);
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("writing {}", path.display()))
        };
        Ok(Self {
            total_steps,
            epochs: args.schedule.epochs,
            metrics: RefCell::new(Log {
                file: append("metrics.jsonl")?,
                written: 0,
            }),
            timing: RefCell::new(append("timing.jsonl")?),
            resume_from,
            _lock: lock,
            root,
        })
    }

    /// Takes up a saved state: metrics.jsonl is cut back to it.
    pub fn restore(&self, checkpoint: &Path) -> anyhow::Result<State> {
        let state = State::read(&checkpoint.join(STATE_FILE))?;
        let mut log = self.metrics.borrow_mut();
        log.file.set_len(0).context("writing metrics.jsonl")?;
        log.written = 0;
        drop(log);
        self.write_metrics(&state)?;
        Ok(state)
    }

    /// Appends the rows that are not in metrics.jsonl yet.
    pub fn write_metrics(&self, state: &State) -> anyhow::Result<()> {
        let mut log = self.metrics.borrow_mut();
        let mut text = Vec::new();
        for row in &state.log[log.written..] {
            serde_json::to_writer(&mut text, row)?;
            text.push(b'\n');
        }
        log.file.write_all(&text).context("writing metrics.jsonl")?;
        log.written = state.log.len();
        Ok(())
    }

    /// Appends a step's time to timing.jsonl.
    pub fn write_timing(&self, step: u64, tokens: usize, seconds: f64) -> anyhow::Result<()> {
        let row = serde_json::json!({ "step": step, "tokens": tokens, "seconds": seconds });
        writeln!(self.timing.borrow_mut(), "{row}").context("writing timing.jsonl")
    }

    /// Where the result stands.
    pub fn adapter(&self) -> PathBuf {
        self.root.join("adapter")
    }
}

/// What a run leaves in its folder, beside the lock: files, then folders.
const ENTRIES: [&str; 6] = [
    "config.json",
    "inputs.json",
    "metrics.jsonl",
    "timing.jsonl",
    "checkpoints",
    "adapter",
];
const FILES: usize = 4;

/// A folder that holds files of these names and is no run's is not touched, whatever the flags: a base has
/// a config.json too.
fn refuse_foreign(root: &Path, base: &Path) -> anyhow::Result<()> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let is_base = real(root).is_some_and(|root| real(base) == Some(root));
    if !is_base && root.join("inputs.json").exists() {
        return Ok(());
    }
    let held = ENTRIES.iter().find(|name| root.join(name).exists());
    let why = match (is_base, held) {
        (true, _) => "it is the base".to_owned(),
        (false, Some(name)) => format!("it holds {name} and is no run's folder"),
        (false, None) => return Ok(()),
    };
    Err(anyhow::anyhow!("{}: {why}", root.display())).hint("choose another --out-dir")
}

/// Checkpoints and adapters that a killed run was writing. The lock is held: nobody is writing now.
fn remove_unfinished(root: &Path) -> anyhow::Result<()> {
    for folder in [root.to_owned(), root.join("checkpoints")] {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let unfinished = name.starts_with(".checkpoint-") || name.starts_with(".adapter.");
            if unfinished && name.ends_with(".tmp") {
                let path = entry.path();
                fs::remove_dir_all(&path)
                    .with_context(|| format!("removing {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Whether there is work in the folder that somebody could miss.
fn occupied(root: &Path) -> anyhow::Result<bool> {
    Ok(root.join("adapter").exists() || newest_checkpoint(root)?.is_some())
}

/// Whether the folder's run is this one; if not, what differs.
fn same_run(root: &Path, config: &Value, inputs: &Value) -> Result<(), String> {
    let ignored = [&INDIFFERENT[..], &PLACES].concat();
    for (name, now, ignored) in [
        ("config.json", config, &ignored[..]),
        ("inputs.json", inputs, &[]),
    ] {
        let text = fs::read_to_string(root.join(name)).map_err(|_| format!("it has no {name}"))?;
        let then: Value = serde_json::from_str(&text).map_err(|e| format!("{name}: {e}"))?;
        let (then, now) = (settings(&then, ignored), settings(now, ignored));
        let keys = then.keys().chain(now.keys());
        if let Some(key) = keys.into_iter().find(|key| then.get(*key) != now.get(*key)) {
            let show = |value: Option<&&Value>| value.map_or("not set".into(), |v| v.to_string());
            return Err(format!(
                "{key} was {}, is {}",
                show(then.get(key)),
                show(now.get(key))
            ));
        }
    }
    Ok(())
}

fn settings<'a>(value: &'a Value, ignored: &[&str]) -> BTreeMap<&'a str, &'a Value> {
    let object = value.as_object().into_iter().flatten();
    object
        .map(|(key, value)| (key.as_str(), value))
        .filter(|(key, _)| !ignored.contains(key))
        .collect()
}

/// Removes what an earlier run left; the lock stays.
fn clear(root: &Path) -> anyhow::Result<()> {
    for name in ENTRIES {
        let path = root.join(name);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> anyhow::Result<()> {
    let mut out = cli::Output::File(path.to_owned()).create()?;
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    out.commit()
}
