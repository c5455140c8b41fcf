//! The specification: every operation and its gradients in plain loops, in f64.
//!
//! No back end calls this. The fast kernels are judged by it, and its gradients by finite
//! differences of its own forward functions. Slow on purpose; read it first.

pub mod attention;
pub mod cross_entropy;
pub mod elementwise;
pub mod linear;

/// A slice as the specification computes with it.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| *v as f64).collect()
}
