//! A virtual machine without a board: memory, vCPUs, and the ranges that devices in JavaScript answer for.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use napi::Env;
use napi::bindgen_prelude::{FunctionRef, Uint32Array};
use napi_derive::napi;
use squib_core::{ErrorCode, GuestMemory, Vm, VmConfig};
use squib_vmm::host::{StdClock, ThreadWaker};
use squib_vmm::{Bus, SharedVcpu, Target, Unclaimed, VcpuLoop};

use crate::backends::{JsBackendKind, JsIrqchipKind, open};
use crate::doorbell::{DoorbellParts, Doorbells};
use crate::error::{Result, refuse, thrown};
use crate::host::{Dispatch, Mailbox};
use crate::life::{Ends, end_with_environment};
use crate::memory::NativeMemory;
use crate::number::whole;
use crate::vcpu::NativeVcpu;

/// The vCPUs of a VM, which other threads may be running.
#[derive(Default)]
struct Vcpus(Mutex<Vec<(Arc<SharedVcpu>, Arc<Mailbox>)>>);

impl Vcpus {
    fn each(&self, f: impl Fn(&SharedVcpu, &Mailbox)) {
        for (vcpu, mailbox) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            f(vcpu, mailbox);
        }
    }

    fn push(&self, vcpu: Arc<SharedVcpu>, mailbox: Arc<Mailbox>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((vcpu, mailbox));
    }
}

impl Ends for Vcpus {
    fn abandon(&self) {
        self.each(|vcpu, mailbox| {
            vcpu.close();
            mailbox.close();
        });
    }
}

/// What makes a VM work; dropped when it is closed.
struct Parts {
    vm: Arc<dyn Vm>,
    ports: Arc<Bus>,
    mmio: Arc<Bus>,
    doorbells: Doorbells,
    dispatch: Rc<Dispatch>,
}

/// A VM. `ts/vm.ts` is its face.
#[napi]
pub struct NativeVm {
    parts: RefCell<Option<Parts>>,
    vcpus: Arc<Vcpus>,
}

#[napi]
impl NativeVm {
    /// Makes a VM with `memory` bytes of RAM, vCPUs of the model `cpu` and dirty rings of so many entries. `dispatch` answers device accesses that it finds in `record`.
    #[napi(factory, catch_unwind)]
    #[allow(clippy::too_many_arguments, reason = "JavaScript passes them one by one")]
    pub fn create(
        env: Env,
        backend: JsBackendKind,
        memory: f64,
        irqchip: JsIrqchipKind,
        cpu: Option<String>,
        dirty_ring: Option<u32>,
        record: Uint32Array,
        #[napi(ts_arg_type = "() => void")] dispatch: FunctionRef<(), ()>,
    ) -> Result<Self> {
        let backend = open(&backend, cpu.as_deref()).map_err(|e| thrown(&e))?;
        let memory = GuestMemory::new(whole(memory, ErrorCode::MemorySize)?).map_err(|e| thrown(&e))?;
        let (ports, mmio) = (Bus::ports(), Bus::memory());
        for region in memory.regions() {
            mmio.map("ram", region.guest_addr(), region.len(), Target::Reserved).map_err(|e| thrown(&e))?;
        }
        let config = VmConfig {
            memory,
            irqchip: irqchip.into(),
            clock: StdClock::new(),
            waker: ThreadWaker::new(),
            dirty_ring,
        };
        let vm = backend.create_vm(&config).map_err(|e| thrown(&e))?;
        ports.belongs_to(&vm);
        mmio.belongs_to(&vm);
        let dispatch = Rc::new(Dispatch::new(&env, dispatch, record)?);
        let vcpus = Arc::new(Vcpus::default());
        end_with_environment(&env, Arc::downgrade(&vcpus) as Weak<dyn Ends>)?;
        let parts = Parts { vm, ports, mmio, doorbells: Doorbells::default(), dispatch };
        Ok(Self { parts: RefCell::new(Some(parts)), vcpus })
    }

    fn parts<T>(&self, f: impl FnOnce(&Parts) -> Result<T>) -> Result<T> {
        match &*self.parts.borrow() {
            Some(parts) => f(parts),
            None => refuse(ErrorCode::Closed, "the VM has been closed"),
        }
    }

    /// Its RAM.
    #[napi(catch_unwind)]
    pub fn memory(&self) -> Result<NativeMemory> {
        self.parts(|parts| Ok(NativeMemory::new(parts.vm.memory().clone())))
    }

