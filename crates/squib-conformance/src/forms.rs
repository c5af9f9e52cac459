//! Which instructions are compared, and why others are not.

use iced_x86::{Code, Mnemonic as M, OpCodeOperandKind as K};

use crate::features::{Features, Lacks};
use crate::layout::Mode;

/// Why a form is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// squib's CPU model does not offer it.
    NotOffered,
    /// The host has not got it.
    HostLacks,
    /// It calls the kernel, or a hypervisor.
    CallsKernel,
    /// What it reads is the host's own: the time, random numbers, the processor's number, CPUID, XCR0.
    HostsOwn,
    /// Linux runs it in the CPU's stead, because user code may not (UMIP).
    Emulated,
    /// It is two instructions: FWAIT, and the form without it.
    Two,
    /// Only a decoder that is told so knows it: bytes of processors that are no more, or of AMD's. So are near branches
    /// with 16-bit operands in 64-bit mode, where Intel's processors ignore the prefix.
    OtherProcessor,
}

impl Why {
    /// The reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotOffered => {
                "squib's CPU does not offer it: #UD, which fuzzing and the tests of CPU models see"
            }
            Self::HostLacks => "the host has not got it",
            Self::CallsKernel => "it calls the kernel or a hypervisor",
            Self::HostsOwn => "it reads what is the host's own: time, random numbers, CPUID, XCR0",
            Self::Emulated => "the kernel runs it in the CPU's stead (UMIP)",
            Self::Two => "it is FWAIT and another form",
            Self::OtherProcessor => "only other processors have these bytes",
        }
    }
}

/// Whether it is a branch within the segment with 16-bit operand size.
fn is_near_branch_16(code: Code) -> bool {
    let info = code.op_code();
    let near = info.op_kinds().iter().any(|k| matches!(k, K::br16_1 | K::br16_2));
    near || matches!(code, Code::Retnw | Code::Retnw_imm16 | Code::Call_rm16 | Code::Jmp_rm16)
}

/// Whether `code` is compared in `mode`; `None` where it cannot be written at all.
pub fn status(code: Code, mode: Mode, features: &Features) -> Option<Result<(), Why>> {
    let info = code.op_code();
    let exists = match mode {
        Mode::Bits64 | Mode::Ring0 => info.mode64(),
        Mode::Bits32 => info.compatibility_mode() && info.mode32(),
        Mode::Protected => info.protected_mode() && info.mode32(),
        Mode::Real => info.real_mode() && info.mode16(),
    };
    if !exists || !info.is_instruction() {
        return None;
    }
    if let Err(lacks) = features.have(code) {
        return Some(Err(match lacks {
            Lacks::Model => Why::NotOffered,
            Lacks::Host => Why::HostLacks,
        }));
    }
    if info.decoder_option() != 0 {
        return Some(Err(Why::OtherProcessor));
    }
    Some(match code.mnemonic() {
        _ if info.op_kinds().contains(&K::tr_reg) => Err(Why::OtherProcessor),
        _ if mode.bits() == 64 && is_near_branch_16(code) => Err(Why::OtherProcessor),
        M::Syscall
        | M::Sysenter
        | M::Sysexit
        | M::Sysexitq
        | M::Sysret
        | M::Sysretq
        | M::Vmcall
        | M::Vmmcall => Err(Why::CallsKernel),
        M::Cpuid
        | M::Rdtsc
        | M::Rdtscp
        | M::Rdpid
        | M::Rdrand
        | M::Rdseed
        | M::Xgetbv
        | M::Rdpkru
        | M::Wrpkru => Err(Why::HostsOwn),
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => Err(Why::Emulated),
        // Two opcode bytes, to which the decoder knows no operands.
        M::Ud0 if info.op_count() == 0 => Err(Why::OtherProcessor),
        M::Fstcw | M::Fstenv | M::Fsave | M::Fstsw | M::Fclex | M::Finit | M::Feni | M::Fdisi | M::Fsetpm => {
            Err(Why::Two)
        }
        _ => Ok(()),
    })
}

