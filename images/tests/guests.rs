//! The image boots under both hypervisors, and its init keeps the promises of the protocol: sessions, settings,
//! probes, shutdown. (Commands: `commands.rs`.)

#![allow(clippy::unwrap_used)]

mod common;

use std::{net::Ipv4Addr, os::unix::net::UnixDatagram};

use common::{Session, Wire, boot, kinds};
use fleet_wire::{Address, Nic, ProbeTarget, Route, Settings, ToAgent, ToGuest, VERSION, encode};

fn configure(session: &mut Session, settings: &Settings) -> Vec<String> {
    session.send(&ToGuest::Configure(settings.clone()));
    match session.wait(|message| matches!(message, ToAgent::Configured { .. })) {
        ToAgent::Configured { settings: fingerprint, errors } => {
            assert_eq!(fingerprint, settings.fingerprint());
            errors
        }
        other => panic!("{other:?}"),
    }
}

fn probe(session: &mut Session, targets: &[Ipv4Addr], attempts: u32) -> (Vec<Option<u32>>, String) {
    let nonce = 77;
    let targets = targets.iter().map(|ip| ProbeTarget { ip: *ip }).collect();
    session.send(&ToGuest::Probe { nonce, targets, timeout_ms: 1000, attempts });
    match session.wait(|message| matches!(message, ToAgent::Probed { nonce: 77, .. })) {
        ToAgent::Probed { rtt_us, error, .. } => (rtt_us, error),
        other => panic!("{other:?}"),
    }
}

fn nic(name: &str, mac: [u8; 6], ip: [u8; 4]) -> Nic {
    let addresses = vec![Address { ip: ip.into(), prefix_len: 24 }];
    Nic { name: name.to_owned(), mac, mtu: 1400, addresses }
}

#[test]
fn a_guest_says_hello_and_ends_on_shutdown() {
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 7);
        let ToAgent::Hello { version, kernel, boot_id, settings, uptime_ms, .. } = session.reattach(8) else {
            panic!()
        };
        assert_eq!((version, settings), (VERSION, 0), "{kind}");
        assert!(boot_id != 0 && uptime_ms > 0 && kernel.starts_with("6."), "{kind}: {kernel}");
        session.send(&ToGuest::Shutdown { reboot: false });
        session.wait(|message| *message == ToAgent::ShuttingDown);
        let status = guest.wait();
        assert!(status.success(), "{kind}: {status}: {}", guest.console());
    }
}

#[test]
fn a_guest_can_write_everywhere_whatever_its_root_is() {
    // Folders of the image are changed, removed, made again and renamed, and files of it, as on a disk.
    let script = "set -e; echo here > /new; mkdir /etc/deep; echo x > /etc/deep/f; echo more >> /etc/profile; \
        tail -n 1 /etc/profile; rm -r /var/log; mkdir /var/log; ls -a /var/log | wc -l; mv /var /moved; test -d /moved/log; \
        rm /etc/group; test ! -e /etc/group; chmod 700 /bin/busybox; cat /new; echo '127.0.0.1 me' > /etc/hosts; \
        ls / | tr '\\n' ' '";
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 7);
        let outcome = session.shell(script);
        let text = outcome.text();
        assert_eq!(outcome.code, 0, "{kind}: {text} {}", String::from_utf8_lossy(&outcome.stderr));
        let wanted = "more\n2\nhere\nbin dev etc init linuxrc moved new proc root run sbin sys tmp usr ";
        assert_eq!(text.replace("lib ", ""), wanted, "{kind}");
        assert_eq!(guest.console().matches("fleet-init").count(), 0, "{kind}: {}", guest.console());
    }
}

#[test]
fn a_rebooted_guest_says_hello_by_itself() {
    // Under QEMU a reboot ends the process (-no-reboot), and the agent starts it again.
    for kind in ["uml", "tiny-uml"] {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 7);
        let ToAgent::Hello { boot_id: before, .. } = session.reattach(8) else { panic!() };
        session.send(&ToGuest::Shutdown { reboot: true });
        let hello = session.wait(|message| matches!(message, ToAgent::Hello { session: 0, .. }));
        let ToAgent::Hello { boot_id, .. } = hello else { panic!() };
        assert_ne!(boot_id, before, "{kind}");
        session.reattach(9);
    }
}

