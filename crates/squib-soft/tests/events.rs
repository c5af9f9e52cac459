//! What interrupts the soft CPU between two instructions, and when: debug exceptions, alignment checks, NMIs and the
//! local APIC.

mod support;

use iced_x86::code_asm::*;
use squib_core::x86::bits;
use squib_core::{VmEntry, VmExit};
use squib_soft::{CpuModel, SoftBackend};
use support::{
    APIC, CODE, DATA, ENABLE_APIC, HANDLERS, LOG, Seen, enable_apic, handler, seen, start, start_on,
};

const STEP: u64 = 1 << 14;

/// DR`n` at `addr`, and DR7.
fn arm(a: &mut CodeAssembler, addr: u64, dr7_value: u32) -> Result<(), IcedError> {
    a.mov(eax, addr as u32)?;
    a.mov(dr1, rax)?;
    a.mov(eax, dr7_value)?;
    a.mov(dr7, rax)
}

/// Length in bytes of what [`arm`] assembles.
const ARM: u64 = 16;

#[test]
fn a_code_breakpoint_comes_before_its_instruction_once() {
    let mut s = start(false, |a| {
        arm(a, CODE + ARM + 3, 0x40c)?;
        a.inc(rcx)?;
        a.inc(rdx)?;
        a.inc(rdx)?;
        a.hlt()
    });
    let (r, log) = s.run();
    assert_eq!((r.rcx, r.rdx), (1, 2));
    assert_eq!(log, [seen(1, ARM + 3, 2)]);
}

#[test]
fn a_code_breakpoint_on_a_repeated_instruction_comes_once() {
    let mut s = start(false, |a| {
        a.mov(ecx, 5)?;
        a.mov(rdi, rbx)?;
        arm(a, CODE + 8 + ARM, 0x40c)?;
        a.rep().stosb()?;
        a.hlt()
    });
    let (r, log) = s.run();
    assert_eq!((r.rcx, r.rdi), (0, DATA + 5));
    assert_eq!(log, [seen(1, 8 + ARM, 2)]);
}

#[test]
fn watched_data_traps_after_the_access() {
    for (dr7_value, traps) in [(0xd0_040c, &[1, 2][..]), (0xf0_040c, &[0, 1, 2])] {
        let mut s = start(false, |a| {
            // Before the breakpoint is on, the page gets known to the translation cache.
            a.mov(qword_ptr(rbx), rcx)?;
            arm(a, DATA + 8, dr7_value)?;
            a.mov(edx, dword_ptr(rbx + 8))?;
            a.mov(dword_ptr(rbx + 8), edx)?;
            a.mov(qword_ptr(rbx + 4), rdx)?;
            a.mov(dword_ptr(rbx + 12), edx)?;
            a.mov(byte_ptr(rbx + 7), dl)?;
            a.hlt()
        });
        let begin = 3 + ARM;
        let ends = [begin + 3, begin + 6, begin + 10];
        let expected: Vec<Seen> = traps.iter().map(|&n: &usize| seen(1, ends[n], 2)).collect();
        assert_eq!(s.run().1, expected);
    }
}

#[test]
fn each_element_of_a_string_that_is_watched_traps() {
    let mut s = start(false, |a| {
        a.mov(ecx, 4)?;
        a.mov(rdi, rbx)?;
        arm(a, DATA + 1, 0x50_040c)?;
        a.rep().stosb()?;
        a.hlt()
    });
    let (r, log) = s.run();
    assert_eq!(r.rcx, 0);
    assert_eq!(
        log,
        [seen(1, 8 + ARM, 2), seen(1, 8 + ARM, 2)],
        "two bytes are watched, and RIP stays meanwhile"
    );
}

/// PUSHF, OR TF, POPF: single-stepping begins after the instruction that follows.
fn set_trap(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.pushfq()?;
    a.or(dword_ptr(rsp), bits::RFLAGS_TF as i32)?;
    a.popfq()
}

const SET_TRAP: u64 = 9;

fn clear_trap(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.pushfq()?;
    a.and(dword_ptr(rsp), !(bits::RFLAGS_TF as i32))?;
    a.popfq()
}

#[test]
fn mov_ss_holds_single_steps_off() {
    let mut s = start(false, |a| {
        a.mov(eax, ss)?;
        set_trap(a)?;
        a.mov(ss, eax)?;
        a.inc(rcx)?;
        clear_trap(a)?;
        a.hlt()
    });
    let begin = 2 + SET_TRAP;
    let ends = [begin + 5, begin + 6, begin + 13, begin + 14];
    assert_eq!(s.run().1, ends.map(|at| seen(1, at, STEP)));
}

