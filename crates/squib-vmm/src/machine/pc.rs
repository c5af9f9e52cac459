//! The wiring of a PC's [board](crate::platform).

use std::sync::{Arc, Mutex};

use squib_core::{Error, ErrorCode, GuestMemory, HypervisorBackend, IrqchipKind, Result, VmConfig};
use squib_devices::debug_port::PORT_FIRMWARE;
use squib_devices::{acpi_pm, i8042, ioapic, rtc, uart};

use super::{MachineConfig, Parts};
use crate::boot::{self, BootSource, Protocol, rom};
use crate::bus::{Bus, Target};
use crate::cmos::CmosClock;
use crate::console::{Com1, Console};
use crate::device::Device;
use crate::io_apic::IoApic;
use crate::irq::{IrqLine, Lines};
use crate::ports::{DebugConsole, DebugExit, KeyboardController, PostCode, PowerControl, Pvpanic};
use crate::run::{Unclaimed, VcpuLoop};
use crate::{firmware, platform};

/// Builds one on `backend`.
pub(super) fn build(backend: &dyn HypervisorBackend, config: MachineConfig<'_>) -> Result<Parts> {
    if config.irqchip == IrqchipKind::None {
        return Err(Error::new(ErrorCode::Unsupported, "a machine has local APICs: full or split irqchip"));
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
        dirty_ring: None,
    })?;
    let io_apic = (config.irqchip == IrqchipKind::Split).then(|| Arc::new(IoApic::new(vm.clone())));
    let lines = io_apic.clone().map_or_else(|| Lines::Backend(vm.clone()), Lines::Board);
    let irq = IrqLine::new(lines.clone(), platform::COM1_IRQ);
    let console = Arc::new(Console::new(Box::<Com1>::default(), irq, config.clock.clone(), config.console));
    let pvpanic = Arc::new(Pvpanic::default());
    let irq = IrqLine::new(lines.clone(), platform::RTC_IRQ);
    let cmos = Arc::new(CmosClock::new(config.clock, config.waker, irq, config.memory_size, config.vcpus));
    let post_code = Arc::new(PostCode::default());
    let ports = ports(&console, &pvpanic, &cmos, &post_code, config.boot.protocol)?;
    let memory = memory(&ram, io_apic.clone())?;
    ports.belongs_to(&vm);
    // Linux writes the one before each access to the clock and the other to let time pass. Nobody hears of either.
    ports.coalesce(platform::RTC.into(), 1, cmos.clone())?;
    ports.coalesce(platform::POST_CODE.into(), 1, post_code)?;
    memory.belongs_to(&vm);
    let vcpu = |id| {
        let vcpu = VcpuLoop::new(vm.create_vcpu(id)?, &ports, &memory, Unclaimed::Platform);
        Ok(vcpu.with_io_apic(io_apic.clone()))
    };
    let mut vcpus = (0..config.vcpus).map(vcpu).collect::<Result<Vec<_>>>()?;
    // The others wait for the first to start them.
    if let Some(first) = vcpus.first_mut() {
        start.apply(first.vcpu().x86()?)?;
    }
    Ok(Parts {
        vm,
        lines,
        own_lines: &platform::BOARD_IRQS,
        ports,
        memory,
        vcpus,
        console,
        pvpanic: Some(pvpanic),
        clock: cmos,
        boot: start.info,
    })
}

/// RAM, and ROM for firmware of `len` bytes.
fn with_rom(size: u64, len: usize) -> Result<Arc<GuestMemory>> {
    let rom = rom::range(len)?;
    GuestMemory::with_rom(&GuestMemory::ranges(size), &[(rom.start, rom.end - rom.start)])
}

/// The ports of the board. Firmware's log is for a device of the embedder's.
fn ports(
    console: &Arc<Console>,
    pvpanic: &Arc<Pvpanic>,
    cmos: &Arc<CmosClock>,
    post_code: &Arc<PostCode>,
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
    device("POST code", platform::POST_CODE, 1, post_code.clone())?;
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
