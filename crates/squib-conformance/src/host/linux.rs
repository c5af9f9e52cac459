//! The parent: starts the child, puts cases into its signal frame, and takes outcomes out of it.
#![allow(
    unsafe_code,
    reason = "memory shared with a process that runs arbitrary code, copied through raw pointers"
)]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::Failure;
use super::child::{self, Control, SHARED, SHARED_LEN, TURN_CHILD, TURN_PARENT};
use crate::case::Case;
use crate::layout::{self, selector};
use crate::state::{Event, Outcome, POINTERS, RESUME, SETTABLE, State, fx};

/// Most time of a processor that a case may take.
const PATIENCE: Duration = Duration::from_millis(400);

/// Most that it may take where it looks endless.
const LITTLE_PATIENCE: Duration = Duration::from_millis(4);

/// Longest that the child may leave its parent waiting, whether it gets a processor or not.
const LIMIT: Duration = Duration::from_secs(20);

/// Flags of `uc_flags`: SS is in the frame, and is to be restored (arch/x86/include/uapi/asm/ucontext.h).
const SS_COUNTS: u64 = 2 | 4;

const FILE_LEN: usize = layout::MEMORY + SHARED_LEN as usize;

/// Offset of the XSAVE header's XSTATE_BV in a signal frame's floating-point state.
const XSTATE_BV: usize = 512;

/// `uc_mcontext.gregs` of the general registers in the order of their encoding.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// The host CPU, in a child process.
pub struct Host {
    file: OwnedFd,
    /// The sandbox's memory and the shared memory.
    base: *mut u8,
    child: libc::pid_t,
    /// The clock of the processor time that the child has used.
    clock: libc::clockid_t,
    patience: Duration,
    pointers: bool,
}

/// Keeps this thread, and processes that it forks, on one of the processors that it may use: the one with this number,
/// counted round. Where that fails, the thread stays where it is. Gives the limit of the segment that tells the processor's
/// number.
pub fn settle(number: usize) -> u32 {
    // SAFETY: plain system calls with sets that live here.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed) != 0 {
            return 0;
        }
        let count = libc::CPU_COUNT(&allowed).max(1) as usize;
        let cpus = (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &allowed));
        if let Some(cpu) = cpus.take(count).nth(number % count) {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
        }
    }
    let mut limit = 0u32;
    // SAFETY: LSL only reads a descriptor, and leaves the register alone where there is none.
    unsafe {
        asm!("lsl {0:e}, {1:e}", inout(reg) limit, in(reg) u32::from(selector::CPU_NUMBER), options(nomem, nostack));
    }
    limit
}

/// Whether the host's processor is AMD's, which differ from Intel's, and so from squib's, in what manuals leave open and in more.
pub fn is_amd() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

