//! What a child does between its making and its program, on memory that it shares with the agent.
//!
//! Another thread of the agent may hold any lock meanwhile, and the thread-local variables are those of the thread that
//! made the child. So there is no allocation here, no lock, no panic, and no call into the C library, not even for a
//! system call: its wrapper would write `errno` of the agent's thread. Written for x86-64, as the guests' kernels are.

use std::arch::asm;
use std::io;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::Plan;

/// Enough for the few frames of [`run`], which calls nothing that needs more.
const STACK_BYTES: usize = 32 * 1024;

/// Bytes of the kernel's signal set, as `rt_sigprocmask(2)` takes it.
const KERNEL_SIGSET_BYTES: usize = 8;

/// Nice value of VMs: they get a tenth of what an ordinary process gets where both want a processor (`sched(7)`).
const NICE: usize = 10;
/// The same as the kernel reads it.
const NICE_TEXT: &[u8] = b"10";

/// A stack for one child.
pub(super) struct Stack {
    base: std::ptr::NonNull<std::ffi::c_void>,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Stack {}

impl Stack {
    /// Maps one.
    ///
    /// # Errors
    /// When there is no memory.
    pub(super) fn new() -> io::Result<Stack> {
        let length = std::num::NonZeroUsize::new(STACK_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        Ok(Stack { base })
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: this is the mapping of `new`, whose user is gone. A failure leaves it mapped.
        let _ = unsafe { munmap(self.base, STACK_BYTES) };
    }
}

/// Makes the child, which runs [`run`]; gives its process id.
///
/// # Safety
/// `stack` and `plan` must live until the child has run its program or has ended. `args` must ask for no other stack.
pub(super) unsafe fn start(mut args: libc::clone_args, stack: &Stack, plan: *mut Plan) -> io::Result<i32> {
    args.stack = stack.base.as_ptr() as u64;
    args.stack_size = STACK_BYTES as u64;
    let result: isize;
    // SAFETY: the child comes back from the system call with the same registers on the empty stack, whose end is aligned
    // as the ABI wants it before a call, and calls `run`, which does not return. For the parent it is a system call.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {plan}",
            "call {run}",
            "ud2",
            "2:",
            plan = in(reg) plan,
            run = sym run,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") &raw mut args,
            in("rsi") size_of::<libc::clone_args>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    if result < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL)));
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// A system call; gives the kernel's answer, a negative `errno` for an error.
///
/// # Safety
/// As for the system call.
unsafe fn call(number: libc::c_long, args: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the registers are those of the kernel's convention; memory may be changed, which `asm!` assumes.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            // prctl refuses anything else in its fifth argument; the other calls look at four at most.
            in("r8") 0_usize,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result
}

/// The child's way to its program.
///
/// # Safety
/// Only in a child of [`start`], with the plan that was given there.
unsafe extern "C" fn run(plan: *mut Plan) -> ! {
    // SAFETY: the plan outlives this; all pointers are to what it owns, `argv` and `envp` end in null pointers, and
    // `at` stays below the number of sources.
    unsafe {
        let plan = &mut *plan;
        let (sources, count) = (plan.sources.as_mut_ptr(), plan.sources.len());
        call(libc::SYS_setsid, [0; 4]);
        yield_to_the_host();
        // First out of the way of the places, then into them: dup2 also clears close-on-exec.
        let mut at = 0;
        while at < count {
            let source = sources.add(at);
            let moved = call(libc::SYS_fcntl, [*source as usize, libc::F_DUPFD as usize, count, 0]);
            if moved < 0 {
                exit(126);
            }
            *source = moved as i32;
            at = at.wrapping_add(1);
        }
        at = 0;
        while at < count {
            call(libc::SYS_dup2, [*sources.add(at) as usize, at, 0, 0]);
            at = at.wrapping_add(1);
        }
        call(libc::SYS_close_range, [count, libc::c_uint::MAX as usize, 0, 0]);
        let line = count.wrapping_sub(1);
        call(libc::SYS_fcntl, [line, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize, 0]);

        call(libc::SYS_umask, [0o077, 0, 0, 0]);
        call(libc::SYS_chdir, [c"/".as_ptr() as usize, 0, 0, 0]);
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        call(libc::SYS_setrlimit, [libc::RLIMIT_CORE as usize, (&raw const no_core) as usize, 0, 0]);
        // The limit is not root's. The processes of the user that a VM becomes count together, whatever they are for.
        let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        call(libc::SYS_setrlimit, [libc::RLIMIT_NPROC as usize, (&raw const all) as usize, 0, 0]);
        // No program that it may ever run gives it rights.
        call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0]);
        if plan.fixed_addresses {
            call(libc::SYS_personality, [libc::ADDR_NO_RANDOMIZE as usize, 0, 0, 0]);
        }
        if plan.mergeable {
            call(libc::SYS_prctl, [libc::PR_SET_MEMORY_MERGE as usize, 1, 0, 0]);
        }

        // The agent ignores it, as Rust's programs do; handlers were reset by the clone.
        let default = [0_u64; 4]; // of `struct sigaction` as the kernel has it: SIG_DFL, no flags, no restorer, no mask
        call(libc::SYS_rt_sigaction, [libc::SIGPIPE as usize, (&raw const default) as usize, 0, KERNEL_SIGSET_BYTES]);

        let mut byte = 0_u8;
        if call(libc::SYS_read, [line, (&raw mut byte) as usize, 1, 0]) != 1 {
            exit(125); // the agent has died, or gave this child up
        }
        let none = 0_u64;
        let set = [libc::SIG_SETMASK as usize, (&raw const none) as usize, 0, KERNEL_SIGSET_BYTES];
        call(libc::SYS_rt_sigprocmask, set);
        let (argv, envp) = (plan.argv.as_ptr() as usize, plan.envp.as_ptr() as usize);
        let answer = call(libc::SYS_execve, [plan.program.as_ptr() as usize, argv, envp, 0]);
        let errno = answer.wrapping_neg() as i32;
        call(libc::SYS_write, [line, (&raw const errno) as usize, size_of::<i32>(), 0]);
        exit(127)
    }
}

/// Lets the host's own work (the agent, `fleet ps`, a shell) go before VMs: while a thousand boot, whatever else becomes
/// ready would wait behind all that are ready. Where the kernel groups tasks by session (`sched(7)`, autogroup), the
/// group's value counts, else the process's. Neither is vital.
///
/// # Safety
/// Only in a child of [`start`], in a session of its own.
unsafe fn yield_to_the_host() {
    // SAFETY: the strings are static and their lengths are given.
    unsafe {
        call(libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, 0, NICE, 0]);
        let group = call(libc::SYS_open, [c"/proc/self/autogroup".as_ptr() as usize, libc::O_WRONLY as usize, 0, 0]);
        if group >= 0 {
            call(libc::SYS_write, [group as usize, NICE_TEXT.as_ptr() as usize, NICE_TEXT.len(), 0]);
            call(libc::SYS_close, [group as usize, 0, 0, 0]);
        }
    }
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: it ends this process, and touches no memory.
        unsafe { call(libc::SYS_exit_group, [code, 0, 0, 0]) };
    }
}
