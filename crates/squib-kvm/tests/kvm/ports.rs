//! Port accesses: widths, strings, answers, completion.

use iced_x86::code_asm::*;
use squib_core::{ErrorCode, ExitData, VmEntry, VmExit};

use crate::harness::*;

fn widths(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dx, PORT)?;
    a.mov(eax, 0x4433_2211)?;
    a.out(dx, al)?;
    a.out(dx, ax)?;
    a.out(dx, eax)?;
    a.in_(al, dx)?;
    a.in_(ax, dx)?;
    a.in_(eax, dx)?;
    a.hlt()
}

/// Writes of 1, 2 and 4 bytes, then reads, each of which changes its part of RAX only.
fn check_widths(mut guest: Guest) {
    assert_out(&guest.resume(), &[0x11]);
    assert_out(&guest.resume(), &[0x11, 0x22]);
    assert_out(&guest.resume(), &[0x11, 0x22, 0x33, 0x44]);
    assert_in(&guest.resume(), 1);
    assert_in(&guest.run(answer(&[0xa1])), 2);
    assert_eq!(guest.registers().rax as u32, 0x4433_22a1);
    assert_in(&guest.run(answer(&[0xb1, 0xb2])), 4);
    assert_eq!(guest.registers().rax as u32, 0x4433_b2b1);
    assert_hlt(&guest.run(answer(&[0xc1, 0xc2, 0xc3, 0xc4])));
    assert_eq!(guest.registers().rax as u32, 0xc4c3_c2c1);
}

#[test]
fn widths_in_real_mode() {
    let Some(kvm) = backend() else { return };
    check_widths(Guest::real(&kvm, widths));
}

#[test]
fn widths_in_long_mode() {
    let Some(kvm) = backend() else { return };
    check_widths(Guest::long(&kvm, widths));
}

#[test]
fn ring_3_reaches_ports_with_the_privilege_to() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.mov(dx, PORT)?;
        a.mov(eax, 0x4433_2211)?;
        a.out(dx, eax)?;
        a.in_(al, dx)?;
        a.ud2()
    });
    guest.handler(6, CodeAssembler::hlt);
    guest.handler(13, CodeAssembler::hlt);
    guest.enter_ring3();
    let exit = guest.resume();
    if matches!(exit, VmExit::Hlt) {
        assert_eq!(guest.registers().rip, handler_of(13) + 1);
        return skip("ports in ring 3", "this KVM raises #GP for them whatever IOPL says");
    }
    assert_out(&exit, &[0x11, 0x22, 0x33, 0x44]);
    assert_in(&guest.resume(), 1);
    assert_hlt(&guest.run(answer(&[0x5a])));
    assert_eq!(guest.registers().rip, handler_of(6) + 1);
    assert_eq!(guest.registers().rax as u32, 0x4433_225a);
}

/// Ring 3 calls ring 0, which writes the port and returns.
#[test]
fn ring_3_reaches_ports_through_a_system_call() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.mov(eax, 0x11)?;
        a.syscall()?;
        a.mov(eax, 0x22)?;
        a.syscall()?;
        a.ud2()
    });
    guest.handler(6, CodeAssembler::hlt);
    guest.handler(13, CodeAssembler::hlt);
    guest.system_call(|a| {
        a.mov(dx, PORT)?;
        a.out(dx, al)?;
        a.sysretq()
    });
    guest.enter_ring3();
    let exit = guest.resume();
    if matches!(exit, VmExit::Hlt) {
        assert_eq!(guest.registers().rip, handler_of(13) + 1);
        return skip("system calls", "this KVM runs what SYSCALL calls without privilege");
    }
    assert_out(&exit, &[0x11]);
    assert_eq!(guest.code_selector(), CODE_SELECTOR);
    assert_out(&guest.resume(), &[0x22]);
    assert_hlt(&guest.resume());
    assert_eq!(guest.registers().rip, handler_of(6) + 1);
}

/// The same through an exception, with IRETQ back to ring 3.
#[test]
fn ring_3_reaches_ports_through_an_exception() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(eax)?;
        a.ud2()?;
        a.jmp(again)
    });
    guest.handler(6, |a| {
        a.mov(dx, PORT)?;
        a.out(dx, al)?;
        a.add(qword_ptr(rsp), 2)?;
        a.mov(rbx, qword_ptr(rsp + 8))?;
        a.iretq()
    });
    guest.enter_ring3();
    for n in 1..4 {
        assert_out(&guest.resume(), &[n]);
        assert_eq!(guest.code_selector(), CODE_SELECTOR);
        if n > 1 {
            assert_eq!(guest.registers().rbx, USER_CODE_SELECTOR.into(), "the exception came from ring 3");
        }
    }
}

#[test]
fn an_unanswered_read_gives_all_ones() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::real(&kvm, widths);
    for _ in 0..3 {
        guest.resume();
    }
    assert_in(&guest.resume(), 1);
    assert_in(&guest.resume(), 2);
    assert_eq!(guest.registers().rax as u32, 0x4433_22ff);
    assert_in(&guest.resume(), 4);
    assert_eq!(guest.registers().rax as u32, 0x4433_ffff);
    assert_hlt(&guest.resume());
    assert_eq!(guest.registers().rax as u32, u32::MAX);
}

