//! Guests that make each kind of exit.

use iced_x86::code_asm::*;

use crate::asm::{DATA_OFFSET, REAL_LOAD, flat, flat_with_data, gate, halt, out_byte, tables};
use crate::{DEBUG_EXIT_PORT, Guest, Mode, RESULTS, TEST_MMIO, TEST_PORT};

const LONG_DATA: u64 = crate::asm::LONG_LOAD + DATA_OFFSET as u64;

/// Writes 0x11, 0x3322 and 0x77665544 to [`TEST_PORT`] with 1, 2 and 4 bytes, then reads 1, 2 and 4 bytes from
/// it and leaves them at [`RESULTS`] + 0, 2 and 4.
pub fn port_io(mode: Mode) -> Guest {
    let name = if mode == Mode::Real16 { "port-io-real" } else { "port-io" };
    flat(name, "IN and OUT of 1, 2 and 4 bytes", mode, |a| {
        a.mov(dx, u32::from(TEST_PORT))?;
        a.mov(eax, 0x11)?;
        a.out(dx, al)?;
        a.mov(eax, 0x3322)?;
        a.out(dx, ax)?;
        a.mov(eax, 0x7766_5544)?;
        a.out(dx, eax)?;
        a.in_(al, dx)?;
        a.mov(byte_ptr(RESULTS), al)?;
        a.in_(ax, dx)?;
        a.mov(word_ptr(RESULTS + 2), ax)?;
        a.in_(eax, dx)?;
        a.mov(dword_ptr(RESULTS + 4), eax)?;
        halt(a)
    })
}

/// `REP OUTS` of "abc" in bytes, "defg" in words and "hijklmno" in doublewords to [`TEST_PORT`], then `REP INS`
/// of 3 bytes, 2 words and 2 doublewords to [`RESULTS`] + 0, 4 and 8.
pub fn port_strings(mode: Mode) -> Guest {
    let (name, data) = match mode {
        Mode::Real16 => ("port-strings-real", REAL_LOAD + DATA_OFFSET as u64),
        Mode::Long64 | Mode::Multiboot => ("port-strings", LONG_DATA),
    };
    let guest = flat(name, "REP OUTS and REP INS of 1, 2 and 4 bytes", mode, |a| {
        a.cld()?;
        a.mov(dx, u32::from(TEST_PORT))?;
        a.mov(esi, data as u32)?;
        a.mov(ecx, 3)?;
        a.rep().outsb()?;
        a.mov(ecx, 2)?;
        a.rep().outsw()?;
        a.mov(ecx, 2)?;
        a.rep().outsd()?;
        a.mov(edi, RESULTS as u32)?;
        a.mov(ecx, 3)?;
        a.rep().insb()?;
        a.inc(edi)?;
        a.mov(ecx, 2)?;
        a.rep().insw()?;
        a.mov(ecx, 2)?;
        a.rep().insd()?;
        halt(a)
    });
    flat_with_data(guest, b"abcdefghijklmno")
}

/// Writes 0x11, 0x3322, 0x77665544 and 0xffeeddccbbaa9988 to [`TEST_MMIO`] + 0, 2, 4 and 8, then reads 1, 2, 4
/// and 8 bytes from + 0x10, 0x12, 0x14 and 0x18 and leaves them at [`RESULTS`] + 0, 2, 4 and 8.
pub fn mmio() -> Guest {
    flat("mmio", "memory-mapped reads and writes of 1, 2, 4 and 8 bytes", Mode::Long64, |a| {
        a.mov(ebx, TEST_MMIO as u32)?;
        a.mov(byte_ptr(rbx), 0x11)?;
        a.mov(word_ptr(rbx + 2), 0x3322)?;
        a.mov(dword_ptr(rbx + 4), 0x7766_5544)?;
        a.mov(rax, 0xffee_ddcc_bbaa_9988_u64)?;
        a.mov(qword_ptr(rbx + 8), rax)?;
        a.mov(al, byte_ptr(rbx + 0x10))?;
        a.mov(byte_ptr(RESULTS), al)?;
        a.mov(ax, word_ptr(rbx + 0x12))?;
        a.mov(word_ptr(RESULTS + 2), ax)?;
        a.mov(eax, dword_ptr(rbx + 0x14))?;
        a.mov(dword_ptr(RESULTS + 4), eax)?;
        a.mov(rax, qword_ptr(rbx + 0x18))?;
        a.mov(qword_ptr(RESULTS + 8), rax)?;
        halt(a)
    })
}

