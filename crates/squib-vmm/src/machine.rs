//! A machine: the [board](crate::platform) with RAM, vCPUs and a kernel, ready to run. On a backend for aarch64 it is
//! [another board](crate::virt), and all else is the same.

mod pc;
mod virt;

use std::sync::{Arc, Mutex, PoisonError};

use squib_core::{
    Architecture, Clock, Error, ErrorCode, ExitKind, GuestMemory, HypervisorBackend, InterruptSource,
    InterruptTrigger, IrqchipKind, Result, Vm, VmEntry, Waker,
};

#[cfg(doc)]
use crate::boot;
use crate::boot::{BootInfo, BootSource, Protocol};
use crate::bus::Bus;
use crate::console::{Console, ConsoleListener};
use crate::device::Host;
use crate::irq::Lines;
use crate::outcome::Outcome;
use crate::ports::Pvpanic;
use crate::run::{Stop, VcpuLoop};
use crate::stats::{Stats, device_counts};
use crate::test_device;
use crate::vcpu::SharedVcpu;

/// Most vCPUs of a machine; a backend may allow fewer.
pub const MAX_VCPUS: u32 = 32;

/// What to build.
pub struct MachineConfig<'a> {
    /// RAM in bytes, a multiple of 4096; [firmware](Protocol::Firmware) is beside it.
    pub memory_size: u64,
    /// Processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Interrupt controllers inside the backend: [`IrqchipKind::Full`], or on a PC [`IrqchipKind::Split`] for an I/O APIC
    /// on the board and neither an 8259 nor an 8254.
    pub irqchip: IrqchipKind,
    /// Kernel or program. Its `rsdp` is filled in.
    pub boot: BootSource<'a>,
    /// Time for timers and statistics.
    pub clock: Arc<dyn Clock>,
    /// Called when a halted vCPU has something to do, and when [`Machine::tick`] is due at another time than it said;
    /// whoever implements [`Host::idle`], and whoever calls `tick`, waits for it.
    pub waker: Arc<dyn Waker>,
    /// Told of console output; `()` where it is polled.
    pub console: Box<dyn ConsoleListener>,
}

/// What a board is made of when it is wired up. The vCPUs are ready to run.
struct Parts {
    vm: Arc<dyn Vm>,
    lines: Lines,
    own_lines: &'static [u32],
    ports: Arc<Bus>,
    memory: Arc<Bus>,
    vcpus: Vec<VcpuLoop>,
    console: Arc<Console>,
    pvpanic: Option<Arc<Pvpanic>>,
    clock: Arc<dyn Timekeeper>,
    boot: BootInfo,
}

/// The board's clock, whose interrupts no vCPU waits for.
pub(crate) trait Timekeeper: Send + Sync {
    /// Raises the interrupt if it is due, and says when the next one is, on the machine's clock.
    ///
    /// # Errors
    /// What the backend says to the interrupt.
    fn tick(&self) -> Result<Option<u64>>;
}

/// A virtual PC, or on a backend for aarch64 a [board of that](crate::virt).
///
/// All of it may be used from any thread. Each vCPU runs on the thread that calls [`Machine::run`] for it.
/// An embedder's devices are mapped on [`Machine::ports`] and [`Machine::device_memory`] at any time.
pub struct Machine {
    vm: Arc<dyn Vm>,
    lines: Lines,
    /// Interrupt lines of the board's own devices.
    own_lines: &'static [u32],
    ports: Arc<Bus>,
    memory: Arc<Bus>,
    vcpus: Box<[SharedVcpu]>,
    console: Arc<Console>,
    pvpanic: Option<Arc<Pvpanic>>,
    clock: Arc<dyn Timekeeper>,
    boot: BootInfo,
    created_ns: u64,
    outcome: Mutex<Option<Outcome>>,
}

