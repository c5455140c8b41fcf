//! The head's loss on a GPU, a chunk of rows at a time: logits of one chunk are all there ever are.

use super::linear::dense;
use super::tensor::{
    Argument, dims, fresh, narrowed, packed, product, rows, storage, transposed, upload, zeros,
};
use crate::format::WeightFormat;
use crate::kernels::cube::cross_entropy::cross_entropy_kernel;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

/// Rows of a matmul's tiles: all sizes that are tried divide it.
const TILE: usize = 128;

/// Of the rows that fit, those that are whole tiles. 523 would be five of them for the work of four, in
/// each of the chunk's products.
fn chunk_rows(fitting: usize) -> usize {
    match fitting {
        ..TILE => fitting,
        _ => fitting - fitting % TILE,
    }
}

/// Σ −log softmax(h·Wᵀ)[target], shape `[1]` in f32, and dh where wanted.
pub(crate) fn forward(
    h: CubeTensor,
    words: CubeTensor,
    format: WeightFormat,
    targets: &[u32],
    differentiate: bool,
) -> (CubeTensor, Option<CubeTensor>) {
    let h = packed(h);
    let dtype = h.dtype;
    if targets.is_empty() {
        let dh = differentiate.then(|| fresh(&h, [0, format.in_features], dtype));
        return (zeros(&h.device, [1]), dh);
    }
    let w = dense(words, format, dtype); // [vocabulary, hidden]
    // Logits in f32 and their gradient in the activations' type fit the workspace.
    let logits = crate::GPU_WORKSPACE_BYTES / (4 + dtype.size());
    let chunk = chunk_rows(logits / format.out_features).clamp(1, targets.len());
    let mut parts = Vec::new();
    let mut loss_parts = Vec::new();
    for start in (0..targets.len()).step_by(chunk) {
        let of = start..(start + chunk).min(targets.len());
        let part = narrowed(h.clone(), 0, of.clone());
        let logits = packed(product(part, transposed(w.clone()), DType::F32));
        let [count, vocabulary] = dims(&logits);
        let loss = fresh(&h, [count], DType::F32);
        let dlogits = if differentiate {
            fresh(&h, [count, vocabulary], dtype)
        } else {
            fresh(&h, [1, 1], dtype)
        };
        let client = h.client.clone();
        let (cubes, dim, units) = rows(&client, count);
        cross_entropy_kernel::launch(
            &client,
            cubes,
            dim,
            logits.argument(),
            upload(&targets[of], &h).argument(),
            loss.clone().argument(),
            dlogits.clone().argument(),
            vocabulary,
            differentiate,
            units,
            storage(dtype),
        );
        loss_parts.push(loss);
        if differentiate {
            parts.push(product(dlogits, w.clone(), dtype));
        }
    }
    let loss = CubeBackend::float_sum(CubeBackend::float_cat(loss_parts, 0));
    let dh = differentiate.then(|| CubeBackend::float_cat(parts, 0));
    (loss, dh)
}
