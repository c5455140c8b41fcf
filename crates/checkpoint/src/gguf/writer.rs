//! How is a small GGUF file written, such as an adapter?

use crate::Dtype;
use std::io::{self, Write};

const ALIGNMENT: usize = 32;

/// A value for a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    String(String),
    F32(f32),
}

/// Keys and tensors in the order they are added.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    keys: Vec<(String, Key)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl GgufWriter {
    pub fn key(&mut self, name: &str, value: Key) {
        self.keys.push((name.to_owned(), value));
    }

    /// `shape` is row-major, outermost first, as everywhere here.
    ///
    /// # Panics
    /// If `dtype` is not `F32`, `BF16` or `F16`, or `values` do not fill `shape`.
    pub fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32], dtype: Dtype) {
        assert_eq!(
            values.len(),
            shape.iter().product::<usize>(),
            "{name}: values fill the shape"
        );
        self.tensors.push(Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            dtype,
            bytes: dtype.encode(values),
        });
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut head = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.keys.len() as u64).to_le_bytes());
        for (name, value) in &self.keys {
            string(&mut head, name);
            match value {
                Key::String(text) => {
                    head.extend(8u32.to_le_bytes());
                    string(&mut head, text);
                }
                Key::F32(number) => {
                    head.extend(6u32.to_le_bytes());
                    head.extend(number.to_le_bytes());
                }
            }
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            string(&mut head, &tensor.name);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            head.extend(
                tensor
                    .shape
                    .iter()
                    .rev()
                    .flat_map(|n| (*n as u64).to_le_bytes()),
            );
            let kind: u32 = match tensor.dtype {
                Dtype::F16 => 1,
                Dtype::BF16 => 30,
                _ => 0,
            };
            head.extend(kind.to_le_bytes());
            head.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes.len().next_multiple_of(ALIGNMENT);
        }
        out.write_all(&head)?;
        pad(out, head.len())?;
        for tensor in &self.tensors {
            out.write_all(&tensor.bytes)?;
            pad(out, tensor.bytes.len())?;
        }
        Ok(())
    }
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    let padding = written.next_multiple_of(ALIGNMENT) - written;
    out.write_all(&[0; ALIGNMENT][..padding])
}
