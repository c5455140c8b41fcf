//! Does every operation give on this device what its specification says?
//!
//! The same checks on any device: tests run them on CubeCL's CPU runtime, where every kernel of a
//! GPU can be proven without one, and on a GPU where there is one; `qlora-train --doctor` runs them
//! for its user. Random data, ragged shapes, forward and every gradient, through the public
//! functions and the tape.

use crate::reference::{self, widen};
use crate::{
    AdamW, AttentionOptions, ComputeDtype, DenseDtype, Dropout, Lora, Segment, Segments, Weight,
};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// How far an operation is from its specification.
#[derive(Clone, Debug)]
pub struct Check {
    /// The operation, its variant, and which of its results.
    pub name: String,
    /// Largest difference, relative to the largest expected magnitude (at least 0.1).
    pub error: f64,
    pub tolerance: f64,
}

impl Check {
    /// Whether it is near enough; a result that is not a number never is.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Every operation on `device`, its activations in `compute`.
pub fn self_test(device: &Device, compute: ComputeDtype) -> Vec<Check> {
    let mut bench = Bench {
        plain: device.clone(),
        taped: device.clone().autodiff(),
        compute,
        tensor_cores: is_gpu(device),
        state: 0x9e37_79b9_7f4a_7c15,
        checks: Vec::new(),
    };
    bench.linears();
    bench.attentions();
    bench.cross_entropies();
    bench.elementwise();
    bench.checks
}

/// The name that kernels are compiled for says it: PTX.
#[cfg(feature = "cube")]
fn is_gpu(device: &Device) -> bool {
    let identity = device.identity();
    identity.is_some_and(|i| i.fingerprint.starts_with("ptx"))
}

#[cfg(not(feature = "cube"))]
fn is_gpu(_: &Device) -> bool {
    false
}

struct Bench {
    plain: Device,
    taped: Device,
    compute: ComputeDtype,
    tensor_cores: bool,
    state: u64,
    checks: Vec<Check>,
}

impl Bench {
    /// What activations are stored in: f32 on the CPU back end, whatever they are multiplied in.
    fn dtype(&self) -> DType {
        match self.compute {
            _ if self.plain == Device::flex() => DType::F32,
            ComputeDtype::F32 => DType::F32,
            ComputeDtype::Bf16 => DType::BF16,
        }
    }

    /// Uniform in −1..1, rounded to what the activations can hold.
    fn draw(&mut self, count: usize) -> Vec<f32> {
        let next = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        let values = (0..count).map(|_| next(&mut self.state));
        match self.compute {
            ComputeDtype::F32 => values.collect(),
            ComputeDtype::Bf16 => values.map(|v| half::bf16::from_f32(v).to_f32()).collect(),
        }
    }

    fn activation(&self, values: &[f32], columns: usize) -> Tensor<2> {
        self.tensor(values, columns, self.dtype()).require_grad()
    }

    fn tensor(&self, values: &[f32], columns: usize, dtype: DType) -> Tensor<2> {
        let shape = [values.len() / columns, columns];
        Tensor::from_data(
            TensorData::new(values.to_vec(), shape),
            (&self.taped, dtype),
        )
    }

    fn vector(&self, values: &[f32]) -> Tensor<1> {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tensor::from_data(data, (&self.plain, DType::F32))
    }

    fn check<const D: usize>(&mut self, name: String, got: Tensor<D>, expected: &[f64]) {
        // bf16 has 8 bits of mantissa, rounded once on the way in and once on the way out of each
        // operation; f32 sums of a few hundred terms err by some 1e-6, but a GPU's tensor cores
        // multiply f32 as TF32, which has 10 bits.
        let tolerance = match self.compute {
            ComputeDtype::F32 if self.tensor_cores => 5e-3,
            ComputeDtype::F32 => 1e-5,
            ComputeDtype::Bf16 => 2e-2,
        };
        let got: Vec<f32> = got.into_data().convert::<f32>().try_to_vec().expect("f32");
        let largest = expected.iter().fold(0.1f64, |a, b| a.max(b.abs()));
        let errors = got
            .iter()
            .zip(expected)
            .map(|(g, e)| (f64::from(*g) - e).abs() / largest);
        let error = match got.len() == expected.len() {
            true => errors.fold(0.0, |a: f64, b| if b.is_nan() { b } else { a.max(b) }),
            false => f64::NAN,
        };
        self.checks.push(Check {
            name,
            error,
            tolerance,
        });
    }