/// `REP OUTS` and `REP INS` of `size` bytes: an exit for each element, in order.
fn check_strings(kvm: &squib_kvm::KvmBackend, size: usize) {
    const COUNT: usize = 5;
    let mut guest = Guest::long(kvm, |a| {
        a.cld()?;
        a.mov(dx, PORT)?;
        a.mov(rsi, DATA)?;
        a.mov(rdi, DATA + 0x100)?;
        a.mov(ecx, COUNT as u32)?;
        match size {
            1 => a.rep().outsb()?,
            2 => a.rep().outsw()?,
            _ => a.rep().outsd()?,
        }
        a.mov(ecx, COUNT as u32)?;
        match size {
            1 => a.rep().insb()?,
            2 => a.rep().insw()?,
            _ => a.rep().insd()?,
        }
        a.hlt()
    });
    let text: Vec<u8> = (1..).take(size * COUNT).collect();
    guest.vm.memory().write(DATA, &text).unwrap();
    for element in text.chunks(size) {
        assert_out(&guest.resume(), element);
    }
    let mut exit = guest.resume();
    for element in text.chunks(size) {
        assert_in(&exit, size);
        let reversed: Vec<u8> = element.iter().map(|byte| !byte).collect();
        exit = guest.run(answer(&reversed));
    }
    assert_hlt(&exit);
    let registers = guest.registers();
    let len = (size * COUNT) as u64;
    assert_eq!((registers.rsi, registers.rdi, registers.rcx), (DATA + len, DATA + 0x100 + len, 0));
    let read: [u8; 20] = guest.read(DATA + 0x100);
    assert!(read[..text.len()].iter().zip(&text).all(|(read, sent)| *read == !*sent), "{read:x?}");
    assert!(read[text.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn strings_make_an_exit_for_each_element() {
    let Some(kvm) = backend() else { return };
    for size in [1, 2, 4] {
        check_strings(&kvm, size);
    }
}

#[test]
fn a_string_read_that_is_left_alone_gives_all_ones() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.mov(dx, PORT)?;
        a.mov(rdi, DATA)?;
        a.mov(ecx, 4)?;
        a.rep().insb()?;
        a.hlt()
    });
    assert_in(&guest.resume(), 1);
    assert_in(&guest.run(answer(&[1])), 1);
    assert_in(&guest.resume(), 1);
    assert_in(&guest.run(answer(&[3])), 1);
    assert_hlt(&guest.resume());
    assert_eq!(guest.read(DATA), [1, 0xff, 3, 0xff]);
}

#[test]
fn complete_finishes_the_access_and_runs_nothing_more() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::real(&kvm, |a| {
        a.mov(dx, PORT)?;
        a.in_(al, dx)?;
        a.inc(bx)?;
        a.out(dx, al)?;
        a.inc(bx)?;
        a.hlt()
    });
    assert_in(&guest.resume(), 1);
    let exit = guest.run(VmEntry::Complete(Some(ExitData::from_slice(&[7]))));
    assert!(matches!(exit, VmExit::Completed), "{exit:?}");
    let registers = guest.registers();
    assert_eq!((registers.rax as u8, registers.rbx, registers.rip), (7, 0, 4), "IN is done, INC is not");
    let again = guest.run(VmEntry::Complete(None));
    assert!(matches!(again, VmExit::Completed), "{again:?}");
    assert_eq!(guest.registers().rip, 4);
    assert_out(&guest.resume(), &[7]);
    assert!(matches!(guest.run(VmEntry::Complete(None)), VmExit::Completed));
    let registers = guest.registers();
    assert_eq!((registers.rbx, registers.rip), (1, 6), "OUT is done, the second INC is not");
    assert_hlt(&guest.resume());
    assert_eq!(guest.registers().rbx, 2);
}

#[test]
fn complete_asks_for_the_rest_of_a_string() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.mov(dx, PORT)?;
        a.mov(rdi, DATA)?;
        a.mov(ecx, 3)?;
        a.rep().insb()?;
        a.inc(ebx)?;
        a.hlt()
    });
    let mut exit = guest.resume();
    let mut elements = 0;
    while let VmExit::Pio { .. } = exit {
        elements += 1;
        exit = guest.run(VmEntry::Complete(Some(ExitData::from_slice(&[elements]))));
    }
    assert!(matches!(exit, VmExit::Completed), "{exit:?}");
    while elements < 3 {
        // A KVM that reports each element by itself stops between two of them.
        elements += 1;
        exit = guest.resume();
        assert_in(&exit, 1);
        guest.run(VmEntry::Complete(Some(ExitData::from_slice(&[elements]))));
    }
    assert_hlt(&guest.resume());
    assert_eq!(guest.read(DATA), [1, 2, 3, 0]);
    assert_eq!(guest.registers().rbx, 1);
}

#[test]
fn an_answer_that_does_not_fit_changes_nothing() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::real(&kvm, widths);
    let wrong = |guest: &mut Guest, entries: &[VmEntry]| {
        for entry in entries {
            let error = guest.vcpu.run(entry.clone()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::BadEntry, "{entry:?}");
        }
    };
    let others = [VmEntry::Hypercall(1), VmEntry::Msr(1), VmEntry::MsrFault];
    let read = |len| answer(&vec![0; len]);
    // Before the first run, and after writes, there is nothing to answer.
    for written in [1, 2, 4] {
        wrong(&mut guest, &others);
        wrong(&mut guest, &[read(0), read(1), VmEntry::Complete(Some(ExitData::from_slice(&[1])))]);
        assert_out(&guest.resume(), &[0x11, 0x22, 0x33, 0x44][..written]);
    }
    assert_in(&guest.resume(), 1);
    wrong(&mut guest, &others);
    wrong(&mut guest, &[read(0), read(2), read(8), read(65)]);
    wrong(&mut guest, &[VmEntry::Complete(Some(ExitData::from_elem(0, 65)))]);
    assert_in(&guest.run(answer(&[0x77])), 2);
    assert_eq!(guest.registers().rax as u8, 0x77);
}
