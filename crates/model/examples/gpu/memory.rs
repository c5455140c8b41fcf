//! What share of the memory's bandwidth do the kernels reach that are bound by it?
//!
//! Beside a plain elementwise kernel of burn's, which reads and writes four bytes an element: NF4 to
//! values, values to NF4, and the 4-bit product of 1, 8 and 32 rows, at the shape of an 8B's gate.
//! Bytes are those that have to move: codes, scales, values; x and y of the product are counted too.

use std::time::Instant;

use burn::tensor::{DType, Distribution, Tensor};
use model::DeviceChoice;
use ops::{ComputeDtype, DenseDtype, Weight};

/// Times each kernel on the device, and prints bytes a second.
pub fn run(device: DeviceChoice, rehearse: bool) {
    let (shape, repeats) = match (rehearse, device.is_gpu()) {
        (true, _) => ([64, 256], 1),
        (_, true) => ([14336, 4096], 100),
        (_, false) => ([256, 1024], 3),
    };
    if device.is_cpu() {
        println!("{device}: the kernels bound by memory are a GPU's");
        return;
    }
    let [out, input] = shape;
    let values = out * input;
    let on = device.device();
    let rate = |bytes: usize, kernel: &mut dyn FnMut()| {
        (0..3).for_each(|_| kernel());
        on.sync().expect("the kernels ran");
        let started = Instant::now();
        // Launched one behind the other: the device never waits for the host.
        (0..repeats).for_each(|_| kernel());
        on.sync().expect("the kernels ran");
        (bytes * repeats) as f64 / started.elapsed().as_secs_f64()
    };
    let draw = |shape: [usize; 2], dtype| {
        Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), &on).cast(dtype)
    };

    let floats = draw(shape, DType::F32);
    let copy = rate(values * 8, &mut || drop(floats.clone() * 2.0));
    let say = |what: &str, rate: f64| {
        let share = 100.0 * rate / copy;
        println!(
            "{device}: {what} {:.1} GB/s, {share:.0}% of that",
            rate / 1e9
        );
    };
    println!("{device}: plain elementwise kernel {:.1} GB/s", copy / 1e9);
    let halves = floats.cast(DType::BF16).reshape([values]);
    let quantised = values * 2 + values / 2 + values / 16;
    say(
        "quantise to NF4",
        rate(quantised, &mut || drop(ops::nf4_codes(halves.clone()))),
    );
    drop(halves);

    // Any codes will do: what they are changes no time.
    let bytes: Vec<u8> = (0..values)
        .flat_map(|i| (((i * 7919) % 255) as u16 + 0x3f00).to_le_bytes())
        .collect();
    let started = Instant::now();
    let (stored, nested) = (DenseDtype::BF16, true);
    let weight = Weight::quantize_on_device(&bytes, stored, shape, nf4::Dtype::F32, nested, &on);
    let weight = weight.with_compute(ComputeDtype::Bf16);
    on.sync().expect("the weight is there");
    let rate_in = bytes.len() as f64 / started.elapsed().as_secs_f64();
    println!(
        "{device}: a weight copied in and quantised at {:.1} GB/s of bf16, compiling included",
        rate_in / 1e9
    );
    say(
        "dequantise NF4 to bf16",
        rate(weight.bytes() + values * 2, &mut || {
            drop(weight.dequantize_on_device())
        }),
    );
    for rows in [1, 8, 32] {
        let x = draw([rows, input], DType::BF16);
        let bytes = weight.bytes() + rows * (input + out) * 2;
        let name = format!("4-bit product of {rows} rows");
        say(
            &name,
            rate(bytes, &mut || {
                drop(ops::linear(x.clone(), &weight, None, None))
            }),
        );
    }
}