/// Whether it is an x87 function whose last digits the manuals leave to the processor (Intel SDM vol. 1, 8.3.10).
pub const fn is_approximate(m: M) -> bool {
    matches!(m, M::Fsin | M::Fcos | M::Fsincos | M::Fptan | M::Fpatan | M::F2xm1 | M::Fyl2x | M::Fyl2xp1)
}

/// Whether it goes to another code segment.
pub fn is_far(code: Code) -> bool {
    let far = |m| matches!(m, M::Retf | M::Iret | M::Iretd | M::Iretq);
    far(code.mnemonic())
        || matches!(
            code,
            Code::Jmp_m1616
                | Code::Jmp_m1632
                | Code::Jmp_m1664
                | Code::Call_m1616
                | Code::Call_m1632
                | Code::Call_m1664
                | Code::Jmp_ptr1616
                | Code::Jmp_ptr1632
                | Code::Call_ptr1616
                | Code::Call_ptr1632
        )
}

/// Whether it saves or restores by XSAVE's rules.
pub const fn is_xsave(m: M) -> bool {
    matches!(
        m,
        M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaves
            | M::Xsaves64
            | M::Xrstor
            | M::Xrstor64
            | M::Xrstors
            | M::Xrstors64
    )
}

/// Whether it stores or loads x87's or SSE's state as a whole.
pub const fn stores_float_state(m: M) -> bool {
    matches!(
        m,
        M::Fnstenv | M::Fldenv | M::Fnsave | M::Frstor | M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64
    ) || is_xsave(m)
}

/// Whether it may stand among others: not where what it leaves is known only roughly, nor where the code after it may be
/// of another mode.
pub fn may_be_among_others(code: Code) -> bool {
    let m = code.mnemonic();
    !is_approximate(m) && !is_far(code) && !is_xsave(m)
}

/// Whether user code may run it at all.
pub fn is_permitted(code: Code) -> bool {
    let always_faults = matches!(
        code.mnemonic(),
        M::Ud0
            | M::Ud1
            | M::Ud2
            | M::Int
            | M::Int1
            | M::Int3
            | M::In
            | M::Out
            | M::Cli
            | M::Sti
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
    );
    code.op_code().cpl3() && !always_faults
}

/// Every form that is compared, in the two modes of user code.
pub fn all(features: &Features) -> Vec<(Mode, Code)> {
    let modes = [Mode::Bits64, Mode::Bits32];
    let pairs = modes.into_iter().flat_map(|mode| Code::values().map(move |code| (mode, code)));
    pairs.filter(|(mode, code)| status(*code, *mode, features) == Some(Ok(()))).collect()
}

/// The forms that are not, with the reason.
pub fn not_compared(features: &Features) -> Vec<(Mode, Code, Why)> {
    let modes = [Mode::Bits64, Mode::Bits32];
    let pairs = modes.into_iter().flat_map(|mode| Code::values().map(move |code| (mode, code)));
    pairs.filter_map(|(mode, code)| Some((mode, code, status(code, mode, features)?.err()?))).collect()
}

#[cfg(test)]
mod tests {
    use squib_x86::model::CpuModel;

    use super::*;

    #[test]
    fn the_usual_is_compared_and_the_dangerous_is_not() {
        let features = Features::new(CpuModel::max(), false).unwrap();
        let in_64 = |code| status(code, Mode::Bits64, &features);
        for code in
            [Code::Add_rm8_r8, Code::Cmpxchg16b_m128, Code::Fadd_m32fp, Code::Fsin, Code::Lar_r32_r32m16]
        {
            assert_eq!(in_64(code), Some(Ok(())), "{code:?}");
        }
        assert_eq!(in_64(Code::Syscall), Some(Err(Why::CallsKernel)));
        assert_eq!(in_64(Code::VEX_Vaddps_xmm_xmm_xmmm128), Some(Err(Why::NotOffered)));
        assert_eq!(in_64(Code::Aaa), None);
        assert_eq!(status(Code::Aaa, Mode::Bits32, &features), Some(Ok(())));
        assert!(all(&features).len() > 2000, "{}", all(&features).len());
    }
}
