//! y = x·Wᵀ + b + s·(drop(x)·Aᵀ)·Bᵀ and its gradients, a panel of W at a time.
//!
//! Forward: 48 output features × 192 input features of W are dequantised, transposed to
//! `[depth][48]` (36 KiB, L1) and multiplied with every row of x, which is broadcast from where it
//! lies; the rank-r product is one more depth block of the same tile. Backward: dx = dy·W needs W
//! as it lies, so a panel is 192 rows × 48 columns, untransposed. Each value of W is dequantised
//! once a call (once per row chunk where there are more threads than panels); dW does not exist.
//! What it costs over a plain matmul is unpacking and transposing each weight once, against m/32
//! cycles of arithmetic on it: little at 512 tokens, much at 32. Up to 16 go to `few_rows`.

use super::dropout::Dropout;
use super::matmul::{Strided, multiply};
use super::panel::{WeightView, transpose};
use super::simd::Level;
use super::{Shared, few_rows, output};
use rayon::prelude::*;

/// Depth of a panel: with 48 lanes, 36 KiB of a 48 KiB L1.
pub(crate) const DEPTH: usize = 192;
/// Rows that a task of the small products takes.
const ROWS: usize = 32;

/// A LoRA adapter on the host: `a` is `[rank, in]`, `b` is `[out, rank]`.
#[derive(Clone, Copy)]
pub struct LoraView<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub rank: usize,
    pub scaling: f32,
    pub dropout: Option<Dropout>,
}

/// Gradients of [`forward`].
pub struct LinearGradients {
    /// `[m, in]`
    pub dx: Option<Vec<f32>>,
    /// `[rank, in]` and `[out, rank]`
    pub da_db: Option<(Vec<f32>, Vec<f32>)>,
}

/// Returns y `[m, out]` and, with an adapter, u = drop(x)·Aᵀ `[m, rank]`.
pub fn forward(
    level: Level,
    x: &[f32],
    weight: WeightView<'_>,
    bias: Option<&[f32]>,
    lora: Option<LoraView<'_>>,
) -> (Vec<f32>, Vec<f32>) {
    let (n, k) = (weight.format.out_features, weight.format.in_features);
    let m = x.len() / k;
    let u = lora.map_or_else(Vec::new, |lora| project(level, x, k, &lora));
    let mut y = output(m * n);
    if m <= few_rows::MOST {
        few_rows::forward(level, x, &u, weight, bias, lora, &mut y);
        return (y, u);
    }
    let target = Shared(y.as_mut_ptr());
    let width = 3 * level.lanes();
    Plan::new(m, n, width).run(|scratch, rows, lanes| {
        let size = width * DEPTH.max(lora.map_or(0, |l| l.rank));
        scratch.resize(2 * size, 0.0);
        let (panel, natural) = scratch.split_at_mut(size);
        let (first, count) = (rows.start, rows.len());
        // SAFETY: this task alone writes rows × lanes of y.
        let tile = unsafe { target.at(first * n + lanes.start) };
        if let Some(bias) = bias {
            for i in 0..count {
                let row = unsafe { std::slice::from_raw_parts_mut(tile.add(i * n), lanes.len()) };
                row.copy_from_slice(&bias[lanes.clone()]);
            }
        }
        let mut accumulate = bias.is_some();
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            weight.panel(
                level,
                lanes.clone(),
                start..start + depth,
                panel,
                width,
                natural,
            );
            let a = Strided::rows(&x[first * k + start..], k);
            multiply(
                level,
                count,
                lanes.len(),
                depth,
                a,
                panel.as_ptr(),
                width,
                tile,
                n,
                accumulate,
            );
            accumulate = true;
        }
        if let Some(lora) = lora {
            let r = lora.rank;
            transpose(
                level,
                &lora.b[lanes.start * r..],
                r,
                lanes.len(),
                r,
                panel,
                width,
            );
            panel[..r * width]
                .iter_mut()
                .for_each(|v| *v *= lora.scaling);
            let a = Strided::rows(&u[first * r..], r);
            multiply(
                level,
                count,
                lanes.len(),
                r,
                a,
                panel.as_ptr(),
                width,
                tile,
                n,
                accumulate,
            );
        }
    });
    (y, u)
}

