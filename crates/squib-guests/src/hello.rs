//! The demo guest: a program that shows a working machine without any operating system.
//!
//! It starts as multiboot loaders start a kernel, in 32-bit protected mode, goes to 64-bit mode, draws the
//! Mandelbrot set on COM1 with integers, lets the line device at [`LINE_PORT`] say what it has to say, and then
//! hands each line that is typed to that device and prints the answer. It sleeps in `HLT` until COM1 interrupts.
//! `q` at the start of a line, or Ctrl-D, powers the machine off.

use iced_x86::code_asm::*;

use crate::asm::{Assembled, CODE_SELECTOR, STACK, assemble, gate, halt, identity_map, out_byte, tables};
use crate::elf::{elf32, multiboot_header};
use crate::interrupts::pic_setup;
use crate::{DEBUG_EXIT_PORT, Guest, LINE_PORT, Mode};

const LOAD: u32 = 0x10_0000;
/// Where the 64-bit part begins, after the multiboot header and the way into 64-bit mode.
const LONG_OFFSET: u32 = 0x200;

const COM1: u16 = 0x3f8;
const COM1_VECTOR: u8 = 0x24;

/// The platform's ACPI sleep control register, and what powers off: SLP_EN with sleep type 5 (ACPI 6.5, 4.8.3.7).
const SLEEP_CONTROL: u16 = 0x600;
const POWER_OFF: u32 = 1 << 5 | 5 << 2;

/// What an answer of the line device is cut to, in bytes.
const LONGEST_ANSWER: u32 = 512;

const BANNER: &str = "\r\n  squib: hello from 64-bit mode, with no operating system\r\n\r\n";
const DEVICE: &str = "\r\n  device at port 0x510: ";
const HELP: &str = "\r\n  Type a line for the device; q powers off.\r\n";
const PROMPT: &str = "\r\n> ";
const GOODBYE: &str = "\r\n  powering off\r\n";
/// From far outside of the set to its inside.
const SHADES: &[u8; 16] = b" .,:;-~=+*oO#%@ ";

/// The demo guest.
pub fn hello() -> Guest {
    let start = assemble(32, u64::from(LOAD), enter_long_mode);
    assert!(start.len() <= LONG_OFFSET as usize, "the 32-bit part runs into the 64-bit part");
    let mut contents = start;
    contents.resize(LONG_OFFSET as usize, 0);
    contents.extend(assemble(64, u64::from(LOAD + LONG_OFFSET), program));
    let entry = LOAD + multiboot_header().len() as u32;
    let memory_len = contents.len() as u32;
    Guest {
        name: "hello",
        about: "the demo: a banner, the Mandelbrot set, and a conversation with a device",
        mode: Mode::Multiboot,
        load_addr: u64::from(LOAD),
        image: elf32(LOAD, entry, &contents, memory_len),
    }
}

/// 32-bit protected mode, flat segments, paging off: the state that multiboot gives.
fn enter_long_mode(a: &mut CodeAssembler) -> Assembled {
    let gdt = LOAD + 0x1c0;
    a.db(&multiboot_header())?;
    a.cli()?;
    a.mov(esp, STACK)?;
    identity_map(a)?;
    a.mov(cr3, eax)?;
    a.mov(eax, cr4)?;
    a.or(eax, 1 << 5)?;
    a.mov(cr4, eax)?;
    a.mov(ecx, 0xc000_0080_u32)?;
    a.rdmsr()?;
    a.or(eax, 1 << 8)?;
    a.wrmsr()?;
    // The descriptors go to the end of this part's room, where 32-bit code can name them.
    for (i, word) in [0u32, 0, 0xffff, 0x00af_9b00].into_iter().enumerate() {
        a.mov(dword_ptr(u64::from(gdt) + 4 * i as u64), word)?;
    }
    a.mov(word_ptr(u64::from(gdt) + 18), 15)?;
    a.mov(dword_ptr(u64::from(gdt) + 20), gdt)?;
    a.lgdt(fword_ptr(u64::from(gdt) + 18))?;
    a.mov(eax, cr0)?;
    a.or(eax, 0x8000_0001_u32)?;
    a.mov(cr0, eax)?;
    a.push(CODE_SELECTOR as i32)?;
    a.push((LOAD + LONG_OFFSET) as i32)?;
    a.retf()
}

