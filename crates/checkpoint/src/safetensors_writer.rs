//! How is a safetensors file written whose tensors do not fit in memory together?
//!
//! The header is planned first; tensors then arrive in any order and are written to their place.
//! Order and alignment are those of the reference library: widest type first, then by name, the
//! header padded to eight bytes, so equal tensors make equal files.

use crate::{Dtype, Error};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Entry {
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// A file being written. Tensors may come from several threads.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    file: File,
    places: BTreeMap<String, (u64, usize)>,
    written: std::sync::Mutex<std::collections::BTreeSet<String>>,
}

impl SafetensorsWriter {
    /// Creates the file, as long as it will be, with its header.
    pub fn create(
        path: &Path,
        mut entries: Vec<Entry>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<SafetensorsWriter, Error> {
        entries.sort_by(|a, b| rank(b.dtype).cmp(&rank(a.dtype)).then(a.name.cmp(&b.name)));
        let mut header = serde_json::Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
        }
        let mut relative = Vec::with_capacity(entries.len());
        let mut end = 0;
        for entry in &entries {
            let start = end;
            end += entry.bytes();
            relative.push(start);
            let description = serde_json::json!({
                "dtype": entry.dtype.safetensors_name(),
                "shape": entry.shape,
                "data_offsets": [start, end],
            });
            if header.insert(entry.name.clone(), description).is_some() {
                return Err(Error::tensor(path, &entry.name, "would be written twice"));
            }
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');

        let file = File::create(path).map_err(Error::io(path))?;
        let data = 8 + header.len();
        file.set_len((data + end) as u64).map_err(Error::io(path))?;
        file.write_all_at(&(header.len() as u64).to_le_bytes(), 0)
            .map_err(Error::io(path))?;
        file.write_all_at(&header, 8).map_err(Error::io(path))?;
        let places = entries.into_iter().zip(relative);
        Ok(SafetensorsWriter {
            path: path.to_owned(),
            file,
            places: places
                .map(|(entry, start)| {
                    let bytes = entry.bytes();
                    (entry.name, ((data + start) as u64, bytes))
                })
                .collect(),
            written: std::sync::Mutex::default(),
        })
    }

    /// Writes one tensor to its place.
    ///
    /// # Panics
    /// If the tensor was not announced, or has another size than announced.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (offset, length) = self.places[name];
        assert_eq!(bytes.len(), length, "{name}: announced with another size");
        self.file
            .write_all_at(bytes, offset)
            .map_err(Error::io(&self.path))?;
        self.written
            .lock()
            .expect("no writer panicked")
            .insert(name.to_owned());
        Ok(())
    }

    /// Makes sure that every announced tensor is there, and on the disk.
    pub fn finish(self) -> Result<(), Error> {
        let written = self.written.into_inner().expect("no writer panicked");
        if let Some(name) = self.places.keys().find(|name| !written.contains(*name)) {
            return Err(Error::tensor(
                &self.path,
                name,
                "was announced but never written",
            ));
        }
        self.file.sync_all().map_err(Error::io(&self.path))
    }
}

/// The reference library's order of types.
fn rank(dtype: Dtype) -> usize {
    use Dtype::*;
    let narrow_to_wide = [
        Bool, U8, I8, I16, U16, F16, BF16, I32, U32, F32, F64, I64, U64,
    ];
    narrow_to_wide
        .iter()
        .position(|d| *d == dtype)
        .expect("every type is listed")
}
