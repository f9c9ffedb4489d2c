//! Commands in a guest: output, input, exit codes, signals, terminals, flow control; under both hypervisors.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Session, boot, kinds};
use fleet_wire::{ToAgent, ToGuest, WINDOW_BYTES};

#[test]
fn a_command_gives_its_output_and_exit_code() {
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 1);
        let outcome = session.shell("echo out; echo err >&2; exit 7");
        assert_eq!((outcome.code, outcome.text().as_str()), (7, "out\n"), "{kind}");
        assert_eq!(outcome.stderr, b"err\n", "{kind}");
        assert_eq!(session.shell("kill -TERM $$").code, 128 + 15, "{kind}");
        assert_eq!(session.shell("echo $HOME $PATH | grep -c '^/root /usr/local/sbin'").code, 0, "{kind}");
        // A background process that keeps the pipes open holds nobody up.
        assert_eq!(session.shell("sleep 1000 & echo started").text(), "started\n", "{kind}");

        session.start(5, &["/no/such/program"], None);
        let failed = session.wait(|message| matches!(message, ToAgent::ExecFailed { id: 5, .. }));
        assert!(matches!(failed, ToAgent::ExecFailed { errno: libc::ENOENT, .. }), "{kind}: {failed:?}");
        session.send(&ToGuest::Exec { id: 6, argv: Vec::new(), env: Vec::new(), tty: None });
        session.wait(|message| matches!(message, ToAgent::ExecFailed { id: 6, errno: libc::EINVAL, .. }));
    }
}

#[test]
fn many_commands_run_at_once_and_a_new_session_ends_them() {
    // Sixty-four processes do not fit into the memory of a guest with a tiny kernel, as it comes.
    for kind in kinds().into_iter().filter(|kind| !kind.starts_with("tiny")) {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 1);
        for id in 0..64 {
            session.start(id, &["/bin/sleep", "100000"], None);
            session.wait(|message| matches!(message, ToAgent::Started { id: started, .. } if *started == id));
        }
        session.start(64, &["/bin/true"], None);
        session.wait(|message| matches!(message, ToAgent::ExecFailed { id: 64, errno: libc::EAGAIN, .. }));
        session.start(3, &["/bin/true"], None);
        session.wait(|message| matches!(message, ToAgent::ExecFailed { id: 3, errno: libc::EEXIST, .. }));
        session.send(&ToGuest::Signal { id: 9, signal: libc::SIGINT });
        let ended = session.wait(|message| matches!(message, ToAgent::Exited { id: 9, .. }));
        assert_eq!(ended, ToAgent::Exited { id: 9, code: 128 + libc::SIGINT }, "{kind}");
        session.reattach(2);
        let left = session.shell("pidof sleep | wc -w").text();
        assert_eq!(left, "0\n", "{kind}");
    }
}

#[test]
fn output_waits_for_grants_and_none_is_lost() {
    const BYTES: usize = 5 << 20;
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 1);
        session.start(1, &["/bin/sh", "-c", &format!("seq 1 10000000 | head -c {BYTES}; exit 3")], None);
        let mut output = Vec::new();
        let mut granted = WINDOW_BYTES as usize;
        let code = loop {
            match session.next() {
                ToAgent::Stdout { id: 1, data } => {
                    output.extend_from_slice(&data);
                    assert!(output.len() <= granted, "{kind}: more output than was granted");
                    // A slow reader: grants only when the window is used up, and asks for a sign of life then.
                    if output.len() == granted && output.len() < BYTES {
                        session.send(&ToGuest::Ping { nonce: 1 });
                        assert_eq!(session.next(), ToAgent::Pong { nonce: 1 }, "{kind}: nothing comes without a grant");
                        let bytes = 10_000 + WINDOW_BYTES / 2 * u32::try_from(output.len() % 2).unwrap();
                        granted += bytes as usize;
                        session.send(&ToGuest::Grant { id: 1, bytes });
                    }
                }
                ToAgent::Exited { id: 1, code } => break code,
                _ => {}
            }
        };
        let numbers: Vec<u8> = (1..1_000_000).flat_map(|n| format!("{n}\n").into_bytes()).take(BYTES).collect();
        assert!(output == numbers, "{kind}: {} bytes came", output.len());
        assert_eq!(code, 3, "{kind}");
    }
}

#[test]
fn input_larger_than_the_window_arrives_whole() {
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 1);
        // Every byte value, so that a terminal line which is not raw would be found out.
        let input: Vec<u8> = (0..2_000_003_usize).map(|i| u8::try_from((i * 7 + i / 256) % 256).unwrap()).collect();
        session.start(1, &["sha256sum"], None);
        session.wait(|message| matches!(message, ToAgent::Started { id: 1, .. }));
        let (mut sent, mut taken) = (0, 0);
        while taken < input.len() {
            let room = WINDOW_BYTES as usize - (sent - taken);
            let end = (sent + room.min(8192)).min(input.len());
            if end > sent {
                session.send(&ToGuest::Stdin { id: 1, data: input[sent..end].to_vec() });
                sent = end;
            } else if let ToAgent::StdinTaken { id: 1, bytes } = session.next() {
                taken += bytes as usize;
            }
        }
        session.send(&ToGuest::StdinClosed { id: 1 });
        let outcome = session.finish(1);
        assert_eq!(outcome.text().split(' ').next().unwrap(), sha256(&input), "{kind}");
    }
}

#[test]
fn a_terminal_has_size_signals_and_job_control() {
    for kind in kinds() {
        let mut guest = boot(kind, None);
        let mut session = Session::attach(guest.control(), 1);
        session.start(1, &["/bin/sh"], Some((31, 97)));
        let stdin = |text: &str| ToGuest::Stdin { id: 1, data: text.as_bytes().to_vec() };
        session.send(&stdin("tty; stty size; echo ready\n"));
        let mut seen = String::new();
        see(&mut session, &mut seen, "\nready\r\n");
        assert!(seen.contains("/dev/pts/") && seen.contains("31 97"), "{kind}: {seen}");
        assert!(!seen.contains("job control"), "{kind}: {seen}");
        session.send(&ToGuest::Resize { id: 1, rows: 12, columns: 34 });
        session.send(&stdin("stty size; sh -c 'echo now; exec sleep 100000'\n"));
        see(&mut session, &mut seen, "\nnow\r\n");
        assert!(seen.contains("12 34"), "{kind}: {seen}");
        session.send(&stdin("\x03")); // Ctrl-C ends the sleep, not the shell
        session.send(&stdin("echo $((40+2))\n"));
        see(&mut session, &mut seen, "\n42\r\n");
        session.send(&stdin("exit 5\n"));
        assert_eq!(session.finish(1).code, 5, "{kind}");

        session.start(2, &["/bin/cat"], Some((24, 80)));
        session.send(&ToGuest::StdinClosed { id: 2 });
        assert_eq!(session.finish(2).code, 0, "{kind}: the end of input reaches a terminal");
    }
}

/// Reads a terminal until these words come.
fn see(session: &mut Session, seen: &mut String, words: &str) {
    let start = seen.len();
    while !seen[start..].contains(words) {
        if let ToAgent::Stdout { id: 1, data } = session.next() {
            seen.push_str(&String::from_utf8_lossy(&data));
            session.send(&ToGuest::Grant { id: 1, bytes: u32::try_from(data.len()).unwrap() });
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