/// The labels that the parts of the 64-bit program share.
struct Labels {
    /// Prints the zero-terminated text at RSI.
    print: CodeLabel,
    /// Prints the byte in AL.
    put: CodeLabel,
    /// Prints what the line device has to say.
    answer: CodeLabel,
    /// Waits for a byte from COM1, into AL.
    get: CodeLabel,
}

fn program(a: &mut CodeAssembler) -> Assembled {
    let mut labels = Labels {
        print: a.create_label(),
        put: a.create_label(),
        answer: a.create_label(),
        get: a.create_label(),
    };
    let (mut banner, mut device, mut help, mut prompt, mut goodbye, mut shades) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    let mut received = a.create_label();
    tables(a)?;
    gate(a, COM1_VECTOR, 0, received)?;
    pic_setup(a, 0xef)?;
    // 8 data bits, FIFOs on, interrupts for received data, OUT2 to let them through.
    for (register, value) in [(3, 3), (2, 7), (1, 1), (4, 0xb)] {
        out_byte(a, COM1 + register, value)?;
    }
    a.lea(rsi, ptr(banner))?;
    a.call(labels.print)?;
    mandelbrot(a, &labels, shades)?;
    a.lea(rsi, ptr(device))?;
    a.call(labels.print)?;
    a.call(labels.answer)?;
    a.lea(rsi, ptr(help))?;
    a.call(labels.print)?;
    converse(a, &labels, prompt)?;
    a.lea(rsi, ptr(goodbye))?;
    a.call(labels.print)?;
    power_off(a)?;
    a.set_label(&mut received)?;
    a.push(rax)?;
    a.push(rdx)?;
    out_byte(a, 0x20, 0x20)?;
    a.pop(rdx)?;
    a.pop(rax)?;
    a.iretq()?;
    subroutines(a, &mut labels)?;
    for (label, text) in [
        (&mut banner, BANNER),
        (&mut device, DEVICE),
        (&mut help, HELP),
        (&mut prompt, PROMPT),
        (&mut goodbye, GOODBYE),
    ] {
        a.set_label(label)?;
        a.db(text.as_bytes())?;
        a.db(&[0])?;
    }
    a.set_label(&mut shades)?;
    a.db(SHADES)
}

/// 22 rows of 64 points from (−2.1, −1.2) to (0.7, 1.2), in fixed point with 24 fractional bits.
fn mandelbrot(a: &mut CodeAssembler, labels: &Labels, shades: CodeLabel) -> Assembled {
    const ONE: f64 = (1 << 24) as f64;
    let fixed = |x: f64| (x * ONE) as i32;
    let (columns, rows) = (64, 22);
    let (mut row, mut column, mut iterate, mut escaped) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(r9, i64::from(fixed(-1.2)) as u64)?;
    a.mov(ebp, rows)?;
    a.set_label(&mut row)?;
    a.mov(r8, i64::from(fixed(-2.1)) as u64)?;
    a.mov(ebx, columns)?;
    a.set_label(&mut column)?;
    // z = R10 + i R11, c = R8 + i R9, the count in ECX.
    a.xor(r10, r10)?;
    a.xor(r11, r11)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut iterate)?;
    a.mov(rax, r10)?;
    a.imul_2(rax, rax)?;
    a.mov(rdx, r11)?;
    a.imul_2(rdx, rdx)?;
    a.lea(rdi, ptr(rax + rdx))?;
    a.shr(rdi, 24)?;
    a.cmp(rdi, fixed(4.0))?;
    a.ja(escaped)?;
    a.sub(rax, rdx)?;
    a.sar(rax, 24)?;
    a.imul_2(r11, r10)?;
    a.sar(r11, 23)?;
    a.add(r11, r9)?;
    a.lea(r10, ptr(rax + r8))?;
    a.inc(ecx)?;
    a.cmp(ecx, 60)?;
    a.jb(iterate)?;
    a.set_label(&mut escaped)?;
    a.shr(ecx, 2)?;
    a.lea(rsi, ptr(shades))?;
    a.mov(al, byte_ptr(rsi + rcx))?;
    a.call(labels.put)?;
    a.add(r8, fixed(2.8 / 64.0))?;
    a.dec(ebx)?;
    a.jnz(column)?;
    for byte in *b"\r\n" {
        a.mov(al, u32::from(byte))?;
        a.call(labels.put)?;
    }
    a.add(r9, fixed(2.4 / 22.0))?;
    a.dec(ebp)?;
    a.jnz(row)
}

