//! Interrupt lines and the virtual timer, through the GIC in the kernel.

use std::time::Duration;

use squib_core::arm64::SystemRegister;
pub use squib_core::arm64::gic::FIRST_LINE;
use squib_core::arm64::gic::{CPU_INTERFACE, DISTRIBUTOR, END, GicVersion, LINES};
use squib_core::arm64::system_registers::{CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0};
use squib_core::{ErrorCode, HypervisorBackend, IrqchipKind, VmExit};
use squib_kvm::KvmBackend;

use crate::asm::*;
use crate::harness::*;

/// The GIC's CPU interface (IHI 0069, 12.2).
const ICC_PMR_EL1: SystemRegister = SystemRegister::new(3, 0, 4, 6, 0);
const ICC_IAR1_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 0);
const ICC_EOIR1_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 1);
const ICC_SRE_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 5);
const ICC_IGRPEN1_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 7);

/// Registers of the distributor (IHI 0069, 12.9; IHI 0048, 4.3).
const GICD_CTLR: u64 = DISTRIBUTOR;
const GICD_IGROUPR: u64 = DISTRIBUTOR + 0x80;
const GICD_ISENABLER: u64 = DISTRIBUTOR + 0x100;
const GICD_ICFGR: u64 = DISTRIBUTOR + 0xc00;
const GICD_ITARGETSR: u64 = DISTRIBUTOR + 0x800;
/// A GICv2's CPU interface (IHI 0048, 4.4).
const GICC_CTLR: u64 = CPU_INTERFACE;
const GICC_PMR: u64 = CPU_INTERFACE + 4;
const GICC_IAR: u64 = CPU_INTERFACE + 0xc;
const GICC_EOIR: u64 = CPU_INTERFACE + 0x10;
/// Of the first redistributor's page for private interrupts.
const GICR_SGI: u64 = squib_core::arm64::gic::REDISTRIBUTORS + 0x1_0000;
/// And of its other page.
const GICR_WAKER: u64 = squib_core::arm64::gic::REDISTRIBUTORS + 0x14;

/// The virtual timer's interrupt number.
const VIRTUAL_TIMER: u32 = 27;

fn write(addr: u64, value: u64) -> Vec<u32> {
    [set(3, addr), set(4, value), vec![store(4, 3)]].concat()
}

fn write_register(register: SystemRegister, value: u64) -> Vec<u32> {
    let mut code = set(4, value);
    code.extend([write_system(register, 4), ISB]);
    code
}

/// Makes line `line` edge-triggered: two bits for each interrupt, of which the upper one says so.
pub fn edge_triggered(line: u32) -> Vec<u32> {
    let number = FIRST_LINE + line;
    write(GICD_ICFGR + u64::from(number / 16 * 4), 2 << (number % 16 * 2))
}

/// Sets the GIC up for line `line` and the private interrupts.
pub fn set_up(gic: GicVersion, line: u32) -> Vec<u32> {
    let (number, bit) = ((FIRST_LINE + line) / 32 * 4, 1 << (line % 32));
    let lines = write(GICD_ISENABLER + u64::from(number), bit);
    let gic = match gic {
        GicVersion::V2 => [
            // To vCPU 0, each of the four that share the register.
            write(GICD_ITARGETSR + u64::from((FIRST_LINE + line) / 4 * 4), 0x0101_0101),
            write(GICD_CTLR, 1),
            lines,
            write(GICD_ISENABLER, 1 << VIRTUAL_TIMER),
            write(GICC_PMR, 0xff),
            write(GICC_CTLR, 1),
        ]
        .concat(),
        GicVersion::V3 => [
            write_register(ICC_SRE_EL1, 7),
            write(GICR_WAKER, 0),
            // Both groups, with affinity routing.
            write(GICD_CTLR, 0x12),
            write(GICD_IGROUPR + u64::from(number), bit),
            lines,
            write(GICR_SGI + 0x80, u64::from(u32::MAX)),
            write(GICR_SGI + 0x100, 1 << VIRTUAL_TIMER),
            write_register(ICC_PMR_EL1, 0xff),
            write_register(ICC_IGRPEN1_EL1, 1),
        ]
        .concat(),
    };
    [gic, set(1, DEVICE)].concat()
}