/// Gradients for dy `[m, out]`; `u` as [`forward`] returned it.
pub fn backward(
    level: Level,
    dy: &[f32],
    x: &[f32],
    u: &[f32],
    weight: WeightView<'_>,
    lora: Option<LoraView<'_>>,
    want_dx: bool,
) -> LinearGradients {
    let (n, k) = (weight.format.out_features, weight.format.in_features);
    let m = dy.len() / n;
    if m == 0 {
        let zeros = |l: LoraView<'_>| (vec![0.0; l.rank * k], vec![0.0; n * l.rank]);
        return LinearGradients {
            dx: want_dx.then(Vec::new),
            da_db: lora.map(zeros),
        };
    }
    let t = lora.map_or_else(Vec::new, |lora| back_project(level, dy, n, &lora));
    let dx = want_dx.then(|| input_gradient(level, dy, &t, m, weight, lora));
    let da_db = lora.map(|lora| {
        (
            gradient_of_a(level, x, k, m, &t, &lora),
            gradient_of_b(level, dy, n, m, u, &lora),
        )
    });
    LinearGradients { dx, da_db }
}

/// dx = dy·W + drop'(t·A)
fn input_gradient(
    level: Level,
    dy: &[f32],
    t: &[f32],
    m: usize,
    weight: WeightView<'_>,
    lora: Option<LoraView<'_>>,
) -> Vec<f32> {
    let (n, k) = (weight.format.out_features, weight.format.in_features);
    let mut dx = output(m * k);
    let target = Shared(dx.as_mut_ptr());
    let width = 3 * level.lanes();
    Plan::new(m, k, width).run(|scratch, rows, lanes| {
        scratch.resize(width * (DEPTH + ROWS), 0.0);
        let (panel, product) = scratch.split_at_mut(width * DEPTH);
        let (first, count) = (rows.start, rows.len());
        // SAFETY: this task alone writes rows × lanes of dx.
        let tile = unsafe { target.at(first * k + lanes.start) };
        for start in (0..n).step_by(DEPTH) {
            let depth = DEPTH.min(n - start);
            weight.rows(level, start..start + depth, lanes.clone(), panel, width);
            let a = Strided::rows(&dy[first * n + start..], n);
            multiply(
                level,
                count,
                lanes.len(),
                depth,
                a,
                panel.as_ptr(),
                width,
                tile,
                k,
                start > 0,
            );
        }
        let Some(lora) = lora else { return };
        let r = lora.rank;
        let b = lora.a[lanes.start..].as_ptr();
        let Some(dropout) = lora.dropout else {
            let a = Strided::rows(&t[first * r..], r);
            multiply(level, count, lanes.len(), r, a, b, k, tile, k, true);
            return;
        };
        for i in (0..count).step_by(ROWS) {
            let some = ROWS.min(count - i);
            let a = Strided::rows(&t[(first + i) * r..], r);
            multiply(
                level,
                some,
                lanes.len(),
                r,
                a,
                b,
                k,
                product.as_mut_ptr(),
                width,
                false,
            );
            for i_row in 0..some {
                let row = unsafe {
                    std::slice::from_raw_parts_mut(tile.add((i + i_row) * k), lanes.len())
                };
                dropout.add(
                    level,
                    first + i + i_row,
                    lanes.start,
                    &product[i_row * width..],
                    row,
                );
            }
        }
    });
    dx
}

/// u = drop(x)·Aᵀ, `[m, rank]`
fn project(level: Level, x: &[f32], k: usize, lora: &LoraView<'_>) -> Vec<f32> {
    let r = lora.rank;
    let mut transposed = output(k * r);
    transpose(level, lora.a, k, r, k, &mut transposed, r);
    let mut u = output(x.len() / k * r);
    u.par_chunks_mut(ROWS * r)
        .zip(x.par_chunks(ROWS * k))
        .enumerate()
        .for_each_init(Vec::new, |dropped, (chunk, (u, x))| {
            let rows = x.len() / k;
            let x = match lora.dropout {
                None => x,
                Some(dropout) => {
                    dropped.resize(x.len(), 0.0);
                    for i in 0..rows {
                        dropout.apply(
                            level,
                            chunk * ROWS + i,
                            0,
                            &x[i * k..(i + 1) * k],
                            &mut dropped[i * k..(i + 1) * k],
                        );
                    }
                    &dropped[..x.len()]
                }
            };
            multiply(
                level,
                rows,
                r,
                k,
                Strided::rows(x, k),
                transposed.as_ptr(),
                r,
                u.as_mut_ptr(),
                r,
                false,
            );
        });
    u
}

/// t = s·dy·B, `[m, rank]`
fn back_project(level: Level, dy: &[f32], n: usize, lora: &LoraView<'_>) -> Vec<f32> {
    let r = lora.rank;
    let mut t = output(dy.len() / n * r);
    t.par_chunks_mut(ROWS * r)
        .zip(dy.par_chunks(ROWS * n))
        .for_each(|(t, dy)| {
            let rows = dy.len() / n;
            multiply(
                level,
                rows,
                r,
                n,
                Strided::rows(dy, n),
                lora.b.as_ptr(),
                r,
                t.as_mut_ptr(),
                r,
                false,
            );
            t.iter_mut().for_each(|v| *v *= lora.scaling);
        });
    t
}

