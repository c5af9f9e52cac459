//! Interrupts that any thread raises by an eventfd (KVM API, 4.75 `KVM_IRQFD`).

use std::sync::{Arc, Weak};

use squib_core::{Error, ErrorCode, InterruptSource, InterruptTrigger, Result};
use vmm_sys_util::eventfd::EventFd;

use super::errors::failed;
use super::vm::Machine;

/// An eventfd whose writes raise an interrupt.
struct Trigger {
    event: EventFd,
    gsi: u32,
    vm: Weak<Machine>,
}

/// Makes one.
pub(super) fn create(vm: &Arc<Machine>, source: InterruptSource) -> Result<Arc<dyn InterruptTrigger>> {
    source.check()?;
    let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
        .map_err(|e| Error::with_source(ErrorCode::Hypervisor, "no eventfd for an interrupt", e))?;
    let gsi = vm.board.route(&vm.fd, source)?;
    // Made first, so that a route does not outlive a failure.
    let trigger = Trigger { event, gsi, vm: Arc::downgrade(vm) };
    vm.fd.register_irqfd(&trigger.event, gsi).map_err(|e| failed("KVM_IRQFD", e))?;
    Ok(Arc::new(trigger))
}

impl InterruptTrigger for Trigger {
    fn trigger(&self) {
        // Only one that has been triggered 2^64 times since KVM last looked is full.
        let _ = self.event.write(1);
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        if let Some(vm) = self.vm.upgrade() {
            let _ = vm.fd.unregister_irqfd(&self.event, self.gsi);
            vm.board.unroute(&vm.fd, self.gsi);
        }
    }
}
