//! What do unrelated sentences score by an encoder's layer? bert_score's baseline files, by which it rescales.

use std::path::Path;

use anyhow::{Context, anyhow};
use cli::Hint;
use dataset::rows::{Format, Quoting, Rows};
use metrics::bertscore::BertScore;

const COLUMNS: [&str; 4] = ["LAYER", "P", "R", "F"];

/// The row of `layer` in a file with the columns LAYER, P, R and F.
pub fn read(path: &Path, layer: usize) -> anyhow::Result<BertScore> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    of_layer(&text, layer)
        .map_err(|error| anyhow!("{}:{error}", path.display()))
        .hint("--bertscore-baseline takes bert_score's rescale_baseline/LANGUAGE/MODEL.tsv of this encoder")
}

fn of_layer(text: &str, layer: usize) -> anyhow::Result<BertScore> {
    let head = text.lines().next().unwrap_or_default();
    let format = Format::Delimited {
        delimiter: if head.contains('\t') { b'\t' } else { b',' }, // theirs are .tsv with commas
        quoting: Quoting::None,
    };
    let rows = Rows::new(text.as_bytes(), format, None)?;
    let header = rows.header().unwrap_or_default();
    if let Some(missing) = COLUMNS
        .iter()
        .find(|name| !header.iter().any(|h| h == **name))
    {
        return Err(anyhow!("1: no column {missing}"));
    }
    let mut layers = Vec::new();
    for row in rows {
        let row = row?;
        let number = |name: &str| {
            let text = row.columns[name].as_str().unwrap_or_default().trim();
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
            number.ok_or_else(|| anyhow!("{}: column {name}: {text:?} is no number", row.place))
        };
        if number("LAYER")? != layer as f64 {
            layers.push(row.columns["LAYER"].as_str().unwrap_or_default().to_owned());
            continue;
        }
        let [precision, recall, f1] = [number("P")?, number("R")?, number("F")?];
        if [precision, recall, f1].iter().any(|score| *score >= 1.0) {
            return Err(anyhow!("{}: a baseline is below 1", row.place));
        }
        return Ok(BertScore {
            precision,
            recall,
            f1,
        });
    }
    Err(anyhow!(
        " no row of layer {layer}; the layers are {}",
        layers.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_the_layers_with_commas_or_tabs() {
        let text = "LAYER,P,R,F\n0,0.25,0.5,0.125\n1,0.5,0.25,0.75\n";
        for text in [text.to_owned(), text.replace(',', "\t")] {
            let got = of_layer(&text, 1).unwrap();
            assert_eq!([got.precision, got.recall, got.f1], [0.5, 0.25, 0.75]);
        }
        for (text, what) in [
            (text, " no row of layer 7; the layers are 0, 1"),
            ("LAYER,P,R\n7,0,0\n", "1: no column F"),
            ("LAYER,P,R,F\n7,0,x,0\n", "2: column R: \"x\" is no number"),
            ("LAYER,P,R,F\n7,0,0,1\n", "2: a baseline is below 1"),
        ] {
            assert_eq!(of_layer(text, 7).unwrap_err().to_string(), what);
        }
    }
}
