//! Small products whose sums are known: does a cuBLAS multiply right?

use super::product::{Layout, Matrices, Product};
use super::{Library, Store, said};
use burn::tensor::DType;
use cudarc::driver::result as driver;
use cudarc::driver::sys::CUdeviceptr;

const SIZES: [usize; 3] = [96, 80, 72];

/// −1, 0 or 1.
fn value(seed: usize, i: usize) -> i32 {
    ((i * 7919 + seed * 104_729) / 13 % 3) as i32 - 1
}

fn bytes(dtype: DType, values: impl Iterator<Item = i32>) -> Vec<u8> {
    let of = |value: i32| match dtype {
        DType::BF16 => half::bf16::from_f32(value as f32).to_le_bytes().to_vec(),
        _ => (value as f32).to_le_bytes().to_vec(),
    };
    values.flat_map(of).collect()
}

/// Memory of the device for as long as a check takes.
struct Memory(CUdeviceptr);

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this allocated it, and whoever used it has waited for the stream.
        let _ = unsafe { driver::free_sync(self.0) };
    }
}

impl Memory {
    fn new(bytes: usize) -> Result<Memory, String> {
        // SAFETY: it is written before it is read.
        let at = unsafe { driver::malloc_sync(bytes) };
        at.map(Memory).map_err(said("cuMemAlloc"))
    }
}

pub(super) fn multiplies_right(
    library: &Library,
    count: usize,
    row_major: [bool; 2],
    [stored, multiplied]: [DType; 2],
) -> Result<(), String> {
    let [m, n, k] = SIZES;
    let matrices = |[rows, columns]: [usize; 2], row_major| Matrices {
        layout: Layout {
            row_major,
            leading: if row_major { columns } else { rows },
        },
        apart: rows * columns,
    };
    let product = Product {
        count,
        m,
        n,
        k,
        lhs: matrices([m, k], row_major[0]),
        rhs: matrices([k, n], row_major[1]),
        y: matrices([m, n], true),
        multiplied,
        stored,
    };
    // Where value (i, j) of matrix b lies.
    let at = |it: Matrices, b, i, j| match it.layout.row_major {
        true => b * it.apart + i * it.layout.leading + j,
        false => b * it.apart + j * it.layout.leading + i,
    };
    let expected = (0..count * m * n).map(|index| {
        let (b, i, j) = (index / (m * n), index / n % m, index % n);
        let term = |l| value(1, at(product.lhs, b, i, l)) * value(2, at(product.rhs, b, l, j));
        2 * (0..k).map(term).sum::<i32>() // replaced, then added
    });
    let lhs = bytes(multiplied, (0..count * m * k).map(|i| value(1, i)));
    let rhs = bytes(multiplied, (0..count * k * n).map(|i| value(2, i)));
    let expected = bytes(stored, expected);
    let mut got = vec![0; expected.len()];
    let (a, b, y) = (
        Memory::new(lhs.len())?,
        Memory::new(rhs.len())?,
        Memory::new(got.len())?,
    );
    // SAFETY: each buffer is as long as what is copied, and all of it lives until the stream has been waited for.
    unsafe {
        let on = library.stream;
        let copied = driver::memcpy_htod_async(a.0, &lhs, on)
            .and_then(|()| driver::memcpy_htod_async(b.0, &rhs, on));
        let multiplied = copied
            .map_err(said("cuMemcpyHtoDAsync"))
            .and_then(|()| library.multiply(&product, [a.0, b.0, y.0], Store::Replace))
            .and_then(|()| library.multiply(&product, [a.0, b.0, y.0], Store::Add));
        let back = multiplied.and_then(|()| {
            driver::memcpy_dtoh_async(&mut got, y.0, on).map_err(said("cuMemcpyDtoHAsync"))
        });
        driver::stream::synchronize(on).map_err(said("cuStreamSynchronize"))?;
        back?;
    }
    match got == expected {
        true => Ok(()),
        false => Err(format!(
            "it multiplies wrongly ({count} of {m}x{k} by {k}x{n} in {multiplied:?}, to {stored:?})"
        )),
    }
}