    /// Weighs y with dy and differentiates.
    fn backward(&self, y: &Tensor<2>, dy: &[f32]) -> burn::tensor::Gradients {
        let columns = y.dims()[1];
        let dy = self.tensor(dy, columns, self.dtype());
        (y.clone() * dy).sum().backward()
    }

    fn linears(&mut self) {
        // Whole tiles, one row, odd sizes, blocks that straddle rows, rows of both sides of every
        // threshold.
        let shapes = [
            [64, 96, 192],
            [33, 100, 192],
            [1, 33, 64],
            [8, 70, 128],
            [7, 50, 200],
            [40, 49, 47],
            [3, 1, 1],
            [130, 17, 576],
        ];
        for shape in shapes {
            for encoding in ["nf4 double", "nf4 plain", "bf16", "f32"] {
                self.linear(shape, encoding, 0, None, false);
                self.linear(shape, encoding, 4, None, true);
            }
            let dropout = Some(Dropout {
                p: 0.3,
                seed: u64::MAX / 7,
            });
            self.linear(shape, "nf4 double", 16, dropout, false);
        }
    }

    fn weight(&mut self, [n, k]: [usize; 2], encoding: &str) -> (Weight, Vec<f64>) {
        let values = self.draw(n * k);
        let (weight, dense) = match encoding {
            "bf16" => {
                let half: Vec<_> = values.iter().map(|v| half::bf16::from_f32(*v)).collect();
                let bytes: Vec<u8> = half.iter().flat_map(|v| v.to_le_bytes()).collect();
                let dense: Vec<f32> = half.iter().map(|v| v.to_f32()).collect();
                let weight = Weight::dense(&bytes, DenseDtype::BF16, [n, k], &self.plain);
                (weight, dense)
            }
            "f32" => (Weight::dense_f32(&values, [n, k], &self.plain), values),
            nf4_kind => {
                let double = nf4_kind.contains("double");
                let dtype = match double {
                    true => nf4::Dtype::BF16,
                    false => nf4::Dtype::F32,
                };
                let quantized = nf4::quantize(&values, [n, k], dtype, double);
                let dense = quantized.dequantize();
                (Weight::nf4(&quantized, &self.plain), dense)
            }
        };
        (weight.with_compute(self.compute), widen(&dense))
    }

    fn linear(
        &mut self,
        [m, n, k]: [usize; 3],
        encoding: &str,
        rank: usize,
        dropout: Option<Dropout>,
        biased: bool,
    ) {
        let with = if dropout.is_some() {
            " with dropout"
        } else {
            ""
        };
        let what = format!("linear {m}x{k}->{n} {encoding} rank {rank}{with}");
        let (weight, w) = self.weight([n, k], encoding);
        let (x, dy, bias) = (self.draw(m * k), self.draw(m * n), self.draw(n));
        let (a, b) = (self.draw(rank * k), self.draw(n * rank));
        let mask: Vec<f64> = (0..m * k)
            .map(|i| dropout.map_or(1.0, |d| f64::from(d.factor(i / k, i % k))))
            .collect();
        let (wx, wa, wb, wdy) = (widen(&x), widen(&a), widen(&b), widen(&dy));
        let plain = (rank > 0).then_some(reference::linear::Lora {
            a: &wa,
            b: &wb,
            rank,
            scaling: 2.0,
            mask: &mask,
        });
        let wide_bias = biased.then(|| widen(&bias));
        let y = reference::linear::forward(&wx, &w, [n, k], wide_bias.as_deref(), plain);
        let (dx, da, db) = reference::linear::backward(&wdy, &wx, &w, [n, k], plain);

        let xt = self.activation(&x, k);
        let adapter = (rank > 0).then(|| {
            (
                self.tensor(&a, k, DType::F32).require_grad(),
                self.tensor(&b, rank, DType::F32).require_grad(),
            )
        });
        let lora = adapter.as_ref().map(|(a, b)| Lora {
            a,
            b,
            scaling: 2.0,
            dropout,
        });
        let bias = biased.then(|| self.vector(&bias));
        let got = crate::linear(xt.clone(), &weight, bias.as_ref(), lora);
        let mut gradients = self.backward(&got, &dy);
        self.check(format!("{what}: y"), got, &y);
        let got = xt.grad_remove(&mut gradients).expect("x is tracked");
        self.check(format!("{what}: dx"), got, &dx);
        if let Some((at, bt)) = adapter {
            let got = at.grad_remove(&mut gradients).expect("A is tracked");
            self.check(format!("{what}: dA"), got, &da);
            let got = bt.grad_remove(&mut gradients).expect("B is tracked");
            self.check(format!("{what}: dB"), got, &db);
        }
    }

