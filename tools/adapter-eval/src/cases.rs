//! Which questions are asked, and what would be right? Chat JSONL, the last assistant message being the reference.

use std::collections::HashSet;
use std::io::BufRead;

use anyhow::{Context, bail};
use cli::{Hint, Input};
use dataset::{Chat, Example, Role};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// One question with its right answer.
#[derive(Clone, Debug)]
pub struct Case {
    /// The line's own `id` if it has one, else its line number.
    pub id: String,
    /// Of its file, from 1.
    pub line: usize,
    /// Everything before the answer.
    pub prompt: Chat,
    /// The last assistant message.
    pub reference: String,
    /// Of the prompt alone, hex: two evaluations ask the same.
    pub prompt_sha256: String,
    /// Of the question without instructions, whatever its case and outer spaces, hex: an example would give it away.
    pub question_sha256: String,
}

impl Case {
    /// What is asked, without the instructions that every case shares: for comparing words.
    pub fn question(&self) -> String {
        question(&self.prompt)
    }
}

fn question(prompt: &Chat) -> String {
    let messages = prompt.messages.iter();
    let asked = messages.filter(|message| !is_instruction(message.role));
    let asked = Vec::from_iter(asked.filter_map(|message| message.content.as_deref()));
    asked.join("\n")
}

/// System and developer messages instruct; the others converse.
pub fn is_instruction(role: Role) -> bool {
    matches!(role, Role::System | Role::Developer)
}

/// The cases of one file, in its order.
#[derive(Clone, Debug)]
pub struct Cases {
    /// The file's name without its folder.
    pub name: String,
    /// The file as it was named, for messages.
    pub path: String,
    pub cases: Vec<Case>,
    /// Of prompts and references in order, hex: two evaluations can be compared when it is the same.
    pub sha256: String,
    /// How many the file holds.
    pub in_file: usize,
}

impl Cases {
    /// Reads chat JSONL and keeps the first `limit`; every line needs an assistant message at its end.
    pub fn read(input: &Input, limit: Option<usize>) -> anyhow::Result<Cases> {
        let mut cases = Vec::new();
        let mut reader = input.open()?;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader
                .read_until(b'\n', &mut line)
                .with_context(|| input.name())?
                == 0
            {
                break;
            }
            let place = || format!("{}:{number}", input.name());
            let text = std::str::from_utf8(&line).with_context(place)?;
            let text = text
                .strip_prefix('\u{feff}')
                .filter(|_| number == 1)
                .unwrap_or(text);
            if !text.trim().is_empty() {
                cases.push(case(text, number).with_context(place)?);
            }
        }
        if cases.is_empty() {
            bail!("{}: no cases", input.name());
        }
        let in_file = cases.len();
        cases.truncate(limit.unwrap_or(in_file));
        let name = match input {
            Input::File(path) => path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            Input::Stdin => input.name(),
        };
        let sha256 = hash(
            cases
                .iter()
                .flat_map(|case| [case.prompt_sha256.as_str(), case.reference.as_str()]),
        );
        Ok(Cases {
            name,
            path: input.name(),
            cases,
            sha256,
            in_file,
        })
    }

    /// Where a case stands, for messages: its file and line, and its id where it has one of its own.
    pub fn place(&self, case: &Case) -> String {
        let Case { id, line, .. } = case;
        match *id == line.to_string() {
            true => format!("{}:{line}", self.path),
            false => format!("{}:{line}: case {id}", self.path),
        }
    }

    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// `400 cases`, `the first 20 of 400 cases`.
    pub fn counted(&self) -> String {
        match self.len() {
            all if all == self.in_file => format!("{all} cases"),
            first => format!("the first {first} of {} cases", self.in_file),
        }
    }

    pub fn prompts(&self) -> impl Iterator<Item = &Chat> {
        self.cases.iter().map(|case| &case.prompt)
    }

    pub fn references(&self) -> impl Iterator<Item = &str> {
        self.cases.iter().map(|case| case.reference.as_str())
    }

    /// How many of these questions are asked in `others` too, under whatever instructions.
    pub fn also_in(&self, others: &Cases) -> usize {
        let others = others.questions();
        self.cases
            .iter()
            .filter(|case| others.contains(case.question_sha256.as_str()))
            .count()
    }

    /// The questions by their hashes, for finding the same one elsewhere.
    pub fn questions(&self) -> HashSet<&str> {
        self.cases
            .iter()
            .map(|case| case.question_sha256.as_str())
            .collect()
    }
}

fn case(line: &str, number: usize) -> anyhow::Result<Case> {
    let Example::Chat(mut prompt) = Example::from_json(line)? else {
        return Err(anyhow::anyhow!("no messages on this line"))
            .hint("a case is chat JSONL: {\"messages\": […]}");
    };
    let answer = prompt.messages.pop();
    let reference = match answer {
        Some(message) if message.role == Role::Assistant => message.content,
        _ => {
            bail!("the last message is not the assistant's: there is no reference to compare with")
        }
    };
    let reference = reference.context("the last assistant message has no content")?;
    if prompt.messages.is_empty() {
        bail!("nothing is asked before the assistant's message");
    }
    let value: Value = serde_json::from_str(line)?;
    let id = match value.get("id") {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => number.to_string(),
    };
    let asked = serde_json::to_string(&(
        &prompt.messages,
        prompt.tools.as_deref().unwrap_or_default(),
        &prompt.chat_template_kwargs,
    ))?;
    let prompt_sha256 = hash([asked.as_str()]);
    Ok(Case {
        id,
        line: number,
        question_sha256: hash([question(&prompt).trim().to_lowercase().as_str()]),
        prompt,
        reference,
        prompt_sha256,
    })
}

/// SHA-256 over texts, each preceded by its length, hex.
pub fn hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Cases with a shared instruction: (question, answer).
    pub(crate) fn cases(pairs: &[(&str, &str)]) -> Cases {
        let line = |(i, (question, answer)): (usize, &(&str, &str))| {
            let messages = serde_json::json!({"messages": [
                {"role": "system", "content": "Answer with JSON."},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]});
            case(&messages.to_string(), i + 1).unwrap()
        };
        let cases: Vec<Case> = pairs.iter().enumerate().map(line).collect();
        Cases {
            name: "made.jsonl".into(),
            path: "made.jsonl".into(),
            in_file: cases.len(),
            cases,
            sha256: String::new(),
        }
    }

    #[test]
    fn a_question_leaves_out_the_instructions_and_its_hash_does_not() {
        let one = case(r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#, 7).unwrap();
        let other = case(r#"{"id":"x1","messages":[{"role":"system","content":"t"},{"role":"user","content":"q"},{"role":"assistant","content":"b"}]}"#, 8).unwrap();
        assert_eq!((one.question(), one.id.as_str()), ("q".into(), "7"));
        assert_eq!(other.id, "x1");
        assert_ne!(one.prompt_sha256, other.prompt_sha256);
        assert_eq!(one.question_sha256, other.question_sha256);
    }
}
