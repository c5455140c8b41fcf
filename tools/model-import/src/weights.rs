//! Which tensor is written in which form, and how do they get into the file?

use crate::args::{Args, Quantize};
use crate::source::{Source, Weight};
use anyhow::{Context, anyhow, bail};
use checkpoint::{Dtype, Entry, Part, Role, SafetensorsWriter, bitsandbytes};
use cli::{Hint, Progress, Unit};
use std::collections::BTreeMap;
use std::path::Path;

/// What becomes of each tensor.
pub struct Plan {
    steps: Vec<(Part, Form)>,
    /// What config.json says of the whole.
    pub dtype: Dtype,
    /// Set if linear layers are written in 4 bits.
    pub quantization: Option<Quantization>,
    /// Some of these are in full in a source that has others in 4 bits.
    pub quantizes_what_was_dense: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Dense(Dtype),
    Nf4,
}

/// How linear layers are quantised.
#[derive(Clone, Copy)]
pub struct Quantization {
    pub double_quant: bool,
    /// The type that 4-bit weights dequantise to.
    pub dtype: Dtype,
    /// That type was asked for, and is given to weights that are in 4 bits already.
    is_dtype_asked: bool,
}

impl Plan {
    pub fn new(source: &Source, args: &Args) -> anyhow::Result<Plan> {
        let stored_in_4_bits = source.has_4_bit_weights();
        let nf4 = args.quantize == Some(Quantize::Nf4);
        if args.no_double_quant && (!nf4 || stored_in_4_bits) {
            return Err(anyhow!("--no-double-quant: nothing is being quantised")
                .hint("it goes with --quantize nf4 and a source that is not in 4 bits"));
        }
        let asked = args.dtype.0;
        let mut steps = Vec::new();
        for part in checkpoint::parts(source.config()) {
            let in_4_bits = match args.quantize {
                Some(_) => nf4 && part.role == Role::Linear,
                None => source.is_4_bit(&part),
            };
            let form = match (in_4_bits, asked) {
                (true, _) => Form::Nf4,
                (false, Some(dtype)) => Form::Dense(dtype),
                (false, None) => Form::Dense(match source.dtype(&part)? {
                    Dtype::F64 => Dtype::F32,
                    dtype => dtype,
                }),
            };
            steps.push((part, form));
        }
        let embedding = steps.iter().find_map(|(part, form)| match form {
            Form::Dense(dtype) if part.role == Role::Embedding => Some(*dtype),
            _ => None,
        });
        let dtype = embedding.expect("every model has an embedding, which is never quantised");
        let any_in_4_bits = steps.iter().any(|(_, form)| *form == Form::Nf4);
        let quantization = any_in_4_bits.then(|| Quantization {
            // Beside weights that are in 4 bits already, others are quantised as those are.
            double_quant: match stored_in_4_bits {
                true => source.has_8_bit_scales(),
                false => !args.no_double_quant,
            },
            dtype: asked.unwrap_or(Dtype::F32),
            is_dtype_asked: asked.is_some(),
        });
        let was_dense = |(part, form): &(Part, Form)| *form == Form::Nf4 && !source.is_4_bit(part);
        Ok(Plan {
            quantizes_what_was_dense: stored_in_4_bits && steps.iter().any(was_dense),
            steps,
            dtype,
            quantization,
        })
    }

    /// The linear layers that are not written in 4 bits, by their modules' names.
    pub fn dense_modules(&self) -> Vec<&str> {
        let dense = |(part, form): &&(Part, Form)| part.role == Role::Linear && *form != Form::Nf4;
        let modules = self.steps.iter().filter(dense);
        modules
            .filter_map(|(part, _)| part.name.strip_suffix(".weight"))
            .collect()
    }

    /// Bytes of model.safetensors, and of memory at the most (not counting the mapped source).
    pub fn bytes(&self) -> (u64, u64) {
        let mut disk = 0;
        let mut quantized = 0;
        let mut largest = 0;
        for (part, form) in &self.steps {
            let numel = numel(part);
            largest = largest.max(numel);
            match form {
                Form::Dense(dtype) => disk += numel * dtype.size() as u64,
                // Codes, then for each block of 64 a scale of 8 bits and a 256th of one of 32,
                // or one of 32; then maps and the quant_state.
                Form::Nf4 => {
                    let double_quant = self.quantization.as_ref().is_some_and(|q| q.double_quant);
                    let scales = if double_quant {
                        numel / 64 + numel / 4096
                    } else {
                        numel / 16
                    };
                    quantized += numel / 2 + scales + 1280;
                }
            }
        }
        (disk + quantized, quantized + 8 * largest)
    }

