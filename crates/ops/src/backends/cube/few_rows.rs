//! Products of up to 32 rows with 4-bit weights on a GPU: which weights share a launch, its tiles and
//! splits. The kernels are [`crate::kernels::cube::few_rows`].

use super::linear::{Sections, sections};
use super::tensor::{
    Argument, cast, dims, each, elements, fresh, makes_patches, packed, storage, units, upload,
};
use crate::format::WeightFormat;
use crate::kernels::cube::few_rows::{
    ENTRY, FEW, FEW_FEATURES, TILE_DEPTH, TILE_FEATURES, project_few_kernel, project_rows_kernel,
};
use crate::kernels::cube::finish::{PlaceLaunch, finish_linear_kernel};
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

/// Rows that are multiplied with the codes directly; more are worth a dense W.
pub(crate) const FEW_ROWS: usize = 32;

/// A 4-bit weight, and the A `[rank, in]` in f32 of its adapter.
pub(crate) struct Part {
    pub words: CubeTensor,
    pub format: WeightFormat,
    pub a: Option<CubeTensor>,
}

/// Weights that read the same x, and so share a launch.
#[derive(Debug)]
pub(crate) struct Projection {
    words: Vec<CubeTensor>,
    adapters: Vec<CubeTensor>,
    few: Tiles,
    rows: Tiles,
    places: Vec<Place>,
    columns: usize,
    in_features: usize,
    nested: bool,
    rounding: DType,
}

/// How the features of all weights are cut into tiles of one size.
#[derive(Debug)]
struct Tiles {
    /// See [`ENTRY`].
    table: CubeTensor,
    count: usize,
}

/// Where a weight's sums and those of its A lie in a row of all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    column: usize,
    u_column: usize,
    pub rank: usize,
    pub features: usize,
}

impl Place {
    pub(crate) fn launch(&self, scaling: f32) -> PlaceLaunch {
        PlaceLaunch::new(self.column as u32, self.u_column as u32, scaling)
    }
}

