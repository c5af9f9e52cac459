//! What several guests are put together from.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::{Guest, Mode};

/// Where flat guests are loaded: clear of real mode's tables and of what [`start`](crate::Guest::start) sets up.
pub(crate) const REAL_LOAD: u64 = 0x7c00;
pub(crate) const LONG_LOAD: u64 = 0x10_0000;

/// Offset from the load address of the data that [`flat_with_data`] appends.
pub(crate) const DATA_OFFSET: usize = 0x200;

/// Top of the stack of guests that need one.
pub(crate) const STACK: u32 = 0x8_0000;

/// The code segment of every 64-bit guest's own descriptor table.
pub(crate) const CODE_SELECTOR: u32 = 8;

const IDT: u64 = 0x3000;
const PAGE_TABLES: u32 = 0x1_0000;

pub(crate) type Assembled = Result<(), IcedError>;

/// The bytes of the program that `body` writes, for `address`.
///
/// # Panics
/// When `body` asks for an instruction that does not exist, which every test run would show.
pub(crate) fn assemble(
    bits: u32,
    address: u64,
    body: impl FnOnce(&mut CodeAssembler) -> Assembled,
) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).expect("16, 32 or 64 bits");
    body(&mut a).and_then(|()| a.assemble(address)).expect("the guest is written in valid instructions")
}

/// A flat guest: one image, entered at its first byte.
pub(crate) fn flat(
    name: &'static str,
    about: &'static str,
    mode: Mode,
    body: impl FnOnce(&mut CodeAssembler) -> Assembled,
) -> Guest {
    let (bits, load_addr) = match mode {
        Mode::Real16 => (16, REAL_LOAD),
        Mode::Long64 | Mode::Multiboot => (64, LONG_LOAD),
    };
    Guest { name, about, mode, load_addr, image: assemble(bits, load_addr, body) }
}

/// A flat guest with `data` at [`DATA_OFFSET`].
pub(crate) fn flat_with_data(mut guest: Guest, data: &[u8]) -> Guest {
    assert!(guest.image.len() <= DATA_OFFSET, "code runs into its data");
    guest.image.resize(DATA_OFFSET, 0);
    guest.image.extend_from_slice(data);
    guest
}

/// Halts, and halts again if something wakes it.
pub(crate) fn halt(a: &mut CodeAssembler) -> Assembled {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.hlt()?;
    a.jmp(again)
}

/// `OUT port, AL` with the port in DX.
pub(crate) fn out_byte(a: &mut CodeAssembler, port: u16, value: u32) -> Assembled {
    a.mov(dx, u32::from(port))?;
    a.mov(al, value)?;
    a.out(dx, al)
}

/// 64-bit: a stack, a descriptor table of the guest's own, CS reloaded from it, and an empty IDT.
pub(crate) fn tables(a: &mut CodeAssembler) -> Assembled {
    let (mut gdt, mut gdtr, mut idtr, mut reloaded, mut over) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.jmp(over)?;
    a.set_label(&mut gdt)?;
    a.dq(&GDT)?;
    a.set_label(&mut gdtr)?;
    a.dw(&[size_of_val(&GDT) as u16 - 1])?;
    a.dq(&[0])?;
    a.set_label(&mut idtr)?;
    a.dw(&[0xfff])?;
    a.dq(&[IDT])?;
    a.set_label(&mut over)?;
    a.mov(esp, STACK)?;
    a.lea(rax, ptr(gdt))?;
    a.lea(rbx, ptr(gdtr))?;
    a.mov(qword_ptr(rbx + 2), rax)?;
    a.lgdt(tbyte_ptr(rbx))?;
    a.lidt(tbyte_ptr(idtr))?;
    a.push(CODE_SELECTOR as i32)?;
    a.lea(rax, ptr(reloaded))?;
    a.push(rax)?;
    a.retf()?;
    a.set_label(&mut reloaded)?;
    a.mov(eax, CODE_SELECTOR + 8)?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)
}

/// Selectors 8 and 16: ring-0 code and data; 24 and 32: ring-3 data and code; 40: the task state segment.
const GDT: [u64; 7] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0x0000_8900_0000_0067 | (TSS << 16),
    0,
];
pub(crate) const USER_DATA_SELECTOR: u32 = 24 | 3;
pub(crate) const USER_CODE_SELECTOR: u32 = 32 | 3;
pub(crate) const TSS_SELECTOR: u32 = 40;
pub(crate) const TSS: u64 = 0x2000;

/// 64-bit: makes `handler` the interrupt gate of `vector`, callable by software from rings up to `dpl`.
/// Changes RAX.
pub(crate) fn gate(a: &mut CodeAssembler, vector: u8, dpl: u32, handler: CodeLabel) -> Assembled {
    let at = IDT + u64::from(vector) * 16;
    a.lea(rax, ptr(handler))?;
    a.mov(word_ptr(at), ax)?;
    a.mov(word_ptr(at + 2), CODE_SELECTOR)?;
    a.mov(word_ptr(at + 4), 0x8e00 | dpl << 13)?;
    a.shr(rax, 16)?;
    a.mov(word_ptr(at + 6), ax)?;
    a.shr(rax, 16)?;
    a.mov(dword_ptr(at + 8), eax)
}

/// 32-bit or 64-bit: maps the first 4 GiB one to one for both rings, and leaves the address for CR3 in EAX. Changes
/// EDI.
pub(crate) fn identity_map(a: &mut CodeAssembler) -> Assembled {
    let (pdpt, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    let mut entry = |at: u32, value: u32| {
        a.mov(dword_ptr(u64::from(at)), value)?;
        a.mov(dword_ptr(u64::from(at) + 4), 0)
    };
    entry(PAGE_TABLES, pdpt | 7)?;
    for gib in 0..4 {
        entry(pdpt + gib * 8, (directories + gib * 0x1000) | 7)?;
    }
    a.mov(edi, directories)?;
    a.mov(eax, 0x87)?;
    let mut next = a.create_label();
    a.set_label(&mut next)?;
    if a.bitness() == 64 {
        a.mov(qword_ptr(rdi), rax)?;
    } else {
        a.mov(dword_ptr(edi), eax)?;
        a.mov(dword_ptr(edi + 4), 0)?;
    }
    a.add(edi, 8)?;
    a.add(eax, 0x20_0000)?;
    a.cmp(edi, directories + 0x4000)?;
    a.jb(next)?;
    a.mov(eax, PAGE_TABLES)
}
