//! The run's folder: whose it is, what is in it, how a run goes on from it.
//!
//! ```text
//! RUN/config.json      what was asked; --config takes it
//! RUN/inputs.json      fingerprints of base and shards: a run never goes on over other data
//! RUN/metrics.jsonl    a row a logged step and a row an evaluation; same run, same bytes
//! RUN/events.out.tfevents   the same rows for TensorBoard
//! RUN/timing.jsonl     seconds and tokens of every step; differs from run to run
//! RUN/checkpoints/checkpoint-N/   adapter, prompt.json, optimizer moments, trainer_state.json
//! RUN/adapter/         the best adapter, in PEFT's format; appears last
//! ```

mod checkpoints;
mod tensorboard;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use cli::{AtomicDir, Files, Hint, Lock, Output};
use serde_json::Value;
use tokens::Prompting;

use crate::{
    args::{Args, Resume},
    state::{Row, State},
};
pub use checkpoints::read_moments;
use checkpoints::{STATE_FILE, is_adapter_file, newest_checkpoint};

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

/// What a run may be told otherwise when it goes on: steps and losses are the same with any value.
const CHANGEABLE: [&str; 3] = ["early-stopping-patience", "save-steps", "save-total-limit"];

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
    /// Goes with every adapter.
    prompting: Prompting,
    /// How many of the state's rows are in its logs.
    logged: Cell<usize>,
    timing: RefCell<File>,
    start: Start,
    _lock: Lock,
}

/// The state's rows from so many on, as a log has them.
type Format = fn(&[Row], usize) -> Vec<u8>;

/// What the state's rows are written to.
const LOGS: [(&str, Format); 2] = [
    ("metrics.jsonl", json_lines),
    ("events.out.tfevents", tensorboard::events),
];

/// How a run starts.
pub struct Start {
    /// The checkpoint to go on from.
    resume_from: Option<PathBuf>,
    /// Whether it goes on with other settings than config.json's.
    changed: bool,
}

impl Start {
    /// Decides whether to go on from the folder, to begin there, or to refuse, and writes nothing.
    pub fn find(args: &Args, inputs: &Value) -> anyhow::Result<Self> {
        refuse(args)?;
        let root = &args.out_dir;
        let found = newest_checkpoint(root)?;
        let changes = changes(root, &serde_json::to_value(args)?, inputs);
        let occupied = occupied(root)?;
        let begin = Ok(Self {
            resume_from: None,
            changed: false,
        });
        match (args.run.resume, found, changes) {
            (Resume::Never, ..) if occupied && !args.run.overwrite => {
                Err(anyhow::anyhow!("{}: holds a run already", root.display()))
                    .hint("--overwrite replaces it, --resume auto goes on with it")
            }
            (Resume::Never, ..) | (Resume::Auto, None, Ok(_)) => begin,
            (Resume::Require, None, _) => {
                bail!("{}: has no checkpoint to resume from", root.display())
            }
            (_, found, Ok(changes)) => {
                if !changes.is_empty() {
                    cli::note(format_args!("going on, and {}", changes.join(", ")));
                }
                Ok(Self {
                    resume_from: found,
                    changed: !changes.is_empty(),
                })
            }
            (Resume::Require, _, Err(why)) => {
                Err(why.context(format!("{}: cannot resume", root.display())))
            }
            (Resume::Auto, _, Err(_)) if !occupied || args.run.overwrite => begin,
            (Resume::Auto, _, Err(why)) => {
                Err(why.context(format!("{}: holds another run", root.display())))
                    .hint("--overwrite replaces it; another --out-dir keeps both")
            }
        }
    }

    /// Where the run stood.
    pub fn state(&self) -> anyhow::Result<State> {
        match &self.resume_from {
            Some(checkpoint) => State::read(&checkpoint.join(STATE_FILE)),
            None => Ok(State::default()),
        }
    }
}

impl RunDir {
    /// Locks the folder, and clears it unless the run goes on.
    pub fn open(
        args: &Args,
        inputs: &Value,
        total_steps: u64,
        prompting: Prompting,
    ) -> anyhow::Result<Self> {
        let root = args.out_dir.clone();
        refuse(args)?;
        let lock = Lock::acquire(&root)?;
        remove_unfinished(&root)?;
        let start = Start::find(args, inputs)?;
        if start.resume_from.is_none() {
            check_result(&root)?;
            clear(&root)?;
            write_json(&root.join("inputs.json"), inputs)?;
        }
        if start.resume_from.is_none() || start.changed {
            write_json(&root.join("config.json"), &serde_json::to_value(args)?)?;
        }
        Ok(Self {
            total_steps,
            epochs: args.schedule.epochs.ceil() as u32, // as transformers has them in its state
            prompting,
            logged: Cell::new(0),
            timing: RefCell::new(append(&root.join("timing.jsonl"))?),
            start,
            _lock: lock,
            root,
        })
    }

    /// The checkpoint to go on from.
    pub fn resume_from(&self) -> Option<&Path> {
        self.start.resume_from.as_deref()
    }

    /// Takes up the saved state, if there is one: the logs are cut back to it. One that says the same
    /// already is not touched.
    pub fn restore(&self) -> anyhow::Result<State> {
        let state = self.start.state()?;
        for (name, format) in LOGS {
            let (path, bytes) = (self.root.join(name), format(&state.log, 0));
            if fs::read(&path).ok().as_ref() != Some(&bytes) {
                let mut out = Output::File(path).create()?;
                out.write_all(&bytes)?;
                out.commit()?;
            }
        }
        self.logged.set(state.log.len());
        Ok(state)
    }