/// f32 `[splits, rows, columns]`
pub(crate) struct Sums {
    pub values: CubeTensor,
    pub splits: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Projection {
    /// Nothing where a weight is not a 4-bit one of whole blocks a row, or they are not of one kind.
    pub(crate) fn new(parts: Vec<Part>) -> Option<Projection> {
        let kinds: Option<Vec<Sections>> = parts.iter().map(|p| sections(p.format)).collect();
        let kinds = kinds?;
        let in_features = parts[0].format.in_features;
        let (nested, rounding) = (kinds[0].nested, kinds[0].rounding);
        let alike = parts.iter().zip(&kinds).all(|(part, kind)| {
            part.format.in_features == in_features
                && kind.nested == nested
                && kind.rounding == rounding
        });
        if !alike || !in_features.is_multiple_of(nf4::BLOCK_SIZE) {
            return None;
        }
        let rank = |part: &Part| part.a.as_ref().map_or(0, |a| dims(a)[0]);
        let mut columns = parts.iter().map(|p| p.format.out_features).sum();
        let (mut column, mut places) = (0, Vec::new());
        for part in &parts {
            let (features, rank) = (part.format.out_features, rank(part));
            places.push(Place {
                column,
                u_column: columns,
                rank,
                features,
            });
            column += features;
            columns += rank;
        }
        let tiles = |size: usize| {
            let mut tile = 0;
            let mut table = Vec::new();
            let mut push = |sections: [usize; 3], offset: f32, features: usize, column: usize| {
                let end = tile + features.div_ceil(size);
                table.extend(sections.map(|at| at as u32));
                table.push(offset.to_bits());
                table.extend([features, column, tile, end].map(|n| n as u32));
                tile = end;
            };
            for (kind, place) in kinds.iter().zip(&places) {
                let at = [kind.scales_at, kind.nested_at, kind.map_at];
                push(at, kind.offset, place.features, place.column);
            }
            for place in places.iter().filter(|place| place.rank > 0) {
                push([0; 3], 0.0, place.rank, place.u_column);
            }
            debug_assert!(table.len().is_multiple_of(ENTRY));
            Tiles {
                table: upload(&table, &parts[0].words),
                count: tile,
            }
        };
        let (few, rows) = (tiles(FEW_FEATURES), tiles(TILE_FEATURES));
        let (mut words, mut adapters) = (Vec::new(), Vec::new());
        for part in parts {
            words.push(packed(part.words));
            adapters.extend(part.a.map(|a| packed(cast(a, DType::F32))));
        }
        Some(Projection {
            words,
            adapters,
            few,
            rows,
            places,
            columns,
            in_features,
            nested,
            rounding,
        })
    }

    pub(crate) fn place(&self, weight: usize) -> Place {
        self.places[weight]
    }

    /// x `[rows, in]`, 1 to [`FEW_ROWS`] of them, times every weight and every A.
    pub(crate) fn of(&self, x: &CubeTensor) -> Sums {
        let [rows, _] = dims(x);
        if rows <= FEW {
            self.few(x, rows)
        } else {
            self.tiled(x, rows)
        }
    }

    fn sums(&self, like: &CubeTensor, splits: usize, rows: usize) -> Sums {
        Sums {
            values: fresh(like, [splits * rows, self.columns], DType::F32),
            splits,
            rows,
            columns: self.columns,
        }
    }

    fn arguments<E: CubePrimitive>(tensors: &[CubeTensor]) -> SequenceArg<Box<[E]>> {
        tensors.iter().map(|t| t.clone().argument()).collect()
    }

    fn few(&self, x: &CubeTensor, rows: usize) -> Sums {
        let client = x.client.clone();
        let sums = self.sums(x, 1, rows);
        let units = few_units(&client, self.in_features / 32, self.few.count);
        project_few_kernel::launch(
            &client,
            CubeCount::Static(self.few.count as u32, 1, 1),
            CubeDim::new_1d(units as u32),
            4,
            16 / x.dtype.size(),
            x.clone().argument(),
            self.words.iter().map(|t| t.clone().argument()).collect(),
            Self::arguments(&self.words),
            self.adapters.iter().map(|t| t.clone().argument()).collect(),
            self.few.table.clone().argument(),
            sums.values.clone().argument(),
            self.in_features,
            self.columns,
            self.words.len(),
            self.adapters.len(),
            self.nested,
            self.rounding != DType::F32,
            rows,
            units,
            [storage(x.dtype), storage(self.rounding)],
        );
        sums
    }

    fn tiled(&self, x: &CubeTensor, rows: usize) -> Sums {
        let client = x.client.clone();
        let tensor_cores = multiplies_tiles(&client, x.dtype);
        let units = units(&client, 128);
        // Two cubes for each multiprocessor, from splits along x where there are fewer tiles.
        let hardware = &client.properties().hardware;
        let cubes = 2 * hardware.num_streaming_multiprocessors.unwrap_or(4) as usize;
        let steps = self.in_features.div_ceil(TILE_DEPTH);
        let splits = cubes.div_ceil(self.rows.count).min(steps);
        let depth = steps.div_ceil(splits) * TILE_DEPTH;
        let splits = self.in_features.div_ceil(depth);
        let sums = self.sums(x, splits, rows);
        project_rows_kernel::launch(
            &client,
            CubeCount::Static(self.rows.count as u32, splits as u32, 1),
            CubeDim::new_1d(units as u32),
            4,
            16 / x.dtype.size(),
            x.clone().argument(),
            self.words.iter().map(|t| t.clone().argument()).collect(),
            Self::arguments(&self.words),
            self.adapters.iter().map(|t| t.clone().argument()).collect(),
            self.rows.table.clone().argument(),
            sums.values.clone().argument(),
            rows,
            self.in_features,
            self.columns,
            depth,
            self.words.len(),
            self.adapters.len(),
            self.nested,
            rows.next_multiple_of(16),
            tensor_cores,
            units,
            [storage(x.dtype), storage(self.rounding)],
        );
        sums
    }
}

/// Warps of a multiprocessor that hide from each other the time that memory takes to answer.
const BUSY_WARPS: usize = 16;

/// How many units walk along the `pieces` of a row, in each of `cubes`: of 128, 64 and 32 what leaves the
/// fewest of them idle, among those that keep the device busy; where none does, as many as have a piece.
fn few_units(client: &Client, pieces: usize, cubes: usize) -> usize {
    let multiprocessors = client.properties().hardware.num_streaming_multiprocessors;
    let warps = BUSY_WARPS * multiprocessors.unwrap_or(4) as usize;
    let sizes = [128, 64, 32].map(|most| units(client, most));
    let read = sizes.into_iter().filter(|units| units / 2 < pieces);
    let busy = read.clone().filter(|units| cubes * units / 32 >= warps);
    let idle = |units: &usize| pieces.next_multiple_of(*units) - pieces;
    let best = busy.min_by_key(idle).or_else(|| read.clone().max());
    best.unwrap_or(sizes[2])
}

/// Whether tensor cores multiply tiles of this type, four planes of 32 to a cube.
fn multiplies_tiles(client: &Client, dtype: DType) -> bool {
    dtype == DType::BF16 && units(client, 128) == 128 && makes_patches(client, dtype).is_ok()
}

/// Values of a row of B that are read at once: of every B of a launch as many.
pub(crate) fn together(ranks: &[usize]) -> usize {
    match ranks.iter().all(|rank| rank.is_multiple_of(4)) {
        true => 4,
        false => 1,
    }
}

/// A buffer for an argument that a kernel does not read.
pub(crate) fn unread(like: &CubeTensor) -> CubeTensor {
    fresh(like, [4], DType::F32) // one vector
}

/// y = x·Wᵀ + bias + scaling·u·Bᵀ and u = x·Aᵀ `[rows, rank]`, in two launches; nothing where the
/// weight is none of those that are multiplied as they lie.
pub(crate) fn linear(
    x: &CubeTensor,
    words: CubeTensor,
    bias: Option<CubeTensor>,
    adapter: Option<(CubeTensor, CubeTensor, f32)>,
    format: WeightFormat,
) -> Option<(CubeTensor, CubeTensor)> {
    let [rows, _] = dims(x);
    if rows > FEW_ROWS {
        return None;
    }
    let (a, b, scaling) = match adapter {
        Some((a, b, scaling)) => (Some(a), Some(b), scaling),
        None => (None, None, 0.0),
    };
    let projection = Projection::new(vec![Part { words, format, a }])?;
    let sums = projection.of(x);
    let place = projection.place(0);
    let y = fresh(x, [rows, place.features], x.dtype);
    let u = fresh(x, [rows, place.rank.max(1)], x.dtype);
    let client = x.client.clone();
    let (cubes, dim) = each(&client, elements(&y).max(rows * place.rank));
    let biased = bias.is_some();
    let b = b.map_or_else(|| unread(x), |b| packed(cast(b, DType::F32)));
    finish_linear_kernel::launch(
        &client,
        cubes,
        dim,
        together(&[place.rank]),
        sums.values.argument(),
        b.argument(),
        bias.map_or_else(|| unread(x), packed).argument(),
        y.clone().argument(),
        u.clone().argument(),
        place.launch(scaling),
        rows,
        sums.columns,
        place.features,
        sums.splits,
        place.rank,
        biased,
        storage(x.dtype),
    );
    Some((y, u))
}
