//! The interrupt controllers that live behind a soft vCPU, as a kernel's live behind KVM.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use squib_devices::apic;
use squib_devices::irqchip::Irqchip;

use crate::replay::Access;
use crate::shared::{Shared, attention};

/// The interrupt controllers of a VM and those who must hear of changes.
pub struct Controllers {
    irqchip: Mutex<Irqchip>,
    vcpus: Mutex<Vec<(usize, Arc<Shared>)>>,
}

impl Controllers {
    /// For these controllers.
    pub fn new(irqchip: Irqchip) -> Self {
        Self { irqchip: Mutex::new(irqchip), vcpus: Mutex::new(Vec::new()) }
    }

    /// A vCPU to tell of changes.
    pub fn attach(&self, cpu: usize, shared: Arc<Shared>) {
        lock(&self.vcpus).push((cpu, shared));
    }

    /// Does something with the controllers and tells the vCPUs concerned, but not `own`.
    pub fn with<T>(&self, own: Option<usize>, f: impl FnOnce(&mut Irqchip) -> T) -> T {
        let mut chip = lock(&self.irqchip);
        let result = f(&mut chip);
        let changed = chip.take_changed();
        drop(chip);
        if changed.iter().any(|cpu| Some(cpu) != own) {
            for (cpu, shared) in lock(&self.vcpus).iter() {
                if changed.contains(*cpu) && Some(*cpu) != own {
                    shared.request(attention::INTERRUPT);
                }
            }
        }
        result
    }
}

/// Locks; a panic elsewhere has not broken plain data.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A vCPU's way to the controllers, if there are any.
pub struct Platform {
    controllers: Option<Arc<Controllers>>,
    cpu: usize,
    /// When the controllers want to be ticked next.
    pub deadline: Option<u64>,
}

impl Platform {
    /// For vCPU number `cpu`.
    pub fn new(controllers: Option<Arc<Controllers>>, cpu: usize) -> Self {
        Self { controllers, cpu, deadline: None }
    }

    /// Whether there are controllers.
    pub fn is_present(&self) -> bool {
        self.controllers.is_some()
    }

    /// Number of the vCPU.
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// Whether the vCPU is the one that starts at reset.
    pub fn is_bootstrap(&mut self) -> bool {
        self.with(|chip, cpu| chip.apic(cpu).is_some_and(|apic| apic.base() & apic::BASE_BSP != 0))
            != Some(false)
    }

    /// Does something with the controllers, where there are any, and notes when they want to be ticked.
    pub fn with<T>(&mut self, f: impl FnOnce(&mut Irqchip, usize) -> T) -> Option<T> {
        let controllers = self.controllers.as_ref()?;
        let cpu = self.cpu;
        let (result, deadline) = controllers.with(Some(cpu), |chip| {
            let result = f(chip, cpu);
            (result, chip.next_deadline(cpu))
        });
        self.deadline = deadline;
        Some(result)
    }

    /// Makes a memory access to the controllers' registers: the value read (0 for a write), or `None` where they are
    /// not concerned.
    pub fn memory_access(&mut self, access: &Access, now_ns: u64) -> Option<u64> {
        self.with(|chip, cpu| {
            let mut bytes = access.value.to_le_bytes();
            let data = &mut bytes[..usize::from(access.width.min(8))];
            let ours = if access.write {
                chip.mmio_write(cpu, access.addr, data, now_ns)
            } else {
                chip.mmio_read(cpu, access.addr, data, now_ns)
            };
            ours.then_some(if access.write { 0 } else { u64::from_le_bytes(bytes) })
        })?
    }

    /// The same for ports.
    pub fn port_access(&mut self, access: &Access, now_ns: u64) -> Option<u64> {
        let port = access.addr as u16;
        if !Irqchip::owns_port(port) {
            return None;
        }
        self.with(|chip, _| {
            let mut bytes = access.value.to_le_bytes();
            let data = &mut bytes[..usize::from(access.width.min(4))];
            let ours = if access.write {
                chip.pio_write(port, data, now_ns)
            } else {
                chip.pio_read(port, data, now_ns)
            };
            ours.then_some(if access.write { 0 } else { u64::from_le_bytes(bytes) })
        })?
    }
}
