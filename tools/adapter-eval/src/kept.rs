//! What did a run answer that was stopped? Each answer is kept beside --out-dir, in `.NAME.answers.jsonl`, until the
//! outcome stands.
//!
//! A file of JSON lines: first what all answers depend on, then one by one what was asked and what was said. The next
//! run to the same folder goes on from there if its answers depend on the same.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use model::{Completion, GenerateOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::ModelArgs;
use crate::cases::hash;
use crate::system::Finish;

/// The answers so far. The file is locked while a run works on it.
pub struct Kept {
    path: PathBuf,
    file: File,
    by_question: HashMap<String, Completion>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    /// A [`question`].
    asked: String,
    token_ids: Vec<u32>,
    finish: Finish,
}

/// What decides an answer, among those that [`depends_on`] the same, as a hash; `drawn` is the prompt's place among
/// all where that decides what is drawn.
pub fn question(with_adapter: bool, drawn: Option<usize>, prompt: &[u32]) -> String {
    hash([format!("{with_adapter} {drawn:?} {prompt:?}").as_str()])
}

/// What all answers of a run depend on: this version, the weights, and how they are asked.
pub fn depends_on(
    base: &Path,
    adapter: Option<&Path>,
    args: &ModelArgs,
    options: &GenerateOptions,
) -> anyhow::Result<Value> {
    let adapter = adapter.map(|dir| {
        let files = ["adapter_config.json", "adapter_model.safetensors"].into_iter();
        let hashes = files.map(|name| checkpoint::fingerprint::of_file(&dir.join(name)));
        hashes.collect::<Result<Vec<_>, _>>()
    });
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "base": checkpoint::fingerprint::of_weights(base)?,
        "adapter": adapter.transpose()?,
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
    }))
}

impl Kept {
    /// What a file holds, if that depends on the same; begun anew otherwise. None where another run is at work on it.
    pub fn open(path: &Path, depends_on: &Value) -> anyhow::Result<Option<Kept>> {
        let path = path.to_owned();
        let open = || -> std::io::Result<Option<Kept>> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                // A file system without locks.
                Err(TryLockError::Error(_)) => {}
            }
            let (by_question, end) = read(&file, depends_on)?;
            file.set_len(end)?;
            file.seek(std::io::SeekFrom::Start(end))?;
            if end == 0 {
                file.write_all(format!("{depends_on}\n").as_bytes())?;
            }
            let path = path.clone();
            Ok(Some(Kept {
                path,
                file,
                by_question,
            }))
        };
        let kept = open().with_context(|| path.display().to_string())?;
        if let Some(kept) = kept.as_ref().filter(|kept| !kept.by_question.is_empty()) {
            cli::note(format_args!(
                "{}: going on with {} answers of a run that was stopped",
                kept.path.display(),
                kept.by_question.len()
            ));
        }
        Ok(kept)
    }

    pub fn get(&self, question: &str) -> Option<&Completion> {
        self.by_question.get(question)
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

    /// The outcome stands: nothing is left to go on with.
    pub fn remove(self) -> anyhow::Result<()> {
        fs::remove_file(&self.path).with_context(|| self.path.display().to_string())
    }
}

/// The answers, and where the last whole line ends; nothing where they depend on something else.
fn read(file: &File, depends_on: &Value) -> std::io::Result<(HashMap<String, Completion>, u64)> {
    let mut answers = HashMap::new();
    let mut reader = BufReader::new(file);
    let (mut line, mut end) = (Vec::new(), 0);
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok((answers, end)); // a run was stopped while it wrote this line
        }
        if end == 0 {
            if serde_json::from_slice::<Value>(&line).ok().as_ref() != Some(depends_on) {
                return Ok((answers, 0));
            }
        } else {
            let Ok(line) = serde_json::from_slice::<Line>(&line) else {
                return Ok((answers, end));
            };
            let completion = Completion {
                token_ids: line.token_ids,
                finish: line.finish.into(),
            };
            answers.insert(line.asked, completion);
        }
        end += line.len() as u64;
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
    fn answers_are_found_again_by_a_run_that_depends_on_the_same_and_by_no_other() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(".eval.answers.jsonl");
        let open = |seed: u64| Kept::open(&path, &json!({ "seed": seed })).unwrap();
        let asked = question(true, None, &[1, 2]);
        let mut kept = open(1).unwrap();
        kept.keep(&asked, &completion(&[7, 8])).unwrap();
        assert!(open(1).is_none(), "another run is at work");
        drop(kept);
        // A line that was not written to its end.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"asked":"#).unwrap();
        drop(file);
        let mut kept = open(1).unwrap();
        assert_eq!(kept.get(&asked), Some(&completion(&[7, 8])));
        for other in [
            question(false, None, &[1, 2]),
            question(true, Some(0), &[1, 2]),
            question(true, None, &[1, 2, 3]),
        ] {
            assert_eq!(kept.get(&other), None);
        }
        kept.keep(&question(true, None, &[3]), &completion(&[]))
            .unwrap();
        drop(kept);
        assert_eq!(open(1).unwrap().by_question.len(), 2);
        assert_eq!(open(2).unwrap().by_question.len(), 0);
        assert_eq!(open(1).unwrap().by_question.len(), 0);
        open(1).unwrap().remove().unwrap();
        assert!(!path.exists());
    }
}
