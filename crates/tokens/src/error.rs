//! What can go wrong between a line of data and a packed row, and the way out of it.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Base { path: PathBuf, reason: String },
    #[error("{}: no tokenizer.json in this folder", dir.display())]
    NoTokenizer { dir: PathBuf },
    #[error("{}: this base has no chat template", dir.display())]
    NoTemplate { dir: PathBuf },
    #[error("{template}: {reason}")]
    TemplateSyntax { template: String, reason: String },
    #[error("{template} cannot render this conversation: {reason}")]
    Render { template: String, reason: String },
    #[error(
        "{template} rewrites the conversation before messages[{turn}] once more follows, \
         so what the assistant said there cannot be told from the prompt"
    )]
    PrefixNotPreserved { template: String, turn: usize },
    #[error(
        "{template} marks {spans} assistant spans for {turns} assistant messages, \
         so it is unclear which span is which message"
    )]
    GenerationSpans {
        template: String,
        spans: usize,
        turns: usize,
    },
    #[error("{template} does not end the assistant's messages[{turn}] with an end-of-turn token")]
    NoEndOfTurn { template: String, turn: usize },
    #[error("{given} renders this conversation otherwise than the base's own {own}")]
    TemplateDiffers { given: String, own: String },
    #[error("no token of this example would be learned: {reason}")]
    NothingSupervised { reason: &'static str },
    #[error("{template} starts with the beginning-of-sequence token twice")]
    DoubleBos { template: String },
    #[error("the text holds U+{:04X}, a noncharacter this program reserves for marking", *character as u32)]
    ReservedCharacter { character: char },
    #[error("the tokenizer cannot encode this text: {reason}")]
    Encode { reason: String },
    #[error("{}: this base names no end-of-sequence token to end a plain text with", dir.display())]
    NoEos { dir: PathBuf },
    #[error(
        "{}: gives token id {id}, and config.json beside it names a vocabulary of {vocab_size}",
        tokenizer.display()
    )]
    OutsideVocabulary {
        tokenizer: PathBuf,
        id: u32,
        vocab_size: usize,
    },
    #[error(transparent)]
    Example(#[from] dataset::Error),
    #[error("{}: {reason}", path.display())]
    Shard { path: PathBuf, reason: String },
    #[error("{}: packed {what}", path.display())]
    ForeignShard { path: PathBuf, what: String },
}

impl Error {
    /// The way out, where there is one that does not depend on the tool.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::NoTokenizer { .. } => {
                "model-import writes a base folder with its tokenizer.json"
            }
            Error::NoTemplate { .. } => "give one with --chat-template FILE",
            Error::PrefixNotPreserved { .. } => {
                "--train-on last learns the final answer only; or give a template that marks \
                 {% generation %} with --chat-template FILE"
            }
            Error::TemplateDiffers { .. } => {
                "a model prompted by one template and trained on another answers badly; put the \
                 template into the base folder as chat_template.jinja if it is the one to use"
            }
            Error::GenerationSpans { .. } => {
                "the template should open one {% generation %} block for each assistant message"
            }
            Error::NoEndOfTurn { .. } => {
                "a model trained so would never stop; give a template that ends each answer with \
                 the end-of-turn token with --chat-template FILE"
            }
            Error::NothingSupervised { .. } => {
                "an example needs an answer to learn; jsonl-validate finds those without, and \
                 --drop-invalid leaves them out"
            }
            Error::OutsideVocabulary { .. } => {
                "one of the two is another model's: model-import writes a base folder whose tokens \
                 all have a row in its embedding"
            }
            Error::Shard { .. } => "pack it again with this build's tokenize-pack",
            Error::ForeignShard { .. } => "pack it again with tokenize-pack --base of this base",
            _ => return None,
        })
    }
}
