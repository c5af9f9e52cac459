//! What a host's KVM offers.

use kvm_bindings::*;
use kvm_ioctls::{Cap, Kvm, VmFd};
use squib_core::arm64::gic::{END, GicVersion, REDISTRIBUTOR_SIZE, REDISTRIBUTORS};
use squib_core::{Architecture, BackendCapabilities, ExitKind, ExitSet, IrqchipKind, Result};

use super::board::{has_gic, has_smccc_filter};
use crate::linux::dirty_ring;
use crate::linux::errors::failed;

/// Without these the backend does not work. The youngest is IMMEDIATE_EXIT, of Linux 4.11.
pub(in crate::linux) const NEEDED: [(Cap, &str); 4] = [
    (Cap::UserMemory, "USER_MEMORY"),
    (Cap::OneReg, "ONE_REG"),
    (Cap::ArmPsci02, "ARM_PSCI_0_2"),
    (Cap::ImmediateExit, "IMMEDIATE_EXIT"),
];

/// Bits of guest-physical addresses unless the host has fewer, which is also KVM's choice.
const ADDRESS_BITS: u32 = 40;

/// vCPUs whose CPU interfaces a GICv2 can tell apart (IHI 0048, 1.2).
const MAX_VCPUS_V2: usize = 8;
/// vCPUs whose redistributors there is room for.
const MAX_VCPUS_V3: usize = ((END - REDISTRIBUTORS) / REDISTRIBUTOR_SIZE) as usize;

/// What the host's KVM offers to each VM.
pub(in crate::linux) struct Host {
    pub(in crate::linux) max_vcpus: u32,
    /// System events say how many words they have.
    pub(in crate::linux) system_event_data: bool,
    pub(super) gic: Option<GicVersion>,
    /// Accesses without a valid syndrome can be told to user space.
    pub(super) nisv_exits: bool,
    pub(super) smccc_filter: bool,
    /// How many breakpoints the processor has.
    #[cfg(feature = "gdb")]
    pub(super) breakpoints: usize,
    address_bits: u32,
}

impl Host {
    /// What a VM offers is asked of one that is made for it.
    pub(in crate::linux) fn new(kvm: &Kvm) -> Result<Self> {
        let limit = u32::try_from(kvm.get_host_ipa_limit()).unwrap_or(0);
        let mut host = Self {
            max_vcpus: kvm.get_max_vcpus().min(kvm.get_max_vcpu_id()) as u32,
            system_event_data: kvm.check_extension_raw(KVM_CAP_SYSTEM_EVENT_DATA.into()) != 0,
            gic: None,
            #[cfg(feature = "gdb")]
            breakpoints: usize::try_from(kvm.check_extension_int(Cap::DebugHwBps)).unwrap_or(0),
            nisv_exits: kvm.check_extension_raw(KVM_CAP_ARM_NISV_TO_USER.into()) != 0,
            smccc_filter: false,
            address_bits: if limit == 0 { 0 } else { limit.min(ADDRESS_BITS) },
        };
        let vm = create_vm(kvm, &host).map_err(|e| failed("KVM_CREATE_VM", e))?;
        host.gic = [GicVersion::V3, GicVersion::V2].into_iter().find(|version| has_gic(&vm, *version));
        host.smccc_filter = has_smccc_filter(&vm);
        let most = match host.gic {
            Some(GicVersion::V2) => MAX_VCPUS_V2,
            Some(GicVersion::V3) | None => MAX_VCPUS_V3,
        };
        host.max_vcpus = host.max_vcpus.min(most as u32);
        Ok(host)
    }
}

/// A VM of KVM's, still without anything.
pub(in crate::linux) fn create_vm(kvm: &Kvm, host: &Host) -> Result<VmFd, kvm_ioctls::Error> {
    kvm.create_vm_with_ipa_size(host.address_bits)
}

pub(in crate::linux) fn capabilities(kvm: &Kvm, host: &Host) -> BackendCapabilities {
    let mut exits = vec![
        ExitKind::Mmio,
        ExitKind::InternalError,
        ExitKind::Cancelled,
        ExitKind::Completed,
        ExitKind::SystemEvent,
        ExitKind::FailedEntry,
        ExitKind::Unsupported,
        ExitKind::Unknown,
    ];
    let mut optional = |present: bool, kind: ExitKind| {
        if present {
            exits.push(kind);
        }
    };
    optional(host.smccc_filter, ExitKind::Hypercall);
    optional(cfg!(feature = "gdb") && kvm.check_extension(Cap::SetGuestDebug), ExitKind::Debug);
    optional(
        host.nisv_exits || kvm.check_extension_raw(KVM_CAP_MEMORY_FAULT_INFO.into()) != 0,
        ExitKind::MemoryFault,
    );
    optional(dirty_ring::has_rings(kvm), ExitKind::DirtyRingFull);
    let mut capabilities = BackendCapabilities::new(Architecture::Arm64, ExitSet::of(&exits), host.max_vcpus);
    capabilities.dirty_tracking = dirty_ring::tracking(kvm);
    capabilities.gic = host.gic;
    capabilities.irqchips = match host.gic {
        Some(_) => &[IrqchipKind::None, IrqchipKind::Full],
        None => &[IrqchipKind::None],
    };
    capabilities
}
