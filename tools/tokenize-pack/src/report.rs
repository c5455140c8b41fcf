//! What came of the packing, for the person at the terminal.

use tokens::{Meta, Packing, Rows};

use crate::ledger::Ledger;

/// `lost`: targets that are none any more, for a cut makes them the first of a piece.
pub fn print(meta: &Meta, rows: &Rows, lengths: &[u32], lost: usize, ledger: &Ledger) {
    let counts = &meta.counts;
    cli::note(format_args!(
        "{} examples, {} tokens, {} of them learned ({:.1} %)",
        counts.examples,
        counts.tokens,
        counts.supervised_tokens,
        percent(counts.supervised_tokens, counts.tokens)
    ));
    let row = meta.max_seq_length;
    let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
    let mut line = format!(
        "{} rows of at most {row} tokens, {:.1} % full",
        counts.rows,
        percent(counts.tokens, counts.rows * row)
    );
    if meta.packing != Packing::None {
        line += &format!(
            "; one example a row, padded to the longest ({longest}), would be {} rows, {:.1} % full",
            lengths.len(),
            percent(counts.tokens, lengths.len() * longest)
        );
    }
    cli::note(line);
    let first = rows.pieces.iter().filter(|piece| piece.tokens.start == 0);
    let cut = first.filter(|piece| piece.is_cut_from(lengths)).count();
    if cut > 0 {
        cli::note(format_args!("{cut} examples cut, {lost} targets lost"));
    }
    if ledger.truncated.count > 0 {
        cli::note(format_args!(
            "truncated, too long: {}",
            ledger.truncated.summary()
        ));
    }
    if ledger.dropped.count > 0 {
        cli::note(format_args!(
            "dropped, too long: {}",
            ledger.dropped.summary()
        ));
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
