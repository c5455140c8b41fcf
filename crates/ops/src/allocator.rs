//! Freed memory stays with the process, lies in large pages, and begins on a cache line.
//!
//! A training step makes and drops the same few hundred MiB of activations each time. glibc hands
//! blocks above its threshold back to the system at once, which clears every page anew when it is
//! touched again: a fifth of a step's time on SmolLM2-135M at 512 tokens. A pool of our own would hold
//! only our own buffers, not those that burn makes for its sums.
//!
//! Weights are read from one end to the other, a page of 4 KiB every 128 blocks of a row: where the
//! kernel gives huge pages to those who ask (`madvise`, the usual setting), decoding gains 5 to 10 %.
//! A tensor is smaller than such a page, so the whole heap asks, before it is there.
//!
//! malloc aligns to 16 bytes, and a vector of 64 that begins there is read and written as two lines. It is
//! burn that makes tensors of our results, by the allocator of the program: [`CacheLines`].

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, whose blocks of a page or more begin on a cache line. A program that trains
/// or generates makes it its `#[global_allocator]`.
///
/// A block is 64 bytes longer than was asked for: what was asked for begins at the next line, at least
/// 8 bytes on, and those 8 bytes say how far on. (`posix_memalign` would leave scraps between blocks,
/// so that what is freed does not fit what is wanted next.)
pub struct CacheLines;

const LINE: usize = 64;
/// Blocks from here on are moved to a line.
const LARGE: usize = 4096;

/// What the system is asked for in place of a large block of malloc's own alignment.
fn moved(layout: Layout) -> Option<Layout> {
    let large = layout.size() >= LARGE && layout.align() <= 16;
    let longer = large.then(|| layout.size().checked_add(LINE)).flatten()?;
    Layout::from_size_align(longer, 16).ok()
}

/// Where the system's block begins that holds this one.
///
/// # Safety
/// The pointer is [`on_a_line`]'s.
unsafe fn base(pointer: *mut u8) -> *mut u8 {
    // SAFETY: the 8 bytes before it are ours.
    unsafe { pointer.sub(pointer.cast::<usize>().sub(1).read()) }
}

/// The first line of a block, at least 8 bytes on; null stays null.
///
/// # Safety
/// The block is as [`moved`] asked for it.
unsafe fn on_a_line(base: *mut u8) -> *mut u8 {
    if base.is_null() {
        return base;
    }
    // A base is a multiple of 16, so that the next line is 16 to 64 bytes on.
    let on = LINE - base as usize % LINE;
    // SAFETY: inside the block, which is a line longer than what is asked for.
    unsafe {
        let pointer = base.add(on);
        pointer.cast::<usize>().sub(1).write(on);
        pointer
    }
}

