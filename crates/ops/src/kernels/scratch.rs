//! Buffers that a thread keeps from call to call: a steady step allocates none, and their pages are
//! mapped once.

use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `f` a buffer of `length` words with whatever was in it; poisoned under test.
pub(crate) fn scratch<T>(length: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut buffer = FREE.with_borrow_mut(|free| {
        // The smallest that is large enough, else the largest, which grows.
        let fits = |b: &Vec<f32>| (b.capacity() < length, b.capacity().abs_diff(length));
        let best = (0..free.len()).min_by_key(|i| fits(&free[*i]));
        best.map_or_else(Vec::new, |i| free.swap_remove(i))
    });
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    if cfg!(test) {
        buffer.fill(f32::NAN);
    }
    let result = f(&mut buffer[..length]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}
