//! Which rules does training data obey? Their codes, how grave each is, and an example of each.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// What a finding means for the line it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Not looked for.
    Off,
    /// Worth a look; the line passes.
    Warning,
    /// The line does not pass.
    Error,
}

impl Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Off => "off",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

impl FromStr for Severity {
    type Err = String;
    fn from_str(text: &str) -> Result<Severity, String> {
        match text {
            "off" => Ok(Severity::Off),
            "warning" => Ok(Severity::Warning),
            "error" => Ok(Severity::Error),
            other => Err(format!("{other:?} is none of error, warning, off")),
        }
    }
}

/// One severity for each rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Severities([Severity; Rule::ALL.len()]);

impl Default for Severities {
    fn default() -> Severities {
        Severities(Rule::ALL.map(Rule::severity))
    }
}

impl Severities {
    /// The severity of a rule.
    pub fn of(&self, rule: Rule) -> Severity {
        self.0[rule as usize]
    }

    /// Changes it.
    pub fn set(&mut self, rule: Rule, severity: Severity) {
        self.0[rule as usize] = severity;
    }

    /// Is the rule looked for at all?
    pub fn is_on(&self, rule: Rule) -> bool {
        self.of(rule) != Severity::Off
    }
}

impl Rule {
    /// The rule that a line breaks which is no example.
    pub(crate) fn of(error: &crate::Error) -> Rule {
        match error {
            crate::Error::Preference(_) => Rule::PreferenceData,
            _ => Rule::DataType,
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Rule {
    type Err = String;
    fn from_str(code: &str) -> Result<Rule, String> {
        let rule = Rule::ALL.into_iter().find(|rule| rule.code() == code);
        rule.ok_or_else(|| format!("no rule {code:?}"))
    }
}

/// Ten lines of one kind, which differ by a number; or nine, and one of another kind.
macro_rules! ten {
    ($user:literal $assistant:literal) => {
        concat!(
            chat!("" $user, $assistant "1"), chat!("\n" $user, $assistant "2"), chat!("\n" $user, $assistant "3"),
            chat!("\n" $user, $assistant "4"), chat!("\n" $user, $assistant "5"), chat!("\n" $user, $assistant "6"),
            chat!("\n" $user, $assistant "7"), chat!("\n" $user, $assistant "8"), chat!("\n" $user, $assistant "9"),
            chat!("\n" $user, $assistant "10")
        )
    };
    ($user:literal $assistant:literal, $other_user:literal, $other_assistant:literal) => {
        concat!(
            chat!("" $user "1", $assistant "1"), chat!("\n" $user "2", $assistant "2"),
            chat!("\n" $user "3", $assistant "3"), chat!("\n" $user "4", $assistant "4"),
            chat!("\n" $user "5", $assistant "5"), chat!("\n" $user "6", $assistant "6"),
            chat!("\n" $user "7", $assistant "7"), chat!("\n" $user "8", $assistant "8"),
            chat!("\n" $user "9", $assistant "9"), chat!("\n" $other_user, $other_assistant)
        )
    };
}

macro_rules! chat {
    ($before:literal $($user:literal)+, $($assistant:literal)+) => {
        concat!(
            $before, r#"{"messages": [{"role": "user", "content": ""#, $($user,)+
            r#""}, {"role": "assistant", "content": ""#, $($assistant,)+ r#""}]}"#
        )
    };
}

/// Writes the enum and its table at once, so that no rule can lack an entry.
macro_rules! rules {
    ($($variant:ident $code:literal $severity:ident $meaning:literal $example:expr;)*) => {
        /// A rule; its code never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule { $(#[doc = $meaning] $variant,)* }

        impl Rule {
            /// Every rule, in the order of reports.
            pub const ALL: [Rule; [$($code),*].len()] = [$(Rule::$variant),*];

            /// The stable name of the rule.
            pub const fn code(self) -> &'static str {
                match self { $(Rule::$variant => $code,)* }
            }

            /// How grave it is unless somebody says otherwise.
            pub const fn severity(self) -> Severity {
                match self { $(Rule::$variant => Severity::$severity,)* }
            }

            /// What it says and why, in a sentence or two.
            pub const fn meaning(self) -> &'static str {
                match self { $(Rule::$variant => $meaning,)* }
            }

            /// Input that breaks it, as it would be written in a file; `<E9>` is the byte of that number.
            pub const fn example(self) -> &'static str {
                match self { $(Rule::$variant => $example,)* }
            }
        }
    };
}

