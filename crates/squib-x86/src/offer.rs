//! Which instructions a CPU model offers. What it does not offer raises #UD, whatever this CPU could do.

use iced_x86::{Code, CpuidFeature as C, Mnemonic as M};

use crate::model::{CpuModel, Feature};

/// The feature that CPUID promises an instruction set by, for those that a model may lack.
const fn feature(c: C) -> Option<Feature> {
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
    match code.mnemonic() {
        // Where these are not offered, their bytes are older instructions: BSF, BSR and the reserved NOPs.
        M::Tzcnt
        | M::Lzcnt
        | M::Prefetchw
        | M::Prefetch
        | M::Endbr32
        | M::Endbr64
        | M::Rdsspd
        | M::Rdsspq => true,
        _ => code.cpuid_features().iter().all(|c| feature(*c).is_none_or(|f| model.has(f))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_offers_what_cpuid_says_and_what_runs_as_something_older() {
        let v1 = CpuModel::v1();
        for code in [
            Code::Add_rm32_r32,
            Code::Addsd_xmm_xmmm64,
            Code::Tzcnt_r32_rm32,
            Code::Endbr64,
            Code::Fadd_m32fp,
        ] {
            assert!(offers(&v1, code), "{code:?}");
        }
        for code in
            [Code::Haddps_xmm_xmmm128, Code::Pshufb_xmm_xmmm128, Code::Popcnt_r32_rm32, Code::Xsave_mem]
        {
            assert!(!offers(&v1, code), "{code:?}");
        }
    }
}
