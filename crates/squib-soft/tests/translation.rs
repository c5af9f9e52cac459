//! What the translation cache may keep, and what it must not: rights and mappings that change under it.

mod support;

use iced_x86::code_asm::*;
use squib_core::x86::bits;
use support::{CODE, DATA, Seen, start};

/// The entry of the second 2 MiB of linear memory, in the page directory of the test's tables.
const ENTRY: u64 = 0x7008;
const SECOND: u64 = 0x20_0000;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;

fn fault(at: u64) -> Seen {
    Seen { vector: 14, rip: CODE + at, dr6: 0 }
}

/// Puts `value` into [`ENTRY`].
fn set_entry(a: &mut CodeAssembler, value: u64) -> Result<(), IcedError> {
    a.mov(dword_ptr(ENTRY), value as i32)
}

/// Length in bytes of what [`set_entry`] assembles.
const SET_ENTRY: u64 = 11;

#[test]
fn invlpg_takes_the_whole_of_a_large_page() {
    for global in [0, GLOBAL] {
        let mut s = start(false, |a| {
            a.mov(rax, cr4)?;
            a.or(eax, bits::CR4_PGE as i32)?;
            a.mov(cr4, rax)?;
            set_entry(a, SECOND | LARGE | global | PRESENT_WRITABLE)?;
            a.invlpg(byte_ptr(SECOND))?;
            // Three pieces of it become known, for reading and for writing.
            a.mov(rcx, qword_ptr(SECOND + 0x1008))?;
            a.mov(qword_ptr(SECOND + 0x5008), rcx)?;
            a.mov(rcx, qword_ptr(SECOND + 0x1f_f008))?;
            // It shows the first 2 MiB instead.
            set_entry(a, LARGE | global | PRESENT_WRITABLE)?;
            a.invlpg(byte_ptr(SECOND + 0x8_0000))?;
            a.mov(rsi, qword_ptr(SECOND + DATA))?;
            a.mov(rdx, qword_ptr(SECOND + 0x1008))?;
            a.mov(qword_ptr(SECOND + 0x5008), rdx)?;
            a.mov(rdi, qword_ptr(SECOND + 0x1f_f008))?;
            a.hlt()
        });
        for (at, value) in [(0x1008, 1_u64), (DATA, 2), (0x1f_f008, 3), (SECOND + 0x1f_f008, 4)] {
            s.memory.write(at, &value.to_le_bytes()).unwrap();
        }
        let (r, _) = s.run();
        assert_eq!((r.rsi, r.rdi, r.rcx), (2, 3, 4), "global: {global:#x}");
        let mut word = [0; 8];
        s.memory.read(SECOND + 0x5008, &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), 0, "the second store goes elsewhere");
    }
}

#[test]
fn a_gigabyte_is_one_page() {
    /// Entry 1 of the page-directory pointers.
    const POINTER: u64 = 0x6008;
    let mut s = start(false, |a| {
        a.mov(dword_ptr(POINTER), (LARGE | PRESENT_WRITABLE) as i32)?;
        a.mov(eax, 0x4030_1008)?;
        a.mov(ecx, 0x4008_5008)?;
        a.mov(rdx, qword_ptr(rax))?;
        a.mov(qword_ptr(rcx), rdx)?;
        a.mov(esi, dword_ptr(POINTER))?;
        a.mov(dword_ptr(POINTER), 0)?;
        a.mov(edi, 0x4020_0000)?;
        a.invlpg(byte_ptr(rdi))?;
        a.mov(rbp, qword_ptr(rax))?;
        a.mov(qword_ptr(rcx), rbp)?;
        a.hlt()
    });
    s.memory.write(0x30_1008, &7_u64.to_le_bytes()).unwrap();
    let begin = 11 + 5 + 5 + 3 + 3 + 7 + 11 + 5 + 3;
    let (r, log) = s.run();
    assert_eq!((r.rdx, r.rsi & 0x60), (7, 0x60), "accessed and dirty");
    assert_eq!(log, [fault(begin), fault(begin + 3)]);
    let mut word = [0; 8];
    s.memory.read(0x8_5008, &mut word).unwrap();
    assert_eq!(u64::from_le_bytes(word), 7);
}

