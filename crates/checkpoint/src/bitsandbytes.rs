//! How does bitsandbytes store a 4-bit weight, and how is one read and written?
//!
//! A weight `P` becomes: `P` (codes, two to the byte, high nibble first; any `quant_storage` type
//! stands for the same bytes), `P.absmax`, `P.quant_map`, with double quantisation
//! `P.nested_absmax` and `P.nested_quant_map`, and `P.quant_state.bitsandbytes__nf4`, which is JSON.

use crate::{Base, Dtype, Entry, Error, TensorView, python};
use nf4::{Absmax, BLOCK_SIZE, CODEBOOK, NESTED_BLOCK_SIZE, Quantized};
use serde::Deserialize;

/// The JSON of `P.quant_state.bitsandbytes__nf4`.
#[derive(Debug, Deserialize)]
struct QuantState {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// What a quantised weight's name is followed by, in the tensors beside its codes.
pub(crate) const STATE: &str = ".quant_state.bitsandbytes__nf4";
pub(crate) const NESTED_ABSMAX: &str = ".nested_absmax";

/// All that may lie beside codes.
const BESIDE: [&str; 5] = [
    ".absmax",
    ".quant_map",
    NESTED_ABSMAX,
    ".nested_quant_map",
    STATE,
];

/// The names of the tensors beside a weight's codes.
pub(crate) fn beside(weight: &str) -> impl Iterator<Item = String> {
    BESIDE.iter().map(move |suffix| format!("{weight}{suffix}"))
}

fn state_name(weight: &str) -> String {
    format!("{weight}{STATE}")
}

/// Is the weight stored in NF4? Other quantisations of bitsandbytes are errors.
pub(crate) fn is_quantized(base: &Base, weight: &str) -> Result<bool, Error> {
    let foreign = [
        (
            ".quant_state.bitsandbytes__fp4",
            "is in FP4; NF4 is supported",
        ),
        (".SCB", "belongs to an 8-bit weight; NF4 is supported"),
        (
            ".weight_format",
            "belongs to an 8-bit weight; NF4 is supported",
        ),
    ];
    for (suffix, message) in foreign {
        let name = format!("{weight}{suffix}");
        let beside = format!("{}{suffix}", weight.trim_end_matches(".weight"));
        for name in [name, beside] {
            if base.contains(&name) {
                return Err(base.tensor(&name)?.error(message));
            }
        }
    }
    Ok(base.contains(&state_name(weight)))
}

pub(crate) fn check_shape(base: &Base, weight: &str, shape: &[usize]) -> Result<(), Error> {
    let (view, state) = state(base, weight)?;
    if state.shape != shape {
        return Err(view.error(format!(
            "says shape {:?}, where config.json asks for {shape:?}",
            state.shape
        )));
    }
    check_lengths(base, weight, &state).map(drop)
}

fn state<'a>(base: &'a Base, weight: &str) -> Result<(TensorView<'a>, QuantState), Error> {
    let view = base.tensor(&state_name(weight))?;
    let state: QuantState = serde_json::from_slice(view.bytes)
        .map_err(|error| view.error(format!("is not the JSON it should be: {error}")))?;
    let refuse = |what: &str, found: String, supported: &str| {
        Err(view.error(format!("has {what} {found}; {supported} is supported")))
    };
    if state.quant_type != "nf4" {
        return refuse("quant_type", state.quant_type, "nf4");
    }
    if state.blocksize != BLOCK_SIZE {
        return refuse("blocksize", state.blocksize.to_string(), "64");
    }
    if let Some(size) = state
        .nested_blocksize
        .filter(|size| *size != NESTED_BLOCK_SIZE)
    {
        return refuse("nested_blocksize", size.to_string(), "256");
    }
    if let Some(dtype) = state
        .nested_dtype
        .clone()
        .filter(|dtype| dtype != "float32")
    {
        return refuse("nested_dtype", dtype, "float32");
    }
    if state.shape.len() != 2 || state.shape.iter().any(|n| !(1..1 << 40).contains(n)) {
        return refuse("shape", format!("{:?}", state.shape), "[out, in]");
    }
    Ok((view, state))
}

/// The views of codes and absmax, after checking that all lengths fit the shape.
fn check_lengths<'a>(
    base: &'a Base,
    weight: &str,
    state: &QuantState,
) -> Result<(TensorView<'a>, TensorView<'a>), Error> {
    let numel = state.shape[0] as u128 * state.shape[1] as u128;
    let codes = base.tensor(weight)?;
    let expect = |view: &TensorView, bytes: u128| match view.bytes.len() as u128 == bytes {
        true => Ok(()),
        false => Err(view.error(format!(
            "has {} bytes, where the shape {:?} needs {bytes}",
            view.bytes.len(),
            state.shape
        ))),
    };
    expect(&codes, numel.div_ceil(2))?;
    let blocks = numel.div_ceil(BLOCK_SIZE as u128);
    let absmax = base.tensor(&format!("{weight}.absmax"))?;
    match (state.nested_offset, absmax.dtype) {
        (Some(_), Dtype::U8) => expect(&absmax, blocks)?,
        (None, Dtype::F32) => expect(&absmax, 4 * blocks)?,
        (_, dtype) => {
            return Err(absmax.error(format!("has type {dtype}, which quant_state denies")));
        }
    }
    Ok((codes, absmax))
}