#[test]
fn a_step_over_hlt_wakes_it() {
    let mut s = start(false, |a| {
        set_trap(a)?;
        a.hlt()?;
        clear_trap(a)?;
        a.hlt()
    });
    let begin = SET_TRAP + 1;
    assert_eq!(s.run().1, [begin, begin + 1, begin + 8, begin + 9].map(|at| seen(1, at, STEP)));
}

#[test]
fn a_trap_that_mov_ss_held_off_comes_with_int1_or_after_the_next_instruction() {
    for int1 in [true, false] {
        let mut s = start(false, |a| {
            a.mov(dword_ptr(rbx), 0x10)?;
            arm(a, DATA, 0xf0_040c)?;
            a.mov(ss, word_ptr(rbx))?;
            if int1 {
                a.int1()?;
            } else {
                a.nop()?;
            }
            a.nop()?;
            a.hlt()
        });
        // INT1 itself comes without conditions: those of the watched data are added to it.
        assert_eq!(s.run().1, [seen(1, 6 + ARM + 3, 2)], "INT1: {int1}");
    }
}

#[test]
fn ring_3_is_checked_for_alignment() {
    let mut s = start(true, |a| {
        a.mov(eax, dword_ptr(rbx + 4))?;
        a.mov(eax, dword_ptr(rbx + 2))?;
        a.mov(dword_ptr(rbx + 1), eax)?;
        a.movups(xmm0, xmmword_ptr(rbx + 1))?;
        a.inc(dword_ptr(rbx + 7))?;
        a.mov(al, byte_ptr(rbx + 7))?;
        a.mov(eax, dword_ptr(rdx + 1))?;
        a.out(0x80, al)
    });
    let mut registers = s.vcpu.x86().unwrap().registers().unwrap();
    registers.rdx = 0x20_0000;
    s.vcpu.x86().unwrap().set_registers(&registers).unwrap();
    let aligned = 3 + 3 + 3 + 4;
    let expected = [3, 6, aligned, aligned + 6].map(|at| seen(17, at, 0));
    assert_eq!(s.run().1, expected, "the last one's page is the supervisor's, but #AC comes first");
}

#[test]
fn system_calls_trap_by_the_flags_they_end_with() {
    // SYSCALL clears TF, so no trap follows it; SYSRET sets it, and the trap comes before the next instruction.
    for single_step_begins_in_the_kernel in [false, true] {
        let mut s = start(true, |a| {
            if !single_step_begins_in_the_kernel {
                set_trap(a)?;
            }
            a.syscall()?;
            a.nop()?;
            a.out(0x80, al)
        });
        let mut kernel = CodeAssembler::new(64).unwrap();
        kernel.nop().unwrap();
        if single_step_begins_in_the_kernel {
            kernel.or(r11, bits::RFLAGS_TF as i32).unwrap();
        } else {
            kernel.and(r11, !(bits::RFLAGS_TF as i32)).unwrap();
        }
        kernel.sysretq().unwrap();
        s.memory.write(CODE + 0x100, &kernel.assemble(CODE + 0x100).unwrap()).unwrap();
        s.memory.write(0x1028, &0x00af_fb00_0000_ffff_u64.to_le_bytes()).unwrap();
        let x86 = s.vcpu.x86().unwrap();
        let mut system = x86.system_registers().unwrap();
        system.efer |= bits::EFER_SCE;
        system.gdt.limit = 47;
        x86.set_system_registers(&system).unwrap();
        for (msr, value) in
            [(0xc000_0081, 0x18 << 48 | 8 << 32), (0xc000_0082, CODE + 0x100), (0xc000_0084, 0x100)]
        {
            x86.set_msr(msr, value).unwrap();
        }
        let expected =
            if single_step_begins_in_the_kernel { vec![seen(1, 2, STEP), seen(1, 3, STEP)] } else { vec![] };
        assert_eq!(s.run().1, expected);
    }
}

