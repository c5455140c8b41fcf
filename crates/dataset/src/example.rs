//! What is one example, in any of the shapes the field writes down?

mod written;

pub(crate) use written::preference;

use std::fmt::{self, Display};

use serde::Serialize;
use serde_json::{Map, Value};

/// The label of a token that is not learned, as in PyTorch.
pub const IGNORED_LABEL: i64 = -100;

/// One line of a training file.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// `{"messages": […]}`, or TRL's `{"prompt": […], "completion": […]}` with message lists.
    Chat(Chat),
    /// `{"prompt": "…", "completion": "…"}`: the prompt is context, the completion is learned.
    Completion { prompt: String, completion: String },
    /// `{"text": "…"}`: all of it is learned.
    Text { text: String },
    /// `{"input_ids": […], "labels": […]}`: somebody else's tokenizer has been here.
    Tokens {
        input_ids: Vec<u32>,
        /// As many as `input_ids`; a label is not shifted, and `None` stands for -100.
        labels: Option<Vec<Option<u32>>>,
    },
}

/// A conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// In the order they were said.
    pub messages: Vec<Message>,
    /// Functions the assistant may call, as JSON schemas. To a template an empty list is not none.
    pub tools: Option<Vec<Value>>,
    /// Passed to the chat template as they are.
    pub chat_template_kwargs: Map<String, Value>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; text parts are joined. `None` only beside tool calls.
    pub content: Option<String>,
    /// 0: this assistant message is context and not learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// OpenAI's tool calls, their `arguments` as an object, which is what templates expect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// The call that a `tool` message answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What else a template may ask for (`reasoning_content`, `thinking`, …), as it was written.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Message {
    /// A plain message.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        let content = Some(content.into());
        Message {
            role,
            content,
            weight: None,
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            more: Map::new(),
        }
    }

    /// Is this a message to learn: the assistant's, and not weighted 0?
    pub fn is_learned(&self) -> bool {
        self.role == Role::Assistant && self.weight != Some(0)
    }
}

/// Who speaks. The names are OpenAI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Role; 6] = [
        Role::System,
        Role::Developer,
        Role::User,
        Role::Assistant,
        Role::Tool,
        Role::Function,
    ];

    /// The role of this name.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Its name in a file.
    pub const fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
            Role::Function => "function",
        }
    }
}

impl Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        Example::from_json(line).unwrap_err().to_string()
    }

    #[test]
    fn every_shape_of_the_field_is_read() {
        let Example::Chat(chat) = Example::from_json(
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0}],"id":7}"#,
        )
        .unwrap() else {
            panic!("a chat")
        };
        assert_eq!(chat.messages[0], Message::new(Role::User, "a"));
        assert!(!chat.messages[1].is_learned());
        let completion = Example::from_json(r#"{"prompt":"a","completion":"b"}"#).unwrap();
        assert_eq!(
            completion,
            Example::Completion {
                prompt: "a".into(),
                completion: "b".into()
            }
        );
        assert_eq!(
            Example::from_json(r#"{"text":"t"}"#).unwrap(),
            Example::Text { text: "t".into() }
        );
        let tokens = Example::from_json(r#"{"input_ids":[1,2],"labels":[-100,2]}"#).unwrap();
        assert_eq!(
            tokens,
            Example::Tokens {
                input_ids: vec![1, 2],
                labels: Some(vec![None, Some(2)])
            }
        );
    }

    #[test]
    fn of_a_prompt_in_messages_nothing_is_learned() {
        let line = r#"{"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},
            {"role":"user","content":"c"}],"completion":[{"role":"assistant","content":"d"}]}"#;
        let Example::Chat(chat) = Example::from_json(line).unwrap() else {
            panic!("a chat")
        };
        let learned: Vec<bool> = chat.messages.iter().map(Message::is_learned).collect();
        assert_eq!(learned, [false, false, false, true]);
    }

    #[test]
    fn arguments_of_a_tool_call_are_opened() {
        let line = r#"{"messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"function",
            "function":{"name":"f","arguments":"{\"a\": 1}"}}]}]}"#;
        let Example::Chat(chat) = Example::from_json(line).unwrap() else {
            panic!("a chat")
        };
        assert_eq!(
            chat.messages[0].tool_calls[0]["function"]["arguments"]["a"],
            1
        );
    }

    #[test]
    fn an_empty_list_of_tools_is_not_none() {
        let tools = |tools: &str| {
            let line = format!(r#"{{"messages":[{{"role":"user","content":"a"}}]{tools}}}"#);
            match Example::from_json(&line).unwrap() {
                Example::Chat(chat) => chat.tools,
                _ => panic!("a chat"),
            }
        };
        assert_eq!(tools(""), None);
        assert_eq!(tools(r#","tools":null"#), None);
        assert_eq!(tools(r#","tools":[]"#), Some(Vec::new()));
        assert_eq!(tools(r#","tools":"[]""#), Some(Vec::new()));
    }

    #[test]
    fn what_a_template_is_always_given_is_no_variable_of_an_example() {
        for name in ["messages", "tools", "add_generation_prompt"] {
            let said = error(&format!(
                r#"{{"messages":[{{"role":"user","content":"a"}}],"chat_template_kwargs":{{"{name}":1}}}}"#
            ));
            let expected =
                format!("chat_template_kwargs.{name} is what every template is given anyway");
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn an_error_names_the_place() {
        assert_eq!(
            error(r#"{"messages":[{"role":"bot","content":"a"}]}"#),
            r#"messages[0].role "bot" is none of system, developer, user, assistant, tool, function"#
        );
        assert_eq!(
            error(r#"{"messages":[{"role":"user","content":"a"},{"role":"user"}]}"#),
            "messages[1] has neither content nor tool_calls"
        );
        assert_eq!(
            error(r#"{"input_ids":[1],"labels":[1,2]}"#),
            "2 labels for 1 input_ids"
        );
        assert_eq!(error(r#"{"messages":[}"#), "expected value at column 14");
    }
}
