//! Where in a GGUF file does everything lie?

use super::blocks::TensorType;
use super::cursor::Cursor;
use super::value::{self, Value};
use crate::{Error, safetensors_file};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A mapped GGUF file whose header has been checked against its length.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    /// Key → offset of its value.
    keys: BTreeMap<String, usize>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// One tensor's description.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub kind: TensorType,
    /// Row-major, outermost dimension first (ggml itself counts from the innermost).
    pub shape: Vec<usize>,
    start: usize,
    end: usize,
}

impl Gguf {
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let map = safetensors_file::map(path)?;
        let (keys, tensors) = parse(&mut Cursor {
            path,
            bytes: &map,
            offset: 0,
        })?;
        Ok(Gguf {
            path: path.to_owned(),
            map,
            keys,
            tensors,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A value by its key: `general.architecture`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let mut cursor = Cursor {
            path: &self.path,
            bytes: &self.map,
            offset: *self.keys.get(key)?,
        };
        value::read(&mut cursor, key).ok()
    }

    /// A value that must be there.
    pub fn require(&self, key: &str) -> Result<Value<'_>, Error> {
        self.get(key)
            .ok_or_else(|| self.error(format!("has no {key}")))
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Tensors by name, in alphabetical order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors
            .iter()
            .map(|(name, info)| (name.as_str(), info))
    }

    /// A tensor's values in f32, row-major; `name` as in the file: `blk.0.attn_q.weight`.
    pub fn tensor(&self, name: &str) -> Result<(&TensorInfo, Vec<f32>), Error> {
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::tensor(&self.path, name, "is not in the file"))?;
        Ok((info, info.kind.dequantize(&self.map[info.start..info.end])))
    }

    /// An error about the file.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::file(&self.path, message)
    }

    /// An error about one of its tensors.
    pub fn tensor_error(&self, tensor: &str, message: impl Into<String>) -> Error {
        Error::tensor(&self.path, tensor, message)
    }
}

type Parsed = (BTreeMap<String, usize>, BTreeMap<String, TensorInfo>);

/// The smallest pair: an empty key, a type and one byte.
const SMALLEST_PAIR: u64 = 8 + 4 + 1;
/// The smallest description: an empty name, no dimensions, a type and an offset.
const SMALLEST_DESCRIPTION: u64 = 8 + 4 + 4 + 8;

fn parse(cursor: &mut Cursor) -> Result<Parsed, Error> {
    if !cursor.bytes.starts_with(b"GGUF") {
        return Err(cursor.error("is not a GGUF file: it does not begin with GGUF"));
    }
    cursor.offset = 4;
    let at = cursor.clone();
    match cursor.u32("the version")? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 2 | 3) => {
            return Err(at.error("is big-endian; convert it for little-endian machines"));
        }
        version => {
            return Err(at.error(format!("has GGUF version {version}; 2 and 3 are supported")));
        }
    }
    let tensor_count = cursor.count(SMALLEST_DESCRIPTION, "the number of tensors")?;
    let key_count = cursor.count(SMALLEST_PAIR, "the number of keys")?;
    let mut keys = BTreeMap::new();
    let mut alignment = 32;
    for _ in 0..key_count {
        let at = cursor.clone();
        let key = cursor.string("a key")?;
        let offset = cursor.offset;
        let value = value::read(cursor, key)?;
        if key == "general.alignment" {
            alignment = value
                .as_u64()
                .filter(|n| n.is_power_of_two() && *n <= 1 << 20)
                .ok_or_else(|| at.error("general.alignment is not a power of two"))?;
        }
        if keys.insert(key.to_owned(), offset).is_some() {
            return Err(at.error(format!("the key {key} is there twice")));
        }
    }
    let descriptions = (0..tensor_count)
        .map(|_| description(cursor))
        .collect::<Result<Vec<_>, _>>()?;
    let data = cursor.offset.next_multiple_of(alignment as usize);
    let mut tensors = BTreeMap::new();
    for (at, name, mut info) in descriptions {
        let length = info.end;
        let end = data
            .checked_add(info.start)
            .and_then(|start| start.checked_add(length));
        match end {
            Some(end) if end <= cursor.bytes.len() => {
                info.start += data;
                info.end = end;
            }
            _ => {
                return Err(at.error(format!(
                    "the data of {name} ({length} bytes from {} of the data) lie beyond the end \
                     of the file; it is cut off or damaged",
                    info.start
                )));
            }
        }
        if tensors.insert(name.to_owned(), info).is_some() {
            return Err(at.error(format!("the tensor {name} is there twice")));
        }
    }
    Ok((keys, tensors))
}

/// One description; `start` is relative to the data and `end` still a length.
fn description<'a>(cursor: &mut Cursor<'a>) -> Result<(Cursor<'a>, &'a str, TensorInfo), Error> {
    let at = cursor.clone();
    let name = cursor.string("a tensor's name")?;
    let dimensions = cursor.u32(name)?;
    if !(1..=4).contains(&dimensions) {
        return Err(at.error(format!("{name} has {dimensions} dimensions, not 1 to 4")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = cursor.u64(name)?;
        let size = usize::try_from(size)
            .ok()
            .filter(|n| (1..1 << 40).contains(n));
        shape.push(size.ok_or_else(|| at.error(format!("{name} has an impossible size")))?);
    }
    let kind = TensorType::from_ggml(cursor.u32(name)?)
        .map_err(|message| at.error(format!("{name} {message}")))?;
    let offset = cursor.u64(name)?;
    let (elements, bytes) = kind.block();
    if shape[0] % elements != 0 {
        return Err(at.error(format!(
            "{name} has rows of {} in blocks of {elements}",
            shape[0]
        )));
    }
    let numel = shape
        .iter()
        .try_fold(1usize, |n, size| n.checked_mul(*size));
    let length = numel.and_then(|n| (n / elements).checked_mul(bytes));
    let (Some(length), Ok(start)) = (length, usize::try_from(offset)) else {
        return Err(at.error(format!("{name} has an impossible size")));
    };
    shape.reverse();
    Ok((
        at,
        name,
        TensorInfo {
            kind,
            shape,
            start,
            end: length,
        },
    ))
}
