//! Processor time, in seconds: of this program, which is the camera, and of other processes.

use nix::time::{ClockId, clock_gettime};

/// Of this process.
pub fn own() -> f64 {
    std::time::Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap()).as_secs_f64()
}

/// Of these processes, without their children; those that are gone count nothing.
pub fn of(pids: &[u32]) -> f64 {
    // Fields 14 and 15 of proc_pid_stat(5), in ticks of sysconf(_SC_CLK_TCK).
    let ticks = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    pids.iter().filter_map(ticks).sum::<f64>() / second as f64
}

/// Processes of a folder of fleet but its VMs: they have it in their environment.
pub fn daemons(root: &std::path::Path) -> Vec<u32> {
    let wanted = format!("FLEET_ROOT={}", root.display());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|text| text == wanted.as_bytes()) && !command.starts_with("qemu")
    };
    pids.filter(has).collect()
}
