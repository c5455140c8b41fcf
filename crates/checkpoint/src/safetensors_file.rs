//! Where in a safetensors file does each tensor lie?

use crate::{Dtype, Error, TensorView};
use memmap2::Mmap;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A mapped safetensors file whose header has been checked against its length.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Place {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    /// Bytes from the start of the file.
    start: usize,
    end: usize,
}

impl SafetensorsFile {
    pub fn open(path: &Path) -> Result<SafetensorsFile, Error> {
        let map = map(path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| Error::file(path, reason(&error, map.len())))?;
        let data = header + 8;
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let place = Place {
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    start: data + info.data_offsets.0,
                    end: data + info.data_offsets.1,
                };
                (name, place)
            })
            .collect();
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Ok(SafetensorsFile {
            path: path.to_owned(),
            map,
            tensors,
            metadata: metadata.into_iter().collect(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Where each tensor begins, in bytes from the start of the file.
    pub fn starts(&self) -> impl Iterator<Item = u64> {
        self.tensors.values().map(|place| place.start as u64)
    }

    /// The header's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, Error> {
        let (name, place) = self
            .tensors
            .get_key_value(name)
            .ok_or_else(|| Error::tensor(&self.path, name, "is not in the file"))?;
        let dtype = Dtype::from_safetensors(place.dtype).ok_or_else(|| {
            let message = format!("has type {:?}, which is not supported", place.dtype);
            Error::tensor(&self.path, name, message)
        })?;
        Ok(TensorView {
            dtype,
            shape: place.shape.clone(),
            bytes: &self.map[place.start..place.end],
            path: &self.path,
            name,
        })
    }
}

/// Maps a file; an empty one is an error, for no model fits in it.
pub(crate) fn map(path: &Path) -> Result<Mmap, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    if metadata.is_dir() {
        return Err(Error::file(path, "is a folder, not a file"));
    }
    if metadata.len() == 0 {
        return Err(Error::file(path, "is empty"));
    }
    // SAFETY: the mapping is read-only and private to us. Should another program truncate the
    // file while it is mapped, the kernel ends this one; files that appear by renaming, as all of
    // this project's do, are never truncated in place.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path))
}

fn reason(error: &safetensors::SafeTensorError, length: usize) -> String {
    use safetensors::SafeTensorError::*;
    match error {
        HeaderTooSmall | InvalidHeaderLength => {
            format!("is cut off within its header ({length} bytes); copy or download it again")
        }
        MetadataIncompleteBuffer => format!(
            "its header describes another number of bytes than the {length} that are there; \
             copy or download it again"
        ),
        HeaderTooLarge | InvalidHeader(_) | InvalidHeaderDeserialization(_) => {
            format!("is not a safetensors file ({error})")
        }
        other => format!("is damaged: {other}"),
    }
}
