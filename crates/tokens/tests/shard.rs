//! The packed file: what goes in comes out, and a hostile file gives an error and nothing else.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tokens::shard::{self, count};
use tokens::{Batch, Encoded, Fingerprint, Meta, Packing, Shard, pack};

fn packed(examples: &[Encoded], vocab_size: usize, row: usize, packing: Packing) -> Vec<u8> {
    let lengths: Vec<u32> = examples
        .iter()
        .map(|example| example.input_ids.len() as u32)
        .collect();
    let rows = pack(&lengths, row, packing).unwrap();
    let counts = count(&rows, examples).unwrap();
    let fingerprint = Fingerprint {
        tokenizer: Some("abc".into()),
        template: None,
    };
    let meta = Meta::new(fingerprint, vocab_size, row, packing, None, counts);
    let mut bytes = Vec::new();
    shard::write(&mut bytes, &meta, &rows, examples).unwrap();
    bytes
}

fn opened(bytes: &[u8]) -> (tempfile::TempDir, Result<Shard, tokens::Error>) {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("train.safetensors");
    fs::write(&path, bytes).unwrap();
    let shard = Shard::open(&path);
    (dir, shard)
}

fn example(ids: &[u32], targets: &[u8]) -> Encoded {
    Encoded {
        input_ids: ids.to_vec(),
        loss_mask: targets.to_vec(),
    }
}

fn three() -> Vec<Encoded> {
    vec![
        example(&[5, 6, 7], &[0, 0, 1]),
        example(&[8, 9, 10, 11], &[0, 1, 1, 1]),
        example(&[12, 13], &[0, 1]),
    ]
}

#[test]
fn rows_come_back_as_they_went_in() {
    for vocab_size in [512, 70_000] {
        let (_dir, shard) = opened(&packed(&three(), vocab_size, 5, Packing::Bfd));
        let shard = shard.unwrap();
        assert_eq!(shard.rows(), 2);
        assert_eq!(shard.meta().counts.supervised_tokens, 5);
        let row = shard.row(1);
        assert_eq!(row.input_ids, [5, 6, 7, 12, 13]);
        assert_eq!(row.loss_mask, [0, 0, 1, 0, 1]);
        assert_eq!(row.offsets, [0, 3, 5]);
        assert_eq!((shard.row_length(1), shard.row_targets(1)), (5, 2));
        let batch = Batch::of((0..2).map(|row| shard.row(row)));
        assert_eq!(batch.input_ids, [8, 9, 10, 11, 5, 6, 7, 12, 13]);
        assert_eq!(batch.offsets, [0, 4, 7, 9]);
        assert_eq!(batch.position_ids(), [0, 1, 2, 3, 0, 1, 2, 0, 1]);
        assert_eq!(batch.targets(), 5);
    }
}

#[test]
fn the_first_token_of_a_cut_piece_is_no_target() {
    let (_dir, shard) = opened(&packed(
        &[example(&[1, 2, 3, 4], &[0, 1, 1, 1])],
        16,
        2,
        Packing::Wrapped,
    ));
    let shard = shard.unwrap();
    assert_eq!(
        (shard.row(0).loss_mask, shard.row(1).loss_mask),
        (&[0, 1][..], &[0, 1][..])
    );
    assert_eq!(shard.meta().counts.supervised_tokens, 2);
}

#[test]
fn the_safetensors_crate_reads_the_file() {
    let bytes = packed(&three(), 512, 5, Packing::Bfd);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(
        tensors.tensor("input_ids").unwrap().dtype(),
        safetensors::Dtype::U16
    );
    assert_eq!(tensors.tensor("seq_offsets").unwrap().shape(), [4]);
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    assert_eq!(
        packed(&three(), 512, 5, Packing::Bfd),
        packed(&three(), 512, 5, Packing::Bfd)
    );
}

#[test]
fn a_foreign_tokenizer_or_vocabulary_is_refused_with_a_hint() {
    let (_dir, shard) = opened(&packed(&three(), 512, 5, Packing::Bfd));
    let shard = shard.unwrap();
    let ours = |tokenizer: &str| Fingerprint {
        tokenizer: Some(tokenizer.into()),
        template: None,
    };
    shard.check_base(&ours("abc"), 512).unwrap();
    let error = shard.check_base(&ours("abd"), 512).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("packed with another tokenizer than the base's"),
        "{error}"
    );
    assert_eq!(
        error.hint(),
        Some("pack it again with tokenize-pack --base of this base")
    );
    assert!(shard.check_base(&ours("abc"), 513).is_err());
}

#[test]
fn a_foreign_version_is_refused_by_its_number() {
    let bytes = packed(&three(), 512, 5, Packing::Bfd);
    let key = br#"\"version\":"#;
    let at = bytes
        .windows(key.len())
        .position(|window| window == key)
        .unwrap();
    let mut newer = bytes.clone();
    newer[at + key.len()] = b'7';
    let (_dir, shard) = opened(&newer);
    let error = shard.err().unwrap().to_string();
    assert!(
        error.ends_with("format version 7, and this build reads version 1"),
        "{error}"
    );
}

#[test]
fn files_that_are_no_packed_files_are_refused() {
    let bytes = packed(&three(), 512, 5, Packing::Bfd);
    for broken in [
        &b""[..],
        b"{}",
        &bytes[..bytes.len() - 1],
        &bytes[..40],
        &[0xff; 64],
    ] {
        let (_dir, shard) = opened(broken);
        assert!(matches!(
            shard,
            Err(tokens::Error::Shard { .. } | tokens::Error::Io { .. })
        ));
    }
}

fn examples() -> impl Strategy<Value = Vec<Encoded>> {
    let one = prop::collection::vec((0u32..300, 0u8..2), 1..20).prop_map(|tokens| {
        let (input_ids, mut loss_mask): (Vec<u32>, Vec<u8>) = tokens.into_iter().unzip();
        loss_mask[0] = 0;
        Encoded {
            input_ids,
            loss_mask,
        }
    });
    prop::collection::vec(one, 1..20)
}

proptest! {
    #[test]
    fn unpacking_what_was_packed_gives_every_example_back(examples in examples()) {
        for packing in [Packing::Bfd, Packing::None] {
            let (_dir, shard) = opened(&packed(&examples, 300, 20, packing));
            let shard = shard.unwrap();
            let mut found = Vec::new();
            for row in 0..shard.rows() {
                let row = shard.row(row);
                for segment in row.offsets.windows(2) {
                    let tokens = segment[0]..segment[1];
                    found.push(example(&row.input_ids[tokens.clone()], &row.loss_mask[tokens]));
                }
            }
            if packing == Packing::None {
                prop_assert_eq!(&found, &examples);
            }
            let mut expected = examples.clone();
            let key = |example: &Encoded| (example.input_ids.clone(), example.loss_mask.clone());
            expected.sort_by_key(key);
            found.sort_by_key(key);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_or_reads_without_panic(at in 0usize..2000, value: u8) {
        let mut bytes = packed(&three(), 512, 5, Packing::Bfd);
        let at = at % bytes.len();
        bytes[at] = value;
        let (_dir, shard) = opened(&bytes);
        if let Ok(shard) = shard {
            for row in 0..shard.rows() {
                prop_assert!(shard.row(row).input_ids.iter().all(|id| (*id as usize) < shard.meta().vocab_size));
            }
        }
    }
}