#[test]
fn settings_come_into_force_and_may_come_again() {
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 1);
        let mut settings = Settings {
            hostname: "web-3".to_owned(),
            hosts: vec![(Ipv4Addr::new(10, 9, 0, 4), "db-1".to_owned())],
            seed: vec![0x5a; 32],
            time_ns: 2_000_000_000_000_000_000,
            ..Settings::default()
        };
        for _ in 0..2 {
            assert_eq!(configure(&mut session, &settings), Vec::<String>::new(), "{kind}");
        }
        let text = session.shell("hostname; cat /etc/hostname; grep db-1 /etc/hosts; date +%s").text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(&lines[..3], ["web-3", "web-3", "10.9.0.4\tdb-1"], "{kind}");
        assert!((2_000_000_000..2_000_001_000).contains(&lines[3].parse::<u64>().unwrap()), "{kind}: {text}");
        let ToAgent::Hello { settings: in_force, .. } = session.reattach(2) else { panic!() };
        assert_eq!(in_force, settings.fingerprint(), "{kind}");

        settings.nics.push(nic("eth0", [2, 0, 0, 0, 0, 9], [10, 9, 0, 3]));
        let errors = configure(&mut session, &settings);
        assert_eq!(errors, ["eth0: no interface has the address 02:00:00:00:00:09"], "{kind}");
        let ToAgent::Hello { settings: in_force, .. } = session.reattach(3) else { panic!() };
        assert_eq!(in_force, 0, "{kind}: settings with an error are not in force");
    }
}

#[test]
fn guests_of_both_hypervisors_on_one_wire_reach_each_other() {
    reach_each_other("uml", "qemu");
}

#[test]
fn guests_with_tiny_kernels_on_one_wire_reach_each_other() {
    reach_each_other("tiny-uml", "tiny-x86");
}

fn reach_each_other(one_kind: &str, other_kind: &str) {
    let (one, other) = UnixDatagram::pair().unwrap();
    let mut uml = boot(one_kind, Some(Wire { end: one, mac: "02:00:0a:09:00:01" }));
    let mut qemu = boot(other_kind, Some(Wire { end: other, mac: "02:00:0a:09:00:02" }));
    let macs = [[2, 0, 10, 9, 0, 1], [2, 0, 10, 9, 0, 2]];
    let [uml_ip, qemu_ip, nobody] = [1, 2, 3].map(|host| Ipv4Addr::new(10, 9, 0, host));
    let mut uml = Session::attach(uml.control(), 1);
    let mut qemu = Session::attach(qemu.control(), 1);
    let route =
        Route { to: Address { ip: Ipv4Addr::new(10, 200, 0, 9), prefix_len: 16 }, via: Ipv4Addr::new(10, 9, 0, 2) };
    let mut settings =
        Settings { nics: vec![nic("lan0", macs[0], uml_ip.octets())], routes: vec![route], ..Settings::default() };
    assert_eq!(configure(&mut uml, &settings), Vec::<String>::new());
    let theirs = Settings { nics: vec![nic("lan0", macs[1], qemu_ip.octets())], ..Settings::default() };
    assert_eq!(configure(&mut qemu, &theirs), Vec::<String>::new());

    let (rtt_us, error) = probe(&mut uml, &[qemu_ip, nobody, Ipv4Addr::LOCALHOST], 3);
    assert_eq!(rtt_us.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true], "{rtt_us:?} {error}");
    let (rtt_us, error) = probe(&mut qemu, &[uml_ip], 3);
    assert!(rtt_us[0].is_some() && error.is_empty(), "{error}");
    let shown = uml.shell("ip -o addr show lan0; ip route; cat /sys/class/net/lan0/mtu").text();
    for words in ["inet 10.9.0.1/24 brd 10.9.0.255", "10.200.0.0/16 via 10.9.0.2", "1400"] {
        assert!(shown.contains(words), "'{words}' is not in\n{shown}");
    }
    assert!(!shown.contains("inet6"), "{shown}");

    // Other settings: what is no longer wanted goes, what the guest itself has made stays.
    uml.shell("ip route add 10.77.0.0/16 via 10.9.0.2");
    settings.nics[0].addresses.push(Address { ip: Ipv4Addr::new(10, 9, 0, 41), prefix_len: 24 });
    settings.nics[0].addresses.remove(0);
    settings.routes.clear();
    assert_eq!(configure(&mut uml, &settings), Vec::<String>::new());
    let shown = uml.shell("ip -o addr show lan0; ip route").text();
    assert!(shown.contains("10.9.0.41/24") && !shown.contains("10.9.0.1/24"), "{shown}");
    assert!(!shown.contains("10.200.0.0"), "{shown}");
    assert!(probe(&mut uml, &[qemu_ip], 3).0[0].is_some());

    // A NIC that is no longer wanted loses its addresses and goes down.
    settings.nics.clear();
    assert_eq!(configure(&mut uml, &settings), Vec::<String>::new());
    let shown = uml.shell("ip -o addr show lan0; ip -o link show lan0").text();
    assert!(shown.contains("lan0") && !shown.contains("10.9.0.") && !shown.contains("UP"), "{shown}");
    // No way there is no answer from there; that it could not be sent is no error of the probe.
    assert_eq!(probe(&mut uml, &[qemu_ip], 1), (vec![None], String::new()));
}

