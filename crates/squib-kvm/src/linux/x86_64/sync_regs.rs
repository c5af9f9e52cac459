//! Copies of registers in the run page (KVM API, 5 `kvm_valid_regs`), for who looks at registers after each exit.
//!
//! KVM makes the copies that it is asked for each time that `KVM_RUN` returns. It is asked for those that were read since the
//! last time, so that reading costs no system call from the second exit on, and an exit that nobody looks at costs nothing.
//! `docs/design/kvm.md` says what makes a copy void.

use kvm_bindings::{KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use squib_core::Result;
use squib_core::x86::bits::RFLAGS_FIXED;

use crate::linux::errors::{failed, refused};
use crate::linux::run_page::RunPage;
use crate::linux::vcpu::KvmVcpu;

/// General registers, RIP and RFLAGS.
const GENERAL: u8 = KVM_SYNC_X86_REGS as u8;
/// Segments and control registers.
const SYSTEM: u8 = KVM_SYNC_X86_SREGS as u8;

/// What the run page has of a vCPU's registers. Sets are of [`GENERAL`] and [`SYSTEM`].
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// The sets that KVM makes copies of when `KVM_RUN` returns.
    asked: u8,
    /// The sets that were read since it did.
    read: u8,
    /// The sets whose copies are what KVM has, or is to have at the next entry.
    valid: u8,
    /// At the next entry KVM takes general registers from the page, if told so.
    taken: bool,
}

impl Copies {
    /// Whether nobody reads registers.
    #[inline]
    pub(super) fn unused(&self) -> bool {
        self.asked | self.read == 0
    }

    /// Before an entry: asks for what was read, of what is `offered`.
    pub(super) fn enter(&mut self, page: &mut RunPage, offered: u8) {
        let wanted = self.read & offered;
        page.set_copies(wanted.into());
        *self = Self { asked: wanted, read: 0, valid: wanted, taken: wanted & GENERAL != 0 };
    }

    /// After an entry that ended without an exit. When it was interrupted there are copies, but a vCPU that waits to be
    /// started takes no registers from the page. When it failed it is not known how far it came.
    pub(super) fn no_exit(&mut self, interrupted: bool) {
        self.taken = false;
        if !interrupted {
            self.valid = 0;
        }
    }

    /// Notes that `set` is read, and says whether its copy is valid.
    fn reads(&mut self, set: u8) -> bool {
        self.read |= set;
        self.valid & set != 0
    }
}

impl KvmVcpu {
    /// The vCPU, for a call that depends on general registers or may change registers: KVM has what was set, and copies are void.
    pub(in crate::linux) fn settled(&mut self) -> Result<&VcpuFd> {
        self.settle()?;
        (self.state.copies.valid, self.state.copies.taken) = (0, false);
        Ok(&self.fd)
    }

    /// Gives KVM the general registers that it was to take at the next entry.
    fn settle(&mut self) -> Result<()> {
        if self.page.general_is_set() {
            call();
            self.fd.set_regs(&self.page.general()).map_err(|e| failed("KVM_SET_REGS", e))?;
            self.page.set_general(None);
        }
        Ok(())
    }

    pub(super) fn general(&mut self) -> Result<kvm_regs> {
        if self.state.copies.reads(GENERAL) {
            return Ok(self.page.general());
        }
        self.settle()?;
        call();
        self.fd.get_regs().map_err(|e| failed("KVM_GET_REGS", e))
    }

    pub(super) fn set_general(&mut self, regs: kvm_regs) -> Result<()> {
        if self.state.copies.taken {
            self.page.set_general(Some(kvm_regs { rflags: regs.rflags | RFLAGS_FIXED, ..regs }));
            return Ok(());
        }
        self.page.set_general(None);
        self.state.copies.valid &= !GENERAL;
        call();
        self.fd.set_regs(&regs).map_err(|e| refused("KVM_SET_REGS", e))
    }

    pub(super) fn system(&mut self) -> Result<kvm_sregs> {
        if self.state.copies.reads(SYSTEM) {
            return Ok(self.page.system());
        }
        call();
        self.fd.get_sregs().map_err(|e| failed("KVM_GET_SREGS", e))
    }
}

#[cfg(not(test))]
fn call() {}
#[cfg(test)]
use tests::call;

#[cfg(test)]
mod tests;
