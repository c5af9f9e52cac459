//! A VM as JavaScript holds it: by a number.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use squib_core::x86::X86State;
use squib_core::{
    Error, ErrorCode, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vcpu, Vm, VmConfig, VmEntry,
};
use squib_soft::{CpuModel, SoftBackend};
use squib_vmm::boot::{self, BootSource, Protocol};
use squib_vmm::{Bus, DoorbellMapping, SharedVcpu, Stop, Target, Unclaimed, VcpuLoop};

use crate::exit::{Payload, WORDS};
use crate::host::{self, NobodyWaits, WebClock, WebEntropy, WebHost};
use crate::record::Record;

/// A VM with at most one vCPU and no board: every exit that no device in JavaScript claims goes to the caller.
pub(crate) struct WebVm {
    vm: Arc<dyn Vm>,
    ports: Arc<Bus>,
    mmio: Arc<Bus>,
    vcpu: OnceCell<SharedVcpu>,
    /// By number.
    doorbells: RefCell<Vec<Option<DoorbellMapping>>>,
    record: Rc<Record>,
    words: Cell<[u64; WORDS]>,
}

impl WebVm {
    /// A VM with `memory` bytes of RAM, these interrupt controllers, and a vCPU of the model `cpu`.
    pub(crate) fn new(memory: u64, irqchip: IrqchipKind, cpu: &str) -> Result<Self> {
        let backend = SoftBackend::new(CpuModel::parse(cpu)?).with_entropy(Arc::new(WebEntropy));
        let memory = GuestMemory::new(memory)?;
        let mmio = Bus::memory();
        for region in memory.regions() {
            mmio.map("ram", region.guest_addr(), region.len(), Target::Reserved)?;
        }
        let config = VmConfig {
            memory,
            irqchip,
            clock: Arc::new(WebClock),
            waker: Arc::new(NobodyWaits),
            dirty_ring: None,
        };
        Ok(Self {
            vm: backend.create_vm(&config)?,
            ports: Bus::ports(),
            mmio,
            vcpu: OnceCell::new(),
            doorbells: RefCell::default(),
            record: Rc::default(),
            words: Cell::default(),
        })
    }

    pub(crate) fn memory(&self) -> &GuestMemory {
        self.vm.memory()
    }

    pub(crate) fn bus(&self, ports: bool) -> &Arc<Bus> {
        if ports { &self.ports } else { &self.mmio }
    }

    /// Maps a doorbell, as [`Bus::map_doorbell`], and gives its number, by which JavaScript hears of it.
    pub(crate) fn map_doorbell(&self, name: &str, ports: bool, at: (u64, u8, Option<u64>)) -> Result<u32> {
        let number = self.doorbells.borrow().len() as u32;
        let record = self.record.address().addr();
        let ring = move |_| host::ring(record, number);
        let mapping = self.bus(ports).map_doorbell(name, at, Arc::new(ring))?;
        self.doorbells.borrow_mut().push(Some(mapping));
        Ok(number)
    }

    /// Takes a doorbell away.
    pub(crate) fn unmap_doorbell(&self, number: u32) {
        let mut doorbells = self.doorbells.borrow_mut();
        let mapping = doorbells.get_mut(number as usize).and_then(Option::take);
        drop(doorbells);
        drop(mapping);
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Where the words of the last exit are.
    pub(crate) fn words(&self) -> *const u8 {
        self.words.as_ptr().cast()
    }

    pub(crate) fn create_vcpu(&self, id: u32) -> Result<()> {
        // The backend refuses a second one.
        let vcpu = self.vm.create_vcpu(id)?;
        let run = VcpuLoop::new(vcpu, &self.ports, &self.mmio, Unclaimed::Return);
        self.vcpu.get_or_init(|| SharedVcpu::new(run));
        Ok(())
    }

    /// The vCPU, whether it runs or not.
    pub(crate) fn shared(&self) -> Result<&SharedVcpu> {
        self.vcpu
            .get()
            .ok_or_else(|| Error::new(ErrorCode::InvalidArgument, "this VM has no vCPU yet; make it first"))
    }

    /// Loads `image` and puts the vCPU at its first instruction.
    pub(crate) fn boot(&self, image: &[u8], protocol: Option<Protocol>) -> Result<()> {
        self.x86(|x86| {
            let source = BootSource { protocol, ..BootSource::new(image) };
            boot::load(self.memory(), &source)?.apply(x86)
        })
    }

    /// Answers the last exit and runs to the next that no device claims; gives its kind as a number, and its text.
    pub(crate) fn run(&self, entry: VmEntry) -> Result<(u8, String)> {
        match self.shared()?.run(entry, &mut WebHost(self.record.clone()))? {
            Stop::Exit(exit) => {
                let payload = Payload::of(&exit);
                self.words.set(payload.words);
                Ok((exit.kind() as u8, payload.text))
            }
            other => {
                Err(Error::new(ErrorCode::Internal, format!("a VM without a board stopped with {other:?}")))
            }
        }
    }

    /// Ends the run under way.
    pub(crate) fn close(&self) {
        if let Some(vcpu) = self.vcpu.get() {
            vcpu.close();
        }
    }

    pub(crate) fn vm(&self) -> &dyn Vm {
        &*self.vm
    }

    /// The vCPU, while it does not run.
    pub(crate) fn vcpu<T>(&self, f: impl FnOnce(&mut dyn Vcpu) -> Result<T>) -> Result<T> {
        self.shared()?.with(f)
    }

    /// Its registers.
    pub(crate) fn x86<T>(&self, f: impl FnOnce(&mut dyn X86State) -> Result<T>) -> Result<T> {
        self.vcpu(|vcpu| f(vcpu.x86()?))
    }
}
