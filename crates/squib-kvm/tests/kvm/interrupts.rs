//! Interrupts: injected, by line, by message, from the kernel's timer; their end; NMIs.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use squib_core::{ErrorCode, HypervisorBackend, InterruptSource, IrqchipKind, VmEntry, VmExit};

use crate::harness::*;

const APIC: u64 = 0xfee0_0000;
const APIC_EOI: i32 = 0xb0;
const APIC_SPURIOUS: i32 = 0xf0;
const VECTOR: u8 = 0x41;

/// Counts in RBX.
fn count(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.inc(rbx)?;
    a.iretq()
}

/// Waits for interrupts for ever, and says so after each.
fn wait(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.sti()?;
    a.hlt()?;
    a.cli()?;
    a.mov(dx, PORT)?;
    a.mov(eax, ebx)?;
    a.out(dx, al)?;
    a.jmp(again)
}

#[test]
fn an_injected_interrupt_ends_hlt() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, wait);
    guest.handler(VECTOR, count);
    assert_eq!(guest.vcpu.inject_interrupt(VECTOR).unwrap_err().code(), ErrorCode::VcpuBusy);
    for n in 1..4 {
        assert_hlt(&guest.resume());
        guest.vcpu.inject_interrupt(VECTOR).unwrap();
        assert!(guest.vcpu.is_runnable());
        let second = guest.vcpu.inject_interrupt(VECTOR).unwrap_err();
        assert_eq!(second.code(), ErrorCode::VcpuBusy, "one at a time");
        assert_out(&guest.resume(), &[n]);
    }
}

#[test]
fn the_interrupt_window_opens_when_the_guest_allows_it() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        let mut again = a.create_label();
        a.mov(dx, PORT)?;
        a.out(dx, al)?;
        a.sti()?;
        a.set_label(&mut again)?;
        a.cmp(ebx, 0)?;
        a.je(again)?;
        a.out(dx, al)?;
        a.hlt()
    });
    guest.handler(VECTOR, count);
    assert_out(&guest.resume(), &[0]);
    assert_eq!(guest.vcpu.inject_interrupt(VECTOR).unwrap_err().code(), ErrorCode::VcpuBusy);
    guest.vcpu.request_interrupt_window(true);
    let exit = guest.resume();
    assert!(matches!(exit, VmExit::InterruptWindow), "{exit:?}");
    guest.vcpu.request_interrupt_window(false);
    guest.vcpu.inject_interrupt(VECTOR).unwrap();
    assert_out(&guest.resume(), &[0]);
    assert_eq!(guest.registers().rbx, 1);
    assert_hlt(&guest.resume());
    guest.vcpu.request_interrupt_window(true);
    let exit = guest.resume();
    assert!(matches!(exit, VmExit::InterruptWindow), "open while the guest is halted: {exit:?}");
}

#[test]
fn an_nmi_arrives_with_interrupts_off() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, |a| {
        a.hlt()?;
        a.mov(dx, PORT)?;
        a.mov(eax, ebx)?;
        a.out(dx, al)
    });
    guest.handler(2, count);
    assert_hlt(&guest.resume());
    guest.vcpu.inject_nmi().unwrap();
    assert_out(&guest.resume(), &[1]);
}

fn end_apic_interrupt(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dword_ptr(rbp + APIC_EOI), 0)?;
    count(a)
}

/// Switches the local APIC on, says so, and waits.
fn wait_for_messages(a: &mut CodeAssembler) -> Result<(), IcedError> {
    enable_apic(a)?;
    a.mov(dx, PORT)?;
    a.out(dx, al)?;
    wait(a)
}

/// Switches the local APIC on.
fn enable_apic(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rbp, APIC)?;
    a.mov(dword_ptr(rbp + APIC_SPURIOUS), 0x1ff)
}

#[test]
fn messages_reach_the_local_apic() {
    let Some(kvm) = backend() else { return };
    for irqchip in [IrqchipKind::Split, IrqchipKind::Full] {
        if !kvm.capabilities().irqchips.contains(&irqchip) {
            skip("messages", "this KVM lacks an irqchip");
            continue;
        }
        let mut guest = Guest::long_with(&kvm, irqchip, wait_for_messages);
        guest.handler(VECTOR, end_apic_interrupt);
        assert_out(&guest.resume(), &[0]);
        for n in 1..4 {
            guest.vm.signal_msi(APIC, u32::from(VECTOR)).unwrap();
            assert_out(&guest.resume(), &[n]);
        }
        guest
            .vm
            .signal_msi(APIC | 7 << 12, u32::from(VECTOR))
            .expect("nobody has number 7, which is no error");
        assert_eq!(guest.vcpu.inject_interrupt(VECTOR).unwrap_err().code(), ErrorCode::Unsupported);
    }
}

