//! Memory-mapped accesses: widths, across a page, read and written by one instruction, answers.

use iced_x86::code_asm::*;
use squib_core::{ErrorCode, ExitData, VmEntry, VmExit};

use crate::harness::*;

#[test]
fn writes_of_each_width() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.mov(rbx, MMIO)?;
        a.mov(rax, 0x8877_6655_4433_2211_u64)?;
        a.mov(byte_ptr(rbx), al)?;
        a.mov(word_ptr(rbx + 2), ax)?;
        a.mov(dword_ptr(rbx + 4), eax)?;
        a.mov(qword_ptr(rbx + 8), rax)?;
        a.hlt()
    });
    let bytes = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
    assert_mmio_write(&guest.resume(), MMIO, &bytes[..1]);
    assert_mmio_write(&guest.resume(), MMIO + 2, &bytes[..2]);
    assert_mmio_write(&guest.resume(), MMIO + 4, &bytes[..4]);
    assert_mmio_write(&guest.resume(), MMIO + 8, &bytes);
    assert_hlt(&guest.resume());
}

#[test]
fn reads_of_each_width() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.mov(rbx, MMIO)?;
        a.mov(al, byte_ptr(rbx))?;
        a.mov(cx, word_ptr(rbx + 2))?;
        a.mov(edx, dword_ptr(rbx + 4))?;
        a.mov(rsi, qword_ptr(rbx + 8))?;
        a.movzx(edi, byte_ptr(rbx + 0x10))?;
        a.movsx(r8, byte_ptr(rbx + 0x11))?;
        a.hlt()
    });
    guest.change_registers(|r| (r.rax, r.rcx, r.rdx) = (u64::MAX, u64::MAX, u64::MAX));
    assert_mmio_read(&guest.resume(), MMIO, 1);
    assert_mmio_read(&guest.run(answer(&[0x11])), MMIO + 2, 2);
    assert_mmio_read(&guest.run(answer(&[0x21, 0x22])), MMIO + 4, 4);
    assert_mmio_read(&guest.run(answer(&[0x41, 0x42, 0x43, 0x44])), MMIO + 8, 8);
    assert_mmio_read(&guest.run(answer(&[1, 2, 3, 4, 5, 6, 7, 8])), MMIO + 0x10, 1);
    assert_mmio_read(&guest.run(answer(&[0x80])), MMIO + 0x11, 1);
    assert_hlt(&guest.run(answer(&[0x80])));
    let r = guest.registers();
    assert_eq!(r.rax, 0xffff_ffff_ffff_ff11);
    assert_eq!(r.rcx, 0xffff_ffff_ffff_2221);
    assert_eq!(r.rdx, 0x4443_4241, "a 32-bit load clears the upper half");
    assert_eq!(r.rsi, 0x0807_0605_0403_0201);
    assert_eq!(r.rdi, 0x80);
    assert_eq!(r.r8, 0xffff_ffff_ffff_ff80);
}

/// Collects the fragments of one access, which may be split in any way that covers it in order.
fn collect(
    guest: &mut Guest,
    mut exit: VmExit,
    at: u64,
    len: usize,
    supply: Option<&[u8]>,
) -> (Vec<u8>, VmExit) {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let VmExit::Mmio { addr, write, data } = exit else { panic!("half an access, then {exit:?}") };
        assert_eq!((addr, write), (at + bytes.len() as u64, supply.is_none()));
        let page_end = (addr | 0xfff) + 1;
        assert!(addr + data.len() as u64 <= page_end, "no fragment crosses a page");
        let entry = match supply {
            Some(supply) => answer(&supply[bytes.len()..][..data.len()]),
            None => VmEntry::Resume,
        };
        bytes.extend_from_slice(&data);
        exit = guest.run(entry);
    }
    (bytes, exit)
}

