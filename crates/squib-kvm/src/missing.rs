//! What stands in for the backend where it is not compiled.

use std::sync::Arc;

use squib_core::{
    BackendCapabilities, BackendKind, Error, ErrorCode, HypervisorBackend, Result, Vm, VmConfig,
};

use crate::report::{ProbeReport, Step};

/// The KVM backend, which this platform has not got: there is no value of this type.
#[derive(Debug)]
pub enum KvmBackend {}

fn missing() -> Error {
    Error::new(
        ErrorCode::BackendMissing,
        format!(
            "the kvm backend runs on Linux, on x86-64 and aarch64, not on {} {}: use the soft backend",
            std::env::consts::ARCH,
            std::env::consts::OS
        ),
    )
}

impl KvmBackend {
    /// Fails.
    ///
    /// # Errors
    /// [`ErrorCode::BackendMissing`], always.
    pub fn open() -> Result<Self> {
        Err(missing())
    }
}

impl HypervisorBackend for KvmBackend {
    fn kind(&self) -> BackendKind {
        match *self {}
    }

    fn capabilities(&self) -> &BackendCapabilities {
        match *self {}
    }

    fn create_vm(&self, _config: &VmConfig) -> Result<Arc<dyn Vm>> {
        match *self {}
    }
}

/// Reports that there is no KVM on this platform.
pub fn probe() -> ProbeReport {
    ProbeReport { opens: Step::Failed(missing().to_string()), ..ProbeReport::default() }.judged()
}