/// dA = tᵀ·drop(x), `[rank, in]`
fn gradient_of_a(
    level: Level,
    x: &[f32],
    k: usize,
    m: usize,
    t: &[f32],
    lora: &LoraView<'_>,
) -> Vec<f32> {
    let r = lora.rank;
    let mut da = output(r * k);
    let target = Shared(da.as_mut_ptr());
    let width = 3 * level.lanes();
    Plan::columns(k, width).run(|scratch, _, lanes| {
        // SAFETY: this task alone writes these columns of dA.
        let tile = unsafe { target.at(lanes.start) };
        scratch.resize(width * DEPTH, 0.0);
        for start in (0..m).step_by(DEPTH) {
            let depth = DEPTH.min(m - start);
            let a = Strided::columns(&t[start * r..], r);
            let (b, b_row) = match lora.dropout {
                None => (x[start * k + lanes.start..].as_ptr(), k),
                Some(dropout) => {
                    for (i, out) in scratch.chunks_exact_mut(width).take(depth).enumerate() {
                        let row = &x[(start + i) * k..(start + i + 1) * k];
                        dropout.apply(level, start + i, lanes.start, &row[lanes.clone()], out);
                    }
                    (scratch.as_ptr(), width)
                }
            };
            multiply(
                level,
                r,
                lanes.len(),
                depth,
                a,
                b,
                b_row,
                tile,
                k,
                start > 0,
            );
        }
    });
    da
}

/// dB = s·dyᵀ·u, `[out, rank]`, computed as its transpose: lanes over `out`.
fn gradient_of_b(
    level: Level,
    dy: &[f32],
    n: usize,
    m: usize,
    u: &[f32],
    lora: &LoraView<'_>,
) -> Vec<f32> {
    let r = lora.rank;
    let mut db = output(n * r);
    let target = Shared(db.as_mut_ptr());
    let width = 3 * level.lanes();
    Plan::columns(n, width).run(|scratch, _, lanes| {
        scratch.resize(r * width, 0.0);
        for start in (0..m).step_by(DEPTH) {
            let a = Strided::columns(&u[start * r..], r);
            let b = dy[start * n + lanes.start..].as_ptr();
            multiply(
                level,
                r,
                lanes.len(),
                DEPTH.min(m - start),
                a,
                b,
                n,
                scratch.as_mut_ptr(),
                width,
                start > 0,
            );
        }
        // SAFETY: this task alone writes these rows of dB.
        let rows =
            unsafe { std::slice::from_raw_parts_mut(target.at(lanes.start * r), lanes.len() * r) };
        for (i, row) in rows.chunks_exact_mut(r).enumerate() {
            for (j, v) in row.iter_mut().enumerate() {
                *v = lora.scaling * scratch[j * width + i];
            }
        }
    });
    db
}

/// Which rows and lanes of the result a task computes. Summation order does not depend on it.
struct Plan {
    rows: usize,
    rows_per_task: usize,
    lanes: usize,
    width: usize,
}

impl Plan {
    /// Panels of `width` lanes; rows are split too where threads outnumber panels.
    fn new(rows: usize, lanes: usize, width: usize) -> Plan {
        let panels = lanes.div_ceil(width).max(1);
        let pieces = (2 * rayon::current_num_threads())
            .div_ceil(panels)
            .clamp(1, rows.div_ceil(64).max(1));
        Plan {
            rows,
            rows_per_task: rows.div_ceil(pieces).next_multiple_of(8),
            lanes,
            width,
        }
    }

    fn columns(lanes: usize, width: usize) -> Plan {
        Plan {
            rows: 1,
            rows_per_task: 1,
            lanes,
            width,
        }
    }

    fn run(
        &self,
        task: impl Fn(&mut Vec<f32>, std::ops::Range<usize>, std::ops::Range<usize>) + Sync,
    ) {
        let panels = self.lanes.div_ceil(self.width);
        let pieces = self.rows.div_ceil(self.rows_per_task.max(1));
        (0..panels * pieces)
            .into_par_iter()
            .with_max_len(1)
            .for_each_init(Vec::new, |scratch, i| {
                let (panel, piece) = (i / pieces, i % pieces);
                let rows =
                    piece * self.rows_per_task..((piece + 1) * self.rows_per_task).min(self.rows);
                let lanes = panel * self.width..((panel + 1) * self.width).min(self.lanes);
                task(scratch, rows, lanes);
            });
    }
}
