//! What CPUID tells a guest: what the host's KVM supports, with each vCPU as a package of one core.
//!
//! How many vCPUs a VM will have is not known when one is made, and packages of one core are consistent for
//! any number of them. Leaf numbers: Intel SDM vol. 2, "CPUID"; AMD APM vol. 3, appendix E; for 0x4000_00xx
//! Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use squib_core::x86::CpuidResult;
use squib_core::{Error, ErrorCode, Result};

/// Which features that depend on a local APIC in the kernel a vCPU has.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalApic {
    /// There is one.
    pub(super) present: bool,
    /// Its timer has the TSC-deadline mode.
    pub(super) tsc_deadline: bool,
}

const LEAF1_ECX_X2APIC: u32 = 1 << 21;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
/// "There is a hypervisor": without it a guest does not look for the leaves at 0x4000_0000, so not for the
/// paravirtual clock either. KVM leaves it to user space to say so.
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_APIC: u32 = 1 << 9;
const LEAF1_EDX_HTT: u32 = 1 << 28;
const AMD_ECX_CMP_LEGACY: u32 = 1 << 1;
/// The paravirtual features that work without a local APIC: clock (bits 0, 3 and 24) and no I/O delay.
const PARAVIRTUAL_WITHOUT_APIC: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24;

/// Levels of the topology leaf: type in ECX bits 8 to 15, one logical processor in each.
const TOPOLOGY: [u32; 2] = [1 << 8, 2 << 8];

/// The entries for the vCPU with APIC number `id`, from those that the host supports.
pub(super) fn for_vcpu(supported: &[kvm_cpuid_entry2], id: u32, apic: LocalApic) -> Result<CpuId> {
    let is_topology = |entry: &kvm_cpuid_entry2| matches!(entry.function, 0xb | 0x1f);
    let highest = supported.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
    let mut entries: Vec<_> = supported.iter().filter(|e| !is_topology(e)).copied().collect();
    for entry in &mut entries {
        fix(entry, id, apic);
    }
    if highest >= 0xb {
        entries.extend((0..).zip(TOPOLOGY).map(|(index, level)| kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            ebx: 1,
            ecx: level | index,
            edx: id,
            ..Default::default()
        }));
    }
    CpuId::from_entries(&entries)
        .map_err(|_| Error::new(ErrorCode::Hypervisor, "the host supports more CPUID leaves than KVM takes"))
}

fn fix(entry: &mut kvm_cpuid_entry2, id: u32, apic: LocalApic) {
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0xffff | 1 << 16 | (id & 0xff) << 24;
            entry.edx &= !LEAF1_EDX_HTT;
            entry.ecx &= !LEAF1_ECX_TSC_DEADLINE;
            entry.ecx |= LEAF1_ECX_HYPERVISOR;
            if apic.present {
                entry.ecx |= LEAF1_ECX_X2APIC;
            } else {
                entry.ecx &= !LEAF1_ECX_X2APIC;
                entry.edx &= !LEAF1_EDX_APIC;
            }
            if apic.tsc_deadline {
                entry.ecx |= LEAF1_ECX_TSC_DEADLINE;
            }
        }
        // Caches: processors that share one, and cores of the package, both less one.
        4 => entry.eax &= 0x3fff,
        0x8000_001d => entry.eax &= 0x3fff,
        0x4000_0001 if !apic.present => entry.eax &= PARAVIRTUAL_WITHOUT_APIC,
        0x8000_0001 => entry.ecx &= !AMD_ECX_CMP_LEGACY,
        0x8000_0008 => entry.ecx = 0,
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, 0, 0),
        _ => {}
    }
}

