//! Guests with interrupts and rings.

use iced_x86::code_asm::*;

use crate::asm::{
    Assembled, STACK, TSS, TSS_SELECTOR, USER_CODE_SELECTOR, USER_DATA_SELECTOR, flat, gate, halt,
    identity_map, out_byte, tables,
};
use crate::{DEBUG_CONSOLE_PORT, DEBUG_EXIT_PORT, Guest, Mode, RESULTS, TEST_MMIO, TEST_PORT};

const APIC: u32 = 0xfee0_0000;
const TIMER_VECTOR: u8 = 0x40;

/// How the local APIC's timer is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApicTimer {
    /// Periodic, through the memory-mapped registers.
    Periodic,
    /// Armed anew for each tick, through the x2APIC's model-specific registers.
    X2apicOneShot,
    /// By TSC deadline, through the x2APIC's model-specific registers.
    TscDeadline,
}

/// Takes `ticks` interrupts of the local APIC's timer, `interval` timer counts (or TSC cycles) apart, halted
/// between them. Each prints a dot on the debug console; after the last comes the debug exit with 0.
pub fn apic_timer(timer: ApicTimer, ticks: u32, interval: u32) -> Guest {
    let (name, about) = match timer {
        ApicTimer::Periodic => ("apic-timer", "periodic ticks of the local APIC"),
        ApicTimer::X2apicOneShot => ("x2apic-timer", "one-shot ticks of the x2APIC"),
        ApicTimer::TscDeadline => ("tsc-deadline-timer", "TSC deadline ticks"),
    };
    flat(name, about, Mode::Long64, |a| {
        let (mut tick, mut wait) = (a.create_label(), a.create_label());
        tables(a)?;
        gate(a, TIMER_VECTOR, 0, tick)?;
        if timer == ApicTimer::Periodic {
            a.mov(ebp, APIC)?;
        } else {
            a.mov(ecx, 0x1b)?;
            a.rdmsr()?;
            a.or(eax, 0xc00)?;
            a.wrmsr()?;
        }
        let mode = match timer {
            ApicTimer::X2apicOneShot => 0,
            ApicTimer::Periodic => 1 << 17,
            ApicTimer::TscDeadline => 2 << 17,
        };
        apic_write(a, timer, 0x0f0, 0x1ff)?;
        apic_write(a, timer, 0x3e0, 0xb)?;
        apic_write(a, timer, 0x320, mode | u32::from(TIMER_VECTOR))?;
        arm(a, timer, interval)?;
        a.set_label(&mut wait)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.cmp(dword_ptr(RESULTS), ticks)?;
        a.jb(wait)?;
        out_byte(a, DEBUG_EXIT_PORT, 0)?;
        halt(a)?;

        a.set_label(&mut tick)?;
        a.inc(dword_ptr(RESULTS))?;
        a.mov(al, u32::from(b'.'))?;
        a.out(i32::from(DEBUG_CONSOLE_PORT), al)?;
        if timer != ApicTimer::Periodic {
            arm(a, timer, interval)?;
        }
        apic_write(a, timer, 0x0b0, 0)?;
        a.iretq()
    })
}

/// Writes an APIC register by its offset in the page; its MSR is 0x800 plus a sixteenth of that.
fn apic_write(a: &mut CodeAssembler, timer: ApicTimer, offset: u32, value: u32) -> Assembled {
    if timer == ApicTimer::Periodic {
        return a.mov(dword_ptr(rbp + offset), value);
    }
    a.mov(ecx, 0x800 + offset / 16)?;
    a.mov(eax, value)?;
    a.xor(edx, edx)?;
    a.wrmsr()
}

fn arm(a: &mut CodeAssembler, timer: ApicTimer, interval: u32) -> Assembled {
    if timer != ApicTimer::TscDeadline {
        return apic_write(a, timer, 0x380, interval);
    }
    a.rdtsc()?;
    a.add(eax, interval)?;
    a.adc(edx, 0)?;
    a.mov(ecx, 0x6e0)?;
    a.wrmsr()
}

