//! The local APIC and the I/O APIC as guest code finds them.

mod support;

use iced_x86::code_asm::*;
use squib_core::{ErrorCode, InterruptSource, VmEntry, VmExit};
use support::{APIC, ENABLE_APIC, HANDLERS, enable_apic, seen, start};

/// Sends the processor itself interrupt `vector`.
fn send_self(a: &mut CodeAssembler, vector: u32) -> Result<(), IcedError> {
    a.mov(dword_ptr(r13 + 0x300), 0x4_4000 | vector)
}

/// WRMSR of a small value; 14 bytes, or 12 where ECX holds the index.
fn write_msr(a: &mut CodeAssembler, index: u32, value: u32) -> Result<(), IcedError> {
    a.mov(ecx, index)?;
    a.mov(eax, value)?;
    a.xor(edx, edx)?;
    a.wrmsr()
}

const WRITE_MSR: u64 = 14;

#[test]
fn x2apic_mode_has_registers_of_its_own() {
    let mut s = start(false, |a| {
        write_msr(a, 0x1b, APIC as u32 | 0xd00)?;
        write_msr(a, 0x80f, 0x1ff)?;
        a.sti()?;
        a.nop()?;
        // By the register for that, and by the interrupt command.
        write_msr(a, 0x83f, 0x41)?;
        write_msr(a, 0x830, 0x4_4041)?;
        a.mov(ecx, 0x802)?;
        a.rdmsr()?;
        a.mov(rsi, rax)?;
        // The interrupt has ended: nothing is in service.
        a.mov(ecx, 0x812)?;
        a.rdmsr()?;
        a.mov(rdi, rax)?;
        a.hlt()
    });
    let sent = 2 * WRITE_MSR + 2 + WRITE_MSR;
    let (r, log) = s.run();
    assert_eq!(log, [seen(0x41, sent, 0), seen(0x41, sent + WRITE_MSR, 0)]);
    assert_eq!((r.rsi, r.rdi), (0, 0));
}

#[test]
fn in_x2apic_mode_the_page_of_the_xapic_is_nobodys() {
    let mut s = start(false, |a| {
        write_msr(a, 0x1b, APIC as u32 | 0xd00)?;
        a.mov(r13d, APIC as u32)?;
        a.mov(eax, dword_ptr(r13 + 0x30))?;
        a.hlt()
    });
    let exit = s.vcpu.run(VmEntry::Resume).unwrap();
    assert!(matches!(exit, VmExit::Mmio { addr, write: false, .. } if addr == APIC + 0x30), "{exit:?}");
}

#[test]
fn registers_that_a_mode_has_not_are_general_protection_faults() {
    // An x2APIC register in xAPIC mode; in x2APIC mode one that is write-only, one that does not exist, and a reserved bit.
    let mut s = start(false, |a| {
        a.mov(ecx, 0x803)?;
        a.rdmsr()?;
        a.nop()?;
        write_msr(a, 0x1b, APIC as u32 | 0xd00)?;
        for index in [0x80b, 0x80e, 0x831] {
            a.mov(ecx, index)?;
            a.rdmsr()?;
            a.nop()?;
        }
        write_msr(a, 0x80b, 1)?;
        a.nop()?;
        // Back to xAPIC mode only by way of none.
        write_msr(a, 0x1b, APIC as u32 | 0x900)?;
        a.nop()?;
        a.hlt()
    });
    let read = 5 + 2 + 1;
    let second = read + WRITE_MSR;
    let reads = [5, second + 5, second + read + 5, second + 2 * read + 5];
    let write = second + 3 * read + WRITE_MSR - 2;
    let expected: Vec<_> =
        reads.into_iter().chain([write, write + 3 + WRITE_MSR - 2]).map(|at| seen(13, at, 0)).collect();
    assert_eq!(s.run().1, expected);
}

