//! A base folder's tokenizer and chat template as one thing: conversations to learn, prompts to ask.

use std::path::{Path, PathBuf};

use dataset::{Example, Message, Pretokenized};
use minijinja::value::{Serde, Value};

use crate::encode::Encoder;
use crate::mask::{self, Encoded, TrainOn};
use crate::template::{Rendered, Template, Variables, refuse_marks};
use crate::vocabulary::{Source, TemplateSources, special_tokens};
use crate::{Date, Error, Fingerprint, Prompting, Vocabulary, turns};

/// Tokens that end a turn in the families we know, where a base has them; its own `eos_token` and
/// the `eos_token_id`s of its two configurations count besides.
const END_OF_TURN: [&str; 15] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<｜end▁of▁sentence｜>",
    "<eos>",
    "</s>",
];

/// How to open a base's chat, where the defaults are not wanted.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    /// Instead of the base's own template.
    pub chat_template: Option<PathBuf>,
    /// What `strftime_now` returns, instead of the date in the base's [`Prompting`]. With neither the
    /// function is not defined, and templates that ask print the fixed date they carry.
    pub date: Option<Date>,
}

/// Tokenizer and chat template of a base folder.
pub struct Chat {
    dir: PathBuf,
    encoder: Encoder,
    templates: Option<Templates>,
    /// The base's own, where another was given: both must render the same text.
    own_templates: Option<Templates>,
    special_tokens: Vec<(String, String)>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    /// The tokenizer puts this before a text by itself.
    leading_bos: Option<u32>,
    end_of_turn_ids: Vec<u32>,
    vocabulary: Vocabulary,
    date: Option<Date>,
}

/// The chat templates of a base, compiled.
struct Templates {
    default: Template,
    tool_use: Option<Template>,
}

impl Templates {
    fn new(sources: &TemplateSources, date: Option<Date>) -> Result<Templates, Error> {
        let compile = |source: &Source| Template::new(&source.name, &source.text, date);
        Ok(Templates {
            default: compile(&sources.default)?,
            tool_use: sources.tool_use.as_ref().map(compile).transpose()?,
        })
    }

    /// As in transformers, a list of tools asks for the other one even if it is empty.
    fn of(&self, chat: &dataset::Chat) -> &Template {
        let tool_use = self.tool_use.as_ref().filter(|_| chat.tools.is_some());
        tool_use.unwrap_or(&self.default)
    }
}

impl Chat {
    pub fn open(dir: &Path) -> Result<Chat, Error> {
        Chat::open_with(dir, &ChatOptions::default())
    }

    pub fn open_with(dir: &Path, options: &ChatOptions) -> Result<Chat, Error> {
        let encoder = Encoder::open(dir)?;
        let date = match options.date {
            None => Prompting::read(dir)?.date,
            given => given,
        };
        let mut vocabulary = Vocabulary::open(dir)?;
        let own_sources = TemplateSources::read(dir)?;
        let given = options.chat_template.as_deref();
        let given_sources = given.map(TemplateSources::from_file).transpose()?;
        let sources = given_sources.as_ref().or(own_sources.as_ref());
        if own_sources.is_none() {
            vocabulary.fingerprint.template = sources.map(TemplateSources::fingerprint);
        }
        let compile = |sources: &TemplateSources| Templates::new(sources, date);
        let templates = sources.map(compile).transpose()?;
        let own_sources = own_sources.as_ref().filter(|_| given.is_some());
        let own_templates = own_sources.map(compile).transpose()?;

        let special_tokens = special_tokens(dir)?;
        let special_id = |name: &str| {
            let (_, text) = special_tokens.iter().find(|(known, _)| known == name)?;
            encoder.tokenizer().token_to_id(text)
        };
        let bos_token_id = special_id("bos_token");
        let eos_token_id = special_id("eos_token").or(vocabulary.eos_token_ids.first().copied());
        let leading_bos = bos_token_id.filter(|bos| encoder.leading_token() == Some(*bos));
        let added = encoder.tokenizer().get_added_tokens_decoder();
        let known = added
            .iter()
            .filter(|(_, token)| END_OF_TURN.contains(&token.content.as_str()));
        let mut end_of_turn_ids: Vec<u32> = known.map(|(id, _)| *id).collect();
        end_of_turn_ids.extend(eos_token_id);
        end_of_turn_ids.extend(&vocabulary.eos_token_ids);
        end_of_turn_ids.sort_unstable();
        end_of_turn_ids.dedup();
        Ok(Chat {
            dir: dir.to_owned(),
            encoder,
            templates,
            own_templates,
            special_tokens,
            bos_token_id,
            eos_token_id,
            leading_bos,
            end_of_turn_ids,
            vocabulary,
            date,
        })
    }

