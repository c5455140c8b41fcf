//! Products of a few rows with 4-bit weights: a unit's registers, and tiles on tensor cores.

use super::{Buffer, KINDS, Kind, Launch, Program, floats, words};
use crate::backends::cube::linear::sections;
use crate::kernels::cube::few_rows::{FEW_FEATURES, TILE_FEATURES};
use crate::reference::widen;
use crate::tests::linear::{Case, weight};
use crate::tests::{Random, close};

/// A scale of codes is a fused multiply-add here: its last bit may round one weight of a hundred
/// thousand to its neighbour in bf16.
const TOLERANCE: f64 = 1e-4;
/// Weights, adapters, whether scales are codes too, what a weight is rounded to.
type Variant = (usize, usize, bool, Kind);
const LAUNCHES: [Variant; 4] = [
    (1, 0, false, Kind::BF16),
    (1, 0, true, Kind::BF16),
    (3, 3, true, Kind::BF16),
    (3, 3, true, Kind::F32),
];
/// Rows of each kernel: those of a unit's registers, those of a tile.
const FEW: [usize; 2] = [1, 4];
const TILES: [usize; 2] = [16, 32];
/// Of each weight, and the rank of its adapter: less than a tile, a tile and some, a whole one.
const FEATURES: [usize; 3] = [9, 70, 64];
const RANKS: [usize; 3] = [16, 3, 8];

fn what((weights, adapters, nested, rounding): Variant, kind: Kind) -> String {
    format!("{weights} weights of {rounding:?}, {adapters} adapters, nested {nested}, in {kind:?}")
}

fn names(kind: Kind) -> Vec<String> {
    let mut names = Vec::new();
    for launch in LAUNCHES {
        let what = what(launch, kind);
        names.extend(FEW.map(|rows| format!("{rows} rows of {what}")));
        names.extend(TILES.map(|rows| format!("a tile of {rows} rows of {what}")));
    }
    names
}

pub(super) fn kernels() -> Vec<String> {
    KINDS.into_iter().flat_map(names).collect()
}

/// Weights that share a launch, and their adapters' A.
struct Scene {
    cases: Vec<Case>,
    a: Vec<Vec<f32>>,
    in_features: usize,
    columns: usize,
}

impl Scene {
    fn new((weights, adapters, nested, rounding): Variant, in_features: usize) -> Scene {
        let mut random = Random::new(14);
        let encoding = match (nested, rounding) {
            (true, Kind::BF16) => "nf4 double bf16",
            (true, Kind::F32) => "nf4 double f32",
            (false, Kind::BF16) => "nf4 plain bf16",
            (false, Kind::F32) => "nf4 plain f32",
        };
        let features = FEATURES[..weights].iter();
        let cases: Vec<Case> = features
            .map(|n| weight(encoding, *n, in_features, &mut random))
            .collect();
        let ranks = RANKS[..adapters].iter();
        let columns = FEATURES[..weights].iter().chain(ranks.clone()).sum();
        Scene {
            cases,
            a: ranks
                .map(|rank| random.values(rank * in_features))
                .collect(),
            in_features,
            columns,
        }
    }

    /// See `kernels::cube::few_rows::ENTRY`; and how many tiles there are.
    fn table(&self, size: usize) -> (Vec<u32>, u32) {
        let (mut table, mut tile, mut column) = (Vec::new(), 0, 0);
        let mut push = |sections: [usize; 3], offset: f32, features: usize| {
            let end = tile + features.div_ceil(size);
            table.extend(sections.map(|at| at as u32));
            table.push(offset.to_bits());
            table.extend([features, column, tile, end].map(|n| n as u32));
            column += features;
            tile = end;
        };
        for case in &self.cases {
            let s = sections(case.format).expect("it is a 4-bit weight");
            let at = [s.scales_at, s.nested_at, s.map_at];
            push(at, s.offset, case.format.out_features);
        }
        for a in &self.a {
            push([0; 3], 0.0, a.len() / self.in_features);
        }
        (table, tile as u32)
    }

    /// x, the weights twice (as vectors and as words), every A, the table, the sums.
    fn buffers(&self, x: Buffer, table: &[u32], sums: usize) -> Vec<Buffer> {
        let mut buffers = vec![x];
        for _ in 0..2 {
            // A whole number of vectors of four words.
            buffers.extend(self.cases.iter().map(|case| words(&case.words)));
        }
        buffers.extend(self.a.iter().map(|a| floats(a)));
        buffers.extend([words(table), Kind::F32.unwritten(sums)]);
        buffers
    }

    /// x times all of it, `[splits, rows, columns]`, with W and A as they are in `kind`.
    fn sums(&self, x: &[f64], depth: usize, kind: Kind) -> Vec<f64> {
        let k = self.in_features;
        let rows = x.len() / k;
        let a = self.a.iter().map(|a| kind.wide(a));
        let all: Vec<f64> = self
            .cases
            .iter()
            .map(|case| kind.wide(&case.dense))
            .chain(a)
            .flatten()
            .collect();
        let mut sums = Vec::new();
        for start in (0..k).step_by(depth) {
            let split = start..(start + depth).min(k);
            for row in 0..rows {
                for feature in 0..self.columns {
                    let products = split.clone().map(|c| x[row * k + c] * all[feature * k + c]);
                    sums.push(products.sum());
                }
            }
        }
        sums
    }
}

fn check(kind: Kind) {
    let Some(program) = Program::of(&format!("few-{kind:?}"), names(kind)) else {
        return;
    };
    for launch in LAUNCHES {
        let what = what(launch, kind);
        // Fewer columns than a cube's units read at once, and more.
        for in_features in [192, 4160] {
            let scene = Scene::new(launch, in_features);
            let (table, tiles) = scene.table(FEW_FEATURES);
            for rows in FEW {
                let x = kind.rounded(&Random::new(15).values(rows * in_features));
                let buffers = scene.buffers(kind.buffer(&x), &table, rows * scene.columns);
                let name = format!("{rows} rows of {what}");
                let after = program.run(Launch {
                    kernel: &name,
                    cubes: [tiles, 1, 1],
                    buffers,
                    usizes: &[in_features, scene.columns],
                    words: &[],
                    floats: &[],
                });
                let got = Kind::F32.values(after.last().expect("the sums"));
                let expected = scene.sums(&widen(&x), in_features, Kind::F32);
                close(&got, &expected, TOLERANCE, &name);
            }
        }
        // Two splits, the second of half a tile.
        let (in_features, depth) = (320, 256);
        let scene = Scene::new(launch, in_features);
        let (table, tiles) = scene.table(TILE_FEATURES);
        for (tile_rows, rows) in TILES.into_iter().zip([5, 21]) {
            let x = kind.rounded(&Random::new(16).values(rows * in_features));
            let buffers = scene.buffers(kind.buffer(&x), &table, 2 * rows * scene.columns);
            let name = format!("a tile of {tile_rows} rows of {what}");
            let after = program.run(Launch {
                kernel: &name,
                cubes: [tiles, 2, 1],
                buffers,
                usizes: &[rows, in_features, scene.columns, depth],
                words: &[],
                floats: &[],
            });
            let got = Kind::F32.values(after.last().expect("the sums"));
            close(&got, &scene.sums(&widen(&x), depth, kind), TOLERANCE, &name);
        }
    }
}

#[test]
fn products_of_a_few_rows_are_their_specification_in_f32() {
    check(Kind::F32);
}

#[test]
fn products_of_a_few_rows_are_their_specification_on_tensor_cores() {
    check(Kind::BF16);
}
