//! Which values do a GGUF file's keys have?

use super::cursor::Cursor;
use crate::Error;

/// A value where it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

/// Values of one type, decoded as they are asked for: a list of a hundred thousand tokens costs
/// nothing until then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    kind: u32,
    count: usize,
    bytes: &'a [u8],
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a value of this kind; `None` for those that say their own length.
fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

pub(super) fn read<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Value<'a>, Error> {
    let at = cursor.clone();
    let kind = cursor.u32(key)?;
    match kind {
        STRING => Ok(Value::String(cursor.string(key)?)),
        ARRAY => {
            let at = cursor.clone();
            let kind = cursor.u32(key)?;
            let smallest = match (width(kind), kind) {
                (Some(width), _) => width,
                (None, STRING) => 8,
                (None, ARRAY) => return Err(at.error(format!("{key} is a list of lists"))),
                _ => return Err(at.error(format!("{key} is a list of unknown type {kind}"))),
            };
            let count = cursor.count(smallest as u64, key)?;
            let start = cursor.offset;
            match kind {
                STRING => {
                    for _ in 0..count {
                        cursor.string(key)?;
                    }
                }
                _ => drop(cursor.take((count * smallest) as u64, key)?),
            }
            let bytes = &cursor.bytes[start..cursor.offset];
            Ok(Value::Array(Array { kind, count, bytes }))
        }
        _ => match width(kind) {
            Some(width) => Ok(scalar(kind, cursor.take(width as u64, key)?)),
            None => Err(at.error(format!("{key} has unknown type {kind}"))),
        },
    }
}

fn scalar(kind: u32, bytes: &[u8]) -> Value<'static> {
    let mut wide = [0u8; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    match kind {
        1 => Value::Signed(i64::from(unsigned as i8)),
        3 => Value::Signed(i64::from(unsigned as i16)),
        5 => Value::Signed(i64::from(unsigned as i32)),
        11 => Value::Signed(unsigned as i64),
        6 => Value::Float(f64::from(f32::from_bits(unsigned as u32))),
        12 => Value::Float(f64::from_bits(unsigned)),
        7 => Value::Bool(unsigned != 0),
        _ => Value::Unsigned(unsigned),
    }
}

impl<'a> Value<'a> {
    pub fn as_u64(self) -> Option<u64> {
        match self {
            Value::Unsigned(n) => Some(n),
            Value::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    pub fn as_f64(self) -> Option<f64> {
        match self {
            Value::Float(x) => Some(x),
            Value::Unsigned(n) => Some(n as f64),
            Value::Signed(n) => Some(n as f64),
            _ => None,
        }
    }

    pub fn as_bool(self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_array(self) -> Option<Array<'a>> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl<'a> Array<'a> {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let Array { kind, count, bytes } = *self;
        let mut offset = 0;
        (0..count).map(move |_| {
            let length = match width(kind) {
                Some(width) => width,
                None => {
                    let length = bytes[offset..offset + 8].try_into().expect("eight bytes");
                    offset += 8;
                    u64::from_le_bytes(length) as usize
                }
            };
            let item = &bytes[offset..offset + length];
            offset += length;
            match kind {
                STRING => Value::String(std::str::from_utf8(item).expect("checked when read")),
                _ => scalar(kind, item),
            }
        })
    }
}
