//! CPUID (Intel SDM vol. 2A, "CPUID"; AMD APM vol. 3, appendix E; Linux `Documentation/virt/kvm/x86/cpuid.rst` for leaves 0x4000_0000 on).

use squib_core::x86::{CpuidResult, bits::CR4_OSXSAVE};

use crate::env::Env;
use crate::model::{CpuModel, Feature, Vendor, Word};
use crate::state::CpuState;

use super::bits::CR4_PKE;
use super::msr;

/// Highest basic leaf, of Intel's and of AMD's.
const MAX_BASIC: u32 = 0x16;
const MAX_BASIC_AMD: u32 = 0xd;
/// Highest hypervisor leaf.
const MAX_HYPERVISOR: u32 = 0x4000_0010;
/// Highest extended leaf.
const MAX_EXTENDED: u32 = 0x8000_0008;

/// The paravirtual features in leaf 0x4000_0001: the clock by both pairs of MSRs, no delay after port I/O, and
/// a clock that is the same on every vCPU.
const KVM_FEATURES: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24;

/// Leaf 1, EDX: there is a local APIC.
const APIC_FEATURE: u32 = 1 << 9;
/// Leaf 0x8000_0001, EDX: execution can be forbidden.
const NX_FEATURE: u32 = 1 << 20;
/// Leaf 0x8000_0001, ECX: several processors in leaf 1 are cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;
/// The bits of leaf 1, EDX, that AMD's processors repeat in leaf 0x8000_0001.
const REPEATED: u32 = 0x0183_f3ff;

/// Frequency of the local APIC's timer and of the crystal in leaf 0x15, in Hz.
pub const APIC_HZ: u32 = 1_000_000_000;

/// A cache of leaf 4.
struct Cache {
    /// 1 data, 2 code, 3 both.
    kind: u32,
    level: u32,
    ways: u32,
    sets: u32,
}

const LINE: u32 = 64;

impl Cache {
    const fn bytes(&self) -> u32 {
        self.ways * self.sets * LINE
    }
}

/// 32 KiB + 32 KiB, 512 KiB, 16 MiB. Nothing is cached; guests take string-move thresholds from the sizes.
const CACHES: [Cache; 4] = [
    Cache { kind: 1, level: 1, ways: 8, sets: 64 },
    Cache { kind: 2, level: 1, ways: 8, sets: 64 },
    Cache { kind: 3, level: 2, ways: 8, sets: 1024 },
    Cache { kind: 3, level: 3, ways: 16, sets: 16384 },
];

/// The CPUID instruction: EAX and ECX choose the leaf, and EAX to EDX get the answer.
pub fn cpuid<E: Env + ?Sized>(env: &mut E) {
    let state = env.state_ref();
    let out = query(env.model(), state, state.r[0] as u32, state.r[1] as u32);
    let r = &mut env.state().r;
    (r[0], r[3], r[1], r[2]) = (out.eax.into(), out.ebx.into(), out.ecx.into(), out.edx.into());
}