/// VMCALL for KVM_HC_SEND_IPI, 25 bytes: the set of processors, the APIC ID of its first, and the interrupt command.
fn send_by_hypercall(a: &mut CodeAssembler, set: u32, first: u32, command: u32) -> Result<(), IcedError> {
    a.mov(eax, 10)?;
    a.mov(ebx, set)?;
    a.xor(ecx, ecx)?;
    a.mov(edx, first)?;
    a.mov(esi, command)?;
    a.vmcall()
}

const SEND_BY_HYPERCALL: u64 = 25;

#[test]
fn a_hypercall_sends_interrupts() {
    let mut s = start(false, |a| {
        enable_apic(a)?;
        a.sti()?;
        a.nop()?;
        send_by_hypercall(a, 1, 0, 0x40)?;
        a.mov(r8, rax)?;
        // An NMI, then: to nobody, by a shorthand, with a logical destination, in a mode that is reserved, and what KVM's unit test sends.
        send_by_hypercall(a, 0b11, 0, 0x400)?;
        a.mov(r9, rax)?;
        for (set, first, command) in
            [(0b10, 0, 0x40), (1, 0, 0x4_0040), (1, 0, 0x840), (1, 0, 0x340), (u32::MAX, u32::MAX, 0)]
        {
            send_by_hypercall(a, set, first, command)?;
            a.push(rax)?;
        }
        for register in [r12, r11, r10, rdi, rbp] {
            a.pop(register)?;
        }
        a.hlt()
    });
    let sent = ENABLE_APIC + 2 + SEND_BY_HYPERCALL;
    let (r, log) = s.run();
    assert_eq!(log, [seen(0x40, sent, 0), seen(2, sent + 3 + SEND_BY_HYPERCALL, 0)]);
    assert_eq!((r.r8, r.r9), (1, 1), "as many as have accepted");
    let invalid = -22_i64 as u64;
    assert_eq!([r.rbp, r.rdi, r.r10, r.r11, r.r12], [0, invalid, invalid, 0, 0]);
}

#[test]
fn programs_send_none_by_hypercall() {
    let mut s = start(true, |a| {
        send_by_hypercall(a, 1, 0, 0x40)?;
        a.out(0x80, al)
    });
    let (r, log) = s.run();
    assert_eq!((r.rax as i64, log.len()), (-1, 0));
}

#[test]
fn a_lower_task_priority_lets_a_waiting_interrupt_in_at_once() {
    let mut s = start(false, |a| {
        enable_apic(a)?;
        a.mov(eax, 4)?;
        a.mov(cr8, rax)?;
        a.sti()?;
        send_self(a, 0x40)?;
        a.inc(rdx)?;
        a.mov(esi, dword_ptr(r13 + 0x80))?;
        a.mov(eax, 3)?;
        a.mov(cr8, rax)?;
        a.inc(rdx)?;
        // The same by the register of the APIC.
        a.mov(dword_ptr(r13 + 0x80), 0x4f)?;
        send_self(a, 0x40)?;
        a.mov(rdi, cr8)?;
        a.mov(dword_ptr(r13 + 0x80), 0x3f)?;
        a.hlt()
    });
    let first = ENABLE_APIC + 5 + 4 + 1 + 11 + 3 + 7 + 5 + 4;
    let (r, log) = s.run();
    assert_eq!(log, [seen(0x40, first, 0), seen(0x40, first + 3 + 11 + 11 + 4 + 11, 0)]);
    assert_eq!((r.rsi, r.rdi), (0x40, 4), "CR8 and the task priority register are one");
}

#[test]
fn the_timer_interrupts_once_or_periodically_or_not_at_all() {
    for (entry, most, least) in [(0x40, 1, 1), (0x2_0040, usize::MAX, 3), (0x1_0040, 0, 0)] {
        let mut s = start(false, |a| {
            enable_apic(a)?;
            a.mov(dword_ptr(r13 + 0x3e0), 0xb)?;
            a.mov(dword_ptr(r13 + 0x320), entry)?;
            a.mov(rdi, r15)?;
            a.add(rdi, 3 * 24)?;
            a.sti()?;
            a.mov(dword_ptr(r13 + 0x380), 50_000)?;
            a.mov(ecx, 2_000_000)?;
            let mut again = a.create_label();
            let mut done = a.create_label();
            a.set_label(&mut again)?;
            a.cmp(r15, rdi)?;
            a.jae(done)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.set_label(&mut done)?;
            a.cli()?;
            a.hlt()
        });
        s.vcpu.set_budget(None).unwrap();
        assert!(matches!(s.vcpu.run(VmEntry::Resume).unwrap(), VmExit::Hlt));
        let (_, log) = s.log();
        assert!((least..=most).contains(&log.len()), "{entry:#x}: {log:?}");
        assert!(log.iter().all(|l| l.vector == 0x40));
    }
}

