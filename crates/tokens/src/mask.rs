//! Which tokens are learned: the assistant's, from its first through the end-of-turn token.

use std::ops::Range;

pub use dataset::Encoded;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::encode::Tokens;
use crate::turns::Turn;

/// Which assistant turns are targets. A message's own `weight` 0 takes it out in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainOn {
    #[default]
    All,
    Last,
}

/// Marks the tokens that touch a turn's span, less the whitespace after its end-of-turn token and the
/// prompt's last token where that took in the spaces the answer begins with: an added token of `rstrip`.
pub(crate) fn loss_mask(
    text: &str,
    tokens: &Tokens,
    turns: &[Turn],
    end_of_turn: &[u32],
    is_added: impl Fn(u32) -> bool,
    template: &str,
) -> Result<Vec<u8>, Error> {
    let mut loss_mask = vec![0; tokens.ids.len()];
    for turn in turns {
        let mut targets = touching(tokens, &turn.span);
        let is_of_prompt = |token: usize| {
            let (from, to) = tokens.offsets[token];
            let said_to = from + text[from..to].trim_end().len();
            from < turn.span.start && said_to <= turn.span.start && is_added(tokens.ids[token])
        };
        while targets.clone().next().is_some_and(is_of_prompt) {
            targets.start += 1;
        }
        while let Some(last) = targets.clone().next_back()
            && !end_of_turn.contains(&tokens.ids[last])
        {
            let (from, to) = tokens.offsets[last];
            if !text[from..to].trim().is_empty() {
                let (template, turn) = (template.to_owned(), turn.message);
                return Err(Error::NoEndOfTurn { template, turn });
            }
            targets.end -= 1;
        }
        if targets.is_empty() {
            let (template, turn) = (template.to_owned(), turn.message);
            return Err(Error::NoEndOfTurn { template, turn });
        }
        loss_mask[targets].fill(1);
    }
    if let Some(first) = loss_mask.first_mut() {
        *first = 0; // nothing stands before it to predict it from
    }
    Ok(loss_mask)
}

/// Offsets never fall, so the tokens that touch a span are a range.
fn touching(tokens: &Tokens, span: &Range<usize>) -> Range<usize> {
    let start = tokens.offsets.partition_point(|(_, to)| *to <= span.start);
    let end = tokens.offsets.partition_point(|(from, _)| *from < span.end);
    start..end.max(start)
}
