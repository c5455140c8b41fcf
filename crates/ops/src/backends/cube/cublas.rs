//! Products by cuBLAS, on machines that have it.
//!
//! cubek's matmuls multiply by `mma`, which reaches 63 % of a Hopper's peak and no more (arXiv 2402.13499), and which
//! of them is fastest is found by timing them in every process. cuBLAS has kernels for each GPU and chooses by
//! rule: the first step does not wait, and the same GPU gives the same bits from run to run.
//!
//! It works on CubeCL's buffers without CubeCL's knowing, on a stream of its own, since CubeCL's is not to
//! be had. What keeps them in order are two events: one of all that was asked of the device's context before,
//! which the library's stream waits for, and one of the product, which all that comes after waits for. Nobody
//! waits on the host. Drivers before 12.5 have no events of a whole context, and there the host does.
//!
//! A library is used once it has multiplied small integers right, in every layout and type; where it fails, then
//! or later, products are cubek's again, and [`ready`] says why.

use crate::cuda::Version;
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::cuda::CudaRuntime;
use cubecl_runtime::runtime::Runtime;
use cudarc::cublas::{result as blas, sys};
use cudarc::driver::result as driver;
use cudarc::driver::sys::{
    self as driver_sys, CUcontext, CUdeviceptr, CUevent, CUevent_flags, CUstream,
};
use std::cell::RefCell;
use std::ffi::{c_int, c_longlong, c_void};
use std::fmt::Display;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

type Server = <CudaRuntime as Runtime>::Server;

static WANTED: AtomicBool = AtomicBool::new(true);
/// Why no product of this process goes to cuBLAS.
static REFUSED: OnceLock<String> = OnceLock::new();

/// Whether products are to go to cuBLAS, as they are unless told otherwise: to time both ways.
pub(crate) fn want(wanted: bool) {
    WANTED.store(wanted, Ordering::Relaxed);
}

/// Whether products on this client's device go to cuBLAS; an error says why they do not.
pub(crate) fn ready(client: &Client) -> Result<Version, String> {
    if !WANTED.load(Ordering::Relaxed) {
        return Err("it is not wanted".into());
    }
    if let Some(why) = REFUSED.get() {
        return Err(why.clone());
    }
    let found = client.exclusive(|| with_library(|library| Ok(library.version)));
    let found = found.map_err(|e| e.to_string()).and_then(|found| found);
    found.inspect_err(|why| refuse(why.clone()))
}

pub(crate) fn is_cuda(client: &Client) -> bool {
    client.name() == "cuda"
}

/// Whether products on this client's device go to cuBLAS, as far as is known without trying.
pub(crate) fn is_used(client: &Client) -> bool {
    WANTED.load(Ordering::Relaxed) && REFUSED.get().is_none() && is_cuda(client)
}

fn refuse(why: String) {
    let _ = REFUSED.set(why); // the first one counts
}

/// What a product does to where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Replace,
    Add,
}

/// y = lhs·rhs, or y += lhs·rhs, over the last two dimensions, summed in f32, if there is a cuBLAS for it: f32 or bf16
/// matrices, alone or one batch of them, each with rows or columns without gaps. False, and nothing done, otherwise.
pub(crate) fn multiply(y: &CubeTensor, lhs: &CubeTensor, rhs: &CubeTensor, store: Store) -> bool {
    if !is_used(&y.client) {
        return false;
    }
    let Some(product) = Product::of(y, lhs, rhs) else {
        return false;
    };
    let client = y.client.clone();
    let handles = [lhs, rhs, y].map(|t| t.handle.clone());
    // On the thread that serves the device: what was asked of it before is under way, what is asked of it
    // next is not yet.
    let outcome = y.client.exclusive(move || {
        let resources = handles.map(|handle| client.get_resource::<Server>(handle));
        let [Ok(lhs), Ok(rhs), Ok(y)] = resources else {
            return Ok(false); // whoever launches a kernel on them says why
        };
        let at = [&lhs, &rhs, &y].map(|held| held.resource().ptr);
        with_library(|library| library.multiply(&product, at, store).map(|()| true))
    });
    match outcome {
        Ok(Ok(done)) => done,
        Ok(Err(why)) => {
            refuse(why);
            false
        }
        Err(_) => false,
    }
}

