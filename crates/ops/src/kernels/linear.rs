//! y = x·Wᵀ + b + s·(drop(x)·Aᵀ)·Bᵀ and its gradients; dW does not exist.
//!
//! Two passes each way. Over the rows: x (or dy) is packed for the tile, rounded to bf16 where that
//! is what is multiplied, and projected onto the adapter's A (or B) while it is in L1. Over panels of
//! W: `product`. A row has the same bits whatever the rows beside it; one token of each of a few
//! sequences is another matter, `few_rows`.
//! The adapter's path, its sum with the weight's and both gradients of the adapter are f32 whatever
//! the weight is multiplied in.

use super::dropout::{Dropout, Kept};
use super::low_rank::{self, Projected, Projection, pack_and_project};
use super::panel::{WeightView, transpose};
use super::product::{LowRank, Product, Right, Unpack};
use super::scratch::scratch_slices;
use super::simd::Level;
use super::unwritten;
use super::words::Words;

/// Rows that are packed at once: of 1536 values in bf16 they are 1.5 MiB, which every panel finds in L2
/// (where that is 2 MiB), and what unpacking a weight costs is spread over enough of them.
const ROWS: usize = 512;

/// A LoRA adapter on the host: `a` is `[rank, in]`, `b` is `[out, rank]`.
#[derive(Clone, Copy)]
pub struct LoraView<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub rank: usize,
    pub scaling: f32,
    pub dropout: Option<Dropout>,
}

/// What a product is and what its gradients need.
pub struct Forward {
    /// `[m, out]`
    pub y: Vec<f32>,
    /// u = drop(x)·Aᵀ `[m, rank]`; empty without an adapter.
    pub u: Vec<f32>,
    /// Which elements of x the dropout kept, a bit each; empty without dropout.
    pub kept: Vec<u8>,
}

/// What becomes of dx.
pub enum Dx<'a> {
    Unwanted,
    New,
    /// It is added to these `[m, in]`, what other readers of x have left.
    AddedTo(&'a mut [f32]),
}

/// Gradients of [`forward`].
pub struct LinearGradients {
    /// `[m, in]`, where it was to be [`Dx::New`].
    pub dx: Option<Vec<f32>>,
    /// `[rank, in]` and `[out, rank]`
    pub da_db: Option<(Vec<f32>, Vec<f32>)>,
}

pub fn forward(
    level: Level,
    x: &[f32],
    weight: WeightView<'_>,
    bias: Option<&[f32]>,
    lora: Option<LoraView<'_>>,
) -> Forward {
    let (n, k) = (weight.format.out_features, weight.format.in_features);
    let m = x.len() / k;
    let rank = lora.map_or(0, |l| l.rank);
    // SAFETY: the product writes all of both.
    let (mut y, mut u) = unsafe { (unwritten(m * n), unwritten(m * rank)) };
    let mut kept = lora.map_or_else(Vec::new, |l| l.mask(m, k));
    if m == 0 {
        return Forward { y, u, kept };
    }
    let words = Words::for_weight(level, &weight.format);
    let width = words.lanes(level);
    let unpack = |lanes, depth, panel: &mut [f32]| {
        weight.panels_of_rows(level, words, lanes, depth, panel, width)
    };
    scratch_slices([k * rank], |[a_transposed]| {
        if let Some(lora) = lora {
            transpose(level, lora.a, k, rank, k, a_transposed, rank);
        }
        let right = lora.map(|lora| {
            move |lanes: std::ops::Range<usize>, right: &mut [f32]| {
                let b = &lora.b[lanes.start * rank..];
                transpose(
                    level,
                    b,
                    rank,
                    lanes.len(),
                    rank,
                    right,
                    LowRank::width(level),
                );
                right.iter_mut().for_each(|v| *v *= lora.scaling);
            }
        });
        let pass = Pass {
            level,
            words,
            depth: k,
            lanes: n,
            unpack: &unpack,
            bias,
            projection: lora.map(|lora| lora.onto_a(a_transposed)),
            right: right.as_ref().map(|right| right as &Right<'_>),
            mask: None,
            adds: false,
        };
        pass.run(x, &mut u, &mut kept, &mut y, |_| ());
    });
    Forward { y, u, kept }
}

/// Gradients for dy `[m, out]`; `u` and `kept` as [`forward`] returned them.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    level: Level,
    dy: &[f32],
    x: &[f32],
    u: &[f32],
    kept: &[u8],
    weight: WeightView<'_>,
    lora: Option<LoraView<'_>>,
    dx: Dx<'_>,
) -> LinearGradients {
    let (n, k) = (weight.format.out_features, weight.format.in_features);
    let m = dy.len() / n;
    if m == 0 {
        let zeros = |l: LoraView<'_>| (vec![0.0; l.rank * k], vec![0.0; n * l.rank]);
        return LinearGradients {
            dx: matches!(dx, Dx::New).then(Vec::new),
            da_db: lora.map(zeros),
        };
    }
    let words = Words::for_weight(level, &weight.format);
    let width = words.lanes(level);
    let unpack = |lanes, depth, panel: &mut [f32]| {
        weight.panels_of_columns(level, words, depth, lanes, panel, width)
    };
    let right = lora.map(|lora| {
        move |lanes: std::ops::Range<usize>, right: &mut [f32]| {
            let rows = right.chunks_mut(LowRank::width(level));
            for (to, from) in rows.zip(lora.a.chunks_exact(k)) {
                to[..lanes.len()].copy_from_slice(&from[lanes.clone()]);
            }
        }
    });
    let mask = lora.and_then(|lora| lora.kept(kept, k));
    let pass = Pass {
        level,
        words,
        depth: n,
        lanes: k,
        unpack: &unpack,
        bias: None,
        projection: lora.map(|lora| lora.onto_b()),
        right: right.as_ref().map(|right| right as &Right<'_>),
        mask,
        adds: matches!(dx, Dx::AddedTo(_)),
    };
    let of_adapter = |t: &[f32]| {
        let lora = lora?;
        Some(rayon::join(
            || low_rank::gradient_of_a(level, x, k, t, lora.rank, mask),
            || low_rank::gradient_of_b(level, dy, n, u, &lora),
        ))
    };
    // t = s·dy·B
    scratch_slices([m * lora.map_or(0, |l| l.rank)], |[t]| {
        // The adapter's beside dx's last panels: what is left of one fills the threads that the other
        // leaves idle.
        match dx {
            Dx::Unwanted => {
                if let Some(projection) = &pass.projection {
                    projection.all(level, dy, n, t, &mut []);
                }
                let da_db = of_adapter(t);
                LinearGradients { dx: None, da_db }
            }
            Dx::New => {
                // SAFETY: the product writes all of it.
                let mut dx = unsafe { unwritten(m * k) };
                let da_db = pass.run(dy, t, &mut [], &mut dx, of_adapter);
                let dx = Some(dx);
                LinearGradients { dx, da_db }
            }
            Dx::AddedTo(dx) => {
                assert_eq!(dx.len(), m * k, "shape of dx");
                let da_db = pass.run(dy, t, &mut [], dx, of_adapter);
                LinearGradients { dx: None, da_db }
            }
        }
    })
}

/// Rows in, rows out: pack and project, then multiply.
struct Pass<'a> {
    level: Level,
    words: Words,
    depth: usize,
    lanes: usize,
    unpack: &'a Unpack<'a>,
    bias: Option<&'a [f32]>,
    projection: Option<Projection<'a>>,
    right: Option<&'a Right<'a>>,
    /// Of the low-rank term.
    mask: Option<Kept<'a>>,
    /// To what is in y.
    adds: bool,
}

