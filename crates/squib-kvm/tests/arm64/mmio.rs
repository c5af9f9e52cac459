//! Accesses where there is no memory.

use squib_core::arm64::SystemRegister;
use squib_core::{ExitData, IrqchipKind, VmEntry, VmExit};

use crate::asm::*;
use crate::harness::*;

/// Whose processor it is (Arm ARM, D24.2.122); nobody's where the implementer, the top byte, is 0.
const MIDR_EL1: SystemRegister = SystemRegister::new(3, 0, 0, 0, 0);

#[test]
fn stores_of_every_width() {
    let Some(kvm) = backend() else { return };
    let value = 0x1122_3344_5566_7788_u64;
    let mut code = set(2, value);
    code.extend(STORES.map(|opcode| at(opcode, 2, 1)));
    // The zero register.
    code.push(at(STORES[3], 31, 1));
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &code);
    for len in [1, 2, 4, 8] {
        assert_write(&guest.resume(), &value.to_le_bytes()[..len]);
    }
    guest.refuses(answer(&[0; 8]));
    assert_write(&guest.resume(), &[0; 8]);
}

#[test]
fn loads_of_every_width() {
    let Some(kvm) = backend() else { return };
    let mut code = set(2, u64::MAX);
    for opcode in LOADS {
        code.extend([at(opcode, 2, 1), at(STORES[3], 2, 1)]);
    }
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &code);
    for len in [1, 2, 4, 8] {
        assert_read(&guest.resume(), len);
        guest.refuses(answer(&[0; 8][..len - 1]));
        guest.refuses(VmEntry::Hypercall(0));
        let bytes = &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x91][..len];
        let mut register = [0; 8];
        register[..len].copy_from_slice(bytes);
        assert_write(&guest.run(answer(bytes)), &register);
    }
}

/// KVM extends the sign by what the syndrome says, in which QEMU's emulated processor leaves that out.
#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn loads_that_extend_the_sign() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[SPIN]);
    let processor = guest.vcpu.arm64().unwrap().system_register(MIDR_EL1).unwrap();
    if processor >> 24 & 0xff == 0 {
        eprintln!(
            "SKIPPED: sign extension, because this processor is an emulated one (MIDR_EL1 {processor:#x})"
        );
        return;
    }
    for (opcode, len, wide) in SIGNED_LOADS {
        let mut guest = Guest::new(&kvm, IrqchipKind::None, &[at(opcode, 2, 1), at(STORES[3], 2, 1)]);
        assert_read(&guest.resume(), len);
        let mut register = [0xff; 8];
        register[..len].copy_from_slice(&[0x80; 4][..len]);
        if !wide {
            register[4..].fill(0);
        }
        assert_write(&guest.run(answer(&[0x80; 4][..len])), &register);
    }
}

#[test]
fn nobody_answers() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[at(LOADS[1], 2, 1), at(STORES[3], 2, 1)]);
    assert_read(&guest.resume(), 2);
    assert_write(&guest.resume(), &[0xff, 0xff, 0, 0, 0, 0, 0, 0]);
}

/// Between an exit and its answer half an instruction is outside of the registers, and `Complete` brings it back.
#[test]
fn completion_runs_nothing_further() {
    let Some(kvm) = backend() else { return };
    let mut guest =
        Guest::new(&kvm, IrqchipKind::None, &[at(LOADS[2], 2, 1), increment(2), store(2, 1), SPIN]);
    assert_read(&guest.resume(), 4);
    assert_eq!(guest.at(), 0);
    let complete = VmEntry::Complete(Some(ExitData::from_slice(&[7, 0, 0, 0])));
    assert!(matches!(guest.run(complete), VmExit::Completed));
    assert_eq!((guest.at(), guest.registers().x[2]), (1, 7));
    assert_write(&guest.resume(), &[8, 0, 0, 0]);
    assert!(matches!(guest.run(VmEntry::Complete(None)), VmExit::Completed));
    assert_eq!(guest.at(), 3);
}

/// KVM decodes no instructions: what the syndrome does not describe is the caller's, with what there is of a syndrome.
#[test]
fn accesses_without_a_valid_syndrome() {
    let Some(kvm) = backend() else { return };
    for (instruction, write) in [(STORE_PAIR, true), (LOAD_AND_ADD, false)] {
        let mut guest = Guest::new(&kvm, IrqchipKind::None, &[instruction, store(1, 1)]);
        for _ in 0..2 {
            let VmExit::MemoryFault { addr: DEVICE, size: 0, flags } = guest.resume() else {
                panic!("no fault")
            };
            // A data abort by an instruction of 32 bits, without a valid syndrome, a translation fault.
            assert_eq!(flags & !0x43, 0x9200_0004, "{flags:#x}");
            assert_eq!(flags & 0x40 != 0, write);
            assert_eq!(guest.at(), 0);
        }
        // Who can emulate it, goes on behind it.
        let mut registers = guest.registers();
        registers.pc += 4;
        guest.vcpu.arm64().unwrap().set_registers(&registers).unwrap();
        assert_write(&guest.resume(), &(DEVICE as u32).to_le_bytes());
    }
}
