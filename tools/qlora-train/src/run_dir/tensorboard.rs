//! The log as TensorBoard reads it: a TFRecord file of Event messages, one for each row.
//!
//! Written by hand, because it is two tables of the protobuf format and a checksum. No event tells a time,
//! which would differ from run to run: TensorBoard's axis is the step.

use crate::state::Row;

/// The records of the rows from `written` on. The file begins with the format's version.
pub fn events(log: &[Row], written: usize) -> Vec<u8> {
    let rows = log[written..].iter().map(event);
    let version = field(3, b"brain.Event:2");
    let begin = (written == 0 && !log.is_empty()).then_some(version);
    begin
        .into_iter()
        .chain(rows)
        .flat_map(|event| record(&event))
        .collect()
}

/// `Event { int64 step = 2; Summary summary = 5 { repeated Value value = 1 } }`.
fn event(row: &Row) -> Vec<u8> {
    let (step, scalars) = match *row {
        Row::Train {
            grad_norm,
            learning_rate,
            loss,
            step,
            ..
        } => (
            step,
            vec![
                ("train/loss", loss),
                ("train/grad_norm", grad_norm),
                ("train/learning_rate", learning_rate),
            ],
        ),
        Row::Eval {
            eval_loss, step, ..
        } => (step, vec![("eval/loss", eval_loss)]),
    };
    let values = scalars
        .into_iter()
        .flat_map(|(tag, x)| field(1, &scalar(tag, x)));
    let summary: Vec<u8> = values.collect();
    [vec![2 << 3], varint(step), field(5, &summary)].concat()
}

/// `Value { string tag = 1; float simple_value = 2 }`.
fn scalar(tag: &str, x: f64) -> Vec<u8> {
    const FIXED32: u8 = 5;
    let value = (x as f32).to_le_bytes();
    [
        field(1, tag.as_bytes()),
        vec![2 << 3 | FIXED32],
        value.to_vec(),
    ]
    .concat()
}

/// A field of bytes: text, or a message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    const LENGTH_DELIMITED: u8 = 2;
    let tag = vec![number << 3 | LENGTH_DELIMITED];
    [tag, varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// Seven bits a byte, the lowest first.
fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// Length and bytes, each with its checksum after it.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let sum = |bytes: &[u8]| masked(crc32c(bytes)).to_le_bytes();
    [&length[..], &sum(&length), bytes, &sum(bytes)].concat()
}

/// As TensorFlow's crc32c.h masks it, so that a checksum of checksums is none.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's polynomial, bit by bit: some hundred bytes a step.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_row_is_the_event_that_tensorboards_own_writer_would_write() {
        let row = Row::Eval {
            epoch: 1.0,
            eval_loss: 0.5,
            step: 300,
        };
        let event = b"\x10\xac\x02\x2a\x12\x0a\x10\x0a\x09eval/loss\x15\0\0\0\x3f";
        assert_eq!(super::event(&row), event);
        let log = [row.clone(), row];
        let all = events(&log, 0);
        assert!(all.windows(13).any(|bytes| bytes == b"brain.Event:2"));
        // In parts, as a run appends them, the same bytes.
        let parts = [events(&log[..1], 0), events(&log, 1)];
        assert_eq!(all, parts.concat());
        assert!(events(&[], 0).is_empty());
    }
}
