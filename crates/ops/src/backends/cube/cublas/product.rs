//! What cuBLAS is asked for: matrices as it counts them, out of tensors' shapes and strides.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use std::ffi::c_int;

/// How a matrix lies: a row-major one is what cuBLAS, which counts by columns, reads as its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub row_major: bool,
    /// Values from one row, or column, to the next.
    pub leading: usize,
}

impl Layout {
    fn of([rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> Option<Layout> {
        let beside = |stride, count| stride == 1 || count == 1;
        // One row, or column, is followed by none.
        let leading = |stride: usize, count, length: usize| match count {
            1 => Some(length),
            _ => Some(stride).filter(|stride| *stride >= length),
        };
        if beside(column, columns) {
            let leading = leading(row, rows, columns)?;
            return Some(Layout {
                row_major: true,
                leading,
            });
        }
        if beside(row, rows) {
            let leading = leading(column, columns, rows)?;
            return Some(Layout {
                row_major: false,
                leading,
            });
        }
        None
    }
}

/// Matrices, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrices {
    pub layout: Layout,
    /// Values from one to the next; 0 is the same one for all.
    pub apart: usize,
}

/// `[m, k]`·`[k, n]`, `count` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Product {
    pub count: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub lhs: Matrices,
    pub rhs: Matrices,
    pub y: Matrices,
    pub multiplied: DType,
    pub stored: DType,
}

impl Product {
    pub(super) fn of(y: &CubeTensor, lhs: &CubeTensor, rhs: &CubeTensor) -> Option<Product> {
        let of = |t: &CubeTensor| (t.shape().to_vec(), t.meta.strides().to_vec());
        if [y, lhs, rhs].iter().any(|t| t.qparams.is_some()) {
            return None;
        }
        Product::over(of(y), of(lhs), of(rhs), [y.dtype, lhs.dtype, rhs.dtype])
    }