/// For k from 1 to 7: writes 0x8877665544332211 at k bytes before the end of [`TEST_MMIO`]'s page, so that k
/// bytes go to it and 8 − k to the next; then reads the same way and leaves what it read at [`RESULTS`] + 8k.
pub fn mmio_across_page() -> Guest {
    flat("mmio-across-page", "memory-mapped accesses of 8 bytes over a page's end", Mode::Long64, |a| {
        a.mov(ebx, TEST_MMIO as u32 + 0x1000)?;
        a.mov(rax, 0x8877_6655_4433_2211_u64)?;
        for k in 1..=7 {
            a.mov(qword_ptr(rbx - k), rax)?;
        }
        for k in 1..=7 {
            a.mov(rax, qword_ptr(rbx - k))?;
            a.mov(qword_ptr(RESULTS + k as u64 * 8), rax)?;
        }
        halt(a)
    })
}

/// Instructions that are not plain moves, on [`TEST_MMIO`]: `OR` of 1 byte with 0x80 at + 0, `XCHG` of 4 bytes
/// with 0x01020304 at + 4 (old value to [`RESULTS`] + 0), `MOVZX` of 2 bytes from + 8 (to [`RESULTS`] + 8), `PUSH`
/// of 8 bytes from + 0x10 and `POP` (to [`RESULTS`] + 16), and `REP MOVSD` of "squib!!!" to + 0x20.
pub fn mmio_instructions() -> Guest {
    let guest = flat(
        "mmio-instructions",
        "read-modify-write, stack and string accesses to a device",
        Mode::Long64,
        |a| {
            a.mov(esp, crate::asm::STACK)?;
            a.mov(ebx, TEST_MMIO as u32)?;
            a.or(byte_ptr(rbx), 0x80_i32)?;
            a.mov(eax, 0x0102_0304)?;
            a.xchg(dword_ptr(rbx + 4), eax)?;
            a.mov(dword_ptr(RESULTS), eax)?;
            a.movzx(eax, word_ptr(rbx + 8))?;
            a.mov(qword_ptr(RESULTS + 8), rax)?;
            a.push(qword_ptr(rbx + 0x10))?;
            a.pop(rax)?;
            a.mov(qword_ptr(RESULTS + 16), rax)?;
            a.cld()?;
            a.mov(esi, LONG_DATA as u32)?;
            a.lea(edi, ptr(rbx + 0x20))?;
            a.mov(ecx, 2)?;
            a.rep().movsd()?;
            halt(a)
        },
    );
    flat_with_data(guest, b"squib!!!")
}

/// Halts at once, with interrupts off.
pub fn hlt(mode: Mode) -> Guest {
    let name = if mode == Mode::Real16 { "hlt-real" } else { "hlt" };
    flat(name, "HLT", mode, halt)
}

/// Loads an empty interrupt table and executes `UD2`.
pub fn triple_fault() -> Guest {
    let guest = flat(
        "triple-fault",
        "an exception without a handler for it or for what follows",
        Mode::Long64,
        |a| {
            a.lidt(tbyte_ptr(LONG_DATA))?;
            a.ud2()
        },
    );
    flat_with_data(guest, &[0; 10])
}

/// The instruction of a hypercall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypercall {
    /// Intel's.
    Vmcall,
    /// AMD's.
    Vmmcall,
}

/// Makes hypercall `func` with `args` in RBX, RCX, RDX and RSI, and leaves RAX at [`RESULTS`].
pub fn hypercall(instruction: Hypercall, func: u64, args: [u64; 4]) -> Guest {
    let (name, about) = match instruction {
        Hypercall::Vmcall => ("vmcall", "a hypercall by VMCALL"),
        Hypercall::Vmmcall => ("vmmcall", "a hypercall by VMMCALL"),
    };
    flat(name, about, Mode::Long64, |a| {
        a.mov(rax, func)?;
        for (register, value) in [rbx, rcx, rdx, rsi].into_iter().zip(args) {
            a.mov(register, value)?;
        }
        match instruction {
            Hypercall::Vmcall => a.vmcall()?,
            Hypercall::Vmmcall => a.vmmcall()?,
        }
        a.mov(qword_ptr(RESULTS), rax)?;
        halt(a)
    })
}

