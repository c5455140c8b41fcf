//! Is a GGUF file read as it was written, and is a damaged one refused without a panic?

use checkpoint::gguf::{Gguf, TensorType, Value};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &kind.to_le_bytes(), value].concat()
}

fn description(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims: Vec<u8> = [&(dims.len() as u32).to_le_bytes()[..]]
        .into_iter()
        .map(<[u8]>::to_vec)
        .chain(dims.iter().map(|d| d.to_le_bytes().to_vec()))
        .flatten()
        .collect();
    [
        &string(name)[..],
        &dims,
        &kind.to_le_bytes(),
        &offset.to_le_bytes(),
    ]
    .concat()
}

/// A small file with every kind of value, an F32 tensor of 2 × 3 and a Q8_0 tensor of 1 × 32.
fn small() -> Vec<u8> {
    let words = [
        &8u32.to_le_bytes()[..],
        &2u64.to_le_bytes(),
        &string("a"),
        &string("bé"),
    ]
    .concat();
    let numbers = [
        &5u32.to_le_bytes()[..],
        &2u64.to_le_bytes(),
        &[1, 0, 0, 0, 255, 255, 255, 255],
    ];
    let pairs = [
        pair("general.architecture", 8, &string("llama")),
        pair("general.alignment", 4, &64u32.to_le_bytes()),
        pair("words", 9, &words),
        pair("numbers", 9, &numbers.concat()),
        pair("half", 6, &0.5f32.to_le_bytes()),
        pair("yes", 7, &[1]),
    ];
    let descriptions = [
        description("plain", &[3, 2], 0, 0),
        description("blocks", &[32, 1], 8, 64),
    ];
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    bytes.extend((descriptions.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    bytes.extend(pairs.concat());
    bytes.extend(descriptions.concat());
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    bytes.extend((0..6).flat_map(|i| (i as f32).to_le_bytes()));
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    bytes.extend(half::f16::from_f32(2.0).to_le_bytes());
    bytes.extend(0..32u8);
    bytes
}

fn open(bytes: &[u8]) -> (tempfile::TempDir, Result<Gguf, checkpoint::Error>) {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("small.gguf");
    fs::write(&path, bytes).unwrap();
    let opened = Gguf::open(&path);
    (dir, opened)
}

fn refusal(bytes: &[u8]) -> String {
    open(bytes).1.expect_err("the file is damaged").to_string()
}

#[test]
fn keys_and_tensors_are_read() {
    let (_dir, file) = open(&small());
    let file = file.unwrap();
    assert_eq!(
        file.get("general.architecture"),
        Some(Value::String("llama"))
    );
    assert_eq!(file.get("half").and_then(Value::as_f64), Some(0.5));
    assert_eq!(file.get("yes").and_then(Value::as_bool), Some(true));
    let words = file.get("words").and_then(Value::as_array).unwrap();
    assert_eq!(
        words.iter().filter_map(Value::as_str).collect::<Vec<_>>(),
        ["a", "bé"]
    );
    let numbers = file.get("numbers").and_then(Value::as_array).unwrap();
    assert_eq!(
        numbers.iter().collect::<Vec<_>>(),
        [Value::Signed(1), Value::Signed(-1)]
    );
    let (info, values) = file.tensor("plain").unwrap();
    assert_eq!((info.kind, &info.shape[..]), (TensorType::F32, &[2, 3][..]));
    assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let (info, values) = file.tensor("blocks").unwrap();
    assert_eq!((&info.shape[..], values[31]), (&[1, 32][..], 62.0));
    assert!(file.get("absent").is_none() && file.tensor("absent").is_err());
}

#[test]
fn every_truncation_is_an_error_with_a_place() {
    let bytes = small();
    for length in 1..bytes.len() {
        let message = refusal(&bytes[..length]);
        assert!(message.contains("small.gguf: byte "), "{length}: {message}");
    }
    assert!(refusal(b"").contains("is empty"));
}

#[test]
fn counts_beyond_the_file_allocate_nothing() {
    for at in [8, 16] {
        let mut bytes = small();
        bytes[at..at + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        assert!(
            refusal(&bytes).contains("more than the file can hold"),
            "{at}"
        );
    }
    let mut bytes = small();
    bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&bytes).contains("byte 32: a key needs 18446744073709551615 bytes"));
}

#[test]
fn other_versions_and_types_are_refused_by_name() {
    let mut bytes = small();
    bytes[4] = 1;
    assert!(refusal(&bytes).contains("byte 4: has GGUF version 1"));
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(refusal(&bytes).contains("big-endian"));
    bytes[..4].copy_from_slice(b"GGML");
    assert!(refusal(&bytes).contains("does not begin with GGUF"));
    let at = small().windows(6).position(|w| w == b"blocks").unwrap() + 6 + 4 + 16;
    let mut bytes = small();
    bytes[at] = 16;
    let message = refusal(&bytes);
    assert!(
        message.contains("blocks has type IQ2_XXS (16)"),
        "{message}"
    );
    assert!(message.contains("take the model's Q8_0"), "{message}");
}

/// Blocks with random codes and scales, and what llama.cpp's dequantize_row_* made of them.
#[test]
fn every_kind_of_block_is_dequantised_as_llama_cpp_does_to_the_last_bit() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/gguf/blocks.safetensors");
    let reference = checkpoint::SafetensorsFile::open(&path).unwrap();
    for (name, kind) in [
        ("q4_0", 2),
        ("q4_1", 3),
        ("q5_0", 6),
        ("q5_1", 7),
        ("q8_0", 8),
        ("q2_K", 10),
        ("q3_K", 11),
        ("q4_K", 12),
        ("q5_K", 13),
        ("q6_K", 14),
        ("iq4_nl", 20),
        ("iq4_xs", 23),
    ] {
        let blocks = reference.tensor(&format!("{name}.blocks")).unwrap();
        let expected = reference.tensor(&format!("{name}.values")).unwrap();
        let [rows, columns] = expected.shape[..] else {
            panic!("rows of blocks")
        };
        let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(description("t", &[columns as u64, rows as u64], kind, 0));
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(blocks.bytes);
        let (_dir, file) = open(&bytes);
        let (_, values) = file
            .unwrap()
            .tensor("t")
            .map(|(i, v)| (i.clone(), v))
            .unwrap();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&values), bits(&expected.to_f32().unwrap()), "{name}");
    }
}

proptest! {
    #[test]
    fn no_damage_is_a_panic(changes in prop::collection::vec((0usize..600, any::<u8>()), 1..8)) {
        let mut bytes = small();
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        if let (_dir, Ok(file)) = open(&bytes) {
            for key in file.keys() {
                if let Some(Value::Array(array)) = file.get(key) {
                    let _ = array.iter().count();
                }
            }
            let names: Vec<String> = file.tensors().map(|(name, _)| name.to_owned()).collect();
            for name in names {
                let _ = file.tensor(&name).map(drop);
            }
        }
    }
}