#[test]
fn triggers_raise_messages_from_any_thread() {
    let Some(kvm) = backend() else { return };
    for irqchip in [IrqchipKind::Split, IrqchipKind::Full] {
        if !kvm.capabilities().irqchips.contains(&irqchip) {
            skip("triggers", "this KVM lacks an irqchip");
            continue;
        }
        let mut guest = Guest::long_with(&kvm, irqchip, wait_for_messages);
        guest.handler(VECTOR, end_apic_interrupt);
        let message = |data| guest.vm.interrupt_trigger(InterruptSource::Message { address: APIC, data });
        let vector = u32::from(VECTOR);
        assert_eq!(message(0xc000 | vector).err().unwrap().code(), ErrorCode::InvalidArgument);
        // Numbers that are given back are others' afterwards.
        (0..50).for_each(|_| drop(message(0x50).unwrap()));
        let (other, trigger) = (message(0x50).unwrap(), message(vector).unwrap());
        drop(other);
        assert_out(&guest.resume(), &[0]);
        for n in 1..4 {
            let trigger = trigger.clone();
            std::thread::spawn(move || trigger.trigger()).join().unwrap();
            assert_out(&guest.resume(), &[n]);
        }
        drop(guest);
        trigger.trigger();
    }
}

#[test]
fn the_end_of_a_level_triggered_message_is_reported() {
    let Some(kvm) = backend() else { return };
    if !kvm.capabilities().irqchips.contains(&IrqchipKind::Split) {
        return skip("end-of-interrupt exits", "this KVM has no SPLIT_IRQCHIP");
    }
    let mut guest = Guest::long_with(&kvm, IrqchipKind::Split, wait_for_messages);
    guest.handler(VECTOR, end_apic_interrupt);
    let vm = guest.vm.clone();
    assert_out(&guest.resume(), &[0]);
    // A KVM that emulates notices the end a few instructions later, after the guest's own exit.
    let mut two_exits = || {
        let exits = [guest.resume(), guest.resume()];
        let ends = exits.iter().filter(|exit| matches!(exit, VmExit::Eoi { vector: VECTOR })).count();
        let outs = exits.iter().filter(|exit| matches!(exit, VmExit::Pio { .. })).count();
        (ends, outs)
    };
    for _ in 0..3 {
        vm.signal_msi(APIC, 0xc000 | u32::from(VECTOR)).unwrap();
        assert_eq!(two_exits(), (1, 1));
    }
}

/// Sets the first 8259 up so that line n is vector 0x20 + n, with only `unmasked` let through.
fn enable_pic(a: &mut CodeAssembler, unmasked: u8) -> Result<(), IcedError> {
    write_ports(
        a,
        &[(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, u32::from(!(1_u8 << unmasked)))],
    )
}

/// Makes the timer's channel 0 a rate generator, every 1193 counts: a millisecond.
fn start_timer(a: &mut CodeAssembler) -> Result<(), IcedError> {
    write_ports(a, &[(0x43, 0x34), (0x40, 1193 & 0xff), (0x40, 1193 >> 8)])
}

fn write_ports(a: &mut CodeAssembler, writes: &[(u32, u32)]) -> Result<(), IcedError> {
    for (port, value) in writes {
        a.mov(al, *value)?;
        a.out(*port, al)?;
    }
    Ok(())
}

fn end_pic_interrupt(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(al, 0x20)?;
    a.out(0x20, al)?;
    count(a)
}

#[test]
fn lines_reach_the_kernels_controllers() {
    let Some(kvm) = backend() else { return };
    if !kvm.capabilities().irqchips.contains(&IrqchipKind::Full) {
        return skip("interrupt lines", "this KVM has no IRQCHIP");
    }
    let mut guest = Guest::long_with(&kvm, IrqchipKind::Full, |a| {
        enable_pic(a, 4)?;
        a.mov(dx, PORT)?;
        a.mov(al, 0)?;
        a.out(dx, al)?;
        wait(a)
    });
    guest.handler(0x24, end_pic_interrupt);
    assert_out(&guest.resume(), &[0]);
    for n in 1..4 {
        guest.vm.set_irq_line(4, true).unwrap();
        guest.vm.set_irq_line(4, false).unwrap();
        assert_out(&guest.resume(), &[n]);
    }
    assert_eq!(guest.vm.set_irq_line(24, true).unwrap_err().code(), ErrorCode::IrqLine);
    // A message with a number of its own leaves the lines theirs.
    let _message =
        guest.vm.interrupt_trigger(InterruptSource::Message { address: APIC, data: 0x41 }).unwrap();
    guest.vm.set_irq_line(4, true).unwrap();
    guest.vm.set_irq_line(4, false).unwrap();
    assert_out(&guest.resume(), &[4]);
    let trigger = guest.vm.interrupt_trigger(InterruptSource::Line(4)).unwrap();
    for n in 5..8 {
        trigger.trigger();
        assert_out(&guest.resume(), &[n]);
    }
    let none = guest.vm.interrupt_trigger(InterruptSource::Line(24)).err().unwrap();
    assert_eq!(none.code(), ErrorCode::IrqLine);
}

