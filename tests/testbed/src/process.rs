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
    // utime and stime.
    stat(pid).split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// A process, told from another that gets its number after its end. With threads counted, numbers
/// come round every few minutes of tests.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub pid: u32,
    started: Option<u64>,
}

impl Process {
    /// The one that has that number now.
    pub fn of(pid: u32) -> Self {
        Self { pid, started: started(pid) }
    }

    /// Whether it runs. One that has ended, and that nobody has asked for its status, does not.
    pub fn runs(&self) -> bool {
        self.started.is_some() && started(self.pid) == self.started
    }
}

/// When it started, in clock ticks since the machine did.
fn started(pid: u32) -> Option<u64> {
    let stat = stat(pid);
    let has_ended = stat.starts_with(['Z', 'X']);
    stat.split(' ').nth(19).filter(|_| !has_ended)?.parse().ok()
}

/// Whether `parent` has started it.
pub(crate) fn is_child_of(pid: u32, parent: u32) -> bool {
    stat(pid).split(' ').nth(1) == Some(&parent.to_string())
}

/// What stands behind its name in `stat`: its state, its parent and so on.
fn stat(pid: u32) -> String {
    read(pid, "stat").rsplit_once(") ").map(|(_, fields)| fields.to_owned()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use std::process::{self, Command};
    use std::time::Duration;

    use super::*;
    use crate::wait::eventually;

    #[test]
    fn a_process_runs_until_it_has_ended_whoever_gets_its_number() {
        let this = Process::of(process::id());
        assert!(this.runs());
        let one_before = Process { started: this.started.map(|started| started - 1), ..this };
        assert!(!one_before.runs());

        let mut child = Command::new("sleep").arg("60").spawn().expect("a process");
        let process = Process::of(child.id());
        assert!(is_child_of(child.id(), process::id()) && process.runs());
        child.kill().expect("a signal");
        // Before it is waited for.
        eventually(Duration::from_secs(10), "its end", || !process.runs());
        assert!(child.wait().is_ok_and(|status| !status.success()) && !process.runs());
    }
}
