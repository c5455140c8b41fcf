//! Which examples share a row? As TRL packs them, and without losing a token.

use proptest::prelude::*;
use serde::Deserialize;
use tokens::{Packing, Rows, pack};

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    lengths: Vec<u32>,
    seq_length: usize,
    strategy: Packing,
    input_ids: Vec<Vec<u32>>,
    seq_lengths: Option<Vec<Vec<usize>>>,
}

/// Token `j` of all examples end to end has id `j`.
fn input_ids(rows: &Rows, lengths: &[u32]) -> Vec<Vec<u32>> {
    let starts: Vec<u32> = lengths
        .iter()
        .scan(0, |sum, length| {
            let start = *sum;
            *sum += length;
            Some(start)
        })
        .collect();
    let ids = |piece: &tokens::Piece| {
        let start = starts[piece.example as usize];
        start + piece.tokens.start..start + piece.tokens.end
    };
    (0..rows.len())
        .map(|row| rows.row(row).iter().flat_map(ids).collect())
        .collect()
}

#[test]
fn rows_are_those_of_trl() {
    let json = include_str!("../../../tests/data/tokens/packing.json");
    let fixture: Fixture = serde_json::from_str(json).unwrap();
    assert_eq!(fixture.cases.len(), 21);
    for case in fixture.cases {
        let Case {
            mut lengths,
            seq_length,
            strategy,
            ..
        } = case;
        let whole = lengths.clone();
        if strategy == Packing::Bfd {
            // TRL cuts long examples short before packing; here that is a policy of its own.
            lengths
                .iter_mut()
                .for_each(|length| *length = (*length).min(seq_length as u32));
        }
        let rows = pack(&lengths, seq_length, strategy).unwrap();
        assert_eq!(
            input_ids(&rows, &whole),
            case.input_ids,
            "{strategy:?} {whole:?}"
        );
        if let Some(expected) = case.seq_lengths {
            let found: Vec<Vec<usize>> = (0..rows.len())
                .map(|row| rows.row(row).iter().map(|piece| piece.len()).collect())
                .collect();
            assert_eq!(found, expected, "{strategy:?} {whole:?}");
        }
    }
}

#[test]
fn an_example_longer_than_a_row_is_not_cut_in_silence() {
    for packing in [Packing::Bfd, Packing::None] {
        let error = pack(&[3, 9], 8, packing).unwrap_err();
        assert_eq!(
            error.to_string(),
            "example 1 has 9 tokens, more than a row of 8"
        );
    }
}

#[test]
fn without_packing_rows_keep_the_order_given() {
    let rows = pack(&[3, 0, 8, 1], 8, Packing::None).unwrap();
    let order: Vec<u32> = rows.pieces.iter().map(|piece| piece.example).collect();
    assert_eq!((order, rows.len()), (vec![0, 2, 3], 3));
}

fn packing() -> impl Strategy<Value = Packing> {
    prop_oneof![
        Just(Packing::Bfd),
        Just(Packing::BfdSplit),
        Just(Packing::Wrapped),
        Just(Packing::None)
    ]
}

proptest! {
    #[test]
    fn packing_loses_no_token_and_no_row_overflows(
        mut lengths in prop::collection::vec(0u32..40, 0..80),
        max_seq_length in 1usize..24,
        packing in packing(),
    ) {
        if !packing.splits() {
            lengths.iter_mut().for_each(|length| *length = (*length).min(max_seq_length as u32));
        }
        let rows = pack(&lengths, max_seq_length, packing).unwrap();
        let packed = input_ids(&rows, &lengths);
        prop_assert!(packed.iter().all(|row| (1..=max_seq_length).contains(&row.len())));
        let mut ids: Vec<u32> = packed.concat();
        ids.sort_unstable();
        let total: u32 = lengths.iter().sum();
        prop_assert_eq!(ids, (0..total).collect::<Vec<_>>());
    }

    #[test]
    fn best_fit_decreasing_leaves_at_most_one_row_half_empty(
        lengths in prop::collection::vec(1u32..=64, 1..200),
    ) {
        // Were two rows half empty, the pieces of the later one would have fitted the earlier.
        let rows = pack(&lengths, 64, Packing::Bfd).unwrap();
        let tokens = |row: usize| rows.row(row).iter().map(|piece| piece.len()).sum::<usize>();
        let half_empty = (0..rows.len()).filter(|row| tokens(*row) <= 32).count();
        prop_assert!(half_empty <= 1);
    }
}
