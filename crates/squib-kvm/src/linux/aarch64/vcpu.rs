//! What a vCPU has on aarch64 only: its set-up, the GIC that must be complete before it runs, calls by the SMC convention.

use std::sync::Arc;

use kvm_bindings::*;
use kvm_ioctls::VcpuFd;
use squib_core::{DebugInfo, Result, VmExit};

use super::registers as reg;
use crate::linux::errors::failed;
use crate::linux::exits::Pending;
use crate::linux::vcpu::KvmVcpu;
use crate::linux::vm::Machine;

/// What SMCCC says of a function that there is not (SMC Calling Convention, 5.2).
pub(in crate::linux) const NO_SUCH_HYPERCALL: u64 = -1_i64 as u64;

/// What a debug exit says: the syndrome is whole.
pub(in crate::linux) fn debug_info(debug: &kvm_debug_exit_arch, pc: impl FnOnce() -> u64) -> DebugInfo {
    DebugInfo::new(pc(), u64::from(debug.hsr_high) << 32 | u64::from(debug.hsr))
}

/// The part of a vCPU's state that KVM does not keep.
pub(in crate::linux) struct State {
    /// It has been entered, so the GIC is complete.
    entered: bool,
}

impl State {
    /// For vCPU `id` of `vm`, which is set up: the host's processor, PSCI by the kernel, and all but the first switched off.
    pub(in crate::linux) fn new(vm: &Arc<Machine>, fd: &VcpuFd, id: u32) -> Result<Self> {
        let mut init = kvm_vcpu_init::default();
        vm.fd.get_preferred_target(&mut init).map_err(|e| failed("KVM_ARM_PREFERRED_TARGET", e))?;
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        if id != 0 {
            init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        fd.vcpu_init(&init).map_err(|e| failed("KVM_ARM_VCPU_INIT", e))?;
        Ok(Self { entered: false })
    }
}

/// PC; 0 when KVM does not tell.
pub(in crate::linux) fn program_counter(fd: &VcpuFd) -> u64 {
    reg::get_u64(fd, reg::PC).unwrap_or(0)
}

impl KvmVcpu {
    /// Before the guest is entered: what is to be returned instead, which is nothing here. A call's result goes into X0, of
    /// which KVM leaves the care to user space.
    #[inline]
    pub(in crate::linux) fn about_to_enter(&mut self, _complete: bool) -> Result<Option<VmExit>> {
        if !self.state.entered {
            self.vm.board.make_ready()?;
            self.state.entered = true;
        }
        if self.pending == Pending::Hypercall {
            let result = self.page.hypercall().ret.to_le_bytes();
            reg::set(&self.fd, reg::x(0), &result).map_err(|e| failed("KVM_SET_ONE_REG", e))?;
        }
        Ok(None)
    }

    /// After an entry without an exit: nothing to note.
    pub(in crate::linux) fn no_exit(&mut self, _interrupted: bool) {}

    /// Completes the exit that the guest has made, which is no access. A call's function and arguments are in X0 to X6 (SMC
    /// Calling Convention, 2.6).
    pub(in crate::linux) fn left(&mut self, exit: &mut VmExit) -> Result<()> {
        let VmExit::Hypercall { func, args } = exit else { return Ok(()) };
        for (number, value) in std::iter::once(func).chain(args).enumerate() {
            *value = reg::get_u64(&self.fd, reg::x(number)).map_err(|e| failed("KVM_GET_ONE_REG", e))?;
        }
        Ok(())
    }
}
