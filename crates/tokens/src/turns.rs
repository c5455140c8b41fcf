//! Where in the rendered text did the assistant speak?
//!
//! Two answers that can be checked, and no guess: the template's own `{% generation %}` blocks, or
//! else prefixes. What the assistant said in message `i` is what stands between the conversation
//! before `i` with the generation prompt and the conversation through `i`, if both are prefixes of
//! the whole. Some templates rewrite history (they drop old reasoning, say) and fail that test.

use std::ops::Range;

use dataset::{Message, Role};

use crate::{Error, TrainOn};

/// What the assistant said in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Index into the messages.
    pub message: usize,
    /// Bytes of the rendered text.
    pub span: Range<usize>,
}

/// Indices of the assistant messages to learn.
pub(crate) fn wanted(messages: &[Message], train_on: TrainOn) -> Result<Vec<usize>, Error> {
    let assistant = assistant(messages);
    let candidates = match train_on {
        TrainOn::All => &assistant[..],
        TrainOn::Last => &assistant[assistant.len().saturating_sub(1)..],
    };
    if candidates.is_empty() {
        return Err(Error::NothingSupervised {
            reason: "it has no assistant message",
        });
    }
    let wanted: Vec<usize> = candidates
        .iter()
        .copied()
        .filter(|index| messages[*index].is_learned())
        .collect();
    if wanted.is_empty() {
        return Err(Error::NothingSupervised {
            reason: "its assistant messages have weight 0",
        });
    }
    Ok(wanted)
}

/// By the template's own marks: the n-th span is the n-th assistant message. Where every message is
/// learned it need not be known which is which.
pub(crate) fn by_marks(
    spans: &[Range<usize>],
    messages: &[Message],
    wanted: &[usize],
    template: &str,
) -> Result<Vec<Turn>, Error> {
    let assistant = assistant(messages);
    if spans.len() == assistant.len() {
        let turns = assistant.into_iter().zip(spans.iter().cloned());
        let turns = turns.filter(|(message, _)| wanted.contains(message));
        return Ok(turns
            .map(|(message, span)| Turn { message, span })
            .collect());
    }
    if wanted.len() == assistant.len() && !spans.is_empty() {
        let message = |n: usize| assistant[n.min(assistant.len() - 1)];
        let turns = spans.iter().cloned().enumerate();
        return Ok(turns
            .map(|(n, span)| Turn {
                message: message(n),
                span,
            })
            .collect());
    }
    let template = template.to_owned();
    Err(Error::GenerationSpans {
        template,
        spans: spans.len(),
        turns: assistant.len(),
    })
}

/// By prefixes of `text`, the whole conversation of `count` messages. `render(n, prompt)` renders
/// the first `n` messages, with the generation prompt or without.
pub(crate) fn by_prefix(
    text: &str,
    count: usize,
    wanted: &[usize],
    template: &str,
    render: impl Fn(usize, bool) -> Result<String, Error>,
) -> Result<Vec<Turn>, Error> {
    let turn = |message: usize| {
        let prompt = render(message, true)?;
        let end = if message + 1 == count {
            Some(text.len())
        } else {
            let through = render(message + 1, false)?;
            text.starts_with(&through).then_some(through.len())
        };
        match end {
            Some(end) if text.starts_with(&prompt) && prompt.len() <= end => Ok(Turn {
                message,
                span: prompt.len()..end,
            }),
            _ => Err(Error::PrefixNotPreserved {
                template: template.to_owned(),
                turn: message,
            }),
        }
    };
    wanted.iter().copied().map(turn).collect()
}

fn assistant(messages: &[Message]) -> Vec<usize> {
    (0..messages.len())
        .filter(|index| messages[*index].role == Role::Assistant)
        .collect()
}