    fn attentions(&mut self) {
        let options = |heads, kv_heads, head_dim| AttentionOptions {
            heads,
            kv_heads,
            head_dim,
            scale: 1.5 / (head_dim as f32).sqrt(),
            window: None,
            softcap: None,
        };
        for offsets in [
            vec![0, 1],
            vec![0, 5, 6, 40],
            vec![0, 33, 230, 300],
            vec![0, 7, 600, 1100],
        ] {
            let segments = Segments::from_offsets(&offsets);
            let rows = *offsets.last().expect("there are some");
            self.attention(&segments, [rows, rows], options(4, 2, 16), true);
        }
        let ragged = Segments::from_offsets(&[0, 7, 130]);
        for (window, softcap) in [(Some(1), None), (Some(50), Some(0.7)), (None, Some(0.7))] {
            let o = AttentionOptions {
                window,
                softcap,
                ..options(3, 1, 20)
            };
            self.attention(&ragged, [130, 130], o, true);
        }
        // Decoding: queries at the end of longer sequences.
        let continued = Segments::new(vec![
            Segment { q: 0..3, k: 2..250 },
            Segment {
                q: 3..4,
                k: 250..251,
            },
            Segment {
                q: 4..5,
                k: 251..400,
            },
        ]);
        self.attention(&continued, [5, 400], options(4, 2, 32), false);
    }

    fn attention(
        &mut self,
        segments: &Segments,
        [q_rows, k_rows]: [usize; 2],
        o: AttentionOptions,
        differentiate: bool,
    ) {
        let AttentionOptions {
            heads,
            kv_heads,
            head_dim,
            window,
            softcap,
            ..
        } = o;
        let what = format!(
            "attention {q_rows}x{k_rows} heads {heads}/{kv_heads}x{head_dim} window {window:?} softcap {softcap:?}"
        );
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let (q, d_o) = (self.draw(q_rows * width), self.draw(q_rows * width));
        let (k, v) = (self.draw(k_rows * kv_width), self.draw(k_rows * kv_width));
        let (wq, wk, wv) = (widen(&q), widen(&k), widen(&v));
        let expected = reference::attention::forward(&wq, &wk, &wv, segments, &o);
        let (qt, kt, vt) = (
            self.activation(&q, width),
            self.activation(&k, kv_width),
            self.activation(&v, kv_width),
        );
        if !differentiate {
            let got = crate::attention(qt.inner(), kt.inner(), vt.inner(), segments, &o);
            return self.check(format!("{what}: o"), got, &expected);
        }
        let got = crate::attention(qt.clone(), kt.clone(), vt.clone(), segments, &o);
        let mut gradients = self.backward(&got, &d_o);
        self.check(format!("{what}: o"), got, &expected);
        let (dq, dk, dv) =
            reference::attention::backward(&widen(&d_o), &wq, &wk, &wv, segments, &o);
        for (name, t, expected) in [("dq", qt, dq), ("dk", kt, dk), ("dv", vt, dv)] {
            let got = t.grad_remove(&mut gradients).expect("it is tracked");
            self.check(format!("{what}: {name}"), got, &expected);
        }
    }

    fn cross_entropies(&mut self) {
        for ([rows, vocabulary, hidden], encoding) in [
            ([1, 7, 64], "bf16"),
            ([37, 300, 96], "bf16"),
            ([20, 129, 64], "f32"),
            ([20, 129, 64], "nf4 double"),
        ] {
            let what = format!("cross entropy {rows}x{hidden}->{vocabulary} {encoding}");
            let (weight, w) = self.weight([vocabulary, hidden], encoding);
            let h = self.draw(rows * hidden);
            let targets: Vec<u32> = (0..rows as u32)
                .map(|i| i * 7919 % vocabulary as u32)
                .collect();
            let (loss, dh) = reference::cross_entropy::forward(&widen(&h), &w, hidden, &targets);
            let ht = self.activation(&h, hidden);
            let got = crate::linear_cross_entropy(ht.clone(), &weight, &targets) * 0.5;
            let mut gradients = got.clone().backward();
            self.check(format!("{what}: loss"), got, &[0.5 * loss]);
            let dh: Vec<f64> = dh.iter().map(|d| 0.5 * d).collect();
            let got = ht.grad_remove(&mut gradients).expect("h is tracked");
            self.check(format!("{what}: dh"), got, &dh);
        }
    }

