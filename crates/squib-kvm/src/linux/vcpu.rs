//! One virtual processor: answer the last exit, enter the guest, decode the next.

use std::sync::Arc;

use kvm_bindings::{KVM_EXIT_INTR, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_SET_TPR};
use kvm_ioctls::VcpuFd;
use squib_core::x86::X86State;
use squib_core::{CancelHandle, Error, ErrorCode, IrqchipKind, Result, Vcpu, VmEntry, VmExit};

use super::cancel::Kick;
use super::cpuid::{self, LocalApic};
use super::errors::failed;
use super::exits::{self, Pending};
use super::run_page::RunPage;
use super::sys;
use super::vm::Machine;

/// A KVM vCPU. Its file descriptor is closed first and the VM let go last.
pub(super) struct KvmVcpu {
    pub(super) fd: VcpuFd,
    pub(super) page: RunPage,
    pending: Pending,
    /// `HLT` was reported and nothing has come since. Only without a local APIC in the kernel, which would
    /// wait there itself.
    halted: bool,
    kick: Arc<Kick>,
    id: u32,
    pub(super) vm: Arc<Machine>,
}

impl KvmVcpu {
    pub(super) fn new(vm: &Arc<Machine>, id: u32) -> Result<Self> {
        let fd = vm.fd.create_vcpu(u64::from(id)).map_err(|e| match e.errno() {
            libc::EEXIST => Error::new(ErrorCode::VcpuCount, format!("this VM has a vCPU {id} already")),
            libc::EINVAL => {
                Error::new(ErrorCode::VcpuCount, format!("KVM refuses a vCPU {id}: the VM has too many"))
            }
            _ => failed("KVM_CREATE_VCPU", e),
        })?;
        let present = vm.irqchip != IrqchipKind::None;
        let apic = LocalApic { present, tsc_deadline: present && vm.host.tsc_deadline };
        let cpuid = cpuid::for_vcpu(vm.host.cpuid.as_slice(), id, apic)?;
        fd.set_cpuid2(&cpuid).map_err(|e| failed("KVM_SET_CPUID2", e))?;
        let page = RunPage::map(&fd, vm.fd.run_size())?;
        let kick = Kick::new(&page, vm.waker.clone())?;
        let vm = vm.clone();
        Ok(Self { fd, page, pending: Pending::Nothing, halted: false, kick: Arc::new(kick), id, vm })
    }

    /// The caller has set registers or events: what the last exit said about them is void.
    pub(super) fn state_changed(&mut self) {
        self.halted = false;
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

    /// The exit in the run page.
    #[inline]
    fn exit(&mut self) -> VmExit {
        let rip = || self.fd.get_regs().map_or(0, |regs| regs.rip);
        let (exit, pending) = exits::decode(&self.page, rip);
        self.pending = pending;
        self.halted = matches!(exit, VmExit::Hlt);
        exit
    }

    fn has_local_apic(&self) -> bool {
        self.vm.irqchip != IrqchipKind::None
    }
}

impl Vcpu for KvmVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn run(&mut self, entry: VmEntry) -> Result<VmExit> {
        self.pending.answer(&mut self.page, &entry)?;
        if let Some(exit) = self.pending.next_element(&self.page) {
            return Ok(exit);
        }
        self.pending = Pending::Nothing;
        let complete = matches!(entry, VmEntry::Complete(_));
        if self.halted {
            return Ok(self.stay_halted(complete));
        }
        loop {
            match self
                .kick
                .inside(&self.page, complete, || sys::run(&self.fd))
                .map_err(kvm_ioctls::Error::errno)
            {
                Ok(()) => match self.page.exit_reason() {
                    // A signal, and a new task priority of which nobody asked to hear.
                    KVM_EXIT_INTR | KVM_EXIT_SET_TPR => {}
                    _ => return Ok(self.exit()),
                },
                // EAGAIN: a secondary vCPU got its start-up message and can be entered now.
                Err(libc::EINTR | libc::EAGAIN) => {
                    if complete {
                        return Ok(VmExit::Completed);
                    }
                    if self.kick.take() {
                        return Ok(VmExit::Cancelled);
                    }
                }
                // The one exit that comes with an error (KVM API, 5 `KVM_EXIT_MEMORY_FAULT`).
                Err(libc::EFAULT | libc::EHWPOISON) if self.page.exit_reason() == KVM_EXIT_MEMORY_FAULT => {
                    return Ok(self.exit());
                }
                Err(errno) => return Err(failed("KVM_RUN", kvm_ioctls::Error::new(errno))),
            }
        }
    }

    fn cancel_handle(&self) -> CancelHandle {
        CancelHandle::new(self.kick.clone())
    }

    fn is_runnable(&mut self) -> bool {
        !self.halted
    }

    fn inject_interrupt(&mut self, vector: u8) -> Result<()> {
        if self.has_local_apic() {
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
        sys::interrupt(&self.fd, vector).map_err(|e| failed("KVM_INTERRUPT", e))?;
        self.state_changed();
        Ok(())
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.page.set_request_interrupt_window(wanted);
    }

    fn inject_nmi(&mut self) -> Result<()> {
        self.fd.nmi().map_err(|e| failed("KVM_NMI", e))?;
        self.state_changed();
        Ok(())
    }

    #[cfg(feature = "gdb")]
    fn set_debug_stops(&mut self, stops: &squib_core::DebugStops) -> Result<()> {
        self.stop_for_debugger(stops)
    }

    fn x86(&mut self) -> Result<&mut dyn X86State> {
        Ok(self)
    }
}