impl Pass<'_> {
    /// `x` `[m, depth]` → `projected` `[m, rank]`, what of x was `kept` for it, `y` `[m, lanes]`; `beside`
    /// runs as soon as all of `projected` is known.
    fn run<T: Send>(
        &self,
        x: &[f32],
        projected: &mut [f32],
        kept: &mut [u8],
        y: &mut [f32],
        beside: impl FnOnce(&[f32]) -> T + Send,
    ) -> T {
        let most = ROWS * self.depth;
        let last = (x.len() - 1) / most;
        let mut parts = x.chunks(most).zip(y.chunks_mut(ROWS * self.lanes));
        for (i, (x, y)) in parts.by_ref().take(last).enumerate() {
            self.some_rows(i * ROWS, x, projected, kept, y, |_| ());
        }
        let (x, y) = parts.next().expect("there are rows");
        self.some_rows(last * ROWS, x, projected, kept, y, beside)
    }

    /// Rows `first..`, as many as x has, of a `projected` and a `kept` that hold all of them.
    fn some_rows<T: Send>(
        &self,
        first: usize,
        x: &[f32],
        projected: &mut [f32],
        kept: &mut [u8],
        y: &mut [f32],
        beside: impl FnOnce(&[f32]) -> T + Send,
    ) -> T {
        let (level, words) = (self.level, self.words);
        let (rows, rank) = (x.len() / self.depth, self.projection.map_or(0, |p| p.rank));
        let padded = rows.next_multiple_of(level.lanes());
        let sizes = [padded * words.row_steps(self.depth), padded * rank];
        scratch_slices(sizes, |[packed, left]| {
            let projection = self.projection.map(|projection| {
                let rows = &mut projected[first * rank..(first + rows) * rank];
                let stride = projection.mask_stride(self.depth);
                let kept = &mut kept[first * stride..][..x.len() / self.depth * stride];
                let packed = &mut *left;
                (projection, Projected { rows, packed, kept })
            });
            pack_and_project(level, words, x, self.depth, first, packed, projection);
            let product = Product {
                level,
                words,
                rows,
                depth: self.depth,
                lanes: self.lanes,
                a: packed,
                unpack: self.unpack,
                adds: self.adds,
                bias: self.bias,
                low_rank: self.right.map(|right| LowRank {
                    left,
                    rank,
                    right,
                    mask: self.mask.map(|kept| (kept, first)),
                }),
            };
            rayon::join(|| product.run(y), || beside(projected)).1
        })
    }
}