    /// Appends the rows that are not in the logs yet.
    pub fn write_metrics(&self, state: &State) -> anyhow::Result<()> {
        for (name, format) in LOGS {
            let bytes = format(&state.log, self.logged.get());
            let mut log = append(&self.root.join(name))?;
            log.write_all(&bytes)
                .with_context(|| format!("writing {name}"))?;
        }
        self.logged.set(state.log.len());
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
const ENTRIES: [&str; 7] = [
    "config.json",
    "inputs.json",
    "metrics.jsonl",
    "events.out.tfevents",
    "timing.jsonl",
    "checkpoints",
    "adapter",
];
const FILES: usize = 5;

/// A folder that holds files of these names and is no run's is not touched, whatever the flags: a base has
/// a config.json too.
fn refuse(args: &Args) -> anyhow::Result<()> {
    let (root, base) = (&args.out_dir, &args.base);
    if args.run.resume == Resume::Require && !root.join("config.json").exists() {
        bail!("{}: there is no run to resume", root.display());
    }
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

/// Refuses a folder of the result that holds more than an adapter: it would be replaced. Asked before the
/// first step, not after the last one.
pub fn check_result(root: &Path) -> anyhow::Result<()> {
    AtomicDir::check(&root.join("adapter"), is_adapter_file)
}

/// What a killed run was writing. The lock is held: nobody is writing now.
fn remove_unfinished(root: &Path) -> anyhow::Result<()> {
    let ours = |name: &str| {
        name.starts_with(".checkpoint-")
            || ENTRIES.iter().any(|e| name.starts_with(&format!(".{e}.")))
    };
    for folder in [root.to_owned(), root.join("checkpoints")] {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ours(&name) && name.ends_with(".tmp") {
                remove(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// Whether there is work in the folder that somebody could miss.
fn occupied(root: &Path) -> anyhow::Result<bool> {
    Ok(root.join("adapter").exists() || newest_checkpoint(root)?.is_some())
}

/// What is told otherwise than it was to the folder's run; an error where that makes another run of it.
fn changes(root: &Path, config: &Value, inputs: &Value) -> anyhow::Result<Vec<String>> {
    let ignored = [&INDIFFERENT[..], &PLACES].concat();
    let mut changes = Vec::new();
    for (name, now, ignored) in [
        ("config.json", config, &ignored[..]),
        ("inputs.json", inputs, &[]),
    ] {
        let text = fs::read_to_string(root.join(name)).map_err(|_| anyhow!("it has no {name}"))?;
        let then: Value = serde_json::from_str(&text).map_err(|e| anyhow!("{name}: {e}"))?;
        let (then, now) = (settings(&then, ignored), settings(now, ignored));
        let keys: BTreeSet<_> = then.keys().chain(now.keys()).copied().collect();
        for key in keys {
            let (then, now) = (then.get(key), now.get(key));
            if then == now {
                continue;
            }
            let show = |value: Option<&&Value>| value.map_or("not set".into(), |v| v.to_string());
            let change = format!("{key} was {}, is {}", show(then), show(now));
            match key {
                key if CHANGEABLE.contains(&key) => changes.push(change),
                "epochs" | "max-steps" => {
                    return Err(anyhow!(change)).hint(
                        "the learning rate's schedule spans all steps, so that those already made would have had \
                         other rates; --init-adapter RUN/adapter begins another run at this one's result",
                    );
                }
                _ => bail!(change),
            }
        }
    }
    Ok(changes)
}

fn settings<'a>(value: &'a Value, ignored: &[&str]) -> BTreeMap<&'a str, &'a Value> {
    let object = value.as_object().into_iter().flatten();
    object
        .map(|(key, value)| (key.as_str(), value))
        .filter(|(key, _)| !ignored.contains(key))
        .collect()
}

/// Removes what an earlier run left, but the lock, and inputs.json, which says that the folder is a run's:
/// stopped in the middle, it can be done again. config.json goes first: nobody goes on with half a run.
fn clear(root: &Path) -> anyhow::Result<()> {
    let names = ENTRIES.iter().filter(|name| **name != "inputs.json");
    names
        .map(|name| root.join(name))
        .try_for_each(|path| remove(&path))
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn append(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("writing {}", path.display()))
}

fn json_lines(log: &[Row], written: usize) -> Vec<u8> {
    let line = |row: &Row| serde_json::to_string(row).expect("numbers") + "\n";
    log[written..]
        .iter()
        .map(line)
        .collect::<String>()
        .into_bytes()
}

fn write_json(path: &Path, value: &Value) -> anyhow::Result<()> {
    let mut out = cli::Output::File(path.to_owned()).create()?;
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    out.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_being_cleared_is_a_runs_until_the_next_run_has_begun() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| root.path().join(name);
        for name in &ENTRIES[..FILES] {
            fs::write(path(name), "{}").expect("it is written");
        }
        fs::create_dir_all(path("checkpoints/checkpoint-2")).expect("it is made");
        clear(root.path()).expect("it goes");
        let left: Vec<_> = ENTRIES.iter().filter(|name| path(name).exists()).collect();
        assert_eq!(left, [&"inputs.json"]);
    }
}
