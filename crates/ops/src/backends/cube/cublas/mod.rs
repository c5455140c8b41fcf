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

mod check;
mod product;

use crate::cuda::Version;
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
use product::{Layout, Matrices, Product};
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

/// y = lhs·rhs, or y += lhs·rhs, over the last two dimensions, summed in f32, if there is a cuBLAS for it: f32 or
/// bf16 matrices, alone or one batch of them, each with rows or columns without gaps. False, and nothing done, otherwise.
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