/// Hands lines to the device until `q` or Ctrl-D. EBX is the length of the line so far.
fn converse(a: &mut CodeAssembler, labels: &Labels, prompt: CodeLabel) -> Assembled {
    let (mut line, mut next, mut entered, mut end, mut not_q) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.set_label(&mut line)?;
    a.lea(rsi, ptr(prompt))?;
    a.call(labels.print)?;
    a.xor(ebx, ebx)?;
    a.set_label(&mut next)?;
    a.call(labels.get)?;
    a.cmp(al, 4)?;
    a.je(end)?;
    a.cmp(al, i32::from(b'\r'))?;
    a.je(entered)?;
    a.cmp(al, i32::from(b'\n'))?;
    a.je(entered)?;
    a.cmp(al, i32::from(b'q'))?;
    a.jne(not_q)?;
    a.test(ebx, ebx)?;
    a.jz(end)?;
    a.set_label(&mut not_q)?;
    a.inc(ebx)?;
    a.call(labels.put)?;
    a.mov(dx, u32::from(LINE_PORT))?;
    a.out(dx, al)?;
    a.jmp(next)?;
    a.set_label(&mut entered)?;
    a.test(ebx, ebx)?;
    a.jz(line)?;
    out_byte(a, LINE_PORT, u32::from(b'\n'))?;
    for byte in *b"\r\n" {
        a.mov(al, u32::from(byte))?;
        a.call(labels.put)?;
    }
    a.call(labels.answer)?;
    a.jmp(line)?;
    a.set_label(&mut end)
}

/// By ACPI; where that does nothing, by the debug exit.
fn power_off(a: &mut CodeAssembler) -> Assembled {
    out_byte(a, SLEEP_CONTROL, POWER_OFF)?;
    out_byte(a, DEBUG_EXIT_PORT, 0)?;
    a.cli()?;
    halt(a)
}

fn subroutines(a: &mut CodeAssembler, labels: &mut Labels) -> Assembled {
    let mut done = a.create_label();
    a.set_label(&mut labels.print)?;
    a.lodsb()?;
    a.test(al, al)?;
    a.jz(done)?;
    a.call(labels.put)?;
    a.jmp(labels.print)?;
    a.set_label(&mut done)?;
    a.ret()?;

    let mut wait = a.create_label();
    a.set_label(&mut labels.put)?;
    a.mov(ah, al)?;
    a.mov(dx, u32::from(COM1) + 5)?;
    a.set_label(&mut wait)?;
    a.in_(al, dx)?;
    a.test(al, 0x20)?;
    a.jz(wait)?;
    a.mov(al, ah)?;
    a.mov(dx, u32::from(COM1))?;
    a.out(dx, al)?;
    a.ret()?;

    let (mut next, mut end) = (a.create_label(), a.create_label());
    a.set_label(&mut labels.answer)?;
    a.mov(ecx, LONGEST_ANSWER)?;
    a.set_label(&mut next)?;
    a.mov(dx, u32::from(LINE_PORT))?;
    a.in_(al, dx)?;
    // Nothing more to say, or nothing there: an empty bus reads as all ones.
    a.lea(edx, ptr(rax + 1))?;
    a.cmp(dl, 1)?;
    a.jbe(end)?;
    a.call(labels.put)?;
    a.dec(ecx)?;
    a.jnz(next)?;
    a.set_label(&mut end)?;
    a.ret()?;

    // Interrupts are on only around HLT, so that none is lost between looking and sleeping.
    let mut take = a.create_label();
    a.set_label(&mut labels.get)?;
    a.mov(dx, u32::from(COM1) + 5)?;
    a.in_(al, dx)?;
    a.test(al, 1)?;
    a.jnz(take)?;
    a.sti()?;
    a.hlt()?;
    a.cli()?;
    a.jmp(labels.get)?;
    a.set_label(&mut take)?;
    a.mov(dx, u32::from(COM1))?;
    a.in_(al, dx)?;
    a.ret()
}
