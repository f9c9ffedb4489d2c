//! Parsers of the kernel's text files: pure functions of their contents. Formats: proc(5), cgroup v2 and PSI in the
//! kernel's Documentation/ (admin-guide/cgroup-v2.rst, accounting/psi.rst).

use std::time::Duration;

/// A kernel file did not have the form that its documentation promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no readable {0}: this kernel writes the file in a form that fleet does not know")]
pub struct ParseError(pub &'static str);

/// CPU time of the whole host since boot, in clock ticks summed over all cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTicks {
    /// Everything but idle and waiting for I/O. Time that a hypervisor below took away (steal) counts as busy.
    pub busy: u64,
    /// Busy and idle together.
    pub total: u64,
}

/// Reads the first line of `/proc/stat`. Guest time is part of user time there, so it is not added again.
pub fn cpu_ticks(stat: &str) -> Result<CpuTicks, ParseError> {
    const WHAT: ParseError = ParseError("`cpu` line in /proc/stat");
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).ok_or(WHAT)?;
    let mut fields = [0u64; 8];
    let mut words = line.split_ascii_whitespace();
    for (index, field) in fields.iter_mut().enumerate() {
        match words.next() {
            Some(word) => *field = word.parse().map_err(|_| WHAT)?,
            // user, nice, system and idle have always been there; later kernels added the rest.
            None if index >= 4 => break,
            None => return Err(WHAT),
        }
    }
    let total = fields.iter().fold(0u64, |sum, field| sum.saturating_add(*field));
    let idle = fields[3].saturating_add(fields[4]);
    Ok(CpuTicks { busy: total.saturating_sub(idle), total })
}

/// Reads how many tasks run or are ready to, from `/proc/stat`.
pub fn runnable(stat: &str) -> Result<u32, ParseError> {
    let number = stat.lines().find_map(|line| line.strip_prefix("procs_running "));
    number.and_then(|number| number.trim().parse().ok()).ok_or(ParseError("`procs_running` in /proc/stat"))
}

/// Memory of the host, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// What the kernel manages.
    pub total: u64,
    /// The kernel's estimate of what can be had without swapping.
    pub available: u64,
}

/// Reads `/proc/meminfo`.
pub fn memory(meminfo: &str) -> Result<Memory, ParseError> {
    let bytes = |key: &str, error: ParseError| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)).ok_or(error.clone())?;
        let kilobytes = line.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok()).ok_or(error)?;
        Ok(kilobytes.saturating_mul(1024))
    };
    Ok(Memory {
        total: bytes("MemTotal:", ParseError("`MemTotal` in /proc/meminfo"))?,
        available: bytes("MemAvailable:", ParseError("`MemAvailable` in /proc/meminfo"))?,
    })
}

/// Reads `some avg10` of a file below `/proc/pressure`: percent of the last 10 s in which at least one task waited.
pub fn pressure_some10(pressure: &str) -> Result<f64, ParseError> {
    let line = pressure.lines().find_map(|line| line.strip_prefix("some "));
    line.and_then(|line| line.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10=")))
        .and_then(finite)
        .ok_or(ParseError("`some avg10` in /proc/pressure"))
}

/// Reads `some total` of a file below `/proc/pressure`: since boot, how long at least one task waited.
pub fn pressure_some_total(pressure: &str) -> Result<Duration, ParseError> {
    let line = pressure.lines().find_map(|line| line.strip_prefix("some "));
    line.and_then(|line| line.split_ascii_whitespace().find_map(|word| word.strip_prefix("total=")))
        .and_then(|word| word.parse().ok())
        .map(Duration::from_micros)
        .ok_or(ParseError("`some total` in /proc/pressure"))
}

/// Reads the load average over one minute from `/proc/loadavg`.
pub fn load1(loadavg: &str) -> Result<f64, ParseError> {
    loadavg.split_ascii_whitespace().next().and_then(finite).ok_or(ParseError("load average in /proc/loadavg"))
}

/// Reads the time since boot from `/proc/uptime`.
pub fn uptime(uptime: &str) -> Result<Duration, ParseError> {
    let seconds = uptime.split_ascii_whitespace().next().and_then(finite);
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or(ParseError("uptime in /proc/uptime"))
}

fn finite(word: &str) -> Option<f64> {
    word.parse().ok().filter(|value: &f64| value.is_finite())
}

/// What `/proc/PID/stat` says of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// The session it belongs to: the pid of its leader.
    pub session: u32,
    /// User and system time of the process and of the children it has waited for, in clock ticks.
    pub cpu_ticks: u64,
    /// When it started, in clock ticks since boot. With the pid it names a process for good.
    pub start_ticks: u64,
    /// Resident memory, in pages.
    pub resident_pages: u64,
}

