//! A VM: its memory slots, its interrupt controllers, its dirty log.
#![allow(unsafe_code, reason = "KVM keeps the host addresses of guest memory")]

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::*;
use kvm_ioctls::VmFd;
use squib_core::memory::PAGE_SIZE;
use squib_core::{Error, ErrorCode, GuestMemory, IrqchipKind, Result, Vcpu, Vm, VmConfig, Waker};

use super::backend::Host;
use super::dirty::OutsideWrites;
use super::errors::failed;
use super::exits::HC_MAP_GPA_RANGE;
use super::ioeoi::{self, IOAPIC_PINS, LevelMessages};
use super::vcpu::KvmVcpu;

/// Interrupt lines of the full irqchip.
const LINES: u32 = 24;

/// Where KVM may put what Intel's processors need for real mode: four pages below the firmware's place at the
/// top of the first 4 GiB (KVM API, 4.37 and 4.40).
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TASK_STATE: usize = 0xfffb_d000;

/// What the VM and its vCPUs share. The VM is closed before its memory is let go.
pub(super) struct Machine {
    pub(super) fd: VmFd,
    pub(super) host: Arc<Host>,
    pub(super) irqchip: IrqchipKind,
    pub(super) waker: Arc<dyn Waker>,
    level_messages: Mutex<LevelMessages>,
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
            fd,
            host: host.clone(),
            irqchip: config.irqchip,
            waker: config.waker.clone(),
            level_messages: Mutex::default(),
            outside_writes: Arc::new(OutsideWrites::new(&config.memory)),
            dirty_log: Mutex::new(false),
            memory: config.memory.clone(),
        };
        machine.fd.set_tss_address(TASK_STATE).map_err(|e| failed("KVM_SET_TSS_ADDR", e))?;
        if host.identity_map {
            let set = machine.fd.set_identity_map_address(IDENTITY_MAP);
            set.map_err(|e| failed("KVM_SET_IDENTITY_MAP_ADDR", e))?;
        }
        machine.create_irqchip()?;
        machine.enable_exits()?;
        machine.set_memory(false)?;
        config.memory.observe_code_writes(machine.outside_writes.clone())?;
        Ok(Self(Arc::new(machine)))
    }
}

impl Machine {
    fn create_irqchip(&self) -> Result<()> {
        match self.irqchip {
            IrqchipKind::None => Ok(()),
            IrqchipKind::Split => {
                self.enable("KVM_CAP_SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS as u64)
            }
            IrqchipKind::Full => {
                self.fd.create_irq_chip().map_err(|e| failed("KVM_CREATE_IRQCHIP", e))?;
                // The timer's port 0x61 gates its speaker channel, so it comes with the timer.
                let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
                self.fd.create_pit2(pit).map_err(|e| failed("KVM_CREATE_PIT2", e))
            }
        }
    }

    /// Asks for the exits that KVM would otherwise settle itself.
    fn enable_exits(&self) -> Result<()> {
        if self.host.msr_exits {
            let reasons = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
            self.enable("KVM_CAP_X86_USER_SPACE_MSR", KVM_CAP_X86_USER_SPACE_MSR, u64::from(reasons))?;
        }
        if self.host.hypercall_exits {
            self.enable("KVM_CAP_EXIT_HYPERCALL", KVM_CAP_EXIT_HYPERCALL, 1 << HC_MAP_GPA_RANGE)?;
        }
        Ok(())
    }

    fn enable(&self, name: &str, cap: u32, arg: u64) -> Result<()> {
        let cap = kvm_enable_cap { cap, args: [arg, 0, 0, 0], ..Default::default() };
        self.fd.enable_cap(&cap).map_err(|e| failed(name, e))
    }

    /// Tells KVM of each region, as the slot of its number.
    fn set_memory(&self, dirty_log: bool) -> Result<()> {
        for (slot, region) in (0..).zip(self.memory.regions()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: if dirty_log { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
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
        if self.0.irqchip != IrqchipKind::Full || gsi >= LINES {
            return Err(Error::new(
                ErrorCode::IrqLine,
                format!(
                    "there is no interrupt line {gsi}: only a full irqchip has lines, 0 to {}",
                    LINES - 1
                ),
            ));
        }
        self.0.fd.set_irq_line(gsi, level).map_err(|e| failed("KVM_IRQ_LINE", e))
    }

    fn signal_msi(&self, address: u64, data: u32) -> Result<()> {
        if self.0.irqchip == IrqchipKind::None {
            return Err(Error::new(
                ErrorCode::IrqLine,
                "this VM has no local APIC that could take a message",
            ));
        }
        if self.0.irqchip == IrqchipKind::Split && ioeoi::is_level_triggered(data) {
            let mut messages = self.0.level_messages.lock().unwrap_or_else(PoisonError::into_inner);
            messages.report(&self.0.fd, address, data)?;
        }
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        match self.0.fd.signal_msi(msi) {
            // EPERM: no vCPU has that APIC number, so the message goes nowhere, as on a board.
            Err(e) if e.errno() != libc::EPERM => Err(failed("KVM_SIGNAL_MSI", e)),
            _ => Ok(()),
        }
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
