//! Which tokens can be the likeliest? Asked of a head that is rounded to 8 bits, half of what bf16 has to read.
//!
//! With w ≈ s·c, a row of the head and its codes, and x ≈ t·d, the logit w·x is within
//! |w - s·c|·|x| + |s·c|·|x - t·d| of s·t·(c·d) (Cauchy-Schwarz), and c·d is exact. A token whose logit cannot
//! reach what another's is at least is not the likeliest. Those that remain, some ten of SmolLM2's 49,152 in
//! running text, are computed from the head itself: the answer is that of all logits, to the last bit.

use crate::format::{ComputeDtype, WeightFormat};
use crate::kernels::few_rows::{Int8, Rounded};
use crate::kernels::panel::WeightView;
use crate::kernels::simd::{Level, Simd, simd_dispatch};
use crate::kernels::team::Team;
use crate::kernels::words::round_to_bf16;
use crate::kernels::{Shared, unwritten};
use std::borrow::Cow;

/// Tokens of a task: 150 KB of codes where the hidden state has 576 channels.
const TASK: usize = 256;
/// One token in so many may be left; with more, all logits cost no more.
const FEW: usize = 32;
/// Lengths of rows between which no bound overflows, and none loses bits to denormal numbers.
const WEIGHTS: f32 = 1e15;
const STATES: std::ops::Range<f32> = 1e-18..1e15;

/// Rows of x up to which a shortlist is faster than all logits: as measured with AVX2, where it is at 32 rows still;
/// elsewhere by the count of instructions, of which products of bf16 and AVX-512's take fewer.
pub(crate) fn most_rows(level: Level, head: WeightFormat) -> usize {
    match head.compute {
        ComputeDtype::Bf16 if level.multiplies_bf16() => 4,
        _ if level.lanes() == 16 => 8,
        _ => 32,
    }
}

/// A head in 8 bits, and how far its logits may be off.
pub(crate) struct Shortlist {
    codes: Int8,
    scales: Vec<f32>,
    /// |w - s·c|
    errors: Vec<f32>,
    /// |w| + |w - s·c|, which |s·c| is at most.
    reaches: Vec<f32>,
    width: usize,
    compute: ComputeDtype,
}

/// Between what the largest of some logits lies.
#[derive(Clone, Copy)]
struct Bounds {
    below: f32,
    above: f32,
}

impl Shortlist {
    /// `None` where a weight is not finite, or immense.
    pub(crate) fn new(level: Level, head: WeightView<'_>) -> Option<Shortlist> {
        let format = head.format;
        let (tokens, width) = (format.out_features, format.in_features);
        let (codes, rounded) = Int8::round(level, [tokens, width], |token, row| {
            head.rows(level, token..token + 1, 0..width, row, width);
            if format.compute == ComputeDtype::Bf16 {
                round_to_bf16(level, row);
            }
        });
        let each = |of: fn(&Rounded) -> f32| rounded.iter().map(of).collect();
        rounded
            .iter()
            .all(|row| row.norm < WEIGHTS)
            .then(|| Shortlist {
                codes,
                scales: each(|row| row.scale),
                errors: each(|row| row.error),
                reaches: each(|row| row.norm + row.error),
                width,
                compute: format.compute,
            })
    }

