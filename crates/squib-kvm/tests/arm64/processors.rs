//! More than one vCPU: started by PSCI, or by the caller.

use std::time::Duration;

use squib_core::arm64::PowerState;
use squib_core::arm64::system_registers::MPIDR_EL1;
use squib_core::{ErrorCode, HypervisorBackend, IrqchipKind, VmExit};

use crate::asm::*;
use crate::harness::*;

/// PSCI's `CPU_ON` for 64 bits (DEN 0022, 5.1.4).
const CPU_ON: u64 = 0xc400_0003;
/// Where the second processor starts.
const SECOND: u64 = CODE + 0x1000;

#[test]
fn psci_starts_the_second() {
    let Some(kvm) = backend() else { return };
    // Which processor, where, and what it finds in X0.
    let code = [set(0, CPU_ON), set(1, 1), set(2, SECOND), set(3, DEVICE), vec![HVC]].concat();
    let mut guest =
        Guest::new(&kvm, IrqchipKind::Full, &[&code[..], &set(1, DEVICE), &[store(0, 1)]].concat());
    put(&guest.memory, SECOND, &[set(2, 0x5ec), vec![store(2, 0), SPIN]].concat());
    let mut second = guest.vm.create_vcpu(1).unwrap();
    let arm64 = second.arm64().unwrap();
    assert_eq!(arm64.power_state().unwrap(), PowerState::Off);
    assert_eq!(arm64.system_register(MPIDR_EL1).unwrap() & 0xff, 1);
    std::thread::scope(|scope| {
        // It waits in the kernel to be started.
        let started = scope.spawn(|| second.run(squib_core::VmEntry::Resume).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        assert_write(&guest.resume(), &[0; 4]);
        assert_write(&started.join().unwrap(), &0x5ec_u32.to_le_bytes());
    });
    assert_eq!(second.arm64().unwrap().power_state().unwrap(), PowerState::On);
}

#[test]
fn one_that_is_off_is_cancelled_and_can_be_started() {
    let Some(kvm) = backend() else { return };
    let guest = Guest::new(&kvm, IrqchipKind::None, &[store(0, 1), SPIN]);
    let mut second = guest.vm.create_vcpu(1).unwrap();
    second.cancel_handle().cancel();
    assert!(matches!(second.run(squib_core::VmEntry::Resume).unwrap(), VmExit::Cancelled));
    let arm64 = second.arm64().unwrap();
    arm64.set_registers(&start()).unwrap();
    arm64.set_power_state(PowerState::On).unwrap();
    assert_write(&second.run(squib_core::VmEntry::Resume).unwrap(), &[0; 4]);
}

#[test]
fn numbers_are_used_once_and_in_time() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::Full, &[store(0, 1)]);
    let refused = |id| guest.vm.create_vcpu(id).err().map(|e| e.code());
    assert_eq!(refused(0), Some(ErrorCode::VcpuCount));
    assert_eq!(refused(kvm.capabilities().max_vcpus), Some(ErrorCode::VcpuCount));
    assert_eq!(refused(1), None);
    guest.resume();
    assert_eq!(guest.vm.create_vcpu(2).err().map(|e| e.code()), Some(ErrorCode::VcpuCount));
}
