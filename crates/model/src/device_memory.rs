//! How does memory that ran out on a GPU reach the person at the terminal?
//!
//! Work is queued, so that an allocation fails long after it was asked for. CubeCL marks whatever would
//! have been computed from it, and burn panics where such a result is read: of the loss, the norm of
//! the gradients, a token. Here that panic becomes an error again.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::Error;

/// Runs `work`; a panic that tells of a GPU's memory is an error, and not printed. Any other goes on.
pub fn device_memory_errors<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    let printed = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if told(info.payload()).is_none() {
            printed(info);
        }
    }));
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| match told(payload.as_ref()) {
        Some(line) => Error::DeviceMemory(line),
        None => resume_unwind(payload),
    })
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
    use super::*;

    #[test]
    fn memory_that_ran_out_is_an_error_and_another_panic_stays_one() {
        let ran_out = || -> u32 {
            panic!(
                "Error while reading data: use `try_into_data`\nCaused by:\n  out of device memory \
                 allocating 469762048 bytes\n   0: some frame"
            )
        };
        let error = device_memory_errors(ran_out).expect_err("it panics");
        assert_eq!(
            error.to_string(),
            "the GPU has not enough memory: out of device memory allocating 469762048 bytes"
        );
        assert_eq!(device_memory_errors(|| 7).expect("it does not panic"), 7);
        let other = catch_unwind(|| device_memory_errors(|| -> u32 { panic!("another") }));
        assert!(other.is_err());
    }
}
