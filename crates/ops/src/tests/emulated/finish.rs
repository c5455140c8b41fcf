//! What becomes of a few rows' sums, and the likeliest of a row.

use super::{Buffer, KINDS, Kind, Launch, Program, as_words, each, floats, unread, words};
use crate::reference::{elementwise, widen};
use crate::tests::Random;

/// Rank, whether there is a bias, splits.
type Variant = (usize, bool, usize);
const VARIANTS: [Variant; 4] = [(0, false, 3), (16, true, 3), (16, true, 1), (6, true, 3)];
const NORM_UNITS: [usize; 2] = [128, 1024];
const LIKELIEST: &str = "likeliest";

fn name(of: &str, (rank, biased, splits): Variant, kind: Kind) -> String {
    format!("finish {of} rank {rank}, bias {biased}, splits {splits}, in {kind:?}")
}

fn norm_of(units: usize) -> String {
    format!("norm of {units} units")
}

fn names(kind: Kind) -> Vec<String> {
    let mut all = ["linear", "swiglu", "heads"].map(String::from).to_vec();
    all.extend(NORM_UNITS.map(norm_of));
    let of = |variant| all.iter().map(move |of| name(of, variant, kind));
    VARIANTS.into_iter().flat_map(of).collect()
}

pub(super) fn kernels() -> Vec<String> {
    let mut kernels: Vec<String> = KINDS.into_iter().flat_map(names).collect();
    kernels.push(LIKELIEST.into());
    kernels
}

/// Sums `[splits, rows, columns]` of some weights: each with `width` columns, then each with its rank.
struct Scene {
    rows: usize,
    columns: usize,
    rank: usize,
    biased: bool,
    splits: usize,
    widths: Vec<usize>,
    sums: Vec<f32>,
    b: Vec<Vec<f32>>,
    biases: Vec<Vec<f32>>,
}

const SCALING: f32 = 0.5;

impl Scene {
    fn new(rows: usize, widths: &[usize], (rank, biased, splits): Variant) -> Scene {
        let mut random = Random::new(21);
        let columns = widths.iter().sum::<usize>() + widths.len() * rank;
        let mut each = |times: usize| -> Vec<Vec<f32>> {
            widths
                .iter()
                .map(|width| random.values(width * times))
                .collect()
        };
        let (b, biases) = (each(rank), each(1));
        Scene {
            rows,
            columns,
            rank,
            biased,
            splits,
            widths: widths.to_vec(),
            sums: random.values(splits * rows * columns),
            b,
            biases,
        }
    }

    /// Columns of each weight and of its u.
    fn places(&self) -> Vec<u32> {
        let all: usize = self.widths.iter().sum();
        let place = |of: usize| [self.widths[..of].iter().sum(), all + of * self.rank];
        let places = (0..self.widths.len()).flat_map(place);
        places.map(|column| column as u32).collect()
    }

    fn total(&self, row: usize, column: usize) -> f64 {
        let at = |split: usize| (split * self.rows + row) * self.columns + column;
        (0..self.splits)
            .map(|split| f64::from(self.sums[at(split)]))
            .sum()
    }

    /// u of weight `of`, `[rows, rank]`.
    fn u(&self, of: usize) -> Vec<f64> {
        let at = self.places()[2 * of + 1] as usize;
        let total = |i: usize| self.total(i / self.rank, at + i % self.rank);
        (0..self.rows * self.rank).map(total).collect()
    }

    /// y of weight `of`, `[rows, width]`.
    fn y(&self, of: usize) -> Vec<f64> {
        let (width, at, u) = (self.widths[of], self.places()[2 * of] as usize, self.u(of));
        let value = |i: usize| {
            let (row, feature) = (i / width, i % width);
            let bias = if self.biased {
                f64::from(self.biases[of][feature])
            } else {
                0.0
            };
            let b = |r: usize| f64::from(self.b[of][feature * self.rank + r]);
            let update: f64 = (0..self.rank).map(|r| u[row * self.rank + r] * b(r)).sum();
            self.total(row, at + feature) + bias + f64::from(SCALING) * update
        };
        (0..self.rows * width).map(value).collect()
    }

    /// Sums, then every B, then every bias.
    fn buffers(&self) -> Vec<Buffer> {
        let mut buffers = vec![floats(&self.sums)];
        let b = self
            .b
            .iter()
            .map(|b| if self.rank > 0 { floats(b) } else { unread() });
        buffers.extend(b);
        let biases = self.biases.iter();
        buffers.extend(biases.map(|bias| if self.biased { floats(bias) } else { unread() }));
        buffers
    }
}

fn check(kind: Kind) {
    let Some(program) = Program::of(&format!("finish-{kind:?}"), names(kind)) else {
        return;
    };
    for variant in VARIANTS {
        linear(&program, variant, kind);
        for units in NORM_UNITS {
            norm(&program, units, variant, kind);
        }
        swiglu(&program, variant, kind);
        heads(&program, variant, kind);
    }
}

#[test]
fn what_follows_a_product_is_its_specification_in_f32() {
    check(Kind::F32);
}

#[test]
fn what_follows_a_product_is_its_specification_in_bf16() {
    check(Kind::BF16);
}

fn linear(program: &Program, variant: Variant, kind: Kind) {
    let (rows, width, rank) = (5, 11, variant.0);
    let scene = Scene::new(rows, &[width], variant);
    let u = (rows * rank).max(rows);
    let mut buffers = scene.buffers();
    buffers.extend([kind.unwritten(rows * width), kind.unwritten(u)]);
    let name = name("linear", variant, kind);
    let after = program.run(Launch {
        kernel: &name,
        // The rank is larger than the width: there are more values of u than of y.
        cubes: each(rows * width.max(rank)),
        buffers,
        usizes: &[rows, scene.columns, width],
        words: &scene.places(),
        floats: &[SCALING],
    });
    kind.holds(&after[3], &scene.y(0), &name);
    if rank > 0 {
        kind.holds(&after[4], &scene.u(0), &name);
    }
}

