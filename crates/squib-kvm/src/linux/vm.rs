//! A VM: its memory slots and its dirty log; its interrupt controllers are on the `Board`.
#![allow(unsafe_code, reason = "KVM keeps the host addresses of guest memory")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::*;
use kvm_ioctls::{VcpuFd, VmFd};
use squib_core::{
    AddressSpace, Attachment, CoalescedWrites, Doorbell, DoorbellRegister, Error, ErrorCode, GuestMemory,
    InterruptSource, InterruptTrigger, Result, Vcpu, Vm, VmConfig, Waker,
};

use super::arch::{Board, Host};
use super::coalesced::{self, Coalesced};
use super::dirty::DirtyPages;
use super::dirty_ring::Rings;
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
    dirty: Arc<DirtyPages>,
    dirty_log: Mutex<DirtyLog>,
    memory: Arc<GuestMemory>,
}

/// How KVM tells what vCPUs write.
struct DirtyLog {
    kept: bool,
    /// With `None` it has a bitmap for each region.
    rings: Option<Rings>,
}

/// A KVM virtual machine.
pub(super) struct KvmVm(Arc<Machine>);

impl KvmVm {
    /// Makes `fd` a VM as `config` wants it.
    pub(super) fn new(fd: VmFd, host: &Arc<Host>, config: &VmConfig) -> Result<Self> {
        let rings = config.dirty_ring.map(|entries| Rings::enable(&fd, entries)).transpose()?;
        let machine = Machine {
            board: Board::new(&fd, host, config)?,
            fd,
            host: host.clone(),
            waker: config.waker.clone(),
            doorbells: Doorbells::default(),
            coalesced: Coalesced::default(),
            dirty: Arc::new(DirtyPages::new(&config.memory)),
            dirty_log: Mutex::new(DirtyLog { kept: false, rings }),
            memory: config.memory.clone(),
        };
        machine.set_memory(false)?;
        config.memory.observe_code_writes(machine.dirty.clone())?;
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

    fn dirty_log(&self) -> MutexGuard<'_, DirtyLog> {
        self.dirty_log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the dirty ring of vCPU `id`, if vCPUs have one.
    pub(super) fn add_ring(&self, id: u32, vcpu: &VcpuFd) -> Result<()> {
        self.dirty_log().rings.as_mut().map_or(Ok(()), |rings| rings.add(id, vcpu))
    }

    /// Empties the rings, and says whether there is room again in vCPU `id`'s, which was full.
    pub(super) fn make_room(&self, id: u32) -> Result<bool> {
        let mut log = self.dirty_log();
        self.collect(&mut log)?;
        Ok(log.rings.as_mut().is_some_and(|rings| rings.has_room(id)))
    }

    /// Adds what vCPUs have written, as KVM tells it.
    fn collect(&self, log: &mut DirtyLog) -> Result<()> {
        if let Some(rings) = &mut log.rings {
            if !rings.collect(&self.fd, &self.dirty)? {
                // All pages are watched anew, and then each counts as written.
                self.set_memory(false)?;
                self.set_memory(log.kept)?;
                self.dirty.mark_all();
            }
            return Ok(());
        }
        for (slot, region) in self.memory.regions().iter().enumerate() {
            let bitmap = self.fd.get_dirty_log(slot as u32, region.len() as usize);
            for (index, pages) in bitmap.map_err(|e| failed("KVM_GET_DIRTY_LOG", e))?.into_iter().enumerate()
            {
                self.dirty.mark_word(slot, index, pages);
            }
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
        let mut log = self.0.dirty_log();
        if log.kept != enabled {
            self.0.set_memory(enabled)?;
            log.kept = enabled;
            // What is new begins with nothing; rings may hold something from before.
            if enabled {
                self.0.collect(&mut log)?;
            }
            self.0.dirty.watch(&self.0.memory, enabled);
        }
        Ok(())
    }

    fn take_dirty_pages(&self) -> Result<Vec<u64>> {
        let mut log = self.0.dirty_log();
        if !log.kept {
            return Err(Error::new(ErrorCode::InvalidArgument, "no dirty log is kept: start one first"));
        }
        self.0.collect(&mut log)?;
        Ok(self.0.dirty.take())
    }
}
