//! The wiring of the [board for aarch64](crate::virt).

use std::sync::Arc;

use squib_core::arm64::{gic, system_registers};
use squib_core::{Error, ErrorCode, GuestMemory, HypervisorBackend, IrqchipKind, Result, VmConfig};
use squib_devices::primecell;

use super::{MachineConfig, Parts};
use crate::boot::arm64;
use crate::bus::{Bus, Target};
use crate::console::{Console, Pl011Port};
use crate::device_tree::Hardware;
use crate::irq::{IrqLine, Lines};
use crate::pl031::Pl031Clock;
use crate::run::{Unclaimed, VcpuLoop};
use crate::virt;

/// Builds one on `backend`.
pub(super) fn build(backend: &dyn HypervisorBackend, config: MachineConfig<'_>) -> Result<Parts> {
    let (IrqchipKind::Full, Some(gic)) = (config.irqchip, backend.capabilities().gic) else {
        return Err(Error::new(ErrorCode::Unsupported, "a machine for aarch64 has a GIC: full irqchip"));
    };
    let ram = GuestMemory::with_regions(&[(virt::RAM, config.memory_size)])?;
    let vm = backend.create_vm(&VmConfig {
        memory: ram.clone(),
        irqchip: config.irqchip,
        clock: config.clock.clone(),
        waker: config.waker.clone(),
        dirty_ring: None,
    })?;
    let lines = Lines::Backend(vm.clone());
    let irq = |line| IrqLine::new(lines.clone(), line);
    let port = Box::<Pl011Port>::default();
    let console = Arc::new(Console::new(port, irq(virt::UART_LINE), config.clock.clone(), config.console));
    let clock = Arc::new(Pl031Clock::new(config.clock, config.waker, irq(virt::CLOCK_LINE)));

    let (ports, memory) = (Bus::ports(), Bus::memory());
    memory.map("GIC", gic::DISTRIBUTOR, gic::END - gic::DISTRIBUTOR, Target::Reserved)?;
    memory.map("PL011", virt::UART, primecell::SIZE, Target::Device(console.clone()))?;
    memory.map("PL031", virt::CLOCK, primecell::SIZE, Target::Device(clock.clone()))?;
    memory.map("RAM", virt::RAM, config.memory_size, Target::Reserved)?;
    ports.belongs_to(&vm);
    memory.belongs_to(&vm);

    let vcpu = |id| Ok(VcpuLoop::new(vm.create_vcpu(id)?, &ports, &memory, Unclaimed::Platform));
    let mut vcpus = (0..config.vcpus).map(vcpu).collect::<Result<Vec<_>>>()?;
    let affinity = |vcpu: &mut VcpuLoop| vcpu.vcpu().arm64()?.system_register(system_registers::MPIDR_EL1);
    let processors = vcpus.iter_mut().map(affinity).collect::<Result<Vec<_>>>()?;
    let start = arm64::load(&ram, &config.boot, &Hardware { processors: &processors, gic })?;
    // The others are off until the first starts them.
    if let Some(first) = vcpus.first_mut() {
        first.vcpu().arm64()?.set_registers(&start.registers)?;
    }
    Ok(Parts {
        vm,
        lines,
        own_lines: &virt::BOARD_LINES,
        ports,
        memory,
        vcpus,
        console,
        pvpanic: None,
        clock,
        boot: start.info,
    })
}
