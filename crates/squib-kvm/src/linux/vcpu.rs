//! One virtual processor: answer the last exit, enter the guest, decode the next.

use std::sync::Arc;

use kvm_bindings::{KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_INTR, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_SET_TPR};
use kvm_ioctls::VcpuFd;
use squib_core::{CancelHandle, Error, ErrorCode, Result, Vcpu, VmEntry, VmExit};

use super::arch::{State, program_counter};
use super::cancel::Kick;
use super::errors::failed;
use super::exits::{self, Pending};
use super::run_page::RunPage;
use super::sys;
use super::vm::Machine;

/// A KVM vCPU. Its file descriptor is closed first and the VM let go last.
pub(super) struct KvmVcpu {
    pub(super) fd: VcpuFd,
    pub(super) page: RunPage,
    pub(super) pending: Pending,
    /// What is particular to the architecture.
    pub(super) state: State,
    pub(super) kick: Arc<Kick>,
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
            libc::EBUSY => Error::new(
                ErrorCode::VcpuCount,
                format!("vCPU {id} comes too late: this VM's interrupt controller is complete"),
            ),
            _ => failed("KVM_CREATE_VCPU", e),
        })?;
        let state = State::new(vm, &fd, id)?;
        let page = RunPage::map(&fd, vm.fd.run_size())?;
        vm.add_ring(id, &fd)?;
        let kick = Kick::new(&page, vm.waker.clone())?;
        let vm = vm.clone();
        Ok(Self { fd, page, pending: Pending::Nothing, state, kick: Arc::new(kick), id, vm })
    }

    /// What it means that `KVM_RUN` returned otherwise than with an access: the exit, or nothing when the guest is to be
    /// entered again.
    #[cold]
    fn returned(&mut self, entered: Result<(), kvm_ioctls::Error>, complete: bool) -> Result<Option<VmExit>> {
        match entered.map_err(kvm_ioctls::Error::errno) {
            Ok(()) if self.goes_on()? => Ok(None),
            Ok(()) => self.exit().map(Some),
            // EAGAIN: a secondary vCPU of an x86 VM got its start-up message and can be entered now.
            Err(libc::EINTR | libc::EAGAIN) => {
                self.no_exit(true);
                if complete {
                    return Ok(Some(VmExit::Completed));
                }
                Ok(self.kick.take().then_some(VmExit::Cancelled))
            }
            // The one exit that comes with an error (KVM API, 5 `KVM_EXIT_MEMORY_FAULT`).
            Err(libc::EFAULT | libc::EHWPOISON) if self.page.exit_reason() == KVM_EXIT_MEMORY_FAULT => {
                self.exit().map(Some)
            }
            Err(errno) => {
                self.no_exit(false);
                Err(failed("KVM_RUN", kvm_ioctls::Error::new(errno)))
            }
        }
    }

    /// Whether the exit in the run page is nobody's business: a signal, on x86 a new task priority of which nobody asked to
    /// hear, a dirty ring that was full and is not any more.
    fn goes_on(&self) -> Result<bool> {
        match self.page.exit_reason() {
            KVM_EXIT_INTR | KVM_EXIT_SET_TPR => Ok(true),
            KVM_EXIT_DIRTY_RING_FULL => self.vm.make_room(self.id),
            _ => Ok(false),
        }
    }

    /// The exit in the run page, which is no access.
    fn exit(&mut self) -> Result<VmExit> {
        let mut exit = exits::other(&self.page, &mut self.pending, || program_counter(&self.fd));
        self.left(&mut exit)?;
        Ok(exit)
    }
}

impl Vcpu for KvmVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn run(&mut self, entry: VmEntry) -> Result<VmExit> {
        let complete = self.pending.answer(&mut self.page, entry)?;
        if let Some(exit) = self.pending.next_element(&self.page) {
            return Ok(exit);
        }
        if let Some(exit) = self.about_to_enter(complete)? {
            return Ok(exit);
        }
        self.pending = Pending::Nothing;
        loop {
            let entered = self.kick.inside(&self.page, complete, || sys::run(&self.fd));
            self.vm.coalesced.deliver(&self.page);
            if entered.is_ok()
                && let Some(exit) = exits::access(&self.page, &mut self.pending)
            {
                return Ok(exit);
            }
            if let Some(exit) = self.returned(entered, complete)? {
                return Ok(exit);
            }
        }
    }

    fn cancel_handle(&self) -> CancelHandle {
        CancelHandle::new(self.kick.clone())
    }

    #[cfg(feature = "gdb")]
    fn set_debug_stops(&mut self, stops: &squib_core::DebugStops) -> Result<()> {
        self.stop_for_debugger(stops)
    }

    #[cfg(target_arch = "x86_64")]
    fn is_runnable(&mut self) -> bool {
        !self.state.halted
    }

    #[cfg(target_arch = "x86_64")]
    fn inject_interrupt(&mut self, vector: u8) -> Result<()> {
        self.queue_interrupt(vector)
    }

    #[cfg(target_arch = "x86_64")]
    fn request_interrupt_window(&mut self, wanted: bool) {
        self.page.set_request_interrupt_window(wanted);
    }

    #[cfg(target_arch = "x86_64")]
    fn inject_nmi(&mut self) -> Result<()> {
        self.queue_nmi()
    }

    #[cfg(target_arch = "x86_64")]
    fn x86(&mut self) -> Result<&mut dyn squib_core::x86::X86State> {
        Ok(self)
    }

    #[cfg(target_arch = "aarch64")]
    fn arm64(&mut self) -> Result<&mut dyn squib_core::arm64::Arm64State> {
        Ok(self)
    }
}