/// Waits, takes an interrupt, says which, and ends it.
pub fn take(gic: GicVersion) -> Vec<u32> {
    match gic {
        GicVersion::V2 => {
            [set(3, GICC_IAR), set(4, GICC_EOIR), vec![WFI, at(LOADS[2], 2, 3), store(2, 1), store(2, 4)]]
                .concat()
        }
        GicVersion::V3 => {
            vec![WFI, read_system(2, ICC_IAR1_EL1), store(2, 1), write_system(ICC_EOIR1_EL1, 2)]
        }
    }
}

/// The backend and its GIC; says so where there is none.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub fn backend_with_gic() -> Option<(KvmBackend, GicVersion)> {
    let kvm = backend()?;
    let gic = kvm.capabilities().gic;
    if gic.is_none() {
        eprintln!("SKIPPED: interrupts, because this KVM has no GIC");
    }
    Some((kvm, gic?))
}

#[test]
fn lines_wake_a_guest_that_waits() {
    let Some((kvm, gic)) = backend_with_gic() else { return };
    for line in [0, LINES - 1] {
        // The first store says that all is set up. Interrupts stay masked: the guest asks which there is.
        let code = [&set_up(gic, line)[..], &[store(31, 1)], &take(gic), &[store(31, 1)]].concat();
        let mut guest = Guest::new(&kvm, IrqchipKind::Full, &code);
        assert_write(&guest.resume(), &[0; 4]);
        let vm = guest.vm.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                vm.set_irq_line(line, true).unwrap();
            });
            assert_write(&guest.resume(), &(FIRST_LINE + line).to_le_bytes());
        });
        guest.vm.set_irq_line(line, false).unwrap();
        assert_write(&guest.resume(), &[0; 4]);
    }
}

#[test]
fn the_virtual_timer_wakes_a_guest_that_waits() {
    let Some((kvm, gic)) = backend_with_gic() else { return };
    // Some milliseconds from now.
    let arm = [
        set(6, 0x10_0000),
        vec![read_system(5, CNTVCT_EL0), 0x8b06_00a5, write_system(CNTV_CVAL_EL0, 5)],
        write_register(CNTV_CTL_EL0, 1),
    ]
    .concat();
    let mut guest = Guest::new(&kvm, IrqchipKind::Full, &[set_up(gic, 0), arm, take(gic)].concat());
    assert_write(&guest.resume(), &VIRTUAL_TIMER.to_le_bytes());
}

#[test]
fn ram_where_the_gic_is_is_refused() {
    let Some((kvm, _)) = backend_with_gic() else { return };
    for (start, len, fits) in [
        (0, DISTRIBUTOR, true),
        (0, DISTRIBUTOR + 0x1000, false),
        (END - 0x1000, 0x1000, false),
        (END, 0x1000, true),
    ] {
        let vm = create_vm(&kvm, IrqchipKind::Full, start, len);
        let code = vm.err().map(|e| e.code());
        assert_eq!(code, (!fits).then_some(ErrorCode::MemoryOverlap), "{start:#x}, {len:#x}");
        create_vm(&kvm, IrqchipKind::None, start, len).unwrap();
    }
}

#[test]
fn there_are_so_many_lines_and_no_messages() {
    let Some(kvm) = backend() else { return };
    let full = Guest::new(&kvm, IrqchipKind::Full, &[SPIN]);
    assert_eq!(full.vm.set_irq_line(LINES, true).unwrap_err().code(), ErrorCode::IrqLine);
    assert_eq!(full.vm.signal_msi(0, 0).unwrap_err().code(), ErrorCode::IrqLine);
    let mut none = Guest::new(&kvm, IrqchipKind::None, &[store(31, 1)]);
    assert_eq!(none.vm.set_irq_line(0, true).unwrap_err().code(), ErrorCode::IrqLine);
    assert!(matches!(none.resume(), VmExit::Mmio { .. }));
    assert_eq!(none.vcpu.inject_interrupt(32).unwrap_err().code(), ErrorCode::Unsupported);
}

#[test]
fn there_is_no_split_irqchip() {
    let Some(kvm) = backend() else { return };
    assert!(!kvm.capabilities().irqchips.contains(&IrqchipKind::Split));
}
