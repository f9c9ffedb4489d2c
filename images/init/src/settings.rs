//! Puts settings into force: only what differs is touched, so the same settings may come again and again.

use std::fs;

use fleet_wire::Settings;
use nix::{
    errno::Errno,
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
    unistd::{gethostname, sethostname},
};

use crate::net;

/// From linux/random.h: `_IOW('R', 0x03, int[2])`, adds bytes and counts them as entropy.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// From linux/random.h: `_IO('R', 0x07)`, makes the generator use them at once.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
/// Most bytes taken as a seed.
const MAX_SEED: usize = 512;

/// Applies settings; `before` are those that were applied last. Gives a line for each thing that failed; the others
/// are done all the same.
pub fn apply(settings: &Settings, before: &Settings) -> Vec<String> {
    let mut errors = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(error) = result {
            errors.push(format!("{what}: {error}"));
        }
    };
    note("random seed", add_entropy(&settings.seed));
    note("clock", set_clock(settings.time_ns));
    note("host name", set_hostname(&settings.hostname));
    note("/etc/hosts", hosts_text(settings).and_then(|text| write_if_other("/etc/hosts", &text)));
    errors.extend(net::apply(&settings.nics, &settings.routes, &before.nics));
    errors
}

/// A random number, also before the kernel's generator is seeded well.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the pointer and length are those of a live array. GRND_INSECURE never blocks.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_INSECURE) };
    u64::from_ne_bytes(bytes)
}

/// As `struct rand_pool_info` of linux/random.h.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: i32,
    bytes: i32,
    data: [u8; MAX_SEED],
}

/// Gives bytes to the kernel's random number generator, which uses them at once.
pub fn add_entropy(seed: &[u8]) -> Result<(), String> {
    try_add_entropy(seed).map_err(|errno| errno.to_string())
}

fn try_add_entropy(seed: &[u8]) -> Result<(), Errno> {
    let seed = &seed[..seed.len().min(MAX_SEED)];
    let Ok(length) = i32::try_from(seed.len()) else { return Ok(()) };
    if seed.is_empty() {
        return Ok(());
    }
    let mut info = RandPoolInfo { entropy_bits: length * 8, bytes: length, data: [0; MAX_SEED] };
    info.data[..seed.len()].copy_from_slice(seed);
    let random = fs::File::options().write(true).open("/dev/urandom");
    let random = random.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&random);
    // SAFETY: the request reads a rand_pool_info with `bytes` bytes behind its header; `info` lives until it returns.
    Errno::result(unsafe { libc::ioctl(fd, RNDADDENTROPY, &raw const info) })?;
    // SAFETY: the request takes no argument.
    Errno::result(unsafe { libc::ioctl(fd, RNDRESEEDCRNG) }).map(drop)
}

/// Sets the time of day, ns since 1970; 0 leaves it alone.
pub fn set_clock(time_ns: u64) -> Result<(), String> {
    try_set_clock(time_ns).map_err(|errno| errno.to_string())
}

fn try_set_clock(time_ns: u64) -> Result<(), Errno> {
    if time_ns == 0 {
        return Ok(());
    }
    let seconds = i64::try_from(time_ns / 1_000_000_000).map_err(|_| Errno::ERANGE)?;
    let nanoseconds = i64::try_from(time_ns % 1_000_000_000).map_err(|_| Errno::ERANGE)?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, nanoseconds))
}

fn set_hostname(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    let now = gethostname().map_err(|errno| errno.to_string())?;
    if now != name {
        sethostname(name).map_err(|errno| format!("{name}: {errno}"))?;
    }
    write_if_other("/etc/hostname", &format!("{name}\n"))
}

fn hosts_text(settings: &Settings) -> Result<String, String> {
    let mut text = "127.0.0.1\tlocalhost\n".to_owned();
    let own = &settings.hostname;
    if !own.is_empty() && !settings.hosts.iter().any(|(_, name)| name == own) {
        text += &format!("127.0.1.1\t{own}\n");
    }
    for (ip, name) in &settings.hosts {
        if name.is_empty() || name.contains(|c: char| c.is_control() || c == '#') {
            return Err(format!("'{}' is not a host name", name.escape_debug()));
        }
        text += &format!("{ip}\t{name}\n");
    }
    Ok(text)
}

fn write_if_other(path: &str, text: &str) -> Result<(), String> {
    if fs::read(path).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(());
    }
    fs::write(path, text).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_hosts_file_names_this_guest_once() {
        let mut settings = Settings { hostname: "web-3".to_owned(), ..Settings::default() };
        assert_eq!(hosts_text(&settings).unwrap(), "127.0.0.1\tlocalhost\n127.0.1.1\tweb-3\n");
        settings.hosts.push((Ipv4Addr::new(10, 0, 0, 3), "web-3".to_owned()));
        assert_eq!(hosts_text(&settings).unwrap(), "127.0.0.1\tlocalhost\n10.0.0.3\tweb-3\n");
        settings.hosts.push((Ipv4Addr::LOCALHOST, "a\n6.6.6.6 bank".to_owned()));
        assert!(hosts_text(&settings).is_err());
    }
}