/// What CPUID says for a leaf. Leaves that do not exist are zero.
pub fn query(model: &CpuModel, state: &CpuState, leaf: u32, subleaf: u32) -> CpuidResult {
    let f = |word| model.features.word(word);
    let result = |eax, ebx, ecx, edx| CpuidResult { eax, ebx, ecx, edx };
    let amd = model.vendor == Vendor::Amd;
    match leaf {
        0 => {
            let [b, d, c] = words(model.vendor.id());
            let limited = state.msr.misc_enable & msr::LIMIT_CPUID != 0;
            let highest = if amd { MAX_BASIC_AMD } else { MAX_BASIC };
            result(if limited { 2 } else { highest }, b, c, d)
        }
        1 => {
            let osxsave = u32::from(state.cr4 & CR4_OSXSAVE != 0) << 27;
            let several = u32::from(model.cpus > 1) << 28;
            let ebx = (state.apic_id & 0xff) << 24 | model.cpus.min(255) << 16 | (LINE / 8) << 8;
            let absent = if state.apic_disabled { APIC_FEATURE } else { 0 };
            result(
                model.vendor.signature(),
                ebx,
                f(Word::L1Ecx) | osxsave,
                f(Word::L1Edx) & !absent | several,
            )
        }
        2 | 4 | 0x15 | 0x16 if amd => CpuidResult::default(),
        // One round; 0xFF and 0xFE: look in leaf 4 for caches and in leaf 0x18 for TLBs.
        2 => result(0x00fe_ff01, 0, 0, 0),
        4 => cache(model, subleaf),
        6 => result(f(Word::L6Eax), 0, 0, 0),
        7 if subleaf == 0 => {
            let ospke = u32::from(state.cr4 & CR4_PKE != 0) << 4;
            result(0, f(Word::L7Ebx), f(Word::L7Ecx) | ospke, f(Word::L7Edx))
        }
        0xb => topology(model, state, subleaf),

        0xd if model.has(Feature::XSAVE) => super::xsave::cpuid(model, state, subleaf),
        0x15 => {
            let (hz, apic) = (u64::from(model.tsc_khz) * 1000, u64::from(APIC_HZ));
            let d = gcd(hz, apic);
            result((apic / d) as u32, (hz / d) as u32, APIC_HZ, 0)
        }
        0x16 => {
            let mhz = (model.tsc_khz / 1000).min(0xffff);
            result(mhz, mhz, 100, 0)
        }
        0x4000_0000 => {
            let [b, c, d] = words(b"KVMKVMKVM\0\0\0");
            result(MAX_HYPERVISOR, b, c, d)
        }
        0x4000_0001 => result(KVM_FEATURES, 0, 0, 0),
        0x4000_0010 => result(model.tsc_khz, APIC_HZ / 1000, 0, 0),
        0x8000_0000 => result(MAX_EXTENDED, 0, 0, 0),
        0x8000_0001 => {
            let absent = if state.msr.misc_enable & msr::XD_DISABLE != 0 { NX_FEATURE } else { 0 };
            let (ecx, edx) = (f(Word::X1Ecx), f(Word::X1Edx) & !absent);
            if !amd {
                return result(0, 0, ecx, edx);
            }
            let cores = if model.cpus > 1 { CMP_LEGACY } else { 0 };
            let one = query(model, state, 1, 0).edx & REPEATED;
            result(model.vendor.signature(), 0, ecx | cores, edx | one)
        }
        0x8000_0002..=0x8000_0004 => {
            let mut brand = [0; 48];
            brand[..CpuModel::BRAND.len()].copy_from_slice(CpuModel::BRAND.as_bytes());
            let at = (leaf - 0x8000_0002) as usize * 16;
            let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|k| brand[at + i * 4 + k]));
            result(word(0), word(1), word(2), word(3))
        }
        // Sizes in KiB, ways, and the length of a line.
        0x8000_0005 if amd => {
            let l1 = |c: &Cache| c.bytes() >> 10 << 24 | c.ways << 16 | 1 << 8 | LINE;
            result(0, 0, l1(&CACHES[0]), l1(&CACHES[1]))
        }
        0x8000_0006 => {
            // Associativity codes 6 and 8 are 8 and 16 ways; the third level is in units of 512 KiB.
            let l2 = CACHES[2].bytes() >> 10 << 16 | 6 << 12 | LINE;
            let l3 = CACHES[3].bytes() >> 19 << 18 | 8 << 12 | 1 << 8 | LINE;
            result(0, 0, l2, if amd { l3 } else { 0 })
        }
        0x8000_0007 => result(0, 0, 0, f(Word::X7Edx)),
        0x8000_0008 => {
            let bits = u32::from(model.physical_bits) | u32::from(CpuModel::LINEAR_BITS) << 8;
            let cores = (model.cpus.clamp(1, 256) - 1) | core_bits(model) << 12;
            result(bits, 0, if amd { cores } else { 0 }, 0)
        }
        _ => CpuidResult::default(),
    }
}

/// Leaf 4: deterministic cache parameters.
fn cache(model: &CpuModel, subleaf: u32) -> CpuidResult {
    let Some(c) = CACHES.get(subleaf as usize) else {
        return CpuidResult::default();
    };
    let addressable = model.cpus.clamp(1, 64).next_power_of_two() - 1;
    let sharing = if c.level == 3 { addressable } else { 0 };
    CpuidResult {
        eax: c.kind | c.level << 5 | 1 << 8 | sharing << 14 | addressable << 26,
        ebx: (LINE - 1) | (c.ways - 1) << 22,
        ecx: c.sets - 1,
        edx: 0,
    }
}

/// How many bits of an APIC ID name the core.
fn core_bits(model: &CpuModel) -> u32 {
    model.cpus.max(1).next_power_of_two().trailing_zeros()
}

/// Leaf 0xB: one thread a core, all cores in one package.
fn topology(model: &CpuModel, state: &CpuState, subleaf: u32) -> CpuidResult {
    let (shift, count, kind) = match subleaf {
        0 => (0, 1, 1),
        1 => (core_bits(model), model.cpus.max(1), 2),
        _ => (0, 0, 0),
    };
    CpuidResult { eax: shift, ebx: count & 0xffff, ecx: kind << 8 | subleaf & 0xff, edx: state.apic_id }
}