impl Machine {
    /// Builds a machine on `backend`.
    ///
    /// # Errors
    /// [`ErrorCode::VcpuCount`], [`ErrorCode::MemorySize`], [`ErrorCode::OutOfMemory`]; [`ErrorCode::Unsupported`]
    /// without local APICs or a GIC; those of [`boot::load`] or [`boot::arm64::load`] for a kernel that is not one or does not fit; and what the
    /// backend reports.
    pub fn new(backend: &dyn HypervisorBackend, config: MachineConfig<'_>) -> Result<Self> {
        let created_ns = config.clock.now_ns();
        let capabilities = backend.capabilities();
        let most = capabilities.max_vcpus.min(MAX_VCPUS);
        if !(1..=most).contains(&config.vcpus) {
            let range = if most == 1 { "1".into() } else { format!("1 to {most}") };
            let message = format!(
                "{} vCPUs are asked for, and the {} backend has {range}",
                config.vcpus,
                backend.kind().name()
            );
            return Err(Error::new(ErrorCode::VcpuCount, message));
        }
        let Parts { vm, lines, own_lines, ports, memory, vcpus, console, pvpanic, clock, boot } =
            match capabilities.architecture {
                Architecture::X86_64 => pc::build(backend, config)?,
                Architecture::Arm64 => virt::build(backend, config)?,
            };
        let vcpus = vcpus.into_iter().map(SharedVcpu::new).collect();
        let outcome = Mutex::new(None);
        Ok(Self {
            vm,
            lines,
            own_lines,
            ports,
            memory,
            vcpus,
            console,
            pvpanic,
            clock,
            boot,
            created_ns,
            outcome,
        })
    }

    /// Runs vCPU `id` on this thread until something happens that the board does not settle. When that ends the
    /// machine, the other vCPUs are cancelled.
    ///
    /// # Errors
    /// A device's or the backend's; [`ErrorCode::InvalidArgument`] for a vCPU that there is not,
    /// [`ErrorCode::VcpuBusy`] for one that is running, [`ErrorCode::Closed`] when the machine has ended or was
    /// closed.
    pub fn run(&self, id: u32, host: &mut dyn Host) -> Result<Stop> {
        if let Some(outcome) = self.outcome() {
            let message = format!("the machine has ended ({}); make a new one", outcome.name());
            return Err(Error::new(ErrorCode::Closed, message));
        }
        let stop = self.vcpu(id)?.run(VmEntry::Resume, host)?;
        if let Some(outcome) = Outcome::of(&stop, self.panicked()) {
            self.end(outcome);
        }
        Ok(stop)
    }

    /// Makes happen what is due of the board's own timers, which no vCPU waits for: its clock's interrupts. Returns when
    /// the next is due, on [`MachineConfig::clock`]; `None` for never, as long as [`MachineConfig::waker`] is not called.
    /// Any thread; [`host::keep_time`](crate::host::keep_time) calls it in time.
    ///
    /// # Errors
    /// What the backend says to an interrupt.
    pub fn tick(&self) -> Result<Option<u64>> {
        self.clock.tick()
    }

