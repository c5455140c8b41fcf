//! AdamW and the gradients' norm on a GPU: all tensors in a few launches, one read-back a step.
//!
//! A model of 30 layers with seven adapters each has 420 tensors: seven launches of
//! [`GROUP`] tensors for the norm, seven for the update, where each tensor by itself would be 840
//! launches and 420 waits for the device.

use super::tensor::{Argument, fresh, owned, packed};
use crate::functions::Parameter;
use crate::kernels::adamw::AdamW;
use crate::kernels::cube::adamw::{GROUP, HyperLaunch, adamw_kernel, squares_kernel};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Cubes that share a tensor: 64 tensors make 2048 of them, 15 on each of an H100's multiprocessors.
const CUBES: u32 = 32;

/// How many tensors each launch takes: groups of one size, so that one or two kernels are compiled.
fn group(tensors: usize) -> usize {
    tensors.div_ceil(tensors.div_ceil(GROUP).max(1)).max(1)
}

fn shape(client: &cubecl::client::Client, tensors: usize) -> (CubeCount, CubeDim, usize) {
    let (_, dim, units) = super::tensor::rows(client, tensors);
    (CubeCount::Static(CUBES, tensors as u32, 1), dim, units)
}

fn sequence(tensors: impl Iterator<Item = CubeTensor>) -> SequenceArg<Box<[f32]>> {
    tensors.map(Argument::argument).collect()
}

fn primitive(t: Tensor<2>) -> CubeTensor {
    t.try_into_primitive::<CubeBackend>()
        .expect("parameters lie on one device, without a tape")
}

/// See [`crate::adamw`].
pub(crate) fn adamw(parameters: Vec<Parameter>, o: &AdamW) -> Vec<[Tensor<2>; 3]> {
    let (mut states, mut grads) = (Vec::new(), Vec::new());
    for p in parameters {
        grads.push(packed(primitive(p.grad)));
        states.push([p.value, p.exp_avg, p.exp_avg_sq].map(|t| owned(primitive(t))));
    }
    let size = group(states.len());
    for (states, grads) in states.chunks(size).zip(grads.chunks(size)) {
        let client = &grads[0].client;
        let (cubes, dim, _) = shape(client, states.len());
        let of = |which: usize| sequence(states.iter().map(|state| state[which].clone()));
        adamw_kernel::launch(
            client,
            cubes,
            dim,
            of(0),
            sequence(grads.iter().cloned()),
            of(1),
            of(2),
            HyperLaunch::new(
                (1.0 - o.lr * o.weight_decay) as f32,
                (1.0 - o.beta1) as f32,
                o.beta2 as f32,
                (1.0 - o.beta2) as f32,
                (o.lr / (1.0 - o.beta1.powi(o.step as i32))) as f32,
                (1.0 - o.beta2.powi(o.step as i32)).sqrt() as f32,
                o.eps as f32,
                o.grad_scale as f32,
            ),
            states.len(),
        );
    }
    let back = |state: [CubeTensor; 3]| state.map(Tensor::from_primitive::<CubeBackend>);
    states.into_iter().map(back).collect()
}

/// Σ t² over all tensors: f32 sums of a cube's elements, which the host adds up in f64.
pub(crate) fn sum_of_squares(tensors: Vec<CubeTensor>) -> f64 {
    let tensors: Vec<CubeTensor> = tensors.into_iter().map(packed).collect();
    let parts = fresh(&tensors[0], [tensors.len() * CUBES as usize], DType::F32);
    let size = group(tensors.len());
    for (index, tensors) in tensors.chunks(size).enumerate() {
        let (cubes, dim, units) = shape(&tensors[0].client, tensors.len());
        squares_kernel::launch(
            &tensors[0].client,
            cubes,
            dim,
            sequence(tensors.iter().cloned()),
            parts.clone().argument(),
            index * size,
            tensors.len(),
            units,
        );
    }
    let parts = Tensor::<1>::from_primitive::<CubeBackend>(parts).into_data();
    let parts = parts.as_slice::<f32>().expect("the kernel writes f32");
    parts.iter().map(|part| f64::from(*part)).sum()
}