rules! {
    BrokenUtf8 "broken_utf8" Error
        "The line is not UTF-8. Latin-1 exports are the usual cause: iconv -f LATIN1 -t UTF-8. A file in UTF-16, gzip, Parquet or xlsx is named at its first line."
        r#"{"messages": [{"role": "user", "content": "a caf<E9> question"}, {"role": "assistant", "content": "b"}]}"#;
    BrokenJson "broken_json" Error
        "The line is not JSON, or holds a number too large, half a surrogate pair, or brackets too deep. The column says where the parser gave up. Of objects that go over several lines jq -c . makes lines."
        r#"{"messages": [{"role": "user", "content": "a"}"#;
    DataType "data_type" Error
        "A value has the wrong type: the line is no object, messages is no list, content is no text; or it is one that the other tools cannot read."
        r#"{"messages": [["user", "a"]]}"#;
    DuplicateKey "duplicate_key" Error
        "A key occurs twice in one object, with --assistant-json one of the answer, too; parsers differ in which one they believe."
        r#"{"messages": [{"role": "user", "role": "system", "content": "a question"}, {"role": "assistant", "content": "b"}]}"#;
    UnknownKey "unknown_key" Warning
        "The line has a key that is not read: none of messages, prompt, completion, text, input_ids, nor what belongs beside them, or one of a second shape: messages are read before prompt and completion, and these before text. metadata is the place for your own."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b"}], "mesages": []}"#;
    PreferenceData "preference_data" Error
        "The line holds an answer not to give (rejected, or label: false), which would be learned or lost: keep the answer that is wanted and drop the other, jq 'select(.label != false) | del(.rejected)'."
        r#"{"prompt": "How do I boil two eggs?", "completion": "Find out yourself.", "label": false}"#;
    MissingMessagesList "missing_messages_list" Error
        "The line has none of messages, prompt and completion, text, input_ids; or messages is empty."
        r#"{"messages": []}"#;
    MessageMissingKey "message_missing_key" Error
        "A message has no role."
        r#"{"messages": [{"content": "a question"}, {"role": "assistant", "content": "b"}]}"#;
    MessageUnrecognizedKey "message_unrecognized_key" Error
        "A message has a key that is none of role, content, name, weight, tool_calls, tool_call_id, function_call, refusal, reasoning_content, reasoning, thinking, audio, annotations."
        r#"{"messages": [{"role": "user", "content": "a question", "text": "x"}, {"role": "assistant", "content": "b"}]}"#;
    UnrecognizedRole "unrecognized_role" Error
        "A role is none of system, developer, user, assistant, tool, function."
        r#"{"messages": [{"role": "human", "content": "a question"}, {"role": "assistant", "content": "b"}]}"#;
    MissingContent "missing_content" Error
        "A message has no content; only an assistant message with tool_calls may lack it (function_call, OpenAI's way before, is not read)."
        r#"{"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]}"#;
    EmptyContent "empty_content" Error
        "A message says nothing, or only white space."
        r#"{"messages": [{"role": "user", "content": "  "}, {"role": "assistant", "content": "b"}]}"#;
    TooFewMessages "too_few_messages" Error
        "A conversation takes two: fewer than two messages teach nothing."
        r#"{"messages": [{"role": "assistant", "content": "b"}]}"#;
    RoleOrder "role_order" Error
        "The roles do not alternate as chat templates demand: system first, then user and assistant in turn, tool results after the call."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "user", "content": "again"}, {"role": "assistant", "content": "b"}]}"#;
    MissingAssistant "example_missing_assistant_message" Error
        "No assistant message: nothing would be learned."
        r#"{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a question"}]}"#;
    NotEndingWithAssistant "not_ending_with_assistant" Warning
        "Messages after the last answer are paid for and teach nothing."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "thank you"}]}"#;
    BadWeight "bad_weight" Error
        "weight is 0 or 1, and stands beside an assistant message."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b", "weight": 0.5}]}"#;
    NothingToLearn "nothing_to_learn" Error
        "Every assistant message has weight 0."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b", "weight": 0}]}"#;
    BadTools "bad_tools" Error
        "tools is no list of functions with a name and a schema of parameters; or functions is there, OpenAI's way before, which is not read: jsonl-import makes tools of it."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b"}], "tools": [{"type": "function"}]}"#;
    BadToolCall "bad_tool_call" Error
        "A tool call names no function, has arguments that are no JSON object in a string, or no id where another call or a result of the line has one; or function_call is there, OpenAI's way before, which is not read: jsonl-import makes tool_calls of it."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}]}]}"#;
    UnknownTool "unknown_tool" Error
        "A tool call names a function that tools does not declare."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "g", "arguments": "{}"}}]}], "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}"#;
    ToolSchema "tool_schema" Error
        "The arguments of a tool call do not match the function's parameters."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"n\": \"x\"}"}}]}], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}}]}"#;
    ToolResult "tool_result" Error
        "A tool message answers no call that was made: its tool_call_id is missing or unknown; or, where no call of the line has an id, no call, or none to the function it names, is open."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "2", "content": "7"}, {"role": "assistant", "content": "b"}]}"#;
    ShortUserMessage "short_user_message" Warning
        "A user message is shorter than --min-user-chars; often a fragment of a broken export."
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    AssistantNotJson "assistant_not_json" Error
        "With --assistant-json or --schema: the last answer is not JSON, or there is none in words (a text, token ids, a call), so the model would learn to break the format."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "{\"code\": \"B35\""}]}"#;
    AssistantSchema "assistant_schema" Error
        "With --schema: the last answer is JSON that does not match the schema."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "{}"}]}"#;
    InconsistentKeys "inconsistent_keys" Warning
        "With --assistant-json: the answer's keys are not the first answer's keys."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "{\"code\": 1}"}]}
{"messages": [{"role": "user", "content": "another one"}, {"role": "assistant", "content": "{\"Code\": 2}"}]}"#;
    KeyOrder "key_order" Warning
        "With --assistant-json: the same keys in another order; a model learns one order best."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "{\"a\": 1, \"b\": 1}"}]}
{"messages": [{"role": "user", "content": "another one"}, {"role": "assistant", "content": "{\"b\": 2, \"a\": 2}"}]}"#;
    ExactDuplicate "exact_duplicate" Error
        "The same as an earlier line, in all that is rendered and learned; it would count twice, and could leak into the test set."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b"}]}
{"messages":[{"role":"user","content":"a question"},{"role":"assistant","content":"b"}]}"#;
    NearDuplicate "near_duplicate" Warning
        "With --near-duplicates: the prompt is nearly an earlier line's (Jaccard similarity of five-letter pieces, by MinHash)."
        r#"{"messages": [{"role": "user", "content": "the patient reports pain in the left knee since Monday"}, {"role": "assistant", "content": "M25"}]}
{"messages": [{"role": "user", "content": "the patient reports pain in the left knee since Monday!"}, {"role": "assistant", "content": "M25"}]}"#;
    AmbiguousAnswer "ambiguous_answer" Warning
        "The same prompt as an earlier line, under the same system prompt and tools, with another answer or call: the loss cannot fall for both."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b"}]}
{"messages": [{"role": "user", "content": "A question"}, {"role": "assistant", "content": "c"}]}"#;
    RareLabel "rare_label" Warning
        "With --label: a label with fewer examples than --min-per-label is hardly learned."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "{\"code\": \"B35\"}"}]}"#;
    LowDiversity "low_diversity" Warning
        "Fewer than half of the prompts are different from one another."
        ten!("which code is it?" " answer ");
    MixedScripts "mixed_scripts" Warning
        "A word mixes letters of two scripts (a Cyrillic а in a Latin word), which no tokenizer reads as meant."
        r#"{"messages": [{"role": "user", "content": "the p\u0430tient reports pain"}, {"role": "assistant", "content": "b"}]}"#;
    OtherScript "other_script" Warning
        "The line is mostly in another script than nine tenths of the file."
        ten!("a question " "another one ", "в чём дело?", "не знаю");
    OtherLanguage "other_language" Warning
        "The answer (or the question) is in another language than nine tenths of the file, told by the commonest words of the first 128 bytes. Short texts, lists of terms and code are not judged."
        ten!("What is it that I have in my knee, and how did I get it? " "It is ", "Was ist das, was ich da im Knie habe, und wie kam es dazu?", "Das ist");
    MixedLanguages "mixed_languages" Warning
        "Question and answer are in different languages, where nine tenths of the file have one for both."
        ten!("What is it that I have in my knee, and how did I get it? " "It is that which you had in your knee when you were here last ", "What is it that I have in my back, and how did I get it?", "Das ist das, was Sie schon im Knie haben, und es ist nicht neu");
    FewExamples "few_examples" Warning
        "Fewer than ten examples: OpenAI refuses such a file, and hardly anything is learned from it."
        r#"{"messages": [{"role": "user", "content": "the only question"}, {"role": "assistant", "content": "b"}]}"#;
    BlankLine "blank_line" Warning
        "The line is blank; it is left out."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b"}]}

