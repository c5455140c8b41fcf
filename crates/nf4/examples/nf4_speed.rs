//! How long do 106 million weights take, against copying them?
//!
//! `cargo run --release -p nf4 --example nf4_speed`

use std::time::Instant;

fn main() {
    // The linear layers of a 135M Llama: 30 × (2·576² + 2·192·576 + 3·1536·576).
    let shape = [106_168_320 / 576, 576];
    let values: Vec<f32> = (0..(shape[0] * shape[1]) as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect();
    let mut copy = vec![0f32; values.len()];
    let best = |work: &mut dyn FnMut()| {
        let seconds = (0..5).map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        });
        seconds.fold(f64::INFINITY, f64::min)
    };
    let copying = best(&mut || copy.copy_from_slice(std::hint::black_box(&values)));
    let mut quantized = nf4::quantize(&values, shape, nf4::Dtype::F32, true);
    let quantizing = best(&mut || quantized = nf4::quantize(&values, shape, nf4::Dtype::F32, true));
    let mut restored = Vec::new();
    let dequantizing = best(&mut || restored = quantized.dequantize());
    println!(
        "{} values on {} threads",
        values.len(),
        rayon::current_num_threads()
    );
    println!("copy       {copying:.3} s (one thread)");
    println!(
        "quantize   {quantizing:.3} s, {:.1} × the copy",
        quantizing / copying
    );
    println!(
        "dequantize {dequantizing:.3} s, {:.1} × the copy",
        dequantizing / copying
    );
}
