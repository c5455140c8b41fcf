//! How does the model answer? Prompts through the chat template, greedy or drawn, without any constraint.

use std::path::PathBuf;

use anyhow::{Context, bail};
use checkpoint::{Base, adapter::Adapter};
use cli::{Hint, Progress, Unit};
use dataset::Chat;
use model::{AttentionChoice, GenerateOptions, Model};

use crate::args::ModelArgs;
use crate::fit::{self, hinted};
use crate::system::{Answer, Finish};

/// A loaded base, with or without an adapter, and its chat.
pub struct Answerer {
    model: Model,
    chat: tokens::Chat,
    options: GenerateOptions,
    max_position_embeddings: usize,
}

/// Puts the base, and the adapter if there is one, on the device.
pub fn load(
    base: &Base,
    adapter: Option<&(PathBuf, Adapter)>,
    args: &ModelArgs,
) -> anyhow::Result<Model> {
    let attention = args.attention;
    told(attention, attention.check(args.device))?;
    let progress = Progress::new(
        "load",
        Some(base.config().num_hidden_layers as u64),
        Unit::Items("layers"),
    );
    let mut model = Model::load(base, &args.load_options(), &mut |done, _| {
        progress.set(done as u64);
    })
    .with_context(|| format!("loading {}", base.dir().display()))?;
    if let Some(chosen) = told(attention, model.choose_attention(attention))? {
        cli::note(format_args!("attention: {chosen}"));
    }
    if let Some((dir, adapter)) = adapter {
        model
            .load_adapter(adapter)
            .with_context(|| format!("putting {} on {}", dir.display(), base.dir().display()))
            .hint(fit::trained_on(adapter))?;
    }
    Ok(model)
}

/// What became of `--attention`, with the way out.
fn told<T>(attention: AttentionChoice, became: Result<T, model::Error>) -> anyhow::Result<T> {
    became
        .with_context(|| format!("--attention {attention}"))
        .hint("--attention auto takes what there is")
}

impl Answerer {
    /// `options.stop_token_ids` are added to: the chat's own end-of-turn tokens stop an answer.
    pub fn new(
        base: &Base,
        model: Model,
        chat: tokens::Chat,
        mut options: GenerateOptions,
    ) -> Answerer {
        options.stop_token_ids.extend(chat.end_of_turn_ids());
        options.stop_token_ids.extend(&base.config().eos_token_ids);
        options.stop_token_ids.sort_unstable();
        options.stop_token_ids.dedup();
        Answerer {
            model,
            chat,
            options,
            max_position_embeddings: base.config().max_position_embeddings,
        }
    }

    /// Answers as the base alone, or with the adapter.
    pub fn with_adapter(&mut self, enabled: bool) -> &mut Answerer {
        self.model.set_adapter_enabled(enabled);
        self
    }

    /// Answers every prompt, in order. `label` says on stderr what is being answered.
    pub fn answer(&self, prompts: &[Chat], label: &str) -> anyhow::Result<Vec<Answer>> {
        let ids = prompts
            .iter()
            .map(|prompt| self.prompt_ids(prompt))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let progress = Progress::new(label, Some(prompts.len() as u64), Unit::Items("cases"));
        let completions = self
            .model
            .generate(&ids, &self.options, &mut |_, _| progress.inc(1))?;
        progress.finish();
        let answers = ids.iter().zip(completions).map(|(prompt, completion)| {
            Ok(Answer {
                output: self.chat.decode(&completion.token_ids, true)?,
                finish: Some(match completion.finish {
                    model::Finish::Stop => Finish::Stop,
                    model::Finish::Length => Finish::Length,
                }),
                prompt_tokens: prompt.len(),
                generated_tokens: completion.token_ids.len(),
            })
        });
        answers.collect()
    }

    fn prompt_ids(&self, prompt: &Chat) -> anyhow::Result<Vec<u32>> {
        let text = self.chat.render_chat(prompt, true).map_err(hinted)?.text;
        let ids = self.chat.encode(&text).map_err(hinted)?;
        let needed = ids.len() + self.options.max_new_tokens;
        if needed > self.max_position_embeddings {
            let too_long = (|| -> anyhow::Result<Vec<u32>> {
                bail!(
                    "a prompt of {} tokens and an answer of {} are more than the base's {} positions",
                    ids.len(),
                    self.options.max_new_tokens,
                    self.max_position_embeddings
                )
            })();
            return too_long.hint("fewer --shots, or a smaller --max-new-tokens");
        }
        Ok(ids)
    }
}
