//! Backend and VM. A process has one VM at most.
#![allow(unsafe_code, reason = "the framework keeps the host addresses of guest memory")]

use std::sync::Arc;

use squib_core::{
    BackendCapabilities, BackendKind, Error, ErrorCode, GuestMemory, HypervisorBackend, IrqchipKind, Result,
    Vcpu, Vm, VmConfig, Waker,
};

use super::ffi;
use super::vcpu::HvfVcpu;
use crate::capabilities::hypervisor_framework;
use crate::pages::check_pages;

/// Hypervisor.framework.
#[derive(Debug)]
pub struct HvfBackend {
    capabilities: BackendCapabilities,
}

impl HvfBackend {
    /// Asks the framework what it can do. Whether it is permitted shows when a VM is made.
    ///
    /// # Errors
    /// [`ErrorCode::BackendUnusable`] on a Mac without it.
    pub fn open() -> Result<Self> {
        Ok(Self { capabilities: hypervisor_framework(ffi::max_vcpus()?) })
    }
}

impl HypervisorBackend for HvfBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Hvf
    }

    fn capabilities(&self) -> &BackendCapabilities {
        &self.capabilities
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        if config.irqchip != IrqchipKind::None {
            let message = "Hypervisor.framework is used without an interrupt controller of its own";
            return Err(Error::new(ErrorCode::Unsupported, message));
        }
        if config.dirty_ring.is_some() {
            let message = "Hypervisor.framework does not track dirty pages";
            return Err(Error::new(ErrorCode::Unsupported, message));
        }
        check_pages(&config.memory)?;
        ffi::create_vm()?;
        let machine = Machine { memory: config.memory.clone(), waker: config.waker.clone() };
        for region in machine.memory.regions() {
            let (host, guest, len) = (region.host_ptr(), region.guest_addr(), region.len() as usize);
            // SAFETY: the VM is ended when `machine` is dropped, before its memory; nobody borrows guest RAM.
            unsafe { ffi::map(host, guest, len, !region.is_rom()) }?;
        }
        Ok(Arc::new(HvfVm(Arc::new(machine))))
    }
}

/// The VM of this process, which its vCPUs keep.
pub(super) struct Machine {
    memory: Arc<GuestMemory>,
    pub(super) waker: Arc<dyn Waker>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        ffi::destroy_vm();
    }
}

struct HvfVm(Arc<Machine>);

impl Vm for HvfVm {
    fn memory(&self) -> &Arc<GuestMemory> {
        &self.0.memory
    }

    /// The vCPU runs on the thread that calls this, and on no other.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        Ok(Box::new(HvfVcpu::new(self.0.clone(), id)?))
    }

    fn set_irq_line(&self, gsi: u32, _: bool) -> Result<()> {
        Err(Error::new(
            ErrorCode::IrqLine,
            format!("there is no interrupt line {gsi}: this VM has no controller"),
        ))
    }

    fn signal_msi(&self, _: u64, _: u32) -> Result<()> {
        Err(Error::new(ErrorCode::IrqLine, "this VM has no controller that could take a message"))
    }
}