/// Writes `value` to model-specific register `index`, reads it back, and leaves what it read at [`RESULTS`] and
/// how many of the two accesses raised #GP at [`RESULTS`] + 8.
pub fn msr(index: u32, value: u64) -> Guest {
    flat("msr", "WRMSR and RDMSR, with a #GP handler", Mode::Long64, |a| {
        let mut general_protection = a.create_label();
        tables(a)?;
        gate(a, 13, 0, general_protection)?;
        a.mov(ecx, index)?;
        a.mov(eax, value as u32)?;
        a.mov(edx, (value >> 32) as u32)?;
        a.wrmsr()?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.rdmsr()?;
        a.mov(dword_ptr(RESULTS), eax)?;
        a.mov(dword_ptr(RESULTS + 4), edx)?;
        halt(a)?;
        a.set_label(&mut general_protection)?;
        a.inc(qword_ptr(RESULTS + 8))?;
        // Over the error code, and over the two bytes of the instruction.
        a.add(rsp, 8)?;
        a.add(qword_ptr(rsp), 2)?;
        a.iretq()
    })
}

/// Counts in RAX for ever, without an exit.
pub fn spin(mode: Mode) -> Guest {
    let name = if mode == Mode::Real16 { "spin-real" } else { "spin" };
    flat(name, "an endless loop without exits", mode, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(eax)?;
        a.jmp(again)
    })
}

/// Adds n for n from 1 to 100 by an `ADD EAX, imm32` whose operand it rewrites just before it is executed, leaves
/// the sum, 5050, at [`RESULTS`], and halts.
pub fn self_modifying() -> Guest {
    flat("self-modifying", "code that changes the next instruction", Mode::Long64, |a| {
        let (mut again, mut patched) = (a.create_label(), a.create_label());
        a.xor(eax, eax)?;
        a.mov(ecx, 1)?;
        a.lea(rbx, ptr(patched))?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(rbx + 1), ecx)?;
        a.set_label(&mut patched)?;
        // ADD EAX, imm32 in the encoding with a one-byte opcode, so that the operand is at + 1.
        a.db(&[0x05, 0, 0, 0, 0])?;
        a.inc(ecx)?;
        a.cmp(ecx, 100)?;
        a.jbe(again)?;
        a.mov(dword_ptr(RESULTS), eax)?;
        halt(a)
    })
}

/// Prints `text` on COM1 as a driver does, waiting for room before each byte, and ends by the debug exit with 0.
pub fn uart_hello(text: &str) -> Guest {
    let guest = flat("uart-hello", "a line on COM1, then the debug exit", Mode::Long64, |a| {
        let (mut next, mut wait, mut done) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(esi, LONG_DATA as u32)?;
        a.set_label(&mut next)?;
        a.lodsb()?;
        a.test(al, al)?;
        a.jz(done)?;
        a.mov(bl, al)?;
        a.mov(dx, 0x3fd)?;
        a.set_label(&mut wait)?;
        a.in_(al, dx)?;
        a.test(al, 0x20)?;
        a.jz(wait)?;
        a.mov(dx, 0x3f8)?;
        a.mov(al, bl)?;
        a.out(dx, al)?;
        a.jmp(next)?;
        a.set_label(&mut done)?;
        out_byte(a, DEBUG_EXIT_PORT, 0)?;
        halt(a)
    });
    flat_with_data(guest, &[text.as_bytes(), &[0]].concat())
}

/// Writes `chunks` times 32 KiB to COM1 without waiting for room, and ends by the debug exit with 0.
pub fn uart_flood(chunks: u16) -> Guest {
    flat("uart-flood", "more output on COM1 than anybody reads", Mode::Real16, |a| {
        let mut again = a.create_label();
        a.mov(dx, 0x3f8)?;
        a.mov(bx, u32::from(chunks))?;
        a.set_label(&mut again)?;
        a.mov(cx, 0x8000)?;
        a.xor(si, si)?;
        a.rep().outsb()?;
        a.dec(bx)?;
        a.jnz(again)?;
        out_byte(a, DEBUG_EXIT_PORT, 0)?;
        halt(a)
    })
}

/// Writes all ones and then zeros to every `step`th address of each range, reads there, and ends by the debug exit
/// with 0. A range is (first address, end, step).
pub fn mmio_sweep(ranges: &[(u32, u32, u32)]) -> Guest {
    flat("mmio-sweep", "accesses all over memory-mapped devices", Mode::Long64, |a| {
        for &(start, end, step) in ranges {
            let mut next = a.create_label();
            a.mov(edi, start)?;
            a.mov(esi, end)?;
            a.set_label(&mut next)?;
            a.mov(dword_ptr(rdi), -1)?;
            a.mov(dword_ptr(rdi), 0)?;
            a.mov(eax, dword_ptr(rdi))?;
            a.add(rdi, step as i32)?;
            a.cmp(rdi, rsi)?;
            a.jb(next)?;
        }
        out_byte(a, DEBUG_EXIT_PORT, 0)?;
        halt(a)
    })
}
