//! The soft backend and its VMs.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use squib_core::x86::irqchip::{IO_APIC, LOCAL_APIC, check_line};
use squib_core::{
    Architecture, BackendCapabilities, BackendKind, CodeWriteObserver, Entropy, Error, ErrorCode, ExitKind,
    ExitSet, GuestMemory, HypervisorBackend, InterruptSource, InterruptTrigger, IrqchipKind, Result, Vcpu,
    Vm, VmConfig,
};
use squib_devices::irqchip::Irqchip;
use squib_x86::model::CpuModel;

use crate::cpu::Cpu;
use crate::devices::{Controllers, Platform};
use crate::shared::{Shared, attention};
use crate::vcpu::{SoftVcpu, WrittenCode};

/// Most vCPUs of a soft VM, until the soft CPU learns to share memory between threads.
pub const MAX_VCPUS: u32 = 1;

const EXITS: ExitSet = ExitSet::of(&[
    ExitKind::Mmio,
    ExitKind::Pio,
    ExitKind::Hypercall,
    ExitKind::Hlt,
    ExitKind::Cancelled,
    ExitKind::Completed,
    ExitKind::BudgetSpent,
    ExitKind::InterruptWindow,
    ExitKind::TripleFault,
    ExitKind::Unsupported,
]);

/// squib's own CPU.
pub struct SoftBackend {
    capabilities: BackendCapabilities,
    model: CpuModel,
    entropy: Option<Arc<dyn Entropy>>,
    plain: bool,
}

impl Default for SoftBackend {
    fn default() -> Self {
        Self::new(CpuModel::v1())
    }
}

impl SoftBackend {
    /// A backend whose vCPUs are of this model.
    pub fn new(model: CpuModel) -> Self {
        let mut capabilities = BackendCapabilities::new(Architecture::X86_64, EXITS, MAX_VCPUS);
        capabilities.irqchips = &[IrqchipKind::Full, IrqchipKind::None];
        capabilities.instruction_budget = true;
        capabilities.tsc_khz = Some(model.tsc_khz);
        Self { capabilities, model, entropy: None, plain: false }
    }

    /// With a source of the numbers that RDRAND and RDSEED give. Without one they say that they have none.
    #[must_use]
    pub fn with_entropy(self, entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy: Some(entropy), ..self }
    }

    /// The same without short cuts: every instruction runs by its full description, in a block of its own, and an
    /// instruction budget is exact. Slow; what the specialised paths are compared with.
    pub fn plain(model: CpuModel) -> Self {
        Self { plain: true, ..Self::new(model) }
    }
}

impl HypervisorBackend for SoftBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Soft
    }

    fn capabilities(&self) -> &BackendCapabilities {
        &self.capabilities
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        if config.dirty_ring.is_some() {
            return Err(Error::new(ErrorCode::Unsupported, "the soft backend does not track dirty pages"));
        }
        let controllers = match config.irqchip {
            IrqchipKind::None => None,
            IrqchipKind::Full => {
                config.memory.keep_clear(IO_APIC, "the I/O APIC is")?;
                config.memory.keep_clear(LOCAL_APIC, "the local APICs are")?;
                Some(Arc::new(Controllers::new(Irqchip::new(MAX_VCPUS as usize)?)))
            }
            IrqchipKind::Split => {
                return Err(Error::new(
                    ErrorCode::Unsupported,
                    "the soft backend hosts all interrupt controllers or none; ask for `full` or `none`",
                ));
            }
        };
        let outside = Arc::new(Outside::default());
        config.memory.observe_code_writes(outside.clone())?;
        let (config, model, plain, entropy) = (config.clone(), self.model, self.plain, self.entropy.clone());
        Ok(Arc::new(SoftVm { config, model, entropy, plain, controllers, outside }))
    }
}

/// Writes to code by devices, loaders and the embedder.
#[derive(Default)]
struct Outside {
    written: Arc<WrittenCode>,
    vcpus: Mutex<Vec<Arc<Shared>>>,
}

impl CodeWriteObserver for Outside {
    fn code_written(&self, page: u64) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(page);
        for vcpu in self.vcpus.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            vcpu.request(attention::CODE);
        }
    }
}

/// A VM of the soft backend.
pub struct SoftVm {
    config: VmConfig,
    model: CpuModel,
    entropy: Option<Arc<dyn Entropy>>,
    plain: bool,
    controllers: Option<Arc<Controllers>>,
    outside: Arc<Outside>,
}

impl SoftVm {
    fn controllers(&self) -> Result<&Arc<Controllers>> {
        self.controllers.as_ref().ok_or_else(|| {
            Error::new(
                ErrorCode::IrqLine,
                "this VM has no interrupt controllers; make it with a full irqchip",
            )
        })
    }
}

impl Vm for SoftVm {
    fn memory(&self) -> &Arc<GuestMemory> {
        &self.config.memory
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        let mut vcpus = self.outside.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        if id >= MAX_VCPUS || vcpus.len() > id as usize {
            return Err(Error::new(
                ErrorCode::VcpuCount,
                format!("vCPU {id} cannot be made: the soft backend has {MAX_VCPUS}, each number once"),
            ));
        }
        let shared = Arc::new(Shared::new(self.config.waker.clone()));
        vcpus.push(shared.clone());
        if let Some(controllers) = &self.controllers {
            controllers.attach(id as usize, shared.clone());
        }
        let platform = Platform::new(self.controllers.clone(), id as usize);
        let mut cpu = Cpu::new(self.config.memory.clone(), self.model, self.config.clock.clone(), platform);
        (cpu.plain, cpu.entropy) = (self.plain, self.entropy.clone());
        Ok(Box::new(SoftVcpu::new(cpu, shared, self.outside.written.clone())))
    }

    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.controllers()?.with(None, |chip| chip.set_line(gsi, level))
    }

    fn signal_msi(&self, address: u64, data: u32) -> Result<()> {
        self.controllers()?.with(None, |chip| chip.signal_msi(address, data));
        Ok(())
    }

    fn interrupt_trigger(&self, source: InterruptSource) -> Result<Arc<dyn InterruptTrigger>> {
        source.check()?;
        let controllers = Arc::downgrade(self.controllers()?);
        if let InterruptSource::Line(gsi) = source {
            check_line(gsi)?;
        }
        Ok(Arc::new(Trigger { controllers, source }))
    }
}

/// An interrupt of a VM that may have gone.
struct Trigger {
    controllers: Weak<Controllers>,
    source: InterruptSource,
}

impl InterruptTrigger for Trigger {
    fn trigger(&self) {
        let Some(controllers) = self.controllers.upgrade() else { return };
        controllers.with(None, |chip| match self.source {
            InterruptSource::Line(gsi) => {
                // There is such a line.
                let _ = chip.set_line(gsi, true).and_then(|()| chip.set_line(gsi, false));
            }
            InterruptSource::Message { address, data } => {
                chip.signal_msi(address, data);
            }
        });
    }
}
