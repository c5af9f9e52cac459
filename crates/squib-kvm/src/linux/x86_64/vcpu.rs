//! What a vCPU has on x86 only: CPUID, halting without a local APIC, interrupts from user space, MSR exits.

use std::sync::Arc;

use kvm_bindings::kvm_debug_exit_arch;
use kvm_ioctls::VcpuFd;
use squib_core::{DebugInfo, Error, ErrorCode, IrqchipKind, Result, VmExit};

use super::cpuid::{self, LocalApic};
use super::sync_regs::Copies;
use super::sys;
use crate::linux::errors::failed;
use crate::linux::vcpu::KvmVcpu;
use crate::linux::vm::Machine;

/// `-KVM_ENOSYS`: what a guest reads as "no such hypercall" (include/uapi/linux/kvm_para.h).
pub(in crate::linux) const NO_SUCH_HYPERCALL: u64 = -1000_i64 as u64;

/// What a debug exit says.
pub(in crate::linux) fn debug_info(debug: &kvm_debug_exit_arch, _: impl FnOnce() -> u64) -> DebugInfo {
    DebugInfo::new(debug.pc, u64::from(debug.exception) << 32 | debug.dr6 & 0xffff_ffff)
}

/// The part of a vCPU's state that KVM does not keep.
pub(in crate::linux) struct State {
    /// `HLT` was reported and nothing has come since. Only without a local APIC in the kernel, which would
    /// wait there itself.
    pub(in crate::linux) halted: bool,
    /// What the run page has of the registers.
    pub(super) copies: Copies,
}

impl State {
    /// For vCPU `id` of `vm`, which is set up.
    pub(in crate::linux) fn new(vm: &Arc<Machine>, fd: &VcpuFd, id: u32) -> Result<Self> {
        let present = vm.board.irqchip != IrqchipKind::None;
        let apic = LocalApic { present, tsc_deadline: present && vm.host.tsc_deadline };
        let cpuid = cpuid::for_vcpu(vm.host.cpuid.as_slice(), id, apic)?;
        fd.set_cpuid2(&cpuid).map_err(|e| failed("KVM_SET_CPUID2", e))?;
        Ok(Self { halted: false, copies: Copies::default() })
    }
}

/// RIP; 0 when KVM does not tell.
pub(in crate::linux) fn program_counter(fd: &VcpuFd) -> u64 {
    fd.get_regs().map_or(0, |regs| regs.rip)
}

impl KvmVcpu {
    /// Before the guest is entered: what is to be returned instead, if anything.
    #[inline]
    pub(in crate::linux) fn about_to_enter(&mut self, complete: bool) -> Result<Option<VmExit>> {
        if !self.state.halted && self.state.copies.unused() {
            return Ok(None);
        }
        Ok(self.enter_attentively(complete))
    }

    #[cold]
    fn enter_attentively(&mut self, complete: bool) -> Option<VmExit> {
        if self.state.halted {
            return Some(self.stay_halted(complete));
        }
        self.state.copies.enter(&mut self.page, self.vm.host.sync_regs);
        None
    }

    /// After an entry without an exit: KVM was `interrupted` or has failed.
    pub(in crate::linux) fn no_exit(&mut self, interrupted: bool) {
        self.state.copies.no_exit(interrupted);
    }

    /// Notes the exit that the guest has made, which is no access. It was not halted: a halted one is not entered.
    pub(in crate::linux) fn left(&mut self, exit: &mut VmExit) -> Result<()> {
        self.state.halted = matches!(exit, VmExit::Hlt);
        Ok(())
    }

    /// The caller has set registers or events: what the last exit said about them is void.
    pub(super) fn state_changed(&mut self) {
        self.state.halted = false;
        self.page.distrust_interrupt_window();
    }

    /// What a halted vCPU says instead of running.
    fn stay_halted(&self, complete: bool) -> VmExit {
        if complete {
            VmExit::Completed
        } else if self.kick.take() {
            VmExit::Cancelled
        } else if self.page.request_interrupt_window() && self.page.takes_interrupts() {
            VmExit::InterruptWindow
        } else {
            VmExit::Hlt
        }
    }

    /// Delivers `vector` at the next entry.
    pub(in crate::linux) fn queue_interrupt(&mut self, vector: u8) -> Result<()> {
        if self.vm.board.irqchip != IrqchipKind::None {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "this VM has its interrupt controller in the kernel: raise a line or send a message instead",
            ));
        }
        if !self.page.takes_interrupts() {
            return Err(Error::new(
                ErrorCode::VcpuBusy,
                "the guest cannot take an interrupt now: ask for the interrupt window and wait for its exit",
            ));
        }
        sys::interrupt(self.settled()?, vector).map_err(|e| failed("KVM_INTERRUPT", e))?;
        self.state_changed();
        Ok(())
    }

    /// Raises an NMI.
    pub(in crate::linux) fn queue_nmi(&mut self) -> Result<()> {
        self.settled()?.nmi().map_err(|e| failed("KVM_NMI", e))?;
        self.state_changed();
        Ok(())
    }
}
