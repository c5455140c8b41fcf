//! y = x·Wᵀ + b + s·((x∘mask)·Aᵀ)·Bᵀ, with W given as its dequantised values.

/// An adapter; `mask` holds the dropout factor of every element of x (ones without dropout).
#[derive(Clone, Copy)]
pub struct Lora<'a> {
    /// `[rank, in]`
    pub a: &'a [f64],
    /// `[out, rank]`
    pub b: &'a [f64],
    pub rank: usize,
    pub scaling: f64,
    /// `[tokens, in]`
    pub mask: &'a [f64],
}

/// y `[tokens, out]` for x `[tokens, in]`, w `[out, in]`.
pub fn forward(
    x: &[f64],
    w: &[f64],
    [n, k]: [usize; 2],
    bias: Option<&[f64]>,
    lora: Option<Lora<'_>>,
) -> Vec<f64> {
    let m = x.len() / k;
    let mut y = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let mut sum = bias.map_or(0.0, |b| b[j]);
            for p in 0..k {
                sum += x[i * k + p] * w[j * k + p];
            }
            y[i * n + j] = sum;
        }
        let Some(l) = lora else { continue };
        for r in 0..l.rank {
            let u: f64 = (0..k)
                .map(|p| x[i * k + p] * l.mask[i * k + p] * l.a[r * k + p])
                .sum();
            for j in 0..n {
                y[i * n + j] += l.scaling * u * l.b[j * l.rank + r];
            }
        }
    }
    y
}

/// (dx, dA, dB) for dy; dA and dB are empty without an adapter.
pub fn backward(
    dy: &[f64],
    x: &[f64],
    w: &[f64],
    [n, k]: [usize; 2],
    lora: Option<Lora<'_>>,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let m = x.len() / k;
    let mut dx = vec![0.0; m * k];
    for i in 0..m {
        for j in 0..n {
            for p in 0..k {
                dx[i * k + p] += dy[i * n + j] * w[j * k + p];
            }
        }
    }
    let Some(l) = lora else {
        return (dx, Vec::new(), Vec::new());
    };
    let (mut da, mut db) = (vec![0.0; l.rank * k], vec![0.0; n * l.rank]);
    for i in 0..m {
        for r in 0..l.rank {
            let dropped = |p: usize| x[i * k + p] * l.mask[i * k + p];
            let u: f64 = (0..k).map(|p| dropped(p) * l.a[r * k + p]).sum();
            let t: f64 = l.scaling
                * (0..n)
                    .map(|j| dy[i * n + j] * l.b[j * l.rank + r])
                    .sum::<f64>();
            for p in 0..k {
                da[r * k + p] += t * dropped(p);
                dx[i * k + p] += t * l.a[r * k + p] * l.mask[i * k + p];
            }
            for j in 0..n {
                db[j * l.rank + r] += l.scaling * dy[i * n + j] * u;
            }
        }
    }
    (dx, da, db)
}
