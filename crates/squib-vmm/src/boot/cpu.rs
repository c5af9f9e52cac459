//! The processor modes in which a guest is entered (Intel SDM vol. 3, chapters 3, 4 and 9).

use squib_core::Result;
use squib_core::memory::{HIGH_RAM_START, PAGE_SIZE};
use squib_core::x86::{DescriptorTable, Registers, Segment, SystemRegisters, X86State, bits};

use super::layout;
use super::memory_map::MemoryMap;
use super::placement::{Part, Placer};

/// Selectors of the flat segments, those that Linux asks for (`__BOOT_CS`, `__BOOT_DS`).
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
/// Selector of the task state segment, which takes two entries in long mode.
const TASK: u16 = 0x20;

/// IA32_APIC_BASE of the boot processor after reset: enabled, at 0xFEE00000 (Intel SDM vol. 3, 11.4.4).
const APIC_BASE: u64 = 0xfee0_0000 | 1 << 11 | 1 << 8;

/// IA32_MTRR_DEF_TYPE (Intel SDM vol. 3, 12.11.2.1).
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// Memory types by range are on, and all memory is write-back, RAM and the rest alike: the types that matter are those of
/// the guest's page tables. Firmware leaves them on; Linux distrusts a machine where they are off.
const MTRRS_ON: u64 = 1 << 11 | 6;

/// Bytes that one page directory maps.
const DIRECTORY_SPAN: u64 = 1 << 30;
/// Bytes that one entry of a page directory maps.
const HUGE_PAGE: u64 = 2 << 20;
const PRESENT_WRITABLE: u64 = 0b11;
const PAGE_SIZE_BIT: u64 = 1 << 7;

/// Registers at an entry, all others zero, interrupts off.
pub(super) fn registers(rip: u64) -> Registers {
    Registers { rip, rflags: bits::RFLAGS_FIXED, ..Registers::default() }
}

/// Leaves the memory types as firmware does, for a guest that is entered without any.
///
/// # Errors
/// What the backend reports.
pub(super) fn set_memory_types(cpu: &mut dyn X86State) -> Result<()> {
    cpu.set_msr(MTRR_DEF_TYPE, MTRRS_ON)
}

/// Real mode with all segments but CS at 0.
pub(super) fn real16(code: u16) -> SystemRegisters {
    let data = Segment::real_mode(0);
    SystemRegisters {
        cs: Segment { kind: 0xb, ..Segment::real_mode(code) },
        gdt: DescriptorTable { base: 0, limit: 0xffff },
        idt: DescriptorTable { base: 0, limit: 0x3ff },
        cr0: bits::CR0_ET,
        ..with_data_segments(data)
    }
}

/// Protected mode without paging: flat 32-bit segments.
pub(super) fn protected32(placer: &mut Placer<'_>) -> Result<SystemRegisters> {
    let cs = Segment::flat_code(CODE, false);
    let cr0 = bits::CR0_PE | bits::CR0_ET;
    Ok(SystemRegisters {
        cs,
        gdt: put_gdt(placer, &cs)?,
        cr0,
        ..with_data_segments(Segment::flat_data(DATA))
    })
}

/// Long mode: 64-bit code, identity mapping.
pub(super) fn long64(placer: &mut Placer<'_>, map: &MemoryMap) -> Result<SystemRegisters> {
    let cs = Segment::flat_code(CODE, true);
    Ok(SystemRegisters {
        cs,
        gdt: put_gdt(placer, &cs)?,
        cr0: bits::CR0_PE | bits::CR0_ET | bits::CR0_NE | bits::CR0_PG,
        cr3: put_identity_map(placer, map)?,
        cr4: bits::CR4_PAE,
        efer: bits::EFER_LME | bits::EFER_LMA,
        ..with_data_segments(Segment::flat_data(DATA))
    })
}

fn with_data_segments(data: Segment) -> SystemRegisters {
    SystemRegisters {
        es: data,
        ss: data,
        ds: data,
        fs: data,
        gs: data,
        ldt: Segment { unusable: true, ..Segment::default() },
        tr: Segment::task_state(TASK, 0, 0x67),
        apic_base: APIC_BASE,
        ..SystemRegisters::default()
    }
}

