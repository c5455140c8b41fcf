//! CubeCL tensors as kernels want them: contiguous in, fresh out, how many units to launch.

use crate::format::DenseDtype;
use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape, Slice};
use burn_cubecl::kernel::matmul::{MatmulStrategy, init_matmul_output, matmul};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::client::Client;
use cubecl::ir::features::MmaConfig;
use cubecl::prelude::*;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::{launch::launch_ref, multi_level};
use cubek::std::InputBinding;
use std::ops::Range;

/// The same tensor, its elements in order without gaps: no copy when they already are.
pub(crate) fn packed(t: CubeTensor) -> CubeTensor {
    burn_cubecl::kernel::into_contiguous(t)
}

/// A tensor as a kernel's argument: its elements in order, counted in 32 bits.
pub(crate) trait Argument {
    fn argument(self) -> BufferArg;
}

impl Argument for CubeTensor {
    /// # Panics
    /// If the elements are not packed. On a GPU most of burn's own operations leave gaps between rows
    /// that are no multiple of 512 bytes, on the CPU none does: no test there would see it. Or if they
    /// are more than an index of a kernel can name.
    fn argument(mut self) -> BufferArg {
        assert!(self.is_contiguous(), "a kernel reads packed elements");
        let count = elements(&self);
        assert!(
            u32::try_from(count).is_ok(),
            "a tensor of {count} values is more than a kernel counts"
        );
        // Where burn leaves gaps, a buffer ends with one, and one row by itself is packed: a kernel is told of what
        // is the tensor's alone, so that a slice's length counts its elements.
        let bytes = (count * self.dtype.size()) as u64;
        let beyond = self.handle.size_in_used().checked_sub(bytes);
        let beyond = beyond.expect("a tensor lies in its buffer");
        self.handle = self.handle.offset_end(beyond);
        self.into_buffer_arg()
    }
}

/// A fresh tensor beside `like`, which its kernel must write in full.
pub(crate) fn fresh<const D: usize>(
    like: &CubeTensor,
    shape: [usize; D],
    dtype: DType,
) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::from(shape), dtype)
}

/// A tensor that nobody else holds and that is all of its buffer: a kernel may change it in place.
pub(crate) fn owned(t: CubeTensor) -> CubeTensor {
    let t = packed(t);
    if t.can_mut() && t.is_contiguous_buffer() {
        return t;
    }
    // burn's own copy would leave gaps between rows on a GPU.
    let (client, device, dtype) = (t.client.clone(), t.device.clone(), t.dtype);
    let copy = cubecl::std::tensor::into_contiguous(&client, t.binding(), storage(dtype));
    CubeTensor::new(client, copy.handle, *copy.metadata, device, dtype)
}

/// `[rows, columns]`
pub(crate) fn dims(t: &CubeTensor) -> [usize; 2] {
    t.shape().dims()
}

pub(crate) fn elements(t: &CubeTensor) -> usize {
    t.shape().num_elements()
}

pub(crate) fn storage(dtype: DType) -> ElemType {
    dtype_to_storage_type(dtype)
}

/// The type of values that are stored as they are.
pub(crate) fn float(stored: DenseDtype) -> DType {
    match stored {
        DenseDtype::F32 => DType::F32,
        DenseDtype::BF16 => DType::BF16,
        DenseDtype::F16 => DType::F16,
    }
}

/// Numbers of the host beside `like`.
pub(crate) fn upload(values: &[u32], like: &CubeTensor) -> CubeTensor {
    let handle = like.client.create_from_slice(bytemuck::cast_slice(values));
    let shape = Shape::from([values.len()]);
    let (client, device) = (like.client.clone(), like.device.clone());
    CubeTensor::new_contiguous(client, device, shape, handle, DType::U32)
}

/// The same for floats.
pub(crate) fn upload_floats(values: &[f32], like: &CubeTensor) -> CubeTensor {
    let mut t = upload(bytemuck::cast_slice(values), like);
    t.dtype = DType::F32;
    t
}

/// One unit for each of `count` elements.
pub(crate) fn each(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(client, count);
    (
        cubecl::calculate_cube_count_elemwise(client, count, dim),
        dim,
    )
}

/// Values of a vector of 16 bytes, if `count` values are a whole number of them; else one.
pub(crate) fn lanes(dtype: DType, count: usize) -> usize {
    let wide = 16 / dtype.size();
    if count.is_multiple_of(wide) { wide } else { 1 }
}

/// One cube for each of `count` rows, and how many units it has: a power of two, because they meet
/// in a tree.
pub(crate) fn rows(client: &Client, count: usize) -> (CubeCount, CubeDim, usize) {
    let units = units(client, 128);
    // x goes to 2³¹ − 1, and a cube too many would write a row that is not there.
    let cubes = CubeCount::Static(count as u32, 1, 1);
    (cubes, CubeDim::new_1d(units as u32), units)
}

/// Units of a cube, `most` of them or what the device has: a power of two, because they meet in a tree.
pub(crate) fn units(client: &Client, most: usize) -> usize {
    let has = client.properties().hardware.max_units_per_cube as usize;
    1 << has.clamp(1, most).ilog2()
}

