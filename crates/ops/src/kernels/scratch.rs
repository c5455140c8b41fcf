//! Working space that a thread keeps: a steady step allocates none.

use std::cell::RefCell;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with slices of these lengths, each at the start of a cache line. What they hold is
/// left over from earlier calls. May be nested.
pub(crate) fn scratch<const N: usize, R>(
    lengths: [usize; N],
    f: impl FnOnce([&mut [f32]; N]) -> R,
) -> R {
    const LINE: usize = 16;
    // Taken, not borrowed: a task that rayon runs inside `f` on this thread takes another.
    let mut buffer = BUFFERS.with_borrow_mut(|b| b.pop()).unwrap_or_default();
    let needed: usize = LINE
        + lengths
            .map(|l| l.next_multiple_of(LINE))
            .iter()
            .sum::<usize>();
    if buffer.len() < needed {
        buffer.resize(needed, 0.0);
    }
    let start = buffer.as_ptr().align_offset(4 * LINE).min(LINE);
    let mut rest = &mut buffer[start..];
    let slices = lengths.map(|length| {
        let (piece, after) = std::mem::take(&mut rest).split_at_mut(length.next_multiple_of(LINE));
        rest = after;
        if cfg!(test) {
            piece.fill(f32::NAN);
        }
        &mut piece[..length]
    });
    let result = f(slices);
    BUFFERS.with_borrow_mut(|b| b.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::scratch;

    #[test]
    fn nested_scratch_is_not_shared_and_lines_are_whole() {
        scratch([3, 40], |[a, b]| {
            assert_eq!((a.len(), b.len()), (3, 40));
            a.fill(1.0);
            b.fill(2.0);
            scratch([5], |[c]| c.fill(3.0));
            assert!(a.iter().all(|v| *v == 1.0) && b.iter().all(|v| *v == 2.0));
            for piece in [a.as_ptr(), b.as_ptr()] {
                assert_eq!(piece as usize % 64, 0);
            }
        });
    }
}
