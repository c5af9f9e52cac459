//! What a backend is: it makes VMs, which make vCPUs, which run until they exit.

use std::sync::Arc;

use crate::arm64::Arm64State;
use crate::arm64::gic::GicVersion;
use crate::coalesced::CoalescedWrites;
use crate::doorbell::{AddressSpace, Attachment, Doorbell, DoorbellRegister};
use crate::exit::{ExitKind, VmEntry, VmExit};
use crate::host::{Clock, Waker};
use crate::interrupt::{InterruptSource, InterruptTrigger};
use crate::memory::GuestMemory;
use crate::x86::X86State;
use crate::{Error, ErrorCode, Result};

/// The backends there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// Linux KVM.
    Kvm,
    /// macOS Hypervisor.framework.
    Hvf,
    /// squib's own CPU.
    Soft,
}

impl BackendKind {
    /// The name used in options and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Soft => "soft",
        }
    }
}

/// What a backend's guests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86-64: [`Vcpu::x86`].
    X86_64,
    /// aarch64: [`Vcpu::arm64`].
    Arm64,
}

impl Architecture {
    /// The name used in options and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A set of exit kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExitSet(u64);

impl ExitSet {
    /// The set of `kinds`.
    pub const fn of(kinds: &[ExitKind]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < kinds.len() {
            bits |= 1 << kinds[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// Whether `kind` is in the set.
    pub const fn contains(self, kind: ExitKind) -> bool {
        self.0 >> (kind as u8) & 1 != 0
    }

    /// The kinds in the set.
    pub fn iter(self) -> impl Iterator<Item = ExitKind> {
        ExitKind::ALL.into_iter().filter(move |k| self.contains(*k))
    }
}

/// How a backend can tell which pages a guest wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyTracking {
    /// It cannot.
    None,
    /// A bitmap for each region, fetched and cleared by [`Vm::take_dirty_pages`].
    Bitmap,
    /// That, or where [`VmConfig::dirty_ring`] asks for it a ring for each vCPU.
    BitmapOrRing {
        /// Most entries of a ring.
        max_entries: u32,
    },
}

/// Which interrupt controllers live inside the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IrqchipKind {
    /// None: interrupts come from [`Vcpu::inject_interrupt`].
    None,
    /// A local APIC for each vCPU. The I/O APIC is outside, sends MSIs and hears [`VmExit::Eoi`].
    Split,
    /// Local APICs, I/O APIC, two 8259 and the 8254; on aarch64 a GIC.
    Full,
}

/// What a backend can do, known before a VM is made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BackendCapabilities {
    /// What its guests run on.
    pub architecture: Architecture,
    /// The exits it can produce.
    pub exits: ExitSet,
    /// Most vCPUs of a VM.
    pub max_vcpus: u32,
    /// How it tracks dirty pages.
    pub dirty_tracking: DirtyTracking,
    /// Whether each vCPU exit reaches the caller. A backend that runs whole machines says `false`.
    pub exposes_exits: bool,
    /// The interrupt controllers it can host.
    pub irqchips: &'static [IrqchipKind],
    /// The GIC that [`IrqchipKind::Full`] gives; only on aarch64.
    pub gic: Option<GicVersion>,
    /// Whether [`Vcpu::set_budget`] works.
    pub instruction_budget: bool,
    /// Frequency of the guest's time-stamp counter in kHz, where it is fixed.
    pub tsc_khz: Option<u32>,
}

impl BackendCapabilities {
    /// Capabilities of a backend that exposes its exits and can do nothing else.
    pub const fn new(architecture: Architecture, exits: ExitSet, max_vcpus: u32) -> Self {
        Self {
            architecture,
            exits,
            max_vcpus,
            dirty_tracking: DirtyTracking::None,
            exposes_exits: true,
            irqchips: &[IrqchipKind::None],
            gic: None,
            instruction_budget: false,
            tsc_khz: None,
        }
    }
}

/// What a VM is made of.
#[derive(Clone)]
pub struct VmConfig {
    /// Guest RAM. The VM keeps it alive.
    pub memory: Arc<GuestMemory>,
    /// Interrupt controllers inside the backend.
    pub irqchip: IrqchipKind,
    /// Time for timers and counters that the backend models itself.
    pub clock: Arc<dyn Clock>,
    /// Told when a halted vCPU has something to do.
    pub waker: Arc<dyn Waker>,
    /// Entries of the ring in which the backend notes the pages that a vCPU writes while a [log](Vm::set_dirty_log) is kept: a
    /// power of two, 1,024 to [`max_entries`](DirtyTracking::BitmapOrRing::max_entries), of 16 bytes each. `None` is a bitmap.
    ///
    /// A bitmap takes as long to fetch as there is RAM, a ring as long as pages were written. A ring that is full stops its
    /// vCPU for the time that it takes to empty it. What a vCPU writes while [`Vm::take_dirty_pages`] is called may be told by
    /// a later call, the first after the vCPU has exited at the latest.
    pub dirty_ring: Option<u32>,
}

/// What stops a vCPU for a debugger, as [`VmExit::Debug`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DebugStops {
    /// After each instruction.
    pub step: bool,
    /// Before the instruction at each of these linear addresses. To go on from one, a debugger takes it away and steps.
    pub breakpoints: [Option<u64>; 4],
    /// At breakpoint instructions (`INT3` on x86, `BRK` on aarch64), which are the debugger's then and not the guest's.
    pub instructions: bool,
}