#[test]
fn on_amd_system_calls_of_compatibility_mode_trap_likewise() {
    let mut s = start_on(&SoftBackend::new(CpuModel::parse("max,vendor=amd").unwrap()), true, |a| {
        // Into the kernel, and back to 32-bit code.
        a.xor(esi, esi)?;
        a.mov(ebp, (CODE + 0x200) as u32)?;
        a.syscall()
    });
    let assemble = |at: u64, bits, program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        let mut a = CodeAssembler::new(bits).unwrap();
        program(&mut a).unwrap();
        s.memory.write(at, &a.assemble(at).unwrap()).unwrap();
    };
    assemble(CODE + 0x100, 64, &|a| {
        a.mov(ecx, ebp)?;
        a.sysret()
    });
    assemble(CODE + 0x180, 64, &|a| {
        let mut second = a.create_label();
        a.inc(esi)?;
        a.cmp(esi, 2)?;
        a.je(second)?;
        a.mov(edx, ecx)?;
        a.or(r11d, bits::RFLAGS_TF as i32)?;
        a.sysret()?;
        a.set_label(&mut second)?;
        a.hlt()
    });
    assemble(CODE + 0x200, 32, &|a| {
        a.pushfd()?;
        a.or(dword_ptr(esp), bits::RFLAGS_TF as i32)?;
        a.popfd()?;
        a.syscall()?;
        a.syscall()
    });
    s.memory.write(0x1018, &0x00cf_fb00_0000_ffff_u64.to_le_bytes()).unwrap();
    s.memory.write(0x1028, &0x00af_fb00_0000_ffff_u64.to_le_bytes()).unwrap();
    let x86 = s.vcpu.x86().unwrap();
    let mut system = x86.system_registers().unwrap();
    system.efer |= bits::EFER_SCE;
    system.gdt.limit = 47;
    x86.set_system_registers(&system).unwrap();
    let (star, lstar, cstar, mask) = (0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084);
    for (msr, value) in
        [(star, 0x18 << 48 | 8 << 32), (lstar, CODE + 0x100), (cstar, CODE + 0x180), (mask, 0x100)]
    {
        x86.set_msr(msr, value).unwrap();
    }
    let (r, log) = s.run();
    assert_eq!((r.rsi, r.rdx), (2, CODE + 0x20b));
    assert_eq!(log, [seen(1, 0x20b, STEP)]);
}

#[test]
fn what_a_processor_sends_itself_comes_before_its_next_instruction() {
    // An NMI, which needs no IF, and a fixed interrupt.
    for (command, vector) in [(0x4400, 2), (0x4_4040, 0x40)] {
        let mut s = start(false, |a| {
            enable_apic(a)?;
            a.sti()?;
            a.nop()?;
            a.mov(dword_ptr(r13 + 0x300), command)?;
            a.inc(rcx)?;
            a.hlt()
        });
        assert_eq!(s.run().1, [seen(vector, ENABLE_APIC + 2 + 11, 0)]);
    }
}

/// Sends the processor itself interrupt 0x40, while IF is clear.
fn interrupt_waits(a: &mut CodeAssembler) -> Result<(), IcedError> {
    enable_apic(a)?;
    a.mov(dword_ptr(r13 + 0x300), 0x4_4040)
}

/// Length in bytes of what [`interrupt_waits`] assembles.
const INTERRUPT_WAITS: u64 = ENABLE_APIC + 11;

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

#[test]
fn sti_holds_interrupts_off_for_one_instruction() {
    let following: [Program; 4] = [
        |a| a.inc(rcx),
        // The second STI changes nothing, so it begins no further shadow.
        |a| a.sti(),
        // The interrupt wakes the processor that it let go to sleep.
        |a| a.hlt(),
        // A fault is an end of the shadow too: the handler begins with interrupts off, and ends with them on.
        |a| a.mov(rax, qword_ptr(r12)),
    ];
    for (n, (follows, length)) in following.into_iter().zip([3, 1, 1, 4]).enumerate() {
        let mut s = start(false, |a| {
            interrupt_waits(a)?;
            a.mov(r12d, 0)?;
            a.bts(r12, 62)?;
            a.sti()?;
            follows(a)?;
            a.inc(rdx)?;
            a.hlt()
        });
        let at = INTERRUPT_WAITS + 6 + 5 + 1;
        let expected = match n {
            3 => vec![seen(13, at, 0), seen(0x40, at + 3, 0)],
            _ => vec![seen(0x40, at + length, 0)],
        };
        assert_eq!(s.run().1, expected, "{n}");
    }
}

#[test]
fn cli_behind_sti_lets_no_interrupt_in() {
    let mut s = start(false, |a| {
        interrupt_waits(a)?;
        a.sti()?;
        a.cli()?;
        a.inc(rdx)?;
        a.hlt()
    });
    assert_eq!(s.run().1, []);
}