#[test]
fn many_targets_are_probed_at_once_and_the_guest_answers_meanwhile() {
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 1);
        let targets = (0..1024_u32).map(|i| Ipv4Addr::from(0x7f00_0001 + i)).map(|ip| ProbeTarget { ip }).collect();
        session.send(&ToGuest::Probe { nonce: 5, targets, timeout_ms: 20_000, attempts: 1 });
        let ToAgent::Probed { rtt_us, error, .. } = session.wait(|answer| matches!(answer, ToAgent::Probed { .. }))
        else {
            panic!()
        };
        assert!(rtt_us.len() == 1024 && rtt_us.iter().all(Option::is_some), "{kind}: {error} {rtt_us:?}");

        let dead = vec![ProbeTarget { ip: Ipv4Addr::new(240, 0, 0, 1) }];
        session.send(&ToGuest::Probe { nonce: 6, targets: dead, timeout_ms: 600_000, attempts: 1 });
        session.send(&ToGuest::Ping { nonce: 9 });
        assert_eq!(session.next(), ToAgent::Pong { nonce: 9 }, "{kind}: a probe that waits stops nothing");
        let too_many = vec![ProbeTarget { ip: Ipv4Addr::LOCALHOST }; 1025];
        session.send(&ToGuest::Probe { nonce: 7, targets: too_many, timeout_ms: 1, attempts: 1 });
        let answer = session.wait(|answer| matches!(answer, ToAgent::Probed { nonce: 7, .. }));
        assert!(matches!(answer, ToAgent::Probed { error, .. } if error.contains("1024")), "{kind}");
    }
}

#[test]
fn enter_on_the_console_gives_a_shell_and_another_after_it() {
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 1);
        assert_eq!(session.shell("pidof sh -o $$ | wc -w").text(), "0\n", "{kind}: no shell before Enter");
        for _ in 0..2 {
            session.start(1, &["/bin/sh", "-c", "rm -f /tmp/f; mkfifo /tmp/f; echo ready; cat /tmp/f"], None);
            session.wait(|message| matches!(message, ToAgent::Stdout { id: 1, .. }));
            guest.type_on_console("\x04\n");
            guest.type_on_console("tty > /tmp/f; exit\n");
            let text = session.finish(1).text();
            assert!(text.starts_with("/dev/tty"), "{kind}: {text}");
        }
        assert!(!guest.console().contains("job control"), "{kind}: {}", guest.console());
    }
}

#[test]
fn half_frames_and_noise_do_not_disturb_a_session() {
    for kind in kinds() {
        let mut guest = boot(kind, None);
        {
            // An agent that dies in the middle of a frame.
            let mut dead = Session::attach(guest.control(), 1);
            let frame = encode(&ToGuest::Ping { nonce: 1 }).unwrap();
            dead.send_raw(&frame[..frame.len() / 2]);
        }
        let mut session = Session::attach(guest.control(), 2);
        for byte in 0..=255_u8 {
            session.send_raw(&[byte, byte ^ 0x5a, 0]); // no frame, and every control character of a terminal
            session.send(&ToGuest::Ping { nonce: u64::from(byte) });
            session.wait(|message| *message == ToAgent::Pong { nonce: u64::from(byte) });
        }
        session.send_raw(&vec![7; 1 << 20]); // longer than any frame
        session.send_raw(&[0]);
        session.send(&ToGuest::Ping { nonce: 300 });
        session.wait(|message| *message == ToAgent::Pong { nonce: 300 });
    }
}
