//! The child: what it is made of, and what it runs.
#![allow(unsafe_code, reason = "a process that gives up its own memory")]

use std::arch::global_asm;
use std::io;
use std::ptr;

use crate::layout::{self, Access, PAGE};

/// The page with the child's code, in the child; far from where cases' numbers point.
pub const STUB: u64 = 0x315a_7c3e_1000;

/// The memory that it shares with its parent, in the child.
pub const SHARED: u64 = STUB + 0x1_0000;

/// Bytes of that: the control block, then the signal stack.
pub const SHARED_LEN: u64 = 0x2_0000;

/// The control block.
#[repr(C)]
pub struct Control {
    /// Whose turn it is: [`TURN_CHILD`] or [`TURN_PARENT`].
    pub turn: std::sync::atomic::AtomicU32,
    /// The signal's number.
    pub signal: u32,
    /// Its ucontext, as an address in the child.
    pub context: u64,
    /// DS, ES, FS and GS, which signal frames do not hold.
    pub segments: [u16; 4],
    /// Bases of FS and GS. On the way in they count where the selector is null.
    pub bases: [u64; 2],
}

/// The signal that ends a case from outside. It waits while the child waits.
pub const INTERRUPT: i32 = libc::SIGALRM;

/// The child runs.
pub const TURN_CHILD: u32 = 0;
/// The child waits.
pub const TURN_PARENT: u32 = 1;

/// Where user addresses end.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

const SANDBOX_END: u64 = layout::BASE + layout::PAGES * PAGE;

unsafe extern "C" {
    static squib_stub_start: u8;
    static squib_stub_handler: u8;
    static squib_stub_end: u8;
}

// At `squib_stub_start` the child gives up all other memory and raises its first signal. `squib_stub_handler` is the
// handler of every signal (RDI: its number, RDX: the ucontext): it saves the segment registers, hands the turn to the
// parent, waits for it to come back, loads the segment registers, and returns from the signal. RFLAGS is cleaned because AC and NT
// survive the way into a handler.
global_asm!(
    ".pushsection .text.squib_stub, \"ax\", @progbits",
    ".globl squib_stub_start, squib_stub_handler, squib_stub_end",
    "squib_stub_start:",
    "xor edi, edi",
    "mov esi, {base}",
    "mov eax, {munmap}",
    "syscall",
    "mov edi, {sandbox_end}",
    "movabs rsi, {between}",
    "mov eax, {munmap}",
    "syscall",
    "movabs rdi, {shared_end}",
    "movabs rsi, {rest}",
    "mov eax, {munmap}",
    "syscall",
    "ud2",
    "squib_stub_handler:",
    "push 2",
    "popfq",
    "movabs rbx, {shared}",
    "mov [rbx + 4], edi",
    "mov [rbx + 8], rdx",
    "mov [rbx + 16], ds",
    "mov [rbx + 18], es",
    "mov [rbx + 20], fs",
    "mov [rbx + 22], gs",
    "mov edi, {get_fs}",
    "lea rsi, [rbx + 24]",
    "mov eax, {arch_prctl}",
    "syscall",
    "mov edi, {get_gs}",
    "lea rsi, [rbx + 32]",
    "mov eax, {arch_prctl}",
    "syscall",
    "mov dword ptr [rbx], 1",
    "mov rdi, rbx",
    "mov esi, 1", // FUTEX_WAKE
    "mov edx, 1",
    "mov eax, {futex}",
    "syscall",
    "2:",
    "cmp dword ptr [rbx], 0",
    "je 3f",
    "mov rdi, rbx",
    "xor esi, esi", // FUTEX_WAIT
    "mov edx, 1",
    "xor r10d, r10d",
    "mov eax, {futex}",
    "syscall",
    "jmp 2b",
    "3:",
    "mov edi, {set_fs}",
    "mov rsi, [rbx + 24]",
    "mov eax, {arch_prctl}",
    "syscall",
    "mov edi, {set_gs}",
    "mov rsi, [rbx + 32]",
    "mov eax, {arch_prctl}",
    "syscall",
    "mov ds, [rbx + 16]",
    "mov es, [rbx + 18]",
    "cmp word ptr [rbx + 20], 0",
    "je 4f",
    "mov fs, [rbx + 20]",
    "4:",
    "cmp word ptr [rbx + 22], 0",
    "je 5f",
    "mov gs, [rbx + 22]",
    "5:",
    "mov rsp, [rbx + 8]",
    "mov eax, {sigreturn}",
    "syscall",
    "squib_stub_end:",
    ".popsection",
    set_fs = const ARCH_SET_FS,
    set_gs = const ARCH_SET_GS,
    get_fs = const ARCH_GET_FS,
    get_gs = const ARCH_GET_GS,
    arch_prctl = const libc::SYS_arch_prctl,
    base = const layout::BASE,
    sandbox_end = const SANDBOX_END,
    between = const STUB - SANDBOX_END,
    shared = const SHARED,
    shared_end = const SHARED + SHARED_LEN,
    rest = const TASK_SIZE - SHARED - SHARED_LEN,
    munmap = const libc::SYS_munmap,
    futex = const libc::SYS_futex,
    sigreturn = const libc::SYS_rt_sigreturn,
);

const ARCH_SET_GS: i32 = 0x1001;
const ARCH_SET_FS: i32 = 0x1002;
const ARCH_GET_FS: i32 = 0x1003;
const ARCH_GET_GS: i32 = 0x1004;

/// The C library's registration for restartable sequences, which the kernel writes to at every turn.
const RSEQ_UNREGISTER: i32 = 1;
const RSEQ_SIGNATURE: u32 = 0x5305_3053;