#[test]
fn the_shadow_of_sti_outlasts_a_pause() {
    // Nothing waits when STI runs; the interrupt comes while the vCPU is paused behind it.
    let mut s = start(false, |a| {
        enable_apic(a)?;
        a.sti()?;
        a.hlt()?;
        a.inc(rdx)?;
        a.hlt()
    });
    s.vcpu.set_budget(Some(3)).unwrap();
    assert!(matches!(s.vcpu.run(VmEntry::Resume).unwrap(), VmExit::BudgetSpent));
    assert_eq!(s.vcpu.x86().unwrap().registers().unwrap().rip, CODE + ENABLE_APIC + 1, "behind STI");
    s.vm.signal_msi(APIC, 0x40).unwrap();
    let (registers, log) = s.run();
    assert_eq!((log, registers.rdx), (vec![seen(0x40, ENABLE_APIC + 2, 0)], 1), "behind HLT");
}

#[test]
fn a_load_of_ss_holds_interrupts_off_for_one_instruction() {
    // MOV does, behind the shadow of STI; LSS does not.
    for (lss, held) in [(false, 3), (true, 0)] {
        let mut s = start(false, |a| {
            interrupt_waits(a)?;
            a.mov(dword_ptr(rbx + 4), 0x10)?;
            a.mov(eax, 0x10)?;
            a.sti()?;
            if lss {
                a.lss(eax, ptr(rbx))?;
            } else {
                a.mov(ss, eax)?;
            }
            a.inc(rdx)?;
            a.hlt()
        });
        let behind = INTERRUPT_WAITS + 7 + 5 + 1 + if lss { 3 } else { 2 };
        assert_eq!(s.run().1, [seen(0x40, behind + held, 0)], "LSS: {lss}");
    }
}

#[test]
fn a_load_of_ss_holds_nmis_off_for_one_instruction() {
    let mut s = start(false, |a| {
        a.mov(eax, 0x10)?;
        a.mov(ss, eax)?;
        a.inc(rdx)?;
        a.hlt()
    });
    s.vcpu.set_budget(Some(2)).unwrap();
    assert!(matches!(s.vcpu.run(VmEntry::Resume).unwrap(), VmExit::BudgetSpent));
    s.vcpu.inject_nmi().unwrap();
    assert_eq!(s.run().1, [seen(2, 5 + 2 + 3, 0)]);
}

#[test]
fn a_second_nmi_waits_for_iret() {
    let mut s = start(false, |a| {
        enable_apic(a)?;
        a.mov(dword_ptr(r13 + 0x300), 0x4400)?;
        a.inc(rcx)?;
        a.hlt()
    });
    // The handler sends two more, of which one is kept.
    let at = HANDLERS + 0x100;
    let mut a = CodeAssembler::new(64).unwrap();
    let mut again = a.create_label();
    a.cmp(r15, LOG as i32).unwrap();
    a.jne(again).unwrap();
    for _ in 0..2 {
        a.mov(dword_ptr(r13 + 0x300), 0x4400).unwrap();
    }
    a.set_label(&mut again).unwrap();
    handler(&mut a, 2, false, 0).unwrap();
    s.memory.write(at, &a.assemble(at).unwrap()).unwrap();
    assert_eq!(s.run().1, [seen(2, ENABLE_APIC + 11, 0); 2]);
}

#[test]
fn a_deadline_in_the_past_interrupts_at_once() {
    let mut s = start(false, |a| {
        enable_apic(a)?;
        a.mov(dword_ptr(r13 + 0x320), 0x4_0040)?;
        a.sti()?;
        a.mov(ecx, 0x6e0)?;
        a.mov(eax, 1)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.nop()?;
        a.hlt()
    });
    assert_eq!(s.run().1, [seen(0x40, ENABLE_APIC + 11 + 1 + 5 + 5 + 2 + 2, 0)]);
}

#[test]
fn cpuid_tells_whether_there_is_an_apic() {
    let mut s = start(false, |a| {
        a.mov(ecx, 0x1b)?;
        a.rdmsr()?;
        a.and(eax, !0xc00)?;
        a.wrmsr()?;
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.hlt()
    });
    assert_eq!(s.run().0.rdx & 1 << 9, 0);
    let x86 = s.vcpu.x86().unwrap();
    let mut system = x86.system_registers().unwrap();
    system.apic_base = APIC | 0x900;
    x86.set_system_registers(&system).unwrap();
    assert_ne!(x86.cpuid(1, 0).unwrap().edx & 1 << 9, 0);
}

#[test]
fn an_instruction_with_too_many_device_accesses_is_refused() {
    let mut s = start(false, |a| {
        a.mov(ebx, 0xd000_0000_u32)?;
        a.fxsave(ptr(rbx))
    });
    let exit = (0..100).find_map(|_| match s.vcpu.run(VmEntry::Resume).unwrap() {
        VmExit::Mmio { .. } => None,
        exit => Some(exit),
    });
    assert!(matches!(exit, Some(VmExit::Unsupported { rip, .. }) if rip == CODE + 5), "{exit:?}");
}
