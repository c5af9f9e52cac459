//! The host CPU as oracle: runs one instruction with given x87, MMX, SSE and general registers.

use std::arch::x86_64::__cpuid;
use std::sync::atomic::{AtomicU32, Ordering};

use iced_x86::{Code, Encoder, Instruction};

/// The state that an instruction starts with and leaves.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct State {
    /// FXSAVE64's layout.
    pub(crate) fx: [u8; 512],
    /// Memory at RDI.
    pub(crate) buffer: [u8; 512],
    pub(crate) rax: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) flags: u64,
}

impl State {
    pub(crate) fn new() -> Self {
        let mut state = Self { fx: [0; 512], buffer: [0; 512], rax: 0, rdx: 0, rcx: 0, flags: 2 };
        state.fx[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        state.set_mxcsr(0x1f80);
        state
    }

    pub(crate) fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(self.fx[24..28].try_into().unwrap())
    }

    pub(crate) fn set_mxcsr(&mut self, value: u32) {
        self.fx[24..28].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn xmm(&self, i: usize) -> u128 {
        u128::from_le_bytes(self.fx[160 + 16 * i..176 + 16 * i].try_into().unwrap())
    }

    pub(crate) fn set_xmm(&mut self, i: usize, value: u128) {
        self.fx[160 + 16 * i..176 + 16 * i].copy_from_slice(&value.to_le_bytes());
    }

    /// MMX register `i` while TOP is 0.
    pub(crate) fn mm(&self, i: usize) -> u64 {
        u64::from_le_bytes(self.fx[32 + 16 * i..40 + 16 * i].try_into().unwrap())
    }

    pub(crate) fn set_mm(&mut self, i: usize, value: u64) {
        self.fx[32 + 16 * i..40 + 16 * i].copy_from_slice(&value.to_le_bytes());
        self.fx[40 + 16 * i..42 + 16 * i].copy_from_slice(&[0xff; 2]);
    }
}

/// Executable memory.
pub(crate) struct Host {
    code: *mut u8,
}

/// Whether the host's processor is AMD's. squib's is of Intel's kind.
pub(crate) fn is_amd() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

/// Whether the host does something else where both may: AMD's processors approximate with other last digits, add up dot products
/// in another order, and have results of FPREM1 and FSCALE where an operand's exception is not masked.
pub(crate) fn host_differs(code: Code) -> bool {
    use iced_x86::Mnemonic as M;
    is_amd()
        && matches!(
            code.mnemonic(),
            M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Dpps | M::Dppd | M::Fprem1 | M::Fscale
        )
}

const PAGE: usize = 4096;

/// MXCSR at the last SIMD exception, plus this bit.
const SEEN: u32 = 1 << 31;
static FAULT: AtomicU32 = AtomicU32::new(0);

/// Notes MXCSR, masks everything, and lets the instruction run again.
extern "C" fn on_fpe(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext_t, whose fpregs points to the saved state.
    let registers = unsafe { &mut *(*context.cast::<libc::ucontext_t>()).uc_mcontext.fpregs };
    FAULT.store(registers.mxcsr | SEEN, Ordering::Relaxed);
    registers.mxcsr |= 0x1f80;
}

impl Host {
    pub(crate) fn new() -> Self {
        // SAFETY: an anonymous mapping, and a handler that only touches its own frame and an atomic.
        unsafe {
            let code = libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(code, libc::MAP_FAILED);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fpe as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGFPE, &action, std::ptr::null_mut()), 0);
            Self { code: code.cast() }
        }
    }

    /// Makes `instruction` the one that [`run`](Self::run) runs. RDI is the buffer's address.
    pub(crate) fn load(&mut self, instruction: &Instruction) {
        let mut encoder = Encoder::new(64);
        encoder.encode(instruction, self.code as u64).expect("encodable");
        self.load_bytes(&encoder.take_buffer());
    }

    pub(crate) fn load_bytes(&mut self, instruction: &[u8]) {
        let mut code = Vec::new();
        // push rbx; mov r8, rdi; mov rcx, [r8+1040]; mov rdx, [r8+1032]; mov rax, [r8+1024]
        code.extend([0x53, 0x49, 0x89, 0xf8]);
        code.extend([0x49, 0x8b, 0x88, 0x10, 4, 0, 0]);
        code.extend([0x49, 0x8b, 0x90, 0x08, 4, 0, 0]);
        code.extend([0x49, 0x8b, 0x80, 0x00, 4, 0, 0]);
        // push [r8+1048]; popfq; lea rdi, [r8+512]; fxrstor64 [r8]
        code.extend([0x41, 0xff, 0xb0, 0x18, 4, 0, 0, 0x9d]);
        code.extend([0x49, 0x8d, 0xb8, 0, 2, 0, 0]);
        code.extend([0x49, 0x0f, 0xae, 0x08]);
        code.extend(instruction);
        // fxsave64 [r8]; pushfq; pop [r8+1048]
        code.extend([0x49, 0x0f, 0xae, 0x00]);
        code.extend([0x9c, 0x41, 0x8f, 0x80, 0x18, 4, 0, 0]);
        // mov [r8+1024], rax; mov [r8+1032], rdx; mov [r8+1040], rcx
        code.extend([0x49, 0x89, 0x80, 0x00, 4, 0, 0]);
        code.extend([0x49, 0x89, 0x90, 0x08, 4, 0, 0]);
        code.extend([0x49, 0x89, 0x88, 0x10, 4, 0, 0]);
        // fninit; push 0x1f80; ldmxcsr [rsp]; pop rbx; pop rbx; ret
        code.extend([0xdb, 0xe3, 0x68, 0x80, 0x1f, 0, 0, 0x0f, 0xae, 0x14, 0x24, 0x5b, 0x5b, 0xc3]);
        assert!(code.len() <= PAGE);
        // SAFETY: the page is ours and large enough.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.code, code.len()) };
    }

    /// Runs the instruction. Returns MXCSR as an unmasked SIMD exception found it, if there was one.
    pub(crate) fn run(&mut self, state: &mut State) -> Option<u32> {
        FAULT.store(0, Ordering::Relaxed);
        // SAFETY: `load` has put a complete function there that touches `state` alone.
        unsafe {
            let code: extern "sysv64" fn(*mut State) = std::mem::transmute(self.code);
            code(state);
        }
        let fault = FAULT.load(Ordering::Relaxed);
        (fault & SEEN != 0).then_some(fault & !SEEN)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`.
        unsafe { libc::munmap(self.code.cast(), PAGE) };
    }
}

/// A small generator of reproducible numbers (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Whether this host has all that `code` needs.
pub(crate) fn host_has(code: Code) -> bool {
    use iced_x86::CpuidFeature as F;
    code.cpuid_features().iter().all(|feature| match feature {
        F::SSE3 => std::is_x86_feature_detected!("sse3"),
        F::SSSE3 => std::is_x86_feature_detected!("ssse3"),
        F::SSE4_1 => std::is_x86_feature_detected!("sse4.1"),
        F::SSE4_2 => std::is_x86_feature_detected!("sse4.2"),
        F::AES => std::is_x86_feature_detected!("aes"),
        F::PCLMULQDQ => std::is_x86_feature_detected!("pclmulqdq"),
        F::SHA => std::is_x86_feature_detected!("sha"),
        _ => true,
    })
}
