//! A machine: the [board](crate::platform) with RAM, vCPUs and a kernel, ready to run.

use std::sync::{Arc, Mutex, PoisonError};

use squib_core::{
    Clock, Error, ErrorCode, ExitKind, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vm, VmConfig,
    VmEntry, Waker,
};

use squib_devices::debug_port::PORT_FIRMWARE;
use squib_devices::{acpi_pm, i8042, ioapic, rtc, uart};

use crate::boot::{self, BootInfo, BootSource, Protocol, rom};
use crate::bus::{Bus, Target};
use crate::cmos::CmosClock;
use crate::console::{Console, ConsoleListener};
use crate::device::{Device, Host};
use crate::io_apic::IoApic;
use crate::irq::{IrqLine, Lines};
use crate::outcome::Outcome;
use crate::ports::{DebugConsole, DebugExit, KeyboardController, PowerControl, Pvpanic};
use crate::run::{Stop, Unclaimed, VcpuLoop};
use crate::stats::{Stats, device_counts};
use crate::vcpu::SharedVcpu;
use crate::{firmware, platform, test_device};

/// Most vCPUs of a machine; a backend may allow fewer.
pub const MAX_VCPUS: u32 = 32;

/// What to build.
pub struct MachineConfig<'a> {
    /// RAM in bytes, a multiple of 4096; [firmware](Protocol::Firmware) is beside it.
    pub memory_size: u64,
    /// Processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Interrupt controllers inside the backend: [`IrqchipKind::Full`], or [`IrqchipKind::Split`] for an I/O APIC
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

/// A virtual PC.
///
/// All of it may be used from any thread. Each vCPU runs on the thread that calls [`Machine::run`] for it.
/// An embedder's devices are mapped on [`Machine::ports`] and [`Machine::device_memory`] at any time.
pub struct Machine {
    vm: Arc<dyn Vm>,
    lines: Lines,
    ports: Arc<Bus>,
    memory: Arc<Bus>,
    vcpus: Box<[SharedVcpu]>,
    console: Arc<Console>,
    pvpanic: Arc<Pvpanic>,
    cmos: Arc<CmosClock>,
    boot: BootInfo,
    created_ns: u64,
    outcome: Mutex<Option<Outcome>>,
}

impl Machine {
    /// Builds a machine on `backend`.
    ///
    /// # Errors
    /// [`ErrorCode::VcpuCount`], [`ErrorCode::MemorySize`], [`ErrorCode::OutOfMemory`]; [`ErrorCode::Unsupported`]
    /// without local APICs; those of [`boot::load`] for a kernel that is not one or does not fit; and what the
    /// backend reports.
    pub fn new(backend: &dyn HypervisorBackend, config: MachineConfig<'_>) -> Result<Self> {
        let created_ns = config.clock.now_ns();
        let most = backend.capabilities().max_vcpus.min(MAX_VCPUS);
        if !(1..=most).contains(&config.vcpus) {
            let range = if most == 1 { "1".into() } else { format!("1 to {most}") };
            let message = format!(
                "{} vCPUs are asked for, and the {} backend has {range}",
                config.vcpus,
                backend.kind().name()
            );
            return Err(Error::new(ErrorCode::VcpuCount, message));
        }
        if config.irqchip == IrqchipKind::None {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "a machine has local APICs: full or split irqchip",
            ));
        }
        let (ram, rsdp) = match config.boot.protocol {
            Some(Protocol::Firmware) => (with_rom(config.memory_size, config.boot.kernel.len())?, None),
            _ => {
                let ram = GuestMemory::new(config.memory_size)?;
                let rsdp = firmware::install(&ram, config.vcpus)?;
                (ram, rsdp)
            }
        };
        let mut start = boot::load(&ram, &BootSource { rsdp, ..config.boot })?;
        firmware::prepare(&ram, &mut start)?;
        let vm = backend.create_vm(&VmConfig {
            memory: ram.clone(),
            irqchip: config.irqchip,
            clock: config.clock.clone(),
            waker: config.waker.clone(),
        })?;
        let io_apic = (config.irqchip == IrqchipKind::Split).then(|| Arc::new(IoApic::new(vm.clone())));
        let lines = io_apic.clone().map_or_else(|| Lines::Backend(vm.clone()), Lines::Board);
        let console =
            Arc::new(Console::new(lines.clone(), platform::COM1_IRQ, config.clock.clone(), config.console));
        let pvpanic = Arc::new(Pvpanic::default());
        let irq = IrqLine::new(lines.clone(), platform::RTC_IRQ);
        let cmos =
            Arc::new(CmosClock::new(config.clock, config.waker, irq, config.memory_size, config.vcpus));
        let ports = ports(&console, &pvpanic, &cmos, config.boot.protocol)?;
        let memory = memory(&ram, io_apic.clone())?;
        let vcpu = |id| {
            let vcpu = VcpuLoop::new(vm.create_vcpu(id)?, &ports, &memory, Unclaimed::Platform);
            Ok(vcpu.with_io_apic(io_apic.clone()))
        };
        let mut vcpus = (0..config.vcpus).map(vcpu).collect::<Result<Vec<_>>>()?;
        // The others wait for the first to start them.
        if let Some(first) = vcpus.first_mut() {
            start.apply(first.vcpu().x86()?)?;
        }
        let vcpus = vcpus.into_iter().map(SharedVcpu::new).collect();
        let (boot, outcome) = (start.info, Mutex::new(None));
        Ok(Self { vm, lines, ports, memory, vcpus, console, pvpanic, cmos, boot, created_ns, outcome })
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

    /// Makes happen what is due of the board's own timers, which no vCPU waits for: the CMOS clock's interrupts. Returns when
    /// the next is due, on [`MachineConfig::clock`]; `None` for never, as long as [`MachineConfig::waker`] is not called.
    /// Any thread; [`host::keep_time`](crate::host::keep_time) calls it in time.
    ///
    /// # Errors
    /// What the backend says to an interrupt.
    pub fn tick(&self) -> Result<Option<u64>> {
        self.cmos.tick()
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

    /// The I/O ports.
    pub fn ports(&self) -> &Arc<Bus> {
        &self.ports
    }

    /// Memory outside of RAM; [`platform::DEVICE_WINDOW`] is free for an embedder's devices.
    pub fn device_memory(&self) -> &Arc<Bus> {
        &self.memory
    }

    /// Puts the device on the board that kvm-unit-tests' programs look for: [`squib_devices::test_device`].
    ///
    /// # Errors
    /// [`ErrorCode::DeviceOverlap`] where another device is in its place.
    pub fn add_test_device(&self) -> Result<()> {
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
        if platform::BOARD_IRQS.contains(&gsi) {
            return Err(Error::new(ErrorCode::IrqLine, format!("interrupt line {gsi} belongs to the board")));
        }
        self.lines.set(gsi, level)
    }

    /// Whether the guest's kernel has said that it panicked, by pvpanic or on the console.
    pub fn panicked(&self) -> bool {
        self.pvpanic.panicked() || self.console.milestones().panic_ns.is_some()
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
            instructions: self.vcpus.iter().map(SharedVcpu::instructions).sum(),
            first_output_ns: since(seen.first_output_ns),
            userspace_ns: since(seen.userspace_ns),
        }
    }
}

