//! Processes, seen from outside.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Whether a process is there and not a zombie.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// State letter and start time (clock ticks since boot) of a process: proc_pid_stat(5), fields 3 and 22. A process id
/// that was used again has another start time.
pub fn stat(pid: u32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// Sends a signal.
///
/// # Panics
/// When there is no such process.
pub fn signal(pid: u32, signal: Signal) {
    let raw = i32::try_from(pid).unwrap();
    assert!(raw > 1, "{raw} is no process of a test");
    nix::sys::signal::kill(Pid::from_raw(raw), signal).unwrap_or_else(|errno| panic!("cannot signal {pid}: {errno}"));
}

/// Kills a process (SIGKILL) and waits until it is gone.
///
/// # Panics
/// When there is no such process, or it does not go.
pub fn kill(pid: u32) {
    signal(pid, Signal::SIGKILL);
    // Its first thread is a zombie while others still end, and until they have, its sockets are there.
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    crate::until("the end of a killed process", || !alive(pid) && threads() <= 1);
}

/// All processes: id, command line and control groups.
pub fn all() -> impl Iterator<Item = (u32, String, String)> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let read = |name: &str| std::fs::read(PathBuf::from(format!("/proc/{pid}/{name}"))).unwrap_or_default();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
        alive(pid).then(|| (pid, text(read("cmdline")), text(read("cgroup"))))
    })
}
