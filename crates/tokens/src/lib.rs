//! Examples as a model reads them: chat template, encoding and loss mask, packing, packed files, batches.
//!
//! One path for every tool: [`Chat::example`] is what the packer writes and the trainer learns,
//! [`Chat::render`] with the generation prompt is what the evaluator asks. Read in order:
//! [`template`] (messages to text) → `encode` (text to token ids) → [`mask`] (which tokens are
//! learned) → [`packing`] (examples into rows) → [`shard`] (rows on disk) → [`batch`] (rows for the model).

pub mod batch;
pub mod chat;
pub mod date;
mod encode;
mod error;
pub mod mask;
pub mod packing;
pub mod plain;
pub mod prompting;
mod python;
pub mod shard;
pub mod template;
mod turns;
pub mod vocabulary;

pub use batch::Batch;
pub use chat::{Chat, ChatOptions};
pub use date::Date;
pub use error::Error;
pub use mask::{Encoded, TrainOn};
pub use packing::{Packing, Piece, Rows, pack};
pub use plain::{PlainEncoder, PlainTokens};
pub use prompting::Prompting;
pub use shard::{Counts, Meta, Part, Row, Shard};
pub use vocabulary::{Fingerprint, Vocabulary, base_files};