fn failed(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

impl Host {
    /// Starts a child.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn new() -> Result<Self, String> {
        // SAFETY: a new file and a new mapping of all of it.
        let (file, base) = unsafe {
            let raw = libc::memfd_create(c"squib-conformance".as_ptr(), libc::MFD_CLOEXEC);
            if raw < 0 {
                return Err(failed("memfd_create"));
            }
            let file = OwnedFd::from_raw_fd(raw);
            if libc::ftruncate(raw, FILE_LEN as libc::off_t) < 0 {
                return Err(failed("ftruncate"));
            }
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            let base = libc::mmap(ptr::null_mut(), FILE_LEN, rights, libc::MAP_SHARED, raw, 0);
            if base == libc::MAP_FAILED {
                return Err(failed("mmap"));
            }
            (file, base.cast())
        };
        let pointers = __cpuid_count(7, 0).ebx & POINTERS == POINTERS;
        let mut host = Self { file, base, child: 0, clock: 0, patience: PATIENCE, pointers };
        host.start()?;
        Ok(host)
    }

    fn start(&mut self) -> Result<(), String> {
        self.turn().store(TURN_CHILD, Ordering::Release);
        let rseq = child::rseq_area();
        // SAFETY: the child only makes system calls, and never comes back.
        self.child = unsafe {
            match libc::fork() {
                0 => {
                    let error = child::become_child(self.file.as_raw_fd(), rseq);
                    libc::_exit(error.raw_os_error().unwrap_or(1) & 0x7f)
                }
                pid => pid,
            }
        };
        if self.child < 0 {
            return Err(failed("fork"));
        }
        // SAFETY: stores the clock's number in a field.
        if unsafe { libc::clock_getcpuclockid(self.child, &raw mut self.clock) } != 0 {
            return Err("the host's process has no clock".to_owned());
        }
        // The stub's first signal.
        self.wait().map_err(|e| format!("the host's process did not start: {e:?}"))
    }

    fn control(&self) -> *mut Control {
        // SAFETY: the mapping is longer, and page-aligned.
        unsafe { self.base.add(layout::MEMORY) }.cast()
    }

    fn turn(&self) -> &AtomicU32 {
        // SAFETY: the control block is mapped as long as `self` lives, and its turn is only touched atomically.
        unsafe { &(*self.control()).turn }
    }

    /// Processor time that the child has used.
    fn used(&self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: stores the time in a variable.
        unsafe { libc::clock_gettime(self.clock, &raw mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// Waits until it is the parent's turn.
    fn wait(&mut self) -> Result<(), Failure> {
        let end = self.used() + self.patience;
        let limit = Instant::now() + LIMIT;
        while self.turn().load(Ordering::Acquire) != TURN_PARENT {
            let left = end.saturating_sub(self.used());
            if left.is_zero() || Instant::now() > limit {
                return Err(Failure::Endless);
            }
            let time = libc::timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            // SAFETY: waits on a word that is mapped; reports on a child of ours.
            unsafe {
                libc::syscall(libc::SYS_futex, self.turn(), libc::FUTEX_WAIT, TURN_CHILD, &raw const time);
                let mut status = 0;
                if self.turn().load(Ordering::Acquire) != TURN_PARENT
                    && libc::waitpid(self.child, &raw mut status, libc::WNOHANG) == self.child
                {
                    self.child = 0;
                    return Err(Failure::Died(format!("its process ended with status {status:#x}")));
                }
            }
        }
        Ok(())
    }

    fn wake(&self) {
        self.turn().store(TURN_CHILD, Ordering::Release);
        // SAFETY: wakes whoever waits on a word that is mapped.
        unsafe { libc::syscall(libc::SYS_futex, self.turn(), libc::FUTEX_WAKE, 1) };
    }

    fn stop(&mut self) {
        if self.child > 0 {
            // SAFETY: a child of ours that has not been waited for.
            unsafe {
                libc::kill(self.child, libc::SIGKILL);
                libc::waitpid(self.child, ptr::null_mut(), 0);
            }
            self.child = 0;
        }
    }

    /// Where `len` bytes of the shared memory that the child knows by `addr` are here.
    fn shared(&self, addr: u64, len: usize) -> Result<*mut u8, Failure> {
        let at = addr.wrapping_sub(SHARED);
        if at.checked_add(len as u64).is_none_or(|end| end > SHARED_LEN) {
            return Err(Failure::Died(format!("its signal frame is at {addr:#x}")));
        }
        // SAFETY: inside of the mapping.
        Ok(unsafe { self.base.add(layout::MEMORY + at as usize) })
    }

    /// The signal frame's context and floating-point state.
    fn frame(&self) -> Result<(*mut libc::ucontext_t, *mut u8), Failure> {
        // SAFETY: the control block and, once checked, the context are mapped; the child waits.
        unsafe {
            let context = (*self.control()).context;
            let context = self.shared(context, size_of::<libc::ucontext_t>())?.cast::<libc::ucontext_t>();
            let fpregs = (&raw const (*context).uc_mcontext.fpregs).read_unaligned() as u64;
            Ok((context, self.shared(fpregs, XSTATE_BV + 8)?))
        }
    }

    /// Runs a case that is thought to be endless.
    ///
    /// # Errors
    /// [`Failure`]; the next case finds a new child.
    pub fn run_briefly(&mut self, case: &Case) -> Result<Outcome, Failure> {
        self.patience = LITTLE_PATIENCE;
        let result = self.run(case);
        self.patience = PATIENCE;
        result
    }

    /// Runs `case`.
    ///
    /// # Errors
    /// [`Failure`]; the next case finds a new child.
    pub fn run(&mut self, case: &Case) -> Result<Outcome, Failure> {
        if !case.is_for_hosts() {
            return Err(Failure::Supervisor);
        }
        if self.child == 0 {
            self.start().map_err(Failure::Died)?;
        }
        let mut result = self.attempt(case);
        if result == Err(Failure::Endless) {
            result = self.interrupt();
        }
        if matches!(result, Err(Failure::Died(_))) {
            self.stop();
        }
        result
    }

    fn attempt(&mut self, case: &Case) -> Result<Outcome, Failure> {
        self.enter(case)?;
        loop {
            self.wake();
            self.wait()?;
            // SAFETY: mapped, and the child waits.
            match unsafe { (*self.control()).signal } as i32 {
                libc::SIGSYS => return Err(Failure::SystemCall),
                // An interrupt that was too late for the case before: this one has not begun.
                child::INTERRUPT => {}
                _ => return self.outcome(case),
            }
        }
    }

    /// Makes the child give up a case that does not end. A new child would cost far more.
    fn interrupt(&mut self) -> Result<Outcome, Failure> {
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(self.child, child::INTERRUPT) };
        self.wait().map_err(|e| Failure::Died(format!("it cannot be interrupted: {e:?}")))?;
        Err(Failure::Endless)
    }

    fn enter(&mut self, case: &Case) -> Result<(), Failure> {
        let memory = case.memory();
        let (context, fp) = self.frame()?;
        let s = &case.state;
        // SAFETY: all of it is mapped and in bounds, and the child waits.
        unsafe {
            ptr::copy_nonoverlapping(memory.as_ptr(), self.base, layout::MEMORY);
            let gregs = &raw mut (*context).uc_mcontext.gregs;
            let gregs = gregs.cast::<i64>();
            for (index, value) in GREGS.into_iter().zip(s.gpr) {
                gregs.add(index as usize).write_unaligned(value as i64);
            }
            gregs.add(libc::REG_RIP as usize).write_unaligned(s.rip as i64);
            let flags = gregs.add(libc::REG_EFL as usize);
            let kept = flags.read_unaligned() as u64 & !(SETTABLE | RESUME);
            flags.write_unaligned((kept | s.rflags & SETTABLE) as i64);
            let [es, cs, ss, ds, fs, gs] = s.segments;
            let selectors = u64::from(cs) | u64::from(ss) << 48;
            gregs.add(libc::REG_CSGSFS as usize).write_unaligned(selectors as i64);
            let uc_flags = &raw mut (*context).uc_flags;
            uc_flags.write_unaligned(uc_flags.read_unaligned() | SS_COUNTS);
            (*self.control()).segments = [ds, es, fs, gs];
            (*self.control()).bases = s.bases;
            // The processor's own MXCSR_MASK is to stay.
            let mask = fx::MXCSR_MASK;
            ptr::copy_nonoverlapping(s.fx.as_ptr(), fp, mask);
            ptr::copy_nonoverlapping(s.fx[mask + 4..].as_ptr(), fp.add(mask + 4), fx::SIZE - mask - 4);
            let bv = fp.add(XSTATE_BV).cast::<u64>();
            bv.write_unaligned(bv.read_unaligned() | 3);
        }
        Ok(())
    }

    fn outcome(&self, case: &Case) -> Result<Outcome, Failure> {
        let (context, fp) = self.frame()?;
        let mut state = State::new(case.mode);
        let mut memory = vec![0; layout::MEMORY].into_boxed_slice();
        // SAFETY: all of it is mapped and in bounds, and the child waits.
        unsafe {
            let gregs = (&raw const (*context).uc_mcontext.gregs).cast::<i64>();
            let get = |index: i32| gregs.add(index as usize).read_unaligned() as u64;
            state.gpr = GREGS.map(get);
            state.rip = get(libc::REG_RIP);
            state.rflags = get(libc::REG_EFL);
            let selectors = get(libc::REG_CSGSFS);
            let [ds, es, fs, gs] = (*self.control()).segments;
            state.segments = [es, selectors as u16, (selectors >> 48) as u16, ds, fs, gs];
            state.bases = (*self.control()).bases;
            ptr::copy_nonoverlapping(fp, state.fx.as_mut_ptr(), fx::SIZE);
            ptr::copy_nonoverlapping(self.base, memory.as_mut_ptr(), layout::MEMORY);
            let vector = get(libc::REG_TRAPNO) as u8;
            let address = if vector == 14 { get(libc::REG_CR2) } else { 0 };
            let event = Event::Exception { vector, error: get(libc::REG_ERR) as u32, address };
            Ok(Outcome { state, memory, event, pointers: self.pointers })
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: mapped in `new`, and used by nobody any more.
        unsafe { libc::munmap(self.base.cast(), FILE_LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Test;
    use crate::state::BREAKPOINT;

    fn run(host: &mut Host, text: &str) -> Result<Outcome, Failure> {
        host.run(&text.parse::<Test>().unwrap().case)
    }

    #[test]
    fn registers_go_in_and_come_out() {
        let mut host = Host::new().unwrap();
        let text = "code=480fafc1 rax=3 rcx=fffffffffffffffe r15=7 xmm15=123456789abcdef00fedcba987654321";
        let end = run(&mut host, text).unwrap();
        assert_eq!((end.event, end.state.gpr[0]), (BREAKPOINT, -6i64 as u64));
        assert_eq!((end.state.rip, end.state.gpr[15]), (layout::START + 5, 7));
        assert_eq!(end.state.get(fx::XMM + 240, 16), 0x1234_5678_9abc_def0_0fed_cba9_8765_4321);
    }

    #[test]
    fn segment_registers_go_in_and_come_out() {
        let mut host = Host::new().unwrap();
        // mov rax, fs:[0]; mov rcx, gs:[0]; mov ds, edx
        let end =
            run(&mut host, "code=64488b042500000000.65488b0c2500000000.8eda rdx=2b 20004800=01 20005400=02");
        let end = end.unwrap().state;
        assert_eq!((end.gpr[0] as u8, end.gpr[1] as u8), (1, 2));
        assert_eq!(end.segments, [0, 0x33, 0x2b, 0x2b, 0, 0]);
        assert_eq!(end.bases, [layout::FS_BASE, layout::GS_BASE]);
        // Compatibility mode: inc eax, which is a REX prefix in 64-bit mode; mov ecx, fs:[0]
        let end = run(&mut host, "mode=32 code=40.648b0d00000000 rax=5 20004800=01020304").unwrap().state;
        assert_eq!((end.gpr[0], end.gpr[1]), (6, 0x0403_0201));
        assert_eq!(end.segments, [0x2b, 0x23, 0x2b, 0x2b, layout::FS, layout::GS]);
    }

    #[test]
    fn system_calls_and_endless_code_do_no_harm() {
        let mut host = Host::new().unwrap();
        // syscall (exit_group); int 0x80 (exit) in both modes; jmp $
        assert_eq!(run(&mut host, "code=0f05 rax=e7").err(), Some(Failure::SystemCall));
        assert_eq!(run(&mut host, "code=cd80 rax=1").err(), Some(Failure::SystemCall));
        assert_eq!(run(&mut host, "mode=32 code=cd80 rax=1").err(), Some(Failure::SystemCall));
        assert_eq!(run(&mut host, "code=ebfe").err(), Some(Failure::Endless));
        assert_eq!(run(&mut host, "mode=ring0 code=90").err(), Some(Failure::Supervisor));
        assert_eq!(run(&mut host, "code=90").unwrap().event, BREAKPOINT);
    }
}
