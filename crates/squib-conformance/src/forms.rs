//! Which instructions are compared.

use iced_x86::{Code, CpuidFeature as F, EncodingKind, Mnemonic as M, OpCodeOperandKind as K};

/// What the default CPU model offers to user code, x86-64-v1 with CMPXCHG16B and LAHF.
fn offered(feature: F) -> bool {
    matches!(
        feature,
        F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::X64
            | F::MULTIBYTENOP
            | F::PAUSE
            | F::CMOV
            | F::CX8
            | F::CMPXCHG16B
            | F::FPU
            | F::FPU287
            | F::FPU387
            | F::MMX
            | F::FXSR
            | F::CLFSH
            | F::SSE
            | F::SSE2
            | F::SMM
            | F::MSR
    )
}

/// What cannot be compared: it calls the kernel, reads what is the host's own, or needs its descriptor tables.
fn incomparable(m: M) -> bool {
    matches!(
        m,
        M::Syscall
            | M::Sysenter
            | M::Sysexit
            | M::Sysexitq
            | M::Sysret
            | M::Sysretq
            | M::Cpuid
            | M::Rdtsc
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Retf
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Lss
            | M::Lfs
            | M::Lgs
    )
}

/// x87 functions whose last digit the manuals leave to the processor (Intel SDM vol. 1, 8.3.10); they have tests of
/// their own with bounds.
fn approximate(m: M) -> bool {
    matches!(m, M::Fsin | M::Fcos | M::Fsincos | M::Fptan | M::Fpatan | M::F2xm1 | M::Fyl2x | M::Fyl2xp1)
}

fn far_or_segment(code: Code) -> bool {
    matches!(
        code,
        Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
            | Code::Popw_FS
            | Code::Popq_FS
            | Code::Popw_GS
            | Code::Popq_GS
            | Code::Pushw_FS
            | Code::Pushq_FS
            | Code::Pushw_GS
            | Code::Pushq_GS
    ) || code.mnemonic() == M::Mov && code.op_code().op_kinds().contains(&K::seg_reg)
}

/// Whether `code` is compared.
pub fn covered(code: Code) -> bool {
    let info = code.op_code();
    info.is_instruction()
        && info.encoding() == EncodingKind::Legacy
        && info.mode64()
        && info.decoder_option() == 0
        && code.cpuid_features().iter().all(|f| offered(*f))
        && !incomparable(code.mnemonic())
        && !approximate(code.mnemonic())
        && !far_or_segment(code)
}

/// Whether user code may run it at all.
pub fn permitted(code: Code) -> bool {
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

/// Every form that is compared.
pub fn all() -> Vec<Code> {
    Code::values().filter(|c| covered(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_is_covered_and_the_dangerous_is_not() {
        for code in
            [Code::Add_rm8_r8, Code::Cmpxchg16b_m128, Code::Fadd_m32fp, Code::Divpd_xmm_xmmm128, Code::Hlt]
        {
            assert!(covered(code), "{code:?}");
        }
        for code in [Code::Syscall, Code::Popcnt_r64_rm64, Code::VEX_Vaddps_xmm_xmm_xmmm128] {
            assert!(!covered(code), "{code:?}");
        }
        assert!(all().len() > 900, "{}", all().len());
    }
}
