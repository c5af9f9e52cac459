//! The backend: `/dev/kvm`, opened and found fit.

use std::ffi::CStr;
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};
use squib_core::{
    BackendCapabilities, BackendKind, DirtyTracking, Error, ErrorCode, ExitKind, ExitSet, HypervisorBackend,
    IrqchipKind, Result, Vm, VmConfig,
};

use super::errors::{failed, unusable};
use super::exits::HC_MAP_GPA_RANGE;
use super::vm::KvmVm;

const DEVICE: &CStr = c"/dev/kvm";

/// Without these the backend does not work. The youngest is IMMEDIATE_EXIT, of Linux 4.11.
const NEEDED: [(Cap, &str); 7] = [
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

/// The Linux KVM backend.
pub struct KvmBackend {
    pub(super) kvm: Kvm,
    pub(super) host: Arc<Host>,
    capabilities: BackendCapabilities,
}

/// What the host's KVM offers to each VM.
pub(super) struct Host {
    /// The CPUID leaves that it supports.
    pub(super) cpuid: CpuId,
    /// The model-specific registers that make up a vCPU's state.
    pub(super) msr_indices: Vec<u32>,
    pub(super) max_vcpus: u32,
    pub(super) identity_map: bool,
    pub(super) tsc_deadline: bool,
    pub(super) msr_exits: bool,
    pub(super) hypercall_exits: bool,
}

impl KvmBackend {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`ErrorCode::BackendUnusable`] when it does not open or lacks what squib needs; the message says why
    /// and what to do.
    pub fn open() -> Result<Self> {
        Self::open_device(DEVICE)
    }

    fn open_device(device: &CStr) -> Result<Self> {
        let path = device.to_string_lossy();
        let kvm = Kvm::new_with_path(device).map_err(|e| unusable(&path, e))?;
        let lacking = |what: String| Error::new(ErrorCode::BackendUnusable, format!("{path} {what}"));
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(lacking(format!(
                "is no KVM of interface version {KVM_API_VERSION}: it says {version}"
            )));
        }
        if let Some(name) = first_missing(|cap| kvm.check_extension(cap)) {
            return Err(lacking(format!("lacks KVM_CAP_{name}: squib needs Linux 4.11 or newer")));
        }
        let host = Host {
            cpuid: kvm
                .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(|e| failed("KVM_GET_SUPPORTED_CPUID", e))?,
            msr_indices: kvm
                .get_msr_index_list()
                .map_err(|e| failed("KVM_GET_MSR_INDEX_LIST", e))?
                .as_slice()
                .to_vec(),
            max_vcpus: kvm.get_max_vcpus().min(kvm.get_max_vcpu_id()).min(MAX_APIC_NUMBERS) as u32,
            identity_map: kvm.check_extension(Cap::SetIdentityMapAddr),
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            msr_exits: kvm.check_extension(Cap::X86UserSpaceMsr),
            hypercall_exits: kvm.check_extension_int(Cap::ExitHypercall) & 1 << HC_MAP_GPA_RANGE != 0,
        };
        let capabilities = capabilities(&kvm, &host);
        Ok(Self { kvm, host: Arc::new(host), capabilities })
    }

    /// A VM of KVM's, still without anything.
    pub(super) fn new_vm(&self) -> Result<VmFd> {
        loop {
            match self.kvm.create_vm() {
                Ok(vm) => return Ok(vm),
                Err(e) if e.errno() == libc::EINTR => {}
                Err(e) if e.errno() == libc::EBUSY => return Err(unusable("a VM", e)),
                Err(e) => return Err(failed("KVM_CREATE_VM", e)),
            }
        }
    }
}

/// The name of a needed capability that is not there.
fn first_missing(has: impl Fn(Cap) -> bool) -> Option<&'static str> {
    NEEDED.iter().find(|(cap, _)| !has(*cap)).map(|(_, name)| *name)
}

fn capabilities(kvm: &Kvm, host: &Host) -> BackendCapabilities {
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
    let mut capabilities = BackendCapabilities::new(ExitSet::of(&exits), host.max_vcpus);
    capabilities.dirty_tracking = DirtyTracking::Bitmap;
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

impl HypervisorBackend for KvmBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Kvm
    }

    fn capabilities(&self) -> &BackendCapabilities {
        &self.capabilities
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        if !self.capabilities.irqchips.contains(&config.irqchip) {
            return Err(Error::new(
                ErrorCode::Unsupported,
                format!("this KVM offers no {:?} irqchip; see the backend's capabilities", config.irqchip),
            ));
        }
        Ok(Arc::new(KvmVm::new(self.new_vm()?, &self.host, config)?))
    }
}

impl std::fmt::Debug for KvmBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvmBackend").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kvm_is_unusable_and_says_so() {
        let missing = KvmBackend::open_device(c"/dev/no-such-device").unwrap_err();
        assert_eq!(missing.code(), ErrorCode::BackendUnusable);
        assert!(missing.to_string().contains("load the module"), "{missing}");
        let other = KvmBackend::open_device(c"/dev/null").unwrap_err();
        assert_eq!(other.code(), ErrorCode::BackendUnusable);
        assert!(other.to_string().contains("no KVM"), "{other}");
    }

    #[test]
    fn a_kvm_that_is_too_old_lacks_something() {
        assert_eq!(first_missing(|_| true), None);
        assert_eq!(first_missing(|cap| cap as u32 != Cap::ImmediateExit as u32), Some("IMMEDIATE_EXIT"));
        assert_eq!(first_missing(|_| false), Some("USER_MEMORY"));
    }
}