    /// Makes the vCPU with local APIC number `id`.
    #[napi(catch_unwind)]
    pub fn create_vcpu(&self, id: u32) -> Result<NativeVcpu> {
        self.parts(|parts| {
            let vcpu = parts.vm.create_vcpu(id).map_err(|e| thrown(&e))?;
            let run = VcpuLoop::new(vcpu, &parts.ports, &parts.mmio, Unclaimed::Return);
            let (vcpu, mailbox) = (Arc::new(SharedVcpu::new(run)), Arc::new(Mailbox::default()));
            self.vcpus.push(vcpu.clone(), mailbox.clone());
            Ok(NativeVcpu::new(vcpu, mailbox, parts.dispatch.clone()))
        })
    }

    /// Gives `length` ports from `base` to device `device` of the dispatch function.
    #[napi(catch_unwind)]
    pub fn map_ports(&self, name: String, base: f64, length: f64, device: u32) -> Result<()> {
        self.parts(|parts| map(&parts.ports, &name, base, length, device))
    }

    /// Gives `length` guest-physical addresses from `base` to device `device` of the dispatch function.
    #[napi(catch_unwind)]
    pub fn map_mmio(&self, name: String, base: f64, length: f64, device: u32) -> Result<()> {
        self.parts(|parts| map(&parts.mmio, &name, base, length, device))
    }

    /// Takes away the ports from `base`.
    #[napi(catch_unwind)]
    pub fn unmap_ports(&self, base: f64) -> Result<()> {
        self.parts(|parts| unmap(&parts.ports, base))
    }

    /// Takes away the addresses from `base`.
    #[napi(catch_unwind)]
    pub fn unmap_mmio(&self, base: f64) -> Result<()> {
        self.parts(|parts| unmap(&parts.mmio, base))
    }

    /// Puts a doorbell at a port or address, and gives its number. `heard` is told how often it was rung.
    #[napi(catch_unwind)]
    pub fn map_doorbell(
        &self,
        env: Env,
        doorbell: DoorbellParts,
        #[napi(ts_arg_type = "(rings: number) => void")] heard: FunctionRef<f64, ()>,
    ) -> Result<u32> {
        self.parts(|parts| parts.doorbells.map(&env, (&parts.ports, &parts.mmio), &doorbell, &heard))
    }

    /// Takes away the doorbell of this number.
    #[napi(catch_unwind)]
    pub fn unmap_doorbell(&self, doorbell: u32) -> Result<()> {
        self.parts(|parts| {
            parts.doorbells.unmap(doorbell);
            Ok(())
        })
    }

    /// Sets the level of an interrupt line.
    #[napi(catch_unwind)]
    pub fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.parts(|parts| parts.vm.set_irq_line(gsi, level).map_err(|e| thrown(&e)))
    }

    /// Delivers a message-signalled interrupt.
    #[napi(catch_unwind)]
    pub fn signal_msi(&self, address: f64, data: u32) -> Result<()> {
        self.parts(|parts| parts.vm.signal_msi(number(address)?, data).map_err(|e| thrown(&e)))
    }

    /// Starts or stops recording of pages that the guest writes.
    #[napi(catch_unwind)]
    pub fn set_dirty_log(&self, enabled: bool) -> Result<()> {
        self.parts(|parts| parts.vm.set_dirty_log(enabled).map_err(|e| thrown(&e)))
    }

    /// Addresses of the pages written since the last call.
    #[napi(catch_unwind)]
    pub fn take_dirty_pages(&self) -> Result<Vec<f64>> {
        self.parts(|parts| {
            let pages = parts.vm.take_dirty_pages().map_err(|e| thrown(&e))?;
            Ok(pages.into_iter().map(|page| page as f64).collect())
        })
    }

    /// Ends all runs and lets go of everything. One that waits for a device's answer gets it first. Further calls
    /// change nothing.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.vcpus.each(|vcpu, _| vcpu.close());
        self.parts.borrow_mut().take();
    }
}

/// Gives a range of a bus to a device of the dispatch function.
pub(crate) fn map(bus: &Arc<Bus>, name: &str, base: f64, length: f64, device: u32) -> Result<()> {
    bus.map(name, number(base)?, number(length)?, Target::External(device)).map_err(|e| thrown(&e))
}

/// Takes away the range that begins at `base`.
pub(crate) fn unmap(bus: &Arc<Bus>, base: f64) -> Result<()> {
    bus.unmap(number(base)?).map_err(|e| thrown(&e))
}

fn number(value: f64) -> Result<u64> {
    whole(value, ErrorCode::InvalidArgument)
}
