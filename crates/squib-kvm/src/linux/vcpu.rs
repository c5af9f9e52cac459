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

/// How `KVM_RUN` returned.
#[derive(Debug, PartialEq)]
enum Returned {
    /// With an exit in the run page.
    Exit,
    /// With nobody's business: a signal, or on x86 a new task priority of which nobody asked to hear.
    Nothing,
    /// Because the vCPU's dirty ring is full.
    RingFull,
    /// By a cancellation, by somebody else's signal, or at once.
    Interrupted,
    /// With an error.
    Failed(kvm_ioctls::Error),
}

impl Returned {
    /// What a result means with this exit reason in the run page.
    fn of(entered: Result<(), kvm_ioctls::Error>, reason: u32) -> Self {
        match entered.map_err(|e| (e.errno(), e)) {
            Ok(()) if matches!(reason, KVM_EXIT_INTR | KVM_EXIT_SET_TPR) => Self::Nothing,
            Ok(()) if reason == KVM_EXIT_DIRTY_RING_FULL => Self::RingFull,
            Ok(()) => Self::Exit,
            // EAGAIN: a secondary vCPU of an x86 VM got its start-up message and can be entered now.
            Err((libc::EINTR | libc::EAGAIN, _)) => Self::Interrupted,
            // The one exit that comes with an error (KVM API, 5 `KVM_EXIT_MEMORY_FAULT`).
            Err((libc::EFAULT | libc::EHWPOISON, _)) if reason == KVM_EXIT_MEMORY_FAULT => Self::Exit,
            Err((_, cause)) => Self::Failed(cause),
        }
    }
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

    /// The exit with which `KVM_RUN` returned, if it was no access, or nothing when the guest is to be entered again.
    #[cold]
    fn returned(&mut self, entered: Result<(), kvm_ioctls::Error>, complete: bool) -> Result<Option<VmExit>> {
        match Returned::of(entered, self.page.exit_reason()) {
            Returned::Exit => self.exit().map(Some),
            Returned::Nothing => Ok(None),
            Returned::RingFull if self.vm.make_room(self.id)? => Ok(None),
            Returned::RingFull => self.exit().map(Some),
            Returned::Interrupted => {
                self.no_exit(true);
                if complete {
                    return Ok(Some(VmExit::Completed));
                }
                Ok(self.kick.take().then_some(VmExit::Cancelled))
            }
            Returned::Failed(cause) => {
                self.no_exit(false);
                Err(failed("KVM_RUN", cause))
            }
        }
    }

    /// The exit in the run page, which is no access.
    fn exit(&mut self) -> Result<VmExit> {
        let mut exit = exits::other(&self.page, &mut self.pending, || program_counter(&self.fd));
        self.left(&mut exit)?;
        if let VmExit::SystemEvent { data, .. } = &mut exit
            && !self.vm.host.system_event_data
        {
            // What a kernel without it leaves there is no number of words (KVM API, 5 `KVM_EXIT_SYSTEM_EVENT`).
            data.clear();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_without_an_access() {
        use kvm_bindings::{KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_UNKNOWN};
        let failed = |errno| Err(kvm_ioctls::Error::new(errno));
        for (entered, reason, expected) in [
            (Ok(()), KVM_EXIT_HLT, Returned::Exit),
            (Ok(()), KVM_EXIT_MEMORY_FAULT, Returned::Exit),
            (Ok(()), 12345, Returned::Exit),
            (Ok(()), KVM_EXIT_INTR, Returned::Nothing),
            (Ok(()), KVM_EXIT_SET_TPR, Returned::Nothing),
            (Ok(()), KVM_EXIT_DIRTY_RING_FULL, Returned::RingFull),
            (failed(libc::EINTR), KVM_EXIT_INTR, Returned::Interrupted),
            (failed(libc::EINTR), KVM_EXIT_MEMORY_FAULT, Returned::Interrupted),
            (failed(libc::EAGAIN), KVM_EXIT_UNKNOWN, Returned::Interrupted),
            (failed(libc::EFAULT), KVM_EXIT_MEMORY_FAULT, Returned::Exit),
            (failed(libc::EHWPOISON), KVM_EXIT_MEMORY_FAULT, Returned::Exit),
            (failed(libc::EFAULT), KVM_EXIT_IO, Returned::Failed(kvm_ioctls::Error::new(libc::EFAULT))),
            (
                failed(libc::EINVAL),
                KVM_EXIT_MEMORY_FAULT,
                Returned::Failed(kvm_ioctls::Error::new(libc::EINVAL)),
            ),
        ] {
            assert_eq!(Returned::of(entered, reason), expected, "{entered:?}, {reason}");
        }
    }
}