/// A way to run guests.
pub trait HypervisorBackend: Send + Sync {
    /// Which one this is.
    fn kind(&self) -> BackendKind;

    /// What it can do on this machine.
    fn capabilities(&self) -> &BackendCapabilities;

    /// Makes a VM without vCPUs.
    ///
    /// # Errors
    /// [`ErrorCode::BackendUnusable`] or [`ErrorCode::Hypervisor`] when the host refuses,
    /// [`ErrorCode::Unsupported`] when `config` asks for more than the capabilities offer,
    /// [`ErrorCode::MemoryOverlap`] when memory lies where an interrupt controller or pages of the backend are.
    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>>;
}

/// A virtual machine: memory, interrupt controllers, vCPUs.
pub trait Vm: Send + Sync {
    /// Guest RAM.
    fn memory(&self) -> &Arc<GuestMemory>;

    /// Makes vCPU `id`, which on x86 is its local APIC number. On aarch64 it is part of its MPIDR_EL1, every vCPU but number 0
    /// begins [off](crate::arm64::PowerState::Off), and none can be made any more once one has run.
    ///
    /// # Errors
    /// [`ErrorCode::VcpuCount`] when there are too many, or this one exists already.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>>;

    /// Sets the level of interrupt line `gsi`. Any thread. On x86 0 to 23 without 2: an input of the I/O APIC, below 16 also of an 8259, see
    /// [`io_apic_input`](crate::x86::irqchip::io_apic_input). On aarch64 a shared peripheral interrupt, 0 to [`gic::LINES`](crate::arm64::gic::LINES) − 1.
    ///
    /// # Errors
    /// [`ErrorCode::IrqLine`] when there is no such line or no controller.
    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()>;

    /// Delivers a message-signalled interrupt: a write of `data` to `address` (Intel SDM vol. 3, 11.11).
    ///
    /// # Errors
    /// [`ErrorCode::IrqLine`] without a local APIC, so always on aarch64.
    fn signal_msi(&self, address: u64, data: u32) -> Result<()>;

    /// Makes something that raises an interrupt from any thread, as a device with a thread of its own needs it.
    ///
    /// # Errors
    /// [`ErrorCode::IrqLine`] when there is no such line or no controller, [`ErrorCode::InvalidArgument`] for a level-triggered
    /// message, [`ErrorCode::Unsupported`] by default and when the backend has no room for one more.
    fn interrupt_trigger(&self, _source: InterruptSource) -> Result<Arc<dyn InterruptTrigger>> {
        Err(unsupported("interrupt triggers"))
    }

    /// Takes over a doorbell, where the backend can: writes that ring it make no exit then. They are counted, and `doorbell` hears of
    /// them on a thread of the backend's; at the latest when the attachment is dropped. `None`: such writes stay exits.
    ///
    /// # Errors
    /// [`ErrorCode::Hypervisor`] or [`ErrorCode::OutOfMemory`] when the host fails.
    fn attach_doorbell(
        &self,
        _at: &DoorbellRegister,
        _doorbell: &Arc<dyn Doorbell>,
    ) -> Result<Option<Attachment>> {
        Ok(None)
    }

    /// Gathers writes to the addresses of `range` (first, and how many), where the backend can: they make no exit then. `writes` gets each
    /// before any later exit of the vCPU that made it. `None`: such writes stay exits. Dropping the attachment ends it, and what has not
    /// been delivered by then is lost.
    ///
    /// # Errors
    /// [`ErrorCode::Hypervisor`] when the host fails.
    fn coalesce_writes(
        &self,
        _space: AddressSpace,
        _range: (u64, u64),
        _writes: &Arc<dyn CoalescedWrites>,
    ) -> Result<Option<Attachment>> {
        Ok(None)
    }

