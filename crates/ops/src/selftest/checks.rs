//! The checks: each operation on random data and ragged shapes, beside what [`crate::reference`] says.

use super::Bench;
use crate::reference::{self, widen};
use crate::{AttentionKernel, AttentionOptions, Dropout, Lora, Segment, Segments};
use burn::tensor::{DType, Tensor, TensorData};

impl Bench {
    pub(super) fn linears(&mut self) {
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
        // More rows than the gradients of an adapter are summed over in one piece.
        self.linear([1024, 18, 64], "nf4 double", 16, None, false);
        let dropout = Some(Dropout { p: 0.3, seed: 9 });
        self.linear([1031, 20, 40], "nf4 double", 5, dropout, false);
    }

    pub(super) fn linear(
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

    pub(super) fn attentions(&mut self) {
        let compute = self.compute;
        let options = |heads, kv_heads, head_dim| AttentionOptions {
            heads,
            kv_heads,
            head_dim,
            scale: 1.5 / (head_dim as f32).sqrt(),
            window: None,
            softcap: None,
            compute,
            kernel: AttentionKernel::Chunked,
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
        self.split_attentions(options);

        // The other kernel, where the device has it: heads of every width that it takes.
        for (heads, kv_heads, head_dim) in [(4, 2, 64), (3, 1, 128), (2, 2, 32), (2, 1, 96)] {
            let o = options(heads, kv_heads, head_dim);
            if crate::backends::flash_plan(&self.plain, self.compute, &o).is_ok() {
                self.flash_attentions(o);
            }
        }
    }

    /// Few rows that see so many keys that these are split between cubes: splits that end where a tile
    /// does and that do not, rows too short for some; heads of odd widths, alone and several of them to
    /// a key; and what backward makes of the row's log-sum-exp.
    fn split_attentions(&mut self, options: impl Fn(usize, usize, usize) -> AttentionOptions) {
        let rows = |lengths: &[usize]| {
            let mut from = 3;
            let of = |(row, length): (usize, &usize)| {
                let k = from..from + length;
                from = k.end;
                Segment { q: row..row + 1, k }
            };
            (
                Segments::new(lengths.iter().enumerate().map(of).collect()),
                from,
            )
        };
        for lengths in [&[700][..], &[257, 5], &[256, 255], &[129, 384]] {
            let (segments, keys) = rows(lengths);
            let o = options(4, 2, 64);
            self.attention(&segments, [lengths.len(), keys], o, false);
        }
        let (segments, keys) = rows(&[300, 520]);
        for (heads, kv_heads, head_dim) in [(2, 2, 128), (3, 1, 20), (7, 1, 33), (9, 1, 16)] {
            let o = options(heads, kv_heads, head_dim);
            self.attention(&segments, [2, keys], o, false);
        }
        let o = AttentionOptions {
            window: Some(290),
            softcap: Some(0.7),
            ..options(6, 2, 32)
        };
        self.attention(&segments, [2, keys], o, true);
    }

    /// Segments within, across and of many tiles; windows narrower and wider than a tile; scores that
    /// grow by more than the running softmax lets pass; queries behind keys of their own.
    pub(super) fn flash_attentions(&mut self, o: AttentionOptions) {
        let o = AttentionOptions {
            kernel: AttentionKernel::Flash,
            ..o
        };
        for offsets in [vec![0, 40], vec![0, 5, 6, 40, 41, 100, 103, 230]] {
            let segments = Segments::from_offsets(&offsets);
            let rows = *offsets.last().expect("there are some");
            self.attention(&segments, [rows, rows], o, true);
        }
        let ragged = Segments::from_offsets(&[0, 7, 150]);
        for (window, softcap, scale) in [
            (Some(1), None, o.scale),
            (Some(10), Some(0.7), o.scale),
            (Some(70), None, o.scale),
            (None, None, 20.0 * o.scale),
        ] {
            let o = AttentionOptions {
                window,
                softcap,
                scale,
                ..o
            };
            self.attention(&ragged, [150, 150], o, true);
        }
        let continued = Segments::new(vec![
            Segment {
                q: 0..40,
                k: 2..130,
            },
            Segment {
                q: 40..70,
                k: 130..200,
            },
        ]);
        self.attention(&continued, [70, 201], o, true);
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
            kernel,
            scale,
            ..
        } = o;
        let scale = scale * (head_dim as f32).sqrt();
        let what = format!(
            "{kernel:?} attention {q_rows}x{k_rows} heads {heads}/{kv_heads}x{head_dim} window {window:?} softcap {softcap:?} scale {scale}/√d"
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

    pub(super) fn cross_entropies(&mut self) {
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

    pub(super) fn elementwise(&mut self) {
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
        let table = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [rows, half]);
            Tensor::<2>::from_data(data, (&self.plain, DType::F32))
        };
        let xt = self.activation(&x, width);
        let got = crate::rotary(xt.clone(), &table(&cos), &table(&sin), heads);
        let mut gradients = self.backward(&got, &dy);
        let (wc, ws) = (widen(&cos), widen(&sin));
        let expected = e::rotary(&wx, &wc, &ws, heads, half, false);
        self.check("rotary: y".into(), got, &expected);
        let expected = e::rotary(&wdy, &wc, &ws, heads, half, true);
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
    }
}