/// What the guest reads for `leaf` and `subleaf`, given its entries: the rules of KVM's own look-up
/// (arch/x86/kvm/cpuid.c), which are those of the processors.
pub(super) fn look_up(entries: &[kvm_cpuid_entry2], leaf: u32, subleaf: u32) -> CpuidResult {
    let find = |leaf: u32, subleaf: u32| {
        entries.iter().find(|e| {
            e.function == leaf && (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || e.index == subleaf)
        })
    };
    let result = |e: &kvm_cpuid_entry2| CpuidResult { eax: e.eax, ebx: e.ebx, ecx: e.ecx, edx: e.edx };
    if let Some(entry) = find(leaf, subleaf) {
        return result(entry);
    }
    // Beyond the last level, the topology leaf still tells the level asked for and the APIC number.
    if matches!(leaf, 0xb | 0x1f)
        && let Some(level) = find(leaf, 1)
    {
        return CpuidResult { ecx: subleaf & 0xff, edx: level.edx, ..CpuidResult::default() };
    }
    // A leaf beyond the highest of its class reads as the highest basic leaf, on Intel's processors.
    let class = if leaf < 0x4000_0000 { 0 } else { leaf & 0xffff_0000 };
    let beyond = find(class, 0).is_none_or(|e| leaf > e.eax);
    let amd = find(0, 0).is_some_and(|e| [0x6874_7541, 0x6f67_7948].contains(&e.ebx));
    match find(0, 0).map(|e| e.eax) {
        Some(highest) if beyond && !amd => find(highest, subleaf).map(result).unwrap_or_default(),
        _ => CpuidResult::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn host(vendor_ebx: u32) -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(0, 0, [0xd, vendor_ebx, 0, 0]),
            entry(1, 0, [0, 0x0710_0800, LEAF1_ECX_TSC_DEADLINE | 1, LEAF1_EDX_HTT | LEAF1_EDX_APIC | 1]),
            entry(4, 0, [0xffff_c121, 0, 0, 0]),
            entry(0xb, 0, [9, 9, 9, 9]),
            entry(0x1f, 0, [9, 9, 9, 9]),
            entry(0xd, 0, [7, 7, 7, 7]),
            entry(0x4000_0000, 0, [0x4000_0001, 0, 0, 0]),
            entry(0x4000_0001, 0, [u32::MAX, 0, 0, 0]),
            entry(0x8000_0000, 0, [0x8000_001e, 0, 0, 0]),
            entry(0x8000_0008, 0, [0x3028, 0, 0x700f, 0]),
            entry(0x8000_001e, 0, [9, 9, 9, 0]),
        ]
    }

    const WITH: LocalApic = LocalApic { present: true, tsc_deadline: true };
    const WITHOUT: LocalApic = LocalApic { present: false, tsc_deadline: false };
    const INTEL: u32 = 0x756e_6547;
    const AMD: u32 = 0x6874_7541;

    #[test]
    fn each_vcpu_is_a_package_with_its_own_number() {
        let cpuid = for_vcpu(&host(INTEL), 3, WITH).unwrap();
        let at = |leaf, subleaf| look_up(cpuid.as_slice(), leaf, subleaf);
        assert_eq!(at(1, 0).ebx, 0x0301_0800);
        assert_eq!(at(1, 0).edx & LEAF1_EDX_HTT, 0);
        assert_eq!(at(4, 0).eax, 0x0121);
        assert_eq!(at(0xb, 0), CpuidResult { eax: 0, ebx: 1, ecx: 0x100, edx: 3 });
        assert_eq!(at(0xb, 1), CpuidResult { eax: 0, ebx: 1, ecx: 0x201, edx: 3 });
        assert_eq!(at(0xb, 2), CpuidResult { eax: 0, ebx: 0, ecx: 2, edx: 3 });
        assert_eq!(at(0x8000_001e, 0), CpuidResult { eax: 3, ..Default::default() });
        assert_eq!(at(0x8000_0008, 0).ecx, 0);
    }

    #[test]
    fn without_a_local_apic_nothing_that_needs_one_is_told() {
        let cpuid = for_vcpu(&host(INTEL), 0, WITHOUT).unwrap();
        let at = |leaf| look_up(cpuid.as_slice(), leaf, 0);
        assert_eq!((at(1).ecx, at(1).edx), (1 | LEAF1_ECX_HYPERVISOR, 1));
        assert_eq!(at(0x4000_0001).eax, PARAVIRTUAL_WITHOUT_APIC);
        let cpuid = for_vcpu(&host(INTEL), 0, WITH).unwrap();
        let leaf1 = look_up(cpuid.as_slice(), 1, 0);
        assert_eq!(leaf1.ecx, 1 | LEAF1_ECX_X2APIC | LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_HYPERVISOR);
        assert_eq!(leaf1.edx, 1 | LEAF1_EDX_APIC);
    }

    #[test]
    fn leaves_beyond_the_highest_follow_the_vendor() {
        let intel = host(INTEL);
        let highest = look_up(&intel, 0xd, 0);
        for leaf in [0xe, 0x4000_0002, 0x8000_001f, 0x4fff_0000, 0x8765_4321] {
            assert_eq!(look_up(&intel, leaf, 0), highest, "{leaf:#x}");
            assert_eq!(look_up(&host(AMD), leaf, 0), CpuidResult::default(), "{leaf:#x}");
        }
        assert_eq!(look_up(&intel, 2, 0), CpuidResult::default(), "absent, but not beyond");
        assert_eq!(look_up(&[], 0, 0), CpuidResult::default());
    }
}