#[test]
fn accesses_across_a_page() {
    let Some(kvm) = backend() else { return };
    let bytes = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
    for before in 1..8 {
        let at = MMIO + 0x1000 - before;
        let mut guest = Guest::long(&kvm, |a| {
            a.mov(rbx, at)?;
            a.mov(rax, u64::from_le_bytes(bytes))?;
            a.mov(qword_ptr(rbx), rax)?;
            a.mov(rcx, qword_ptr(rbx))?;
            a.hlt()
        });
        let exit = guest.resume();
        let (written, exit) = collect(&mut guest, exit, at, 8, None);
        assert_eq!(written, bytes);
        let (_, exit) = collect(&mut guest, exit, at, 8, Some(&bytes));
        assert_hlt(&exit);
        assert_eq!(guest.registers().rcx, u64::from_le_bytes(bytes), "{before} bytes before the page's end");
    }
}

#[test]
fn read_modify_write_is_a_read_and_a_write() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.mov(rbx, MMIO)?;
        a.add(dword_ptr(rbx), 0x10)?;
        a.hlt()
    });
    assert_mmio_read(&guest.resume(), MMIO, 4);
    assert_mmio_write(&guest.run(answer(&[1, 0, 0, 0])), MMIO, &[0x11, 0, 0, 0]);
    assert_hlt(&guest.resume());
}

#[test]
fn string_moves_touch_each_element() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.cld()?;
        a.mov(rsi, DATA)?;
        a.mov(rdi, MMIO)?;
        a.mov(ecx, 3)?;
        a.rep().movsw()?;
        a.hlt()
    });
    guest.vm.memory().write(DATA, b"squib!").unwrap();
    assert_mmio_write(&guest.resume(), MMIO, b"sq");
    assert_mmio_write(&guest.resume(), MMIO + 2, b"ui");
    assert_mmio_write(&guest.resume(), MMIO + 4, b"b!");
    assert_hlt(&guest.resume());
}

#[test]
fn in_real_mode_and_in_ring_3() {
    let Some(kvm) = backend() else { return };
    // Guest memory ends at 1 MiB, and real mode reaches a little beyond.
    let mut real = Guest::real(&kvm, |a| {
        a.mov(ax, 0xffff)?;
        a.mov(ds, ax)?;
        a.mov(word_ptr(0x10), 0x1234)?;
        a.mov(bx, word_ptr(0x12))?;
        a.hlt()
    });
    assert_mmio_write(&real.resume(), 0x10_0000, &[0x34, 0x12]);
    assert_mmio_read(&real.resume(), 0x10_0002, 2);
    assert_hlt(&real.run(answer(&[0xcd, 0xab])));
    assert_eq!(real.registers().rbx as u16, 0xabcd);

    let mut user = Guest::long(&kvm, |a| {
        a.mov(rbx, MMIO)?;
        a.mov(dword_ptr(rbx), 0x1234_5678)?;
        a.mov(eax, dword_ptr(rbx + 4))?;
        a.ud2()
    });
    user.handler(6, CodeAssembler::hlt);
    user.enter_ring3();
    assert_mmio_write(&user.resume(), MMIO, &[0x78, 0x56, 0x34, 0x12]);
    assert_mmio_read(&user.resume(), MMIO + 4, 4);
    assert_hlt(&user.run(answer(&[1, 2, 3, 4])));
    assert_eq!(user.registers().rip, handler_of(6) + 1);
    assert_eq!(user.registers().rax, 0x0403_0201);
}

#[test]
fn unanswered_wrong_and_completed_reads() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.mov(rbx, MMIO)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(ecx, dword_ptr(rbx))?;
        a.inc(edx)?;
        a.hlt()
    });
    assert_mmio_read(&guest.resume(), MMIO, 8);
    for wrong in [answer(&[1; 4]), answer(&[]), answer(&[1; 65]), VmEntry::Msr(0), VmEntry::Hypercall(0)] {
        assert_eq!(guest.vcpu.run(wrong).unwrap_err().code(), ErrorCode::BadEntry);
    }
    assert_mmio_read(&guest.resume(), MMIO, 4);
    assert_eq!(guest.registers().rax, u64::MAX);
    let exit = guest.run(VmEntry::Complete(Some(ExitData::from_slice(&[9, 0, 0, 0]))));
    assert!(matches!(exit, VmExit::Completed), "{exit:?}");
    let registers = guest.registers();
    assert_eq!((registers.rcx, registers.rdx), (9, 0));
    assert_hlt(&guest.resume());
    assert_eq!(guest.registers().rdx, 1);
}
