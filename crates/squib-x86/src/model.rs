//! CPU models: which processor the guest sees.
//!
//! A model says what CPUID reports, and with it what the rest of the CPU accepts: control-register bits,
//! MSRs and instructions that a model does not offer raise the exceptions that hardware without them raises.
//! The choice of vendor, family and frequency is argued in `docs/design/cpu-model.md`.

use squib_core::{Error, ErrorCode, Result};

/// The CPUID registers that hold feature bits (Intel SDM vol. 2A, "CPUID").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Word {
    /// Leaf 1, EDX.
    L1Edx,
    /// Leaf 1, ECX.
    L1Ecx,
    /// Leaf 6, EAX.
    L6Eax,
    /// Leaf 7 subleaf 0, EBX.
    L7Ebx,
    /// Leaf 7 subleaf 0, ECX.
    L7Ecx,
    /// Leaf 7 subleaf 0, EDX.
    L7Edx,
    /// Leaf 0xD subleaf 1, EAX.
    Ld1Eax,
    /// Leaf 0x8000_0001, EDX.
    X1Edx,
    /// Leaf 0x8000_0001, ECX.
    X1Ecx,
    /// Leaf 0x8000_0007, EDX.
    X7Edx,
}

const WORDS: usize = Word::X7Edx as usize + 1;

/// One feature bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Feature {
    word: Word,
    bit: u8,
}

/// A set of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features([u32; WORDS]);

impl Features {
    /// The set of these.
    const fn of(list: &[Feature]) -> Self {
        let mut words = [0; WORDS];
        let mut i = 0;
        while i < list.len() {
            words[list[i].word as usize] |= 1 << list[i].bit;
            i += 1;
        }
        Self(words)
    }

    /// Those in either.
    const fn union(mut self, other: Self) -> Self {
        let mut i = 0;
        while i < WORDS {
            self.0[i] |= other.0[i];
            i += 1;
        }
        self
    }

    /// Whether `feature` is in it.
    #[inline]
    pub const fn has(&self, feature: Feature) -> bool {
        self.0[feature.word as usize] & 1 << feature.bit != 0
    }

    /// The bits of one CPUID register.
    pub const fn word(&self, word: Word) -> u32 {
        self.0[word as usize]
    }

    fn set(&mut self, feature: Feature, on: bool) {
        let mask = 1 << feature.bit;
        let word = &mut self.0[feature.word as usize];
        *word = if on { *word | mask } else { *word & !mask };
    }

    /// The names of the features that are here and not in `other`.
    fn beyond(&self, other: &Self) -> Vec<&'static str> {
        Feature::ALL.iter().filter(|(_, f)| self.has(*f) && !other.has(*f)).map(|(name, _)| *name).collect()
    }
}

