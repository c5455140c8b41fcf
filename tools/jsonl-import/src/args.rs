//! What can be asked of jsonl-import?

use clap::{Parser, ValueEnum};
use cli::{CommonArgs, Input, Output};
use dataset::convert::AlpacaPrompt;
use dataset::template::OnEmpty;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  jsonl-import notes.csv --system 'Answer with JSON.' --user '{{ note }}' \\
      --assistant '{{ {\"code\": code} | tojson }}' -o chat.jsonl
  psql --csv -c 'select q, a from faq' |
      jsonl-import - --user '{{ q }}' --assistant '{{ a }}' > chat.jsonl
  jsonl-import sharegpt.json --map conversations=dialog --map from=speaker > chat.jsonl
  jsonl-import alpaca.json --alpaca-prompt stanford > chat.jsonl

Templates are Jinja over the columns of a row. A column whose name is no identifier is
row[\"its name\"]; tojson prints like Python's json.dumps(…, ensure_ascii=False), and takes its
indent, separators and sort_keys; text has Python's methods, {{ note.strip() }}. A column that is not
there is an error, unless the template says what then: {{ note | default('') }}. So is an empty cell,
unless the template tests it, {% if note %}, or says default('', true).
Some tsv files quote cells as a csv does (spreadsheets, pandas), in others a quote is text (IANA's
tsv, most corpora). Unless --quoting says which, quotes quote, and where that could hide a row it
is an error.
Without --user and --assistant every record tells its shape by its keys: messages (OpenAI),
conversations (ShareGPT, in its words for who speaks or OpenAI's), instruction and output (Alpaca),
prompt and completion, text. Beside these system, tools, functions, chat_template_kwargs,
parallel_tool_calls and metadata are kept; lists and objects may be JSON in the cell of a table.
Other keys are named at the end. Preference data (rejected, or label: false, in a table False, f,
no, n or 0, unless --keep label) is an error.";

/// Turns tables and other people's training data into chat JSONL
#[derive(Debug, Parser, Serialize)]
#[command(name = "jsonl-import", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Args {
    /// A table, a file of records, or a folder with train.jsonl, valid.jsonl, test.jsonl (mlx-lm)
    #[arg(value_name = "FILE", default_value = "-")]
    pub input: Input,
    /// Where the chat JSONL goes
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: Output,
    /// How the bytes are laid out; else told by the file's name, else by its first byte
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<TableFormat>,
    /// What separates the columns of a csv, \t being a tab [default: ,]
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    pub delimiter: Option<char>,
    /// What a quote at the beginning of a cell of a csv or tsv means [default: minimal, and in a tsv an
    /// error where either would do]
    #[arg(long, value_name = "HOW")]
    pub quoting: Option<Quoting>,
    /// Names for the columns of a table without a header (sqlite3 -csv), separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// The system prompt: a template with --user, else put before conversations that have none
    #[arg(long, value_name = "TEMPLATE")]
    pub system: Option<String>,
    /// Template of the user message
    #[arg(long, value_name = "TEMPLATE", requires = "assistant")]
    pub user: Option<String>,
    /// Template of the assistant message, which is what is learned
    #[arg(long, value_name = "TEMPLATE", requires = "user")]
    pub assistant: Option<String>,
    /// What to do with a row when a cell that is needed is empty
    #[arg(long, value_name = "WHAT", default_value = "error")]
    pub on_empty: Empty,
    /// Copy this column into the line's metadata, for jsonl-split --group-by metadata.COLUMN
    #[arg(long, value_name = "COLUMN")]
    pub keep: Vec<String>,
    /// The file's name for a key we know: --map messages=dialog --map role=speaker
    #[arg(long, value_name = "OURS=THEIRS", conflicts_with = "user", value_parser = pair)]
    pub map: Vec<String>,
    /// How Alpaca's instruction and input become one prompt; a model hears the difference
    #[arg(long, value_name = "CONVENTION", conflicts_with = "user")]
    pub alpaca_prompt: Option<Alpaca>,
    /// Write the fate of every row to this CSV
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<Output>,
    #[command(flatten)]
    #[serde(flatten)]
    pub common: CommonArgs,
}

/// How the bytes of the input are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// Comma-separated, RFC 4180, with a header
    Csv,
    /// Tab-separated, with a header; see --quoting
    Tsv,
    /// One JSON object a line
    Jsonl,
    /// A JSON array of objects, or several one after the other
    Json,
    /// Each line is a row with one column, text
    Text,
}

/// `--quoting`, as Python's csv and pandas name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quoting {
    /// It opens a cell that may hold delimiters, line breaks and, doubled, quotes (spreadsheets)
    Minimal,
    /// Nothing, it is text (IANA's tsv, most corpora)
    None,
}

/// `--on-empty`
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Empty {
    /// Stop, and name line and column
    Error,
    /// Leave the row out
    Skip,
    /// Write it all the same
    Keep,
}

impl From<Empty> for OnEmpty {
    fn from(empty: Empty) -> OnEmpty {
        match empty {
            Empty::Error => OnEmpty::Error,
            Empty::Skip => OnEmpty::Skip,
            Empty::Keep => OnEmpty::Keep,
        }
    }
}

/// `--alpaca-prompt`
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Alpaca {
    /// instruction, newline, input (LLaMA-Factory)
    Plain,
    /// Stanford's preamble with ### Instruction: and ### Response:
    Stanford,
}

impl From<Alpaca> for AlpacaPrompt {
    fn from(prompt: Alpaca) -> AlpacaPrompt {
        match prompt {
            Alpaca::Plain => AlpacaPrompt::Plain,
            Alpaca::Stanford => AlpacaPrompt::Stanford,
        }
    }
}

/// One byte, which neither quotes nor ends a line.
fn delimiter(text: &str) -> Result<char, String> {
    let text = if text == "\\t" { "\t" } else { text };
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(char::from(*byte)),
        _ => Err("it is one ASCII character, or \\t, and neither a quote nor a line's end".into()),
    }
}

/// The keys that records are read by, in any of their shapes.
const KNOWN_KEYS: [&str; 19] = [
    "messages",
    "role",
    "content",
    "conversations",
    "from",
    "value",
    "system",
    "tools",
    "functions",
    "instruction",
    "input",
    "output",
    "history",
    "prompt",
    "completion",
    "text",
    "chat_template_kwargs",
    "parallel_tool_calls",
    "metadata",
];

/// Checked here, taken apart in `run`: a config prints and reads it as it was written.
fn pair(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((ours, theirs)) if !ours.is_empty() && !theirs.is_empty() => {
            if KNOWN_KEYS.contains(&ours) {
                Ok(text.to_owned())
            } else {
                let known = KNOWN_KEYS.join(", ");
                Err(format!("no key {ours:?} is known here; known are {known}"))
            }
        }
        _ => Err("write OURS=THEIRS".into()),
    }
}
