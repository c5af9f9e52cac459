//! The least that a monitor on kvm-ioctls does for an exit: what squib's exits are measured against.
#![allow(unsafe_code, reason = "the bare loop hands its memory to KVM itself")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use squib_core::GuestMemory;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Result;
use crate::guest::{Access, END, ENTRY, MMIO, PORT};

/// A guest of [`Access`], and the loop that runs it.
pub(crate) struct Bare {
    vcpu: VcpuFd,
    vm: VmFd,
    /// Counts the writes, where the kernel takes them without an exit to user space.
    written: Option<EventFd>,
    /// Whether the kernel gathers them.
    gathered: bool,
    _memory: Arc<GuestMemory>,
}

impl Bare {
    pub(crate) fn new(access: &Access) -> Result<Self> {
        let memory = GuestMemory::new(MMIO / 2)?;
        memory.write(ENTRY, access.0)?;
        let vm = Kvm::new()?.create_vm()?;
        let region = memory.regions().first().ok_or("guest memory has a region")?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: region.len(),
            userspace_addr: region.host_ptr() as u64,
        };
        // SAFETY: the memory lives as long as the VM, and nobody borrows it.
        unsafe { vm.set_user_memory_region(slot) }?;
        let vcpu = vm.create_vcpu(0)?;
        Ok(Self { vcpu, vm, written: None, gathered: false, _memory: memory })
    }

    /// The same, with an ioeventfd at [`PORT`] and at [`MMIO`].
    pub(crate) fn with_ioeventfd(access: &Access) -> Result<Self> {
        let bare = Self::new(access)?;
        let written = EventFd::new(EFD_NONBLOCK)?;
        for place in [IoEventAddress::Pio(PORT), IoEventAddress::Mmio(MMIO)] {
            bare.vm.register_ioevent(&written, &place, NoDatamatch)?;
        }
        Ok(Self { written: Some(written), ..bare })
    }

    /// The same, with writes to [`PORT`] gathered.
    pub(crate) fn with_coalescing(access: &Access) -> Result<Self> {
        let mut bare = Self::new(access)?;
        bare.vm.register_coalesced_mmio(IoEventAddress::Pio(PORT), 1)?;
        bare.vcpu.map_coalesced_mmio_ring()?;
        Ok(Self { gathered: true, ..bare })
    }

    /// Nanoseconds of one of `count` exits.
    pub(crate) fn round(&mut self, count: u16) -> Result<f64> {
        self.round_with(count, |_| Ok(()))
    }

    /// The same, with a look at registers after each.
    pub(crate) fn looked_at_round(&mut self, count: u16) -> Result<f64> {
        self.round_with(count, |vcpu| {
            black_box(vcpu.get_regs()?);
            Ok(())
        })
    }

    fn round_with(&mut self, count: u16, look: impl Fn(&VcpuFd) -> Result<()>) -> Result<f64> {
        let mut system = self.vcpu.get_sregs()?;
        (system.cs.base, system.cs.selector, system.ds.base) = (0, 0, MMIO);
        self.vcpu.set_sregs(&system)?;
        let mut registers = self.vcpu.get_regs()?;
        (registers.rip, registers.rcx, registers.rdx, registers.rbx) = (ENTRY, count.into(), PORT, 0);
        self.vcpu.set_regs(&registers)?;
        let start = Instant::now();
        loop {
            let ended = match self.vcpu.run()? {
                VcpuExit::IoOut(END, _) => true,
                // Every access is of one byte, which a device would have to look at.
                VcpuExit::IoOut(_, [value]) | VcpuExit::MmioWrite(_, [value]) => {
                    black_box(*value);
                    false
                }
                VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data) => {
                    data.fill(0x5a);
                    false
                }
                other => return Err(format!("the guest ended with {other:?}").into()),
            };
            while self.gathered && self.vcpu.coalesced_mmio_read()?.is_some() {}
            if ended {
                break;
            }
            look(&self.vcpu)?;
        }
        let elapsed = start.elapsed();
        if let Some(written) = &self.written {
            let made = written.read()?;
            if made != count.into() {
                return Err(format!("the eventfd counted {made} of {count} writes").into());
            }
        }
        // The last write is finished before registers are set anew.
        self.vcpu.set_kvm_immediate_exit(1);
        let _ = self.vcpu.run();
        self.vcpu.set_kvm_immediate_exit(0);
        Ok(elapsed.as_secs_f64() * 1e9 / f64::from(count))
    }
}