    /// Starts or stops recording of pages that the guest writes.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] by default.
    fn set_dirty_log(&self, _enabled: bool) -> Result<()> {
        Err(unsupported("dirty page tracking"))
    }

    /// Guest-physical addresses of the 4 KiB pages written since the last call, ascending.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] by default.
    fn take_dirty_pages(&self) -> Result<Vec<u64>> {
        Err(unsupported("dirty page tracking"))
    }
}

/// One virtual processor. It belongs to whoever runs it; other threads reach it through its
/// [`CancelHandle`] and through interrupt lines.
pub trait Vcpu: Send {
    /// Its number; see [`Vm::create_vcpu`].
    fn id(&self) -> u32;

    /// Answers the last exit and runs the guest until the next.
    ///
    /// # Errors
    /// [`ErrorCode::BadEntry`] when `entry` does not fit the last exit (nothing has changed then),
    /// [`ErrorCode::Hypervisor`] when the host fails.
    fn run(&mut self, entry: VmEntry) -> Result<VmExit>;

    /// A handle by which any thread makes `run` return [`VmExit::Cancelled`].
    fn cancel_handle(&self) -> CancelHandle;

    /// Makes `run` return [`VmExit::BudgetSpent`] after about this many further instructions (at least one,
    /// at most a block more); `None` takes the limit away.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] where the backend cannot count.
    fn set_budget(&mut self, _instructions: Option<u64>) -> Result<()> {
        Err(unsupported("an instruction budget"))
    }

    /// Guest instructions executed so far, where the backend counts them.
    fn instructions(&self) -> Option<u64> {
        None
    }

    /// Accesses so far to model-specific registers that do not exist, which raised #GP(0) and made no exit.
    fn unknown_msrs(&self) -> u64 {
        0
    }

    /// After [`VmExit::Hlt`]: when the vCPU's own timer will fire, on [`VmConfig::clock`]; `None` when no
    /// timer is armed.
    fn idle_deadline_ns(&self) -> Option<u64> {
        None
    }

    /// After [`VmExit::Hlt`]: whether `run` would execute guest code now.
    fn is_runnable(&mut self) -> bool {
        true
    }

    /// With [`IrqchipKind::None`]: delivers external interrupt `vector` at the next entry.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] with an interrupt controller in the backend,
    /// [`ErrorCode::VcpuBusy`] when the guest cannot take one now: ask for the window first.
    fn inject_interrupt(&mut self, _vector: u8) -> Result<()> {
        Err(unsupported("interrupt injection"))
    }

    /// With [`IrqchipKind::None`]: makes `run` return [`VmExit::InterruptWindow`] once the guest can take
    /// an interrupt.
    fn request_interrupt_window(&mut self, _wanted: bool) {}

    /// Raises a non-maskable interrupt.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] by default.
    fn inject_nmi(&mut self) -> Result<()> {
        Err(unsupported("NMI injection"))
    }

    /// Sets what stops the vCPU for a debugger; the default stops it nowhere. The guest does not see its own debug
    /// registers' breakpoints while there are some here.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] by default, and when the processor has fewer breakpoints than are asked for.
    fn set_debug_stops(&mut self, _stops: &DebugStops) -> Result<()> {
        Err(unsupported("stops for a debugger"))
    }

    /// The x86 face of this vCPU.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] on other architectures.
    fn x86(&mut self) -> Result<&mut dyn X86State> {
        Err(unsupported("x86 state"))
    }

    /// The aarch64 face of this vCPU.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] on other architectures.
    fn arm64(&mut self) -> Result<&mut dyn Arm64State> {
        Err(unsupported("aarch64 state"))
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("this backend does not support {what}; see its capabilities"))
}

/// The shared half of a [`CancelHandle`].
pub trait Cancel: Send + Sync {
    /// Makes the vCPU return soon; see [`CancelHandle::cancel`].
    fn cancel(&self);
}

/// Stops a vCPU from any thread.
#[derive(Clone)]
pub struct CancelHandle(Arc<dyn Cancel>);

impl CancelHandle {
    /// A handle to `shared`.
    pub fn new(shared: Arc<dyn Cancel>) -> Self {
        Self(shared)
    }

    /// Makes the vCPU's `run` return [`VmExit::Cancelled`] soon, also from guest code that loops for ever.
    /// A call before `run` counts for the next one; several calls before it returns count once.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl std::fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CancelHandle")
    }
}
