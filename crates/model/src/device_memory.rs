//! How does memory that ran out on a GPU reach the person at the terminal?
//!
//! Work is queued, so that an allocation fails long after it was asked for. CubeCL marks whatever would
//! have been computed from it, and burn panics where such a result is read: of the loss, the norm of
//! the gradients, a token. Here that panic becomes an error again.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind};
use std::sync::Arc;

use crate::Error;

/// Runs `work`; a panic that tells of a GPU's memory is an error, and not printed. Any other goes on.
///
/// The process has one panic hook: let no two threads be in here at once. It is restored.
pub fn device_memory_errors<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    let quiet = Quiet::begin();
    let done = catch_unwind(AssertUnwindSafe(work));
    drop(quiet); // before a panic goes on: a thread that panics cannot change the hook
    done.map_err(|payload| match told(payload.as_ref()) {
        Some(line) => Error::DeviceMemory(line),
        None => resume_unwind(payload),
    })
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// While it lives, panics that tell of a GPU's memory are not printed.
struct Quiet {
    /// The hook that was there.
    printed: Option<Arc<Hook>>,
}

impl Quiet {
    fn begin() -> Quiet {
        let printed = Arc::new(panic::take_hook());
        let others = Arc::clone(&printed);
        panic::set_hook(Box::new(move |info| {
            if told(info.payload()).is_none() {
                others(info);
            }
        }));
        Quiet {
            printed: Some(printed),
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        drop(panic::take_hook()); // ours, which shares the older one
        if let Some(printed) = self.printed.take() {
            panic::set_hook(Arc::try_unwrap(printed).unwrap_or_else(|shared| {
                Box::new(move |info| shared(info)) // somebody keeps our hook
            }));
        }
    }
}

/// The line of a panic's text that tells of memory, of CubeCL or of the driver.
fn told(payload: &(dyn std::any::Any + Send)) -> Option<String> {
    let text = match payload.downcast_ref::<String>() {
        Some(text) => text,
        None => *payload.downcast_ref::<&str>()?,
    };
    let tells = |line: &&str| {
        let words = [
            "out of device memory",
            "allocate buffer of size",
            "OUT_OF_MEMORY",
        ];
        words.iter().any(|words| line.contains(words))
    };
    text.lines().map(str::trim).find(tells).map(String::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const RAN_OUT: &str = "Error while reading data: use `try_into_data`\nCaused by:\n  out of device memory \
        allocating 469762048 bytes\n   0: some frame";

    /// The hook belongs to the process, and tests are its threads.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn memory_that_ran_out_is_an_error_and_another_panic_stays_one() {
        let _alone = ALONE.lock();
        let error = device_memory_errors(|| -> u32 { panic!("{RAN_OUT}") });
        assert_eq!(
            error.expect_err("it panics").to_string(),
            "the GPU has not enough memory: out of device memory allocating 469762048 bytes"
        );
        assert_eq!(device_memory_errors(|| 7).expect("it does not panic"), 7);
        let other = catch_unwind(|| device_memory_errors(|| -> u32 { panic!("another") }));
        assert!(other.is_err());
    }

    #[test]
    fn the_panic_hook_is_as_it_was_when_the_work_is_done() {
        static OURS: AtomicUsize = AtomicUsize::new(0);
        let _alone = ALONE.lock();
        let printed = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_ours = told(info.payload()).is_some() || info.payload().is::<u8>();
            match is_ours {
                true => drop(OURS.fetch_add(1, Ordering::SeqCst)),
                false => printed(info), // another test's
            }
        }));
        let counted = |work: &dyn Fn()| {
            let before = OURS.load(Ordering::SeqCst);
            let _ = catch_unwind(AssertUnwindSafe(work));
            OURS.load(Ordering::SeqCst) - before
        };
        let outside = || counted(&|| panic!("{RAN_OUT}"));
        assert_eq!(outside(), 1);
        let works: [(fn(), usize); 3] = [
            (|| {}, 0),
            (|| panic!("{RAN_OUT}"), 0),
            (|| panic::panic_any(7u8), 1),
        ];
        for (work, printed) in works {
            assert_eq!(counted(&|| drop(device_memory_errors(work))), printed);
            assert_eq!(outside(), 1, "the hook is the one that was there");
        }
        // Within another: the inner one leaves the outer one's quiet.
        let nested = || {
            let inner = device_memory_errors(|| panic!("{RAN_OUT}"));
            assert!(inner.is_err());
            panic!("{RAN_OUT}")
        };
        assert_eq!(counted(&|| drop(device_memory_errors(nested))), 0);
        assert_eq!(outside(), 1);
        drop(panic::take_hook()); // the standard one is back
    }
}
