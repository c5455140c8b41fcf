//! How does memory that was only needed to start go back to the system?

/// Gives back what was freed. Reading a tokenizer takes several times what it keeps, in small pieces
/// that the allocator would hold on to while the work itself asks for large ones.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called at any time and from any thread; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident_kilobytes() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_whitespace().nth(1);
        number.unwrap().parse().unwrap()
    }

    #[test]
    fn small_pieces_that_were_freed_go_back() {
        let mut pieces: Vec<Option<Box<[u8; 100]>>> = (0..500_000)
            .map(|n| Some(Box::new([n as u8; 100])))
            .collect();
        for (n, piece) in pieces.iter_mut().enumerate() {
            if n % 5000 != 0 {
                *piece = None;
            }
        }
        let before = resident_kilobytes();
        give_back_freed_memory();
        let after = resident_kilobytes();
        assert!(before > after + 30_000, "{before} kB, {after} kB");
        assert_eq!(pieces.iter().flatten().count(), 100);
    }
}