/// RAM, and memory for firmware of `len` bytes.
fn with_rom(size: u64, len: usize) -> Result<Arc<GuestMemory>> {
    let rom = rom::range(len)?;
    let mut ranges = GuestMemory::ranges(size);
    ranges.push((rom.start, rom.end - rom.start));
    GuestMemory::with_regions(&ranges)
}

/// The ports of the board. Firmware's log is for a device of the embedder's.
fn ports(
    console: &Arc<Console>,
    pvpanic: &Arc<Pvpanic>,
    cmos: &Arc<CmosClock>,
    protocol: Option<Protocol>,
) -> Result<Arc<Bus>> {
    let bus = Bus::ports();
    let device = |name, port: u16, count, device: Arc<dyn Device>| {
        bus.map(name, port.into(), count, Target::Device(device))
    };
    device("COM1", platform::COM1, uart::PORTS.into(), console.clone())?;
    for port in platform::DEBUG_CONSOLES {
        if port == PORT_FIRMWARE && protocol == Some(Protocol::Firmware) {
            continue;
        }
        device("debug console", port, 1, Arc::new(DebugConsole(console.clone())))?;
    }
    device("debug exit", platform::DEBUG_EXIT, 4, Arc::new(DebugExit))?;
    device("pvpanic", platform::PVPANIC, 1, pvpanic.clone())?;
    device(
        "ACPI power control",
        platform::ACPI_PM,
        acpi_pm::PORTS.into(),
        Arc::new(PowerControl::default()),
    )?;
    device("CMOS clock", platform::RTC, rtc::PORTS.into(), cmos.clone())?;
    let registers = Arc::new(Mutex::default());
    for port in [i8042::PORT_DATA, i8042::PORT_COMMAND, i8042::PORT_SYSTEM_CONTROL] {
        device("8042", port, 1, Arc::new(KeyboardController { registers: registers.clone(), port }))?;
    }
    for (name, base, len) in platform::BACKEND_PORTS {
        bus.map(name, base, len, Target::Reserved)?;
    }
    Ok(bus)
}

/// Memory: RAM and what the backend has in it.
fn memory(ram: &GuestMemory, io_apic: Option<Arc<IoApic>>) -> Result<Arc<Bus>> {
    let bus = Bus::memory();
    for region in ram.regions() {
        bus.map("RAM", region.guest_addr(), region.len(), Target::Reserved)?;
    }
    let io_apic = io_apic.map_or(Target::Reserved, |io_apic| Target::Device(io_apic));
    bus.map("I/O APIC", platform::IO_APIC, ioapic::MMIO_SIZE, io_apic)?;
    bus.map("local APIC", platform::LOCAL_APIC, platform::LOCAL_APIC_SIZE, Target::Reserved)?;
    Ok(bus)
}
