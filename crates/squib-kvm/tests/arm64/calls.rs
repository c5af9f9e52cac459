//! `HVC` and `SMC`: calls that KVM answers, that it passes on, and that end the machine.

use squib_core::{ExitKind, HypervisorBackend, IrqchipKind, SystemEventKind, VmEntry, VmExit};

use crate::asm::*;
use crate::harness::*;

/// Functions of PSCI (DEN 0022, 5.1).
const PSCI_VERSION: u64 = 0x8400_0000;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;

/// A fast call of the 64-bit convention to a vendor's hypervisor, an OEM's of the 32-bit one, and a yielding one.
const CALLS: [u64; 3] = [0xc600_1234, 0x8300_0001, 0x3200_0000];

fn calls(function: u64, instruction: u32) -> Vec<u32> {
    let mut code = set(0, function);
    code.extend((1..7).flat_map(|n| set(n, 0x1111_2222_3333_0000 + u64::from(n))));
    code.push(instruction);
    code.extend(set(1, DEVICE));
    code.extend([at(STORES[3], 0, 1), SPIN]);
    code
}

#[test]
fn calls_that_kvm_does_not_know_come_here() {
    let Some(kvm) = backend() else { return };
    if !kvm.capabilities().exits.contains(ExitKind::Hypercall) {
        return;
    }
    for (function, instruction) in CALLS.iter().flat_map(|f| [(*f, HVC), (*f, SMC)]) {
        let mut guest = Guest::new(&kvm, IrqchipKind::None, &calls(function, instruction));
        let VmExit::Hypercall { func, args } = guest.resume() else { panic!("no call") };
        assert_eq!(func, function);
        assert_eq!(args, std::array::from_fn(|n| 0x1111_2222_3333_0001 + n as u64));
        guest.refuses(answer(&[0; 8]));
        guest.refuses(VmEntry::Msr(0));
        let result = 0x8877_6655_4433_2211_u64;
        assert_write(&guest.run(VmEntry::Hypercall(result)), &result.to_le_bytes());

        // "Not supported", by whatever way no answer is given.
        for entry in [VmEntry::Resume, VmEntry::Complete(None)] {
            let mut guest = Guest::new(&kvm, IrqchipKind::None, &calls(function, instruction));
            assert!(matches!(guest.resume(), VmExit::Hypercall { .. }));
            let mut exit = guest.run(entry);
            if matches!(exit, VmExit::Completed) {
                exit = guest.resume();
            }
            assert_write(&exit, &[0xff; 8]);
        }
    }
}

#[test]
fn kvm_answers_psci() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &calls(PSCI_VERSION, HVC));
    let VmExit::Mmio { data, .. } = guest.resume() else { panic!("no result") };
    let version = u32::from_le_bytes(data[..4].try_into().unwrap());
    assert!(version >= 0x1_0000, "PSCI {version:#x}");
}

#[test]
fn off_and_reset_end_the_machine() {
    let Some(kvm) = backend() else { return };
    for (function, expected) in
        [(SYSTEM_OFF, SystemEventKind::Shutdown), (SYSTEM_RESET, SystemEventKind::Reset)]
    {
        let mut guest = Guest::new(&kvm, IrqchipKind::None, &calls(function, HVC));
        let exit = guest.resume();
        assert!(matches!(exit, VmExit::SystemEvent { kind, .. } if kind == expected), "{exit:?}");
    }
}
