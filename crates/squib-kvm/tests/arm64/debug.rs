//! Stops for a debugger.

use squib_core::{DebugStops, IrqchipKind, VmExit};

use crate::asm::*;
use crate::harness::*;

/// Exception classes of syndromes (Arm ARM, D24.2.40).
const BREAKPOINT: u64 = 0x30;
const STEP: u64 = 0x32;
const BRK64: u64 = 0x3c;

fn assert_debug(exit: &VmExit, instruction: u64, class: u64) {
    let VmExit::Debug(info) = exit else { panic!("{exit:?}") };
    assert_eq!(((info.pc - CODE) / 4, info.syndrome >> 26), (instruction, class));
}

#[test]
fn steps() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[increment(2), increment(2), store(2, 1)]);
    guest.vcpu.set_debug_stops(&DebugStops { step: true, ..DebugStops::default() }).unwrap();
    for instruction in 1..=2 {
        assert_debug(&guest.resume(), instruction, STEP);
        assert_eq!(guest.registers().x[2], instruction);
    }
    guest.vcpu.set_debug_stops(&DebugStops::default()).unwrap();
    assert_write(&guest.resume(), &[2, 0, 0, 0]);
}

#[test]
fn breakpoints() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[NOP, NOP, NOP, NOP, store(2, 1)]);
    let mut stops = DebugStops::default();
    stops.breakpoints[0] = Some(CODE + 4);
    stops.breakpoints[3] = Some(CODE + 12);
    guest.vcpu.set_debug_stops(&stops).unwrap();
    assert_debug(&guest.resume(), 1, BREAKPOINT);
    assert_debug(&guest.resume(), 1, BREAKPOINT);
    stops.breakpoints[0] = None;
    guest.vcpu.set_debug_stops(&stops).unwrap();
    assert_debug(&guest.resume(), 3, BREAKPOINT);
    guest.vcpu.set_debug_stops(&DebugStops::default()).unwrap();
    assert_write(&guest.resume(), &[0; 4]);
}

#[test]
fn breakpoint_instructions() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[NOP, BRK]);
    guest.vcpu.set_debug_stops(&DebugStops { instructions: true, ..DebugStops::default() }).unwrap();
    assert_debug(&guest.resume(), 1, BRK64);
}