    /// Ends the machine as `outcome` says, unless it has ended already, and cancels its vCPUs.
    pub fn end(&self, outcome: Outcome) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
        self.cancel();
    }

    /// How the machine ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every vCPU's run return soon; they can be run again.
    pub fn cancel(&self) {
        self.vcpus.iter().for_each(SharedVcpu::cancel);
    }

    /// Ends the machine as [`Outcome::Aborted`], unless it has ended already, and gives its vCPUs back.
    pub fn close(&self) {
        self.end(Outcome::Aborted);
        self.vcpus.iter().for_each(SharedVcpu::close);
    }

    /// vCPU `id`.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when there is none.
    pub fn vcpu(&self, id: u32) -> Result<&SharedVcpu> {
        let none = || {
            Error::new(
                ErrorCode::InvalidArgument,
                format!("there is no vCPU {id} among {}", self.vcpus.len()),
            )
        };
        self.vcpus.get(id as usize).ok_or_else(none)
    }

    /// The vCPUs, by number.
    pub fn vcpus(&self) -> &[SharedVcpu] {
        &self.vcpus
    }

    /// Guest RAM.
    pub fn ram(&self) -> &Arc<GuestMemory> {
        self.vm.memory()
    }

    /// The I/O ports; on aarch64 there are none, and what is mapped there is never reached.
    pub fn ports(&self) -> &Arc<Bus> {
        &self.ports
    }

    /// Memory outside of RAM; [`platform::DEVICE_WINDOW`](crate::platform::DEVICE_WINDOW) is free for an embedder's devices, on
    /// aarch64 [`virt::DEVICE_WINDOW`](crate::virt::DEVICE_WINDOW).
    pub fn device_memory(&self) -> &Arc<Bus> {
        &self.memory
    }

    /// Puts the device on the board that kvm-unit-tests' programs look for: [`squib_devices::test_device`].
    ///
    /// # Errors
    /// [`ErrorCode::DeviceOverlap`] where another device is in its place, [`ErrorCode::Unsupported`] on aarch64.
    pub fn add_test_device(&self) -> Result<()> {
        if self.boot.protocol == Protocol::Arm64 {
            return Err(Error::new(ErrorCode::Unsupported, "the test device is for PCs"));
        }
        test_device::map(&self.lines, &self.ports, &self.memory)
    }

    /// The console.
    pub fn console(&self) -> &Arc<Console> {
        &self.console
    }

    /// What was loaded.
    pub fn boot(&self) -> &BootInfo {
        &self.boot
    }

    /// Sets the level of interrupt line `gsi` for a device of the embedder's. Any thread.
    ///
    /// # Errors
    /// [`ErrorCode::IrqLine`] when there is no such line, or it belongs to the board.
    pub fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.check_line(gsi)?;
        self.lines.set(gsi, level)
    }

    /// Makes something that raises an interrupt for a device of the embedder's, from any thread.
    ///
    /// # Errors
    /// As [`Vm::interrupt_trigger`]; [`ErrorCode::IrqLine`] for a line that belongs to the board, too.
    pub fn interrupt_trigger(&self, source: InterruptSource) -> Result<Arc<dyn InterruptTrigger>> {
        match source {
            InterruptSource::Line(gsi) => {
                self.check_line(gsi)?;
                self.lines.trigger(gsi)
            }
            InterruptSource::Message { .. } => self.vm.interrupt_trigger(source),
        }
    }

    fn check_line(&self, gsi: u32) -> Result<()> {
        if self.own_lines.contains(&gsi) {
            return Err(Error::new(ErrorCode::IrqLine, format!("interrupt line {gsi} belongs to the board")));
        }
        Ok(())
    }

    /// Whether the guest's kernel has said that it panicked, by pvpanic or on the console.
    pub fn panicked(&self) -> bool {
        self.pvpanic.as_ref().is_some_and(|device| device.panicked())
            || self.console.milestones().panic_ns.is_some()
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        let sum = |kind| self.vcpus.iter().map(|v| v.counts().get(kind)).sum();
        let since = |at: Option<u64>| at.map(|ns| ns.saturating_sub(self.created_ns));
        let seen = self.console.milestones();
        Stats {
            exits: ExitKind::ALL.into_iter().map(|kind| (kind, sum(kind))).filter(|(_, n)| *n != 0).collect(),
            ports: device_counts(&self.ports),
            memory: device_counts(&self.memory),
            open_bus: self.vcpus.iter().map(|v| v.counts().open_bus()).sum(),
            unknown_msrs: self.vcpus.iter().map(SharedVcpu::unknown_msrs).sum(),
            instructions: self.vcpus.iter().map(SharedVcpu::instructions).sum(),
            first_output_ns: since(seen.first_output_ns),
            userspace_ns: since(seen.userspace_ns),
        }
    }
}