/// Twelve characters as three little-endian words.
fn words(text: &[u8; 12]) -> [u32; 3] {
    std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|k| text[i * 4 + k])))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(leaf: u32, subleaf: u32) -> CpuidResult {
        query(&CpuModel::v1(), &CpuState::reset(), leaf, subleaf)
    }

    fn text(parts: &[u32]) -> String {
        parts.iter().flat_map(|w| w.to_le_bytes()).map(char::from).collect()
    }

    #[test]
    fn the_processor_says_who_it_is() {
        let leaf = ask(0, 0);
        assert_eq!(text(&[leaf.ebx, leaf.edx, leaf.ecx]), "GenuineIntel");
        assert_eq!(leaf.eax, 0x16);
        let hv = ask(0x4000_0000, 0);
        assert_eq!(text(&[hv.ebx, hv.ecx, hv.edx]), "KVMKVMKVM\0\0\0");
        let brand: String = (0x8000_0002..=0x8000_0004)
            .flat_map(|l| {
                let r = ask(l, 0);
                [r.eax, r.ebx, r.ecx, r.edx]
            })
            .map(|w| text(&[w]))
            .collect();
        assert_eq!(brand.trim_end_matches('\0'), "squib virtual CPU");
    }

    #[test]
    fn feature_words_follow_the_model_and_the_state() {
        let (model, mut state) = (CpuModel::max(), CpuState::reset());
        let one = query(&model, &state, 1, 0);
        assert_eq!(one.ecx >> 27 & 1, 0);
        assert_ne!(one.ecx & 1 << 31, 0);
        state.cr4 |= CR4_OSXSAVE;
        state.apic_id = 5;
        let one = query(&model, &state, 1, 0);
        assert_eq!((one.ecx >> 27 & 1, one.ebx >> 24), (1, 5));
        assert_ne!(query(&model, &state, 7, 0).ebx & 1, 0);
        assert_eq!(query(&CpuModel::v1(), &state, 7, 0).ebx & 1, 0);
        assert_eq!(query(&model, &state, 7, 1), CpuidResult::default());
    }

    #[test]
    fn frequency_leaves_give_the_time_stamp_counter() {
        for khz in [1_000_000, 2_100_000, 999_983] {
            let model = CpuModel { tsc_khz: khz, ..CpuModel::v1() };
            let leaf = query(&model, &CpuState::reset(), 0x15, 0);
            assert_eq!(
                u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax),
                u64::from(khz) * 1000
            );
            assert_eq!(query(&model, &CpuState::reset(), 0x4000_0010, 0).eax, khz);
        }
        assert_eq!((ask(0x15, 0).eax, ask(0x15, 0).ebx), (1, 1));
        assert_eq!(ask(0x8000_0007, 0).edx, 1 << 8);
    }

    #[test]
    fn what_is_switched_off_is_not_told() {
        let (model, mut state) = (CpuModel::max(), CpuState::reset());
        state.msr.misc_enable |= msr::LIMIT_CPUID | msr::XD_DISABLE;
        state.apic_disabled = true;
        assert_eq!(query(&model, &state, 0, 0).eax, 2);
        assert_eq!(query(&model, &state, 1, 0).edx & APIC_FEATURE, 0);
        assert_eq!(query(&model, &state, 0x8000_0001, 0).edx & NX_FEATURE, 0);
        let (one, ext) = (ask(1, 0).edx, ask(0x8000_0001, 0).edx);
        assert!(one & APIC_FEATURE != 0 && ext & NX_FEATURE != 0);
    }

    #[test]
    fn caches_and_topology_end() {
        let size = |c: CpuidResult| ((c.ebx >> 22) + 1) * ((c.ebx & 0xfff) + 1) * (c.ecx + 1);
        assert_eq!([0, 1, 2, 3].map(|i| size(ask(4, i))), [32 << 10, 32 << 10, 512 << 10, 16 << 20]);
        assert_eq!(ask(4, 4), CpuidResult::default());
        let model = CpuModel { cpus: 6, ..CpuModel::v1() };
        let level = |i| query(&model, &CpuState::reset(), 0xb, i);
        assert_eq!((level(0).eax, level(0).ebx), (0, 1));
        assert_eq!((level(1).eax, level(1).ebx, level(1).ecx), (3, 6, 0x201));
        assert_eq!((level(2).ebx, level(2).ecx), (0, 2));
    }

    #[test]
    fn amd_has_leaves_of_its_own() {
        let model = CpuModel { vendor: Vendor::Amd, cpus: 6, ..CpuModel::v1() };
        let ask = |leaf| query(&model, &CpuState::reset(), leaf, 0);
        let zero = ask(0);
        assert_eq!((zero.eax, text(&[zero.ebx, zero.edx, zero.ecx]).as_str()), (0xd, "AuthenticAMD"));
        assert_eq!((ask(1).eax, ask(0x8000_0001).eax), (0x0020_0f31, 0x0020_0f31));
        assert_eq!([2, 4, 0x15, 0x16].map(ask), [CpuidResult::default(); 4]);
        let extended = ask(0x8000_0001);
        assert_eq!(extended.edx & ask(1).edx & REPEATED, ask(1).edx & REPEATED);
        assert_eq!((extended.ecx & CMP_LEGACY, extended.edx & NX_FEATURE), (CMP_LEGACY, NX_FEATURE));
        assert_eq!((ask(0x8000_0005).ecx, ask(0x8000_0005).edx), (0x2008_0140, 0x2008_0140));
        assert_eq!((ask(0x8000_0006).ecx, ask(0x8000_0006).edx), (0x0200_6040, 0x0080_8140));
        assert_eq!(ask(0x8000_0008).ecx, 0x3005);
    }

    #[test]
    fn the_instruction_clears_upper_halves() {
        let mut env = crate::system::mock::Mock::new();
        env.state.r.fill(u64::MAX);
        env.state.r[0] = 0xffff_ffff_8000_0000;
        cpuid(&mut env);
        assert_eq!(env.state.r[..4], [0x8000_0008, 0, 0, 0]);
    }
}