thread_local! {
    /// Of the thread that serves a device. Its stream and events live as long as the process.
    static LIBRARY: RefCell<Option<Library>> = const { RefCell::new(None) };
}

fn with_library<R>(work: impl FnOnce(&Library) -> Result<R, String>) -> Result<R, String> {
    LIBRARY.with_borrow_mut(|library| match library {
        Some(library) => work(library),
        None => work(library.insert(Library::checked()?)),
    })
}

/// How a matrix lies: a row-major one is what cuBLAS, which counts by columns, reads as its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    row_major: bool,
    /// Values from one row, or column, to the next.
    leading: usize,
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
struct Matrices {
    layout: Layout,
    /// Values from one to the next; 0 is the same one for all.
    apart: usize,
}

/// `[m, k]`·`[k, n]`, `count` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Product {
    count: usize,
    m: usize,
    n: usize,
    k: usize,
    lhs: Matrices,
    rhs: Matrices,
    y: Matrices,
    multiplied: DType,
    stored: DType,
}

impl Product {
    fn of(y: &CubeTensor, lhs: &CubeTensor, rhs: &CubeTensor) -> Option<Product> {
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

static ONE: f32 = 1.0;

/// cuBLAS on one device.
struct Library {
    version: Version,
    handle: sys::cublasHandle_t,
    stream: CUstream,
    context: CUcontext,
    /// Nothing where the driver has no events of a context: then the host waits.
    events: Option<Events>,
}

struct Events {
    before: CUevent,
    after: CUevent,
}

/// The first driver with events of a whole context.
const CONTEXT_EVENTS: c_int = 12_050;

impl Library {
    /// On this thread's device, after it has multiplied right.
    fn checked() -> Result<Library, String> {
        let library = Library::new(crate::cuda::cublas_version()?)?;
        library.check()?;
        Ok(library)
    }

    fn new(version: Version) -> Result<Library, String> {
        let current = driver::ctx::get_current().map_err(said("cuCtxGetCurrent"))?;
        let context = current.ok_or("the device's thread has no context")?;
        let handle = blas::create_handle().map_err(said("cublasCreate"))?;
        let stream = driver::stream::create(driver::stream::StreamKind::NonBlocking)
            .map_err(said("cuStreamCreate"))?;
        // SAFETY: both were just made. Sums of bf16 products that are split stay f32.
        unsafe {
            blas::set_stream(handle, stream.cast()).map_err(said("cublasSetStream"))?;
            let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            sys::cublasSetMathMode(handle, mode)
                .result()
                .map_err(said("cublasSetMathMode"))?;
        }
        let mut library = Library {
            version,
            handle,
            stream,
            context,
            events: None,
        };
        let mut version = 0;
        // SAFETY: it writes one integer to where it is told.
        let answer = unsafe { driver_sys::cuDriverGetVersion(&mut version) };
        if answer.result().is_ok() && version >= CONTEXT_EVENTS {
            let event = || driver::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING);
            library.events = Some(Events {
                before: event().map_err(said("cuEventCreate"))?,
                after: event().map_err(said("cuEventCreate"))?,
            });
            // A driver that has them and refuses them here does without.
            if library.begin().and_then(|()| library.end()).is_err() {
                library.events = None;
            }
        }
        Ok(library)
    }

    /// What the stream is given next comes after all that the context was given before.
    fn begin(&self) -> Result<(), String> {
        let Some(events) = &self.events else {
            return driver::ctx::synchronize().map_err(said("cuCtxSynchronize"));
        };
        // SAFETY: context, stream and events are this device's and live as long as the process.
        unsafe {
            driver_sys::cuCtxRecordEvent(self.context, events.before)
                .result()
                .map_err(said("cuCtxRecordEvent"))?;
            let flags = driver_sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            driver::stream::wait_event(self.stream, events.before, flags)
                .map_err(said("cuStreamWaitEvent"))
        }
    }

    /// What the context is given next comes after all that the stream was given before.
    fn end(&self) -> Result<(), String> {
        // SAFETY: context, stream and events are this device's and live as long as the process.
        unsafe {
            let Some(events) = &self.events else {
                return driver::stream::synchronize(self.stream)
                    .map_err(said("cuStreamSynchronize"));
            };
            driver::event::record(events.after, self.stream).map_err(said("cuEventRecord"))?;
            driver_sys::cuCtxWaitEvent(self.context, events.after)
                .result()
                .map_err(said("cuCtxWaitEvent"))
        }
    }

    /// lhs, rhs and y lie `at` these addresses of the device, which nobody else writes to until the
    /// context has got to what comes after.
    fn multiply(
        &self,
        product: &Product,
        at: [CUdeviceptr; 3],
        store: Store,
    ) -> Result<(), String> {
        self.begin()?;
        let multiplied = self.enqueue(product, at, store);
        // Also after an error: the stream may have been given a part.
        self.end().and(multiplied)
    }

    /// By columns, yᵀ = rhsᵀ·lhsᵀ.
    fn enqueue(
        &self,
        it: &Product,
        [lhs, rhs, y]: [CUdeviceptr; 3],
        store: Store,
    ) -> Result<(), String> {
        let operation = |layout: Layout| match layout.row_major {
            true => sys::cublasOperation_t::CUBLAS_OP_N,
            false => sys::cublasOperation_t::CUBLAS_OP_T,
        };
        let of = |dtype| match dtype {
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            _ => sys::cudaDataType_t::CUDA_R_32F,
        };
        let int = |value: usize| value as c_int; // `Product` holds that it is one
        let old = match store {
            Store::Replace => 0f32, // and y is not read
            Store::Add => 1f32,
        };
        let (one, old) = ((&raw const ONE).cast::<c_void>(), (&raw const old).cast());
        let (multiplied, stored) = (of(it.multiplied), of(it.stored));
        let (n, m, k) = (int(it.n), int(it.m), int(it.k));
        let (a, a_op, a_leading) = (
            rhs as *const c_void,
            operation(it.rhs.layout),
            int(it.rhs.layout.leading),
        );
        let (b, b_op, b_leading) = (
            lhs as *const c_void,
            operation(it.lhs.layout),
            int(it.lhs.layout.leading),
        );
        let (c, c_leading) = (y as *mut c_void, int(it.y.layout.leading));
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let choice = sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        // SAFETY: the three buffers hold what `it` says of them, which is what CubeCL allocated for
        // tensors of these shapes and strides; the factors are read before the call returns.
        let done = unsafe {
            match it.count {
                1 => blas::gemm_ex(
                    self.handle,
                    a_op,
                    b_op,
                    n,
                    m,
                    k,
                    one,
                    a,
                    multiplied,
                    a_leading,
                    b,
                    multiplied,
                    b_leading,
                    old,
                    c,
                    stored,
                    c_leading,
                    sums,
                    choice,
                ),
                count => {
                    let apart = |it: Matrices| it.apart as c_longlong;
                    blas::gemm_strided_batched_ex(
                        self.handle,
                        a_op,
                        b_op,
                        n,
                        m,
                        k,
                        one,
                        a,
                        multiplied,
                        a_leading,
                        apart(it.rhs),
                        b,
                        multiplied,
                        b_leading,
                        apart(it.lhs),
                        old,
                        c,
                        stored,
                        c_leading,
                        apart(it.y),
                        int(count),
                        sums,
                        choice,
                    )
                }
            }
        };
        done.map_err(said("cublasGemmEx"))
    }

    /// Products of small integers, which no order of summing and no type rounds, of every layout and type.
    fn check(&self) -> Result<(), String> {
        for dtypes in [
            [DType::F32, DType::F32],
            [DType::BF16, DType::BF16],
            [DType::F32, DType::BF16],
        ] {
            for (count, lhs_rows, rhs_rows) in [
                (1, true, true),
                (1, true, false),
                (1, false, true),
                (1, false, false),
                (3, true, false),
            ] {
                check::multiplies_right(self, count, [lhs_rows, rhs_rows], dtypes)?;
            }
        }
        Ok(())
    }
}

fn said<E: Display>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("{what} says {error}")
}

/// Small products whose sums are known.
mod check {
    use super::*;

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