/// Sets up the two 8259 with vectors from 0x20 and channel 0 of the 8254 as a rate generator with `divisor`,
/// takes `ticks` interrupts, prints a dot on the debug console for each, and ends by the debug exit with 0.
pub fn pit_timer(ticks: u32, divisor: u16) -> Guest {
    flat("pit-timer", "ticks of the 8254 through the 8259", Mode::Long64, |a| {
        let (mut tick, mut wait) = (a.create_label(), a.create_label());
        tables(a)?;
        gate(a, 0x20, 0, tick)?;
        pic_setup(a, 0xfe)?;
        let [low, high] = divisor.to_le_bytes();
        for (port, value) in [(0x43, 0x34), (0x40, low), (0x40, high)] {
            out_byte(a, port, u32::from(value))?;
        }
        a.set_label(&mut wait)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.cmp(dword_ptr(RESULTS), ticks)?;
        a.jb(wait)?;
        out_byte(a, DEBUG_EXIT_PORT, 0)?;
        halt(a)?;

        a.set_label(&mut tick)?;
        a.inc(dword_ptr(RESULTS))?;
        out_byte(a, DEBUG_CONSOLE_PORT, u32::from(b'.'))?;
        out_byte(a, 0x20, 0x20)?;
        a.iretq()
    })
}

/// Initialises both 8259 for vectors from 0x20, with `mask` on the first and everything masked on the second, and
/// lets them through the local APIC's LINT0. Changes RBP.
pub(crate) fn pic_setup(a: &mut CodeAssembler, mask: u32) -> Assembled {
    a.mov(ebp, APIC)?;
    a.mov(dword_ptr(rbp + 0xf0), 0x1ff)?;
    a.mov(dword_ptr(rbp + 0x350), 0x700)?;
    let words = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, mask)];
    let second = [(0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 1), (0xa1, 0xff)];
    for (port, value) in words.into_iter().chain(second) {
        out_byte(a, port, value)?;
    }
    Ok(())
}

/// Writes 1 to [`TEST_PORT`] while it cannot take interrupts, then allows them and halts; interrupt 0x30 or 0x31
/// writes its vector there, and halts again.
pub fn external_interrupts() -> Guest {
    flat("external-interrupts", "waits for interrupts 0x30 and 0x31 and names them", Mode::Long64, |a| {
        let (mut first, mut second, mut wait) = (a.create_label(), a.create_label(), a.create_label());
        tables(a)?;
        gate(a, 0x30, 0, first)?;
        gate(a, 0x31, 0, second)?;
        out_byte(a, TEST_PORT, 1)?;
        a.sti()?;
        // The instruction after STI still takes none: behind this one is a window.
        a.nop()?;
        a.set_label(&mut wait)?;
        a.hlt()?;
        a.jmp(wait)?;
        a.set_label(&mut first)?;
        out_byte(a, TEST_PORT, 0x30)?;
        a.iretq()?;
        a.set_label(&mut second)?;
        out_byte(a, TEST_PORT, 0x31)?;
        a.iretq()
    })
}

/// Goes to ring 3, where it writes 3 to [`TEST_PORT`] (I/O privilege level 3), reads 4 bytes from [`TEST_MMIO`]
/// and leaves them at [`RESULTS`], enters ring 0 by `INT 0x80`, which writes 0x80 to [`TEST_PORT`], and back in
/// ring 3 executes `HLT`, whose #GP handler makes the debug exit with 13.
pub fn user_mode() -> Guest {
    flat("user-mode", "ring 3: port, device memory, a system call and a fault", Mode::Long64, |a| {
        let (mut user, mut call, mut general_protection) =
            (a.create_label(), a.create_label(), a.create_label());
        tables(a)?;
        identity_map(a)?;
        a.mov(cr3, rax)?;
        gate(a, 0x80, 3, call)?;
        gate(a, 13, 0, general_protection)?;
        a.mov(dword_ptr(TSS + 4), STACK)?;
        a.mov(word_ptr(TSS + 0x66), 0x68)?;
        a.mov(eax, TSS_SELECTOR)?;
        a.ltr(ax)?;
        a.push(USER_DATA_SELECTOR as i32)?;
        a.push(STACK as i32 - 0x1000)?;
        a.push(0x3002)?;
        a.push(USER_CODE_SELECTOR as i32)?;
        a.lea(rax, ptr(user))?;
        a.push(rax)?;
        a.iretq()?;

        a.set_label(&mut user)?;
        out_byte(a, TEST_PORT, 3)?;
        a.mov(ebx, TEST_MMIO as u32)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.mov(dword_ptr(RESULTS), eax)?;
        a.int(0x80)?;
        halt(a)?;

        a.set_label(&mut call)?;
        out_byte(a, TEST_PORT, 0x80)?;
        a.iretq()?;

        a.set_label(&mut general_protection)?;
        out_byte(a, DEBUG_EXIT_PORT, 13)?;
        halt(a)
    })
}
