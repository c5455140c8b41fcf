//! What is wrong with an example once it is read as the model will read it?

use cli::Hint;
use dataset::{Checked, Example, Finding, Rule, Severities, Severity, worst};
use tokens::{Chat, Error, TrainOn};

use crate::args::Args;

/// The base's tokenizer and chat template, and what is asked of the result.
pub struct Tokenizer {
    chat: Chat,
    max_seq_length: usize,
    severities: Severities,
}

/// Opens the base, if one was named.
pub fn open(args: &Args, severities: &Severities) -> anyhow::Result<Option<Tokenizer>> {
    let Some(dir) = &args.tokenizer else {
        return Ok(None);
    };
    let chat = match Chat::open(dir) {
        Ok(chat) => chat,
        Err(error) => {
            let hint = error.hint();
            let error = anyhow::Error::new(error).context("--tokenizer");
            return Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            });
        }
    };
    cli::give_back_freed_memory();
    Ok(Some(Tokenizer {
        chat,
        max_seq_length: args.max_seq_length,
        severities: severities.clone(),
    }))
}

impl Tokenizer {
    /// Adds to the findings of a line that is sound so far.
    pub fn check(&self, line: u64, bytes: &[u8], checked: &mut Checked) {
        let is_sound = !matches!(
            worst(&checked.findings, &self.severities),
            Some((Severity::Error, _))
        );
        let example = std::str::from_utf8(bytes)
            .ok()
            .map(|text| Example::from_json(text.trim_start_matches('\u{feff}')));
        let example = match example {
            Some(Ok(example)) if is_sound && checked.facts.is_some() => example,
            _ => return,
        };
        for (rule, message) in special_tokens(&self.chat, &example)
            .into_iter()
            .chain(self.wrong(&example))
            .filter(|(rule, _)| self.severities.is_on(*rule))
        {
            checked.findings.push(Finding {
                line: Some(line),
                column: None,
                rule,
                message: message.into(),
                other_line: None,
            });
        }
    }

    fn wrong(&self, example: &Example) -> Option<(Rule, String)> {
        let encoded = match self.chat.example(example, TrainOn::All) {
            Ok(encoded) => encoded,
            Err(error) => return Some((rule_of(&error), error.to_string())),
        };
        let length = encoded.input_ids.len();
        if encoded.supervised_tokens() == 0 {
            return Some((
                Rule::ZeroSupervisedTokens,
                "no token would be learned".into(),
            ));
        }
        if length > self.max_seq_length {
            let message = format!(
                "has {length} tokens, more than --max-seq-length {}",
                self.max_seq_length
            );
            return Some((Rule::OverMaxSeqLength, message));
        }
        let ends = self.chat.end_of_turn_ids();
        let last = encoded
            .loss_mask
            .iter()
            .rposition(|learned| *learned == 1)?;
        let is_pretokenized = matches!(example, Example::Tokens { .. });
        if is_pretokenized && !ends.is_empty() && !ends.contains(&encoded.input_ids[last]) {
            let message = format!(
                "the last learned token, {}, ends no turn",
                encoded.input_ids[last]
            );
            return Some((Rule::MissingEndOfTurn, message));
        }
        None
    }
}

/// Messages that say what the tokenizer reads as a special token. A text without roles is the writer's
/// own template, and may.
fn special_tokens(chat: &Chat, example: &Example) -> Vec<(Rule, String)> {
    let Example::Chat(dataset::Chat { messages, .. }) = example else {
        return Vec::new();
    };
    let found = |(index, message): (usize, &dataset::Message)| {
        let token = chat.special_token(message.content.as_deref()?)?;
        let rule = if message.is_learned() {
            Rule::SpecialTokenInAnswer
        } else {
            Rule::SpecialToken
        };
        Some((
            rule,
            format!("messages[{index}].content holds the special token {token:?}"),
        ))
    };
    messages.iter().enumerate().filter_map(found).collect()
}

fn rule_of(error: &Error) -> Rule {
    match error {
        Error::NoEndOfTurn { .. } | Error::NoEos { .. } => Rule::MissingEndOfTurn,
        Error::NothingSupervised { .. } => Rule::ZeroSupervisedTokens,
        Error::DoubleBos { .. } => Rule::DoubleBos,
        _ => Rule::ChatTemplate,
    }
}
