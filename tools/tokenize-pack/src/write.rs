//! Packed rows to the output: a packed file, or JSON lines.

use std::io::{IsTerminal, Write};

use cli::{Hint, Output};
use serde::Serialize;
use tokens::shard::{self, Examples, segment_loss_mask};
use tokens::{Meta, Rows};

use crate::args::{Args, Format};
use crate::spill::Spill;

/// One packed row as TRL writes it: labels −100 where nothing is learned.
#[derive(Serialize)]
struct PackedLine<'a> {
    input_ids: &'a [u32],
    labels: &'a [i64],
    seq_lengths: &'a [usize],
}

pub fn packed(args: &Args, meta: &Meta, rows: &Rows, spill: &Spill) -> anyhow::Result<()> {
    let mut out = args.output.create()?;
    match args.format {
        Format::Safetensors => shard::write(&mut out, meta, rows, spill)?,
        Format::Jsonl => lines(&mut out, rows, spill)?,
    }
    out.commit()
}

fn lines(out: &mut dyn Write, rows: &Rows, spill: &Spill) -> anyhow::Result<()> {
    let (mut ids, mut loss_mask) = (Vec::new(), Vec::new());
    for row in 0..rows.len() {
        let (mut input_ids, mut labels, mut seq_lengths) = (Vec::new(), Vec::new(), Vec::new());
        for piece in rows.row(row) {
            spill.input_ids(piece, &mut ids)?;
            segment_loss_mask(spill, piece, &mut loss_mask)?;
            let label = |(id, target): (&u32, &u8)| {
                if *target == 1 {
                    i64::from(*id)
                } else {
                    dataset::IGNORED_LABEL
                }
            };
            labels.extend(ids.iter().zip(&loss_mask).map(label));
            input_ids.extend_from_slice(&ids);
            seq_lengths.push(piece.len());
        }
        let line = PackedLine {
            input_ids: &input_ids,
            labels: &labels,
            seq_lengths: &seq_lengths,
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// A packed file is no reading matter.
pub fn refuse_terminal(output: &Output) -> anyhow::Result<()> {
    if *output == Output::Stdout && std::io::stdout().is_terminal() {
        return Err(anyhow::anyhow!(
            "a packed file is binary and is not written to a terminal"
        ))
        .hint("-o FILE.safetensors, or --format jsonl");
    }
    Ok(())
}
