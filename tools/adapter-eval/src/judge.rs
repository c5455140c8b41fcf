//! Who scores an answer: a measure of its text at once, BERTScore by an encoder that has read both texts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use checkpoint::{EncoderBase, EncoderConfig};
use cli::Hint;
use metrics::bertscore::{self, BertScore, Embedded, Idf, Weighed};
use model::Encoder;
use serde::Serialize;
use tokens::PlainEncoder;

use crate::baseline;
use crate::cases::Cases;
use crate::fit::hinted;
use crate::metric::{Metric, Side};
use crate::system::Answer;

/// Scores answers by any metric that it has the means for.
#[derive(Default)]
pub struct Judge {
    reader: Option<Reader>,
}

/// Which encoder, and which of its layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EncoderInfo {
    pub model: String,
    pub model_type: String,
    pub layer: usize,
    /// Of how many.
    pub layers: usize,
    /// Tokens weigh by their inverse document frequency.
    pub idf: bool,
    /// The file that scores are rescaled by.
    pub baseline: Option<String>,
}

impl std::fmt::Display for EncoderInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let EncoderInfo {
            model,
            model_type,
            layer,
            layers,
            idf,
            baseline,
        } = self;
        write!(f, "{model} ({model_type}, layer {layer} of {layers}")?;
        if *idf {
            f.write_str(", idf")?;
        }
        if let Some(baseline) = baseline {
            write!(f, ", rescaled by {baseline}")?;
        }
        f.write_str(")")
    }
}

struct Reader {
    info: EncoderInfo,
    encoder: Encoder,
    tokenizer: PlainEncoder,
    /// Tokens that it reads of a text.
    longest: usize,
    baseline: Option<BertScore>,
    read: RefCell<Texts>,
}

/// What has been read: references come up once a system.
#[derive(Default)]
struct Texts {
    texts: HashMap<String, Text>,
    cut: usize,
}

struct Text {
    embedded: Embedded,
    ids: Vec<u32>,
    /// Of each token, whether the tokenizer added it.
    special: Vec<bool>,
}

impl Judge {
    /// With an encoder for BERTScore; `layer` counts from 1, and `baseline` is bert_score's file.
    pub fn with_encoder(
        dir: &Path,
        layer: Option<usize>,
        idf: bool,
        baseline: Option<&Path>,
    ) -> anyhow::Result<Judge> {
        let base = EncoderBase::open(dir)
            .hint("--bertscore-model takes a folder of a BERT or RoBERTa with safetensors")?;
        let config = base.config();
        let layers = config.num_hidden_layers;
        let layer = layer.unwrap_or_else(|| usual_layer(config));
        if !(1..=layers).contains(&layer) {
            return Err(anyhow::anyhow!(
                "--bertscore-layer {layer}: {} has layers 1 to {layers}",
                dir.display()
            ));
        }
        let rescaling = baseline
            .map(|path| baseline::read(path, layer))
            .transpose()?;
        let leading_space = config.model_type == "roberta";
        let tokenizer = PlainEncoder::open(base.dir(), leading_space).map_err(hinted)?;
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(anyhow::anyhow!(
                "{}: its tokenizer.json has {} tokens, its config.json says {}",
                dir.display(),
                tokenizer.vocab_size(),
                config.vocab_size
            ))
            .hint("take tokenizer and weights from one model");
        }
        Ok(Judge {
            reader: Some(Reader {
                info: EncoderInfo {
                    model: dir.display().to_string(),
                    model_type: config.model_type.clone(),
                    layer,
                    layers,
                    idf,
                    baseline: baseline.map(|path| path.display().to_string()),
                },
                encoder: Encoder::load(&base, layer)?,
                tokenizer,
                longest: config.longest_text(),
                baseline: rescaling,
                read: RefCell::default(),
            }),
        })
    }

    /// The encoder, if there is one.
    pub fn encoder(&self) -> Option<&EncoderInfo> {
        self.reader.as_ref().map(|reader| &reader.info)
    }

    /// What it measures beside any metric that decides.
    pub fn beside(&self) -> &'static [Metric] {
        match self.reader {
            Some(_) => &[
                Metric::BertScore(Side::F1),
                Metric::BertScore(Side::Precision),
                Metric::BertScore(Side::Recall),
            ],
            None => &[],
        }
    }

    /// What makes its scores worth less.
    pub fn warnings(&self) -> Option<String> {
        let reader = self.reader.as_ref()?;
        let cut = reader.read.borrow().cut;
        (cut > 0).then(|| {
            format!(
                "BERTScore saw the first {} tokens of {cut} longer texts",
                reader.longest
            )
        })
    }

    /// A score for each case by one metric, in the cases' order.
    pub fn scores(
        &self,
        metric: &Metric,
        cases: &Cases,
        answers: &[Answer],
    ) -> anyhow::Result<Vec<f64>> {
        let outputs = answers.iter().map(|answer| answer.output.as_str());
        let pairs = cases.references().zip(outputs.clone());
        match metric {
            Metric::Text(metric) => Ok(pairs
                .map(|(reference, output)| metric.score(reference, output))
                .collect()),
            Metric::BertScore(side) => {
                let reader = self.reader_for(metric)?;
                reader.read(cases.references().chain(outputs))?;
                let idf = reader.idf(cases.references());
                Ok(pairs
                    .map(|(reference, output)| {
                        side.of(reader.score(reference, output, idf.as_ref()))
                    })
                    .collect())
            }
        }
    }

    /// An error where it lacks the means for this metric.
    pub fn check(&self, metric: &Metric) -> anyhow::Result<()> {
        match metric {
            Metric::Text(_) => Ok(()),
            Metric::BertScore(_) => self.reader_for(metric).map(drop),
        }
    }

    fn reader_for(&self, metric: &Metric) -> anyhow::Result<&Reader> {
        let reader = self.reader.as_ref();
        let reader = reader.ok_or_else(|| anyhow::anyhow!("--metric {metric} needs an encoder"));
        reader.hint("--bertscore-model DIR takes the folder of a BERT or RoBERTa")
    }
}