    /// The text of a conversation; with the generation prompt, the text the model is to continue.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let chat = dataset::Chat {
            messages: messages.to_vec(),
            ..Default::default()
        };
        Ok(self.render_chat(&chat, add_generation_prompt)?.text)
    }

    /// As [`Chat::render`], with tools and the conversation's own template variables.
    pub fn render_chat(
        &self,
        chat: &dataset::Chat,
        add_generation_prompt: bool,
    ) -> Result<Rendered, Error> {
        let messages = Value::from(values(&chat.messages));
        let variables = self.variables(chat).of(messages, add_generation_prompt);
        self.template(chat)?.render(&variables)
    }

    fn variables(&self, chat: &dataset::Chat) -> Variables {
        let tools = Value::from(Serde(&chat.tools));
        Variables::new(&self.special_tokens, &chat.chat_template_kwargs, tools)
    }

    fn template(&self, chat: &dataset::Chat) -> Result<&Template, Error> {
        let template = self.templates.as_ref().map(|templates| templates.of(chat));
        template.ok_or_else(|| Error::NoTemplate {
            dir: self.dir.clone(),
        })
    }

    /// Token ids of a text, without special tokens added: a rendered chat holds its own.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let ids = self.encoder.encode(text)?.ids;
        self.check_ids(&ids)?;
        Ok(ids)
    }

    /// The first special token that this text, said in a message, would be read as.
    pub fn special_token<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.encoder.special_token(text)
    }

    /// The text of token ids; with `skip_special_tokens`, only what was said.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        self.encoder
            .tokenizer()
            .decode(ids, skip_special_tokens)
            .map_err(|error| Error::Base {
                path: self.dir.join("tokenizer.json"),
                reason: format!("cannot decode: {error}"),
            })
    }

    /// An example as it is learned. One path for the packer, the trainer and the evaluator.
    pub fn example(&self, example: &Example, train_on: TrainOn) -> Result<Encoded, Error> {
        match example {
            Example::Chat(chat) => self.conversation(chat, train_on),
            Example::Completion { prompt, completion } => self.plain_text(prompt, completion),
            Example::Text { text } => self.plain_text("", text),
            Example::Tokens { input_ids, labels } => {
                let line = Pretokenized::of(input_ids, labels.as_deref());
                let segments = line.segments(Some(self.vocabulary.size))?;
                let one = segments.into_iter().next();
                Ok(one.expect("without seq_lengths all is one segment"))
            }
        }
    }

    fn conversation(&self, chat: &dataset::Chat, train_on: TrainOn) -> Result<Encoded, Error> {
        let template = self.template(chat)?;
        let wanted = turns::wanted(&chat.messages, train_on)?;
        if template.marks_generation() {
            refuse_marks(&chat.messages)?;
        }
        let (messages, variables) = (values(&chat.messages), self.variables(chat));
        let of_first = |count: usize, add_generation_prompt: bool| {
            variables.of(
                Value::from(messages[..count].to_vec()),
                add_generation_prompt,
            )
        };
        let whole = of_first(messages.len(), false);
        let rendered = template.render(&whole)?;
        if let Some(own) = &self.own_templates {
            let own = own.of(chat);
            let own_text = own.render(&whole)?.text;
            if own_text != rendered.text {
                let (given, own) = (template.name().to_owned(), own.name().to_owned());
                return Err(Error::TemplateDiffers { given, own });
            }
        }
        let turns = if template.marks_generation() {
            turns::by_marks(
                &rendered.generation,
                &chat.messages,
                &wanted,
                template.name(),
            )?
        } else {
            let render = |count: usize, add_generation_prompt: bool| {
                Ok(template
                    .render(&of_first(count, add_generation_prompt))?
                    .text)
            };
            let count = messages.len();
            turns::by_prefix(&rendered.text, count, &wanted, template.name(), render)?
        };
        let tokens = self.encoder.encode(&rendered.text)?;
        self.check_ids(&tokens.ids)?;
        if let ([first, second, ..], Some(bos)) = (&tokens.ids[..], self.bos_token_id)
            && *first == bos
            && *second == bos
        {
            return Err(Error::DoubleBos {
                template: template.name().to_owned(),
            });
        }
        let loss_mask = mask::loss_mask(
            &rendered.text,
            &tokens,
            &turns,
            &self.end_of_turn_ids,
            |id| self.encoder.is_added(id),
            template.name(),
        )?;
        Ok(Encoded {
            input_ids: tokens.ids,
            loss_mask,
        })
    }

    /// Text without a template: begun as the tokenizer begins a text, ended with the end-of-sequence
    /// token, and learned from `completion` on.
    fn plain_text(&self, prompt: &str, completion: &str) -> Result<Encoded, Error> {
        if completion.trim().is_empty() {
            return Err(Error::NothingSupervised {
                reason: "its text is empty",
            });
        }
        let Some(eos) = self.eos_token_id else {
            return Err(Error::NoEos {
                dir: self.dir.clone(),
            });
        };
        let text = format!("{prompt}{completion}");
        let tokens = self.encoder.encode(&text)?;
        self.check_ids(&tokens.ids)?;
        let mut encoded = Encoded::default();
        if let Some(bos) = self
            .leading_bos
            .filter(|bos| tokens.ids.first() != Some(bos))
        {
            encoded.input_ids.push(bos);
            encoded.loss_mask.push(0);
        }
        encoded.input_ids.extend(&tokens.ids);
        let learned = |(_, to): &(usize, usize)| u8::from(*to > prompt.len());
        encoded.loss_mask.extend(tokens.offsets.iter().map(learned));
        if encoded.input_ids.last() != Some(&eos) {
            encoded.input_ids.push(eos);
            encoded.loss_mask.push(1);
        }
        encoded.loss_mask[0] = 0; // nothing stands before it to predict it from
        Ok(encoded)
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), Error> {
        let vocab_size = self.vocabulary.size;
        match ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(&id) => Err(Error::OutsideVocabulary {
                tokenizer: self.dir.join("tokenizer.json"),
                id,
                vocab_size,
            }),
            None => Ok(()),
        }
    }

    /// Ids that end a turn: where generation stops, and what every learned answer must end with.
    pub fn end_of_turn_ids(&self) -> &[u32] {
        &self.end_of_turn_ids
    }

    pub fn fingerprint(&self) -> &Fingerprint {
        &self.vocabulary.fingerprint
    }

    /// The date that was given or is the base's own, if the template prints it: what it was trained on
    /// it is to be asked with.
    pub fn date(&self) -> Option<Date> {
        let templates = self.templates.as_ref()?;
        let mut both = [Some(&templates.default), templates.tool_use.as_ref()]
            .into_iter()
            .flatten();
        self.date.filter(|_| both.any(Template::prints_date))
    }

    /// Rows of the base's embedding.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.size
    }
}

fn values(messages: &[Message]) -> Vec<Value> {
    messages
        .iter()
        .map(|message| Value::from(Serde(message)))
        .collect()
}
