//! How does the model answer? Prompts through the chat template, greedy or drawn, without any constraint.

use std::path::PathBuf;

use anyhow::Context;
use checkpoint::{Base, adapter::Adapter};
use cli::{Hint, Progress, Unit};
use model::{AttentionChoice, Completion, GenerateOptions, Model};

use crate::args::ModelArgs;
use crate::fit::{self, hinted};
use crate::kept::{self, Kept};
use crate::shots;
use crate::system::{Answer, Asked};

/// Makes token ids of prompts, which must leave room for an answer.
pub struct Prompter {
    chat: tokens::Chat,
    max_new_tokens: usize,
    max_position_embeddings: usize,
}

/// A loaded base, with or without an adapter, and what makes its prompts.
pub struct Answerer {
    model: Model,
    prompter: Prompter,
    options: GenerateOptions,
    with_adapter: bool,
    /// With the hash of the adapter.
    kept: Option<(Kept, Option<String>)>,
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
    if let Some(products) = args.device.products() {
        cli::note(format_args!("products: {products}"));
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

impl Prompter {
    pub fn new(base: &Base, chat: tokens::Chat, max_new_tokens: usize) -> Prompter {
        Prompter {
            chat,
            max_new_tokens,
            max_position_embeddings: base.config().max_position_embeddings,
        }
    }

    /// `options` with the tokens that end an answer: the chat's own end-of-turn tokens, and the base's.
    pub fn with_stops(&self, base: &Base, mut options: GenerateOptions) -> GenerateOptions {
        let ends = self.chat.end_of_turn_ids();
        options.stop_token_ids.extend(ends);
        options.stop_token_ids.extend(&base.config().eos_token_ids);
        options.stop_token_ids.sort_unstable();
        options.stop_token_ids.dedup();
        options
    }

    /// The ids of every prompt, in order; refused when one of them has no room for its answer.
    pub fn token_ids(&self, asked: &Asked<'_>) -> anyhow::Result<Vec<Vec<u32>>> {
        let cases = asked.cases;
        let prompts = cases.cases.iter().zip(&asked.prompts);
        let all_ids = prompts.map(|(case, prompt)| {
            let rendered = self.chat.render_chat(prompt, true);
            let ids = rendered.and_then(|prompt| self.chat.encode(&prompt.text));
            ids.map_err(hinted).with_context(|| cases.place(case))
        });
        let all_ids: Vec<Vec<u32>> = all_ids.collect::<anyhow::Result<_>>()?;
        match all_ids.iter().any(|ids| !self.has_room(ids)) {
            true => Err(self.no_room(asked, &all_ids)),
            false => Ok(all_ids),
        }
    }

    fn has_room(&self, prompt: &[u32]) -> bool {
        prompt.len() + self.max_new_tokens <= self.max_position_embeddings
    }

    /// Names the first case whose prompt is too long, and what would make room for all.
    fn no_room(&self, asked: &Asked<'_>, all_ids: &[Vec<u32>]) -> anyhow::Error {
        let cases = asked.cases.cases.iter().zip(all_ids);
        let too_long: Vec<_> = cases.filter(|(_, ids)| !self.has_room(ids)).collect();
        let (case, ids) = too_long[0];
        let with_shots = match asked.shots {
            0 => String::new(),
            shots => format!(" with {}", shots::count(shots)),
        };
        let more = match too_long.len() - 1 {
            0 => String::new(),
            1 => "; one more case is too long".into(),
            more => format!("; {more} more cases are too long"),
        };
        let error = anyhow::anyhow!(
            "{}: a prompt of {} tokens{with_shots} and an answer of {} are more than the base's {} positions{more}",
            asked.cases.place(case),
            ids.len(),
            self.max_new_tokens,
            self.max_position_embeddings
        );
        let longest = all_ids.iter().map(Vec::len).max().unwrap_or(0);
        let cases = match too_long.len() {
            1 => "leave that case out",
            _ => "leave those cases out",
        };
        let ways = [
            (asked.shots > 0).then(|| "fewer --shots".into()),
            (self.max_position_embeddings.checked_sub(longest))
                .filter(|room| *room > 0)
                .map(|room| format!("--max-new-tokens {room} has room for all")),
            Some(format!("{cases} or take a base with more positions")),
        ];
        error.hint(ways.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

impl Answerer {
    pub fn new(model: Model, prompter: Prompter, options: GenerateOptions) -> Answerer {
        Answerer {
            model,
            prompter,
            options,
            with_adapter: true,
            kept: None,
        }
    }

    /// Answers that are kept are not generated again, and others are kept with them.
    pub fn keep(&mut self, kept: Kept, adapter_hash: Option<String>) {
        self.kept = Some((kept, adapter_hash));
    }

    pub fn into_kept(self) -> Option<Kept> {
        self.kept.map(|(kept, _)| kept)
    }

    /// Answers as the base alone, or with the adapter.
    pub fn with_adapter(&mut self, enabled: bool) -> &mut Answerer {
        self.model.set_adapter_enabled(enabled);
        self.with_adapter = enabled;
        self
    }

    /// Answers every prompt, in order. `label` says on stderr what is being answered.
    pub fn answer(&mut self, asked: &Asked<'_>, label: &str) -> anyhow::Result<Vec<Answer>> {
        let ids = self.prompter.token_ids(asked)?;
        let drawn = self.options.temperature > 0.0;
        let adapter = self.kept.as_ref().and_then(|(_, hash)| hash.as_deref());
        let adapter = adapter.filter(|_| self.with_adapter);
        let questions = ids.iter().enumerate();
        let questions = Vec::from_iter(
            questions
                .map(|(index, prompt)| kept::question(adapter, drawn.then_some(index), prompt)),
        );
        let mut kept = self.kept.as_mut();
        let known = questions.iter();
        let known = known.map(|question| kept.as_mut()?.0.get(question));
        let known = Vec::from_iter(known);
        let progress = Progress::new(label, Some(ids.len() as u64), Unit::Items("cases"));
        progress.inc(known.iter().flatten().count() as u64);
        let kept = &mut self.kept;
        let mut on_done = |index: usize, completion: &Completion| {
            progress.inc(1);
            let Some((answers, _)) = kept else { return };
            if let Err(error) = answers.keep(&questions[index], completion) {
                progress.note(format_args!(
                    "warning: {error:#}; answers are kept no longer"
                ));
                *kept = None;
            }
        };
        let model = &self.model;
        let completions = model.generate_rest(&ids, known, &self.options, &mut on_done)?;
        progress.finish();
        let answers = ids.iter().zip(completions).map(|(prompt, completion)| {
            Ok(Answer {
                output: self.prompter.chat.decode(&completion.token_ids, true)?,
                finish: Some(completion.finish.into()),
                prompt_tokens: prompt.len(),
                generated_tokens: completion.token_ids.len(),
            })
        });
        answers.collect()
    }
}
