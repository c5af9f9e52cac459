//! Stops for a debugger: steps, breakpoints by address, breakpoint instructions.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use iced_x86::code_asm::*;
use squib_core::{DebugStops, ExitKind, HypervisorBackend, VmExit};

#[path = "kvm/harness.rs"]
mod harness;
use harness::*;

/// The exception vectors in a syndrome's high half.
const DEBUG: u64 = 1 << 32;
const BREAKPOINT: u64 = 3 << 32;

/// Three instructions of a byte, at the start of the code, and then a halt.
fn guest() -> Option<Guest> {
    let kvm = backend()?;
    assert!(kvm.capabilities().exits.contains(ExitKind::Debug));
    Some(Guest::long(&kvm, |a| {
        a.nop()?;
        a.int3()?;
        a.nop()?;
        a.hlt()
    }))
}

fn stop(guest: &mut Guest, stops: DebugStops) -> (u64, u64) {
    guest.vcpu.set_debug_stops(&stops).unwrap();
    match guest.resume() {
        VmExit::Debug(info) => (info.pc - CODE, info.syndrome >> 32 << 32),
        other => panic!("expected a debug exit, got {other:?}"),
    }
}

#[test]
fn a_step_is_one_instruction() {
    let Some(mut guest) = guest() else { return };
    let step = DebugStops { step: true, ..DebugStops::default() };
    assert_eq!(stop(&mut guest, step), (1, DEBUG));
    guest.change_registers(|r| r.rip += 1);
    assert_eq!(stop(&mut guest, step), (3, DEBUG));
    guest.vcpu.set_debug_stops(&DebugStops::default()).unwrap();
    assert_hlt(&guest.resume());
}

#[test]
fn a_breakpoint_stops_before_its_instruction() {
    let Some(mut guest) = guest() else { return };
    guest.change_registers(|r| r.rip += 2);
    for n in 0..4 {
        let mut stops = DebugStops::default();
        stops.breakpoints[n] = Some(CODE + 3);
        assert_eq!(stop(&mut guest, stops), (3, DEBUG), "register {n}");
        guest.change_registers(|r| r.rip -= 1);
    }
    guest.vcpu.set_debug_stops(&DebugStops::default()).unwrap();
    assert_hlt(&guest.resume());
}

#[test]
fn a_breakpoint_instruction_is_the_guests_or_the_debuggers() {
    let Some(mut guest) = guest() else { return };
    guest.handler(3, |a| {
        a.mov(ebx, 3)?;
        a.hlt()
    });
    match guest.resume() {
        VmExit::Hlt => assert_eq!(guest.registers().rbx, 3),
        VmExit::InternalError(_) => return skip("INT3", "this KVM emulates ring 0, without INT3"),
        other => panic!("expected Hlt, got {other:?}"),
    }
    if std::env::var_os("IN_KVM_RIG").is_some() {
        return skip("INT3 for a debugger", "the emulator under this KVM does not intercept it");
    }
    guest.change_registers(|r| r.rip = CODE);
    guest.vcpu.set_debug_stops(&DebugStops { instructions: true, ..DebugStops::default() }).unwrap();
    let exit = guest.resume();
    let VmExit::Debug(info) = exit else { panic!("expected a debug exit, got {exit:?}") };
    assert_eq!((info.pc, info.syndrome >> 32 << 32), (CODE + 1, BREAKPOINT));
}