macro_rules! features {
    ($($name:ident = $text:literal $word:ident $bit:literal,)*) => {
        impl Feature {
            $(#[doc = concat!("`", $text, "`.")] pub const $name: Self = Self { word: Word::$word, bit: $bit };)*

            /// Every feature that has a name, as Linux spells it in `/proc/cpuinfo`.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$name),)*];
        }
    };
}

features! {
    FPU = "fpu" L1Edx 0,
    DE = "de" L1Edx 2,
    PSE = "pse" L1Edx 3,
    TSC = "tsc" L1Edx 4,
    MSR = "msr" L1Edx 5,
    PAE = "pae" L1Edx 6,
    CX8 = "cx8" L1Edx 8,
    APIC = "apic" L1Edx 9,
    SEP = "sep" L1Edx 11,
    MTRR = "mtrr" L1Edx 12,
    PGE = "pge" L1Edx 13,
    CMOV = "cmov" L1Edx 15,
    PAT = "pat" L1Edx 16,
    PSE36 = "pse36" L1Edx 17,
    CLFLUSH = "clflush" L1Edx 19,
    MMX = "mmx" L1Edx 23,
    FXSR = "fxsr" L1Edx 24,
    SSE = "sse" L1Edx 25,
    SSE2 = "sse2" L1Edx 26,
    SELF_SNOOP = "ss" L1Edx 27,
    SSE3 = "pni" L1Ecx 0,
    PCLMULQDQ = "pclmulqdq" L1Ecx 1,
    SSSE3 = "ssse3" L1Ecx 9,
    CX16 = "cx16" L1Ecx 13,
    PCID = "pcid" L1Ecx 17,
    SSE4_1 = "sse4_1" L1Ecx 19,
    SSE4_2 = "sse4_2" L1Ecx 20,
    X2APIC = "x2apic" L1Ecx 21,
    MOVBE = "movbe" L1Ecx 22,
    POPCNT = "popcnt" L1Ecx 23,
    TSC_DEADLINE = "tsc_deadline_timer" L1Ecx 24,
    AES = "aes" L1Ecx 25,
    XSAVE = "xsave" L1Ecx 26,
    RDRAND = "rdrand" L1Ecx 30,
    HYPERVISOR = "hypervisor" L1Ecx 31,
    ARAT = "arat" L6Eax 2,
    FSGSBASE = "fsgsbase" L7Ebx 0,
    TSC_ADJUST = "tsc_adjust" L7Ebx 1,
    BMI1 = "bmi1" L7Ebx 3,
    FDP_EXCPTN_ONLY = "fdp_excptn_only" L7Ebx 6,
    SMEP = "smep" L7Ebx 7,
    BMI2 = "bmi2" L7Ebx 8,
    ERMS = "erms" L7Ebx 9,
    INVPCID = "invpcid" L7Ebx 10,
    ZERO_FCS_FDS = "zero_fcs_fds" L7Ebx 13,
    RDSEED = "rdseed" L7Ebx 18,
    ADX = "adx" L7Ebx 19,
    SMAP = "smap" L7Ebx 20,
    SHA = "sha_ni" L7Ebx 29,
    UMIP = "umip" L7Ecx 2,
    PKU = "pku" L7Ecx 3,
    RDPID = "rdpid" L7Ecx 22,
    FSRM = "fsrm" L7Edx 4,
    XSAVEOPT = "xsaveopt" Ld1Eax 0,
    XSAVEC = "xsavec" Ld1Eax 1,
    XGETBV1 = "xgetbv1" Ld1Eax 2,
    XSAVES = "xsaves" Ld1Eax 3,
    SYSCALL = "syscall" X1Edx 11,
    NX = "nx" X1Edx 20,
    PDPE1GB = "pdpe1gb" X1Edx 26,
    RDTSCP = "rdtscp" X1Edx 27,
    LM = "lm" X1Edx 29,
    LAHF_LM = "lahf_lm" X1Ecx 0,
    LZCNT = "abm" X1Ecx 5,
    PREFETCHW = "3dnowprefetch" X1Ecx 8,
    INVARIANT_TSC = "nonstop_tsc" X7Edx 8,
}

impl Feature {
    /// The feature with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
    }
}

/// What x86-64-v1 kernels and programs need (x86-64 psABI 3.1.1), the system features that every 64-bit
/// operating system uses, and what makes a virtual machine quick: a paravirtual clock's TSC, the deadline
/// timer, and string moves that are worth using.
const V1: Features = {
    use Feature as F;
    Features::of(&[
        F::FPU,
        F::DE,
        F::PSE,
        F::TSC,
        F::MSR,
        F::PAE,
        F::CX8,
        F::APIC,
        F::SEP,
        F::MTRR,
        F::PGE,
        F::CMOV,
        F::PAT,
        F::PSE36,
        F::CLFLUSH,
        F::MMX,
        F::FXSR,
        F::SSE,
        F::SSE2,
        F::SELF_SNOOP,
        F::CX16,
        F::X2APIC,
        F::TSC_DEADLINE,
        F::HYPERVISOR,
        F::ARAT,
        F::TSC_ADJUST,
        F::FDP_EXCPTN_ONLY,
        F::ZERO_FCS_FDS,
        F::ERMS,
        F::FSRM,
        F::SYSCALL,
        F::NX,
        F::LM,
        F::LAHF_LM,
        F::INVARIANT_TSC,
    ])
};

/// x86-64-v2 (psABI 3.1.1): SSE to 4.2 and POPCNT. CMPXCHG16B and LAHF are in `v1` already.
const V2: Features = {
    use Feature as F;
    V1.union(Features::of(&[F::SSE3, F::SSSE3, F::SSE4_1, F::SSE4_2, F::POPCNT]))
};

/// Everything that this CPU carries out, and so every feature that has a name: CPUID never promises what then raises #UD.
const IMPLEMENTED: Features = {
    use Feature as F;
    V2.union(Features::of(&[
        F::PCLMULQDQ,
        F::PCID,
        F::MOVBE,
        F::AES,
        F::RDRAND,
        F::BMI1,
        F::BMI2,
        F::RDSEED,
        F::ADX,
        F::SHA,
        F::PKU,
        F::RDPID,
        F::LZCNT,
        F::PREFETCHW,
        F::FSGSBASE,
        F::SMEP,
        F::SMAP,
        F::UMIP,
        F::INVPCID,
        F::PDPE1GB,
        F::RDTSCP,
        F::XSAVE,
        F::XSAVEOPT,
        F::XSAVEC,
        F::XGETBV1,
        F::XSAVES,
    ]))
};

