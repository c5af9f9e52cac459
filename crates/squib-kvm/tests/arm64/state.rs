//! Registers, and pages that were written.

use squib_core::arm64::system_registers::*;
use squib_core::arm64::{Registers, SystemRegister, VectorRegisters};
use squib_core::{ErrorCode, IrqchipKind};

use crate::asm::*;
use crate::harness::*;

#[test]
fn general_registers_come_back() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[SPIN]);
    let registers = Registers {
        x: std::array::from_fn(|n| 0x0101_0101_0101_0101 * n as u64),
        sp_el0: 0x1000,
        sp_el1: 0x2000,
        pc: CODE,
        pstate: 0x6000_03c5,
    };
    guest.vcpu.arm64().unwrap().set_registers(&registers).unwrap();
    assert_eq!(guest.registers(), registers);
    assert!(guest.vcpu.x86().is_err());
}

#[test]
fn an_impossible_state_is_refused() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[SPIN]);
    // EL3.
    let impossible = Registers { pstate: 0x3cd, ..start() };
    let error = guest.vcpu.arm64().unwrap().set_registers(&impossible).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert_eq!(guest.registers(), start());
}

#[test]
fn vector_registers_come_back_and_reach_the_guest() {
    let Some(kvm) = backend() else { return };
    // `mov x2, #3 << 20; msr cpacr_el1, x2; isb; fmov x3, d7; str x3, [x1]`.
    let code = [0xd2a0_0602, 0xd518_1042, ISB, 0x9e66_00e3, at(STORES[3], 3, 1)];
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &code);
    let registers = VectorRegisters {
        v: std::array::from_fn(|n| 0x8877_6655_4433_2211_0000_0000_0000_0000 + n as u128),
        fpsr: 0x0800_0000,
        fpcr: 0x0100_0000,
    };
    let arm64 = guest.vcpu.arm64().unwrap();
    arm64.set_vector_registers(&registers).unwrap();
    assert_eq!(arm64.vector_registers().unwrap(), registers);
    assert_write(&guest.resume(), &7_u64.to_le_bytes());
}

#[test]
fn system_registers_are_listed_and_come_back() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[read_system(2, VBAR_EL1), at(STORES[3], 2, 1)]);
    let arm64 = guest.vcpu.arm64().unwrap();
    let list = arm64.system_register_list().unwrap();
    let some =
        [SCTLR_EL1, TTBR0_EL1, ELR_EL1, SPSR_EL1, ESR_EL1, FAR_EL1, VBAR_EL1, CNTV_CVAL_EL0, MPIDR_EL1];
    for register in some {
        assert!(list.binary_search(&register).is_ok(), "{register:?}");
    }
    for register in &list {
        arm64.system_register(*register).unwrap();
    }
    for (register, value) in
        [(VBAR_EL1, 0x4000_0800), (ELR_EL1, 0x1234), (TTBR0_EL1, 0x4001_0000), (CNTV_CVAL_EL0, 77)]
    {
        arm64.set_system_register(register, value).unwrap();
        assert_eq!(arm64.system_register(register).unwrap(), value, "{register:?}");
    }
    let none = SystemRegister::new(3, 7, 15, 15, 7);
    assert_eq!(arm64.system_register(none).unwrap_err().code(), ErrorCode::Register);
    assert_eq!(arm64.set_system_register(none, 0).unwrap_err().code(), ErrorCode::Register);
    assert_write(&guest.resume(), &0x4000_0800_u64.to_le_bytes());
}

#[test]
fn pages_that_were_written_are_told() {
    let Some(kvm) = backend() else { return };
    let code = [set(3, CODE + 0x5000), vec![store(2, 3), store(2, 1)]].concat();
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &code);
    guest.vm.set_dirty_log(true).unwrap();
    guest.resume();
    guest.memory.write(CODE + 0x7000, &[1]).unwrap();
    assert_eq!(guest.vm.take_dirty_pages().unwrap(), [CODE + 0x5000, CODE + 0x7000]);
    assert_eq!(guest.vm.take_dirty_pages().unwrap(), []);
}
