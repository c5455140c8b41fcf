//! Freed memory stays with the process, and lies in large pages.
//!
//! A training step makes and drops the same few hundred MiB of activations each time. glibc hands
//! blocks above its threshold back to the system at once, which clears every page anew when it is
//! touched again: a fifth of a step's time on SmolLM2-135M at 512 tokens. A pool of our own would hold
//! only our own buffers, not those that burn makes for its sums.
//!
//! Weights are read from one end to the other, a page of 4 KiB every 128 blocks of a row: where the
//! kernel gives huge pages to those who ask (`madvise`, the usual setting), decoding gains 5 to 10 %.
//! A tensor is smaller than such a page, so the whole heap asks, before it is there.

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
