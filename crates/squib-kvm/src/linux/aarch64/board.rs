//! What a VM has inside of KVM: the GIC, and the exits that are asked for.

use std::sync::{Mutex, PoisonError};

use kvm_bindings::*;
use kvm_ioctls::{DeviceFd, VmFd};
use squib_core::arm64::gic::*;
use squib_core::{Error, ErrorCode, InterruptSource, IrqchipKind, Result, VmConfig};

use super::host::Host;
use crate::linux::errors::failed;

/// The interrupt controller inside.
pub(in crate::linux) struct Board {
    gic: Option<Gic>,
}

struct Gic {
    device: DeviceFd,
    /// Whether it is complete, which it is when the vCPUs are there. No line can be set before, and no vCPU made after.
    ready: Mutex<bool>,
}

impl Board {
    pub(in crate::linux) fn new(vm: &VmFd, host: &Host, config: &VmConfig) -> Result<Self> {
        if host.nisv_exits {
            let cap = kvm_enable_cap { cap: KVM_CAP_ARM_NISV_TO_USER, ..Default::default() };
            vm.enable_cap(&cap).map_err(|e| failed("KVM_CAP_ARM_NISV_TO_USER", e))?;
        }
        if host.smccc_filter {
            forward_calls(vm)?;
        }
        let gic = match (config.irqchip, host.gic) {
            (IrqchipKind::Full, Some(version)) => {
                // KVM would hide the GIC behind it.
                config.memory.keep_clear(DISTRIBUTOR..END, "the GIC is")?;
                Some(Gic::new(vm, version)?)
            }
            _ => None,
        };
        Ok(Self { gic })
    }

    /// Completes the GIC, if there is one, before the first vCPU is entered.
    #[inline]
    pub(super) fn make_ready(&self) -> Result<()> {
        self.gic.as_ref().map_or(Ok(()), Gic::make_ready)
    }

    /// `gsi` where the GIC, which is complete then, has that line.
    fn line(&self, gsi: u32) -> Result<u32> {
        let Some(gic) = self.gic.as_ref().filter(|_| gsi < LINES) else {
            return Err(Error::new(
                ErrorCode::IrqLine,
                format!(
                    "there is no interrupt line {gsi}: only a full irqchip has lines, 0 to {}",
                    LINES - 1
                ),
            ));
        };
        gic.make_ready()?;
        Ok(gsi)
    }

    pub(in crate::linux) fn set_irq_line(&self, vm: &VmFd, gsi: u32, level: bool) -> Result<()> {
        let irq = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | (FIRST_LINE + self.line(gsi)?);
        vm.set_irq_line(irq, level).map_err(|e| failed("KVM_IRQ_LINE", e))
    }

    /// An interrupt's number of KVM's: of a shared peripheral interrupt it is that of its line.
    pub(in crate::linux) fn route(&self, vm: &VmFd, source: InterruptSource) -> Result<u32> {
        match source {
            InterruptSource::Line(gsi) => self.line(gsi),
            InterruptSource::Message { address, data } => self.signal_msi(vm, address, data).map(|()| 0),
        }
    }

    /// Lines keep their numbers.
    pub(in crate::linux) fn unroute(&self, _: &VmFd, _: u32) {}

    pub(in crate::linux) fn signal_msi(&self, _: &VmFd, _: u64, _: u32) -> Result<()> {
        Err(Error::new(
            ErrorCode::IrqLine,
            "this VM's GIC has no translation service that could take a message",
        ))
    }
}

