//! Which instructions a CPU model offers. What it does not offer raises #UD, whatever this CPU could do, unless the
//! bytes meant something older.

use iced_x86::{Code, CpuidFeature as C, Mnemonic as M};

use crate::insn::Insn;
use crate::model::{CpuModel, Feature};

/// Whether every processor that is considered here has an instruction set. PREFETCHW and its kin are hints, and no
/// processor minds them.
const fn is_basic(c: C) -> bool {
    matches!(
        c,
        C::INTEL8086
            | C::INTEL186
            | C::INTEL286
            | C::INTEL386
            | C::INTEL486
            | C::X64
            | C::CPUID
            | C::RDPMC
            | C::MULTIBYTENOP
            | C::PAUSE
            | C::PREFETCHW
    )
}

/// The feature that CPUID promises an instruction set by; `None` for those that are in every processor, or in none that
/// this CPU can be.
pub const fn feature(c: C) -> Option<Feature> {
    Some(match c {
        C::FPU | C::FPU287 | C::FPU387 => Feature::FPU,
        C::CMOV => Feature::CMOV,
        C::CX8 => Feature::CX8,
        C::CMPXCHG16B => Feature::CX16,
        C::CLFSH => Feature::CLFLUSH,
        C::MMX => Feature::MMX,
        C::FXSR => Feature::FXSR,
        C::SSE => Feature::SSE,
        C::SSE2 => Feature::SSE2,
        C::SSE3 => Feature::SSE3,
        C::SSSE3 => Feature::SSSE3,
        C::SSE4_1 => Feature::SSE4_1,
        C::SSE4_2 => Feature::SSE4_2,
        C::POPCNT => Feature::POPCNT,
        C::LZCNT => Feature::LZCNT,
        C::MOVBE => Feature::MOVBE,
        C::AES => Feature::AES,
        C::PCLMULQDQ => Feature::PCLMULQDQ,
        C::SHA => Feature::SHA,
        C::ADX => Feature::ADX,
        C::BMI1 => Feature::BMI1,
        C::BMI2 => Feature::BMI2,
        C::XSAVE => Feature::XSAVE,
        C::XSAVEOPT => Feature::XSAVEOPT,
        C::XSAVEC => Feature::XSAVEC,
        C::XSAVES => Feature::XSAVES,
        C::FSGSBASE => Feature::FSGSBASE,
        C::INVPCID => Feature::INVPCID,
        C::PKU => Feature::PKU,
        C::RDPID => Feature::RDPID,
        C::RDRAND => Feature::RDRAND,
        C::RDSEED => Feature::RDSEED,
        C::RDTSCP => Feature::RDTSCP,
        C::SMAP => Feature::SMAP,
        C::MSR => Feature::MSR,
        C::TSC => Feature::TSC,
        C::SEP => Feature::SEP,
        C::SYSCALL => Feature::SYSCALL,
        _ => return None,
    })
}

/// Whether `model` offers `code`.
pub fn offers(model: &CpuModel, code: Code) -> bool {
    // The calls to a hypervisor are squib's own, whichever vendor's bytes they are.
    matches!(code.mnemonic(), M::Vmcall | M::Vmmcall)
        || code.cpuid_features().iter().all(|c| is_basic(*c) || feature(*c).is_some_and(|f| model.has(f)))
}

/// The instruction as a processor of `model` runs it; `None` where it raises #UD.
///
/// Some bytes were given a meaning that older processors are known not to have: those ignore the prefix, or run a
/// reserved NOP (Intel SDM vol. 2: "TZCNT", "LZCNT", "WBNOINVD", and appendix A, table A-3).
pub fn admit(model: &CpuModel, i: Insn) -> Option<Insn> {
    if offers(model, i.code) {
        return Some(i);
    }
    let mnemonic = match i.mnemonic {
        M::Tzcnt => M::Bsf,
        M::Lzcnt => M::Bsr,
        M::Wbnoinvd => M::Wbinvd,
        M::Prefetchwt1
        | M::Prefetchit0
        | M::Prefetchit1
        | M::Cldemote
        | M::Endbr32
        | M::Endbr64
        | M::Rdsspd
        | M::Rdsspq => M::Nop,
        _ => return None,
    };
    Some(Insn { mnemonic, ..i })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodeMode;
    use crate::insn::decode;

    #[test]
    fn a_model_offers_what_cpuid_says() {
        let v1 = CpuModel::v1();
        for code in [Code::Add_rm32_r32, Code::Addsd_xmm_xmmm64, Code::Fadd_m32fp, Code::Vmcall] {
            assert!(offers(&v1, code), "{code:?}");
        }
        for code in [
            Code::Haddps_xmm_xmmm128,
            Code::Pshufb_xmm_xmmm128,
            Code::Popcnt_r32_rm32,
            Code::Xsave_mem,
            Code::VEX_Vaddps_xmm_xmm_xmmm128,
            Code::Monitorq,
            Code::Xbegin_rel32,
        ] {
            assert!(!offers(&v1, code), "{code:?}");
        }
    }

    #[test]
    fn what_is_not_offered_runs_as_what_it_was() {
        let name = |model: &str, bytes: &[u8]| {
            let model = CpuModel::parse(model).unwrap();
            let insn = decode(bytes, 0x1000, CodeMode::Bits64).unwrap();
            admit(&model, insn).map(|i| i.mnemonic)
        };
        let cases: [(&[u8], _, _); 6] = [
            (&[0xf3, 0x0f, 0xbc, 0xc1], Some(M::Bsf), Some(M::Tzcnt)),
            (&[0xf3, 0x0f, 0xbd, 0xc1], Some(M::Bsr), Some(M::Lzcnt)),
            (&[0xf3, 0x0f, 0xb8, 0xc1], None, Some(M::Popcnt)),
            (&[0xf3, 0x0f, 0x1e, 0xfa], Some(M::Nop), Some(M::Nop)),
            (&[0xf3, 0x0f, 0x09], Some(M::Wbinvd), Some(M::Wbinvd)),
            (&[0x0f, 0x0d, 0x08], Some(M::Prefetchw), Some(M::Prefetchw)),
        ];
        for (bytes, old, new) in cases {
            assert_eq!((name("v1", bytes), name("max", bytes)), (old, new), "{bytes:x?}");
        }
    }
}
