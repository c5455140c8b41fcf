//! Who scores an answer: a measure of its text at once, BERTScore by an encoder that has read both texts.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use checkpoint::{EncoderBase, EncoderConfig};
use cli::Hint;
use metrics::bertscore::{BertScore, Embedded, Idf, Matching};
use model::Encoder;
use serde::Serialize;
use tokens::PlainEncoder;

use crate::baseline;
use crate::cases::Cases;
use crate::fit::hinted;
use crate::metric::{Metric, Side};
use crate::system::{Answer, Run};

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

/// What has been read. Vectors, a thousand times as large as their text, are not kept.
#[derive(Default)]
struct Texts {
    tokens: HashMap<String, Tokens>,
    /// By reference, then by output.
    matchings: HashMap<String, HashMap<String, Matching>>,
    cut: usize,
}

struct Tokens {
    ids: Vec<u32>,
    /// Of each token, whether the tokenizer added it.
    special: Vec<bool>,
}

/// Pairs of texts that are in memory as vectors at once.
const PAIRS: usize = 64;

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

    /// Reads what is scored later, a reference of several systems' answers once.
    pub fn read_ahead(&self, cases: &Cases, runs: &[Run]) -> anyhow::Result<()> {
        let Some(reader) = &self.reader else {
            return Ok(());
        };
        reader.read(runs.iter().flat_map(|run| pairs(cases, &run.answers)))
    }

    /// A score for each case by one metric, in the cases' order.
    pub fn scores(
        &self,
        metric: &Metric,
        cases: &Cases,
        answers: &[Answer],
    ) -> anyhow::Result<Vec<f64>> {
        match metric {
            Metric::Text(metric) => Ok(pairs(cases, answers)
                .map(|(reference, output)| metric.score(reference, output))
                .collect()),
            Metric::BertScore(side) => {
                let reader = self.reader_for(metric)?;
                reader.read(pairs(cases, answers))?;
                let idf = reader.idf(cases.references());
                Ok(pairs(cases, answers)
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
    /// Reads the references and outputs that it has not compared yet.
    fn read<'a>(&self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> anyhow::Result<()> {
        let mut known = self.read.borrow_mut();
        let new: BTreeSet<(&str, &str)> = pairs
            .filter(|pair| known.matching(*pair).is_none())
            .collect();
        for pairs in Vec::from_iter(new).chunks(PAIRS) {
            let texts = pairs
                .iter()
                .flat_map(|(reference, output)| [*reference, *output]);
            let texts = Vec::from_iter(BTreeSet::from_iter(texts));
            let mut ids = Vec::with_capacity(texts.len());
            for text in &texts {
                ids.push(known.tokens(text, self)?.ids.clone());
            }
            let vectors = self.encoder.embed(&ids).into_iter().zip(&ids);
            let embedded = vectors.map(|(vectors, ids)| Embedded::new(vectors, ids.len()));
            let embedded: HashMap<&str, Embedded> = texts.into_iter().zip(embedded).collect();
            for (reference, output) in pairs {
                let matching = Matching::new(&embedded[output], &embedded[reference]);
                let of_reference = known.matchings.entry((*reference).to_owned()).or_default();
                of_reference.insert((*output).to_owned(), matching);
            }
        }
        Ok(())
    }

    /// Over references that were read, one document each time that they come up; none where it is not asked for.
    fn idf<'a>(&self, references: impl Iterator<Item = &'a str>) -> Option<Idf> {
        let read = &self.read.borrow().tokens;
        self.info
            .idf
            .then(|| Idf::over(references.map(|text| read[text].ids.as_slice())))
    }

    /// Of texts that were read.
    fn score(&self, reference: &str, output: &str, idf: Option<&Idf>) -> BertScore {
        let read = self.read.borrow();
        let weights = |text: &str| read.tokens[text].weights(idf);
        let matching = &read.matchings[reference][output];
        let score = matching.score(&weights(output), &weights(reference));
        self.baseline
            .map_or(score, |baseline| score.rescaled(baseline))
    }
}

impl Texts {
    fn matching(&self, (reference, output): (&str, &str)) -> Option<&Matching> {
        self.matchings.get(reference)?.get(output)
    }

    fn tokens(&mut self, text: &str, reader: &Reader) -> anyhow::Result<&Tokens> {
        if !self.tokens.contains_key(text) {
            let read = reader
                .tokenizer
                .encode(text, reader.longest)
                .map_err(hinted)?;
            self.cut += usize::from(read.cut);
            let tokens = Tokens {
                ids: read.ids,
                special: read.special,
            };
            self.tokens.insert(text.to_owned(), tokens);
        }
        Ok(&self.tokens[text])
    }
}

impl Tokens {
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

/// Each case's reference and answer.
fn pairs<'a>(cases: &'a Cases, answers: &'a [Answer]) -> impl Iterator<Item = (&'a str, &'a str)> {
    let outputs = answers.iter().map(|answer| answer.output.as_str());
    cases.references().zip(outputs)
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
