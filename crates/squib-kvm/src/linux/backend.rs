//! The backend: `/dev/kvm`, opened and found fit.

use std::ffi::CStr;
use std::sync::Arc;

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm, VmFd};
use squib_core::memory::PAGE_SIZE;
use squib_core::{
    BackendCapabilities, BackendKind, Error, ErrorCode, HypervisorBackend, Result, Vm, VmConfig,
};

use super::arch::{self, Host};
use super::errors::{failed, unusable};
use super::sys;
use super::vm::KvmVm;

const DEVICE: &CStr = c"/dev/kvm";

/// The Linux KVM backend.
pub struct KvmBackend {
    pub(super) kvm: Kvm,
    pub(super) host: Arc<Host>,
    capabilities: BackendCapabilities,
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
        check_page_size(sys::page_size())?;
        if let Some(name) = first_missing(|cap| kvm.check_extension(cap)) {
            return Err(lacking(format!("lacks KVM_CAP_{name}: squib needs Linux 4.11 or newer")));
        }
        let host = Host::new(&kvm)?;
        let capabilities = arch::capabilities(&kvm, &host);
        Ok(Self { kvm, host: Arc::new(host), capabilities })
    }

    /// A VM of KVM's, still without anything.
    pub(super) fn new_vm(&self) -> Result<VmFd> {
        loop {
            match arch::create_vm(&self.kvm, &self.host) {
                Ok(vm) => return Ok(vm),
                Err(e) if e.errno() == libc::EINTR => {}
                Err(e) if e.errno() == libc::EBUSY => return Err(unusable("a VM", e)),
                Err(e) => return Err(failed("KVM_CREATE_VM", e)),
            }
        }
    }
}

/// Refuses pages of another size than squib's. KVM counts in the host's pages: in its dirty log, its rings, and the places of memory.
fn check_page_size(size: u64) -> Result<()> {
    if size == PAGE_SIZE {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::BackendUnusable,
        format!("this host's kernel has pages of {size} bytes: start one that has pages of {PAGE_SIZE}"),
    ))
}

/// The name of a needed capability that is not there.
fn first_missing(has: impl Fn(Cap) -> bool) -> Option<&'static str> {
    arch::NEEDED.iter().find(|(cap, _)| !has(*cap)).map(|(_, name)| *name)
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
    fn a_host_with_large_pages_is_unusable() {
        check_page_size(PAGE_SIZE).unwrap();
        let refused = check_page_size(64 << 10).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::BackendUnusable);
        assert!(refused.to_string().contains("65536"), "{refused}");
    }

    #[test]
    fn a_kvm_that_is_too_old_lacks_something() {
        assert_eq!(first_missing(|_| true), None);
        assert_eq!(first_missing(|cap| cap as u32 != Cap::ImmediateExit as u32), Some("IMMEDIATE_EXIT"));
        assert_eq!(first_missing(|_| false), Some("USER_MEMORY"));
    }
}
