//! Σ −log softmax(h·Wᵀ)[target]

/// The loss in nats and dh for h `[rows, hidden]`, w `[vocabulary, hidden]`.
pub fn forward(h: &[f64], w: &[f64], hidden: usize, targets: &[u32]) -> (f64, Vec<f64>) {
    let (mut loss, mut dh) = (0.0, vec![0.0; h.len()]);
    for (i, target) in targets.iter().enumerate() {
        let h = &h[i * hidden..(i + 1) * hidden];
        let logits: Vec<f64> = w
            .chunks_exact(hidden)
            .map(|w| w.iter().zip(h).map(|(w, h)| w * h).sum())
            .collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - largest).exp()).sum();
        loss += largest + sum.ln() - logits[*target as usize];
        for (v, w) in w.chunks_exact(hidden).enumerate() {
            let slope =
                (logits[v] - largest).exp() / sum - if v == *target as usize { 1.0 } else { 0.0 };
            for (d, w) in dh[i * hidden..(i + 1) * hidden].iter_mut().zip(w) {
                *d += slope * w;
            }
        }
    }
    (loss, dh)
}