/// Reads `/proc/PID/stat`. The program's name (field 2) may hold blanks and parentheses, so fields are counted from the
/// last closing one.
pub fn process_stat(stat: &str) -> Result<ProcessStat, ParseError> {
    const WHAT: ParseError = ParseError("process line in /proc/PID/stat");
    let (_, after_name) = stat.rsplit_once(')').ok_or(WHAT)?;
    // `after_name` begins with field 3.
    let mut words = after_name.split_ascii_whitespace();
    let mut position = 3;
    let mut field = |number: usize| {
        let word = words.nth(number - position);
        position = number + 1;
        word.ok_or(WHAT)
    };
    let session = field(6)?.parse().map_err(|_| WHAT)?;
    let mut cpu_ticks = 0u64;
    for number in 14..=17 {
        // The kernel prints the times of waited-for children (16, 17) as signed numbers.
        let ticks: i64 = field(number)?.parse().map_err(|_| WHAT)?;
        cpu_ticks = cpu_ticks.saturating_add(u64::try_from(ticks).unwrap_or(0));
    }
    let start_ticks = field(22)?.parse().map_err(|_| WHAT)?;
    let resident: i64 = field(24)?.parse().map_err(|_| WHAT)?;
    Ok(ProcessStat { session, cpu_ticks, start_ticks, resident_pages: u64::try_from(resident).unwrap_or(0) })
}

/// Reads the CPU time of a cgroup v2 and everything below it from its `cpu.stat`.
pub fn cgroup_cpu_time(cpu_stat: &str) -> Result<Duration, ParseError> {
    cpu_stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .and_then(|value| value.trim().parse().ok())
        .map(Duration::from_micros)
        .ok_or(ParseError("`usage_usec` in a cgroup's cpu.stat"))
}

/// Reads a file that holds one number, as those of cgroups and of `/sys/kernel/mm/ksm` do.
pub fn number(text: &str) -> Result<i64, ParseError> {
    text.trim().parse().map_err(|_| ParseError("number in a file of /sys"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_time_leaves_out_idle_and_io_wait_and_does_not_count_guests_twice() {
        let stat = "cpu  100 5 20 800 60 1 2 12 90 4\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 5\n";
        assert_eq!(cpu_ticks(stat), Ok(CpuTicks { busy: 140, total: 1000 }));
    }

    #[test]
    fn tasks_that_are_ready_are_counted_by_the_kernel() {
        assert_eq!(runnable("cpu 1 2 3 4\nprocs_running 17\nprocs_blocked 2\n"), Ok(17));
        assert!(runnable("cpu 1 2 3 4\nprocs_blocked 2\n").is_err());
    }

    #[test]
    fn an_old_kernels_four_cpu_fields_are_enough() {
        assert_eq!(cpu_ticks("cpu 1 2 3 4\n"), Ok(CpuTicks { busy: 6, total: 10 }));
        assert!(cpu_ticks("cpu 1 2 3\n").is_err());
        assert!(cpu_ticks("cpu0 1 2 3 4\n").is_err());
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:       24684096 kB\nMemFree: 1 kB\nMemAvailable:   24259352 kB\n";
        assert_eq!(memory(text), Ok(Memory { total: 24684096 * 1024, available: 24259352 * 1024 }));
        assert_eq!(memory("MemTotal: 1 kB\n"), Err(ParseError("`MemAvailable` in /proc/meminfo")));
    }

    #[test]
    fn pressure_is_taken_from_the_some_line() {
        let text =
            "full avg10=9.00 avg60=0.00 avg300=0.00 total=0\nsome avg10=1.29 avg60=3.03 avg300=3.87 total=70744316\n";
        assert_eq!(pressure_some10(text), Ok(1.29));
        assert!(pressure_some10("some avg10=nan").is_err());
        assert_eq!(pressure_some_total(text), Ok(Duration::from_micros(70_744_316)));
        assert!(pressure_some_total("some avg10=1.29\n").is_err());
    }

    #[test]
    fn load_and_uptime_are_the_first_numbers() {
        assert_eq!(load1("0.61 1.30 1.26 2/345 6789\n"), Ok(0.61));
        assert_eq!(uptime("1578.25 3000.00\n"), Ok(Duration::from_millis(1_578_250)));
        assert!(uptime("-1 0").is_err());
    }

    #[test]
    fn a_process_name_with_parentheses_and_blanks_is_no_trap() {
        let stat = "77 (a) b ) (c)) S 1 70 71 0 -1 4194560 900 0 0 0 30 12 5 -1 20 0 4 0 123456 99999 2048 18446744073709551615 1 1";
        let expected = ProcessStat { session: 71, cpu_ticks: 47, start_ticks: 123_456, resident_pages: 2048 };
        assert_eq!(process_stat(stat), Ok(expected));
    }

    #[test]
    fn this_process_can_be_read() {
        let stat = process_stat(&std::fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert!(stat.resident_pages > 0);
        assert!(stat.start_ticks > 0);
    }

    #[test]
    fn cgroup_time_is_in_microseconds() {
        let text = "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n";
        assert_eq!(cgroup_cpu_time(text), Ok(Duration::from_millis(2500)));
        assert!(cgroup_cpu_time("user_usec 1\n").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*|(cpu|some|MemTotal:|[0-9 .()=-]){0,60}") {
            let _ = cpu_ticks(&text);
            let _ = memory(&text);
            let _ = pressure_some10(&text);
            let _ = pressure_some_total(&text);
            let _ = runnable(&text);
            let _ = load1(&text);
            let _ = uptime(&text);
            let _ = process_stat(&text);
            let _ = cgroup_cpu_time(&text);
            let _ = number(&text);
        }
    }
}
