//! The heap asks for huge pages, and takes no memory for it. A program of its own (no harness), because
//! the heap is what a program's first thread allocates from.

use std::fs::read_to_string;

/// The line of this name in `/proc/self/smaps`, for the mapping that holds `address`.
fn mapping(address: usize, name: &str) -> String {
    let smaps = read_to_string("/proc/self/smaps").expect("Linux says what is mapped");
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| {
            let (first, end) = range.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            Some(number(first)?..number(end)?)
        });
        match range {
            Some(range) => inside = range.contains(&address),
            None if inside && line.starts_with(name) => return line.to_owned(),
            None => (),
        }
    }
    panic!("no {name} of {address:#x}");
}

fn resident() -> usize {
    let status = read_to_string("/proc/self/statm").expect("Linux says what is resident");
    let pages = status.split(' ').nth(1).expect("pages");
    pages.parse::<usize>().expect("a number") * 4096
}

fn main() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return;
    }
    let enabled = read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if !enabled.is_ok_and(|modes| modes.contains("[madvise]") || modes.contains("[always]")) {
        println!("skipped: this kernel gives no huge pages");
        return;
    }
    let limits = read_to_string("/proc/self/limits").expect("Linux says what is limited");
    let unlimited = |name| {
        let limit = limits.lines().find_map(|line| line.strip_prefix(name));
        limit.is_some_and(|limit| limit.trim_start().starts_with("unlimited"))
    };
    let mode = read_to_string("/proc/sys/vm/overcommit_memory").expect("a mode");
    if !unlimited("Max address space") || !unlimited("Max data size") || mode.trim() == "2" {
        println!("skipped: addresses are counted here");
        return;
    }
    let before = resident();
    ops::tune_heap();
    assert!(resident() < before + (16 << 20), "addresses alone");
    let block = vec![1u8; 32 << 20];
    let flags = mapping(block.as_ptr() as usize + (16 << 20), "VmFlags");
    assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
}
