//! How much memory may this process still take?
//!
//! The least of what the kernel says is available on the machine and of what is left in the control
//! group that the process is in, and in each group around that: a container is one.

use std::{fs, path::Path};

use anyhow::Context;
use cli::Hint;

/// Bytes.
pub fn memory() -> anyhow::Result<u64> {
    let machine = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let machine = machine_bytes(&machine)
        .context("/proc/meminfo has no MemAvailable")
        .hint("give --max-memory")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_bytes(Path::new("/sys/fs/cgroup"), &groups);
    Ok(group.map_or(machine, |group| machine.min(group)))
}

/// Bytes of memory and swap that the machine has, whoever uses them, or that the control group may
/// take where that is less.
pub fn in_all() -> anyhow::Result<u64> {
    let machine = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let of = |name| bytes_of(&machine, name);
    let memory = of("MemTotal:")
        .context("/proc/meminfo has no MemTotal")
        .hint("give --max-memory")?;
    let swap = of("SwapTotal:").unwrap_or(0);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = least(Path::new("/sys/fs/cgroup"), &groups, limit_of);
    // Swap has a limit of its own, which is not looked at: too much is said, never too little.
    Ok(limit.map_or(memory, |limit| memory.min(limit)) + swap)
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    bytes_of(meminfo, "MemAvailable:")
}

fn bytes_of(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn group_bytes(root: &Path, groups: &str) -> Option<u64> {
    least(root, groups, left_in)
}

/// The least that `of` says of the groups that the process is in and of those around them. `groups` is
/// /proc/self/cgroup: lines of `number:controllers:path`, where version 2 has no controllers.
fn least(root: &Path, groups: &str, of: fn(&Path, &Names) -> Option<u64>) -> Option<u64> {
    let memberships = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let all = memberships.flat_map(|(controllers, path)| {
        let (root, names) = match controllers {
            "" => (root.to_owned(), &VERSION_2),
            _ if controllers.split(',').any(|c| c == "memory") => (root.join("memory"), &VERSION_1),
            _ => return None,
        };
        // Inside a container the path may be one of the host's: then the root is the container's own.
        let group = root.join(path.trim_start_matches('/'));
        group
            .ancestors()
            .take_while(|dir| dir.starts_with(&root))
            .filter_map(|dir| of(dir, names))
            .min()
    });
    all.min()
}

/// File names of the limit, of what is taken, and the line of memory.stat that says how much of that are
/// cached files which nobody has used for a while.
type Names = [&'static str; 3];
const VERSION_2: Names = ["memory.max", "memory.current", "inactive_file"];
const VERSION_1: Names = [
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
];

/// None where the group has no limit: version 2 says `max`, which is no number; version 1 says a number
/// that no machine has.
fn limit_of(dir: &Path, [limit, ..]: &Names) -> Option<u64> {
    number(&dir.join(limit))
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn left_in(dir: &Path, names: &Names) -> Option<u64> {
    let [_, taken, cached] = names;
    let (limit, taken) = (limit_of(dir, names)?, number(&dir.join(taken))?);
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let cached = stat
        .lines()
        .find_map(|line| line.strip_prefix(cached)?.trim().parse().ok())
        .unwrap_or(0);
    Some(limit.saturating_sub(taken.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn group(root: &Path, path: &str, names: &Names, limit: &str, taken: u64, cached: u64) {
        let dir = root.join(path);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(names[0]), format!("{limit}\n")).unwrap();
        fs::write(dir.join(names[1]), format!("{taken}\n")).unwrap();
        let stat = format!("anon 1\n{} {cached}\n", names[2]);
        fs::write(dir.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn the_machine_says_what_is_available() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(machine_bytes(text), Some(2 * MIB));
        assert_eq!(machine_bytes("MemTotal: 5 kB\n"), None);
        assert!(memory().unwrap() > 0 && in_all().unwrap() > 0);
    }

    #[test]
    fn the_tightest_group_around_the_process_counts_without_its_unused_cache() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let limit = (100 * MIB).to_string();
        group(root, "a", &VERSION_2, &limit, 70 * MIB, 20 * MIB);
        group(root, "a/b", &VERSION_2, "max", 60 * MIB, 0);
        assert_eq!(group_bytes(root, "0::/a/b\n"), Some(50 * MIB));
        assert_eq!(group_bytes(root, "0::/\n"), None, "no limit there");
        let limit = (80 * MIB).to_string();
        group(root, "a/b", &VERSION_2, &limit, 79 * MIB, 0);
        assert_eq!(group_bytes(root, "0::/a/b\n"), Some(MIB));
        let limit = |groups| least(root, groups, limit_of);
        assert_eq!(limit("0::/a/b\n"), Some(80 * MIB), "whoever has taken it");
        assert_eq!(limit("0::/\n"), None);
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_root_in_either_version() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let limit = (8 * MIB).to_string();
        group(root, "memory", &VERSION_1, &limit, 3 * MIB, MIB);
        let groups = "5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n0::/docker/1f\n";
        assert_eq!(group_bytes(root, groups), Some(6 * MIB));
        group(root, "", &VERSION_2, &limit, 5 * MIB, 0);
        assert_eq!(group_bytes(root, groups), Some(3 * MIB));
    }
}
