//! Buffers that a thread keeps from call to call: a steady step allocates none, and their pages are
//! mapped once.

use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Words of a cache line.
const LINE: usize = 16;

/// Lends `f` a buffer of `length` words with whatever was in it; poisoned under test. May be nested.
fn scratch<T>(length: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    // Taken, not borrowed: a task that rayon runs inside `f` on this thread takes another.
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

/// The same, divided into slices of these lengths, each at the start of a cache line.
pub(crate) fn scratch_slices<const N: usize, R>(
    lengths: [usize; N],
    f: impl FnOnce([&mut [f32]; N]) -> R,
) -> R {
    let whole_lines = lengths.map(|l| l.next_multiple_of(LINE));
    scratch(LINE + whole_lines.iter().sum::<usize>(), |buffer| {
        let start = buffer.as_ptr().align_offset(4 * LINE).min(LINE);
        let mut rest = &mut buffer[start..];
        f(lengths.map(|length| {
            let (piece, after) =
                std::mem::take(&mut rest).split_at_mut(length.next_multiple_of(LINE));
            rest = after;
            &mut piece[..length]
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::scratch_slices;

    #[test]
    fn nested_scratch_is_not_shared_and_lines_are_whole() {
        scratch_slices([3, 40], |[a, b]| {
            assert_eq!((a.len(), b.len()), (3, 40));
            a.fill(1.0);
            b.fill(2.0);
            scratch_slices([5], |[c]| c.fill(3.0));
            assert!(a.iter().all(|v| *v == 1.0) && b.iter().all(|v| *v == 2.0));
            for piece in [a.as_ptr(), b.as_ptr()] {
                assert_eq!(piece as usize % 64, 0);
            }
        });
    }
}