/// What a feature cannot be without.
const REQUIRES: &[(Feature, Feature)] = {
    use Feature as F;
    &[
        (F::SSE, F::FXSR),
        (F::SSE2, F::SSE),
        (F::SSE3, F::SSE2),
        (F::SSSE3, F::SSE3),
        (F::SSE4_1, F::SSSE3),
        (F::SSE4_2, F::SSE4_1),
        (F::AES, F::SSE2),
        (F::PCLMULQDQ, F::SSE2),
        (F::SHA, F::SSE2),
        (F::XSAVE, F::FXSR),
        (F::XSAVEOPT, F::XSAVE),
        (F::XSAVEC, F::XSAVE),
        (F::XGETBV1, F::XSAVE),
        (F::XSAVES, F::XSAVEC),
        (F::LM, F::PAE),
        (F::LM, F::MSR),
        (F::NX, F::PAE),
        (F::PDPE1GB, F::LM),
        (F::PCID, F::LM),
        (F::RDTSCP, F::TSC),
        (F::TSC_ADJUST, F::TSC),
        (F::INVARIANT_TSC, F::TSC),
        (F::TSC_DEADLINE, F::TSC),
        (F::TSC_DEADLINE, F::APIC),
        (F::X2APIC, F::APIC),
    ]
};

/// The named models.
const NAMED: &[(&str, Features)] = &[("v1", V1), ("v2", V2), ("max", IMPLEMENTED)];

/// Whose processor it is. In what they do not share, instructions follow the maker's manual; `docs/design/cpu-model.md` lists
/// where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Vendor {
    /// Intel, family 6, model 0x1C, stepping 10.
    #[default]
    Intel,
    /// AMD, family 0x11, model 3, stepping 1.
    Amd,
}

impl Vendor {
    /// Twelve characters of leaf 0.
    pub const fn id(self) -> &'static [u8; 12] {
        match self {
            Self::Intel => b"GenuineIntel",
            Self::Amd => b"AuthenticAMD",
        }
    }

    /// Leaf 1 EAX: family, model and stepping in their encoding.
    pub const fn signature(self) -> u32 {
        match self {
            Self::Intel => 0x0001_06ca,
            Self::Amd => 0x0020_0f31,
        }
    }

    fn by_name(name: &str) -> Result<Self> {
        match name {
            "intel" => Ok(Self::Intel),
            "amd" => Ok(Self::Amd),
            _ => Err(invalid(format!("there is no CPU vendor '{name}'; there are intel and amd"))),
        }
    }
}

/// A processor as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuModel {
    /// Feature bits.
    pub features: Features,
    /// Whose it is.
    pub vendor: Vendor,
    /// Physical address bits, 36 to 52.
    pub physical_bits: u8,
    /// Ticks of the time-stamp counter in a millisecond. 1,000,000 makes a tick a nanosecond.
    pub tsc_khz: u32,
    /// Number of logical processors in the machine; their APIC IDs are 0 to `cpus - 1`.
    pub cpus: u32,
}

impl CpuModel {
    /// The name in leaves 0x8000_0002 to 0x8000_0004.
    pub const BRAND: &'static str = "squib virtual CPU";
    /// Bits of a linear address that count: 4-level paging.
    pub const LINEAR_BITS: u8 = 48;

    /// The model that a machine has unless it asks for another: `v1`.
    pub fn v1() -> Self {
        Self::with_features(V1)
    }

    /// x86-64-v2: `v2`.
    pub fn v2() -> Self {
        Self::with_features(V2)
    }

    /// Everything there is: `max`.
    pub fn max() -> Self {
        Self::with_features(IMPLEMENTED)
    }

    const fn with_features(features: Features) -> Self {
        Self { features, vendor: Vendor::Intel, physical_bits: 46, tsc_khz: 1_000_000, cpus: 1 }
    }