/// Reads a weight by its name (`….q_proj.weight`); `None` if it is not quantised.
pub(crate) fn read(base: &Base, weight: &str) -> Result<Option<Quantized>, Error> {
    if !is_quantized(base, weight)? {
        return Ok(None);
    }
    let (state_view, state) = state(base, weight)?;
    let (codes, scales) = check_lengths(base, weight, &state)?;
    let map = base.tensor(&format!("{weight}.quant_map"))?;
    if map.to_f32_of_shape(&[16])? != CODEBOOK {
        return Err(map.error("is not the NF4 codebook"));
    }
    let absmax = match state.nested_offset {
        None => Absmax::Plain(scales.to_f32()?),
        Some(offset) => {
            let blocks = scales.bytes.len().div_ceil(NESTED_BLOCK_SIZE);
            let nested = base.tensor(&format!("{weight}{NESTED_ABSMAX}"))?;
            let map = base
                .tensor(&format!("{weight}.nested_quant_map"))?
                .to_f32_of_shape(&[256])?;
            Absmax::Nested {
                codes: scales.bytes.to_vec(),
                absmax: nested.to_f32_of_shape(&[blocks])?,
                map: Box::new(map.try_into().expect("its shape was checked")),
                offset: offset as f32,
            }
        }
    };
    let dtype = Dtype::from_torch_name(&state.dtype)
        .and_then(Dtype::to_nf4)
        .ok_or_else(|| {
            state_view.error(format!(
                "has dtype {:?}, not a floating-point type",
                state.dtype
            ))
        })?;
    let quantized = Quantized {
        shape: [state.shape[0], state.shape[1]],
        codes: codes.bytes.to_vec(),
        absmax,
        dtype,
    };
    check_scales(&scales, &quantized)?;
    Ok(Some(quantized))
}

/// The scale of a block is what all numbers beside its codes come to. One that is none would make zeros or
/// NaN of 64 weights without a word.
fn check_scales(absmax: &TensorView, quantized: &Quantized) -> Result<(), Error> {
    let scales = quantized.scales();
    match scales.iter().position(|scale| !scale.is_finite()) {
        Some(block) => Err(absmax.error(format!(
            "makes {} the scale of block {block}: this, its nested numbers or quant_state is damaged, \
             or was saved by a run that diverged",
            scales[block]
        ))),
        None => Ok(()),
    }
}

/// A quantised weight as named tensors with their bytes.
pub fn tensors(weight: &str, quantized: &Quantized) -> Vec<(Entry, Vec<u8>)> {
    let state = state_json(quantized).into_bytes();
    let tensor = |suffix: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>| {
        let name = format!("{weight}{suffix}");
        (
            Entry {
                name,
                dtype,
                shape: shape.to_vec(),
            },
            bytes,
        )
    };
    let f32 = |suffix: &str, values: &[f32]| {
        tensor(
            suffix,
            Dtype::F32,
            &[values.len()],
            Dtype::F32.encode(values),
        )
    };
    let mut tensors = vec![
        tensor(
            "",
            Dtype::U8,
            &[quantized.codes.len(), 1],
            quantized.codes.clone(),
        ),
        f32(".quant_map", &CODEBOOK),
        tensor(
            ".quant_state.bitsandbytes__nf4",
            Dtype::U8,
            &[state.len()],
            state,
        ),
    ];
    match &quantized.absmax {
        Absmax::Plain(absmax) => tensors.push(f32(".absmax", absmax)),
        Absmax::Nested {
            codes, absmax, map, ..
        } => tensors.extend([
            tensor(".absmax", Dtype::U8, &[codes.len()], codes.clone()),
            f32(NESTED_ABSMAX, absmax),
            f32(".nested_quant_map", &map[..]),
        ]),
    }
    tensors
}

fn state_json(quantized: &Quantized) -> String {
    let dtype = match quantized.dtype {
        nf4::Dtype::F32 => "float32",
        nf4::Dtype::BF16 => "bfloat16",
        nf4::Dtype::F16 => "float16",
    };
    let [rows, columns] = quantized.shape;
    let nested = match &quantized.absmax {
        Absmax::Plain(_) => String::new(),
        Absmax::Nested { offset, .. } => format!(
            ", \"nested_blocksize\": {NESTED_BLOCK_SIZE}, \"nested_dtype\": \"float32\", \
             \"nested_offset\": {}",
            python::repr(f64::from(*offset))
        ),
    };
    format!(
        "{{\"quant_type\": \"nf4\", \"blocksize\": {BLOCK_SIZE}, \"dtype\": \"{dtype}\", \
         \"shape\": [{rows}, {columns}]{nested}}}"
    )
}