    fn elementwise(&mut self) {
        use reference::elementwise as e;
        let (rows, heads, half) = (9, 3, 10);
        let width = heads * 2 * half;
        let (x, dy, up) = (
            self.draw(rows * width),
            self.draw(rows * width),
            self.draw(rows * width),
        );
        let (wx, wdy, wup) = (widen(&x), widen(&dy), widen(&up));

        let norm = self.draw(width);
        let xt = self.activation(&x, width);
        let got = crate::rms_norm(xt.clone(), &self.vector(&norm), 1e-5);
        let mut gradients = self.backward(&got, &dy);
        let wn = widen(&norm);
        self.check("rms norm: y".into(), got, &e::rms_norm(&wx, &wn, 1e-5));
        let expected = e::rms_norm_backward(&wdy, &wx, &wn, 1e-5);
        let got = xt.grad_remove(&mut gradients).expect("x is tracked");
        self.check("rms norm: dx".into(), got, &expected);

        let angles = self.draw(rows * half);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let position_ids: Vec<u32> = (0..rows as u32).rev().collect();
        let table = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [rows, half]);
            Tensor::<2>::from_data(data, (&self.plain, DType::F32))
        };
        let xt = self.activation(&x, width);
        let got = crate::rotary(xt.clone(), &table(&cos), &table(&sin), &position_ids, heads);
        let mut gradients = self.backward(&got, &dy);
        let (wc, ws) = (widen(&cos), widen(&sin));
        let expected = e::rotary(&wx, &wc, &ws, &position_ids, heads, false);
        self.check("rotary: y".into(), got, &expected);
        let expected = e::rotary(&wdy, &wc, &ws, &position_ids, heads, true);
        let got = xt.grad_remove(&mut gradients).expect("x is tracked");
        self.check("rotary: dx".into(), got, &expected);

        let (gate, up) = (self.activation(&x, width), self.activation(&up, width));
        let got = crate::swiglu(gate.clone(), up.clone());
        let mut gradients = self.backward(&got, &dy);
        self.check("swiglu: y".into(), got, &e::swiglu(&wx, &wup));
        let (dgate, dup) = e::swiglu_backward(&wdy, &wx, &wup);
        let got = gate.grad_remove(&mut gradients).expect("gate is tracked");
        self.check("swiglu: dgate".into(), got, &dgate);
        let got = up.grad_remove(&mut gradients).expect("up is tracked");
        self.check("swiglu: dup".into(), got, &dup);

        let ids = [4, 0, 4, 39, 17];
        for encoding in ["bf16", "f32", "nf4 double"] {
            let (table, w) = self.weight([40, 64], encoding);
            let expected: Vec<f64> = ids
                .iter()
                .flat_map(|i| w[*i as usize * 64..][..64].to_vec())
                .collect();
            let got = crate::embedding(&ids, &table);
            self.check(format!("embedding {encoding}"), got, &expected);
        }
        self.adamw();
    }

    fn adamw(&mut self) {
        let (rows, columns) = (5, 33);
        let parts: Vec<Vec<f32>> = (0..4).map(|_| self.draw(rows * columns)).collect();
        let options = AdamW {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            step: 3,
            grad_scale: 0.5,
        };
        let squares: Vec<f32> = parts[3].iter().map(|v| v * v).collect();
        let tensor = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [rows, columns]);
            Tensor::<2>::from_data(data, (&self.plain, DType::F32))
        };
        let shared = tensor(&parts[0]);
        let parameter = crate::Parameter {
            value: shared.clone(),
            grad: tensor(&parts[1]),
            exp_avg: tensor(&parts[2]),
            exp_avg_sq: tensor(&squares),
        };
        let mut updated = crate::adamw(vec![parameter], &options);
        let [p, m, v] = updated.pop().expect("one parameter");
        let (mut wp, mut wm, mut wv) = (widen(&parts[0]), widen(&parts[2]), widen(&squares));
        reference::elementwise::adamw(&mut wp, &widen(&parts[1]), &mut wm, &mut wv, &options);
        self.check("adamw: param".into(), p, &wp);
        self.check("adamw: exp_avg".into(), m, &wm);
        self.check("adamw: exp_avg_sq".into(), v, &wv);
        self.check(
            "adamw: a shared tensor is left alone".into(),
            shared,
            &widen(&parts[0]),
        );
    }
}