    /// A model by name with features added and taken away, and a vendor other than Intel: `v1`, `v2`, `max`, `max,-smap`,
    /// `v2,+aes,vendor=amd`.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] for unknown names, listing those there are, and for a set that no processor has.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let Some((_, mut features)) = NAMED.iter().copied().find(|(n, _)| *n == name) else {
            let names: Vec<_> = NAMED.iter().map(|(n, _)| *n).collect();
            return Err(invalid(format!("there is no CPU model '{name}'; there are {}", names.join(", "))));
        };
        let mut unknown = Vec::new();
        let mut vendor = Vendor::default();
        for part in parts {
            if let Some(name) = part.strip_prefix("vendor=") {
                vendor = Vendor::by_name(name)?;
                continue;
            }
            let (on, feature) = match (part.strip_prefix('+'), part.strip_prefix('-')) {
                (Some(f), _) => (true, f),
                (_, Some(f)) => (false, f),
                _ => {
                    return Err(invalid(format!(
                        "'{part}' in a CPU model wants a + or - before it, or is vendor=…"
                    )));
                }
            };
            match Feature::by_name(feature) {
                Some(feature) => features.set(feature, on),
                None => unknown.push(feature),
            }
        }
        if !unknown.is_empty() {
            let known = IMPLEMENTED.beyond(&Features::default());
            return Err(invalid(format!(
                "there is no CPU feature {}; there are {}",
                unknown.join(", "),
                known.join(", ")
            )));
        }
        let broken = REQUIRES.iter().find(|(f, needs)| features.has(*f) && !features.has(*needs));
        if let Some((feature, needs)) = broken {
            return Err(invalid(format!("CPU feature '{}' needs '{}'", feature.name(), needs.name())));
        }
        Ok(Self { vendor, ..Self::with_features(features) })
    }

    /// Whether the model offers `feature`.
    #[inline]
    pub const fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// The bits of a physical address that exist.
    #[inline]
    pub const fn physical_mask(&self) -> u64 {
        (1 << self.physical_bits) - 1
    }
}

impl Default for CpuModel {
    fn default() -> Self {
        Self::v1()
    }
}

impl Feature {
    /// The name of the feature.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, f)| *f == self).map_or("", |(name, _)| name)
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_models_are_implemented_and_coherent() {
        for (name, features) in NAMED {
            assert_eq!(features.beyond(&IMPLEMENTED), [""; 0], "{name}");
            for (f, needs) in REQUIRES {
                assert!(
                    !features.has(*f) || features.has(*needs),
                    "{name}: {} without {}",
                    f.name(),
                    needs.name()
                );
            }
            assert_eq!(CpuModel::parse(name).unwrap().features, *features);
        }
        assert_eq!(CpuModel::default(), CpuModel::parse("v1").unwrap());
    }

    #[test]
    fn names_and_bits_are_unique() {
        for (i, (name, feature)) in Feature::ALL.iter().enumerate() {
            assert!(!Feature::ALL[i + 1..].iter().any(|(n, f)| n == name || f == feature), "{name}");
            assert_eq!(Feature::by_name(name), Some(*feature));
            assert_eq!(feature.name(), *name);
        }
    }

    #[test]
    fn features_are_added_and_taken_away() {
        let m = CpuModel::parse("v1,+fsgsbase,-pge").unwrap();
        assert!(m.has(Feature::FSGSBASE) && !m.has(Feature::PGE) && m.has(Feature::LM));
    }

    #[test]
    fn a_vendor_is_chosen() {
        assert_eq!(CpuModel::v1().vendor, Vendor::Intel);
        let amd = CpuModel::parse("max,vendor=amd,-pku").unwrap();
        assert_eq!((amd.vendor, amd.has(Feature::PKU)), (Vendor::Amd, false));
        let error = CpuModel::parse("v1,vendor=via").unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.to_string().contains("intel and amd"), "{error}");
    }

    #[test]
    fn an_error_names_every_unknown_feature_and_the_known_ones() {
        let error = CpuModel::parse("v2,+turbo,+aes,-warp").unwrap_err().to_string();
        for name in ["turbo, warp", "sse4_2", "aes", "bmi2"] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let code = |text| CpuModel::parse(text).unwrap_err().code();
        assert_eq!(code("pentium"), ErrorCode::InvalidArgument);
        assert_eq!(code(""), ErrorCode::InvalidArgument);
        assert_eq!(code("v1,fsgsbase"), ErrorCode::InvalidArgument);
        assert_eq!(code("v1,+turbo"), ErrorCode::InvalidArgument);
        assert_eq!(code("v1,-tsc"), ErrorCode::InvalidArgument);
        assert_eq!(code("v2,-sse2"), ErrorCode::InvalidArgument);
    }

    #[test]
    fn every_feature_with_a_name_is_carried_out() {
        assert_eq!(IMPLEMENTED.beyond(&Features::default()).len(), Feature::ALL.len());
    }
}