/// Whether this device's tensor cores make patches ([`crate::kernels::cube::patch`]) of this type; an error says why
/// not.
pub(crate) fn makes_patches(client: &Client, dtype: DType) -> Result<(), String> {
    let properties = client.properties();
    let (hardware, matmul) = (&properties.hardware, &properties.features.matmul);
    let of = storage(dtype);
    let product = MmaConfig {
        a_type: of,
        b_type: of,
        cd_type: storage(DType::F32),
        m: 16,
        n: 8,
        k: 16,
    };
    if !matmul.mma.contains(&product) || !matmul.ldmatrix.contains(&of) {
        return Err(format!("no tensor cores multiply {dtype:?} here"));
    }
    match (hardware.plane_size_min, hardware.plane_size_max) {
        (32, 32) => Ok(()),
        _ => Err("planes are not of 32 units".into()),
    }
}

/// lhs·rhs over the last two dimensions, accumulated in f32, stored as `out`.
///
/// On a GPU cuBLAS does it; where there is none, the fastest of burn's matmuls for such shapes, which is found
/// by trying them, once a shape class. On the CPU, where this only proves kernels, it is the plain one: the tiled
/// ones want more shared memory than an L1 cache, and trying them takes longer than the tests.
pub(crate) fn product(lhs: CubeTensor, rhs: CubeTensor, out: DType) -> CubeTensor {
    let y = init_matmul_output(&lhs, &rhs, out);
    product_into(y, lhs, rhs)
}

/// The same, written to a tensor of its shape. burn's own leaves gaps between rows on a GPU: where they
/// are as narrow as an adapter's rank, whoever wants them packed would copy what is mostly gaps.
pub(crate) fn product_into(y: CubeTensor, lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
    if is_cpu(&lhs) {
        return plain_product(y, lhs, rhs);
    }
    #[cfg(feature = "cuda")]
    if super::cublas::multiply(&y, &lhs, &rhs, super::cublas::Store::Replace) {
        return y;
    }
    let out = y.dtype;
    matmul(lhs, rhs, Some(y), MatmulStrategy::Autotune, out).expect("some matmul takes any shape")
}

/// `sum` + lhs·rhs, in place where whoever multiplies can add.
pub(crate) fn product_onto(sum: CubeTensor, lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
    let dtype = sum.dtype;
    #[cfg(feature = "cuda")]
    let sum = match super::cublas::is_used(&sum.client) {
        true => owned(sum),
        false => sum,
    };
    #[cfg(feature = "cuda")]
    if super::cublas::multiply(&sum, &lhs, &rhs, super::cublas::Store::Add) {
        return sum;
    }
    CubeBackend::float_add(sum, product(lhs, rhs, dtype))
}

fn plain_product(y: CubeTensor, lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
    let out = y.dtype;
    let client = lhs.client.clone();
    let (l, r) = (storage(lhs.dtype), storage(rhs.dtype));
    let mut dtypes = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: l,
        rhs: r,
        out: storage(out),
    });
    launch_ref(
        &multi_level::Strategy::Naive.into(),
        &client,
        InputBinding::new(lhs.binding(), l),
        InputBinding::new(rhs.binding(), r),
        y.clone().binding(),
        &mut dtypes,
    )
    .expect("the plain matmul takes any shape");
    y
}

fn is_cpu(t: &CubeTensor) -> bool {
    t.client.properties().hardware.num_cpu_cores.is_some()
}

/// The last two dimensions swapped: a view.
pub(crate) fn transposed(t: CubeTensor) -> CubeTensor {
    let last = t.shape().num_dims() - 1;
    CubeBackend::float_swap_dims(t, last - 1, last)
}

pub(crate) fn reshaped<const D: usize>(t: CubeTensor, shape: [usize; D]) -> CubeTensor {
    CubeBackend::float_reshape(t, Shape::from(shape))
}

/// The first rows of packed `[rows, columns]` as `[parts, rows / parts, columns]`: a view. Up to
/// `parts` − 1 rows are left over.
pub(crate) fn in_parts(t: &CubeTensor, parts: usize) -> CubeTensor {
    let [rows, columns] = dims(t);
    let (client, device, handle) = (t.client.clone(), t.device.clone(), t.handle.clone());
    let shape = Shape::from([parts, rows / parts, columns]);
    CubeTensor::new_contiguous(client, device, shape, handle, t.dtype)
}

pub(crate) fn cast(t: CubeTensor, dtype: DType) -> CubeTensor {
    if t.dtype == dtype {
        t
    } else {
        burn_cubecl::kernel::cast(t, dtype)
    }
}

/// Rows `range` of dimension `dim`.
pub(crate) fn narrowed(t: CubeTensor, dim: usize, range: Range<usize>) -> CubeTensor {
    let shape = t.shape();
    let ranges: Vec<Range<usize>> = (0..shape.num_dims())
        .map(|d| if d == dim { range.clone() } else { 0..shape[d] })
        .collect();
    burn_cubecl::kernel::slice(t, &ranges)
}

/// `t` with rows `range` of dimension `dim` replaced, in place where nobody else holds it.
pub(crate) fn replaced(
    t: CubeTensor,
    dim: usize,
    range: Range<usize>,
    value: CubeTensor,
) -> CubeTensor {
    let shape = t.shape();
    let ranges: Vec<Slice> = (0..shape.num_dims())
        .map(|d| {
            let r = if d == dim { range.clone() } else { 0..shape[d] };
            Slice::from(r)
        })
        .collect();
    CubeBackend::float_slice_assign(t, &ranges, value)
}

pub(crate) fn zeros<const D: usize>(device: &CubeDevice, shape: [usize; D]) -> CubeTensor {
    burn_cubecl::ops::numeric::zeros(device.clone(), Shape::from(shape), DType::F32)
}
