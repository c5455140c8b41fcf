//! What a forward pass reads: sequences laid end to end, without padding.

use crate::Error;

/// Sequences of a batch, concatenated; they never see each other.
///
/// Token-major and ragged: there is no row and no padding here, only `offsets`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids of all sequences, `[tokens]`.
    pub input_ids: Vec<u32>,
    /// Where each sequence starts; the last entry is the number of tokens.
    pub offsets: Vec<usize>,
    /// 1 where a token is a target, predicted from the one before it, `[tokens]`.
    pub loss_mask: Vec<u8>,
}

impl Batch {
    /// One sequence, with every token after the first a target.
    pub fn sequence(input_ids: Vec<u32>) -> Self {
        let mut loss_mask = vec![1; input_ids.len()];
        if let Some(first) = loss_mask.first_mut() {
            *first = 0;
        }
        Self {
            offsets: vec![0, input_ids.len()],
            input_ids,
            loss_mask,
        }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// The number of tokens the loss is taken over.
    pub fn targets(&self) -> usize {
        self.offsets
            .windows(2)
            .map(|s| {
                self.loss_mask[s[0]..s[1]]
                    .iter()
                    .skip(1)
                    .filter(|&&mask| mask != 0)
                    .count()
            })
            .sum()
    }

    /// Positions restart at 0 with each sequence, `[tokens]`.
    pub(crate) fn position_ids(&self) -> Vec<u32> {
        self.offsets
            .windows(2)
            .flat_map(|s| 0..(s[1] - s[0]) as u32)
            .collect()
    }

    /// The rows of the hidden state that predict a target, and those targets.
    pub(crate) fn predictions(&self) -> (Vec<usize>, Vec<u32>) {
        self.offsets
            .windows(2)
            .flat_map(|s| s[0] + 1..s[1].max(s[0] + 1))
            .filter(|&i| self.loss_mask[i] != 0)
            .map(|i| (i - 1, self.input_ids[i]))
            .unzip()
    }

    pub(crate) fn check(&self, vocab_size: usize) -> Result<(), Error> {
        assert_eq!(
            self.loss_mask.len(),
            self.input_ids.len(),
            "one mask entry a token"
        );
        assert_eq!(
            self.offsets.last(),
            Some(&self.input_ids.len()),
            "offsets end at the tokens' end"
        );
        match self.input_ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(Error::TokenId { id, vocab_size }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_of_a_sequence_is_no_target_whatever_its_mask_says() {
        let batch = Batch {
            input_ids: vec![5, 6, 7, 8, 9],
            offsets: vec![0, 2, 5],
            loss_mask: vec![1, 1, 1, 0, 1],
        };
        assert_eq!(batch.targets(), 2);
        assert_eq!(batch.predictions(), (vec![0, 3], vec![6, 9]));
        assert_eq!(batch.position_ids(), [0, 1, 0, 1, 2]);
    }
}
