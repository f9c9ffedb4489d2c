//! Starting a process so that it can never be lost, and without copying the agent.
//!
//! The child is made with `clone3(2)`: it is born in its control group and the caller has a pidfd of it from the first
//! moment. Then it waits. The caller writes down who the child is and only then says "go"; if the caller dies before,
//! the child reads end-of-file instead and exits. So no program ever runs that is in no record, whenever the agent is
//! killed.
//!
//! ```text
//! agent                                       child
//! clone3(VM | PIDFD | INTO_CGROUP) ---------> setsid, descriptors in place, all others closed
//! writes the record                           reads the line
//! one byte into the line -------------------> execve
//! reads the line: end = it runs <------------ (closed by execve, or errno)
//! ```
//! The child shares the agent's memory until it runs its program (`CLONE_VM`), on a stack of its own: a copy of an agent
//! that looks after thousands of VMs would cost more than the start of a small VM. So what the child does until then
//! is in `child.rs` and keeps to bare system calls.

mod child;

use std::ffi::{CString, NulError, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::hypervisor::FIRST_FD;
use child::Stack;

/// The kernel's killer of last resort takes a VM before the agent or a system service.
const OOM_SCORE_ADJ: &str = "300";

/// `CLONE_CLEAR_SIGHAND` of `linux/sched.h`; too wide for the constant of the libc crate.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// `CLONE_INTO_CGROUP` of `linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What is started and with what.
pub(crate) struct Program<'a> {
    /// Absolute path.
    pub program: &'a Path,
    /// Arguments without the program's own name.
    pub args: &'a [OsString],
    /// The whole environment.
    pub env: &'a [(String, OsString)],
    /// Descriptors [`FIRST_FD`] and up of the process; everything else is closed.
    pub fds: &'a [BorrowedFd<'a>],
    /// Standard output and error.
    pub output: BorrowedFd<'a>,
    /// Directory of the control group that it is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Without address space randomisation.
    pub fixed_addresses: bool,
    /// KSM may merge its memory. A kernel that cannot (before Linux 6.4) starts it all the same.
    pub mergeable: bool,
}

/// A child that waits to be let go. Dropped instead, it ends without having run the program.
pub(crate) struct Waiting {
    pid: i32,
    pidfd: Option<OwnedFd>,
    line: Option<UnixStream>,
    /// What the child uses until it runs its program or has ended: freed only then.
    _plan: Box<Plan>,
    _stack: Stack,
}

