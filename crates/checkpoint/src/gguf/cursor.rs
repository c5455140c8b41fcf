//! How is a binary file read so that no length in it is believed?

use crate::Error;
use std::path::Path;

/// A place in the file. Reading past its end is an error that names the place.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub path: &'a Path,
    pub bytes: &'a [u8],
    pub offset: usize,
}

impl<'a> Cursor<'a> {
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::Byte {
            path: self.path.to_owned(),
            offset: self.offset as u64,
            message: message.into(),
        }
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    pub fn take(&mut self, length: u64, what: &str) -> Result<&'a [u8], Error> {
        if length > self.remaining() as u64 {
            return Err(self.error(format!(
                "{what} needs {length} bytes, where the file has {} left; it is cut off or damaged",
                self.remaining()
            )));
        }
        let start = self.offset;
        self.offset += length as usize;
        Ok(&self.bytes[start..self.offset])
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, Error> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(
            bytes.try_into().expect("four were taken"),
        ))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, Error> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(
            bytes.try_into().expect("eight were taken"),
        ))
    }

    /// A count of things of at least `smallest` bytes each, which must fit in what is left.
    pub fn count(&mut self, smallest: u64, what: &str) -> Result<usize, Error> {
        let start = self.offset;
        let count = self.u64(what)?;
        match count
            .checked_mul(smallest)
            .filter(|bytes| *bytes <= self.remaining() as u64)
        {
            Some(_) => Ok(count as usize),
            None => {
                self.offset = start;
                Err(self.error(format!("{what} is {count}, more than the file can hold")))
            }
        }
    }

    /// A length and as many bytes of UTF-8.
    pub fn string(&mut self, what: &str) -> Result<&'a str, Error> {
        let length = self.u64(what)?;
        let start = self.offset;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let at = Cursor {
                offset: start + error.valid_up_to(),
                ..self.clone()
            };
            at.error(format!("{what} is not UTF-8"))
        })
    }
}
