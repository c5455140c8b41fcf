//! What an answer is worth: scores for one answer, summaries over many, and whether a difference is real.
//!
//! Plain strings and numbers in, plain numbers out: no tensor, no tokenizer, no file. Scores that have a
//! well-known implementation are equal to it (rouge-score, sacrebleu, scikit-learn, bert_score), so that a figure
//! printed here can stand beside a published one.

pub mod bertscore;
pub mod bleu;
pub mod calibration;
pub mod chrf;
pub mod classification;
pub mod interval;
pub mod json;
pub mod matching;
pub mod paired;
mod porter;
pub mod rouge;
