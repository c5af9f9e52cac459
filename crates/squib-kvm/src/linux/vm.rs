//! A VM: its memory slots and its dirty log; its interrupt controllers are on the `Board`.
#![allow(unsafe_code, reason = "KVM keeps the host addresses of guest memory")]

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::*;
use kvm_ioctls::VmFd;
use squib_core::memory::PAGE_SIZE;
use squib_core::{
    AddressSpace, Attachment, CoalescedWrites, Doorbell, DoorbellRegister, Error, ErrorCode, GuestMemory,
    InterruptSource, InterruptTrigger, Result, Vcpu, Vm, VmConfig, Waker,
};

use super::arch::{Board, Host};
use super::coalesced::{self, Coalesced};
use super::dirty::OutsideWrites;
use super::doorbells::{self, Doorbells};
use super::errors::failed;
use super::triggers;
use super::vcpu::KvmVcpu;

/// What the VM and its vCPUs share. The VM is closed before its memory is let go.
pub(super) struct Machine {
    pub(super) fd: VmFd,
    pub(super) host: Arc<Host>,
    /// What is particular to the architecture.
    pub(super) board: Board,
    pub(super) waker: Arc<dyn Waker>,
    pub(super) doorbells: Doorbells,
    pub(super) coalesced: Coalesced,
    outside_writes: Arc<OutsideWrites>,
    /// Whether the dirty log is kept.
    dirty_log: Mutex<bool>,
    memory: Arc<GuestMemory>,
}

/// A KVM virtual machine.
pub(super) struct KvmVm(Arc<Machine>);

impl KvmVm {
    /// Makes `fd` a VM as `config` wants it.
    pub(super) fn new(fd: VmFd, host: &Arc<Host>, config: &VmConfig) -> Result<Self> {
        let machine = Machine {
            board: Board::new(&fd, host, config)?,
            fd,
            host: host.clone(),
            waker: config.waker.clone(),
            doorbells: Doorbells::default(),
            coalesced: Coalesced::default(),
            outside_writes: Arc::new(OutsideWrites::new(&config.memory)),
            dirty_log: Mutex::new(false),
            memory: config.memory.clone(),
        };
        machine.set_memory(false)?;
        config.memory.observe_code_writes(machine.outside_writes.clone())?;
        Ok(Self(Arc::new(machine)))
    }
}

impl Machine {
    /// Tells KVM of each region, as the slot of its number.
    fn set_memory(&self, dirty_log: bool) -> Result<()> {
        for (slot, region) in (0..).zip(self.memory.regions()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: if dirty_log { KVM_MEM_LOG_DIRTY_PAGES } else { 0 }
                    | if region.is_rom() { KVM_MEM_READONLY } else { 0 },
                guest_phys_addr: region.guest_addr(),
                memory_size: region.len(),
                userspace_addr: region.host_ptr() as u64,
            };
            // SAFETY: the region stays where it is as long as the memory lives, which this VM and each of its
            // vCPUs keep alive beyond their descriptors; regions do not overlap, and nobody borrows guest RAM.
            unsafe { self.fd.set_user_memory_region(slot) }
                .map_err(|e| failed("KVM_SET_USER_MEMORY_REGION", e))?;
        }
        Ok(())
    }
}

impl Vm for KvmVm {
    fn memory(&self) -> &Arc<GuestMemory> {
        &self.0.memory
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        let max = self.0.host.max_vcpus;
        if id >= max {
            return Err(Error::new(
                ErrorCode::VcpuCount,
                format!("vCPUs are numbered from 0 to {}, so there is no vCPU {id}", max.saturating_sub(1)),
            ));
        }
        Ok(Box::new(KvmVcpu::new(&self.0, id)?))
    }

    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.0.board.set_irq_line(&self.0.fd, gsi, level)
    }

    fn signal_msi(&self, address: u64, data: u32) -> Result<()> {
        self.0.board.signal_msi(&self.0.fd, address, data)
    }

    fn interrupt_trigger(&self, source: InterruptSource) -> Result<Arc<dyn InterruptTrigger>> {
        triggers::create(&self.0, source)
    }

    fn attach_doorbell(
        &self,
        at: &DoorbellRegister,
        doorbell: &Arc<dyn Doorbell>,
    ) -> Result<Option<Attachment>> {
        doorbells::attach(&self.0, at, doorbell)
    }

    fn coalesce_writes(
        &self,
        space: AddressSpace,
        range: (u64, u64),
        writes: &Arc<dyn CoalescedWrites>,
    ) -> Result<Option<Attachment>> {
        coalesced::attach(&self.0, space, range, writes)
    }

    fn set_dirty_log(&self, enabled: bool) -> Result<()> {
        let mut kept = self.0.dirty_log.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept != enabled {
            self.0.set_memory(enabled)?;
            self.0.outside_writes.watch(&self.0.memory, enabled);
            *kept = enabled;
        }
        Ok(())
    }

    fn take_dirty_pages(&self) -> Result<Vec<u64>> {
        let kept = self.0.dirty_log.lock().unwrap_or_else(PoisonError::into_inner);
        if !*kept {
            return Err(Error::new(ErrorCode::InvalidArgument, "no dirty log is kept: start one first"));
        }
        let mut pages = Vec::new();
        for (slot, region) in self.0.memory.regions().iter().enumerate() {
            let bitmap = self
                .0
                .fd
                .get_dirty_log(slot as u32, region.len() as usize)
                .map_err(|e| failed("KVM_GET_DIRTY_LOG", e))?;
            for (index, guest) in bitmap.iter().enumerate() {
                let mut word = guest | self.0.outside_writes.take(slot, index);
                while word != 0 {
                    let page = index as u64 * 64 + u64::from(word.trailing_zeros());
                    pages.push(region.guest_addr() + page * PAGE_SIZE);
                    word &= word - 1;
                }
            }
        }
        Ok(pages)
    }
}