// SAFETY: blocks are the system's, at the place in them that they have room for.
unsafe impl GlobalAlloc for CacheLines {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: a layout of some size, as the caller's.
        unsafe {
            match moved(layout) {
                Some(longer) => on_a_line(System.alloc(longer)),
                None => System.alloc(layout),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match moved(layout) {
                Some(longer) => on_a_line(System.alloc_zeroed(longer)),
                None => System.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: what `alloc` did for this layout is undone.
        unsafe {
            match moved(layout) {
                Some(longer) => System.dealloc(base(pointer), longer),
                None => System.dealloc(pointer, layout),
            }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: a layout of another size, which the caller says is valid; the system moves what the
        // block holds, which then goes to the first line of where it is.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            match (moved(layout), moved(new)) {
                (None, None) => System.realloc(pointer, layout, size),
                (Some(longer), Some(new)) => {
                    let before = base(pointer);
                    let on = pointer.offset_from_unsigned(before);
                    let base = System.realloc(before, longer, new.size());
                    let there = LINE - base as usize % LINE;
                    if !base.is_null() && there != on {
                        let (from, to) = (base.add(on), base.add(there));
                        from.copy_to(to, layout.size().min(size));
                    }
                    on_a_line(base)
                }
                _ => {
                    let to = self.alloc(new);
                    if !to.is_null() {
                        pointer.copy_to_nonoverlapping(to, layout.size().min(size));
                        self.dealloc(pointer, layout);
                    }
                    to
                }
            }
        }
    }
}

/// Tells the C library to keep what is freed, and the kernel to map the heap in huge pages. Call it
/// first in a program that trains or generates; with another C library than glibc it does nothing.
pub fn tune_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt sets parameters of malloc, under malloc's own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1); // what one thread frees, any thread takes
        libc::mallopt(libc::M_MMAP_MAX, 0); // every block comes from the heap
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1); // whose top is never given back
        libc::mallopt(libc::M_TOP_PAD, 64 << 20); // and which grows in steps: 64 MiB cost one call
        linux::huge_pages();
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod linux {
    /// Grows the heap by half of the machine's memory and asks for huge pages there. That is addresses
    /// only: a page is there once it is touched. Where addresses are counted (a limit on them, or a
    /// kernel that backs each with memory) the heap stays as it is.
    ///
    /// # Safety
    /// malloc takes its memory from the heap and never gives its top back.
    pub(super) unsafe fn huge_pages() {
        // SAFETY: a block is made and freed, and advice on a range that is ours changes no content.
        unsafe {
            if addresses_are_counted() {
                return;
            }
            let page = libc::sysconf(libc::_SC_PAGESIZE).max(1) as usize;
            let pages = libc::sysconf(libc::_SC_PHYS_PAGES).max(0) as usize;
            let before = libc::sbrk(0) as usize;
            // Kept from the compiler, which knows that a block nobody uses need not be made.
            let block = std::hint::black_box(libc::malloc(page.saturating_mul(pages) / 2));
            libc::free(block);
            let (first, end) = (before.next_multiple_of(page), libc::sbrk(0) as usize);
            if first < end {
                // A kernel without them says so, and nothing is lost.
                libc::madvise(first as *mut _, end - first, libc::MADV_HUGEPAGE);
            }
        }
    }

    fn addresses_are_counted() -> bool {
        let limited = [libc::RLIMIT_AS, libc::RLIMIT_DATA].iter().any(|resource| {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: the call fills the structure.
            let known = unsafe { libc::getrlimit(*resource, &mut limit) } == 0;
            !known || limit.rlim_cur != libc::RLIM_INFINITY
        });
        let strict = std::fs::read_to_string("/proc/sys/vm/overcommit_memory");
        limited || strict.is_ok_and(|mode| mode.trim() == "2")
    }
}

#[cfg(test)]
mod tests {
    use super::{CacheLines, GlobalAlloc, LARGE, LINE, Layout};

    #[test]
    fn large_blocks_begin_on_a_line_and_keep_what_they_hold_whatever_size_they_become() {
        let sizes = [1, 100, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE, 1 << 20];
        for align in [1, 4, 16, 64, 4096] {
            for (i, first) in sizes.into_iter().enumerate() {
                for (j, second) in sizes.into_iter().enumerate() {
                    let layout = |size| Layout::from_size_align(size, align).expect("a layout");
                    // SAFETY: blocks are used within their sizes and freed with them, once.
                    unsafe {
                        let block = match j % 2 {
                            0 => CacheLines.alloc(layout(first)),
                            _ => CacheLines.alloc_zeroed(layout(first)),
                        };
                        let zeroed = std::slice::from_raw_parts(block, first);
                        assert!(j % 2 == 0 || zeroed.iter().all(|b| *b == 0));
                        (0..first).for_each(|k| block.add(k).write((k + i) as u8));
                        let block = CacheLines.realloc(block, layout(first), second);
                        let line = if second >= LARGE { LINE } else { 1 };
                        assert_eq!(block as usize % align.max(line), 0, "{second} by {align}");
                        let kept = std::slice::from_raw_parts(block, first.min(second));
                        let held = |(k, b): (usize, &u8)| *b == (k + i) as u8;
                        assert!(kept.iter().enumerate().all(held), "{first} -> {second}");
                        CacheLines.dealloc(block, layout(second));
                    }
                }
            }
        }
    }
}
