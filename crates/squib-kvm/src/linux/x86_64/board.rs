//! What a VM has inside of KVM: interrupt controllers, timer, and the exits that are asked for.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::*;
use kvm_ioctls::VmFd;
use squib_core::x86::irqchip;
use squib_core::{Error, ErrorCode, InterruptSource, IrqchipKind, Result, VmConfig};

use super::host::Host;
use super::ioeoi::{self, IOAPIC_PINS};
use super::routes::Routes;
use crate::linux::errors::failed;
use crate::linux::exits::HC_MAP_GPA_RANGE;

/// Where KVM may put what Intel's processors need for real mode: four pages below the largest firmware at the
/// top of the first 4 GiB (KVM API, 4.37 and 4.40).
const KVMS_OWN: Range<u64> = 0xfeff_c000..0xff00_0000;
const IDENTITY_MAP: u64 = KVMS_OWN.start;
const TASK_STATE: u64 = KVMS_OWN.start + 0x1000;

/// The interrupt controllers inside.
pub(in crate::linux) struct Board {
    pub(super) irqchip: IrqchipKind,
    routes: Mutex<Routes>,
}

impl Board {
    pub(in crate::linux) fn new(vm: &VmFd, host: &Host, config: &VmConfig) -> Result<Self> {
        keep_clear(config)?;
        vm.set_tss_address(TASK_STATE as usize).map_err(|e| failed("KVM_SET_TSS_ADDR", e))?;
        if host.identity_map {
            let set = vm.set_identity_map_address(IDENTITY_MAP);
            set.map_err(|e| failed("KVM_SET_IDENTITY_MAP_ADDR", e))?;
        }
        create_irqchip(vm, config.irqchip)?;
        enable_exits(vm, host)?;
        let routes = Routes::new(config.irqchip);
        routes.begin(vm)?;
        Ok(Self { irqchip: config.irqchip, routes: Mutex::new(routes) })
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_line(&self, gsi: u32) -> Result<()> {
        if self.irqchip == IrqchipKind::Full {
            return irqchip::check_line(gsi);
        }
        let message = format!("there is no interrupt line {gsi}: only a full irqchip has lines");
        Err(Error::new(ErrorCode::IrqLine, message))
    }

    fn check_messages(&self) -> Result<()> {
        if self.irqchip != IrqchipKind::None {
            return Ok(());
        }
        Err(Error::new(ErrorCode::IrqLine, "this VM has no local APIC that could take a message"))
    }

    pub(in crate::linux) fn set_irq_line(&self, vm: &VmFd, gsi: u32, level: bool) -> Result<()> {
        self.check_line(gsi)?;
        vm.set_irq_line(gsi, level).map_err(|e| failed("KVM_IRQ_LINE", e))
    }

    /// Gives an interrupt a number of KVM's.
    pub(in crate::linux) fn route(&self, vm: &VmFd, source: InterruptSource) -> Result<u32> {
        match source {
            InterruptSource::Line(gsi) => self.check_line(gsi).map(|()| gsi),
            InterruptSource::Message { address, data } => {
                self.check_messages()?;
                self.routes().add(vm, address, data)
            }
        }
    }

    /// Takes the number back.
    pub(in crate::linux) fn unroute(&self, vm: &VmFd, gsi: u32) {
        // A route that stays is one that nobody triggers.
        let _ = self.routes().remove(vm, gsi);
    }

    pub(in crate::linux) fn signal_msi(&self, vm: &VmFd, address: u64, data: u32) -> Result<()> {
        self.check_messages()?;
        if self.irqchip == IrqchipKind::Split && ioeoi::is_level_triggered(data) {
            self.routes().report_end(vm, address, data)?;
        }
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        match vm.signal_msi(msi) {
            // EPERM: no vCPU has that APIC number, so the message goes nowhere, as on a board.
            Err(e) if e.errno() != libc::EPERM => Err(failed("KVM_SIGNAL_MSI", e)),
            _ => Ok(()),
        }
    }
}

/// Refuses memory where KVM has something of its own, which it would hide or collide with.
fn keep_clear(config: &VmConfig) -> Result<()> {
    config.memory.keep_clear(KVMS_OWN, "KVM has pages of its own")?;
    if config.irqchip != IrqchipKind::None {
        config.memory.keep_clear(irqchip::LOCAL_APIC, "the local APICs are")?;
    }
    if config.irqchip == IrqchipKind::Full {
        config.memory.keep_clear(irqchip::IO_APIC, "the I/O APIC is")?;
    }
    Ok(())
}

fn create_irqchip(vm: &VmFd, irqchip: IrqchipKind) -> Result<()> {
    match irqchip {
        IrqchipKind::None => Ok(()),
        IrqchipKind::Split => enable(vm, "KVM_CAP_SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS as u64),
        IrqchipKind::Full => {
            vm.create_irq_chip().map_err(|e| failed("KVM_CREATE_IRQCHIP", e))?;
            // The timer's port 0x61 gates its speaker channel, so it comes with the timer.
            let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
            vm.create_pit2(pit).map_err(|e| failed("KVM_CREATE_PIT2", e))
        }
    }
}

/// Asks for the exits that KVM would otherwise settle itself.
fn enable_exits(vm: &VmFd, host: &Host) -> Result<()> {
    if host.msr_exits {
        let reasons = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
        enable(vm, "KVM_CAP_X86_USER_SPACE_MSR", KVM_CAP_X86_USER_SPACE_MSR, u64::from(reasons))?;
    }
    if host.hypercall_exits {
        enable(vm, "KVM_CAP_EXIT_HYPERCALL", KVM_CAP_EXIT_HYPERCALL, 1 << HC_MAP_GPA_RANGE)?;
    }
    Ok(())
}

fn enable(vm: &VmFd, name: &str, cap: u32, arg: u64) -> Result<()> {
    let cap = kvm_enable_cap { cap, args: [arg, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&cap).map_err(|e| failed(name, e))
}