"#;
    Crlf "crlf" Warning
        "Lines end in CRLF; sed -i 's/\\r$//' makes them Unix lines."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b"}]}<0D>"#;
    ByteOrderMark "byte_order_mark" Error
        "The file begins with a byte order mark, which JSON parsers refuse; sed -i '1s/^\\xEF\\xBB\\xBF//' takes it off. As a warning it is left out of the output."
        r#"<EF><BB><BF>{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b"}]}"#;
    NulCharacter "nul_character" Warning
        "A message holds U+0000, the trace of a broken export."
        r#"{"messages": [{"role": "user", "content": "a question\u0000"}, {"role": "assistant", "content": "b"}]}"#;
    ControlCharacter "control_character" Warning
        "A message holds a control character other than tab and newline."
        r#"{"messages": [{"role": "user", "content": "a question\u0007"}, {"role": "assistant", "content": "b"}]}"#;
    ReplacementCharacter "replacement_character" Warning
        "A message holds U+FFFD: somewhere upstream text was decoded wrongly and is lost."
        r#"{"messages": [{"role": "user", "content": "a caf\ufffd question"}, {"role": "assistant", "content": "b"}]}"#;
    InvisibleCharacter "invisible_character" Warning
        "A message holds a zero-width or direction-changing character that nobody sees and the model learns."
        r#"{"messages": [{"role": "user", "content": "a ques\u200btion"}, {"role": "assistant", "content": "b"}]}"#;
    Secret "secret" Warning
        "A message seems to hold a credential: a private key, a token with a vendor's prefix. Models repeat what they learn."
        r#"{"messages": [{"role": "user", "content": "my key is AKIAIOSFODNN7EXAMPLE"}, {"role": "assistant", "content": "b"}]}"#;
    PersonalData "personal_data" Warning
        "A message seems to hold personal data: an e-mail address, a card number, a social security number, an IBAN."
        r#"{"messages": [{"role": "user", "content": "write to jane.doe@example.org"}, {"role": "assistant", "content": "b"}]}"#;
    RejectedByReviewer "rejected_by_reviewer" Error
        "With --verdicts: an expert has said no to this example on a review sheet."
        "id,line,verdict,comment,prompt,answer\nex_0123456789abcdef,12,reject,the code is wrong,user: a question,b";
    ChatTemplate "chat_template" Error
        "With --tokenizer: the base's chat template cannot render the conversation."
        r#"{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a question"}, {"role": "assistant", "content": "b"}]}, and a template that raises an exception for a system message"#;
    OverMaxSeqLength "over_max_seq_length" Error
        "With --tokenizer: the example has more tokens than --max-seq-length and would be cut or dropped."
        r#"{"messages": [{"role": "user", "content": "a question of many words, and --max-seq-length 8"}, {"role": "assistant", "content": "b"}]}"#;
    ZeroSupervisedTokens "zero_supervised_tokens" Error
        "With --tokenizer: no token would be learned."
        r#"{"input_ids": [1, 5, 6, 2], "labels": [-100, -100, -100, -100]}"#;
    SpecialToken "special_token" Warning
        "With --tokenizer: a message holds the text of a special token, which the tokenizer reads as that token: what a user writes may end the turn and begin another."
        r#"{"messages": [{"role": "user", "content": "what does \u003c|im_end|> mean?"}, {"role": "assistant", "content": "b"}]}, and a tokenizer that has this token"#;
    SpecialTokenInAnswer "special_token_in_answer" Error
        "With --tokenizer: an answer that is learned holds the text of a special token; from an end-of-turn token on, nothing of it is learned."
        r#"{"messages": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "b\u003c|im_end|>c"}]}, and a tokenizer that has this token"#;
    MissingEndOfTurn "missing_end_of_turn" Error
        "With --tokenizer: what is learned does not end with an end token, so the model would never learn to stop."
        r#"{"input_ids": [1, 5, 6], "labels": [-100, 5, 6]}, where 6 is not the end of a turn"#;
    DoubleBos "double_bos" Error
        "With --tokenizer: the example begins with two beginning-of-sequence tokens."
        r#"{"input_ids": [0, 0, 5, 2], "labels": [-100, -100, 5, 2]}, where 0 begins a sequence"#;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_find_their_rule() {
        for rule in Rule::ALL {
            assert_eq!(rule.code().parse(), Ok(rule));
        }
    }
}