fn norm(program: &Program, units: usize, variant: Variant, kind: Kind) {
    let (rows, width) = (3, 333);
    let scene = Scene::new(rows, &[width], variant);
    // As it is launched before the first layer: only normalised.
    let added = variant.0 > 0;
    let mut random = Random::new(22);
    let (x, weight) = (
        kind.rounded(&random.values(rows * width)),
        random.values(width),
    );
    let mut buffers = if added {
        scene.buffers()
    } else {
        vec![unread(); 3]
    };
    buffers.extend([
        kind.buffer(&x),
        floats(&weight),
        kind.unwritten(rows * width),
    ]);
    let name = name(&norm_of(units), variant, kind);
    let after = program.run(Launch {
        kernel: &name,
        cubes: [rows as u32, 1, 1],
        buffers,
        usizes: &[rows, scene.columns, width],
        words: &scene.places(),
        floats: &[SCALING, 1e-5],
    });
    let mut expected = widen(&x);
    if added {
        expected
            .iter_mut()
            .zip(scene.y(0))
            .for_each(|(x, y)| *x += y);
    }
    kind.holds(&after[3], &expected, &name);
    // The norm is of x as it was stored.
    let stored = widen(&kind.values(&after[3]));
    kind.holds(
        &after[5],
        &elementwise::rms_norm(&stored, &widen(&weight), 1e-5),
        &name,
    );
}

fn swiglu(program: &Program, variant: Variant, kind: Kind) {
    let (rows, width) = (4, 70);
    let scene = Scene::new(rows, &[width, width], variant);
    let mut buffers = scene.buffers();
    buffers.push(kind.unwritten(rows * width));
    let name = name("swiglu", variant, kind);
    let after = program.run(Launch {
        kernel: &name,
        cubes: each(rows * width),
        buffers,
        usizes: &[rows, scene.columns, width],
        words: &scene.places(),
        floats: &[SCALING; 2],
    });
    kind.holds(
        &after[5],
        &elementwise::swiglu(&scene.y(0), &scene.y(1)),
        &name,
    );
}

fn heads(program: &Program, variant: Variant, kind: Kind) {
    let (rows, heads, kv_heads, d) = (3, 4, 2, 64);
    let counts = [heads, kv_heads, kv_heads];
    let scene = Scene::new(rows, &counts.map(|count| count * d), variant);
    let normed = variant.1;
    let mut random = Random::new(23);
    let (angles, norms) = (
        [(); 2].map(|()| random.values(rows * d / 2)),
        [(); 2].map(|()| random.values(d)),
    );
    let slots = [5, 0, 8];
    let mut buffers = scene.buffers();
    buffers.extend(
        norms
            .each_ref()
            .map(|norm| if normed { floats(norm) } else { unread() }),
    );
    buffers.extend(angles.each_ref().map(|angle| floats(angle)));
    buffers.push(words(&slots));
    buffers.push(kind.unwritten(rows * heads * d));
    let cache = kind.buffer(&vec![2.0; 9 * kv_heads * d]);
    buffers.extend([cache.clone(), cache]);
    let name = name("heads", variant, kind);
    let after = program.run(Launch {
        kernel: &name,
        cubes: [(rows * (heads + 2 * kv_heads)) as u32, 1, 1],
        buffers,
        usizes: &[rows, scene.columns, heads, kv_heads],
        words: &scene.places(),
        floats: &[SCALING, SCALING, SCALING, 1e-5],
    });
    let [cos, sin] = angles.each_ref().map(|angle| widen(angle));
    for (of, count) in counts.into_iter().enumerate() {
        let mut y = scene.y(of);
        if of < 2 {
            if normed {
                y = elementwise::rms_norm(&y, &widen(&norms[of]), 1e-5);
            }
            y = elementwise::rotary(&y, &cos, &sin, count, d / 2, false);
        }
        let mut expected = y.clone();
        if of > 0 {
            expected = vec![2.0; 9 * count * d];
            for (row, slot) in slots.into_iter().enumerate() {
                let to = slot as usize * count * d..(slot as usize + 1) * count * d;
                expected[to].copy_from_slice(&y[row * count * d..(row + 1) * count * d]);
            }
        }
        kind.holds(&after[12 + of], &expected, &format!("{name}, {of}"));
    }
}

#[test]
fn of_equals_the_first_is_the_likeliest() {
    let Some(program) = Program::of(LIKELIEST, [LIKELIEST]) else {
        return;
    };
    let (rows, vocabulary, parts) = (3, 1001, 4);
    let mut logits = Random::new(24).values(rows * vocabulary);
    // Equals in one part, in neighbouring lanes and in lanes of other warps.
    for place in [40, 41, 200, 245] {
        logits[vocabulary + place] = 3.0;
    }
    let after = program.run(Launch {
        kernel: LIKELIEST,
        cubes: [parts as u32, rows as u32, 1],
        buffers: vec![floats(&logits), words(&vec![u32::MAX; rows * parts * 2])],
        usizes: &[vocabulary],
        words: &[],
        floats: &[],
    });
    let mut expected = Vec::new();
    for row in logits.chunks(vocabulary) {
        let length = vocabulary.div_ceil(parts);
        for (part, values) in row.chunks(length).enumerate() {
            let top = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = values
                .iter()
                .position(|v| *v == top)
                .expect("it is one of them");
            expected.extend([top.to_bits(), (part * length + first) as u32]);
        }
    }
    assert_eq!(as_words(&after[1]), expected);
}
