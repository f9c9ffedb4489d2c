//! Starting a process so that it can never be lost.
//!
//! The child is made with `clone3(2)`: it is born in its control group and the caller has a pidfd of it from the first
//! moment. Then it waits. The caller writes down who the child is and only then says "go"; if the caller dies before,
//! the child reads end-of-file instead and exits. So no program ever runs that is in no record, whenever the agent is
//! killed.
//!
//! ```text
//! agent                                     child
//! clone3(PIDFD | INTO_CGROUP) ------------> setsid, descriptors in place, all others closed
//! writes the record                         reads the go pipe
//! one byte into the go pipe --------------> execve
//! reads the error pipe: end = it runs <---- (closed by execve, or errno)
//! ```
//! Between clone and exec the child calls only what is async-signal-safe, on memory prepared before: other threads may
//! have held any lock at the moment of the clone.

use std::ffi::{CStr, CString, NulError, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::pipe2;

use crate::hypervisor::FIRST_FD;

/// The kernel's killer of last resort takes a VM before the agent or a system service.
const OOM_SCORE_ADJ: &CStr = c"300";

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
}

/// A child that waits to be let go. Dropped instead, it ends without having run the program.
pub(crate) struct Waiting {
    pid: i32,
    pidfd: Option<OwnedFd>,
    go: Option<File>,
    error: File,
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
        if let Some(mut go) = self.go.take() {
            go.write_all(&[1])?;
        }
        let mut errno = [0; 4];
        match self.error.read_exact(&mut errno) {
            Ok(()) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.pidfd.take().ok_or_else(|| io::ErrorKind::NotFound.into())
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Waiting {
    /// Ends and reaps a child that was not let go, or could not run the program.
    fn drop(&mut self) {
        drop(self.go.take());
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
    /// Descriptors to be put at 0, 1, 2, 3, …; the last two are the go pipe and the error pipe.
    sources: Vec<RawFd>,
    fixed_addresses: bool,
    /// Owners of what `argv` and `envp` point to.
    _strings: Vec<CString>,
}

impl Plan {
    fn new(program: &Program<'_>, null: &File, go: &OwnedFd, error: &OwnedFd) -> Result<Plan, NulError> {
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
        sources.extend([go.as_raw_fd(), error.as_raw_fd()]);
        Ok(Plan {
            program: path,
            argv: pointers(&strings[..args]),
            envp: pointers(&strings[args..]),
            sources,
            fixed_addresses: program.fixed_addresses,
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
    let (go_read, go_write) = pipe2(OFlag::O_CLOEXEC)?;
    let (error_read, error_write) = pipe2(OFlag::O_CLOEXEC)?;
    let mut plan = Plan::new(program, &null, &go_read, &error_write)?;

    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
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
    // SAFETY: without CLONE_VM the child has its own copy of all memory, like after fork(2); it runs only `child`,
    // which keeps to async-signal-safe calls and never returns. `args` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    if pid == 0 {
        // SAFETY: this is the child of the clone above, and `plan` is its own copy.
        unsafe { child(&mut plan) }
    }
    let error = io::Error::last_os_error();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    if pid < 0 {
        return Err(error);
    }
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so it stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Ok(Waiting { pid, pidfd: Some(pidfd), go: Some(go_write.into()), error: error_read.into() })
}

/// The child's way from clone to exec.
///
/// # Safety
/// Only in a child that shares no memory with its parent; only async-signal-safe calls are made.
unsafe fn child(plan: &mut Plan) -> ! {
    // SAFETY: plain system calls on the child's own state; every pointer is to memory that `plan` owns, and `argv` and
    // `envp` end in null pointers.
    unsafe {
        let count = plan.sources.len() as RawFd;
        libc::setsid();
        // First out of the way of the places, then into them: dup2 also clears close-on-exec.
        for source in &mut plan.sources {
            *source = libc::fcntl(*source, libc::F_DUPFD, count);
            if *source < 0 {
                libc::_exit(126);
            }
        }
        for place in 0..count {
            libc::dup2(plan.sources[place as usize], place);
        }
        libc::syscall(libc::SYS_close_range, count, libc::c_uint::MAX, 0);
        let (go, error) = (count - 2, count - 1);
        libc::fcntl(go, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(error, libc::F_SETFD, libc::FD_CLOEXEC);

        libc::umask(0o077);
        libc::chdir(c"/".as_ptr());
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        libc::write(score, OOM_SCORE_ADJ.as_ptr().cast(), OOM_SCORE_ADJ.count_bytes());
        libc::close(score);
        if plan.fixed_addresses {
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);

        let mut byte = 0_u8;
        if libc::read(go, (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(125); // the agent has died, or gave this child up
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::execve(plan.program.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr());
        let errno = *libc::__errno_location();
        libc::write(error, (&raw const errno).cast(), size_of_val(&errno));
        libc::_exit(127)
    }
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
}