fn check(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Maps `len` bytes of `file` from `offset` at `addr`.
fn map(addr: u64, len: u64, rights: i32, file: i32, offset: u64) -> io::Result<()> {
    let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
    // SAFETY: a new mapping, at an address where there is none.
    let at = unsafe {
        libc::mmap(addr as *mut libc::c_void, len as usize, rights, flags, file, offset as libc::off_t)
    };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Maps the sandbox, whose pages are at the start of `file`, and the shared memory after them.
fn map_all(file: i32) -> io::Result<()> {
    for (i, (access, backing)) in layout::MAP.into_iter().enumerate() {
        let rights = match access {
            Access::None => continue,
            Access::Code => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            Access::Data => libc::PROT_READ | libc::PROT_WRITE,
            Access::ReadOnly => libc::PROT_READ,
        };
        map(layout::BASE + i as u64 * PAGE, PAGE, rights, file, backing as u64 * PAGE)?;
    }
    map(SHARED, SHARED_LEN, libc::PROT_READ | libc::PROT_WRITE, file, layout::MEMORY as u64)
}

/// Copies the stub to its page. Returns the handler's address.
fn map_stub() -> io::Result<u64> {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a new mapping; the stub lies between its labels and is shorter than a page.
    unsafe {
        let page = libc::mmap(STUB as *mut libc::c_void, PAGE as usize, rights, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = &raw const squib_stub_start;
        let len = (&raw const squib_stub_end).offset_from_unsigned(start);
        ptr::copy_nonoverlapping(start, page.cast(), len);
        check(libc::mprotect(page, PAGE as usize, libc::PROT_READ | libc::PROT_EXEC).into())?;
        Ok(STUB + (&raw const squib_stub_handler).offset_from_unsigned(start) as u64)
    }
}

fn set_signals(handler: u64) -> io::Result<()> {
    let stack = libc::stack_t {
        ss_sp: (SHARED + PAGE) as *mut libc::c_void,
        ss_flags: 0,
        ss_size: (SHARED_LEN - PAGE) as usize,
    };
    // SAFETY: the stack is mapped, and the handler is the stub's.
    unsafe {
        check(libc::sigaltstack(&stack, ptr::null_mut()).into())?;
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigaddset(&mut action.sa_mask, INTERRUPT);
        let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];
        for signal in faults.into_iter().chain([INTERRUPT]) {
            check(libc::sigaction(signal, &action, ptr::null_mut()).into())?;
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut()).into())
    }
}

/// From now on only the stub may call the kernel.
fn set_filter() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const MASK: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// Offset of the instruction pointer in `struct seccomp_data`.
    const IP: u32 = 8;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        op(LOAD, 0, 0, IP + 4),
        op(EQUAL, 0, 4, (STUB >> 32) as u32),
        op(LOAD, 0, 0, IP),
        op(MASK, 0, 0, !(PAGE as u32 - 1)),
        op(EQUAL, 0, 1, STUB as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        op(RETURN, 0, 0, libc::SECCOMP_RET_TRAP),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter).into())
    }
}

/// Writes the local descriptor table (modify_ldt(2)).
fn set_ldt() -> io::Result<()> {
    /// `struct user_desc`: number, base, limit, and flags from bit 0 on.
    #[repr(C)]
    struct UserDesc([u32; 4]);
    const WRITE: i32 = 0x11;
    for (number, entry) in (0..).zip(layout::LDT) {
        let Some(d) = entry else { continue };
        let flags = u32::from(d.big)
            | u32::from(d.contents) << 1
            | u32::from(d.restricted) << 3
            | u32::from(d.pages) << 4
            | u32::from(!d.present) << 5;
        let desc = UserDesc([number, d.base as u32, d.limit, flags]);
        // SAFETY: the kernel copies the structure.
        check(unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE, &raw const desc, size_of::<UserDesc>()) })?;
    }
    Ok(())
}

/// The C library's restartable-sequences area of this thread, if it has registered one: address and length. Not for
/// the child, which must not look symbols up: other threads may have held the loader's lock at the fork.
pub fn rseq_area() -> Option<(u64, u32)> {
    // SAFETY: looks up two symbols of the C library with their documented types (glibc manual, "Restartable
    // Sequences"), and reads the thread pointer, which the ABI keeps at FS:0.
    unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        if offset.is_null() || size.is_null() || *size == 0 {
            return None;
        }
        let thread: u64;
        std::arch::asm!("mov {}, fs:[0]", out(reg) thread);
        Some((thread.wrapping_add_signed(*offset as i64), (*size).max(32)))
    }
}

/// Makes this process the child. Only returns when that fails.
///
/// # Safety
/// The process is a fresh fork, and nothing of it is used afterwards.
pub unsafe fn become_child(file: i32, rseq: Option<(u64, u32)>) -> io::Error {
    let prepare = || -> io::Result<()> {
        map_all(file)?;
        let handler = map_stub()?;
        // SAFETY: plain system calls. Nothing here is a restartable sequence.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0).into())?;
            if let Some((addr, len)) = rseq {
                check(libc::syscall(libc::SYS_rseq, addr, len, RSEQ_UNREGISTER, RSEQ_SIGNATURE))?;
            }
        }
        set_ldt()?;
        set_signals(handler)?;
        set_filter()
    };
    match prepare() {
        Err(e) => e,
        // SAFETY: the stub has been copied there; the caller promises that what it unmaps is not used.
        Ok(()) => unsafe {
            let stub: extern "C" fn() -> ! = std::mem::transmute(STUB);
            stub()
        },
    }
}