#[test]
fn the_kernels_timer_ticks() {
    let Some(kvm) = backend() else { return };
    if !kvm.capabilities().irqchips.contains(&IrqchipKind::Full) {
        return skip("the kernel's timer", "this KVM has no IRQCHIP");
    }
    let mut guest = Guest::long_with(&kvm, IrqchipKind::Full, |a| {
        enable_pic(a, 0)?;
        start_timer(a)?;
        wait(a)
    });
    guest.handler(0x20, end_pic_interrupt);
    let mut ticks = 0;
    for _ in 0..3 {
        let exit = guest.resume();
        let VmExit::Pio { write: true, data, .. } = exit else { panic!("expected a tick, got {exit:?}") };
        assert!(data[0] > ticks, "{} after {ticks}", data[0]);
        ticks = data[0];
    }
}

#[test]
fn the_kernels_timer_is_input_2_of_the_io_apic() {
    const IO_APIC: u64 = 0xfec0_0000;
    let Some(kvm) = backend() else { return };
    if !kvm.capabilities().irqchips.contains(&IrqchipKind::Full) {
        return skip("the kernel's I/O APIC", "this KVM has no IRQCHIP");
    }
    let mut guest = Guest::long_with(&kvm, IrqchipKind::Full, |a| {
        enable_apic(a)?;
        a.mov(rsi, IO_APIC)?;
        // The entry of input 2: to processor 0, edge-triggered (82093AA, 3.2.4).
        for (register, value) in [(0x15, 0), (0x14, u32::from(VECTOR))] {
            a.mov(dword_ptr(rsi), register)?;
            a.mov(dword_ptr(rsi + 0x10), value)?;
        }
        // The 8259 is silent.
        write_ports(a, &[(0x21, 0xff)])?;
        start_timer(a)?;
        wait(a)
    });
    guest.handler(VECTOR, end_apic_interrupt);
    let exit = guest.resume();
    let VmExit::Pio { write: true, data, .. } = exit else { panic!("expected a tick, got {exit:?}") };
    assert!(data[0] > 0);
    for source in
        [guest.vm.set_irq_line(2, true), guest.vm.interrupt_trigger(InterruptSource::Line(2)).map(drop)]
    {
        assert_eq!(source.unwrap_err().code(), ErrorCode::IrqLine, "the cascade is no line");
    }
}

#[test]
fn without_a_controller_lines_and_messages_are_errors() {
    let Some(kvm) = backend() else { return };
    let guest = Guest::new(&kvm, IrqchipKind::None);
    assert_eq!(guest.vm.set_irq_line(4, true).unwrap_err().code(), ErrorCode::IrqLine);
    assert_eq!(guest.vm.signal_msi(APIC, 0x41).unwrap_err().code(), ErrorCode::IrqLine);
    for source in [InterruptSource::Line(4), InterruptSource::Message { address: APIC, data: 0x41 }] {
        assert_eq!(guest.vm.interrupt_trigger(source).err().unwrap().code(), ErrorCode::IrqLine);
    }
}

#[test]
fn a_secondary_vcpu_waits_for_its_start() {
    let Some(kvm) = backend() else { return };
    let mut first = Guest::long_with(&kvm, IrqchipKind::Split, |a| {
        enable_apic(a)?;
        a.mov(dword_ptr(rbp + 0x310), 1 << 24)?;
        a.mov(dword_ptr(rbp + 0x300), 0x4500)?;
        // Start-up: the second begins in real mode at 0x2000.
        a.mov(dword_ptr(rbp + 0x310), 1 << 24)?;
        a.mov(dword_ptr(rbp + 0x300), 0x4600 | 0x06)?;
        a.mov(dx, PORT)?;
        a.out(dx, al)
    });
    let mut second = first.vm.create_vcpu(1).unwrap();
    // MOV AL, 0x42; MOV DX, PORT; OUT DX, AL.
    first.vm.memory().write(0x6000, &[0xb0, 0x42, 0xba, PORT as u8, (PORT >> 8) as u8, 0xee]).unwrap();
    second.cancel_handle().cancel();
    assert!(
        matches!(second.run(VmEntry::Resume).unwrap(), VmExit::Cancelled),
        "it waits and can be cancelled"
    );
    assert_out(&first.resume(), &[0]);
    first.vcpu = second;
    assert_out(&first.resume(), &[0x42]);
}