impl Reader {
    /// Embeds the texts that it has not read yet.
    fn read<'a>(&self, texts: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
        let mut known = self.read.borrow_mut();
        let mut new: Vec<&str> = texts
            .filter(|text| !known.texts.contains_key(*text))
            .collect();
        new.sort_unstable();
        new.dedup();
        let (mut all_ids, mut all_special) = (Vec::new(), Vec::new());
        for text in &new {
            let tokens = self.tokenizer.encode(text, self.longest).map_err(hinted)?;
            known.cut += usize::from(tokens.cut);
            all_special.push(tokens.special);
            all_ids.push(tokens.ids);
        }
        let embedded = self.encoder.embed(&all_ids).into_iter();
        let tokens = all_ids.into_iter().zip(all_special);
        for (text, (vectors, (ids, special))) in new.into_iter().zip(embedded.zip(tokens)) {
            let text_read = Text {
                embedded: Embedded::new(vectors, ids.len()),
                ids,
                special,
            };
            known.texts.insert(text.to_owned(), text_read);
        }
        Ok(())
    }

    /// Over references that were read, one document each time that they come up; none where it is not asked for.
    fn idf<'a>(&self, references: impl Iterator<Item = &'a str>) -> Option<Idf> {
        let read = &self.read.borrow().texts;
        self.info
            .idf
            .then(|| Idf::over(references.map(|text| read[text].ids.as_slice())))
    }

    fn score(&self, reference: &str, output: &str, idf: Option<&Idf>) -> BertScore {
        let read = &self.read.borrow().texts;
        let texts = [&read[output], &read[reference]];
        let weights = texts.map(|text| text.weights(idf));
        let [candidate, reference] = [0, 1].map(|i| Weighed {
            text: &texts[i].embedded,
            weights: &weights[i],
        });
        let score = bertscore::score(candidate, reference);
        self.baseline
            .map_or(score, |baseline| score.rescaled(baseline))
    }
}

impl Text {
    fn weights(&self, idf: Option<&Idf>) -> Vec<f64> {
        match idf {
            Some(idf) => self.ids.iter().map(|id| idf.weight(*id)).collect(),
            None => self
                .special
                .iter()
                .map(|special| f64::from(!special))
                .collect(),
        }
    }
}

/// The layer that bert_score takes by the name of a model, here known by its shape (the best on WMT16's
/// judgements, arXiv 1904.09675, appendix B); of others the last.
fn usual_layer(config: &EncoderConfig) -> usize {
    match (config.model_type.as_str(), config.num_hidden_layers) {
        ("bert", 12) => 9,
        ("bert", 24) => 18,
        ("roberta", 6) => 5,
        ("roberta", 12) => 10,
        ("roberta", 24) => 17,
        ("xlm-roberta", 12) => 9,
        ("xlm-roberta", 24) => 17,
        (_, layers) => layers,
    }
}