    /// Of shapes and strides.
    fn over(
        y: (Vec<usize>, Vec<usize>),
        lhs: (Vec<usize>, Vec<usize>),
        rhs: (Vec<usize>, Vec<usize>),
        [stored, multiplied, other]: [DType; 3],
    ) -> Option<Product> {
        let same = multiplied == other && (stored == multiplied || stored == DType::F32);
        if !same || !matches!(multiplied, DType::F32 | DType::BF16) {
            return None;
        }
        let (count, m, n) = match *y.0 {
            [m, n] => (1, m, n),
            [count, m, n] => (count, m, n),
            _ => return None,
        };
        let k = *lhs.0.last()?;
        let matrices = |(shape, strides): (Vec<usize>, Vec<usize>), wanted: [usize; 2]| {
            let (apart, shape, strides) = match (&*shape, &*strides) {
                ([r, c], [row, column]) if count == 1 => (0, [*r, *c], [*row, *column]),
                ([1, r, c], [_, row, column]) => (0, [*r, *c], [*row, *column]),
                ([b, r, c], [apart, row, column]) if *b == count => {
                    (*apart, [*r, *c], [*row, *column])
                }
                _ => return None,
            };
            let layout = Layout::of(shape, strides).filter(|_| shape == wanted)?;
            Some(Matrices { layout, apart })
        };
        let product = Product {
            count,
            m,
            n,
            k,
            lhs: matrices(lhs, [m, k])?,
            rhs: matrices(rhs, [k, n])?,
            y: matrices(y, [m, n])?,
            multiplied,
            stored,
        };
        let counted = [m, n, k, count]
            .into_iter()
            .chain([product.lhs, product.rhs, product.y].map(|it| it.layout.leading))
            .all(|value| value > 0 && c_int::try_from(value).is_ok());
        let sums_apart = count == 1 || product.y.apart >= m * product.y.layout.leading;
        Some(product).filter(|it| counted && sums_apart && it.y.layout.row_major)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tensor that may have gaps and may be transposed: shape, strides, and its memory.
    struct View {
        shape: Vec<usize>,
        strides: Vec<usize>,
        memory: Vec<f64>,
    }

    impl View {
        fn new(shape: &[usize], strides: &[usize]) -> View {
            let last: usize = shape.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum();
            View {
                shape: shape.to_vec(),
                strides: strides.to_vec(),
                memory: (0..=last).map(|i| (i * 31 % 17) as f64 - 8.0).collect(),
            }
        }

        fn matrices(&self) -> (Vec<usize>, Vec<usize>) {
            (self.shape.clone(), self.strides.clone())
        }

        fn at(&self, index: [usize; 3]) -> f64 {
            let skipped = 3 - self.shape.len();
            let strides = self.strides.iter().zip(&self.shape);
            let place: usize = index[skipped..]
                .iter()
                .zip(strides)
                .map(|(i, (stride, n))| (i % n) * stride)
                .sum();
            self.memory[place]
        }
    }

    /// What cuBLAS computes when it is asked for `it`: its manual's formula, over columns.
    fn by_columns(it: &Product, lhs: &View, rhs: &View, y: &mut [f64]) {
        // Value (i, j) of op(matrix), a matrix lying by columns.
        let operand = |view: &View, matrices: Matrices, b: usize, i: usize, j: usize| {
            let (row, column) = match matrices.layout.row_major {
                true => (i, j), // not transposed
                false => (j, i),
            };
            view.memory[b * matrices.apart + column * matrices.layout.leading + row]
        };
        for b in 0..it.count {
            for i in 0..it.n {
                for j in 0..it.m {
                    let terms = (0..it.k)
                        .map(|l| operand(rhs, it.rhs, b, i, l) * operand(lhs, it.lhs, b, l, j));
                    y[b * it.y.apart + j * it.y.layout.leading + i] = terms.sum();
                }
            }
        }
    }

    fn product(y: &View, lhs: &View, rhs: &View, dtypes: [DType; 3]) -> Option<Product> {
        Product::over(y.matrices(), lhs.matrices(), rhs.matrices(), dtypes)
    }

    #[test]
    fn what_cublas_is_asked_for_is_the_product_however_its_matrices_lie() {
        let cases: [[(&[usize], &[usize]); 3]; 9] = [
            // y, lhs, rhs: packed; transposed; with gaps
            [(&[5, 7], &[7, 1]), (&[5, 3], &[3, 1]), (&[3, 7], &[7, 1])],
            [(&[5, 7], &[7, 1]), (&[5, 3], &[1, 5]), (&[3, 7], &[1, 3])],
            [(&[5, 7], &[9, 1]), (&[5, 3], &[4, 1]), (&[3, 7], &[1, 8])],
            // one row, one column, one term
            [(&[1, 7], &[7, 1]), (&[1, 3], &[3, 1]), (&[3, 7], &[1, 3])],
            [(&[5, 1], &[1, 1]), (&[5, 3], &[3, 1]), (&[3, 1], &[1, 3])],
            [(&[5, 7], &[7, 1]), (&[5, 1], &[1, 5]), (&[1, 7], &[7, 1])],
            // batches, the second of parts of the same rows, the third with one factor for all
            [
                (&[2, 5, 7], &[35, 7, 1]),
                (&[2, 5, 3], &[15, 3, 1]),
                (&[2, 3, 7], &[21, 1, 3]),
            ],
            [
                (&[2, 5, 7], &[35, 7, 1]),
                (&[2, 5, 3], &[15, 1, 5]),
                (&[2, 3, 7], &[21, 7, 1]),
            ],
            [
                (&[2, 5, 7], &[40, 8, 1]),
                (&[2, 5, 3], &[15, 3, 1]),
                (&[1, 3, 7], &[21, 7, 1]),
            ],
        ];
        for case in cases {
            let [mut y, lhs, rhs] = case.map(|(shape, strides)| View::new(shape, strides));
            let it = product(&y, &lhs, &rhs, [DType::F32; 3])
                .unwrap_or_else(|| panic!("{case:?} is one that cuBLAS can do"));
            by_columns(&it, &lhs, &rhs, &mut y.memory);
            let count = it.count * it.m * it.n;
            for (b, i, j) in (0..count).map(|p| (p / (it.m * it.n), p / it.n % it.m, p % it.n)) {
                let terms = (0..it.k).map(|l| lhs.at([b, i, l]) * rhs.at([b, l, j]));
                assert_eq!(
                    y.at([b, i, j]),
                    terms.sum::<f64>(),
                    "{case:?} at {b}, {i}, {j}"
                );
            }
        }
    }

    #[test]
    fn what_cublas_cannot_do_is_left_to_others() {
        let packed = |shape: &[usize]| View::new(shape, &[shape[1], 1]);
        let (y, lhs, rhs) = (packed(&[5, 7]), packed(&[5, 3]), packed(&[3, 7]));
        let asked = |dtypes| product(&y, &lhs, &rhs, dtypes).is_some();
        let (f32, bf16, f16) = (DType::F32, DType::BF16, DType::F16);
        assert!(asked([f32, bf16, bf16]) && asked([bf16, bf16, bf16]));
        assert!(!asked([bf16, f32, f32]) && !asked([f32, f32, bf16]) && !asked([f16, f16, f16]));
        let gaps_everywhere = View::new(&[5, 3], &[8, 2]);
        assert_eq!(product(&y, &gaps_everywhere, &rhs, [f32; 3]), None);
        let sums_by_columns = View::new(&[5, 7], &[1, 5]);
        assert_eq!(product(&sums_by_columns, &lhs, &rhs, [f32; 3]), None);
        assert_eq!(product(&y, &packed(&[5, 4]), &rhs, [f32; 3]), None);
        let overlapping = View::new(&[5, 7], &[6, 1]);
        assert_eq!(product(&overlapping, &lhs, &rhs, [f32; 3]), None);
        // More columns than cuBLAS counts.
        let wide = (vec![5, 1 << 31], vec![1 << 31, 1]);
        let (lhs, rhs) = (lhs.matrices(), (vec![3, 1 << 31], vec![1 << 31, 1]));
        assert_eq!(Product::over(wide, lhs, rhs, [f32; 3]), None);
    }
}