#[test]
fn invlpg_leaves_code_of_a_large_page_no_translation() {
    // A call into a large page, which then shows other memory with other code at that place.
    let mut s = start(false, |a| {
        a.mov(eax, (SECOND + 0x3000) as u32)?;
        a.call(rax)?;
        set_entry(a, LARGE | PRESENT_WRITABLE)?;
        a.invlpg(byte_ptr(SECOND))?;
        a.call(rax)?;
        a.hlt()
    });
    for (at, register) in [(SECOND + 0x3000, 0xc2), (0x3000, 0xc3)] {
        // INC EDX or INC EBX; RET
        s.memory.write(at, &[0xff, register, 0xc3]).unwrap();
    }
    let (r, _) = s.run();
    assert_eq!((r.rdx, r.rbx), (1, DATA + 1));
}

#[test]
fn stores_obey_write_protection_as_soon_as_it_is_on() {
    let mut s = start(false, |a| {
        set_entry(a, SECOND | LARGE | 1)?;
        a.mov(eax, SECOND as u32)?;
        a.invlpg(byte_ptr(rax))?;
        a.mov(rcx, cr0)?;
        a.mov(qword_ptr(rax), rcx)?;
        a.or(ecx, bits::CR0_WP as i32)?;
        a.mov(cr0, rcx)?;
        a.mov(qword_ptr(rax), rcx)?;
        a.and(ecx, !(bits::CR0_WP as i32))?;
        a.mov(cr0, rcx)?;
        a.mov(qword_ptr(rax), rsi)?;
        a.hlt()
    });
    assert_eq!(s.run().1, [fault(SET_ENTRY + 5 + 3 + 3 + 3 + 6 + 3)]);
}

#[test]
fn loads_obey_smap_as_soon_as_it_is_on_and_ac_opens_it() {
    let smap = squib_x86::system::bits::CR4_SMAP as i32;
    let mut s = start(false, |a| {
        for table in [0x5000, 0x6000] {
            a.or(dword_ptr(table), 4)?;
        }
        set_entry(a, SECOND | LARGE | 7)?;
        a.mov(eax, SECOND as u32)?;
        a.invlpg(byte_ptr(rax))?;
        a.mov(rdx, qword_ptr(rax))?;
        a.mov(rcx, cr4)?;
        a.or(ecx, smap)?;
        a.mov(cr4, rcx)?;
        a.mov(rdx, qword_ptr(rax))?;
        a.stac()?;
        a.mov(rdx, qword_ptr(rax))?;
        a.clac()?;
        a.mov(rdx, qword_ptr(rax))?;
        a.hlt()
    });
    let first = 2 * 8 + SET_ENTRY + 5 + 3 + 3 + 3 + 6 + 3;
    assert_eq!(s.run().1, [fault(first), fault(first + 3 + 3 + 3 + 3)]);
}

#[test]
fn global_pages_outlast_cr3_and_end_with_cr4_pge() {
    let mut s = start(false, |a| {
        a.mov(rax, cr4)?;
        a.or(eax, bits::CR4_PGE as i32)?;
        a.mov(cr4, rax)?;
        set_entry(a, SECOND | LARGE | GLOBAL | PRESENT_WRITABLE)?;
        a.invlpg(byte_ptr(SECOND))?;
        a.mov(rcx, qword_ptr(SECOND))?;
        // Absent from here on, which nobody is told of.
        set_entry(a, 0)?;
        a.mov(rdx, cr3)?;
        a.mov(cr3, rdx)?;
        a.mov(ecx, SECOND as u32)?;
        a.mov(rdi, qword_ptr(rcx))?;
        a.and(eax, !(bits::CR4_PGE as i32))?;
        a.mov(cr4, rax)?;
        a.mov(rdi, qword_ptr(rcx))?;
        a.hlt()
    });
    let begin = 3 + 5 + 3 + SET_ENTRY + 8 + 8 + SET_ENTRY + 3 + 3 + 5;
    assert_eq!(s.run().1, [fault(begin + 3 + 5 + 3)]);
}
