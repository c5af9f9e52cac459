//! Every bit pattern that each class of exception allows, put together from its fields.

use super::*;
use crate::registers::tests::Bank;

use squib_core::{ErrorCode, VmEntry};

const ADDRESS: u64 = 0x0900_0018;

fn decoded(class: u64, il: u64, iss: u64, bank: &mut Bank) -> Decoded {
    let syndrome = class << 26 | il << 25 | iss;
    decode(NativeExit::Exception { syndrome, physical_address: ADDRESS }, bank).unwrap()
}

fn exit(class: u64, il: u64, iss: u64, bank: &mut Bank) -> (VmExit, Pending) {
    match decoded(class, il, iss, bank) {
        Decoded::Exit(exit, pending) => (exit, pending),
        Decoded::Resume => panic!("class {class:#x}, ISS {iss:#x} makes no exit"),
    }
}

/// What register `n` holds in a new bank.
fn x_of(n: u64) -> u64 {
    if n == 31 { 0 } else { 0x8877_6655_4433_2200 + n }
}

/// Valid accesses: every size, extension, register, width, direction and fault status, and all the bits between that
/// say nothing here (AR, VNCR, SET, FnV, EA). The two above WnR are never set with a valid access: they are of a cache's maintenance and
/// of a walk through tables (Arm ARM, D24.2.40).
#[test]
fn every_valid_data_abort() {
    let mut bank = Bank::new();
    let mut seen = 0_u64;
    for sas in 0..4_u64 {
        let width = 1 << sas;
        for sse in 0..2_u64 {
            for srt in 0..32_u64 {
                for sf in 0..2_u64 {
                    // AR, VNCR, SET, FnV, EA: bits 14:9.
                    for silent in 0..64_u64 {
                        for wnr in 0..2_u64 {
                            for dfsc in 0..64_u64 {
                                let iss = 1 << 24
                                    | sas << 22
                                    | sse << 21
                                    | srt << 16
                                    | sf << 15
                                    | silent << 9
                                    | wnr << 6
                                    | dfsc;
                                let (exit, pending) = exit(0x24, 1, iss, &mut bank);
                                seen += 1;
                                // Translation, access flag and permission faults, levels 0 to 3.
                                if !(4..16).contains(&dfsc) {
                                    let VmExit::MemoryFault { addr: ADDRESS, size: 0, flags } = exit else {
                                        panic!("{exit:?} of {iss:#x}");
                                    };
                                    assert_eq!((flags & 0x1ff_ffff, pending), (iss, Pending::Nothing));
                                    continue;
                                }
                                let VmExit::Mmio { addr: ADDRESS, write, data } = exit else {
                                    panic!("{exit:?} of {iss:#x}");
                                };
                                assert_eq!((write, data.len()), (wnr == 1, width));
                                if write {
                                    assert_eq!(data[..], x_of(srt).to_le_bytes()[..width], "{iss:#x}");
                                    assert_eq!(pending, Pending::MemoryWrite { len: 4 });
                                } else {
                                    assert_eq!(data[..], [0; 8][..width]);
                                    let (register, signed, wide) = (srt as u8, sse == 1, sf == 1);
                                    let expected =
                                        Pending::MemoryRead { register, width, signed, wide, len: 4 };
                                    assert_eq!(pending, expected);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(seen, 1 << 22);
    assert_eq!(bank, Bank::new(), "decoding an access changes nothing");
}

#[test]
fn loads_are_extended_as_their_instruction_says() {
    // LDRB, LDRSB (W, X), LDRH, LDRSH (W, X), LDR W, LDRSW, LDR X of a value with its sign bit set.
    for (sas, sse, sf, expected) in [
        (0, 0, 0, 0x80),
        (0, 1, 0, 0xffff_ff80),
        (0, 1, 1, 0xffff_ffff_ffff_ff80),
        (1, 0, 0, 0x9080),
        (1, 1, 0, 0xffff_9080),
        (1, 1, 1, 0xffff_ffff_ffff_9080),
        (2, 0, 0, 0xb0a0_9080),
        (2, 1, 1, 0xffff_ffff_b0a0_9080),
        (3, 0, 1, 0xf0e0_d0c0_b0a0_9080_u64),
    ] {
        let bytes = 0xf0e0_d0c0_b0a0_9080_u64.to_le_bytes();
        for il in 0..2 {
            for register in 0..32 {
                let mut bank = Bank::new();
                let iss = 1 << 24 | sas << 22 | sse << 21 | register << 16 | sf << 15 | 0b0101;
                let (_, pending) = exit(0x24, il, iss, &mut bank);
                let answer = |len: usize| VmEntry::Read(ExitData::from_slice(&bytes[..len]));
                for wrong in [answer(3), VmEntry::Msr(0), VmEntry::Hypercall(0), VmEntry::MsrFault] {
                    assert_eq!(pending.answer(&wrong, &mut bank).unwrap_err().code(), ErrorCode::BadEntry);
                }
                assert_eq!(bank, Bank::new(), "a wrong answer changes nothing");
                let mut floating = bank.clone();
                pending.answer(&VmEntry::Resume, &mut floating).unwrap();
                pending.answer(&answer(1 << sas), &mut bank).unwrap();
                assert_eq!(bank.pc, 0x1000 + 2 + 2 * il);
                assert_eq!(floating.pc, bank.pc);
                let mut expected_x = Bank::new().x;
                let ones = if sf == 1 { u64::MAX } else { 0xffff_ffff };
                let mut floating_x = expected_x;
                if register < 31 {
                    expected_x[register as usize] = expected;
                    floating_x[register as usize] = ones;
                }
                assert_eq!((bank.x, floating.x), (expected_x, floating_x));
            }
        }
    }
}

/// Aborts without a valid syndrome: all 24 bits below ISV.
#[test]
fn every_data_abort_without_a_syndrome() {
    let mut bank = Bank::new();
    let mut skipped = 0;
    for iss in 0..1_u64 << 24 {
        let (maintenance, walk) = (iss >> 8 & 1 == 1, iss >> 7 & 1 == 1);
        let unmapped = (4..16).contains(&(iss & 63)) && !walk;
        match decoded(0x24, 1, iss, &mut bank) {
            Decoded::Resume => {
                assert!(maintenance && unmapped, "{iss:#x}");
                skipped += 4;
                assert_eq!(bank.pc, 0x1000 + skipped);
            }
            Decoded::Exit(VmExit::MemoryFault { addr: ADDRESS, size: 0, flags }, Pending::Nothing) => {
                assert!(!(maintenance && unmapped), "{iss:#x}");
                assert_eq!(flags, 0x24 << 26 | 1 << 25 | iss);
            }
            Decoded::Exit(other, _) => panic!("{other:?} of {iss:#x}"),
        }
    }
    assert_eq!(skipped, (1 << 15) * 2 * 12 * 4);
}

/// A walk of the guest's page tables that ends nowhere is no access of the instruction, however valid the syndrome.
#[test]
fn table_walks_are_faults() {
    for iss in (0..1_u64 << 24).step_by(1 << 7).map(|iss| iss | 1 << 24 | 1 << 7 | 5) {
        let (exit, _) = exit(0x24, 1, iss, &mut Bank::new());
        assert!(matches!(exit, VmExit::MemoryFault { .. }), "{exit:?} of {iss:#x}");
    }
}

#[test]
fn every_system_register() {
    let mut bank = Bank::new();
    for encoding in 0..1_u64 << 16 {
        let [op0, op1, crn, crm, op2] =
            [encoding >> 14, encoding >> 11 & 7, encoding >> 7 & 15, encoding >> 3 & 15, encoding & 7];
        for rt in 0..32 {
            let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1;
            let (write, pending) = exit(0x18, 1, iss, &mut bank);
            let VmExit::MsrWrite { index, value, reason: MsrReason::Unknown } = write else {
                panic!("{write:?}")
            };
            assert_eq!((u64::from(index), value), (encoding, x_of(rt)));
            assert_eq!(pending, Pending::SystemWrite { len: 4 });
            let (read, pending) = exit(0x18, 1, iss | 1, &mut bank);
            let VmExit::MsrRead { index, reason: MsrReason::Unknown } = read else { panic!("{read:?}") };
            assert_eq!(u64::from(index), encoding);
            assert_eq!(pending, Pending::SystemRead { register: rt as u8, len: 4 });
        }
    }
    assert_eq!(bank, Bank::new());
}

#[test]
fn system_registers_are_answered_or_undefined() {
    for register in 0..32 {
        let pending = Pending::SystemRead { register, len: 4 };
        let mut bank = Bank::new();
        pending.answer(&VmEntry::Msr(7), &mut bank).unwrap();
        assert_eq!(bank.pc, 0x1004);
        assert!(bank.x.get(usize::from(register)).is_none_or(|x| *x == 7));
        for refusal in [VmEntry::MsrFault, VmEntry::Resume] {
            let mut bank = Bank::new();
            pending.answer(&refusal, &mut bank).unwrap();
            assert_eq!((bank.pc, bank.elr, bank.x), (0x8_0200, 0x1000, Bank::new().x));
        }
    }
    let write = Pending::SystemWrite { len: 4 };
    let mut bank = Bank::new();
    write.answer(&VmEntry::Resume, &mut bank).unwrap();
    assert_eq!(bank.pc, 0x1004);
    write.answer(&VmEntry::MsrFault, &mut bank).unwrap();
    assert_eq!((bank.pc, bank.elr), (0x8_0200, 0x1004));
    assert_eq!(write.answer(&VmEntry::Msr(1), &mut bank).unwrap_err().code(), ErrorCode::BadEntry);
}

/// All immediates. HVC is over when it traps; SMC is not.
#[test]
fn every_hvc_and_smc() {
    for (class, pc) in [(0x16, 0x1000), (0x17, 0x1004)] {
        for immediate in 0..1_u64 << 16 {
            let mut bank = Bank::new();
            let (exit, pending) = exit(class, 1, immediate, &mut bank);
            let VmExit::Hypercall { func, args } = exit else { panic!("{exit:?}") };
            assert_eq!((func, args), (x_of(0), [1, 2, 3, 4, 5, 6].map(x_of)));
            assert_eq!(bank.pc, pc);
            pending.answer(&VmEntry::Hypercall(0x55), &mut bank).unwrap();
            assert_eq!((bank.x[0], bank.x[1], bank.pc), (0x55, x_of(1), pc));
            pending.answer(&VmEntry::Resume, &mut bank).unwrap();
            assert_eq!(bank.x[0] as i64, -1, "not supported");
            let wrong = pending.answer(&VmEntry::Msr(1), &mut bank);
            assert_eq!(wrong.unwrap_err().code(), ErrorCode::BadEntry);
        }
    }
}

/// WFI, WFE, WFIT, WFET with every condition, register and validity bit: all 25 bits.
#[test]
fn every_wait() {
    for il in 0..2 {
        for iss in 0..1_u64 << 25 {
            let mut bank = Bank { x: [0; 31], ..Bank::new() };
            let (exit, pending) = exit(0x01, il, iss, &mut bank);
            assert!(matches!((iss & 1, &exit), (0, VmExit::Wfi) | (1, VmExit::Wfe)), "{exit:?} of {iss:#x}");
            assert_eq!((bank.pc, pending), (0x1002 + 2 * il, Pending::Nothing));
        }
    }
}

#[test]
fn every_debug_exception() {
    for class in [0x30, 0x32, 0x34, 0x3c] {
        for iss in 0..1_u64 << 16 {
            let (exit, pending) = exit(class, 1, iss, &mut Bank::new());
            let VmExit::Debug(info) = exit else { panic!("{exit:?}") };
            assert_eq!((info.pc, info.syndrome), (0x1000, class << 26 | 1 << 25 | iss));
            assert_eq!(pending, Pending::Nothing);
        }
    }
}

#[test]
fn every_instruction_abort() {
    for iss in 0..1_u64 << 13 {
        let (exit, _) = exit(0x20, 1, iss, &mut Bank::new());
        assert!(matches!(exit, VmExit::MemoryFault { addr: ADDRESS, size: 0, .. }), "{exit:?}");
    }
}

#[test]
fn every_other_class_says_its_number() {
    const KNOWN: [u64; 10] = [0x01, 0x16, 0x17, 0x18, 0x20, 0x24, 0x30, 0x32, 0x34, 0x3c];
    for class in (0..64).filter(|class| !KNOWN.contains(class)) {
        for iss in [0, 0x155_5555, 0x1ff_ffff] {
            let (exit, pending) = exit(class, 1, iss, &mut Bank::new());
            let VmExit::Unsupported { what, rip: 0x1000 } = exit else { panic!("{exit:?}") };
            assert!(what.contains(&format!("class {class:#04x}")), "{what}");
            assert_eq!(pending, Pending::Nothing);
            assert_eq!(
                pending.answer(&VmEntry::Msr(0), &mut Bank::new()).unwrap_err().code(),
                ErrorCode::BadEntry
            );
            pending.answer(&VmEntry::Complete(None), &mut Bank::new()).unwrap();
        }
    }
}

#[test]
fn what_is_no_exception() {
    let plain = |native| match decode(native, &mut Bank::new()).unwrap() {
        Decoded::Exit(exit, Pending::Nothing) => exit,
        other => panic!("{other:?}"),
    };
    assert!(matches!(plain(NativeExit::Cancelled), VmExit::Cancelled));
    let timer = plain(NativeExit::VirtualTimer);
    assert!(matches!(timer, VmExit::SystemEvent { kind: SystemEventKind::Other(27), .. }), "{timer:?}");
    assert!(matches!(plain(NativeExit::Unknown(9)), VmExit::Unknown { reason: 9 }));
}
