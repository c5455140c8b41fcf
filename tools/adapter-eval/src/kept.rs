//! What did a run answer that was stopped? Each answer is kept beside --out-dir until the outcome stands, in
//! `.NAME.answers-HASH.jsonl`: HASH is of all that decides answers beside what is asked, so that a trial with other
//! settings has a file of its own.
//!
//! A line an answer, as it comes. The next run of the same settings goes on from there.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use cli::{Hint, Locked};
use model::{Completion, GenerateOptions};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::ModelArgs;
use crate::cases::hash;
use crate::system::Finish;

/// The answers so far. The file is locked while a run works on it.
pub struct Kept {
    path: PathBuf,
    file: File,
    by_question: Answers,
}

/// By what was asked, with whether this run asked it, too.
type Answers = HashMap<String, (Completion, bool)>;

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    /// A [`question`].
    asked: String,
    token_ids: Vec<u32>,
    finish: Finish,
}

/// What decides an answer among those of a [`file_name`], as a hash: the adapter by its [`adapter_hash`],
/// and for a drawn answer the prompt's place among all.
pub fn question(adapter: Option<&str>, drawn: Option<usize>, prompt: &[u32]) -> String {
    hash([format!("{adapter:?} {drawn:?} {prompt:?}").as_str()])
}

pub fn adapter_hash(dir: &Path) -> anyhow::Result<String> {
    let dir = checkpoint::resolve(dir)?;
    let files = checkpoint::adapter::FILES.into_iter();
    let hashes = files.map(|name| checkpoint::fingerprint::of_file(&dir.join(name)));
    Ok(hashes.collect::<Result<Vec<_>, _>>()?.join(" "))
}

/// Of the file for answers by this version, base and settings.
pub fn file_name(
    base: &Path,
    args: &ModelArgs,
    options: &GenerateOptions,
) -> anyhow::Result<String> {
    let settings = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "base": checkpoint::fingerprint::of_weights(base)?,
        "quantize": args.quantize,
        "double_quant": !args.no_double_quant,
        "compute_dtype": args.load_options().compute_dtype.to_string(),
        "device": args.device.to_string(),
        "attention": args.attention.to_string(),
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "seed": options.seed,
        "stop_token_ids": options.stop_token_ids,
    });
    let hash = hash([settings.to_string().as_str()]);
    Ok(format!("answers-{}.jsonl", &hash[..12]))
}

impl Kept {
    /// What a file holds, or a new one. Where another run is at work on it, [`Locked`].
    pub fn open(path: &Path) -> anyhow::Result<Kept> {
        let open = || -> std::io::Result<Option<Kept>> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                // A file system without locks.
                Err(TryLockError::Error(_)) => {}
            }
            let (by_question, end) = read(&file)?;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            Ok(Some(Kept {
                path: path.to_owned(),
                file,
                by_question,
            }))
        };
        let Some(kept) = open().with_context(|| path.display().to_string())? else {
            let locked = Locked::new(path);
            return Err(locked).hint("wait for it, or choose another --out-dir");
        };
        if !kept.by_question.is_empty() {
            cli::note(format_args!(
                "{}: going on with {} answers of a run that was stopped",
                kept.path.display(),
                kept.by_question.len()
            ));
        }
        Ok(kept)
    }

    pub fn get(&mut self, question: &str) -> Option<Completion> {
        let (completion, asked) = self.by_question.get_mut(question)?;
        *asked = true;
        Some(completion.clone())
    }

    /// Writes an answer behind the others.
    pub fn keep(&mut self, question: &str, completion: &Completion) -> anyhow::Result<()> {
        let line = Line {
            asked: question.to_owned(),
            token_ids: completion.token_ids.clone(),
            finish: completion.finish.into(),
        };
        let line = serde_json::to_string(&line)? + "\n";
        let written = self.file.write_all(line.as_bytes());
        written.with_context(|| self.path.display().to_string())
    }

    /// The outcome stands. Answers that it did not ask for, being of a trial, are left for the run that will.
    pub fn remove(self) -> anyhow::Result<()> {
        match self.by_question.values().all(|(_, asked)| *asked) {
            true => fs::remove_file(&self.path).with_context(|| self.path.display().to_string()),
            false => Ok(()),
        }
    }
}

/// The answers, none asked yet, and where the last whole line ends.
fn read(file: &File) -> std::io::Result<(Answers, u64)> {
    let mut answers = HashMap::new();
    let mut reader = BufReader::new(file);
    let (mut text, mut end) = (Vec::new(), 0);
    loop {
        text.clear();
        reader.read_until(b'\n', &mut text)?;
        let line = serde_json::from_slice::<Line>(&text);
        let Some(line) = line.ok().filter(|_| text.ends_with(b"\n")) else {
            return Ok((answers, end)); // the end, or a line in which a run was stopped
        };
        let completion = Completion {
            token_ids: line.token_ids,
            finish: line.finish.into(),
        };
        answers.insert(line.asked, (completion, false));
        end += text.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(token_ids: &[u32]) -> Completion {
        Completion {
            token_ids: token_ids.to_vec(),
            finish: model::Finish::Stop,
        }
    }

    #[test]
    fn answers_are_found_again_and_gone_once_all_were_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(".eval.answers-1.jsonl");
        let (one, other) = (question(None, None, &[1, 2]), question(None, None, &[3]));
        let mut kept = Kept::open(&path).unwrap();
        kept.keep(&one, &completion(&[7, 8])).unwrap();
        let busy = Kept::open(&path).err().expect("another run is at work");
        assert!(busy.to_string().ends_with("another run is at work here"));
        drop(kept);
        // A line that was not written to its end.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"asked":"#).unwrap();
        drop(file);
        let mut kept = Kept::open(&path).unwrap();
        kept.keep(&other, &completion(&[])).unwrap();
        assert_eq!(kept.get(&one), Some(completion(&[7, 8])));
        drop(kept);
        let mut trial = Kept::open(&path).unwrap();
        assert_eq!(trial.get(&other), Some(completion(&[])));
        trial.remove().unwrap();
        let mut whole = Kept::open(&path).unwrap();
        assert!(whole.get(&one).is_some() && whole.get(&other).is_some());
        whole.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn an_adapter_in_the_cache_is_known_by_the_files_of_its_snapshot() {
        let cache = tempfile::tempdir().unwrap();
        let snapshot = cache.path().join("snapshots/0123abc");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir(cache.path().join("refs")).unwrap();
        fs::write(cache.path().join("refs/main"), "0123abc").unwrap();
        for file in checkpoint::adapter::FILES {
            fs::write(snapshot.join(file), file).unwrap();
        }
        let hash = adapter_hash(&snapshot).unwrap();
        assert_eq!(adapter_hash(cache.path()).unwrap(), hash);
    }

    #[test]
    fn a_question_is_another_with_another_adapter_place_or_prompt() {
        let asked = question(Some("a"), None, &[1, 2]);
        for other in [
            question(None, None, &[1, 2]),
            question(Some("b"), None, &[1, 2]),
            question(Some("a"), Some(0), &[1, 2]),
            question(Some("a"), None, &[1, 2, 3]),
        ] {
            assert_ne!(asked, other);
        }
    }
}