/// Writes a GDT that holds what the segment registers hold, so that reloading them changes nothing.
fn put_gdt(placer: &mut Placer<'_>, code: &Segment) -> Result<DescriptorTable> {
    let mut table = [0; 6];
    table[usize::from(CODE / 8)] = descriptor(code);
    table[usize::from(DATA / 8)] = descriptor(&Segment::flat_data(DATA));
    table[usize::from(TASK / 8)] = descriptor(&Segment::task_state(TASK, 0, 0x67));
    placer.put(Part::Gdt, layout::GDT, table.map(u64::to_le_bytes).as_flattened())?;
    Ok(DescriptorTable { base: layout::GDT, limit: size_of_val(&table) as u16 - 1 })
}

/// A segment as its descriptor (Intel SDM vol. 3, 3.4.5); in long mode, the low half.
fn descriptor(s: &Segment) -> u64 {
    let limit = u64::from(if s.granularity { s.limit >> 12 } else { s.limit });
    let bit = |set: bool, at: u32| u64::from(set) << at;
    limit & 0xffff
        | (s.base & 0xff_ffff) << 16
        | u64::from(s.kind) << 40
        | bit(s.code_or_data, 44)
        | u64::from(s.dpl) << 45
        | bit(s.present, 47)
        | (limit >> 16 & 0xf) << 48
        | bit(s.available, 52)
        | bit(s.long, 53)
        | bit(s.big, 54)
        | bit(s.granularity, 55)
        | (s.base >> 24 & 0xff) << 56
}

/// Writes page tables that map the first 4 GiB, and RAM above up to [`layout::IDENTITY_MAP_END`], to
/// themselves with 2 MiB pages. Returns CR3.
fn put_identity_map(placer: &mut Placer<'_>, map: &MemoryMap) -> Result<u64> {
    let low_directories = HIGH_RAM_START / DIRECTORY_SPAN;
    let end = map.ram().next_back().map_or(0, |r| r.end).min(layout::IDENTITY_MAP_END);
    let high_directories = end.saturating_sub(HIGH_RAM_START).div_ceil(DIRECTORY_SPAN);
    let pointers_addr = layout::PAGE_TABLES + PAGE_SIZE;
    let directories_addr = pointers_addr + PAGE_SIZE;

    let mut low = Vec::new();
    push_table(&mut low, [pointers_addr | PRESENT_WRITABLE]);
    push_table(
        &mut low,
        pages(directories_addr, low_directories)
            .chain(pages(layout::HIGH_PAGE_DIRECTORIES, high_directories))
            .map(|page| page | PRESENT_WRITABLE),
    );
    low.extend(huge_pages(0..low_directories));
    placer.put(Part::PageTables, layout::PAGE_TABLES, &low)?;
    if high_directories > 0 {
        let high: Vec<u8> = huge_pages(low_directories..low_directories + high_directories).collect();
        placer.put(Part::PageTables, layout::HIGH_PAGE_DIRECTORIES, &high)?;
    }
    Ok(layout::PAGE_TABLES)
}

/// Adds a table of these entries, zero after them.
fn push_table(bytes: &mut Vec<u8>, entries: impl IntoIterator<Item = u64>) {
    let end = bytes.len() + PAGE_SIZE as usize;
    bytes.extend(entries.into_iter().flat_map(u64::to_le_bytes));
    bytes.resize(end, 0);
}

/// Addresses of `count` pages from `start` on.
fn pages(start: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |i| start + i * PAGE_SIZE)
}

/// The contents of the page directories of these GiB.
fn huge_pages(gib: std::ops::Range<u64>) -> impl Iterator<Item = u8> {
    let per_directory = DIRECTORY_SPAN / HUGE_PAGE;
    (gib.start * per_directory..gib.end * per_directory)
        .flat_map(|i| ((i * HUGE_PAGE) | PRESENT_WRITABLE | PAGE_SIZE_BIT).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_manual() {
        assert_eq!(descriptor(&Segment::flat_code(CODE, true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&Segment::flat_code(CODE, false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&Segment::flat_data(DATA)), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&Segment::task_state(TASK, 0x1234_5678, 0x67)), 0x1200_8b34_5678_0067);
    }
}
