//! softmax(scale·q·kᵀ)·v within each segment, causal and aligned at the ends.

use crate::segments::{AttentionOptions, Segment, Segments};

/// Probabilities of one query row over the keys it sees, with the slope of the softcap.
struct Row {
    first: usize,
    p: Vec<f64>,
    slope: Vec<f64>,
}

fn row(q: &[f64], k: &[f64], s: &Segment, i: usize, head: usize, o: &AttentionOptions) -> Row {
    let d = o.head_dim;
    let kv = head / (o.heads / o.kv_heads);
    let end = i + 1 + s.k.len() - s.q.len();
    let first = o.window.map_or(0, |w| end.saturating_sub(w));
    let at = ((s.q.start + i) * o.heads + head) * d;
    let (mut scores, mut slope) = (Vec::new(), Vec::new());
    for j in first..end {
        let to = ((s.k.start + j) * o.kv_heads + kv) * d;
        let score = o.scale as f64 * (0..d).map(|c| q[at + c] * k[to + c]).sum::<f64>();
        let tanh = o.softcap.map_or(0.0, |cap| (score / cap as f64).tanh());
        scores.push(o.softcap.map_or(score, |cap| cap as f64 * tanh));
        slope.push(1.0 - tanh * tanh);
    }
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    Row {
        first,
        p: scores.iter().map(|s| (s - largest).exp() / sum).collect(),
        slope,
    }
}

/// o, shaped as q `[tokens, heads·head_dim]`.
pub fn forward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    segments: &Segments,
    o: &AttentionOptions,
) -> Vec<f64> {
    let d = o.head_dim;
    let mut out = vec![0.0; q.len()];
    for s in segments.iter() {
        for i in 0..s.q.len() {
            for head in 0..o.heads {
                let row = row(q, k, s, i, head, o);
                let at = ((s.q.start + i) * o.heads + head) * d;
                for (j, p) in row.p.iter().enumerate() {
                    let to = ((s.k.start + row.first + j) * o.kv_heads
                        + head / (o.heads / o.kv_heads))
                        * d;
                    for c in 0..d {
                        out[at + c] += p * v[to + c];
                    }
                }
            }
        }
    }
    out
}

/// (dq, dk, dv) for d_o.
pub fn backward(
    d_o: &[f64],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    segments: &Segments,
    o: &AttentionOptions,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (d, scale) = (o.head_dim, o.scale as f64);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for s in segments.iter() {
        for i in 0..s.q.len() {
            for head in 0..o.heads {
                let row = row(q, k, s, i, head, o);
                let at = ((s.q.start + i) * o.heads + head) * d;
                let to = |j: usize| {
                    ((s.k.start + row.first + j) * o.kv_heads + head / (o.heads / o.kv_heads)) * d
                };
                let dp: Vec<f64> = (0..row.p.len())
                    .map(|j| (0..d).map(|c| d_o[at + c] * v[to(j) + c]).sum())
                    .collect();
                let delta: f64 = row.p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for j in 0..row.p.len() {
                    let ds = scale * row.p[j] * (dp[j] - delta) * row.slope[j];
                    for c in 0..d {
                        dq[at + c] += ds * k[to(j) + c];
                        dk[to(j) + c] += ds * q[at + c];
                        dv[to(j) + c] += row.p[j] * d_o[at + c];
                    }
                }
            }
        }
    }
    (dq, dk, dv)
}
