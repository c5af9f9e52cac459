//! The device tree of the [board for aarch64](crate::virt) (Devicetree Specification v0.4; for each device Linux,
//! Documentation/devicetree/bindings).

use std::ops::Range;

use squib_core::arm64::gic::{self, GicVersion};
use squib_core::{Error, ErrorCode, GuestMemory, Result};
use squib_devices::primecell;
use vm_fdt::FdtWriter;

use crate::virt;

/// What the tree says of the machine besides its board.
pub struct Hardware<'a> {
    /// MPIDR_EL1 of each vCPU, by number.
    pub processors: &'a [u64],
    /// The interrupt controller.
    pub gic: GicVersion,
}

/// Affinity levels 0 to 2 of MPIDR_EL1, which are as many as a machine needs (Arm ARM, D24.2.124).
const AFFINITY: u64 = 0xff_ffff;

/// Nodes that others point to.
const GIC_HANDLE: u32 = 1;
const CLOCK_HANDLE: u32 = 2;

/// The UART's clock, on which nothing depends.
const CLOCK_HZ: u32 = 24_000_000;

/// Interrupts as the GIC's binding has them: kind, number, trigger.
const LINE: u32 = 0;
const PRIVATE: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// The architectural timers' interrupts: secure, non-secure, virtual, hypervisor (Arm BSA, table 4), without the first 16.
const TIMERS: [u32; 4] = [13, 14, 11, 10];

/// What the kernel is told by `/chosen`.
pub(crate) struct Chosen<'a> {
    pub(crate) command_line: &'a str,
    pub(crate) initrd: Option<Range<u64>>,
}

/// The tree of a machine with this memory.
///
/// # Errors
/// [`ErrorCode::CommandLine`] for one with a NUL.
pub(crate) fn build(memory: &GuestMemory, hardware: &Hardware<'_>, chosen: &Chosen<'_>) -> Result<Vec<u8>> {
    write(memory, hardware, chosen).map_err(|e| match e {
        vm_fdt::Error::InvalidString => {
            Error::with_source(ErrorCode::CommandLine, "the command line is no string of a device tree", e)
        }
        e => Error::with_source(ErrorCode::Internal, "the device tree cannot be written", e),
    })
}

fn write(
    memory: &GuestMemory,
    hardware: &Hardware<'_>,
    chosen: &Chosen<'_>,
) -> Result<Vec<u8>, vm_fdt::Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "squib")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_HANDLE)?;

    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", chosen.command_line)?;
    fdt.property_string("stdout-path", &format!("/pl011@{:x}", virt::UART))?;
    if let Some(initrd) = &chosen.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    fdt.end_node(node)?;

    for region in memory.regions() {
        let node = fdt.begin_node(&format!("memory@{:x}", region.guest_addr()))?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &[region.guest_addr(), region.len()])?;
        fdt.end_node(node)?;
    }

    processors(&mut fdt, hardware.processors)?;
    timers(&mut fdt, hardware)?;
    interrupt_controller(&mut fdt, hardware)?;
    devices(&mut fdt)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn processors(fdt: &mut FdtWriter, processors: &[u64]) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)?;

    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for affinity in processors.iter().map(|mpidr| (mpidr & AFFINITY) as u32) {
        let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", affinity)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)
}

fn timers(fdt: &mut FdtWriter, hardware: &Hardware<'_>) -> Result<(), vm_fdt::Error> {
    // A GICv2's private interrupts name the processors that have them.
    let processors = match hardware.gic {
        GicVersion::V2 => ((1 << hardware.processors.len().min(8)) - 1) << 8,
        GicVersion::V3 => 0,
    };
    let interrupts: Vec<u32> =
        TIMERS.iter().flat_map(|number| [PRIVATE, *number, processors | LEVEL_HIGH]).collect();
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn interrupt_controller(fdt: &mut FdtWriter, hardware: &Hardware<'_>) -> Result<(), vm_fdt::Error> {
    let redistributors = gic::REDISTRIBUTOR_SIZE * hardware.processors.len() as u64;
    let (compatible, place, size) = match hardware.gic {
        GicVersion::V2 => ("arm,cortex-a15-gic", gic::CPU_INTERFACE, gic::CPU_INTERFACE_SIZE),
        GicVersion::V3 => ("arm,gic-v3", gic::REDISTRIBUTORS, redistributors),
    };
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", gic::DISTRIBUTOR))?;
    fdt.property_string("compatible", compatible)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_array_u64("reg", &[gic::DISTRIBUTOR, gic::DISTRIBUTOR_SIZE, place, size])?;
    fdt.property_phandle(GIC_HANDLE)?;
    fdt.end_node(node)
}

fn devices(fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK_HANDLE)?;
    fdt.end_node(node)?;

    for (name, place, line, clocks) in [
        ("pl011", virt::UART, virt::UART_LINE, &["uartclk", "apb_pclk"][..]),
        ("pl031", virt::CLOCK, virt::CLOCK_LINE, &["apb_pclk"]),
    ] {
        let node = fdt.begin_node(&format!("{name}@{place:x}"))?;
        fdt.property_string_list("compatible", vec![format!("arm,{name}"), "arm,primecell".into()])?;
        fdt.property_array_u64("reg", &[place, primecell::SIZE])?;
        fdt.property_array_u32("interrupts", &[LINE, line, LEVEL_HIGH])?;
        fdt.property_array_u32("clocks", &vec![CLOCK_HANDLE; clocks.len()])?;
        fdt.property_string_list("clock-names", clocks.iter().map(|&name| name.into()).collect())?;
        fdt.end_node(node)?;
    }
    Ok(())
}