impl Waiting {
    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets it run the program; gives its pidfd once it does.
    ///
    /// # Errors
    /// What `execve` said.
    pub(crate) fn go(mut self) -> io::Result<OwnedFd> {
        let Some(line) = &mut self.line else { return Err(io::ErrorKind::NotConnected.into()) };
        line.write_all(&[1])?;
        let mut errno = [0; 4];
        match line.read_exact(&mut errno) {
            Ok(()) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                // Not before it has memory of its own: the kernel gives all processes that share memory one score.
                // Where it fails the VM is as dear to the kernel as other processes are.
                let _ = std::fs::write(format!("/proc/{}/oom_score_adj", self.pid), OOM_SCORE_ADJ);
                self.pidfd.take().ok_or_else(|| io::ErrorKind::NotFound.into())
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Waiting {
    /// Ends and reaps a child that was not let go, or could not run the program.
    fn drop(&mut self) {
        drop(self.line.take());
        if let Some(pidfd) = self.pidfd.take() {
            let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
        }
    }
}

/// Everything the child needs, made before the clone.
struct Plan {
    program: CString,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// Descriptors to be put at 0, 1, 2, 3, …; the last one is the line.
    sources: Vec<RawFd>,
    fixed_addresses: bool,
    mergeable: bool,
    /// Owners of what `argv` and `envp` point to.
    _strings: Vec<CString>,
}

// SAFETY: the pointers are to the strings that the plan owns, which nobody changes.
unsafe impl Send for Plan {}

impl Plan {
    fn new(program: &Program<'_>, null: &File, line: &UnixStream) -> Result<Plan, NulError> {
        let path = CString::new(program.program.as_os_str().as_bytes())?;
        let mut strings = vec![path.clone()];
        for arg in program.args {
            strings.push(CString::new(arg.as_bytes())?);
        }
        let args = strings.len();
        for (key, value) in program.env {
            strings.push(CString::new([key.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        let pointers = |strings: &[CString]| {
            strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        let output = program.output.as_raw_fd();
        let mut sources = vec![null.as_raw_fd(), output, output];
        debug_assert_eq!(sources.len(), FIRST_FD as usize);
        sources.extend(program.fds.iter().map(AsRawFd::as_raw_fd));
        sources.push(line.as_raw_fd());
        Ok(Plan {
            program: path,
            argv: pointers(&strings[..args]),
            envp: pointers(&strings[args..]),
            sources,
            fixed_addresses: program.fixed_addresses,
            mergeable: program.mergeable,
            _strings: strings,
        })
    }
}

/// Makes the child; it waits for [`Waiting::go`].
///
/// # Errors
/// When a descriptor or a process cannot be made.
pub(crate) fn prepare(program: &Program<'_>) -> io::Result<Waiting> {
    let null = File::open("/dev/null")?;
    let (line, childs_line) = UnixStream::pair()?;
    let mut plan = Box::new(Plan::new(program, &null, &childs_line)?);
    let stack = Stack::new()?;

    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    if !program.mergeable {
        // What may be merged is a property of memory that the program inherits: set on shared memory it would be the
        // agent's. So a mergeable program starts from a copy of the agent.
        flags |= libc::CLONE_VM as u64;
    }
    if program.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    // SAFETY: clone_args is plain data for which all zeroes is a valid value ("not used").
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = program.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64);

    // No signal may run a handler of this process in the child, where it would write into the runtime's own pipes.
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: plan and stack live in the `Waiting` that is made below, until the child has memory of its own or is gone;
    // where no child was made, nobody uses them.
    let made = unsafe { child::start(args, &stack, &raw mut *plan) };
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    let pid = made?;
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so it stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Waiting { pid, pidfd: Some(pidfd), line: Some(line), _plan: plan, _stack: stack })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Seek;

    use super::*;

    fn run(script: &str, fds: &[BorrowedFd<'_>], output: &File) -> Waiting {
        prepare(&Program {
            program: Path::new("/bin/sh"),
            args: &["-c".into(), script.into()],
            env: &[("A".to_owned(), "b".into())],
            fds,
            output: output.as_fd(),
            cgroup: None,
            fixed_addresses: true,
            mergeable: false,
        })
        .unwrap()
    }

    fn wait(pidfd: &OwnedFd) {
        waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap();
    }

    fn text(file: &mut File) -> String {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_child_has_its_descriptors_in_place_and_no_others() {
        let mut output = tempfile::tempfile().unwrap();
        let mut passed = tempfile::tempfile().unwrap();
        let fds = [passed.as_fd(), passed.as_fd()];
        // The shell's own descriptor for the directory listing comes on top of those that were passed.
        let child =
            run("echo one >&3; echo two >&4; cd /proc/$$/fd; echo *; echo $A $(cut -d' ' -f6 ../stat)", &fds, &output);
        let pid = child.pid();
        assert!(crate::procs::waits_to_be_let_go(pid), "an agent that finds it now can tell");
        wait(&child.go().unwrap());
        assert_eq!(text(&mut passed), "one\ntwo\n");
        let (fds, rest) = text(&mut output).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert!(fds == "0 1 2 3 4" || fds.starts_with("0 1 2 3 4 "), "{fds}");
        assert_eq!(rest, format!("b {pid}\n"), "environment and session");
    }

    #[test]
    fn a_child_that_is_given_up_never_runs_its_program() {
        let mut output = tempfile::tempfile().unwrap();
        drop(run("echo ran", &[], &output));
        assert_eq!(text(&mut output), "");
    }

    #[test]
    fn a_program_that_cannot_run_gives_the_reason() {
        let output = tempfile::tempfile().unwrap();
        let child = prepare(&Program {
            program: Path::new("/no/such/program"),
            args: &[],
            env: &[],
            fds: &[],
            output: output.as_fd(),
            cgroup: None,
            fixed_addresses: false,
            mergeable: false,
        })
        .unwrap();
        assert_eq!(child.go().map(|_| ()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn children_started_at_once_do_not_hold_one_another_up() {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                std::thread::spawn(|| {
                    let output = tempfile::tempfile().unwrap();
                    let waiting: Vec<_> = (0..8).map(|_| run("exit 0", &[], &output)).collect();
                    for child in waiting {
                        wait(&child.go().unwrap());
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_mergeable_program_is_so_and_its_starter_is_not() {
        let merges =
            || std::fs::read_to_string("/proc/self/ksm_stat").unwrap_or_default().contains("ksm_merge_any: yes");
        let mut output = tempfile::tempfile().unwrap();
        let child = prepare(&Program {
            program: Path::new("/bin/cat"),
            args: &["/proc/self/ksm_stat".into()],
            env: &[],
            fds: &[],
            output: output.as_fd(),
            cgroup: None,
            fixed_addresses: true,
            mergeable: true,
        })
        .unwrap();
        wait(&child.go().unwrap());
        // Kernels tell of it since Linux 6.15; those without KSM have nothing to tell.
        let told = text(&mut output);
        assert!(!told.contains("ksm_merge_any: no"), "{told}");
        assert!(!merges());
    }
}
