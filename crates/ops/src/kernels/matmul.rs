//! C (+)= A·B on strided slices of f32: the tile of the adapters' products and of attention to a cache.
//!
//! Layout: B has vector lanes along its rows (row stride `b_row`), A is read one scalar at a time
//! and broadcast (any strides, so A and Aᵀ are the same code), C has row stride `c_row`.
//! Register plan (AVX-512): 8 rows × 3 vectors of accumulators (24), 3 vectors of B, 1 broadcast;
//! 11 loads feed 24 fused multiply-adds, so the two FMA ports are the limit, not the loads.
//! Callers keep the B panel (depth × 48 floats) in L1 and walk down the rows of A.
//! Every element is summed over `depth` in order, whatever the tile: partitions do not change bits.

use super::simd::{Simd, simd_dispatch};

/// A read-only matrix: element (i, j) lies at `pointer + i·row + j·col`.
#[derive(Clone, Copy)]
pub struct Strided {
    pub pointer: *const f32,
    pub row: usize,
    pub col: usize,
}

impl Strided {
    /// Row-major, starting at `values[0]`.
    pub fn rows(values: &[f32], row: usize) -> Strided {
        Strided {
            pointer: values.as_ptr(),
            row,
            col: 1,
        }
    }

    /// The transpose of a row-major matrix with row stride `row`.
    pub fn columns(values: &[f32], row: usize) -> Strided {
        Strided {
            pointer: values.as_ptr(),
            row: 1,
            col: row,
        }
    }

    /// # Safety
    /// Element (i, j) must lie inside the matrix.
    pub unsafe fn offset(self, i: usize, j: usize) -> Strided {
        Strided {
            pointer: unsafe { self.pointer.add(i * self.row + j * self.col) },
            ..self
        }
    }
}

simd_dispatch! {
    /// `c[i, j] = Σ_p a[i, p]·b[p, j]` (added to `c` when `accumulate`) for i < m, j < n, p < depth.
    ///
    /// # Safety
    /// The pointers are valid for these ranges; nobody else touches `c` meanwhile.
    pub(crate) unsafe fn multiply(m: usize, n: usize, depth: usize, a: Strided, b: *const f32, b_row: usize, c: *mut f32, c_row: usize, accumulate: bool) = multiply_generic
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn multiply_generic<S: Simd>(
    m: usize,
    n: usize,
    depth: usize,
    a: Strided,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    accumulate: bool,
) {
    // Columns of up to three vectors, shared out evenly: 64 lanes are 32 + 32, not 48 + 16.
    let mut vectors_left = n.div_ceil(S::LANES);
    let mut columns_left = vectors_left.div_ceil(3);
    let mut j = 0;
    while columns_left > 0 {
        let vectors = vectors_left.div_ceil(columns_left);
        let lanes = (n - j).min(vectors * S::LANES);
        unsafe {
            let column = Column {
                last: lanes - (vectors - 1) * S::LANES,
                depth,
                a,
                b: b.add(j),
                b_row,
                c: c.add(j),
                c_row,
                accumulate,
            };
            match vectors {
                3 => column.multiply::<S, 3>(m),
                2 => column.multiply::<S, 2>(m),
                _ => column.multiply::<S, 1>(m),
            }
        }
        j += lanes;
        vectors_left -= vectors;
        columns_left -= 1;
    }
}

/// Some vectors of every row of B and C.
#[derive(Clone, Copy)]
pub(super) struct Column {
    /// Lanes of the last vector.
    pub last: usize,
    pub depth: usize,
    pub a: Strided,
    pub b: *const f32,
    pub b_row: usize,
    pub c: *mut f32,
    pub c_row: usize,
    pub accumulate: bool,
}

impl Column {
    /// All `m` rows.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const V: usize>(self, m: usize) {
        unsafe {
            if self.last == S::LANES {
                let eights = match S::TILE_ROWS {
                    8 => self.rows::<S, 8, V, false>(0, m),
                    _ => 0,
                };
                let fours = self.rows::<S, 4, V, false>(eights, m);
                self.rows::<S, 1, V, false>(fours, m);
            } else {
                let fours = self.rows::<S, 4, V, true>(0, m);
                self.rows::<S, 1, V, true>(fours, m);
            }
        }
    }

    /// Rows from `i` on, `R` at a time; returns the first for which there are too few.
    ///
    /// # Safety
    /// The instructions of `S`; A, B and C are there for `m` rows and `V` vectors, the last of which is
    /// whole unless `PARTIAL`.
    #[inline(always)]
    pub unsafe fn rows<S: Simd, const R: usize, const V: usize, const PARTIAL: bool>(
        self,
        mut i: usize,
        m: usize,
    ) -> usize {
        while m - i >= R {
            unsafe { self.tile::<S, R, V, PARTIAL>(i) };
            i += R;
        }
        i
    }

    /// `R` rows from `i` on.
    ///
    /// # Safety
    /// As [`Column::rows`].
    #[inline(always)]
    pub unsafe fn tile<S: Simd, const R: usize, const V: usize, const PARTIAL: bool>(
        self,
        i: usize,
    ) {
        unsafe {
            let (a, c, c_row, last) = (
                self.a.offset(i, 0),
                self.c.add(i * self.c_row),
                self.c_row,
                self.last,
            );
            let read = |p: *const f32, v: usize| {
                if PARTIAL && v == V - 1 {
                    S::load_partial(p.add(v * S::LANES), last)
                } else {
                    S::load(p.add(v * S::LANES))
                }
            };
            let mut sum = [[S::splat(0.0); V]; R];
            if self.accumulate {
                for (i, row) in sum.iter_mut().enumerate() {
                    for (v, s) in row.iter_mut().enumerate() {
                        *s = read(c.add(i * c_row), v);
                    }
                }
            }
            let (mut pa, mut pb) = (a.pointer, self.b);
            for _ in 0..self.depth {
                let mut lanes = [S::splat(0.0); V];
                for (v, l) in lanes.iter_mut().enumerate() {
                    *l = read(pb, v);
                }
                for (i, row) in sum.iter_mut().enumerate() {
                    S::add_multiple(row, pa.add(i * a.row), &lanes);
                }
                pa = pa.wrapping_add(a.col);
                pb = pb.wrapping_add(self.b_row);
            }
            for (i, row) in sum.iter().enumerate() {
                for (v, s) in row.iter().enumerate() {
                    let p = c.add(i * c_row + v * S::LANES);
                    if PARTIAL && v == V - 1 {
                        S::store_partial(p, *s, last);
                    } else {
                        S::store(p, *s);
                    }
                }
            }
        }
    }
}