    /// For people: `nf4 with double quantization, the rest bf16`.
    pub fn describe(&self) -> String {
        let dtype = self.dtype.torch_name();
        match self.quantization {
            None => dtype.to_owned(),
            Some(Quantization {
                double_quant: true, ..
            }) => {
                format!("nf4 with double quantization, the rest {dtype}")
            }
            Some(_) => format!("nf4, the rest {dtype}"),
        }
    }
}

/// Writes model.safetensors; `Some(signal)` if a signal stopped it.
pub fn write(source: &Source, plan: &Plan, out: &Path) -> anyhow::Result<Option<i32>> {
    let path = out.join("model.safetensors");
    let total = plan.steps.iter().map(|(part, _)| numel(part)).sum();
    let progress = Progress::new("importing", Some(total), Unit::Items("weights"));

    // The header comes first in the file, and the length of a quant_state's JSON is known only
    // once its weight is quantised: 4-bit tensors wait in memory, dense ones stream.
    let mut quantized = Vec::new();
    let mut entries = Vec::new();
    for (part, form) in &plan.steps {
        match form {
            Form::Dense(dtype) => entries.push(Entry {
                name: part.name.clone(),
                dtype: *dtype,
                shape: part.shape.clone(),
            }),
            Form::Nf4 => {
                if let Some(signal) = cli::interrupted() {
                    return Ok(Some(signal));
                }
                let weight = quantize(source, plan, part)?;
                for (entry, bytes) in bitsandbytes::tensors(&part.name, &weight) {
                    entries.push(entry.clone());
                    quantized.push((entry.name, bytes));
                }
                progress.inc(numel(part));
            }
        }
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let writer = SafetensorsWriter::create(&path, entries, &metadata)?;
    for (name, bytes) in quantized {
        writer.put(&name, &bytes)?;
    }
    for (part, form) in &plan.steps {
        let Form::Dense(dtype) = form else { continue };
        if let Some(signal) = cli::interrupted() {
            return Ok(Some(signal));
        }
        let values = match source.weight(part)? {
            Weight::Values(values) => values,
            Weight::Quantized(quantized) => quantized.dequantize(),
        };
        check_finite(part, &values)?;
        check_range(part, *dtype, &values)?;
        writer.put(&part.name, &dtype.encode(&values))?;
        progress.inc(numel(part));
    }
    writer.finish()?;
    Ok(None)
}

fn numel(part: &Part) -> u64 {
    part.shape.iter().product::<usize>() as u64
}

/// As bitsandbytes would: from the values in the type they are loaded in. What is already in
/// 4 bits stays as it is, but for the type it dequantises to if one was asked for.
fn quantize(source: &Source, plan: &Plan, part: &Part) -> anyhow::Result<nf4::Quantized> {
    let quantization = plan
        .quantization
        .as_ref()
        .context("only planned when quantising")?;
    let dtype = quantization
        .dtype
        .to_nf4()
        .context("only floats are planned")?;
    match source.weight(part)? {
        Weight::Quantized(mut quantized) => {
            if quantization.is_dtype_asked {
                quantized.dtype = dtype;
            }
            Ok(quantized)
        }
        Weight::Values(mut values) => {
            check_finite(part, &values)?;
            check_range(part, quantization.dtype, &values)?;
            let stored = match source {
                Source::Gguf(_) if plan.dtype != Dtype::F32 => plan.dtype.to_nf4(),
                _ => None,
            };
            stored.unwrap_or(dtype).round(&mut values);
            let &[rows, columns] = part.shape.as_slice() else {
                bail!("{}: a linear layer is a matrix", part.name);
            };
            Ok(nf4::quantize(
                &values,
                [rows, columns],
                dtype,
                quantization.double_quant,
            ))
        }
    }
}

fn check_finite(part: &Part, values: &[f32]) -> anyhow::Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(anyhow!("{}: element {i} is {}", part.name, values[i])
            .hint("the source is damaged or was saved by a run that diverged")),
        None => Ok(()),
    }
}

fn check_range(part: &Part, dtype: Dtype, values: &[f32]) -> anyhow::Result<()> {
    let largest = 65_504.0; // the largest f16
    match values
        .iter()
        .find(|v| dtype == Dtype::F16 && v.abs() > largest)
    {
        Some(value) => {
            Err(anyhow!("{}: {value} does not fit into f16", part.name)
                .hint("use --dtype bf16 or f32"))
        }
        None => Ok(()),
    }
}
