#![allow(clippy::unwrap_used)]
mod common;
use common::{Session, boot, kinds};
#[test]
fn mem() {
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut s = Session::attach(guest.control(), 1);
        println!("{kind} {}", s.shell("head -3 /proc/meminfo; free -k; grep -E 'Vm(RSS|Data|Size)|Rss' /proc/1/status; cat /proc/loadavg; du -sk / -x; cat /proc/cmdline; ps | head -60; lsmod; dmesg | tail -5").text());
        let ps = std::process::Command::new("sh").arg("-c").arg(format!("ps -o pid,time,rss -s {}; grep -E 'Rss|Shmem|Anon' /proc/{}/smaps_rollup", guest.pid(), guest.pid())).output().unwrap();
        println!("{}", String::from_utf8_lossy(&ps.stdout));
    }
}
