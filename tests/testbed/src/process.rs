//! What a process has, as the system tells (proc(5)). All is nothing for one that has ended.

use std::fs;

/// The memory that it has of the machine's (`VmRSS`), in KiB.
pub fn memory(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

/// How many threads it has.
pub fn threads(pid: u32) -> u64 {
    status(pid, "Threads:")
}

/// How many files it has open.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The processor's time that it has used, in clock ticks (`sysconf(_SC_CLK_TCK)`, of 10 ms each).
pub fn ticks(pid: u32) -> u64 {
    let stat = read(pid, "stat");
    // Behind the name, in parentheses: utime and stime are the 12th and 13th of these.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn status(pid: u32, name: &str) -> u64 {
    let status = read(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// A file that the system has of it.
pub(crate) fn read(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}