    /// For each row of x, as the head is multiplied by, the tokens that may be the likeliest, ascending. `None` where
    /// they are many.
    pub(crate) fn tokens(
        &self,
        level: Level,
        team: &mut Team<'_>,
        x: &[f32],
    ) -> Option<Vec<Vec<u32>>> {
        let mut x = Cow::Borrowed(x);
        if self.compute == ComputeDtype::Bf16 {
            round_to_bf16(level, x.to_mut());
        }
        let x = self.codes.round_x(level, &x, self.width);
        if !x.rounded.iter().all(|row| STATES.contains(&row.norm)) {
            return None;
        }
        let (rows, tokens) = (x.rounded.len(), self.scales.len());
        let tasks = tokens.div_ceil(TASK);
        // SAFETY: the tasks have all tokens of every row.
        let mut above = unsafe { unwritten(rows * tokens) };
        let mut found = vec![Bounds::NONE; tasks * rows];
        let (to, found_by) = (Shared(above.as_mut_ptr()), Shared(found.as_mut_ptr()));
        team.run(tasks, |task| {
            let range = task * TASK..tokens.min((task + 1) * TASK);
            let whole = range.start..range.end.next_multiple_of(Int8::TOGETHER);
            let width = whole.len();
            let mut sums = vec![0; rows * width];
            self.codes.multiply(level, whole, &x, &mut sums);
            for (i, sums) in sums.chunks_exact(width).enumerate() {
                // SAFETY: each task has its own tokens and its own bounds.
                unsafe {
                    let above = to.slice(i * tokens + range.start, range.len());
                    let bounds = self.bounds(level, range.start, sums, &x.rounded[i], above);
                    *found_by.at(task * rows + i) = bounds;
                }
            }
        });
        let most = (tokens / FEW).max(16);
        let of_row = |(i, above): (usize, &[f32])| {
            let of_tasks = || found.iter().skip(i).step_by(rows);
            let below = of_tasks().fold(f32::NEG_INFINITY, |below, b| below.max(b.below));
            let mut left = Vec::new();
            for (task, _) in of_tasks().enumerate().filter(|(_, b)| b.above >= below) {
                let first = task * TASK;
                let of_task = above[first..].iter().take(TASK).enumerate();
                let may_be = of_task.filter(|(_, above)| **above >= below);
                left.extend(may_be.map(|(j, _)| (first + j) as u32));
            }
            (left.len() <= most).then_some(left)
        };
        above.chunks_exact(tokens).enumerate().map(of_row).collect()
    }

    /// Writes what the logit of each token from `first` on is at most, by its sum of products of codes.
    fn bounds(
        &self,
        level: Level,
        first: usize,
        sums: &[i32],
        x: &Rounded,
        above: &mut [f32],
    ) -> Bounds {
        // The head's own sum of n products is off by n/2²⁴ of |w|·|x| at most, in f32 and in any order. Four times
        // that is for the norms and the bounds as well, which are as long sums and a few roundings.
        let slack = (4 * self.width + 64) as f32 * (f32::EPSILON / 2.0);
        let up = 1.0 + slack;
        let range = first..first + above.len();
        let tokens = Tokens {
            sums: &sums[..above.len()],
            scales: &self.scales[range.clone()],
            errors: &self.errors[range.clone()],
            reaches: &self.reaches[range],
        };
        let of_x = [x.scale, x.norm * up, (x.error + slack * x.norm) * up];
        bounds(level, tokens, of_x, above)
    }
}

impl Bounds {
    /// Of no logit.
    const NONE: Bounds = Bounds {
        below: f32::NEG_INFINITY,
        above: f32::NEG_INFINITY,
    };
}

/// Some tokens of a [`Shortlist`].
#[derive(Clone, Copy)]
struct Tokens<'a> {
    sums: &'a [i32],
    scales: &'a [f32],
    errors: &'a [f32],
    reaches: &'a [f32],
}

simd_dispatch! {
    /// Bounds of each logit, and of the largest: sum·scale·scale of x, give or take error·|x| + reach·|error of x|.
    fn bounds(tokens: Tokens<'_>, of_x: [f32; 3], above: &mut [f32]) -> Bounds = bounds_generic
}

// Plain loops: under each level's instructions the compiler vectorises them.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn bounds_generic<S: Simd>(
    tokens: Tokens<'_>,
    [scale, norm, error]: [f32; 3],
    above: &mut [f32],
) -> Bounds {
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let [mut highest, mut lowest] = [[f32::NEG_INFINITY; LANES]; 2];
    let products = tokens.sums.chunks(LANES).zip(tokens.scales.chunks(LANES));
    let radii = tokens
        .errors
        .chunks(LANES)
        .zip(tokens.reaches.chunks(LANES));
    for ((above, (sums, scales)), (errors, reaches)) in
        above.chunks_mut(LANES).zip(products).zip(radii)
    {
        for (j, above) in above.iter_mut().enumerate() {
            let logit = sums[j] as f32 * scales[j] * scale;
            let radius = errors[j] * norm + reaches[j] * error;
            *above = logit + radius;
            highest[j] = larger(*above, highest[j]);
            lowest[j] = larger(logit - radius, lowest[j]);
        }
    }
    let [above, below] =
        [highest, lowest].map(|lanes| lanes.into_iter().fold(f32::NEG_INFINITY, larger));
    Bounds { below, above }
}