#[test]
fn a_level_triggered_line_interrupts_again_after_each_end_until_it_falls() {
    const PIN: u32 = 5;
    const ENTRY: u32 = 0x10 + 2 * PIN;
    let mut s = start(false, |a| {
        enable_apic(a)?;
        a.mov(r12d, 0xfec0_0000_u32)?;
        a.mov(dword_ptr(r12), ENTRY)?;
        a.mov(dword_ptr(r12 + 0x10), 0x8040)?;
        a.sti()?;
        a.nop()?;
        a.hlt()?;
        a.mov(r9d, dword_ptr(r12 + 0x10))?;
        a.hlt()
    });
    // The handler looks at the entry, pauses, and ends the interrupt.
    let at = HANDLERS + 0x500;
    let mut a = CodeAssembler::new(64).unwrap();
    a.mov(r8d, dword_ptr(r12 + 0x10)).unwrap();
    a.out(0x80, al).unwrap();
    a.mov(dword_ptr(r13 + 0xb0), 0).unwrap();
    a.iretq().unwrap();
    s.memory.write(at, &a.assemble(at).unwrap()).unwrap();
    s.vm.set_irq_line(PIN, true).unwrap();
    for round in 0..2 {
        let exit = s.vcpu.run(VmEntry::Resume).unwrap();
        assert!(matches!(exit, VmExit::Pio { port: 0x80, .. }), "{round}: {exit:?}");
        let entry = s.vcpu.x86().unwrap().registers().unwrap().r8;
        assert_eq!(entry, 0xc040, "remote IRR is set while it is in service");
    }
    s.vm.set_irq_line(PIN, false).unwrap();
    let (r, _) = s.run();
    assert_eq!((r.r9, r.r8), (0, 0xc040), "halted in front of the read");
    s.vm.set_irq_line(PIN, true).unwrap();
    assert!(matches!(s.vcpu.run(VmEntry::Resume).unwrap(), VmExit::Pio { port: 0x80, .. }));
    s.vm.set_irq_line(PIN, false).unwrap();
    assert_eq!(s.run().0.r9, 0x8040, "and clear after its end");
}

#[test]
fn a_trigger_interrupts_a_halted_processor_as_long_as_there_is_a_vm() {
    let mut s = start(false, |a| {
        enable_apic(a)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.hlt()
    });
    let message = |data| s.vm.interrupt_trigger(InterruptSource::Message { address: APIC, data });
    assert_eq!(message(0x8040).err().unwrap().code(), ErrorCode::InvalidArgument);
    let line = |gsi| s.vm.interrupt_trigger(InterruptSource::Line(gsi)).map(drop).map_err(|e| e.code());
    assert_eq!((line(5), line(2), line(24)), (Ok(()), Err(ErrorCode::IrqLine), Err(ErrorCode::IrqLine)));
    let trigger = message(0x40).unwrap();
    assert!(matches!(s.vcpu.run(VmEntry::Resume), Ok(VmExit::Hlt)));
    assert!(!s.vcpu.is_runnable());
    let remote = trigger.clone();
    std::thread::spawn(move || remote.trigger()).join().unwrap();
    assert!(s.vcpu.is_runnable());
    let (_, log) = s.run();
    assert_eq!(log.iter().map(|seen| seen.vector).collect::<Vec<_>>(), [0x40]);
    drop(s);
    trigger.trigger();
}
