//! A VM as JavaScript holds it: by a number.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use squib_core::x86::X86State;
use squib_core::{
    CancelHandle, Error, ErrorCode, ExitKind, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vcpu, Vm,
    VmConfig, VmEntry,
};
use squib_soft::SoftBackend;
use squib_vmm::boot::{self, BootSource, Protocol};
use squib_vmm::{Bus, Stop, Target, Unclaimed, VcpuLoop};

use crate::exit::{Payload, WORDS};
use crate::host::{NobodyWaits, WebClock, WebHost};
use crate::record::Record;

/// A VM with at most one vCPU and no board: every exit that no device in JavaScript claims goes to the caller.
pub(crate) struct WebVm {
    vm: Arc<dyn Vm>,
    ports: Arc<Bus>,
    mmio: Arc<Bus>,
    /// Empty until the vCPU is made, and while it runs.
    vcpu: RefCell<Option<VcpuLoop>>,
    cancel: RefCell<Option<CancelHandle>>,
    record: Rc<Record>,
    words: Cell<[u64; WORDS]>,
}

impl WebVm {
    /// A VM with `memory` bytes of RAM and these interrupt controllers.
    pub(crate) fn new(memory: u64, irqchip: IrqchipKind) -> Result<Self> {
        let memory = GuestMemory::new(memory)?;
        let mmio = Bus::memory();
        for region in memory.regions() {
            mmio.map("ram", region.guest_addr(), region.len(), Target::Reserved)?;
        }
        let config = VmConfig { memory, irqchip, clock: Arc::new(WebClock), waker: Arc::new(NobodyWaits) };
        Ok(Self {
            vm: SoftBackend::default().create_vm(&config)?,
            ports: Bus::ports(),
            mmio,
            vcpu: RefCell::default(),
            cancel: RefCell::default(),
            record: Rc::default(),
            words: Cell::default(),
        })
    }

    pub(crate) fn memory(&self) -> &GuestMemory {
        self.vm.memory()
    }

    pub(crate) fn bus(&self, ports: bool) -> &Bus {
        if ports { &self.ports } else { &self.mmio }
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
        *self.cancel.borrow_mut() = Some(vcpu.cancel_handle());
        *self.vcpu.borrow_mut() = Some(VcpuLoop::new(vcpu, &self.ports, &self.mmio, Unclaimed::Return));
        Ok(())
    }

    /// Loads `image` and puts the vCPU at its first instruction.
    pub(crate) fn boot(&self, image: &[u8], protocol: Option<Protocol>) -> Result<()> {
        self.idle(|run| {
            let state = boot::load(self.memory(), &BootSource { protocol, ..BootSource::new(image) })?;
            state.apply(run.vcpu().x86()?)
        })
    }

    /// Answers the last exit and runs to the next that no device claims; gives its kind as a number, and its text.
    pub(crate) fn run(&self, entry: VmEntry) -> Result<(u8, String)> {
        let mut run = self.vcpu.borrow_mut().take().ok_or_else(busy)?;
        // A device may call back into this VM, so nothing is borrowed meanwhile.
        let stop = run.run(entry, &mut WebHost(self.record.clone()));
        *self.vcpu.borrow_mut() = Some(run);
        match stop? {
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

    pub(crate) fn cancel(&self) {
        if let Some(cancel) = &*self.cancel.borrow() {
            cancel.cancel();
        }
    }

    pub(crate) fn vm(&self) -> &dyn Vm {
        &*self.vm
    }

    /// The vCPU, while it does not run.
    pub(crate) fn vcpu<T>(&self, f: impl FnOnce(&mut dyn Vcpu) -> Result<T>) -> Result<T> {
        self.idle(|run| f(run.vcpu()))
    }

    /// Its registers.
    pub(crate) fn x86<T>(&self, f: impl FnOnce(&mut dyn X86State) -> Result<T>) -> Result<T> {
        self.vcpu(|vcpu| f(vcpu.x86()?))
    }

    /// How many exits of each kind there were, by the numbers of the kinds.
    pub(crate) fn exit_counts(&self) -> Result<Vec<u64>> {
        self.idle(|run| Ok(ExitKind::ALL.iter().map(|kind| run.counts().get(*kind)).collect()))
    }

    fn idle<T>(&self, f: impl FnOnce(&mut VcpuLoop) -> Result<T>) -> Result<T> {
        f(self.vcpu.borrow_mut().as_mut().ok_or_else(busy)?)
    }
}

fn busy() -> Error {
    Error::new(ErrorCode::VcpuBusy, "the vCPU is running, or has not been made")
}
