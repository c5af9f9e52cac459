//! What a host's KVM offers.

use kvm_bindings::{CpuId, KVM_CAP_SYSTEM_EVENT_DATA, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};
use squib_core::{Architecture, BackendCapabilities, ExitKind, ExitSet, IrqchipKind, Result};

use crate::linux::dirty_ring;
use crate::linux::errors::failed;
use crate::linux::exits::HC_MAP_GPA_RANGE;

/// Without these the backend does not work. The youngest is IMMEDIATE_EXIT, of Linux 4.11.
pub(in crate::linux) const NEEDED: [(Cap, &str); 7] = [
    (Cap::UserMemory, "USER_MEMORY"),
    (Cap::SetTssAddr, "SET_TSS_ADDR"),
    (Cap::ExtCpuid, "EXT_CPUID"),
    (Cap::VcpuEvents, "VCPU_EVENTS"),
    (Cap::Debugregs, "DEBUGREGS"),
    (Cap::Xsave, "XSAVE"),
    (Cap::ImmediateExit, "IMMEDIATE_EXIT"),
];

/// Local APIC numbers of 8 bits, of which 255 means all (Intel SDM vol. 3, 11.6.2).
const MAX_APIC_NUMBERS: usize = 255;

/// What the host's KVM offers to each VM.
pub(in crate::linux) struct Host {
    /// The CPUID leaves that it supports.
    pub(super) cpuid: CpuId,
    /// The model-specific registers that make up a vCPU's state.
    pub(super) msr_indices: Vec<u32>,
    pub(in crate::linux) max_vcpus: u32,
    /// System events say how many words they have.
    pub(in crate::linux) system_event_data: bool,
    pub(super) identity_map: bool,
    pub(super) tsc_deadline: bool,
    pub(super) msr_exits: bool,
    pub(super) hypercall_exits: bool,
    /// The sets of registers that the run page can have copies of, `KVM_SYNC_X86_…`.
    pub(super) sync_regs: u8,
}

impl Host {
    pub(in crate::linux) fn new(kvm: &Kvm) -> Result<Self> {
        Ok(Self {
            cpuid: kvm
                .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(|e| failed("KVM_GET_SUPPORTED_CPUID", e))?,
            msr_indices: kvm
                .get_msr_index_list()
                .map_err(|e| failed("KVM_GET_MSR_INDEX_LIST", e))?
                .as_slice()
                .to_vec(),
            max_vcpus: kvm.get_max_vcpus().min(kvm.get_max_vcpu_id()).min(MAX_APIC_NUMBERS) as u32,
            system_event_data: kvm.check_extension_raw(KVM_CAP_SYSTEM_EVENT_DATA.into()) != 0,
            identity_map: kvm.check_extension(Cap::SetIdentityMapAddr),
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            msr_exits: kvm.check_extension(Cap::X86UserSpaceMsr),
            hypercall_exits: kvm.check_extension_int(Cap::ExitHypercall) & 1 << HC_MAP_GPA_RANGE != 0,
            sync_regs: kvm.check_extension_int(Cap::SyncRegs) as u8,
        })
    }
}

/// A VM of KVM's, still without anything.
pub(in crate::linux) fn create_vm(kvm: &Kvm, _: &Host) -> Result<VmFd, kvm_ioctls::Error> {
    kvm.create_vm()
}

pub(in crate::linux) fn capabilities(kvm: &Kvm, host: &Host) -> BackendCapabilities {
    let full = kvm.check_extension(Cap::Irqchip) && kvm.check_extension(Cap::Pit2);
    let split = kvm.check_extension(Cap::SplitIrqchip);
    let mut exits = vec![
        ExitKind::Mmio,
        ExitKind::Pio,
        ExitKind::Hlt,
        ExitKind::InternalError,
        ExitKind::Cancelled,
        ExitKind::Completed,
        ExitKind::InterruptWindow,
        ExitKind::TripleFault,
        ExitKind::SystemEvent,
        ExitKind::FailedEntry,
        ExitKind::Unsupported,
        ExitKind::Unknown,
    ];
    let mut optional = |present: bool, kinds: &[ExitKind]| {
        if present {
            exits.extend_from_slice(kinds);
        }
    };
    optional(host.hypercall_exits, &[ExitKind::Hypercall]);
    optional(host.msr_exits, &[ExitKind::MsrRead, ExitKind::MsrWrite]);
    optional(split, &[ExitKind::Eoi]);
    optional(cfg!(feature = "gdb") && kvm.check_extension(Cap::SetGuestDebug), &[ExitKind::Debug]);
    optional(kvm.check_extension(Cap::MemoryFaultInfo), &[ExitKind::MemoryFault]);
    optional(dirty_ring::has_rings(kvm), &[ExitKind::DirtyRingFull]);
    let mut capabilities =
        BackendCapabilities::new(Architecture::X86_64, ExitSet::of(&exits), host.max_vcpus);
    capabilities.dirty_tracking = dirty_ring::tracking(kvm);
    capabilities.irqchips = match (split, full) {
        (true, true) => &[IrqchipKind::None, IrqchipKind::Split, IrqchipKind::Full],
        (true, false) => &[IrqchipKind::None, IrqchipKind::Split],
        (false, true) => &[IrqchipKind::None, IrqchipKind::Full],
        (false, false) => &[IrqchipKind::None],
    };
    capabilities.tsc_khz = tsc_khz(kvm);
    capabilities
}

/// The frequency of a new vCPU's time-stamp counter, which only a vCPU tells.
fn tsc_khz(kvm: &Kvm) -> Option<u32> {
    if !kvm.check_extension(Cap::GetTscKhz) {
        return None;
    }
    let khz = kvm.create_vm().and_then(|vm| vm.create_vcpu(0)?.get_tsc_khz());
    khz.ok().filter(|khz| *khz != 0)
}