impl Gic {
    fn new(vm: &VmFd, version: GicVersion) -> Result<Self> {
        let mut request = kvm_create_device { type_: device_type(version), ..Default::default() };
        let device = vm.create_device(&mut request).map_err(|e| failed("KVM_CREATE_DEVICE", e))?;
        let places = match version {
            GicVersion::V3 => {
                [(KVM_VGIC_V3_ADDR_TYPE_DIST, DISTRIBUTOR), (KVM_VGIC_V3_ADDR_TYPE_REDIST, REDISTRIBUTORS)]
            }
            GicVersion::V2 => {
                [(KVM_VGIC_V2_ADDR_TYPE_DIST, DISTRIBUTOR), (KVM_VGIC_V2_ADDR_TYPE_CPU, CPU_INTERFACE)]
            }
        };
        for (kind, place) in places {
            set(&device, KVM_DEV_ARM_VGIC_GRP_ADDR, kind, Some(&place))?;
        }
        // Private interrupts and lines.
        set(&device, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, Some(&(FIRST_LINE + LINES)))?;
        Ok(Self { device, ready: Mutex::new(false) })
    }

    fn make_ready(&self) -> Result<()> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !*ready {
            set::<u32>(&self.device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, None)?;
            *ready = true;
        }
        Ok(())
    }
}

/// Sets an attribute of the GIC to what is at `value`.
fn set<T>(device: &DeviceFd, group: u32, attr: u32, value: Option<&T>) -> Result<()> {
    let addr = value.map_or(0, |value| std::ptr::from_ref(value) as u64);
    let attr = kvm_device_attr { group, attr: attr.into(), addr, flags: 0 };
    device.set_device_attr(&attr).map_err(|e| failed("KVM_SET_DEVICE_ATTR of the GIC", e))
}

fn device_type(version: GicVersion) -> u32 {
    match version {
        GicVersion::V3 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        GicVersion::V2 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
    }
}

/// Whether VMs such as `vm` can have this GIC.
pub(super) fn has_gic(vm: &VmFd, version: GicVersion) -> bool {
    let mut request = kvm_create_device {
        type_: device_type(version),
        flags: KVM_CREATE_DEVICE_TEST,
        ..Default::default()
    };
    // The kernel gives no descriptor to a test, so there is none to be closed.
    vm.create_device(&mut request).map(std::mem::forget).is_ok()
}

/// Function numbers by their owner (SMC Calling Convention, DEN 0028, 6.1), those that KVM itself has nothing to say to: first
/// and last. KVM keeps the architecture's, PSCI and TRNG, the standard hypervisor services, and its own.
const FORWARDED: [(u32, u32); 7] = [
    // Yielding calls.
    (0x0000_0000, 0x7fff_ffff),
    // CPU, silicon partner and OEM services, 32-bit convention.
    (0x8100_0000, 0x83ff_ffff),
    // From the reserved owners to applications and operating systems in the secure world.
    (0x8700_0000, 0xbfff_ffff),
    // CPU, silicon partner and OEM services, 64-bit convention.
    (0xc100_0000, 0xc3ff_ffff),
    // Vendor-specific hypervisor services, 64-bit convention: KVM's own are of the other.
    (0xc600_0000, 0xc6ff_ffff),
    (0xc700_0000, 0xcfff_ffff),
    (0xd000_0000, 0xffff_ffff),
];

fn filter_attr(filter: Option<&kvm_smccc_filter>) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_ARM_VM_SMCCC_CTRL,
        attr: KVM_ARM_VM_SMCCC_FILTER.into(),
        addr: filter.map_or(0, |filter| std::ptr::from_ref(filter) as u64),
        flags: 0,
    }
}

/// Whether calls can be forwarded: since Linux 6.4.
pub(super) fn has_smccc_filter(vm: &VmFd) -> bool {
    vm.has_device_attr(&filter_attr(None)).is_ok()
}

/// Makes KVM pass on the calls that it has nothing to say to (KVM VM attributes, `KVM_ARM_VM_SMCCC_FILTER`).
fn forward_calls(vm: &VmFd) -> Result<()> {
    for (first, last) in FORWARDED {
        let filter = kvm_smccc_filter {
            base: first,
            nr_functions: last - first + 1,
            action: kvm_smccc_filter_action_KVM_SMCCC_FILTER_FWD_TO_USER as u8,
            pad: [0; 15],
        };
        vm.set_device_attr(&filter_attr(Some(&filter))).map_err(|e| failed("KVM_ARM_VM_SMCCC_FILTER", e))?;
    }
    Ok(())
}
